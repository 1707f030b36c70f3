"""The schema of the built examples, read from any file system, and fields as models see them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import tensorflow as tf
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from models.inputs.ids import IdIndex, Ids
from models.inputs.preprocessing import FIRST_TOKEN
from models.names.features import CATEGORICAL, ID, NUMERIC


def read_schema(path: str) -> schema_pb2.Schema:
    """Reads a text-format schema."""
    with tf.io.gfile.GFile(path) as file:
        return text_format.Parse(file.read(), schema_pb2.Schema())


@dataclass(frozen=True)
class Field:
    """One input column as a model sees it.

    Attributes:
        name: the column.
        entity: `user`, `item` or `context`.
        kind: `id`, `categorical`, `multivalued`, `text`, `numeric` or `document`.
        dtype: of the raw values; a request gives numbers as float32, NaN where missing.
        listed: whether a request gives a list of raw values a row (a text is one value and many
            indices).
        tokens: what the indices from 2 on stand for, for aligning embedding rows at a warm start.
        hashed: there is no vocabulary: the indices from 2 on are hashes
            (`models.inputs.preprocessing.hashed`).
        table: of many ids their look-up, which has the hashes of the tokens.
    """

    name: str
    entity: str
    kind: str
    dtype: tf.DType
    listed: bool
    tokens: Sequence[bytes] | Ids
    hashed: bool = False
    table: IdIndex | None = None

    @property
    def size(self) -> int:
        """Number of distinct indices, missing and unknown included."""
        return FIRST_TOKEN + len(self.tokens)

    @property
    def single(self) -> bool:
        """Whether a row holds at most one value."""
        return self.kind in (ID, CATEGORICAL, NUMERIC)


def raw_signature(fields: Iterable[Field]) -> dict[str, tf.TensorSpec]:
    """The inputs of a signature that takes raw features: [B] or, of several values, [B, L].

    They are strings, "" where missing, or float32 numbers, NaN where missing.
    """
    return {
        field.name: tf.TensorSpec(
            [None, None] if field.listed else [None],
            tf.string if field.dtype == tf.string else tf.float32,
            name=field.name,
        )
        for field in fields
    }


def present(values: tf.Tensor, dtype: tf.DType) -> tf.SparseTensor:
    """The values of a request or a row that are not missing: sparse [B, L] of the raw type."""
    matrix = values[:, tf.newaxis] if values.shape.rank == 1 else values
    if matrix.dtype == tf.string:
        there = matrix != ""
    else:
        there = ~tf.math.is_nan(matrix) if matrix.dtype.is_floating else tf.ones_like(matrix, bool)
    # Each to the left of its row: `to_sparse` of ragged rows, in a tenth of its ops.
    place, count = tf.where(there), tf.cumsum(tf.cast(there, tf.int64), axis=1)
    kept = tf.gather_nd(matrix, place)
    longest = tf.reduce_max(tf.pad(count, [[1, 0], [1, 0]]))
    return tf.SparseTensor(
        tf.stack([place[:, 0], tf.gather_nd(count, place) - 1], axis=1),
        kept if kept.dtype == dtype else tf.cast(kept, dtype),
        tf.stack([tf.shape(matrix, tf.int64)[0], longest]),
    )
