"""MovieLens-1M on the split of Neural Collaborative Filtering, 99 sampled negatives (`ncf99`).

    python -m benchmarks.ncf --split FOLDER --models neumf --seeds 0 --set factors=64

FOLDER holds the paper's own `ml-1m.test.rating` and `ml-1m.test.negative`. The train rows rebuild
from MovieLens-1M: the users number from 0 in the order of their ids, the items in the order in
which the log first names them. Epochs are chosen on each user's last train event, with `--choose
METRIC` EASE's penalty as well (ndcg_10 ranks the whole catalogue; ncf99_ndcg_10 ranks against 99
negatives of that event's own, as the test does); then the model is trained afresh on all of train,
as the paper's is, for as many.
Sampled metrics are no ranking metrics: they are here to stand beside published ones.
"""

import argparse
import ast
import json
from pathlib import Path

import pandas as pd

from benchmarks import experiment
from models.names import registry

GRID = {"ease": [{"l2": l2} for l2 in (250, 500, 1000, 2000, 4000)]}
METRICS = ("ncf99_hr_10", "ncf99_ndcg_10", "hr_10", "ndcg_10")


def write_given_split(source: Path, split: Path, target: Path) -> Path:
    """Writes the paper's test pairs and candidates as a file for the split `given`.

    They stand there under the ids of the log.
    """
    log = pd.read_csv(next(source.glob("*.inter")), sep="\t", dtype=str)
    users, items = log.iloc[:, 0], log.iloc[:, 1]
    item_names = items.drop_duplicates().to_list()
    user_names = {int(name.split("_")[-1]) - 1: name for name in users.unique()}
    lines = ["user_id\titem_id\tcandidates"]
    for line in (split / "ml-1m.test.negative").read_text().splitlines():
        pair, *negatives = line.split("\t")
        user, item = ast.literal_eval(pair)
        # Titles hold blanks, which separate candidates: the source given to the reader has them
        # replaced likewise.
        lines.append(
            "\t".join(
                [
                    user_names[user],
                    item_names[item],
                    " ".join(item_names[int(n)] for n in negatives),
                ]
            )
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


def without_blanks(source: Path, target: Path) -> Path:
    """Copies the log with blanks in item titles replaced, since titles are its item ids."""
    target.mkdir(parents=True, exist_ok=True)
    log = pd.read_csv(next(source.glob("*.inter")), sep="\t", dtype=str)
    log.iloc[:, 1] = log.iloc[:, 1].str.replace(" ", "_")
    log.to_csv(target / "ml-1m.inter", sep="\t", index=False)
    return target


def main() -> None:
    """Prints the table and writes every run to the output folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["popularity", "neumf"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    experiment.add_setting(parser, "hyper-parameters")
    parser.add_argument(
        "--choose",
        choices=METRICS,
        metavar="METRIC",
        help="choose a setting of a small grid on validation, by this",
    )
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/ncf"))
    arguments = parser.parse_args()
    from components.read import datasets

    source = without_blanks(Path(datasets.get("movielens-1m")), arguments.output / "source")
    given = write_given_split(source, arguments.split, arguments.output / "given.tsv")
    overrides = experiment.overrides(arguments.set)
    rows = []
    for name in arguments.models:
        kind = registry.get(name).kind
        split = {"name": "given", "file": str(given), "query_history": "train"}
        parts = {"chosen": {}, "whole": {"valid_fraction": 0.0}}
        if arguments.choose and arguments.choose.startswith("ncf99"):
            parts["sampled"] = {
                "candidates": "ncf99"
            }  # the test's own are in the file; validation has none
        prepared = {
            part: experiment.prepare(
                source,
                arguments.output / f"{kind}-{part}",
                kind,
                {**split, "valid_fraction": 0.1, **more},
            )
            for part, more in parts.items()
        }
        own = overrides if name != "popularity" else {}
        grid = [
            {**setting, **own} for setting in (GRID.get(name, [{}]) if arguments.choose else [{}])
        ]
        setting = experiment.choose(
            prepared.get("sampled", prepared["chosen"]),
            name,
            grid,
            arguments.seeds[0],
            arguments.choose,
            1,
        )
        runs = [
            experiment.measure(prepared["chosen"], name, setting, seed, refit=prepared["whole"])
            for seed in arguments.seeds
        ]
        (arguments.output / f"{name}.json").write_text(json.dumps(runs, indent=1))
        rows.append(
            {
                "model": name,
                **experiment.summary(runs, METRICS),
                "setting": experiment.described(setting),
            }
        )
        print(experiment.table(rows), flush=True)
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


if __name__ == "__main__":
    main()
