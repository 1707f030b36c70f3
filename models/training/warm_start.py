"""Start from the last blessed model.

Variables are found by name, embedding rows by the token they stand for.

A variable's name is its place in the model: the path of attributes that leads to it, such as
`_users/_embeddings/user_age/embeddings`. (Keras' own names count the layers of a process, and a
variable's number changes with every feature before it.)
"""

import collections
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from models.inputs.ids import Ids
from models.inputs.int8 import dequantise, quantise
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.token_layers import TokenEmbedding
from models.names import registry
from models.names.errors import ConfigError
from models.training.progress import say

_FILE = os.path.join("assets.extra", "weights.npz")
_MODEL, _WEIGHT, _SCALES, _TOKENS, _ENDS = "model", "weight/", "scales/", "tokens/", "ends/"
_PLACE = "place/"
"""What a table has in place of its bytes: the variable that holds them, and their SHA-256."""


def save_weights(model: tf.keras.Model, folder: str, smallest: int | None = None) -> int:
    """Writes the model's weights and their tokens beside the SavedModel in `folder`.

    A table that the SavedModel has in the same bytes is not written again, but where it lies.

    Args:
        model: its variables exist.
        folder: of the SavedModel.
        smallest: how many numbers a table has at least to be stored in bytes; None stores all as
            they are.

    Returns:
        How many bytes the arrays have where all are as they are.
    """
    arrays = {_MODEL: _encoded(registry_name(model))}
    large = set() if smallest is None else set(large_tables(model, smallest))
    in_bytes, whole = {id(layer.embeddings) for layer in large}, 0
    exported = _exported(folder) if large else None
    for path, variable in variables_by_path(model).items():
        value = variable.numpy()
        whole += value.nbytes
        if id(variable) not in in_bytes:
            arrays[_WEIGHT + path] = value
            continue
        table, arrays[_SCALES + path] = quantise(value)
        place = _place_of(table, exported) if exported else None
        if place is None:
            arrays[_WEIGHT + path] = table
        else:
            # With what it holds: by this file two trainings are told apart.
            digest = hashlib.sha256(table.tobytes()).hexdigest()
            arrays[_PLACE + path] = _encoded([place, digest])
    for path, tokens in _tokens_by_path(model).items():
        if isinstance(tokens, Ids):
            names = {_TOKENS: tokens.arrays[0], _ENDS: tokens.arrays[1]}
        else:
            names = {_TOKENS: _encoded([one.decode("utf-8", "surrogateescape") for one in tokens])}
        whole += sum(array.nbytes for array in names.values())
        arrays |= {what + path: array for what, array in names.items()}
    path = os.path.join(folder, _FILE)
    tf.io.gfile.makedirs(os.path.dirname(path))
    # By way of a file: the weights need not be in memory once more.
    write = np.savez if smallest is None else np.savez_compressed
    with tempfile.TemporaryFile() as buffer, tf.io.gfile.GFile(path, "wb") as file:
        write(buffer, **arrays)
        buffer.seek(0)
        shutil.copyfileobj(buffer, file, 1 << 24)
    return whole


def _place_of(table: np.ndarray, exported: Any) -> str | None:
    """The variable of a SavedModel that holds a table in bytes; None: none does."""
    kinds = exported.get_variable_to_dtype_map()
    for name, shape in exported.get_variable_to_shape_map().items():
        alike = kinds[name] == tf.int8 and tuple(shape) == table.shape
        if alike and np.array_equal(exported.get_tensor(name), table):
            return name
    return None


def _exported(folder: str) -> Any:
    """Reads the variables of the SavedModel in `folder`; None where there is none."""
    prefix = os.path.join(folder, "variables", "variables")
    return tf.train.load_checkpoint(prefix) if tf.io.gfile.exists(prefix + ".index") else None


def large_tables(model: tf.keras.Model, smallest: int) -> list[TokenEmbedding]:
    """The tables of a model, its variables, that hold so many numbers of 4 bytes at least."""
    return [
        layer
        for layer in model.submodules
        if isinstance(layer, TokenEmbedding)
        and layer.built
        and layer.embeddings.dtype == tf.float32
        and layer.embeddings.shape.num_elements() >= smallest
    ]


