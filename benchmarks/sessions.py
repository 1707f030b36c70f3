"""Sessions: the next item after every position of a test session.

The items are ranked against the whole catalogue.

    python -m benchmarks.sessions --data FOLDER/session_rsc15_100k
        --models popularity s_pop item_knn v_sknn gru4rec_xe gru4rec_bpr_max tan_m1 sr_gnn
    python -m benchmarks.sessions --data FOLDER/session_diginetica

The source's own train and test files are the split (`predefined`); validation is the last day of
train, or its last 2 % of sessions where there are no times. Items that the session has had are
legal targets and stay in the ranking, as the papers have it.

    python -m benchmarks.sessions --data FOLDER/session_diginetica --models sr_gnn --refit

trains once more on the whole of the source's train file, validation's sessions among it, as the
papers do, for the epochs that a run before it, of the same rows, seeds and `--output`, has chosen.
"""

import argparse
import json
from pathlib import Path

from benchmarks import experiment

METRICS = ("recall_20", "mrr_20", "hr_10", "ndcg_10")
LEGAL_REPEATS = {"filter_seen": False}
SPLIT = {
    "name": "predefined",
    "sequence_by": "session",
    "drop_repeats": False,
    "valid_fraction": 0.02,
}
SMALL = {"units": [100], "batch_size": 32, "epochs": 10}
LARGE = {"units": [256], "batch_size": 128, "epochs": 10}
# Hidasi et al. 2016: nothing but the item as the input, the batch's own targets as negatives.
FIRST = {"embedding": "one_hot", "n_sample": 0, "score_activation": "tanh"}
MAX = {"score_activation": "elu"}
TAN = {"embedding": "constrained", "dropout_hidden": 0.3}
TAN_SMALL = {"learning_rate": 3e-3, "batch_size": 64, "epochs": 14}
TAN_LARGE = {"learning_rate": 3e-3, "batch_size": 128, "epochs": 10}
# row -> model, what is ours in all sets, and what is for a small (rsc15_100k) and for a large set
# (diginetica).
ROWS = {
    "popularity": ("popularity", {}, {}, {}),
    "s_pop": ("popularity", {"session_first": True}, {}, {}),
    "item_knn": ("item_knn", {}, {}, {}),
    "v_sknn": ("v_sknn", {}, {}, {}),
    # Chosen on validation: rare items weigh more, and votes decay as in the authors' code.
    "v_sknn_idf": ("v_sknn", {"decay": "reciprocal", "idf_weight": 1.0}, {}, {}),
    "gru4rec_xe": ("gru4rec", {"loss": "cross_entropy"}, SMALL, LARGE),
    "gru4rec_top1": ("gru4rec", {"loss": "top1", **FIRST}, SMALL, LARGE),
    "gru4rec_bpr": ("gru4rec", {"loss": "bpr", **FIRST}, SMALL, LARGE),
    "gru4rec_top1_max": ("gru4rec", {"loss": "top1_max", **MAX}, SMALL, LARGE),
    "gru4rec_bpr_max": ("gru4rec", {"loss": "bpr_max", **MAX}, SMALL, LARGE),
    "tan_m1": ("tan", TAN, TAN_SMALL, TAN_LARGE),
    "tan_m2": ("tan", {**TAN, "recent_share": 0.25, "tuning_rate": 3e-4}, TAN_SMALL, TAN_LARGE),
    "tan_m3": ("tan", {**TAN, "privileged": True}, TAN_SMALL, TAN_LARGE),
    "tan_m4": ("tan", {**TAN, "output": "embedding"}, TAN_SMALL, TAN_LARGE),
    # The learning rate is a thousandth of the first by the tenth epoch.
    "sr_gnn": ("sr_gnn", {"epochs": 9, "patience": 3}, {}, {}),
}
PUBLISHED = {
    "diginetica": {
        "s_pop": "P@20 .2106, MRR@20 .1368 (SR-GNN's table)",
        "item_knn": "P@20 .3575, MRR@20 .1157",
        "gru4rec_xe": "P@20 .2945, MRR@20 .0833 (SR-GNN's table)",
        "sr_gnn": "P@20 .5073, MRR@20 .1759",
    },
}


def main() -> None:
    """Prints the table and writes every run to the output folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    experiment.add_setting(parser)
    parser.add_argument(
        "--refit", action="store_true", help="on all of train, for the epochs chosen before"
    )
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/sessions"))
    arguments = parser.parse_args()

    name = arguments.data.name.removeprefix("session_")
    overrides = experiment.overrides(arguments.set)
    # One kind of rows for all: what the others learn from are the same events.
    split = {**SPLIT, "valid_fraction": 0} if arguments.refit else SPLIT
    folder = arguments.output / f"{name}-refit" if arguments.refit else arguments.output / name
    prepared = experiment.prepare(arguments.data, folder, "sequence", split, "generic")
    rows = []
    for row in arguments.models:
        model, common, small, large = ROWS[row]
        settings = {
            **LEGAL_REPEATS,
            **common,
            **(large if name == "diginetica" else small),
            **overrides,
        }
        measured = arguments.output / f"{name}-{row}.json"
        if arguments.refit:
            chosen = {run["seed"]: run["best_epochs"] for run in json.loads(measured.read_text())}
            runs = [
                experiment.train_again(prepared, model, settings, seed, chosen[seed])
                for seed in arguments.seeds
            ]
        else:
            runs = [experiment.measure(prepared, model, settings, seed) for seed in arguments.seeds]
        folder.with_name(f"{folder.name}-{row}.json").write_text(json.dumps(runs, indent=1))
        rows.append(
            {
                "model": row,
                **experiment.summary(runs, METRICS),
                "published": PUBLISHED.get(name, {}).get(row, ""),
            }
        )
        print(experiment.table(rows), flush=True)
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


if __name__ == "__main__":
    main()
