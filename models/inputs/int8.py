"""Tables of embeddings in bytes: what the export of a large vocabulary is made of.

    scale = max |row| / 127, rounded up to bfloat16      of a row, or of a few narrow ones together
    byte  = round(row / scale)                           so that |byte scale - row| <= scale / 2

A scale is 2 bytes, so that at least `SHARED` numbers share one: a table is then at most
1/4 + 2 / (4 SHARED) of its size. A number that is exactly zero stays so.
"""

from typing import Any

import numpy as np
import tensorflow as tf

SHARED = 16
"""Numbers that share a scale at least."""
_PIECE = 1 << 20  # numbers that are computed with at once
_BLOCK = 1 << 19  # numbers of a table that are floats at a time: they fit a core's cache


def rows_a_scale(width: int) -> int:
    """How many rows of so many numbers share a scale."""
    return -(-SHARED // width)


def quantise(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stores a table in bytes.

    Args:
        values: [N, D] float32.

    Returns:
        [N, D] int8; and the scales, [ceil(N / rows_a_scale(D))] uint16: the bits of a bfloat16.
    """
    rows, width = values.shape
    together = rows_a_scale(width)
    bytes_ = np.empty([rows, width], np.int8)
    scales = np.empty([-(-rows // together)], np.uint16)
    piece = together * max(1, _PIECE // (width * together))
    for start in range(0, rows, piece):
        part = np.asarray(values[start : start + piece], np.float32)
        groups = slice(start // together, -(-(start + len(part)) // together))
        largest = np.maximum.reduceat(np.abs(part).max(axis=1), np.arange(0, len(part), together))
        bits = (largest / np.float32(127)).astype(np.float32).view(np.uint32)
        scales[groups] = (bits + np.uint32(0xFFFF)) >> np.uint32(16)  # up: none is beyond 127
        scale = np.repeat(_floats(scales[groups]), together)[: len(part), np.newaxis]
        bytes_[start : start + len(part)] = np.rint(part / np.where(scale > 0, scale, 1))
    return bytes_, scales


def dequantise(bytes_: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """What `quantise` has stored, [N, D] float32."""
    rows, width = bytes_.shape
    return bytes_ * np.repeat(_floats(scales), rows_a_scale(width))[:rows, np.newaxis]


def _floats(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


class Int8Table(tf.Module):
    """A table [N, D] in bytes, in stock operations.

    Wherever a tensor is wanted it is one, the whole table in float32.

    Args:
        values: [N, D] float32.

    Attributes:
        shape: of the table.
        dtype: of its numbers, where they are looked up: float32.
        saved: bytes fewer than the table had.
    """

    def __init__(self, values: np.ndarray):
        super().__init__()
        bytes_, scales = quantise(values)
        self.shape, self.dtype = tf.TensorShape(values.shape), tf.float32
        self.saved = 4 * bytes_.size - bytes_.nbytes - scales.nbytes
        self._rows_a_scale = rows_a_scale(values.shape[1])
        self._bytes = tf.Variable(bytes_, trainable=False, name="bytes")
        floats = tf.bitcast(tf.constant(scales), tf.bfloat16)
        self._scales = tf.Variable(floats, trainable=False, name="scales")

    # By these two Keras knows what it has to let go of when a layer's table is replaced.
    @property
    def trainable_weights(self) -> list[tf.Variable]:
        """None: it is not learnt."""
        return []

    @property
    def non_trainable_weights(self) -> list[tf.Variable]:
        """What it is stored in."""
        return [self._bytes, self._scales]

    def rows(self, index: tf.Tensor) -> tf.Tensor:
        """Looks rows up: [...] integers -> [..., D] float32."""
        group = index // tf.cast(self._rows_a_scale, index.dtype)
        scale = tf.cast(tf.gather(self._scales, group), tf.float32)
        return tf.cast(tf.gather(self._bytes, index), tf.float32) * scale[..., tf.newaxis]

    def products(self, vectors: tf.Tensor) -> tf.Tensor:
        """Multiplies vectors with all rows: [B, D] float32 -> [B, N].

        The bytes become floats a block of rows at a time, and the scale of a row is multiplied with
        what comes out.
        """
        rows, width = self.shape
        size = max(1, _BLOCK // width)
        blocks, bytes_ = -(-rows // size), tf.convert_to_tensor(self._bytes)

        def block(number: tf.Tensor, found: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            part = tf.cast(bytes_[number * size : (number + 1) * size], tf.float32)
            return number + 1, found.write(number, tf.matmul(part, vectors, transpose_b=True))

        found = tf.TensorArray(tf.float32, blocks, element_shape=[None, None], infer_shape=False)
        _, found = tf.while_loop(lambda number, _: number < blocks, block, (0, found))
        return tf.transpose(found.concat()) * self._scale()

    def _scale(self) -> tf.Tensor:
        """[N] float32, of every row."""
        return tf.repeat(tf.cast(self._scales, tf.float32), self._rows_a_scale)[: self.shape[0]]

    def numpy(self) -> np.ndarray:
        """The whole table, [N, D] float32."""
        return tf.convert_to_tensor(self).numpy()

    def __tf_tensor__(self, dtype: tf.DType | None = None, name: str | None = None) -> tf.Tensor:
        whole = tf.cast(self._bytes, tf.float32) * self._scale()[:, tf.newaxis]
        return tf.cast(whole, dtype or tf.float32, name=name)

    def __getitem__(self, key: Any) -> tf.Tensor:
        return tf.convert_to_tensor(self)[key]


def products(vectors: tf.Tensor, table: tf.Tensor | Int8Table) -> tf.Tensor:
    """Multiplies vectors [B, D] with the rows of a table [N, D], in bytes or not: [B, N]."""
    if isinstance(table, Int8Table):
        return table.products(vectors)
    return tf.matmul(vectors, table, transpose_b=True)


def take(table: tf.Tensor | Int8Table, index: tf.Tensor) -> tf.Tensor:
    """Looks rows of a table [N, D] up, in bytes or not: [...] integers -> [..., D] float32."""
    return table.rows(index) if isinstance(table, Int8Table) else tf.gather(table, index)
