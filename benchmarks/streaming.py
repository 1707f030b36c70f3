"""Metrics of a training that streams, beside those of one whose log lies in memory.

MovieLens-100K, leave-one-out by time, full ranking; deepfm on its clicks (a rating of 4 and more).

    python -m benchmarks.streaming [--models bpr_mf two_tower gru4rec deepfm] [--windows 20]

A log of more than 2 million rows is read from files, in pieces, and shuffled by windows
(`models/inputs/sampling.py`); all other batches are those of memory, to the bit
(`tests/models/test_streaming.py`). Here the same happens to a log of a hundred thousand: every
column lies in a file, pieces have 1,000 rows, and an epoch has so many windows, each of 1,024
blocks as it has of any log. Both ways see the same seeds; the epoch is chosen on validation.
"""

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks import experiment
from models.inputs import columns, event_log, sampling
from models.names import registry

_BLOCKS = sampling.WINDOW // sampling.BLOCK
_ROWS = 98_000  # of the train split, about
_CLICK = {"column": "rating", "threshold": 4.0}


@contextlib.contextmanager
def streamed(windows: int) -> Iterator[None]:
    """What is for millions of rows, for a hundred thousand."""
    block = max(1, _ROWS // windows // _BLOCKS)
    changes = [(sampling, "BLOCK", block), (sampling, "WINDOW", block * _BLOCKS)]
    changes += [(columns, "_HELD", 0)]
    changes += [(module, "ROWS_AT_ONCE", 1000) for module in (columns, event_log, sampling)]
    before = [(module, name, getattr(module, name)) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def main() -> None:
    """Prints the table and writes every run to the output folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["bpr_mf", "two_tower", "gru4rec", "deepfm"])
    parser.add_argument("--windows", type=int, default=20, help="of an epoch")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    experiment.add_setting(parser)
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/streaming"))
    arguments = parser.parse_args()
    from components.read import datasets

    source, setting = (
        Path(datasets.get("movielens-100k")),
        experiment.overrides(arguments.set),
    )
    rows = []
    for name in arguments.models:
        entry = registry.get(name)
        scores = entry.task == "score"
        prepared = experiment.prepare(
            source,
            arguments.output / f"{entry.task}-{entry.kind}",
            entry.kind,
            {"name": "ratio" if scores else "leave_one_out"},
            label=_CLICK if scores else None,
        )
        metrics = ("auc", "log_loss") if scores else ("hr_10", "ndcg_10")
        for way, around in (
            ("in memory", contextlib.nullcontext()),
            (f"{arguments.windows} windows", streamed(arguments.windows)),
        ):
            with around:
                runs = [
                    experiment.measure(prepared, name, setting, seed) for seed in arguments.seeds
                ]
            (arguments.output / f"{name}, {way}.json").write_text(json.dumps(runs, indent=1))
            found = experiment.summary(runs, metrics)
            first, second = (f"{metric} {found[metric]}" for metric in metrics)
            rows.append({"model": name, "": way, "test": first, "and": second})
            print(experiment.table(rows), flush=True)
    print(f"\nseeds {arguments.seeds}; {experiment.described(setting)}; {experiment.machine()}")


if __name__ == "__main__":
    main()
