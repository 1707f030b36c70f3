"""`recsys batch`: the pushed model of a run answers for many users at once."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from components import engines
from components.tables.places import fetched, place
from models.names.errors import RecsysError
from pipeline import lineage, local


def run(
    folder: str,
    users: str | None,
    k: int,
    run_id: str,
    output: str,
    say: Callable[[str], None] = print,
    beam: engines.Beam = engines.IN_PROCESS,
) -> dict[str, int]:
    """Writes recommendations as Parquet and returns the counts.

    See `components.batch.recommendations`.

    Args:
        folder: where to; new or empty; a path, or a URI such as s3://bucket/folder.
        users: file of the users, likewise; None for all of the run's data.
        k: items a user at most.
        run_id: `latest` for the last run that pushed, or a run or pipeline as `lineage.load_run`
            takes it.
        output: folder of runs.
        say: takes lines of progress.
        beam: the engine that does it.

    Raises:
        RecsysError: the run pushed nothing, or what `components.batch.recommendations` raises.
    """
    folder = str(place(folder).absolute())
    local.require_plain(folder, "--to")
    users = users and str(place(users).absolute())
    record = pushed(run_id, output)
    with local.readable_errors(), engines.explained(beam):
        local.quiet()
        seen = {"--to": folder, "--users": users or record.examples_uri}
        engines.require_seen(beam, {**seen, "push": record.pushed_path})
        engines.require_usable(beam, str(Path(record.output).absolute()), say)
        from components.batch import recommendations

        asked = (
            recommendations.users_of_file(users, columns_of_train(record.served_examples_uri))
            if users
            else recommendations.users_of_examples(record.served_examples_uri)
        )
        say(f"{record.pushed_path}: asking for {k} items a user ...")
        started = time.monotonic()
        # Dataflow's workers see no copy here; TensorFlow itself reads what is under gs://.
        is_near = beam.runner != "dataflow"
        path, below = record.pushed_path, Path(record.output).absolute()
        with fetched(path, below) if is_near else contextlib.nullcontext(path) as model:
            counts = recommendations.recommend_all(
                lambda: engines.new_pipeline(beam), model, asked, k, folder
            )
    seconds = time.monotonic() - started
    strategies = ", ".join(
        f"{name.removeprefix('strategy ')} {count:,}"
        for name, count in sorted(counts.items())
        if name.startswith("strategy ")
    )
    say(
        f"{folder}: {counts.get('rows', 0):,} rows for {counts.get('users', 0):,} users "
        f"({strategies or 'nobody'}) in {seconds:.0f} s"
    )
    if counts.get("rejected"):
        say(f"{counts['rejected']:,} requests had no user id and were left out")
    if counts.get("repeated"):
        say(f"left out, for they say again what one before them does: {counts['repeated']:,}")
    return counts


def columns_of_train(examples_uri: str) -> dict[str, str]:
    """Column -> kind of the train rows."""
    from components.tables import records

    return records.read_json(f"{examples_uri}/{records.REPORT}")["columns"]["train"]


def pushed(run_id: str, output: str) -> lineage.RunRecord:
    """The run of a name, or the last, whose pushed model is still there.

    Raises:
        RecsysError: it pushed none.
    """
    if run_id == "latest":
        return lineage.last_pushed(output)
    record = lineage.load_run(output, run_id)
    if record.pushed_path and place(record.pushed_path).exists():
        return record
    raise RecsysError(
        f"run {record.run_id} of {record.pipeline} pushed no model that is still there"
    )
