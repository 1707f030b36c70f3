"""Columns of built examples, as arrays and ragged tensors.

A small column lies in memory. A large one lies in a file without a name, of which the operating
system keeps in memory what is read and takes away what is not, so that a log may be larger than
memory: TMPDIR says on which disk, and the file goes with the process.
"""

import contextlib
import errno
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from models.inputs import twins
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.traced import traced
from models.names.errors import DataError

_BATCH = 8192
ROWS_AT_ONCE = 1 << 18
"""Rows that are worked on at a time where a column need not be in memory as a whole."""
_HELD = 1 << 24
"""Bytes of a column that are held in memory."""
_PIECE = 1 << 24
# TensorFlow takes no other memory as its own.
_ALIGNED = 64


class Column:
    """A column that grows at its end.

    Args:
        dtype: of its values; objects, such as ids, are held in memory however many they are.
    """

    def __init__(self, dtype: Any):
        self._dtype = np.dtype(dtype)
        self._parts: list[np.ndarray] = []
        self._bytes = 0
        self._file: Any = None

    def append(self, part: np.ndarray) -> None:
        """Adds [N] values.

        Raises:
            DataError: the disk has no room for them.
        """
        part = np.ascontiguousarray(part, self._dtype)
        self._bytes += part.nbytes
        if self._dtype.hasobject or self._bytes <= _HELD:
            self._parts.append(part)
            return
        self._file = self._file or _file()
        with _room_on_disk(self._bytes):
            for held in (*self._parts, part):
                self._file.write(held.data)
        self._parts = []

    def array(self) -> np.ndarray:
        """All values; nothing is added after it."""
        if self._file is None:
            return np.concatenate(self._parts) if self._parts else np.empty(0, self._dtype)
        with _room_on_disk(self._bytes):
            self._file.flush()
        return np.memmap(self._file, self._dtype, "r+")


