"""Rows of columnar twins (`models.names.twin`), as `tf.io.parse_example` would give them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from models.names import twin
from models.names.errors import DataError

_BATCH = 1 << 16
_ARROW = {tf.string: pa.large_binary(), tf.int64: pa.int64(), tf.float32: pa.float32()}


def of(files: Sequence[str]) -> list[str]:
    """The twins of files of examples; none unless each of them has one that is still of it."""
    twins = [_of(file) for file in files]
    return [path for path in twins if path] if all(twins) else []


def _of(file: str) -> str | None:
    path = twin.path_of(file)
    if path is None or not tf.io.gfile.exists(path):
        return None
    size = tf.io.gfile.stat(file).length
    with tf.io.gfile.GFile(file, "rb") as examples:
        examples.seek(max(0, size - twin.TAIL))
        tail = examples.read()
    with twin.damage(path), _open(path) as found:
        return path if twin.is_of(found.metadata.metadata, size, tail) else None


def _open(path: str) -> pq.ParquetFile:
    if "://" not in path:
        return pq.ParquetFile(path, memory_map=True)
    # What a store holds is fetched whole: a file has about as many rows as a worker had at a time.
    with tf.io.gfile.GFile(path, "rb") as file:
        return pq.ParquetFile(pa.BufferReader(file.read()))


def signature(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What `batches` yields for a parsing spec."""
    return {name: _signature(feature) for name, feature in spec.items()}


def _signature(feature: Any) -> Any:
    if isinstance(feature, tf.io.RaggedFeature):
        return tf.RaggedTensorSpec([None, None], feature.dtype, 1, feature.row_splits_dtype)
    if isinstance(feature, tf.io.VarLenFeature):
        return tf.SparseTensorSpec([None, None], feature.dtype)
    return tf.TensorSpec([None], feature.dtype)  # no built row has a column of another shape


def batches(files: Sequence[str], spec: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the rows of twins, in their order, as dicts of tensors.

    Args:
        files: of `of`.
        spec: name -> `FixedLenFeature` of shape [], `VarLenFeature` or `RaggedFeature`.

    Raises:
        DataError: a twin is damaged, has values of another type, or lacks one that is needed.
    """
    for path in files:
        with twin.damage(path), _open(path) as file:
            wanted = [name for name in file.schema_arrow.names if name in spec]
            for batch in file.iter_batches(_BATCH, columns=wanted):
                yield {name: _parsed(path, name, batch, feature) for name, feature in spec.items()}


def _parsed(path: str, name: str, batch: pa.RecordBatch, feature: Any) -> Any:
    rows = batch.num_rows
    place = batch.schema.get_field_index(name)
    if place < 0 or pa.types.is_null(batch.column(place).type):
        values, lengths = pa.array([], _ARROW[feature.dtype]), np.zeros(rows, np.int64)
    else:
        values, lengths = _values(batch.column(place))
    if values.type != _ARROW[feature.dtype]:
        raise DataError(
            f"{path}: column {name!r}: required: {_ARROW[feature.dtype]}; received {values.type}"
        )
    tensor = _tensor(values)
    if isinstance(feature, tf.io.RaggedFeature):
        return tf.RaggedTensor.from_row_lengths(
            tensor, tf.constant(lengths, feature.row_splits_dtype), validate=False
        )
    if isinstance(feature, tf.io.VarLenFeature):
        row = np.repeat(np.arange(rows), lengths)
        within = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return tf.SparseTensor(np.stack([row, within], 1), tensor, [rows, lengths.max(initial=0)])
    return _one_each(path, name, tensor, lengths, feature)


def _one_each(
    path: str, name: str, values: tf.Tensor, lengths: np.ndarray, feature: tf.io.FixedLenFeature
) -> tf.Tensor:
    missing, default = lengths == 0, feature.default_value
    if lengths.max(initial=0) > 1 or default is None and missing.any():
        raise DataError(
            f"{path}: column {name!r}: required: one value a row; received a row of "
            f"{lengths[lengths != 1][0]}"
        )
    if not missing.any():
        return values
    padded = tf.concat([tf.cast(tf.fill([1], default), feature.dtype), values], axis=0)
    return tf.gather(padded, np.where(missing, 0, np.cumsum(~missing)))


def _values(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """All values of a column that are there, and how many each row has."""
    if pa.types.is_large_list(column.type):
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        return column.flatten(), lengths.astype(np.int64)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    return column.drop_null() if column.null_count else column, there.astype(np.int64)


def _tensor(values: pa.Array) -> tf.Tensor:
    if not pa.types.is_large_binary(values.type):
        return tf.constant(values.to_numpy(zero_copy_only=False))
    # Ids and words are there again and again: each is made a Python object once a batch.
    coded = values.dictionary_encode()
    words = coded.dictionary.to_numpy(zero_copy_only=False).astype(object)
    if not len(words):
        return tf.zeros([0], tf.string)
    return tf.gather(tf.constant(words, tf.string), coded.indices.to_numpy())
