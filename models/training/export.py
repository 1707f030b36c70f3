"""What a training leaves: the SavedModel with its weights, its tables as the run says.

Tables in bytes are measured as they are served, on validation, beside the tables that were learnt.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from models.inputs import tensorflow_private
from models.inputs.int8 import Int8Table
from models.inputs.preprocessing import READ_BACK
from models.inputs.token_layers import TokenEmbedding
from models.names.errors import ConfigError
from models.names.export import ExportConfig, described
from models.training import warm_start, warm_up
from models.training.progress import say


def require_tables(model: tf.keras.Model, config: ExportConfig) -> None:
    """Refuses to store the tables of a model in bytes that has none.

    Raises:
        ConfigError: it has none.
    """
    if config.tables == "int8" and not any(
        isinstance(layer, TokenEmbedding) for layer in model.submodules
    ):
        raise ConfigError(
            f"export.tables: int8 is for models that look rows of tables up; "
            f"{warm_start.registry_name(model)} has no such table; required: float32"
        )


@contextlib.contextmanager
def in_int8(model: tf.keras.Model, smallest: int) -> Iterator[int]:
    """Stores the tables of a model in bytes for as long as the context lasts.

    What is traced, evaluated and exported meanwhile looks rows up in bytes. Afterwards the model
    has what it had learnt, to the bit.

    Args:
        model: its variables exist.
        smallest: how many numbers a table has at least to be stored so.

    Yields:
        How many bytes that saves.
    """
    learnt = {layer: layer.embeddings for layer in warm_start.large_tables(model, smallest)}
    for layer, variable in learnt.items():
        del layer.embeddings  # or it would be saved beside the bytes
        layer.embeddings = Int8Table(variable.numpy())
    try:
        yield sum(layer.embeddings.saved for layer in learnt)
    finally:
        for layer, variable in learnt.items():
            del layer.embeddings
            layer.embeddings = variable


@contextlib.contextmanager
def without_optimizers(model: tf.keras.Model) -> Iterator[None]:
    """Takes the optimisers off a model and those within it for as long as the context lasts.

    What they keep of every weight would be exported with it.
    """
    held = {
        each: each.optimizer
        for each in (model, *model.submodules)
        if isinstance(each, tf.keras.Model) and getattr(each, "optimizer", None) is not None
    }
    for each in held:
        tensorflow_private.untrack(each, "optimizer")
    try:
        yield
    finally:
        for each, optimizer in held.items():
            each.optimizer = optimizer


def export(
    exporter: Any, model: tf.keras.Model, evaluation: Any, folder: str, config: ExportConfig
) -> dict[str, Any]:
    """Writes the SavedModel, and with it the weights that a warm start reads.

    Args:
        exporter: of the task, whose `export` writes the SavedModel.
        model: it has learnt.
        evaluation: on validation; None where there is none.
        folder: where to.
        config: how tables are stored.

    Returns:
        What the training log says of it; empty of tables as they were learnt. Else `bytes` of the
        folder, `float32_bytes` that it would have, and the metrics of validation, `valid` as it
        is served and `float32_valid`.
    """
    say("exporting ...")
    if config.tables == "float32":
        with without_optimizers(model):
            exporter.export(folder)
        _without_ids(folder)
        warm_up.save_requests(folder)
        warm_start.save_weights(model, folder)
        return {}
    learnt = evaluation.of(model)() if evaluation else {}
    exporter.store_in_int8(config.smallest)
    with in_int8(model, config.smallest), without_optimizers(model):
        exporter.export(folder)
        served = evaluation.of(model, exporter)() if evaluation else {}
        saved = sum(each.saved for each in exporter.submodules if isinstance(each, Int8Table))
    _without_ids(folder)
    warm_up.save_requests(folder)
    saved_model = _bytes_of(folder)
    whole = saved_model + saved + warm_start.save_weights(model, folder, config.smallest)
    size = _bytes_of(folder)
    told: dict[str, Any] = {"tables": config.tables, "bytes": size, "float32_bytes": whole}
    told |= {"valid": served, "float32_valid": learnt}
    say(f"export: {described(told)}")
    return {"export": told}


def _without_ids(folder: str) -> None:
    """Empties the vocabularies of ids, which come with Transform's graph and no look-up reads."""
    for name in READ_BACK:
        path = os.path.join(folder, tf.saved_model.ASSETS_DIRECTORY, name)
        if tf.io.gfile.exists(path):
            with tf.io.gfile.GFile(path, "wb") as file:
                file.write(b"")


def _bytes_of(folder: str) -> int:
    return sum(
        tf.io.gfile.stat(os.path.join(parent, name)).length
        for parent, _, names in tf.io.gfile.walk(folder)
        for name in names
    )
