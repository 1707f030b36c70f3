"""Ids and vocabularies: few of them as objects, many as one text, and how either is looked up.

A million ids as Python has them take some 60 MB, and as many in a hash table of TensorFlow's.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import tensorflow as tf

from models.inputs.columns import ROWS_AT_ONCE, Column
from models.inputs.preprocessing import FIRST_TOKEN, UNKNOWN

MANY = 1 << 20
"""Ids up to which they are objects, and look-ups hash tables."""
_PIECE = 1 << 24  # bytes of a file that are read at once
_KEYS = 2**63 - 1


class Ids:
    """Many ids as one text, which lies in a file where it is large; see `Column`.

    No `Sequence`, of which TensorFlow would go through every element in search of variables.

    Args:
        text: [bytes] uint8.
        ends: [N + 1] int64: where in the text each id begins, and the end.
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray):
        self._text, self._ends = text, ends

    @classmethod
    def of(cls, parts: Iterable[Sequence[bytes]]) -> "Ids":
        """Holds ids that are told a part at a time."""
        text, ends, total = Column(np.uint8), Column(np.int64), 0
        ends.append(np.zeros(1, np.int64))
        for part in parts:
            text.append(np.frombuffer(b"".join(part), np.uint8))
            ends.append(total + np.cumsum(np.fromiter(map(len, part), np.int64, len(part))))
            total += sum(map(len, part))
        return cls(text.array(), ends.array())

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """What they are held as: `text` and `ends`."""
        begin, end = self._ends[0], self._ends[-1]
        return self._text[begin:end], self._ends - begin

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, key: int) -> bytes: ...
    @overload
    def __getitem__(self, key: slice) -> "Ids": ...
    @overload
    def __getitem__(self, key: np.ndarray) -> np.ndarray: ...
    def __getitem__(self, key: int | slice | np.ndarray) -> "bytes | Ids | np.ndarray":
        if isinstance(key, np.ndarray):
            return np.array([self[place] for place in key.tolist()], object)
        if not isinstance(key, slice):
            place = range(len(self))[key]
            begin, end = self._ends[place : place + 2]
            return self._text[begin:end].tobytes()
        begin, end, step = key.indices(len(self))
        if step != 1:
            raise ValueError(f"ids are cut without steps; received {key}")
        return Ids(self._text, self._ends[begin : max(begin, end) + 1])

    def pieces(self) -> Iterator[list[bytes]]:
        """Yields them as lists, one after the other."""
        for begin in range(0, len(self), ROWS_AT_ONCE):
            ends = self._ends[begin : begin + ROWS_AT_ONCE + 1].tolist()
            text, first = self._text[ends[0] : ends[-1]].tobytes(), ends[0]
            yield [text[a - first : b - first] for a, b in itertools.pairwise(ends)]

    def __iter__(self) -> Iterator[bytes]:
        return itertools.chain.from_iterable(self.pieces())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        found = np.empty(len(self), object)
        found[:] = list(self)
        return found


def pieces(ids: Sequence[bytes] | Ids) -> Iterator[Sequence[bytes]]:
    """Yields ids, however they are held, a part at a time."""
    return ids.pieces() if isinstance(ids, Ids) else iter([ids])


def held(parts: Iterable[Sequence[bytes]]) -> list[bytes] | Ids:
    """Holds ids that are told a part at a time: a list of few, `Ids` of many."""
    waiting, few = iter(parts), list[bytes]()
    for part in waiting:
        few.extend(part)
        if len(few) > MANY:
            return Ids.of(itertools.chain([few], waiting))
    return few


def lines(path: str) -> Iterator[list[bytes]]:
    """Yields the lines of a file, without their breaks, a part at a time."""
    rest = b""
    with tf.io.gfile.GFile(path, "rb") as file:
        while part := file.read(_PIECE):
            *whole, rest = (rest + part).split(b"\n")
            yield whole
    if rest:
        yield [rest]


class IdIndex(tf.Module):
    """Finds the index of an id among many, in stock operations: 12 bytes an id.

        key = hash of the id, below 2^63 - 1        found by halving among the sorted keys

    Another id has the key of one of N with a probability of N / 2^63.

    Args:
        keys: [N] int64, ascending, no two alike.
        index: [N] int32.
    """

    def __init__(self, keys: np.ndarray, index: np.ndarray):
        super().__init__()
        self._size = len(keys)
        self._keys = tf.Variable(keys, trainable=False, name="keys")
        self._index = tf.Variable(index, trainable=False, name="index")

    def lookup(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor | tf.RaggedTensor:
        """Ids (strings) -> int64 indices of the same shape; 1 for one that is not there."""
        if isinstance(ids, tf.RaggedTensor):
            return ids.with_flat_values(self.lookup(ids.flat_values))
        key = tf.reshape(_key(ids), [-1])
        place = tf.minimum(tf.searchsorted(self._keys, key), self._size - 1)
        index = tf.cast(tf.gather(self._index, place), tf.int64)
        known = tf.gather(self._keys, place) == key
        return tf.reshape(tf.where(known, index, UNKNOWN), tf.shape(ids))


def index_of(ids: Sequence[bytes] | np.ndarray | Ids) -> tf.lookup.StaticHashTable | IdIndex:
    """Makes the look-up of ids: place p -> index p + 2, and 1 for an id that is not there."""
    if len(ids) > MANY:
        key = np.empty(len(ids), np.int64)
        begin = 0
        for piece in pieces(ids):
            key[begin : begin + len(piece)] = _key(tf.constant(piece, tf.string))
            begin += len(piece)
        order = np.argsort(key)
        key = key[order]
        if np.all(key[1:] > key[:-1]):
            return IdIndex(key, (order + FIRST_TOKEN).astype(np.int32))
    index = tf.range(FIRST_TOKEN, FIRST_TOKEN + len(ids), dtype=tf.int64)
    values = tf.constant(np.asarray(ids, object), tf.string)
    initializer = tf.lookup.KeyValueTensorInitializer(values, index)
    return tf.lookup.StaticHashTable(initializer, default_value=UNKNOWN)


def _key(ids: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_hash_bucket_fast(ids, _KEYS)
