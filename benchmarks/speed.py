"""Training speed beside RecBole's on MovieLens-100K, in one run.

Both sides have the same sizes, the same batch and one thread each.

    python -m benchmarks.speed --recbole-python OTHER_VENV/bin/python
    python -m benchmarks.speed --recbole-python OTHER_VENV/bin/python --models tan --rounds 5
    python -m benchmarks.speed --recbole-python OTHER_VENV/bin/python --models deepfm \
        --set mixed_precision=true

RecBole is installed in an environment of its own (torch and recbole 1.2.1). Ours trains the train
split, RecBole all 100,000 events; an epoch's seconds are taken without validation, the first one
(which compiles) is left out, and the two take turns. Seconds are those of the process, of one
thread: what else the machine does adds nothing to them. Rows are the events that an epoch learns:
positives, a user's items, next items, labelled rows. Mult-VAE's and CDAE's batch is 128 users on
both sides. RecBole's GRU4Rec is Tan et al.'s network: it learns a next item from a copy of what is
before it, 256 of them a batch; ours learns every position of a window of 50 events in one pass, 5
windows a batch: as many next items a step, as many steps an epoch. Ours of 2016 and 2018
(`gru4rec`) has no peer there, and stands beside the same: 256 sessions side by side, an event of
each a step, 2,048 sampled negatives. RecBole's CDAE learns all items of a user, ours what the user
has and five times as many others.
RecBole's xDeepFM always has relu between the layers of CIN, ours the authors' identity, by which
most of it need not be computed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import experiment


@dataclass(frozen=True)
class Pair:
    """One model on both sides.

    Attributes:
        recbole: RecBole's name of it.
        theirs: RecBole's settings; it counts a batch in rows, its negatives included.
        ours: hyper-parameters.
        kind: of our train rows.
        split: of ours.
        label: of ours, for the task `score`.
    """

    recbole: str
    theirs: dict[str, Any]
    ours: dict[str, Any]
    kind: str
    split: dict[str, Any] = field(
        default_factory=lambda: {"name": "leave_one_out", "query_history": "train"}
    )
    label: dict[str, Any] | None = None


_EVENTS = {"inter": ["user_id", "item_id", "rating", "timestamp"]}
_FEATURES = {
    "user": ["user_id", "age", "gender", "occupation", "zip_code"],
    "item": ["item_id", "movie_title", "release_year", "class"],
}
_CLICKS: dict[str, Any] = {
    "train_batch_size": 2048,
    "threshold": {"rating": 4},
    "train_neg_sample_args": None,
    "load_col": {**_EVENTS, **_FEATURES},
    "metrics": ["AUC"],
    "valid_metric": "AUC",
    "eval_args": {
        "split": {"RS": [1, 0, 0]},
        "order": "RO",
        "group_by": None,
        "mode": "labeled",
    },
}
_GRU4REC = {
    "embedding_size": 64,
    "hidden_size": 128,
    "num_layers": 1,
    "dropout_prob": 0.3,
    "loss_type": "CE",
    "MAX_ITEM_LIST_LENGTH": 50,
    "train_batch_size": 256,
    "train_neg_sample_args": None,
}
PAIRS = {
    "bpr_mf": Pair(
        "BPR",
        {
            "embedding_size": 64,
            "train_batch_size": 2048,
            "train_neg_sample_args": {
                "distribution": "uniform",
                "sample_num": 1,
                "alpha": 1.0,
                "dynamic": False,
                "candidate_num": 0,
            },
        },
        {"factors": 64, "batch_size": 2048},
        "event",
    ),
    "neumf": Pair(
        "NeuMF",
        {
            "mf_embedding_size": 64,
            "mlp_embedding_size": 128,
            "mlp_hidden_size": [128, 64],
            "dropout_prob": 0.0,
            "train_batch_size": 2048 * 5,
            "train_neg_sample_args": {
                "distribution": "uniform",
                "sample_num": 4,
                "alpha": 1.0,
                "dynamic": False,
                "candidate_num": 0,
            },
        },
        {"factors": 64, "negatives": 4, "batch_size": 2048, "pretrain": False},
        "event",
    ),
    "mult_vae": Pair(
        "MultiVAE",
        {
            "mlp_hidden_size": [600],
            "latent_dimension": 200,
            "dropout_prob": 0.5,
            "train_batch_size": 128,
            "train_neg_sample_args": None,
        },
        {"hidden": 600, "latent": 200, "dropout": 0.5, "batch_size": 128},
        "profile",
    ),
    "cdae": Pair(
        "CDAE",
        {
            "embedding_size": 64,
            "corruption_ratio": 0.5,
            "train_batch_size": 128,
            "train_neg_sample_args": None,
        },
        {"hidden": 64, "corruption": 0.5, "batch_size": 128},
        "profile",
    ),
    "gru4rec": Pair(
        "GRU4Rec",
        _GRU4REC,
        {
            "loss": "cross_entropy",
            "embedding": "separate",
            "embedding_dim": 64,
            "units": [128],
            "dropout_embedding": 0.3,
            "batch_size": 256,
        },
        "sequence",
    ),
    "tan": Pair(
        "GRU4Rec",
        _GRU4REC,
        {
            "learning_rate": 1e-3,
            "click_dropout": 0.0,
            "embedding_dim": 64,
            "units": [128],
            "dropout_embedding": 0.3,
            "history_length": 50,
            "batch_size": 5,
        },
        "sequence",
    ),
    "sr_gnn": Pair(
        "SRGNN",
        {
            "embedding_size": 64,
            "step": 1,
            "loss_type": "CE",
            "MAX_ITEM_LIST_LENGTH": 50,
            "train_batch_size": 2048,
            "train_neg_sample_args": None,
        },
        {"units": 64, "history_length": 50, "batch_size": 2048, "decay": 1.0, "l2": 0.0},
        "sequence",
    ),
    "deepfm": Pair(
        "DeepFM",
        {
            "embedding_size": 10,
            "mlp_hidden_size": [400, 400, 400],
            "dropout_prob": 0.5,
            **_CLICKS,
        },
        {"factors": 10, "hidden": [400, 400, 400], "dropout": 0.5, "batch_size": 2048},
        "event",
        {"name": "ratio"},
        {"column": "rating", "threshold": 4.0},
    ),
    "xdeepfm": Pair(
        "xDeepFM",
        {
            "embedding_size": 10,
            "cin_layer_size": [100, 100, 100],
            "direct": False,
            "mlp_hidden_size": [128, 128, 128],
            "dropout_prob": 0.2,
            **_CLICKS,
        },
        {
            "factors": 10,
            "maps": [100, 100, 100],
            "connection": "half",
            "hidden": [128, 128, 128],
            "dropout": 0.2,
            "batch_size": 2048,
        },
        "event",
        {"name": "ratio"},
        {"column": "rating", "threshold": 4.0},
    ),
}

_RECBOLE = """
import json, sys, time, torch, warnings
warnings.filterwarnings("ignore")
torch.set_num_threads(1)
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
name, epochs, settings = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
config = Config(model=name, dataset="ml-100k", config_dict=settings)
init_seed(0, True)
dataset = create_dataset(config)
train = data_preparation(config, dataset)[0]
model = get_model(name)(config, train.dataset)
trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
seconds = []
for epoch in range(epochs):
    started = time.process_time()
    trainer._train_epoch(train, epoch)
    seconds.append(time.process_time() - started)
