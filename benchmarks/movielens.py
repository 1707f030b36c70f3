"""MovieLens-100K, leave-one-out by time, full ranking: all `retrieve` models side by side.

    python -m benchmarks.movielens --models popularity two_tower neumf --seeds 0 1 2

The queries see the train items only (`query_history: train`), the validation item is excluded: the
inputs that peers had. Peers' models of sequences had the validation item in the history as well,
and so have ours.
"""

import argparse
import json
from pathlib import Path

from benchmarks import experiment
from models.names import registry

METRICS = ("hr_10", "ndcg_10", "mrr_10", "recall_20")
PEERS = {
    "popularity": ("RecBole", ".0859", ".0442"),
    "item_knn": ("RecBole", ".1124", ".0619"),
    "ease": ("RecBole, lambda 250", ".1347", ".0698"),
    "bpr_mf": ("RecBole, 64 factors", ".1177", ".0615"),
    "mult_dae": ("RecBole, 128 users a batch", ".1400", ".0740"),
    "mult_vae": ("RecBole, 128 users a batch", ".1368", ".0749"),
    "neumf": ("RecBole", ".1273", ".0657"),
    "two_tower": ("item-kNN / EASE, RecBole", ".1124 / .1347", ".0619 / .0698"),
    "gru4rec": ("RecBole, full softmax, 4 epochs", ".1729", ".0854"),
}
# What differs from a model's defaults, which are its paper's: chosen on validation. GRU4Rec as the
# peer's: full softmax over windows.
SETTINGS = {
    "gru4rec": {
        "negatives": "all",
        "optimizer": "adam",
        "learning_rate": 3e-3,
        "batch_size": 64,
        "units": [128],
        "dropout_embedding": 0.25,
        "dropout_hidden": 0.25,
        "epochs": 40,
        "patience": 6,
    },
}


def main() -> None:
    """Prints the table and writes every run to the output folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=[name for name, entry in registry.MODELS.items() if entry.task == "retrieve"],
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help="hyper-parameters, for every model named",
    )
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/movielens-100k"))
    arguments = parser.parse_args()
    from components.read import datasets

    source = Path(datasets.get("movielens-100k"))
    overrides = experiment.overrides(arguments.set)
    rows = []
    for name in arguments.models:
        kind = registry.get(name).kind
        split = {"name": "leave_one_out", "query_history": "all" if kind == "sequence" else "train"}
        prepared = experiment.prepare(source, arguments.output / kind, kind, split)
        runs = [
            experiment.measure(prepared, name, {**SETTINGS.get(name, {}), **overrides}, seed)
            for seed in arguments.seeds
        ]
        (arguments.output / f"{name}.json").write_text(json.dumps(runs, indent=1))
        peer, peer_hr, peer_ndcg = PEERS.get(name, ("", "", ""))
        rows.append(
            {
                "model": name,
                **experiment.summary(runs, METRICS),
                "peer": peer,
                "its HR@10": peer_hr,
                "its NDCG@10": peer_ndcg,
            }
        )
        print(experiment.table(rows), flush=True)
    print(f"\nseeds {arguments.seeds}; {experiment.machine()}")


if __name__ == "__main__":
    main()