def load_weights(model: tf.keras.Model, folder: str) -> dict[str, int | bool]:
    """Copies what fits from the model exported to `folder` into `model`, whose variables exist.

    A variable of the same name and shape is copied. A table of tokens is aligned: a row gets what
    the row of the same token had; rows of new tokens stay as they are. All else is new.

    Returns:
        Counts: `copied` and `aligned` variables, `rows` aligned by token, and `skipped` variables
            that the old model does not have, has in another shape or has no token of. And
            `complete`: whether every trainable variable and every table of tokens was copied or
            aligned, so that training goes on from where the old model ended.

    Raises:
        ConfigError: the weights are those of another model.
    """
    counts: dict[str, int | bool] = {"copied": 0, "aligned": 0, "rows": 0, "skipped": 0}
    saved = _read(folder)
    if saved is None:
        return {**counts, "complete": False}
    name, received = registry_name(model), _decoded(saved[_MODEL])
    if received != name:
        raise ConfigError(
            f"warm start: {name} can start from the weights of {name} only; received those of "
            f"{received} in {folder}. Train with warm_start: false, or under another pipeline name"
        )
    tokens_of, complete = _tokens_by_path(model), True
    for path, variable in variables_by_path(model).items():
        value, old = variable.numpy(), saved.get(_WEIGHT + path)
        if _SCALES + path in saved:
            old = dequantise(old, saved[_SCALES + path])
        if old is None or old.shape[1:] != value.shape[1:]:
            loaded = False
        elif path in tokens_of and _TOKENS + path in saved:
            row_of = {
                token: row for row, token in enumerate(_tokens(saved, path), start=FIRST_TOKEN)
            }
            pairs = [
                (row, row_of[token])
                for row, token in enumerate(tokens_of[path], start=FIRST_TOKEN)
                if token in row_of
            ]
            loaded = bool(pairs)
            if loaded:
                new_rows, old_rows = np.array(pairs).T
                value[:FIRST_TOKEN] = old[:FIRST_TOKEN]
                value[new_rows] = old[old_rows]
                variable.assign(value)
                counts["aligned"] += 1
                counts["rows"] += len(pairs)
        else:
            loaded = old.shape == value.shape
            if loaded:
                variable.assign(old)
                counts["copied"] += 1
        if not loaded:
            counts["skipped"] += 1
            complete &= not (variable.trainable or path in tokens_of)
    return {**counts, "complete": complete}


def fingerprint(folder: str) -> str:
    """A hash of the weights of the model exported to `folder`.

    It tells a training that starts from them apart. Where the folder holds none it is of its name.
    """
    path = os.path.join(folder, _FILE)
    digest = hashlib.sha256(folder.encode())
    if tf.io.gfile.exists(path):
        digest = hashlib.sha256()
        with tf.io.gfile.GFile(path, "rb") as file:
            while part := file.read(1 << 24):
                digest.update(part)
    return digest.hexdigest()[:16]


def registry_name(model: tf.keras.Model) -> str:
    """The name under which a model is registered; that of its class where it is not."""
    module = type(model).__module__
    names = [entry.name for entry in registry.MODELS.values() if entry.module == module]
    return names[0] if names else type(model).__qualname__


def variables_by_path(model: tf.keras.Model) -> dict[str, tf.Variable]:
    """The weights of a model by the shortest path of attributes that leads to each.

    Raises:
        ValueError: no attribute leads to a weight.
    """
    # Metrics are no weights, though Keras counts them among them.
    metrics = {id(variable) for metric in model.metrics for variable in metric.variables}
    wanted = {id(variable): variable for variable in model.weights if id(variable) not in metrics}
    view, seen, found = tf.train.TrackableView(model), {id(model)}, {}
    waiting = collections.deque([(model, "")])
    while waiting and len(found) < len(wanted):
        parent, prefix = waiting.popleft()
        for name, child in view.children(parent).items():
            if id(child) in seen:
                continue
            seen.add(id(child))
            if id(child) in wanted:
                found[id(child)] = prefix + name
            waiting.append((child, f"{prefix}{name}/"))
    for number, variable in wanted.items():
        if number not in found:
            raise ValueError(
                f"{type(model).__name__}: no attribute leads to the variable {variable.name}; "
                "required: layers and variables are kept as attributes"
            )
    return {found[number]: variable for number, variable in wanted.items()}


def _tokens(saved: Mapping[str, np.ndarray], path: str) -> Iterable[bytes]:
    """The tokens that are saved of a table."""
    if _ENDS + path in saved:
        return Ids(saved[_TOKENS + path], saved[_ENDS + path])
    return (each.encode("utf-8", "surrogateescape") for each in _decoded(saved[_TOKENS + path]))


def _tokens_by_path(model: tf.keras.Model) -> dict[str, np.ndarray | Ids]:
    """The tokens of the tables that have any, by the path of their variable."""
    # The buckets of a number have no tokens: their rows are copied as they are.
    tokens = {
        id(layer.embeddings): layer.tokens
        for layer in model.submodules
        if isinstance(layer, TokenEmbedding) and layer.built and len(layer.tokens)
    }
    return {
        path: tokens[id(variable)]
        for path, variable in variables_by_path(model).items()
        if id(variable) in tokens
    }


def _read(folder: str) -> dict[str, np.ndarray] | None:
    """The arrays of the weights in `folder`; None, and why is printed, where there are none."""
    path = os.path.join(folder, _FILE)
    if not tf.io.gfile.exists(path):
        say(f"warm start: {path} does not exist; nothing is loaded and training starts cold")
        return None
    with tf.io.gfile.GFile(path, "rb") as file:
        saved = dict(np.load(io.BytesIO(file.read()), allow_pickle=False))
    if _MODEL not in saved:
        say(
            f"warm start: {path} is of an earlier version, which did not write the names of "
            "weights: it cannot be read, and training starts cold"
        )
        return None
    places = {name: _decoded(saved[name])[0] for name in saved if name.startswith(_PLACE)}
    exported = _exported(folder) if places else None
    if places and exported is None:
        say(
            f"warm start: {path} names variables of the SavedModel in {folder}, which has none; "
            "nothing is loaded and training starts cold"
        )
        return None
    for name, place in places.items():
        saved[_WEIGHT + name.removeprefix(_PLACE)] = exported.get_tensor(place)
    return saved


def _encoded(value: str | list[str]) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _decoded(array: np.ndarray) -> str | list[str]:
    return json.loads(array.tobytes())
