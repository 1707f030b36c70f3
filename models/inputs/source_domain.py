"""The other domain of a log of two: what the split `cross_domain` keeps of it."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import tensorflow as tf

from models.inputs.columns import read_columns
from models.inputs.data import Entities, TrainingData
from models.inputs.event_log import EventLog
from models.inputs.history import STRINGS
from models.inputs.preprocessing import FIRST_TOKEN
from models.names.errors import DataError
from models.names.label import WEIGHT

_VALUES = {
    "timestamp": tf.int64,
    "rating": tf.float32,
    "label": tf.float32,
    "row": tf.int64,
    WEIGHT: tf.float32,
}


@dataclass
class SourceDomain:
    """The source: its own users, items and events, beside those of the target in `TrainingData`.

    Attributes:
        shared: `users` or `items`: whose ids are the same ones in both domains. An id of the others
            that both have is chance.
        users: everybody who has events there, by how many; row r has index r + 2. No features.
        items: likewise.
        events: all of its events, in the indices of `users` and `items`.
    """

    shared: str
    users: Entities
    items: Entities
    events: EventLog

    def index_of(self, ids: np.ndarray) -> np.ndarray:
        """[N] ids of the target's shared entities -> [N] int64 index here; 0 where it has none."""
        entities: Entities = getattr(self, self.shared)
        position = pd.Index(entities.ids).get_indexer(pd.Index(ids, dtype=object))
        return np.where(position < 0, 0, position + FIRST_TOKEN).astype(np.int64)


def read_source(data: TrainingData, reader: str) -> SourceDomain:
    """Reads the source's events of a run.

    Args:
        data: what the model trains on.
        reader: who wants them, for the error.

    Raises:
        DataError: the run has no second domain.
    """
    pattern = data.files("source")
    if not tf.io.gfile.glob(pattern):
        raise DataError(
            f"{reader} learns from two domains; required: the split 'cross_domain', of events with "
            "a column 'domain'; received rows of another split. Say split.name: cross_domain"
        )
    spec = {
        "user_id": tf.io.FixedLenFeature([], tf.string),
        "shared": tf.io.FixedLenFeature([], tf.string),
        "item_id": STRINGS,
        **{
            name: tf.io.RaggedFeature(kind, row_splits_dtype=tf.int64)
            for name, kind in _VALUES.items()
        },
    }

    def of_events(row):
        lengths = row["item_id"].row_lengths()
        columns = {
            "user": tf.repeat(row["user_id"], lengths),
            "shared": tf.repeat(row["shared"], lengths),
            "item": row["item_id"].flat_values,
        }
        for name, kind in _VALUES.items():
            # All rows have the column or none has.
            missing = tf.fill(
                tf.shape(columns["item"]), tf.cast(float("nan") if kind.is_floating else 0, kind)
            )
            there = tf.size(row[name].flat_values) > 0
            columns[name] = tf.cond(there, lambda n=name: row[n].flat_values, lambda m=missing: m)
        return columns

    rows = read_columns(pattern, spec, of_events)
    users, user = _by_frequency(rows["user"])
    items, item = _by_frequency(rows["item"])
    order = np.lexsort((rows["row"], rows["timestamp"], user))
    weight = rows[WEIGHT]
    events = EventLog(
        user=user[order],
        item=item[order],
        session=np.zeros(len(order), np.int64),
        weight=None if np.isnan(weight).all() else weight[order],
        **{name: rows[name][order] for name in _VALUES if name != WEIGHT},
    )
    return SourceDomain(rows["shared"][0].decode(), users, items, events)


def _by_frequency(ids: np.ndarray) -> tuple[Entities, np.ndarray]:
    """The distinct ids, most frequent first, and the index of every one of [E]."""
    distinct, inverse, counts = np.unique(
        ids.astype(object), return_inverse=True, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")
    index = np.empty(len(distinct), np.int64)
    index[order] = np.arange(len(distinct)) + FIRST_TOKEN
    return Entities(distinct[order], len(distinct), {}, {}, {}), index[inverse]