def room(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of zeros to be filled in, in memory or, where it is large, in a file.

    Raises:
        DataError: the disk has no room for it.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size <= _HELD:
        return np.zeros(shape, dtype)
    file = _file()
    with _room_on_disk(size):
        # Written and not only made that long: where a mapped page finds no room, the process dies.
        for begin in range(0, size, _PIECE):
            file.write(bytes(min(_PIECE, size - begin)))
        file.flush()
    return np.memmap(file, dtype, "r+", shape=shape)


def _file() -> Any:
    return tempfile.TemporaryFile(prefix="recsys-column-")


@contextlib.contextmanager
def _room_on_disk(size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DataError(
            f"{tempfile.gettempdir()} has no room for a column of the train rows; required: "
            f"{size:,} bytes and more; say TMPDIR=FOLDER for another disk"
        ) from error


def as_tensor(array: np.ndarray | tf.RaggedTensor) -> tf.Tensor | tf.RaggedTensor:
    """The array as a tensor: of a column in a file the same memory, so that nothing is copied.

    Whoever writes to such an array changes the tensor.
    """
    shares = (
        isinstance(array, np.memmap)
        and tf.executing_eagerly()
        and array.flags.c_contiguous
        and array.ctypes.data % _ALIGNED == 0
    )
    if shares:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return array if isinstance(array, tf.RaggedTensor) else tf.convert_to_tensor(array)


def take_index(values: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Gathers indices of items or users, which columns hold as int32, as int64."""
    return tf.cast(tf.gather(values, place), tf.int64)


def group_starts(column: np.ndarray) -> np.ndarray:
    """Where groups of equal values, which lie side by side, begin, and the end: [G + 1] int64."""
    if not len(column):
        return np.zeros(1, np.int64)
    changes = [
        begin + np.flatnonzero(part[1:] != part[:-1]) + 1
        for begin in range(0, len(column), ROWS_AT_ONCE)
        for part in (column[begin : begin + ROWS_AT_ONCE + 1],)
    ]
    return np.r_[0, np.concatenate(changes), len(column)]


def chunks(starts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Cuts rows into pieces of about `ROWS_AT_ONCE` that part no group.

    Args:
        starts: [G + 1] ascending: where each group begins, and the end.

    Yields:
        The first row of a piece, and the one after its last.
    """
    begin = 0
    while begin < starts[-1]:
        group = np.searchsorted(starts, begin + ROWS_AT_ONCE, side="right") - 1
        end = int(starts[group] if starts[group] > begin else starts[group + 1])
        yield begin, end
        begin = end


def read_columns(
    pattern: str, spec: Mapping[str, Any], transform: Callable[[dict], dict]
) -> dict[str, np.ndarray | tf.RaggedTensor]:
    """Reads built rows in large batches: of their columnar twins, else as tf.Example.

    Args:
        pattern: glob of gzip TFRecords.
        spec: how `tf.io.parse_example` is to parse them.
        transform: maps a parsed batch to the columns to keep.

    Returns:
        Column -> NumPy array, or RaggedTensor where the transformed column is ragged, in file
        order.
    """
    files = sorted(tf.io.gfile.glob(pattern))
    spec = dict(spec)
    found = twins.of(files)
    if found:
        function = traced(lambda row: transform(dict(row)), input_signature=[twins.signature(spec)])
        elements = function.get_concrete_function().structured_outputs
        batches = (function(batch) for batch in twins.batches(found, spec))
    else:
        batches = (
            tf.data.TFRecordDataset(files, "GZIP")
            .batch(_BATCH)
            .map(
                lambda record: transform(tf.io.parse_example(record, spec)),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
        )
        elements = batches.element_spec
    columns = {
        name: _Ragged(element.dtype)
        if isinstance(element, (tf.RaggedTensor, tf.RaggedTensorSpec))
        else Column(element.dtype.as_numpy_dtype)
        for name, element in elements.items()
    }
    for batch in batches:
        for name, column in columns.items():
            part = batch[name]
            column.append(part if isinstance(column, _Ragged) else part.numpy())
    return {name: column.array() for name, column in columns.items()}


class _Ragged:
    """A ragged column that grows; what is not numbers is held in memory."""

    def __init__(self, dtype: tf.DType):
        self._dtype = dtype
        self._values, self._lengths = Column(dtype.as_numpy_dtype), Column(np.int64)

    def append(self, part: tf.RaggedTensor) -> None:
        self._values.append(part.flat_values.numpy())
        self._lengths.append(part.row_lengths().numpy())

    def array(self) -> tf.RaggedTensor:
        values, lengths = self._values.array(), self._lengths.array()
        splits = room((len(lengths) + 1,), np.int64)
        np.cumsum(lengths, out=splits[1:])
        flat = tf.constant(values, tf.string) if self._dtype == tf.string else as_tensor(values)
        return tf.RaggedTensor.from_row_splits(flat, as_tensor(splits), validate=False)


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
    """The rows that `index` names, in its order, a piece at a time."""
    array = isinstance(column, np.ndarray)
    taken = Column(column.dtype) if array else _Ragged(column.dtype)
    for begin in range(0, len(index), ROWS_AT_ONCE):
        rows = index[begin : begin + ROWS_AT_ONCE]
        taken.append(column[rows] if array else tf.gather(column, rows))
    return taken.array()


def drop_unknown(index: tf.RaggedTensor) -> tf.RaggedTensor:
    """Leaves out indices 0 and 1 of a ragged [B, None] int64 tensor."""
    return choose(index, index >= FIRST_TOKEN)


def choose(
    values: tf.Tensor | tf.RaggedTensor, mask: tf.Tensor | tf.RaggedTensor
) -> tf.RaggedTensor:
    """The values that a mask chooses: `tf.ragged.boolean_mask` in a tenth of its ops.

    Args:
        values: [B, L], or ragged [B, None].
        mask: bool, the same.

    Returns:
        Ragged [B, None].
    """
    if not isinstance(values, tf.RaggedTensor):
        lengths = tf.reduce_sum(tf.cast(mask, tf.int64), axis=1)
        chosen = tf.gather_nd(values, tf.where(mask))
        return tf.RaggedTensor.from_row_lengths(chosen, lengths, validate=False)
    there = mask.flat_values
    before = tf.pad(tf.cumsum(tf.cast(there, values.row_splits.dtype)), [[1, 0]])
    return tf.RaggedTensor.from_row_splits(
        tf.gather(values.flat_values, tf.squeeze(tf.where(there), axis=1)),
        tf.gather(before, values.row_splits),
        validate=False,
    )


def scatter_rows(values: tf.RaggedTensor, index: np.ndarray, count: int) -> tf.RaggedTensor:
    """Places ragged rows at `index` of a ragged tensor with `count` rows; the others stay empty."""
    order = np.full(count, len(index), np.int64)
    order[np.asarray(index)] = np.arange(len(index))
    padded = tf.concat(
        [values, tf.ragged.constant([[]], dtype=values.dtype, ragged_rank=1)], axis=0
    )
    return tf.gather(padded, order)
