"""NeuMF's training speed beside RecBole's: MovieLens-100K, the same sizes, negatives, batch and one thread each, in one run.

    python -m benchmarks.speed --recbole-python OTHER_VENV/bin/python

RecBole is installed in an environment of its own (torch and recbole 1.2.1). Ours trains the 98,114 events of leave-one-out, RecBole all
100,000; an epoch's seconds are taken without validation, the first one (which compiles) is left out, and the two take turns, so that
whatever else the machine does meets both. Rows are positives.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

FACTORS, NEGATIVES, BATCH, EPOCHS = 64, 4, 2048, 4

# Run by RecBole's Python; RecBole counts a batch in rows, its negatives included.
_RECBOLE = """
import json, sys, time, torch, warnings
warnings.filterwarnings("ignore")
torch.set_num_threads(1)
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
folder, factors, negatives, batch, epochs = sys.argv[1], *map(int, sys.argv[2:])
settings = {
    "data_path": folder, "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"]}, "seed": 0, "state": "CRITICAL",
    "mf_embedding_size": factors, "mlp_embedding_size": 2 * factors, "mlp_hidden_size": [2 * factors, factors], "dropout_prob": 0.0,
    "train_neg_sample_args": {"distribution": "uniform", "sample_num": negatives, "alpha": 1.0, "dynamic": False, "candidate_num": 0},
    "train_batch_size": batch * (1 + negatives), "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "TO", "group_by": "user", "mode": "full"},
    "show_progress": False, "use_gpu": False,
}
config = Config(model="NeuMF", dataset="ml-100k", config_dict=settings)
init_seed(0, True)
dataset = create_dataset(config)
train = data_preparation(config, dataset)[0]
model = get_model("NeuMF")(config, train.dataset)
trainer = get_trainer(config["MODEL_TYPE"], "NeuMF")(config, model)
seconds = []
for epoch in range(epochs):
    started = time.perf_counter()
    trainer._train_epoch(train, epoch)
    seconds.append(time.perf_counter() - started)
print(json.dumps({"rows": len(train.dataset), "seconds": seconds}))
"""


def ours(folder: Path) -> dict:
    """Trains our NeuMF in one stage; returns the train rows and each epoch's seconds."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from benchmarks import experiment
    from components import datasets
    from models import registry
    from models.training import TrainingSession

    split = {"name": "leave_one_out", "query_history": "train"}
    data = experiment.prepare(Path(datasets.get("movielens-100k")), folder, "event", split).training_data("neumf")
    module = registry.load("neumf")
    settings = {"factors": FACTORS, "negatives": NEGATIVES, "batch_size": BATCH, "epochs": EPOCHS, "pretrain": False}
    model = module.Model(module.HyperParameters(**settings), data)
    session = TrainingSession(model.hyper_parameters, data)
    model.learn(session)
    return {"rows": len(data.events), "seconds": [row["seconds"] for row in session.history]}


def main() -> None:
    """Prints rows per second of both, their spread over rounds, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recbole-python", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/movielens-100k/event"))
    parser.add_argument("--ours", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours:
        print(json.dumps(ours(arguments.output)))
        return
    from components import datasets

    parent = _atomic(Path(datasets.get("movielens-100k")).absolute(), arguments.output)
    # RecBole writes its logs into the folder that it runs in.
    folders = {"recsys-tfx": None, "RecBole": parent}
    commands = {
        "recsys-tfx": [sys.executable, "-m", "benchmarks.speed", "--recbole-python", "-", "--ours", "--output", str(arguments.output)],
        "RecBole": [os.path.abspath(arguments.recbole_python), "-c", _RECBOLE, str(parent), *map(str, (FACTORS, NEGATIVES, BATCH, EPOCHS))],
    }
    speeds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(arguments.rounds):
        for name, command in commands.items():
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folders[name])
            if done.returncode:
                raise SystemExit(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
            found = json.loads(done.stdout.strip().splitlines()[-1])
            speeds[name].append(found["rows"] / float(np.median(found["seconds"][1:])))
            print(f"{name}: {speeds[name][-1]:,.0f} rows/s", flush=True)
    middle = {name: float(np.median(values)) for name, values in speeds.items()}
    print(f"ratio of the medians of {arguments.rounds} rounds: {middle['recsys-tfx'] / middle['RecBole']:.2f}")


def _atomic(source: Path, output: Path) -> Path:
    """RecBole wants the files in a folder of the data set's own name."""
    folder = (output.parent / "recbole" / "ml-100k").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("ml-100k.inter", "ml-100k.item", "ml-100k.user"):
        target = folder / name
        if not target.exists():
            target.symlink_to(source / name)
    return folder.parent


if __name__ == "__main__":
    main()
