"""What the items of a catalogue are like, in the words of their table: for rules of a request."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from models.inputs.columns import read_columns, scatter_rows
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.names.features import CATEGORICAL, MULTIVALUED, NUMERIC

_PREFIX = "item_"


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
    """Reads the categories and numbers of the items' table, by its own names; texts are left out.

    Args:
        data: what a model is trained on; items that train has not seen have their columns too.
    """
    described = [
        feature
        for feature in data.features
        if feature.entity == "item" and feature.kind in (CATEGORICAL, MULTIVALUED, NUMERIC)
    ]
    if not described:
        return ItemColumns({}, {})
    spec = {
        feature.name: tf.io.RaggedFeature(data.raw_dtype(feature.name), row_splits_dtype=tf.int64)
        for feature in described
    }

    def read(row):
        return {"index": data.item_table.lookup(row.pop("item_id")), **row}

    rows = read_columns(
        data.files("items"), {"item_id": tf.io.FixedLenFeature([], tf.string), **spec}, read
    )
    # Of a duplicate, which the data check has named, the first row counts, as everywhere.
    index, first = np.unique(rows["index"], return_index=True)
    known = index >= FIRST_TOKEN
    first, place = first[known], index[known] - FIRST_TOKEN
    values, numbers = {}, {}
    for feature in described:
        column = scatter_rows(tf.gather(rows[feature.name], first), place, len(data.items))
        name = feature.name.removeprefix(_PREFIX)
        if feature.kind == NUMERIC:
            flat = column.flat_values.numpy().astype(np.float64)
            numbers[name] = np.full(len(data.items), np.nan)
            has = np.flatnonzero(column.row_lengths() > 0)
            numbers[name][has] = flat[column.row_starts().numpy()[has]]
        else:
            texts = column.flat_values
            values[name] = column.with_flat_values(
                texts if texts.dtype == tf.string else tf.strings.as_string(texts)
            )
    return ItemColumns(values, numbers)
