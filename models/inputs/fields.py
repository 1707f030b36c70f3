"""Fields as rows of one embedding table.

The rankers of the feature-interaction family share them.
"""

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import tensorflow as tf

from models.inputs.ids import held, pieces
from models.inputs.preprocessing import FIRST_TOKEN, hashed
from models.inputs.score_data import Field, Inputs
from models.inputs.token_layers import TokenEmbedding, ZeroRows
from models.names.errors import ConfigError
from models.names.features import CATEGORICAL, ID, MULTIVALUED

_PART = 1 << 18  # tokens that are made at once
# Of 64 bits with as many ones as zeros: what multiplies a hash.
_ODD = (-0x61C8864680B583EB, 0x2545F4914F6CDD1D)


class FieldRows:
    """Gives every index of every field a row of its own in one table.

    So one look-up serves all fields.

    A multi-valued field weighs each of its n values 1 / n, so x sums to 1 over a field that has any
    value; padding weighs 0. A missing single value is a value of its own, with a row that train
    teaches.

    Where the values of a field share `hash_rows` rows, a value is the sum of two of them, by two
    hashes of a hash h of its text, so that two values that meet in one row differ by the other:

        key = h m mod 2^64,   row = (key xor key >> 32) mod hash_rows        m: two odd numbers

    Args:
        fields: the fields, in the order in which `pool` returns them.
        hash_rows: field -> how many rows its values share. A field whose vocabulary is no larger
            has a row a value all the same.

    Raises:
        ConfigError: values share rows that have no hash: of texts and numbers; or a field without
            a vocabulary is not told how many.
    """

    def __init__(
        self, fields: Sequence[Field], hash_rows: Mapping[str, int] = MappingProxyType({})
    ):
        self.fields = tuple(fields)
        self._shared = _shared(self.fields, hash_rows)
        sizes = [
            FIRST_TOKEN + self._shared.get(field.name, len(field.tokens)) for field in self.fields
        ]
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
        self.tokens = held(
            [field.name.encode() + b"=" + token for token in part]
            for field in self.fields
            for part in ((b"<missing>", b"<unknown>"), *self._tokens_of(field))
        )
        # Of a field with a vocabulary, place -> the hash that one without has for an index.
        self._hashes = {
            field.name: _hashes(field)
            for field in self.fields
            if field.name in self._shared and field.tokens
        }
        self._single = [field for field in self.fields if field.single]
        self._multiple = [field for field in self.fields if not field.single]

    def __call__(self, inputs: Inputs) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns [B, n] int32 rows and [B, n] float32 weights x.

        Single values come first, then each multi-valued field. Where any field shares rows, the
        rows are [B, n, 2], the second 0 where a value has one alone.
        """
        parts = (
            [tf.stack([self._rows(field, inputs) for field in self._single], axis=1)]
            if self._single
            else []
        )
        weights = [tf.ones(tf.shape(parts[0])[:2])] if parts else []
        for field in self._multiple:
            present = tf.cast(inputs[field.name] > 0, tf.float32)
            parts.append(self._rows(field, inputs))
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
        # Where train never has a missing or an unknown value, it says nothing.
        begins = [self.offsets[field.name] for field in self.fields]
        untaught = [begin + row for begin in begins for row in range(FIRST_TOKEN)]
        normal = functools.partial(tf.random.normal, stddev=stddev)
        layer = _Sums if self._shared else TokenEmbedding
        return layer(
            self.tokens,
            self.count,
            dimension,
            embeddings_initializer=ZeroRows(untaught, normal),
            dtype="float32",
            name=name,
        )

    def _tokens_of(self, field: Field) -> Iterator[Iterable[bytes]]:
        """What the rows of a field stand for, in parts; those that are shared, for a hash."""
        count = self._shared.get(field.name)
        if count is None:
            return pieces(field.tokens)
        parts = (range(count)[begin : begin + _PART] for begin in range(0, count, _PART))
        return ([b"<%d of %d>" % (row, count) for row in part] for part in parts)

    def _rows(self, field: Field, inputs: Inputs) -> tf.Tensor:
        """The rows of the values of a field: [B] or [B, L]; [.., 2] where any field shares rows."""
        index, offset = inputs[field.name], tf.constant(self.offsets[field.name], tf.int32)
        if not self._shared:
            return index + offset
        if field.name not in self._shared:
            return tf.stack([index + offset, tf.zeros_like(index)], axis=-1)
        value = index
        if field.name in self._hashes:
            value = tf.gather(self._hashes[field.name], tf.maximum(index - FIRST_TOKEN, 0))
        two = shared_rows(value, self._shared[field.name]) + offset + FIRST_TOKEN
        alone = tf.stack([index + offset, tf.zeros_like(index)], axis=-1)
        return tf.where((index < FIRST_TOKEN)[..., tf.newaxis], alone, two)

    def _sizes(self, inputs: Inputs) -> list:
        return [len(self._single), *(tf.shape(inputs[field.name])[1] for field in self._multiple)]


def shared_rows(index: tf.Tensor, rows: int) -> tf.Tensor:
    """The two rows of hashed values: [...] integers -> [..., 2] int32 below `rows`."""
    key = tf.cast(index, tf.int64)[..., tf.newaxis] * tf.constant(_ODD, tf.int64)
    key = tf.bitwise.bitwise_xor(key, tf.bitwise.right_shift(key, tf.constant(32, tf.int64)))
    return tf.cast(tf.math.floormod(key, rows), tf.int32)


def _hashes(field: Field) -> tf.Tensor | tf.Variable:
    """[N] int32 hashes of the tokens of a field: of many ids those that their look-up has."""
    if field.table is None:
        parts = [hashed(tf.constant(part, tf.string)) for part in pieces(field.tokens)]
        return tf.concat(parts, axis=0)
    return field.table.hashes


def _shared(fields: Sequence[Field], hash_rows: Mapping[str, int]) -> dict[str, int]:
    """The fields whose values share rows."""
    shared = {}
    for field in fields:
        rows = hash_rows.get(field.name)
        if rows is None and field.hashed:
            raise ConfigError(
                f"hash_rows: {field.name!r} was transformed without a vocabulary; required: how "
                "many rows its values share"
            )
        if rows and field.kind not in (ID, CATEGORICAL, MULTIVALUED):
            raise ConfigError(
                f"hash_rows: {field.name!r} is {field.kind}, of which no vocabulary is large; "
                "required: an id or a category"
            )
        if rows and (field.hashed or len(field.tokens) > rows):
            shared[field.name] = rows
    return shared


class _Sums(TokenEmbedding):
    """Rows that are looked up in pairs: [..., 2] -> [..., dimension], their sums.

    A second row of 0 is none.
    """

    def call(self, index):
        first, second = tf.unstack(index, axis=-1)
        there = tf.cast(second > 0, self.compute_dtype)[..., tf.newaxis]
        return super().call(first) + there * super().call(second)


def row_penalty(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Half the squared norm of the looked-up rows [B, n, k], a scalar mean over B.

    Padding (weight [B, n, 1] of 0) is left out.

    Regularising what a row of data uses, not the table: a weight decays as often as it is learnt.
    """
    present = tf.cast(weights > 0, tf.float32)
    return 0.5 * tf.reduce_mean(
        tf.reduce_sum(tf.cast(values, tf.float32) ** 2 * present, axis=[1, 2])
    )
