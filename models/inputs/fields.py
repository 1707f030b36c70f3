"""Fields as rows of one embedding table.

The rankers of the feature-interaction family share them.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.score_data import Field, Inputs
from models.inputs.token_layers import TokenEmbedding


class FieldRows:
    """Gives every index of every field a row of its own in one table.

    So one look-up serves all fields.

    A multi-valued field weighs each of its n values 1 / n, so x sums to 1 over a field that has any
    value; padding weighs 0. A missing single value is a value of its own, with a row that train
    teaches.

    Args:
        fields: the fields, in the order in which `pool` returns them.
    """

    def __init__(self, fields: Sequence[Field]):
        self.fields = tuple(fields)
        sizes = [field.size for field in self.fields]
        # Two rows stay unused, so that a token embedding's own layout (rows from 2 on have tokens)
        # holds.
        self.offsets = dict(
            zip(
                [field.name for field in self.fields],
                np.cumsum([FIRST_TOKEN, *sizes[:-1]]),
                strict=True,
            )
        )
        self.count = FIRST_TOKEN + sum(sizes)
        self.tokens = [
            field.name.encode() + b"=" + token
            for field in self.fields
            for token in (b"<missing>", b"<unknown>", *field.tokens)
        ]
        self._single = [field for field in self.fields if field.single]
        self._multiple = [field for field in self.fields if not field.single]

    def __call__(self, inputs: Inputs) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns [B, n] int32 rows and [B, n] float32 weights x.

        Single values come first, then each multi-valued field.
        """
        offsets = tf.constant([self.offsets[field.name] for field in self._single], tf.int32)
        parts = (
            [tf.stack([inputs[field.name] for field in self._single], axis=1) + offsets]
            if self._single
            else []
        )
        weights = [tf.ones(tf.shape(parts[0]))] if parts else []
        for field in self._multiple:
            values = inputs[field.name]
            present = tf.cast(values > 0, tf.float32)
            parts.append(values + tf.constant(self.offsets[field.name], tf.int32))
            weights.append(
                tf.math.divide_no_nan(present, tf.reduce_sum(present, axis=1, keepdims=True))
            )
        return tf.concat(parts, axis=1), tf.concat(weights, axis=1)

    def pool(self, weighted: tf.Tensor, inputs: Inputs) -> tf.Tensor:
        """Sums [B, n, k] weighted vectors within each field: [B, fields, k].

        Single-valued fields come first.
        """
        first, *others = tf.split(weighted, self._sizes(inputs), axis=1)
        return tf.concat(
            [first, *(tf.reduce_sum(part, axis=1, keepdims=True) for part in others)], axis=1
        )

    def by_field(self, values: tf.Tensor, inputs: Inputs) -> dict[str, tf.Tensor]:
        """Takes [B, n] values apart: field -> [B, L]."""
        first, *others = tf.split(values, self._sizes(inputs), axis=1)
        single = {
            field.name: first[:, number : number + 1] for number, field in enumerate(self._single)
        }
        return {
            **single,
            **{field.name: part for field, part in zip(self._multiple, others, strict=True)},
        }

    def sums(self, values: tf.Tensor, inputs: Inputs) -> dict[str, tf.Tensor]:
        """Sums [B, n] values within each field: field -> [B]."""
        parts = self.by_field(values, inputs)
        return {name: tf.reduce_sum(part, axis=1) for name, part in parts.items()}

    def fingerprints(self) -> np.ndarray:
        """[count] int64 hashes of the tokens, the same whatever the vocabulary's order."""
        digests = [hashlib.blake2b(token, digest_size=8).digest() for token in self.tokens]
        return np.concatenate(
            [
                np.zeros(FIRST_TOKEN, np.int64),
                np.frombuffer(b"".join(digests), "<i8").astype(np.int64),
            ]
        )

    def embedding(self, dimension: int, stddev: float, name: str) -> TokenEmbedding:
        """Returns a table of `count` rows, normal with `stddev`.

        The rows of missing and unknown values start at zero.

        In mixed precision too the look-ups stay float32: sums of many small terms, which a
        network's layers cast themselves.
        """
        return TokenEmbedding(
            self.tokens,
            self.count,
            dimension,
            embeddings_initializer=_Initial(self, stddev),
            dtype="float32",
            name=name,
        )

    def _sizes(self, inputs: Inputs) -> list:
        return [len(self._single), *(tf.shape(inputs[field.name])[1] for field in self._multiple)]


class _Initial(tf.keras.initializers.Initializer):
    """Normal rows, but zeros for missing and unknown values.

    Where train never has one, it then says nothing.
    """

    def __init__(self, rows: FieldRows, stddev: float):
        self._zero = [
            rows.offsets[field.name] + index
            for field in rows.fields
            for index in range(FIRST_TOKEN)
        ]
        self._stddev = stddev

    def __call__(self, shape, dtype=None, **kwargs):
        values = tf.random.normal(shape, stddev=self._stddev, dtype=dtype or tf.float32)
        zeros = tf.zeros([len(self._zero), shape[1]], values.dtype)
        return tf.tensor_scatter_nd_update(values, [[row] for row in self._zero], zeros)


def row_penalty(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Half the squared norm of the looked-up rows [B, n, k], a scalar mean over B.

    Padding (weight [B, n, 1] of 0) is left out.

    Regularising what a row of data uses, not the table: a weight decays as often as it is learnt.
    """
    present = tf.cast(weights > 0, tf.float32)
    return 0.5 * tf.reduce_mean(
        tf.reduce_sum(tf.cast(values, tf.float32) ** 2 * present, axis=[1, 2])
    )
