"""Rating prediction, random 90/10: RMSE and MAE on MovieLens-100K or 1M.

    python -m benchmarks.ratings --models biased_mf
    python -m benchmarks.ratings --data movielens-1m --models biased_mf --set batch_size=1024

The split is `np.random.RandomState(42).permutation(rows)`, the last tenth test (on MovieLens-100K
the rows of peers). Epochs, and with `--choose` a setting of a small grid (the first seed), are
chosen on a validation tenth next to the test rows; then the model is trained afresh on all of the
90 % for as many epochs.
"""

import argparse
import json
from pathlib import Path

from benchmarks import experiment
from models.names import registry

METRICS = ("rmse", "mae")
PEERS = {
    "movielens-100k": {
        "biased_mf": ".9031 (cornac), .9103 (surprise)",
        "autorec": ".9019 (a plain torch version)",
    }
}

GRID = {
    "biased_mf": [
        {"factors": factors, "l2": l2, "stddev": stddev}
        for factors, l2, stddev in (
            (100, 0.08, 0.1),
            (100, 0.1, 0.1),
            (64, 0.08, 0.01),
            (64, 0.1, 0.01),
            (64, 0.06, 0.01),
            (100, 0.08, 0.01),
        )
    ],
    "autorec": [
        {"l2": l2, "learning_rate": rate, "batch_size": batch}
        for l2, rate, batch in (
            (400, 1e-3, 128),
            (200, 1e-3, 128),
            (800, 1e-3, 128),
            (200, 1e-3, 512),
            (400, 1e-3, 512),
            (400, 3e-4, 128),
        )
    ],
}


def main() -> None:
    """Prints the table and writes every run to the output folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", default="movielens-100k", help="a public data set of ratings by name"
    )
    parser.add_argument("--models", nargs="+", default=list(GRID), help="those that need no text")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    experiment.add_setting(parser)
    parser.add_argument(
        "--choose", action="store_true", help="choose a setting of a small grid on validation"
    )
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/ratings"))
    arguments = parser.parse_args()
    from components.read import datasets

    source = Path(datasets.get(arguments.data))
    overrides = experiment.overrides(arguments.set)
    rows = []
    for name in arguments.models:
        kind = registry.get(name).kind
        chosen, whole = (
            experiment.prepare(
                source,
                arguments.output / arguments.data / f"{kind}-{part}",
                kind,
                {"name": "ratio", "seed": 42, "test_fraction": 0.1, "valid_fraction": fraction},
                "movielens",
                {"column": "rating"},
            )
            for part, fraction in (("chosen", 0.1), ("whole", 0.0))
        )
        grid = [
            {**setting, **overrides}
            for setting in (GRID.get(name, [{}]) if arguments.choose else [{}])
        ]
        setting = experiment.choose(chosen, name, grid, arguments.seeds[0], "rmse", -1)
        runs = [
            experiment.measure(chosen, name, setting, seed, refit=whole) for seed in arguments.seeds
        ]
        (arguments.output / arguments.data / f"{name}.json").write_text(json.dumps(runs, indent=1))
        epochs = ", ".join(str(list(run["best_epochs"].values())[-1]) for run in runs)
        row = {
            "model": name,
            **experiment.summary(runs, METRICS),
            "epochs": epochs,
            "rows/s": f"{runs[0]['rows_per_second']:,.0f}",
        }
        row["setting"] = experiment.described(setting)
        rows.append(
            {
                **row,
                "constant": f"{runs[0]['test']['constant_rmse']:.4f}",
                "peers": PEERS.get(arguments.data, {}).get(name, ""),
            }
        )
        print(experiment.table(rows), flush=True)
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


if __name__ == "__main__":
    main()
