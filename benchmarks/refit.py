"""What fitting again on everything is worth, on events that are later than all of it.

    python -m benchmarks.refit --data FOLDER/session_rsc15_100k --models v_sknn gru4rec
    python -m benchmarks.refit --data FOLDER/movielens-100k --models popularity item_knn ease

A run knows the log up to a border: of sessions, the source's own train files; else the oldest 90 %
of the events. Of that it holds out the newest for validation and for test: of sessions `--days`
each, else a tenth each. One model is trained on what is left (`measured`, which a run without
`refit` pushes), one on all of it for the epochs that the first has chosen (`refit`). Both are asked
for what comes after the border, which neither they nor the choice of the epochs have seen, and both
are told the same histories, which are whole: a server has them, whatever its model was trained on.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks import experiment
from benchmarks.experiment import Prepared
from components import standalone
from components.build.config import SplitConfig
from components.build.splits import TRAIN, gather_facts, make_log
from components.tables import artifacts, records

METRICS = ("hr_10", "ndcg_10", "recall_20", "mrr_20")
# Where the border is, and what a run holds out before it.
BY_TIME = (
    {"name": "temporal", "valid_fraction": 0, "test_fraction": 0.1},
    {"name": "temporal", "valid_fraction": 0.1, "test_fraction": 0.1},
)
_SESSIONS = {"sequence_by": "session", "drop_repeats": False}
BY_SESSION = (
    {"name": "predefined", "valid_fraction": 0, **_SESSIONS},
    {"name": "last_days", **_SESSIONS},
)
SETTINGS: dict[str, dict[str, Any]] = {
    "gru4rec": {"loss": "cross_entropy", "units": [100], "batch_size": 32, "epochs": 10},
}


def main() -> None:
    """Prints the table and writes every run to the output folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--days", type=float, default=1.0)
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/refit"))
    arguments = parser.parse_args()

    folder = arguments.output / f"{arguments.data.name}-{arguments.days:g}"
    prepared = prepare(arguments.data, folder, arguments.days)
    by_session = "session_id" in artifacts.table_columns(str(folder / "tables" / "events"))
    rows = []
    for model in arguments.models:
        settings = {**SETTINGS.get(model, {}), **({"filter_seen": False} if by_session else {})}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in prepared}
        for seed in arguments.seeds:
            measured = experiment.measure(prepared["measured"], model, settings, seed)
            found["measured"].append(measured)
            found["refit"].append(
                experiment.train_again(
                    prepared["refit"], model, settings, seed, measured["best_epochs"]
                )
            )
        (folder / f"{model}.json").write_text(json.dumps(found, indent=1))
        rows += [
            {"model": model, "trained on": name, **experiment.summary(runs, METRICS)}
            for name, runs in found.items()
        ]
        print(experiment.table(rows), flush=True)
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


def prepare(source: Path, folder: Path, days: float) -> dict[str, Prepared]:
    """Builds `measured` and `refit` of what is before the border; their test is what is after."""
    names = ("measured", "refit")
    splits = (*Prepared.splits, "test")
    found = {name: Prepared(folder / name, splits=splits) for name in names}
    if (folder / "done").exists():
        return found
    shutil.rmtree(folder, ignore_errors=True)
    standalone.read_tables(str(source), output=str(folder / "tables"))
    events = artifacts.read_table(str(folder / "tables" / "events"))
    border, inside = BY_SESSION if "session_id" in events.column_names else BY_TIME
    if inside["name"] == "last_days":
        inside = {**inside, "days": days}
    config = SplitConfig.parse(border)
    log = make_log(events, config, gather_facts(events, config))
    before = folder / "before"
    for table in ("items", "users"):
        shutil.copytree(folder / "tables" / table, before / table)
    earlier = log.table.filter(log.split == TRAIN)
    records.write_table(earlier, artifacts.split_folder(str(before / "events"), "all"), 0)
    build(folder / "tables", folder / "later", border)
    for name in names:
        build(before, folder / name, inside, everything=name == "refit")
        examples = folder / name / "examples"
        standalone.transform(
            str(examples),
            str(folder / name / "schema" / "schema.pbtxt"),
            str(folder / name / "graph"),
            {"text": [], "log": [], "min_count": 1, "quantiles": False},
        )
        shutil.rmtree(examples / "Split-test")
        shutil.copytree(folder / "later" / "examples" / "Split-test", examples / "Split-test")
    print(f"{earlier.num_rows:,} events before the border, {len(log) - earlier.num_rows:,} after")
    (folder / "done").touch()
    return found


def build(tables: Path, folder: Path, split: dict[str, Any], everything: bool = False) -> None:
    """One kind of rows for all models: what they learn from are the same events."""
    report = standalone.build_examples(
        str(tables),
        str(folder),
        kind="sequence",
        split=split,
        schema="generic",
        everything=everything,
    )
    print(folder.name, json.dumps(report["splits"]), flush=True)


if __name__ == "__main__":
    main()