print(json.dumps({"rows": len(train.dataset), "seconds": seconds}))
"""


def prepare(pair: Pair, output: Path) -> experiment.Prepared:
    """Our train rows, built once."""
    from components.read import datasets

    source = Path(datasets.get("movielens-100k"))
    return experiment.prepare(
        source, output / pair.kind / pair.split["name"], pair.kind, pair.split, label=pair.label
    )


def ours(name: str, output: Path, epochs: int, overrides: dict[str, Any]) -> dict:
    """Trains our model; returns the train rows and each epoch's seconds of the process."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from models.names import registry
    from models.training.loop import TrainingLoop
    from models.training.trainer import resolve, set_precision

    data = prepare(PAIRS[name], output).training_data(name)
    hyper_parameters = resolve(name, {**PAIRS[name].ours, **overrides, "epochs": epochs})
    set_precision(hyper_parameters)
    model = registry.load(name).Model(hyper_parameters, data)
    loop = TrainingLoop(model.hyper_parameters, data)
    seconds: list[float] = []
    clock = tf.keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: seconds.append(-time.process_time()),
        on_epoch_end=lambda *_: seconds.append(seconds.pop() + time.process_time()),
    )
    fit = model.fit
    model.fit = lambda *given, callbacks, **more: fit(*given, callbacks=[clock, *callbacks], **more)
    model.learn(loop)
    # A batch of an auto-encoder is counted in users: what they have is what it learns.
    rows = len(data.events) if PAIRS[name].kind == "profile" else model.batches(data, 0, 0).rows
    return {"rows": rows, "seconds": seconds}


