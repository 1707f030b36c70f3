"""Click prediction: LR, FM, Wide & Deep, DeepFM, xDeepFM side by side.

    python -m benchmarks.clicks --split FOLDER
        MovieLens-100K, rating >= 4, on given validation and test rows
    python -m benchmarks.clicks
        the same on a random 80/10/10 split of ours
    python -m benchmarks.clicks --criteo FOLDER --min-count 5
        impressions in Criteo's layout, on their own train/dev/test files
    python -m benchmarks.clicks --adult FILE
        Adult (income over 50K), a Parquet file, random 80/10/10

FOLDER of `--split` holds `ml100k_ctr_valid.tsv` and `ml100k_ctr_test.tsv` (user_id, item_id,
label), the rows that peers were measured on. The epoch is chosen on validation by AUC, the number
that is compared; with `--choose` a setting of a small grid as well (the first seed). Test is looked
at once a seed.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from benchmarks import experiment
from models.names import registry

# Numbers of few values, which a run would otherwise take for categories.
ADULT_TYPES = dict.fromkeys(
    (
        "age",
        "fnlwgt",
        "educational_num",
        "hours_per_week",
        "capital_gain",
        "capital_loss",
    ),
    "int",
)
METRICS = ("auc", "log_loss", "gauc", "calibration")
PEERS = {
    "lr": (".7764", ".5617"),
    "fm": (".7823", ".5678"),
    "wide_deep": (".7849", ".5660"),
    "deepfm": (".7858", ".5659"),
    "xdeepfm": (".7778", ".5605"),
}
GRID = {
    "lr": [{}],
    "fm": [{"l2_factors": l2} for l2 in (3e-4, 1e-3, 3e-3)],
    "wide_deep": [
        {"l1": l1, "wide_learning_rate": rate} for l1 in (0.5, 1.0, 2.0) for rate in (0.02, 0.05)
    ],
    "deepfm": [
        {"l2": l2, "factors": factors} for l2 in (1e-4, 3e-4, 1e-3, 3e-3) for factors in (10, 20)
    ],
    "xdeepfm": [
        {"l2": l2, "stddev": 0.01, "dropout": 0.5, "batch_size": 2048, "learning_rate": 2e-3}
        for l2 in (1e-4, 3e-4, 1e-3, 3e-3)
    ],
}
ADULT_GRID = {
    "xdeepfm": [
        {
            "factors": factors,
            "maps": (20, 20),
            "hidden": (400, 400, 400),
            "l2": 1e-4,
            "l2_layers": 0.0,
            "stddev": 0.01,
            "dropout": 0.5,
            "batch_size": 1024,
            **network,
        }
        for factors in (20, 40)
        for network in ({}, {"connection": "half"}, {"activation": "relu"})
    ],
}


def with_parts(source: Path, split: Path, target: Path) -> Path:
    """Copies RecBole's files of MovieLens-100K and marks the split of every row.

    The column `split` says which rows are validation and test.
    """
    target.mkdir(parents=True, exist_ok=True)
    log = pd.read_csv(source / "ml-100k.inter", sep="\t", dtype=str)
    log["split:token"] = "train"
    pair = log.iloc[:, 0] + "\t" + log.iloc[:, 1]
    for part in ("valid", "test"):
        rows = pd.read_csv(split / f"ml100k_ctr_{part}.tsv", sep="\t", dtype=str)
        log.loc[pair.isin(rows["user_id"] + "\t" + rows["item_id"]), "split:token"] = part
    log.to_csv(target / "ml-100k.inter", sep="\t", index=False)
    for name in ("ml-100k.item", "ml-100k.user"):
        (target / name).write_bytes((source / name).read_bytes())
    return target


def adult_tables(file: Path, target: Path) -> Path:
    """Adult as events: a row is a person.

    There are no users and no items (both ids are `anonymous` in schema/adult).
    """
    frame = pd.read_parquet(file)
    frame = frame.rename(columns={name: name.replace("-", "_") for name in frame.columns}).replace(
        "?", None
    )
    label = frame.pop("income").str.startswith(">50K").astype("float32")
    users = [f"rows {number // 1000}" for number in range(len(frame))]
    target.mkdir(parents=True, exist_ok=True)
    pd.concat(
        [pd.DataFrame({"user_id": users, "item_id": "any", "label": label}), frame], axis=1
    ).to_parquet(target / "events.parquet")
    return target


def main() -> None:
    """Prints the table and writes every run to the output folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--split", type=Path, help="folder of given validation and test rows of MovieLens-100K"
    )
    parser.add_argument("--criteo", type=Path, help="folder of impressions in Criteo's layout")
    parser.add_argument("--adult", type=Path, help="Parquet file of Adult")
    parser.add_argument(
        "--min-count", type=int, default=1, help="values that train has less often are unknown"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=[name for name, entry in registry.MODELS.items() if entry.learns == "click"],
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    experiment.add_setting(parser)
    parser.add_argument(
        "--choose", action="store_true", help="choose a setting of a small grid on validation"
    )
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/clicks"))
    arguments = parser.parse_args()
    folder = arguments.output
    if arguments.criteo:
        folder /= "criteo"
        split, schema, label, source = (
            {"name": "predefined"},
            "criteo",
            {"column": "label"},
            arguments.criteo,
        )
    elif arguments.adult:
        folder /= "adult"
        source = adult_tables(arguments.adult, folder / "source")
        split, schema, label = {"name": "ratio"}, "adult", {"column": "label"}
    else:
        from components.read import datasets

        source, folder = (
            Path(datasets.get("movielens-100k")),
            folder / ("given" if arguments.split else "ratio"),
        )
        source = (
            with_parts(source, arguments.split, folder / "source") if arguments.split else source
        )
        split, schema, label = (
            {"name": "predefined" if arguments.split else "ratio"},
            "movielens",
            {"column": "rating", "threshold": 4.0},
        )
    types = ADULT_TYPES if arguments.adult else None
    grids = GRID | ADULT_GRID if arguments.adult else GRID
    prepared = experiment.prepare(
        source, folder, "event", split, schema, label, arguments.min_count, types=types
    )
    overrides = experiment.overrides(arguments.set)
    rows = []
    for name in arguments.models:
        grid = [
            {"monitor": "auc", **setting, **overrides}
            for setting in (grids[name] if arguments.choose else [{}])
        ]
        setting = experiment.choose(prepared, name, grid, arguments.seeds[0], "auc", 1)
        runs = [experiment.measure(prepared, name, setting, seed) for seed in arguments.seeds]
        (folder / f"{name}.json").write_text(json.dumps(runs, indent=1))
        row = {
            "model": name,
            **experiment.summary(runs, METRICS),
            "rows/s": f"{runs[0]['rows_per_second']:,.0f}",
        }
        row["setting"] = experiment.described(setting)
        if arguments.split:
            row |= dict(
                zip(("RecBole AUC", "its log loss"), PEERS.get(name, ("", "")), strict=True)
            )
        rows.append(row)
        print(experiment.table(rows), flush=True)
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


if __name__ == "__main__":
    main()
