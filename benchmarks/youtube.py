"""YouTube's candidates on MovieLens-100K by time: example age and depth, all targets and new items.

    python -m benchmarks.youtube --seeds 0 1 2

Train ends where validation begins and validation where test begins, for all users alike; a query is
a user with all of its events of the split as targets. Of a new item train has no event in the older
half of its own: what is new when train ends is what example age is for. A query for new items has
those targets alone, ranked among the whole catalogue as ever.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import experiment

SETTING: dict[str, Any] = {
    "embedding_dim": 64,
    "width": 64,
    "batch_size": 256,
    "learning_rate": 2e-3,
    "negatives": 1024,
    "history_length": 10,
    "dropout": 0.4,
    "epochs": 30,
    "patience": 4,
}
"""Chosen on validation."""

ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "popularity": ("popularity", {}),
    "two_tower": ("two_tower", {}),
    **{
        f"depth {depth}, {'with' if age else 'without'} age": (
            "youtube_candidates",
            {**SETTING, "depth": depth, "example_age": age},
        )
        for depth in range(4)
        for age in (True, False)
    },
}
METRICS = ("hr_10", "ndcg_10", "recall_20")


def new_items(data: Any, split: str) -> dict[str, np.ndarray]:
    """The queries of a split with those of their targets that are new to train."""
    import tensorflow as tf

    events = data.events
    first = np.full(data.items.index_count, np.iinfo(np.int64).max)
    np.minimum.at(first, events.item, events.timestamp)
    known = slice(2, data.items.embedding_rows)  # the catalogue of some has items beyond train's
    newer = np.flatnonzero(first[known] > np.median(events.timestamp))
    new = set(data.items.ids[newer])
    rows = []
    for query in data.queries(split):
        example = tf.train.Example.FromString(query)
        targets = example.features.feature["targets"].bytes_list.value
        kept = [target for target in targets if target in new]
        del targets[:]
        targets.extend(kept)
        if kept:
            rows.append(example.SerializeToString())
    return {"new": np.array(rows, object)}


def main() -> None:
    """Prints the table and writes every run to the output folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    experiment.add_setting(parser, "hyper-parameters")
    parser.add_argument(
        "--valid", action="store_true", help="measure on validation alone, to choose settings"
    )
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/youtube"))
    arguments = parser.parse_args()
    from components.read import datasets

    source = Path(datasets.get("movielens-100k"))
    prepared = experiment.prepare(source, arguments.output, "event", {"name": "temporal"})
    overrides, split = experiment.overrides(arguments.set), "valid" if arguments.valid else "test"
    rows = []
    for name in arguments.rows:
        model, setting = ROWS[name]
        setting = {**setting, **overrides}
        runs = [
            experiment.measure(
                prepared, model, setting, seed, test=not arguments.valid, parts=new_items
            )
            for seed in arguments.seeds
        ]
        (arguments.output / f"{name.replace(' ', '_')}.json").write_text(json.dumps(runs, indent=1))
        of_all = [{"test": run[split], "seconds": run["seconds"]} for run in runs]
        of_new = [{**run, "test": run["parts"][split]["new"]} for run in runs]
        new = experiment.summary(of_new, METRICS)
        rows.append(
            {
                "row": name,
                **experiment.summary(of_all, METRICS),
                **{f"new {metric}": new[metric] for metric in METRICS},
                "epochs": ", ".join(str(run["best_epochs"].get("model", "")) for run in runs),
            }
        )
        print(experiment.table(rows), flush=True)
    print(f"\n{split}, seeds {arguments.seeds}; {experiment.machine()}")


if __name__ == "__main__":
    main()
