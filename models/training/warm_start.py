"""Start from the last blessed model.

Equal variables are copied, embedding rows are aligned by the token they stand for.
"""

import io
import json
import os

import numpy as np
import tensorflow as tf

from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.token_layers import TokenEmbedding

_FILE = os.path.join("assets.extra", "weights.npz")


def save_weights(model: tf.keras.Model, folder: str) -> None:
    """Writes the model's weights and their tokens beside the SavedModel in `folder`."""
    arrays = {f"weight_{number}": value for number, value in enumerate(model.get_weights())}
    for layer in _token_layers(model):
        names = json.dumps([token.decode("utf-8", "surrogateescape") for token in layer.tokens])
        arrays[f"tokens_{_position(model, layer.embeddings)}"] = np.frombuffer(
            names.encode(), np.uint8
        )
    path = os.path.join(folder, _FILE)
    tf.io.gfile.makedirs(os.path.dirname(path))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(buffer.getvalue())


def load_weights(model: tf.keras.Model, folder: str) -> dict[str, int]:
    """Copies what fits from the model exported to `folder` into `model`, whose variables exist.

    Returns:
        Counts: `copied` and `aligned` variables, `rows` aligned by token, and `skipped` variables
            whose shape is another.
    """
    counts = {"copied": 0, "aligned": 0, "rows": 0, "skipped": 0}
    path = os.path.join(folder, _FILE)
    if not tf.io.gfile.exists(path):
        return counts
    with tf.io.gfile.GFile(path, "rb") as file:
        saved = dict(np.load(io.BytesIO(file.read()), allow_pickle=False))
    tokens_of = {_position(model, layer.embeddings): layer.tokens for layer in _token_layers(model)}
    weights = model.get_weights()
    for number, value in enumerate(weights):
        old = saved.get(f"weight_{number}")
        if old is None or old.shape[1:] != value.shape[1:]:
            counts["skipped"] += 1
        elif number in tokens_of and f"tokens_{number}" in saved:
            names = json.loads(saved[f"tokens_{number}"].tobytes())
            row_of = {
                name.encode("utf-8", "surrogateescape"): row
                for row, name in enumerate(names, start=FIRST_TOKEN)
            }
            pairs = [
                (row, row_of[token])
                for row, token in enumerate(tokens_of[number], start=FIRST_TOKEN)
                if token in row_of
            ]
            value[:FIRST_TOKEN] = old[:FIRST_TOKEN]
            if pairs:
                new_rows, old_rows = np.array(pairs).T
                value[new_rows] = old[old_rows]
            counts["aligned"] += 1
            counts["rows"] += len(pairs)
        elif old.shape == value.shape:
            weights[number] = old
            counts["copied"] += 1
        else:
            counts["skipped"] += 1
    model.set_weights(weights)
    return counts


def _token_layers(model: tf.keras.Model) -> list[TokenEmbedding]:
    # Not submodules alone: Keras wraps dicts of layers, and flattening walks through those too.
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, TokenEmbedding) and layer.built
    ]
    # The buckets of a number have no tokens: their rows are copied as they are.
    return [layer for layer in layers if len(layer.tokens)]


def _position(model: tf.keras.Model, variable: tf.Variable) -> int:
    return next(number for number, weight in enumerate(model.weights) if weight is variable)
