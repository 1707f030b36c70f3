"""Ratings with text, random 80/10/10: Amazon reviews, and MovieLens-100K with plots. RMSE and MAE.

    python -m benchmarks.text --reviews GIFT_CARDS FASHION --plots items_info.json --seeds 0 1 2

A folder of `--reviews` holds JSON lines of reviews (and of items, if any); of a user's reviews of
one item the first is kept, since a copy in train would give the one in test away. `--plots` is a
JSON list of films with `movielens_id` and `plot`. Settings come from a small grid, the same number
for every model, and epochs are chosen on validation with the first seed; test is measured once a
seed.
"""

import argparse
import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import experiment

METRICS = ("rmse", "mae")
MODELS = ("biased_mf", "convmf", "deepconn")
SPLIT = {"name": "ratio", "seed": 42, "valid_fraction": 0.1, "test_fraction": 0.1}
GRID: dict[str, list[dict[str, Any]]] = {
    "biased_mf": [
        {"factors": factors, "l2": l2}
        for factors, l2 in ((100, 0.08), (100, 0.02), (20, 0.08), (20, 0.2), (5, 0.1), (5, 0.5))
    ],
    "convmf": [
        {"l2_users": users, "l2_items": items}
        for users, items in ((1, 100), (10, 100), (100, 10), (10, 10), (1, 10), (3, 30))
    ],
    "deepconn": [
        {"learning_rate": rate, "dropout": dropout, "word_dimension": dimension}
        for rate, dropout, dimension in (
            (2e-3, 0.5, 100),
            (5e-4, 0.5, 100),
            (2e-4, 0.5, 100),
            (5e-4, 0.2, 100),
            (5e-4, 0.5, 300),
            (2e-4, 0.2, 300),
        )
    ],
}


def without_copies(source: Path, target: Path) -> Path:
    """Copies the JSON lines of a folder without a user's further reviews of an item.

    Of such reviews the first is kept. Prints how many are left out.
    """
    target.mkdir(parents=True, exist_ok=True)
    seen, left_out = set(), 0
    for path in sorted(source.glob("*.json*")):
        lines = []
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for line in file:
                row = json.loads(line)
                pair = (row.get("reviewerID"), row.get("asin"))
                if pair[0] is None or pair not in seen:
                    lines.append(line)
                else:
                    left_out += 1
                seen.add(pair)
        (target / path.name.removesuffix(".gz")).write_bytes(b"".join(lines))
    print(f"{source.name}: {left_out} reviews left out, of a user who had reviewed the item before")
    return target


def with_plots(log: Path, plots: Path, target: Path) -> Path:
    """Writes MovieLens-100K as events.csv and items.csv with the column `plot`."""
    target.mkdir(parents=True, exist_ok=True)
    with (
        open(log, encoding="utf-8") as file,
        open(target / "events.csv", "w", encoding="utf-8", newline="") as out,
    ):
        next(file)
        writer = csv.writer(out)
        writer.writerow(["user_id", "item_id", "rating", "timestamp"])
        writer.writerows(line.rstrip("\n").split("\t") for line in file)
    films = json.loads(plots.read_text("utf-8"))
    with open(target / "items.csv", "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["item_id", "plot"])
        writer.writerows([film["movielens_id"], film["plot"]] for film in films)
    return target


def main() -> None:
    """Prints the table and writes every run to the output folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reviews", nargs="*", type=Path, default=[], metavar="FOLDER")
    parser.add_argument("--plots", type=Path, metavar="FILE")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    experiment.add_setting(parser, "hyper-parameters, in place of the grid")
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/text"))
    arguments = parser.parse_args()
    overrides = experiment.overrides(arguments.set)
    sources = [
        without_copies(folder, arguments.output / folder.name / "source")
        for folder in arguments.reviews
    ]
    if arguments.plots:
        from components.read import datasets

        log = next(Path(datasets.get("movielens-100k")).glob("*.inter"))
        sources.append(
            with_plots(log, arguments.plots, arguments.output / "movielens-100k-plots" / "source")
        )
    rows = []
    for source in sources:
        folder = source.parent
        prepared = experiment.prepare(
            source, folder / "event", "event", SPLIT, "generic", {"column": "rating"}
        )
        for model in arguments.models:
            if model == "deepconn" and folder.name == "movielens-100k-plots":
                continue  # there are no reviews
            setting = overrides or experiment.choose(
                prepared, model, GRID[model], arguments.seeds[0], "rmse", -1
            )
            runs = [experiment.measure(prepared, model, setting, seed) for seed in arguments.seeds]
            (folder / f"{model}.json").write_text(json.dumps(runs, indent=1))
            valid, constant = (
                np.mean([run["valid"]["rmse"] for run in runs]),
                runs[0]["test"]["constant_rmse"],
            )
            row = {
                "data": folder.name,
                "model": model,
                **experiment.summary(runs, METRICS),
                "valid rmse": f"{valid:.4f}",
                "constant": f"{constant:.4f}",
            }
            rows.append(
                {
                    **row,
                    "epochs": ", ".join(str(list(run["best_epochs"].values())[-1]) for run in runs),
                    "chosen": experiment.described(setting),
                }
            )
            print(experiment.table(rows), flush=True)
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


if __name__ == "__main__":
    main()
