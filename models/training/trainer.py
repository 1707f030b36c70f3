"""The Trainer component's `run_fn`: built examples and a transform graph to a SavedModel.

It knows no single model.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from models.contract import tasks
from models.inputs.tensorflow_private import forgotten_gradients
from models.names import hyper_parameters as settings
from models.names import registry
from models.names.errors import ConfigError
from models.names.export import ExportConfig
from models.names.hyper_parameters import HyperParameters
from models.names.index import IndexConfig
from models.names.label import Label
from models.training import warm_start
from models.training.cluster import Cluster, require_equal
from models.training.export import export, require_tables
from models.training.loop import TrainingLoop
from models.training.progress import say
from models.training.servers import SMALLEST_PIECE, ParameterServers, require_shards

TRAINING_LOG = "training.json"


@forgotten_gradients()
def run_fn(fn_args: Any, start_seconds: float = math.inf) -> None:
    """Trains and exports one model, of which the process keeps nothing.

    Args:
        fn_args: as TFX passes them; used are `train_files`, `eval_files` (globs, one a split, whose
            folder is named `Split-<name>`), `transform_graph_path`, `schema_path`,
            `serving_model_dir`, `model_run_dir`, `base_model` (what a warm start begins with; a
            folder without a model, or `warm_start: false`, is a cold one) and `custom_config`:
            `model`, `hyper_parameters`, `seed`, and optionally `label`, `metrics`, `index`,
            `export`, `warm_start`, `checkpoint_dir`, `cluster` and `fingerprint`. And
            `hyperparameters`, which is None but where a measured model is fitted again on
            everything (see `components.refit.refit`): `stage_epochs`, how long, and what the log of
            the measured one.
        start_seconds: how long the workers have to come together, where there are several.

    Raises:
        ConfigError: an unknown model or hyper-parameter, workers that were given different
            trainings, or parameter servers for a model whose tables cannot lie there.
        DataError: a split is missing or empty.
    """
    started = time.monotonic()
    config, refit = fn_args.custom_config, fn_args.hyperparameters
    module = registry.load(config["model"])
    hyper_parameters = resolve(config["model"], config.get("hyper_parameters", {}))
    seed = int(config.get("seed", 0))
    tf.keras.utils.set_random_seed(seed)
    set_precision(hyper_parameters)
    cluster = Cluster.here()
    if cluster.has_servers:
        require_shards(config["model"])
    with cluster.starting(start_seconds):
        strategy = choose_strategy(cluster)
        smallest = config.get("cluster", {}).get("smallest_piece", SMALLEST_PIECE)
        sharded = ParameterServers(cluster, smallest) if cluster.has_servers else None
    folders = Folders.of(fn_args)
    splits = {
        _split_name(pattern): pattern for pattern in [*fn_args.train_files, *fn_args.eval_files]
    }
    task = tasks.of(
        config["model"],
        Label.parse(config.get("label")),
        config.get("metrics", ()),
        IndexConfig.parse(config.get("index")),
        seed,
    )
    data = task.load(module.Model, fn_args.transform_graph_path, fn_args.schema_path, splits)
    _require_equal(strategy, config, hyper_parameters, data)
    loop = TrainingLoop(
        hyper_parameters,
        data,
        seed=seed,
        evaluation=task.evaluation(data, "valid"),
        strategy=strategy,
        checkpoint_dir=folders.checkpoints,
        log_dir=folders.logs,
        servers=sharded,
        stage_epochs=refit["stage_epochs"] if refit else {},
    )
    with strategy.scope():
        model = module.Model(hyper_parameters, data)
    storing = ExportConfig.parse(config.get("export"))
    require_tables(model, storing)
    warmed = None
    if base_model := _base_model(fn_args):
        loop.build(model)
        warmed = warm_start.load_weights(model, base_model)
        loop.warm_started = warmed["complete"]
        say(
            f"warm start: {warmed['rows']} embedding rows aligned by token, {warmed['copied']} "
            f"variables copied, {warmed['skipped']} new"
        )
    model.learn(loop)
    if data.unknown_item_events:
        say(
            f"{data.unknown_item_events:,} train events are of items below features.min_count and "
            "were left out"
        )
    unknown_rows = data.unknown_rows
    if unknown_rows:
        say(
            "rows of train with a value that is not admitted (features.min_count): "
            + ", ".join(f"{name} {rows:,}" for name, rows in unknown_rows.items())
        )
    exporter = task.exporter(model, data)
    exported = export(exporter, model, loop.evaluation, folders.serving, storing)
    if index := exporter.notes.get("index"):
        say(
            f"index: {index['lists']:,} lists, of which a query looks into {index['probes']:,}; "
            f"recall@100 of the run's own queries {index['recall_100']}"
        )
    log = {
        "model": config["model"],
        "task": task.name,
        **task.notes(model),
        **exporter.notes,
        **exported,
        "label": config.get("label"),
        "hyper_parameters": hyper_parameters.model_dump(),
        "seed": seed,
        "unknown_item_events": data.unknown_item_events,
        "unknown_rows": unknown_rows,
        "history_until": _history_until(splits),
        "parameters": int(sum(tf.size(weight) for weight in model.trainable_weights)),
        "strategy": type(sharded.strategy if sharded else strategy).__name__,
        "replicas": strategy.num_replicas_in_sync,
        **({"pieces": sharded.pieces} if sharded else {}),
        "warm_start": warmed and {"from": folders.base, **warmed},
        "best_epoch": list(loop.best_epochs.values())[-1],
        "best_epochs": loop.best_epochs,
        "epochs": loop.history,
        "seconds": round(time.monotonic() - started, 3),
        "monitor": task.metrics.choosing_by(hyper_parameters.setting("monitor")).monitor,
        "fingerprint": config.get("fingerprint"),
        "refit": refit,
    }
    # Beside the TensorBoard logs, and with the model: what is pushed can tell how it was made.
    for folder in (folders.logs, os.path.join(folders.serving, "assets.extra")):
        tf.io.gfile.makedirs(folder)
        with tf.io.gfile.GFile(os.path.join(folder, TRAINING_LOG), "w") as file:
            json.dump(log, file, indent=1)
    # Only now: a kill before the export is done must find something to resume from.
    for folder in folders.passing:
        shutil.rmtree(folder, ignore_errors=True)


def _history_until(splits: dict[str, str]) -> int:
    """The time of the newest event that the stored histories hold, in seconds since 1970.

    A server that keeps what users do since adds nothing that was before. It is 0 where the log has
    no times, and where the examples do not say.
    """
    examples = os.path.dirname(os.path.dirname(splits.get("users", "")))
    report = os.path.join(examples, "report.json")
    if not tf.io.gfile.exists(report):
        return 0
    with tf.io.gfile.GFile(report) as file:
        return int(json.load(file).get("newest_event", 0))


@dataclass(frozen=True)
class Folders:
    """Where a process of a training writes.

    With several workers only the chief writes what all share. The others take part in saving, which
    TensorFlow does together, into folders of their own; of those only the checkpoints outlive them.

    Attributes:
        serving: of the SavedModel.
        logs: of TensorBoard and the training log.
        checkpoints: of an interrupted training, told apart by worker, base model and the epochs
            that were chosen before; None keeps none.
        base: hash of the weights that a warm start begins with; None where it is none.
        passing: what is removed when the training has come to its end.
    """

    serving: str
    logs: str
    checkpoints: str | None
    base: str | None
    passing: tuple[str, ...]

    @classmethod
    def of(cls, fn_args: Any) -> "Folders":
        """The folders of this process (see `Cluster.name`) for the arguments of `run_fn`."""
        name, checkpoints = Cluster.here().name, fn_args.custom_config.get("checkpoint_dir")
        serving, logs, passing = fn_args.serving_model_dir, fn_args.model_run_dir, ()
        if name:
            scratch = tempfile.mkdtemp(prefix=f"{name}-")
            serving, logs = os.path.join(scratch, "serving"), os.path.join(scratch, "logs")
            checkpoints, passing = checkpoints and f"{checkpoints}-{name}", (scratch,)
        base_model = _base_model(fn_args)
        base = warm_start.fingerprint(base_model) if base_model else None
        if checkpoints:
            passing += (checkpoints,)
            checkpoints = os.path.join(checkpoints, base) if base else checkpoints
            if fn_args.hyperparameters:
                stages = fn_args.hyperparameters["stage_epochs"].items()
                marks = "-".join(f"{stage}-{epochs}" for stage, epochs in stages)
                checkpoints = os.path.join(checkpoints, marks)
        return cls(serving, logs, checkpoints, base, passing)


def _base_model(fn_args: Any) -> str | None:
    """Folder of the model that a warm start begins with; None of a cold one."""
    folder = fn_args.base_model if fn_args.custom_config.get("warm_start", True) else None
    return folder if folder and tf.io.gfile.exists(folder) else None


def resolve(
    model: str, overrides: dict[str, Any], kind: type[HyperParameters] | None = None
) -> HyperParameters:
    """Returns the hyper-parameters of a model.

    Args:
        model: its name.
        overrides: name -> value of what is not to stay as the model's defaults have it.
        kind: the class of them; None: that of the registered model of this name.

    Raises:
        ConfigError: a common setting that the model has no use for, an unknown name (the message
            has the nearest), or a value that is refused.
    """
    declared = kind or registry.load(model).Model.HyperParameters
    return settings.resolve(model, declared, overrides)


def set_precision(hyper_parameters: HyperParameters) -> None:
    """Sets the types that layers made from now on compute and hold their weights in."""
    tf.keras.mixed_precision.set_global_policy(
        "mixed_bfloat16" if hyper_parameters.setting("mixed_precision") else "float32"
    )


def choose_strategy(cluster: Cluster | None = None) -> tf.distribute.Strategy:
    """Chooses the distribution strategy.

    Several workers when there is a cluster of them, several devices when there are GPUs (or logical
    CPUs), else one. Where there are parameter servers it is that of the chief's own memory.
    """
    if cluster and cluster.has_servers:
        return tf.distribute.get_strategy()
    if cluster and cluster.addresses:
        return tf.distribute.MultiWorkerMirroredStrategy()
    for kind in ("GPU", "CPU"):
        devices = [
            device.name.replace("physical_device:", "")
            for device in tf.config.list_logical_devices(kind)
        ]
        if len(devices) > 1:
            return tf.distribute.MirroredStrategy(devices)
        if devices:
            return tf.distribute.OneDeviceStrategy(devices[0])
    raise ConfigError("TensorFlow sees no device to train on; required: a CPU or a GPU")


def _require_equal(strategy: Any, config: dict[str, Any], hyper_parameters: Any, data: Any) -> None:
    """Refuses workers that would not take the same steps."""
    own = hyper_parameters.model_dump(mode="json")
    told = json.dumps([config["model"], own, config.get("seed"), config.get("label")])
    require_equal(
        strategy,
        {
            "hyper_parameters.batch_size": own.get("batch_size", 0),
            "the number of items": len(data.items),
            "the number of users": len(data.users),
            "the model, its hyper-parameters, the label or the seed": int.from_bytes(
                hashlib.sha256(told.encode()).digest()[:6], "big"
            ),
        },
    )


def _split_name(pattern: str) -> str:
    return os.path.basename(os.path.dirname(pattern)).removeprefix("Split-")
