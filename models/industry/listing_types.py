"""What a listing is beside its id: its type, its market, and which others are near it."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from models.inputs.data import Entities
from models.inputs.preprocessing import FIRST_TOKEN
from models.names.errors import ConfigError, nearest

NEAREST = 3


def nearest_listings(items: Entities, market: np.ndarray, embedded: np.ndarray) -> np.ndarray:
    """[cold, 3] places among the trained listings of those nearest to each cold one.

    Near is having the most features in common, within the market; of equals the more frequent. A
    cold listing whose market has fewer than three has -1 throughout.

    Args:
        items: the listings.
        market: [N + 2] of each.
        embedded: [rows] bool: which of the trained have a vector.
    """
    columns = _single(items, None)
    features = np.stack([market, *columns.values()], axis=1)
    trained = features[FIRST_TOKEN : items.embedding_rows]
    cold = features[items.embedding_rows :]
    found = np.full((len(cold), NEAREST), -1, np.int64)
    for number, own in enumerate(cold):
        eligible = np.flatnonzero(embedded[FIRST_TOKEN:] & (trained[:, 0] == own[0]))
        if len(eligible) >= NEAREST:
            common = ((trained[eligible, 1:] == own[1:]) & (own[1:] > 0)).sum(axis=1)
            found[number] = eligible[np.argsort(-common, kind="stable")[:NEAREST]]
    return found


def _single(entities: Entities, named: Sequence[str] | None) -> dict[str, np.ndarray]:
    """[N + 2] columns of the features that have one value; those named, or all."""
    columns = {
        name: np.asarray(table)
        for name, table in sorted(entities.features.items())
        if not isinstance(table, tf.RaggedTensor)
    }
    for name in named or ():
        if name not in columns:
            raise ConfigError(
                f"required: features of one value, which are {', '.join(columns) or 'none'}; "
                f"received {name!r}{nearest(name, columns)}"
            )
    return columns if named is None else {name: columns[name] for name in named}


def types_of(
    entities: Entities, entity: str, named: Sequence[str] | None
) -> tuple[tf.Tensor, list[bytes]]:
    """[N + 2] int64 type of every entity, and what the types from 2 on are called."""
    columns = _single(entities, named)
    matrix = np.stack([np.zeros(entities.index_count, np.int64), *columns.values()], axis=1)
    distinct, number = np.unique(matrix, axis=0, return_inverse=True)
    numbered = np.asarray(number).reshape(-1) + FIRST_TOKEN
    # Whose features nobody knows is of no type.
    numbered[(matrix[:, 1:] == 0).all(axis=1)] = 0

    def said(name: str, index: int) -> bytes:
        tokens = entities.tokens[name]
        word = (
            tokens[index - FIRST_TOKEN] if 0 <= index - FIRST_TOKEN < len(tokens) else b"%d" % index
        )
        return name.encode() + b"=" + word

    called = [
        entity.encode()
        + b" "
        + b" ".join(said(*pair) for pair in zip(columns, row[1:], strict=True))
        for row in distinct
    ]
    return tf.constant(numbered, tf.int64), called


def market_of(items: Entities, name: str | None) -> np.ndarray:
    if name is None:
        return np.zeros(items.index_count, np.int64)
    return np.asarray(_single(items, [name])[name], np.int64)
