"""What the items of a catalogue are like, in the words of their table: for rules of a request."""

import itertools
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from models.inputs.columns import read_columns, scatter_rows
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN

_PREFIX = "item_"
_ID = "item_id"
_TYPES = {"bytes_list": tf.string, "int64_list": tf.int64, "float_list": tf.float32}
# Rows that are looked at for the columns there are: one that all of them miss is none.
_LOOKED_AT = 100_000
# A column with more values than that tells items apart rather than describe them.
_MOST_VALUES = 100_000


@dataclass(frozen=True)
class ItemColumns:
    """Columns of the items, raw, in the catalogue's order.

    Attributes:
        values: column -> ragged [N, None] strings; an empty row misses it.
        numbers: column -> [N] float64, NaN where it is missing.
    """

    values: dict[str, tf.RaggedTensor]
    numbers: dict[str, np.ndarray]


def read_item_columns(data: TrainingData) -> ItemColumns:
    """Reads the items' table: numbers, and texts of which there are not too many.

    Args:
        data: what a model is trained on; items that train has not seen have their columns too, and
            models that read no features as well.
    """
    pattern = data.files("items")
    types = _types(pattern)
    if not types:
        return ItemColumns({}, {})
    spec = {
        name: tf.io.RaggedFeature(kind, row_splits_dtype=tf.int64) for name, kind in types.items()
    }

    def read(row):
        return {"index": data.item_table.lookup(row.pop(_ID)), **row}

    rows = read_columns(pattern, {_ID: tf.io.FixedLenFeature([], tf.string), **spec}, read)
    # Of a duplicate, which the data check has named, the first row counts, as everywhere.
    index, first = np.unique(rows["index"], return_index=True)
    known = index >= FIRST_TOKEN
    first, place = first[known], index[known] - FIRST_TOKEN
    values, numbers = {}, {}
    for column, kind in sorted(types.items()):
        found = scatter_rows(tf.gather(rows[column], first), place, len(data.items))
        name = column.removeprefix(_PREFIX)
        if kind == tf.string:
            if int(tf.size(tf.unique(found.flat_values)[0])) <= _MOST_VALUES:
                values[name] = found
            continue
        has = np.flatnonzero(found.row_lengths() > 0)
        numbers[name] = np.full(len(data.items), np.nan)
        numbers[name][has] = found.flat_values.numpy()[found.row_starts().numpy()[has]]
    return ItemColumns(values, numbers)


def _types(pattern: str) -> dict[str, tf.DType]:
    """Column -> type of what the rows hold beside the id."""
    files = sorted(tf.io.gfile.glob(pattern))
    rows = tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator() if files else iter(())
    types: dict[str, tf.DType] = {}
    for row in itertools.islice(rows, _LOOKED_AT):
        for name, feature in tf.train.Example.FromString(row).features.feature.items():
            kind = feature.WhichOneof("kind")
            if name != _ID and kind is not None and getattr(feature, kind).value:
                types.setdefault(name, _TYPES[kind])
    return types