def compare(
    name: str, recbole_python: str, rounds: int, epochs: int, output: Path, setting: list[str]
) -> dict[str, str]:
    """Lets the two train in turns: a row of the table."""
    from components.read import datasets

    pair = PAIRS[name]
    prepare(pair, output)
    parent = _atomic(Path(datasets.get("movielens-100k")).absolute(), output)
    theirs = {
        "data_path": str(parent),
        "load_col": _EVENTS,
        "seed": 0,
        "state": "CRITICAL",
        "show_progress": False,
        "use_gpu": False,
        "eval_args": {
            "split": {"RS": [1, 0, 0]},
            "order": "TO",
            "group_by": "user",
            "mode": "full",
        },
        **pair.theirs,
    }
    # RecBole writes its logs into the folder that it runs in.
    folders = {"recsys-tfx": None, "RecBole": parent}
    commands = {
        "recsys-tfx": [
            sys.executable,
            "-m",
            "benchmarks.speed",
            "--recbole-python",
            "-",
            "--ours",
            name,
            "--epochs",
            str(epochs),
            "--output",
            str(output),
            "--set",
            *setting,
        ],
        "RecBole": [
            os.path.abspath(recbole_python),
            "-c",
            _RECBOLE,
            pair.recbole,
            str(epochs),
            json.dumps(theirs),
        ],
    }
    speeds: dict[str, list[float]] = {side: [] for side in commands}
    for _ in range(rounds):
        for side, command in commands.items():
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, cwd=folders[side]
            )
            if done.returncode:
                raise SystemExit(f"{side} failed: {done.stderr.strip().splitlines()[-1]}")
            found = json.loads(done.stdout.strip().splitlines()[-1])
            speeds[side].append(found["rows"] / float(np.median(found["seconds"][1:])))
            print(
                f"{name}, {side}: {speeds[side][-1]:,.0f} rows/s of {found['rows']:,}", flush=True
            )
    middle = {side: float(np.median(values)) for side, values in speeds.items()}
    shown = {
        side: f"{middle[side]:,.0f} ({min(values):,.0f} to {max(values):,.0f})"
        for side, values in speeds.items()
    }
    return {"model": name, **shown, "ratio": f"{middle['recsys-tfx'] / middle['RecBole']:.2f}"}


def main() -> None:
    """Prints rows a second of processor time of both, their spread, and the ratio of medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recbole-python", required=True)
    parser.add_argument("--models", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4, help="of each, the first not counted")
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/speed"))
    experiment.add_setting(parser, "hyper-parameters of ours, for every model named")
    parser.add_argument("--ours", choices=PAIRS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours:
        overrides = experiment.overrides(arguments.set)
        print(json.dumps(ours(arguments.ours, arguments.output, arguments.epochs, overrides)))
        return
    rows = [
        compare(
            name,
            arguments.recbole_python,
            arguments.rounds,
            arguments.epochs,
            arguments.output,
            arguments.set,
        )
        for name in arguments.models
    ]
    print(experiment.table(rows))
    print(
        f"\nmedian (least to most) of {arguments.rounds} rounds, in turns; {experiment.machine()}"
    )


def _atomic(source: Path, output: Path) -> Path:
    """RecBole wants the files in a folder of the data set's own name."""
    folder = (output / "recbole" / "ml-100k").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("ml-100k.inter", "ml-100k.item", "ml-100k.user"):
        target = folder / name
        if not target.exists():
            target.symlink_to(source / name)
    return folder.parent


if __name__ == "__main__":
    main()
