"""Rating prediction, random 90/10: RMSE and MAE on MovieLens-100K or 1M.

    python -m benchmarks.ratings --models biased_mf
    python -m benchmarks.ratings --data movielens-1m --models biased_mf --set batch_size=1024

The split is `np.random.RandomState(42).permutation(rows)`, the last tenth test (on MovieLens-100K the rows of peers). Epochs are
chosen on a validation tenth of it, next to the test rows; then the model is trained afresh on all of the 90 % for as many epochs.
"""

import argparse
import json
from pathlib import Path

from benchmarks import experiment
from models import registry

METRICS = ("rmse", "mae")
PEERS = {"movielens-100k": {"biased_mf": ".9031 (cornac), .9103 (surprise)", "autorec": ".9019 (a plain torch version)"}}


def main() -> None:
    """Prints the table and writes every run to the output folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="movielens-100k", help="a public data set of ratings by name")
    parser.add_argument("--models", nargs="+", default=[name for name, entry in registry.MODELS.items() if entry.learns == "rating"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="hyper-parameters, for every model named")
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/ratings"))
    arguments = parser.parse_args()
    from components import datasets

    source = Path(datasets.get(arguments.data))
    overrides = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in arguments.set)}
    rows = []
    for name in arguments.models:
        kind = registry.get(name).kind
        chosen, whole = (
            experiment.prepare(
                source, arguments.output / arguments.data / f"{kind}-{part}", kind,
                {"name": "ratio", "seed": 42, "test_fraction": 0.1, "valid_fraction": fraction}, "movielens", {"column": "rating"},
            )
            for part, fraction in (("chosen", 0.1), ("whole", 0.0))
        )  # fmt: skip
        runs = [experiment.measure(chosen, name, overrides, seed, refit=whole) for seed in arguments.seeds]
        (arguments.output / arguments.data / f"{name}.json").write_text(json.dumps(runs, indent=1))
        epochs = ", ".join(str(list(run["best_epochs"].values())[-1]) for run in runs)
        row = {"model": name, **experiment.summary(runs, METRICS), "epochs": epochs, "rows/s": f"{runs[0]['rows_per_second']:,.0f}"}
        rows.append({**row, "constant": f"{runs[0]['test']['constant_rmse']:.4f}", "peers": PEERS.get(arguments.data, {}).get(name, "")})
        print(experiment.table(rows), flush=True)
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


if __name__ == "__main__":
    main()
