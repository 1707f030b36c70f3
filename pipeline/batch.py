"""`recsys batch`: the pushed model of a run answers for many users at once."""

import time
from collections.abc import Callable
from pathlib import Path

from models.names.errors import RecsysError
from pipeline import lineage, local


def run(
    folder: str,
    users: str | None,
    k: int,
    run_id: str,
    output: str,
    say: Callable[[str], None] = print,
) -> dict[str, int]:
    """Writes recommendations as Parquet and returns the counts.

    See `components.batch.recommendations`.

    Args:
        folder: where to; new or empty.
        users: file of the users; None for all of the run's data.
        k: items a user at most.
        run_id: `latest` for the last run that pushed, or a run or pipeline as `lineage.load_run`
            takes it.
        output: folder of runs.
        say: takes lines of progress.

    Raises:
        RecsysError: the run pushed nothing, or what `components.batch.recommendations` raises.
    """
    local.require_plain(Path(folder).absolute(), "--to")
    record = pushed(run_id, output)
    with local.readable_errors():
        local.quiet()
        from components.batch import recommendations
        from components.in_process import in_process_pipeline

        asked = (
            recommendations.users_of_file(users, columns_of_train(record.served_examples_uri))
            if users
            else recommendations.users_of_examples(record.served_examples_uri)
        )
        say(f"{record.pushed_path}: asking for {k} items a user ...")
        started = time.monotonic()
        counts = recommendations.recommend_all(
            in_process_pipeline, record.pushed_path, asked, k, folder
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
    if record.pushed_path and Path(record.pushed_path).exists():
        return record
    raise RecsysError(
        f"run {record.run_id} of {record.pipeline} pushed no model that is still there"
    )
