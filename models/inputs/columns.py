"""Columns of built examples, as arrays and ragged tensors."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from models.inputs.preprocessing import FIRST_TOKEN

_BATCH = 8192


def read_columns(pattern: str, spec: Mapping, transform) -> dict[str, np.ndarray | tf.RaggedTensor]:
    """Reads gzip TFRecords of tf.Example in large batches.

    `transform` maps a parsed batch to the columns to keep.

    Returns:
        Column -> NumPy array, or RaggedTensor where the transformed column is ragged, in file
        order.
    """
    dataset = (
        tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(pattern)), "GZIP")
        .batch(_BATCH)
        .map(
            lambda record: transform(tf.io.parse_example(record, dict(spec))),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    )
    batches = list(dataset)
    columns = {}
    for name, element in dataset.element_spec.items():
        parts = [batch.pop(name) for batch in batches]
        if isinstance(element, tf.RaggedTensorSpec):
            columns[name] = (
                tf.concat(parts, axis=0)
                if parts
                else tf.ragged.constant([], dtype=element.dtype, ragged_rank=1)
            )
        else:
            empty = np.array([], element.dtype.as_numpy_dtype)
            columns[name] = np.concatenate([part.numpy() for part in parts]) if parts else empty
    return columns


def to_ragged(column: tf.SparseTensor) -> tf.RaggedTensor:
    """A sparse [B, L] column as a ragged one.

    Its rows are filled from the left, as Transform gives them.

    `RaggedTensor.from_sparse` checks that in-graph at every call, with some thirty ops a column.
    """
    return tf.RaggedTensor.from_value_rowids(
        column.values,
        column.indices[:, 0],
        tf.cast(column.dense_shape[0], tf.int64),
        validate=False,
    )


def first_value(column: tf.RaggedTensor) -> tf.Tensor:
    """[B] the first value of every row of a ragged column of numbers, 0 where a row is empty."""
    padded = tf.concat([column.flat_values, tf.zeros([1], column.dtype)], axis=0)
    return tf.where(
        column.row_lengths() > 0, tf.gather(padded, column.row_starts()), tf.zeros([], column.dtype)
    )


def take_rows(
    column: np.ndarray | tf.RaggedTensor, index: np.ndarray
) -> np.ndarray | tf.RaggedTensor:
    return column[index] if isinstance(column, np.ndarray) else tf.gather(column, index)


def drop_unknown(index: tf.RaggedTensor) -> tf.RaggedTensor:
    """Leaves out indices 0 and 1 of a ragged [B, None] int64 tensor."""
    return tf.ragged.boolean_mask(index, index >= FIRST_TOKEN)


def scatter_rows(values: tf.RaggedTensor, index: np.ndarray, count: int) -> tf.RaggedTensor:
    """Places ragged rows at `index` of a ragged tensor with `count` rows; the others stay empty."""
    order = np.full(count, len(index), np.int64)
    order[np.asarray(index)] = np.arange(len(index))
    padded = tf.concat(
        [values, tf.ragged.constant([[]], dtype=values.dtype, ragged_rank=1)], axis=0
    )
    return tf.gather(padded, order)
