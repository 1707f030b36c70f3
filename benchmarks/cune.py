"""CUNE beside the same factorisations without friends, on the same rows.

    python -m benchmarks.cune filmtrust --data FOLDER/filmtrust --choose
    python -m benchmarks.cune lastfm --data FOLDER/lastfm_hetrec --choose

FilmTrust: ratings; a random fifth is test, as in the authors' code: RMSE and MAE over all of its
rows, those of users and items that train does not know included. Last.fm: the artists that a user
listens to; a random fifth is ranked among all that it does not know yet. Trust between users is
not read.

Epochs, and with `--choose` a setting of a small grid (the first seed), are chosen on validation, a
tenth of all rows, which is not trained on again. Without it a row has the first setting of all.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks import experiment

SPLIT = {"name": "ratio", "seed": 42, "test_fraction": 0.2, "valid_fraction": 0.1}
FAST = {"learning_rate": 0.02, "lazy_adam": True, "validate_every": 5, "patience": 2, "epochs": 60}
PATIENT = {"epochs": 200, "patience": 10}
WITH_BIASES = {"biases": True, "learning_rate": 0.01}


@dataclass(frozen=True)
class Set:
    """One data set and the rows of its table.

    Attributes:
        file: its name, three columns without a header.
        columns: what they are called.
        label: of a `score` run.
        metric: what a setting is chosen by, and 1 or -1 for whether more or less is better.
        metrics: of the table.
        rows: name -> model and the settings to choose from; the first without `--choose`.
    """

    file: str
    columns: str
    label: dict | None
    metric: tuple[str, int]
    metrics: tuple[str, ...]
    rows: dict[str, tuple[str, list[dict]]]


SETS = {
    "filmtrust": Set(
        "ft_ratings.txt",
        "user_id:token\titem_id:token\trating:float",
        {"column": "rating"},
        ("rmse", -1),
        ("rmse", "mae"),
        {
            "biased_mf": (
                "biased_mf",
                [{**PATIENT, "factors": 20, "l2": l2} for l2 in (0.1, 0.06)],
            ),
            "mf": ("cune_mf", [{"friends": 0, "l2": l2} for l2 in (0.1, 0.05, 0.2)]),
            "cune_mf": (
                "cune_mf",
                [
                    {"l2": l2, "social": social}
                    for l2, social in (
                        (0.02, 0.01),
                        (0.05, 0.003),
                        (0.05, 0.01),
                        (0.1, 0.003),
                        (0.1, 0.01),
                        (0.1, 0.1),
                    )
                ],
            ),
            "cune_mf with biases": (
                "cune_mf",
                [
                    {**WITH_BIASES, "l2": l2, "social": social, "friends": friends}
                    for l2, social, friends in (
                        (0.03, 0.02, 10),
                        (0.06, 0.005, 10),
                        (0.06, 0.001, 50),
                        (0.06, 0.003, 50),
                        (0.03, 0.003, 50),
                        (0.1, 0.01, 50),
                    )
                ],
            ),
        },
    ),
    "lastfm": Set(
        "ratings.txt",
        "user_id:token\titem_id:token\tplays:float",
        None,
        ("ndcg_10", 1),
        ("ndcg_10", "hr_10", "recall_20", "mrr_10"),
        {
            "bpr_mf": (
                "bpr_mf",
                [{**FAST, "l2_user": l2, "l2_item": l2, "l2_negative": l2} for l2 in (0.005, 0.02)],
            ),
            "cune_bpr": (
                "cune_bpr",
                [{**FAST, "l2": l2, "coefficient": 5.0} for l2 in (0.005, 0.02)],
            ),
        },
    ),
}


def main() -> None:
    """Prints the table and writes every run to the output folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--data", type=Path, required=True, help="the folder of its file")
    parser.add_argument("--rows", nargs="+", help="rows of the table; default all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--choose", action="store_true", help="choose a setting of the grid on validation"
    )
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/cune"))
    arguments = parser.parse_args()
    data = SETS[arguments.set]
    metric, sign = data.metric
    output = arguments.output / arguments.set
    source = atomic_file(arguments.data / data.file, data.columns, output / "source")
    prepared = experiment.prepare(source, output / "event", "event", SPLIT, "generic", data.label)
    rows = []
    for name in arguments.rows or data.rows:
        model, settings = data.rows[name]
        overrides = experiment.overrides(arguments.overrides)
        settings = settings if arguments.choose else settings[:1]
        setting = experiment.choose(
            prepared,
            model,
            [{**each, **overrides} for each in settings],
            arguments.seeds[0],
            metric,
            sign,
        )
        runs = [experiment.measure(prepared, model, setting, seed) for seed in arguments.seeds]
        (output / f"{name}.json").write_text(json.dumps(runs, indent=1))
        valid = sum(run["valid"][metric] for run in runs) / len(runs)
        rows.append(
            {
                "model": name,
                **experiment.summary(runs, data.metrics),
                f"{metric} on validation": f"{valid:.4f}",
                "epochs": ", ".join(str(run["best_epochs"]["model"]) for run in runs),
                "setting": experiment.described(setting),
            }
        )
        print(experiment.table(rows), flush=True)
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


def atomic_file(source: Path, columns: str, folder: Path) -> Path:
    """Writes a file of three columns without a header as RecBole's; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line.split() for line in source.read_text("utf-8").splitlines() if line.strip()]
    text = "\n".join([columns, *("\t".join(line) for line in lines)])
    (folder / "events.inter").write_text(text + "\n", "utf-8")
    return folder


if __name__ == "__main__":
    main()
