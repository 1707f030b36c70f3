"""MovieLens-100K, leave-one-out by time, full ranking: all `retrieve` models side by side.

    python -m benchmarks.movielens --models popularity two_tower neumf --seeds 0 1 2

The queries of most models see the train items only (`query_history: train`) and the validation item
is excluded from their answers: the inputs that the peers' models had. Models of sequences, the
peers' and ours, have the validation item, the user's last but one, in the history as well: the
column `history` of the table says so, and their rows are not to be compared with the others'.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import experiment
from models.names import registry

METRICS = ("hr_10", "ndcg_10", "mrr_10", "recall_20")


@dataclass(frozen=True)
class Row:
    """A row of the table: a model with a setting, and the peer that it stands beside.

    Attributes:
        model: as the registry calls it.
        setting: what differs from the model's defaults, which are its paper's; chosen on
            validation.
        peer: whose figures `hr_10` and `ndcg_10` are.
        hr_10: the peer's on the same split.
        ndcg_10: likewise.
    """

    model: str
    setting: Mapping[str, Any] = field(default_factory=dict)
    peer: str = ""
    hr_10: str = ""
    ndcg_10: str = ""


# Every `retrieve` model has a row with its defaults; here stand those beside a peer's, and others.
ROWS = {name: Row(name) for name, entry in registry.MODELS.items() if entry.task == "retrieve"} | {
    "popularity": Row("popularity", {}, "RecBole", ".0859", ".0442"),
    "item_knn": Row("item_knn", {}, "RecBole", ".1124", ".0619"),
    "item_knn_tf_idf": Row("item_knn", {"weighting": "tf_idf", "neighbours": 20}),
    "item_knn_bm25": Row("item_knn", {"weighting": "bm25", "neighbours": 300, "b": 0.25}),
    "ease": Row("ease", {}, "RecBole, lambda 250", ".1347", ".0698"),
    "bpr_mf": Row("bpr_mf", {}, "RecBole, 64 factors", ".1177", ".0615"),
    # The peer's confidences are all 1 too: it counts alpha otherwise (models/baseline/ials.py).
    "ials": Row(
        "ials",
        {"alpha": 0.0, "l2": 10.0, "epochs": 20},
        "implicit, 64 factors, its alpha 1",
        ".1400",
        ".0699",
    ),
    "cdae": Row("cdae", {}, "RecBole", ".1379", ".0722"),
    "mult_dae": Row("mult_dae", {}, "RecBole, 128 users a batch", ".1400", ".0740"),
    "mult_vae": Row("mult_vae", {}, "RecBole, 128 users a batch", ".1368", ".0749"),
    "neumf": Row("neumf", {}, "RecBole", ".1273", ".0657"),
    "two_tower": Row("two_tower", {}, "item-kNN / EASE, RecBole", ".1124 / .1347", ".0619 / .0698"),
    # The paper's widths are for a million items.
    "youtube_candidates": Row(
        "youtube_candidates",
        {
            "embedding_dim": 64,
            "width": 64,
            "depth": 1,
            "batch_size": 256,
            "learning_rate": 2e-3,
            "negatives": 1024,
            "history_length": 5,
            "dropout": 0.4,
            "epochs": 30,
            "patience": 4,
        },
        "EASE, RecBole",
        ".1347",
        ".0698",
    ),
    # The peer calls this network GRU4Rec.
    "tan": Row(
        "tan",
        {
            "embedding": "constrained",
            "click_dropout": 0.0,
            "history_length": 50,
            "learning_rate": 3e-3,
            "batch_size": 64,
            "units": [128],
            "dropout_embedding": 0.25,
            "dropout_hidden": 0.25,
            "epochs": 40,
            "patience": 6,
        },
        "RecBole's GRU4Rec, full softmax, 4 epochs",
        ".1729",
        ".0854",
    ),
}


def prepare(row: Row, source: Path, output: Path) -> experiment.Prepared:
    """Builds the rows of a model as a run of it would.

    They are in one folder for all models of a kind, but for those that ask for more.
    """
    entry, model = registry.get(row.model), registry.load(row.model).Model
    split = {
        "name": "leave_one_out",
        "query_history": "all" if entry.kind == "sequence" else "train",
    }
    walks = dict(entry.defaults.get("walks", {}))
    carries = {name: wanted for name, wanted in model.carries().items() if wanted}
    folder = output / (row.model if walks or carries else entry.kind)
    return experiment.prepare(
        source, folder, entry.kind, split, walks=walks or None, carries=carries or None
    )


def main() -> None:
    """Prints the table and writes every run to the output folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=list(ROWS),
        default=list(ROWS),
        help="rows of the table",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    experiment.add_setting(parser)
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/movielens-100k"))
    arguments = parser.parse_args()
    from components.read import datasets

    source = Path(datasets.get("movielens-100k"))
    overrides = experiment.overrides(arguments.set)
    rows = []
    for name in arguments.models:
        row = ROWS[name]
        prepared = prepare(row, source, arguments.output)
        sequence = registry.get(row.model).kind == "sequence"
        runs = [
            experiment.measure(prepared, row.model, {**row.setting, **overrides}, seed)
            for seed in arguments.seeds
        ]
        (arguments.output / f"{name}.json").write_text(json.dumps(runs, indent=1))
        rows.append(
            {
                "row": name,
                "history": "train and validation" if sequence else "train",
                **experiment.summary(runs, METRICS),
                "peer": row.peer,
                "its HR@10": row.hr_10,
                "its NDCG@10": row.ndcg_10,
            }
        )
        print(experiment.table(rows), flush=True)
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


if __name__ == "__main__":
    main()
