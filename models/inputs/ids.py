"""Ids and vocabularies: few of them as objects, many as one text, and how either is looked up.

A million ids as Python has them take some 60 MB, and as many in a hash table of TensorFlow's.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import tensorflow as tf

from models.inputs.columns import ROWS_AT_ONCE, Column
from models.inputs.preprocessing import FIRST_TOKEN, UNKNOWN, hashed
from models.names.errors import DataError

MANY = 1 << 20
"""Ids up to which they are objects, and look-ups hash tables."""
_PIECE = 1 << 24  # bytes of a file that are read at once
_TAKEN = 1 << 16  # ids that are put in another order at a time
_A_BUCKET = 8  # ids, in the mean
_SALTS = 16
_HASH_BITS = 31  # of `hashed`


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
        return cls._of(
            (
                np.frombuffer(b"".join(part), np.uint8),
                np.fromiter(map(len, part), np.int64, len(part)),
            )
            for part in parts
        )

    @classmethod
    def _of(cls, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> "Ids":
        """Of the texts of the parts, and how long each id in them is."""
        text, ends, total = Column(np.uint8), Column(np.int64), 0
        ends.append(np.zeros(1, np.int64))
        for part, lengths in parts:
            text.append(part)
            ends.append(total + np.cumsum(lengths))
            total += len(part)
        return cls(text.array(), ends.array())

    def take(self, places: np.ndarray) -> "Ids":
        """The ids at [M] places, in that order."""

        def part(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            first, lengths = self._ends[places], self._ends[places + 1] - self._ends[places]
            end = np.cumsum(lengths)
            # Of every byte of the new text its place in the old one.
            byte = np.arange(lengths.sum()) + np.repeat(first - end + lengths, lengths)
            return self._text[byte], lengths

        starts = range(0, len(places), _TAKEN)
        return self._of(part(places[start : start + _TAKEN]) for start in starts)

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
    """Finds the index of an id among many, in stock operations: 4.5 bytes an id, or 8.5.

        hash = `hashed(id)`, 31 bits        bucket = another, salted hash, below N / 8

    The ids of a bucket lie side by side, by their hashes, among which halving finds the one. So of
    an id its hash is kept, an eighth of where a bucket ends and, unless the ids are held in this
    order (`bucket_order`), its place.

    Another id is taken for one of them with a probability of 8 / 2^31, whatever N is. Two of them
    have bucket and hash in common with one of about N / 2^29, 1 in 18 of 30 million: then the next
    salt is taken.

    Args:
        ids: no two alike; place p has index p + 2.

    Raises:
        DataError: two ids are alike.

    Attributes:
        hashes: [N] int32, of the ids in their order.
    """

    def __init__(self, ids: Sequence[bytes] | np.ndarray | Ids):
        super().__init__()
        key, order, self._salt = _sorted_keys(ids)
        self._size, self._buckets = len(ids), _buckets(ids)
        self._rest: IdIndex | None = None
        ends = np.searchsorted(key, np.arange(self._buckets + 1) << _HASH_BITS).astype(np.int32)
        self._steps = int(np.diff(ends).max() - 1).bit_length()
        hashes = (key & ((1 << _HASH_BITS) - 1)).astype(np.int32)
        self._order = None
        if order is not None:
            self._order = tf.Variable(order.astype(np.int32), trainable=False, name="order")
            in_order = np.empty_like(hashes)
            in_order[order] = hashes
            hashes = in_order
        self._ends = tf.Variable(ends, trainable=False, name="ends")
        self.hashes = tf.Variable(hashes, trainable=False, name="hashes")

    def append(self, ids: Sequence[bytes] | np.ndarray) -> None:
        """Finds besides [M] others, which it finds none of: place p has index N + p + 2."""
        self._rest = IdIndex(ids)

    def lookup(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor | tf.RaggedTensor:
        """Ids (strings) -> int64 indices of the same shape; 1 for one that is not there."""
        if isinstance(ids, tf.RaggedTensor):
            return ids.with_flat_values(self.lookup(ids.flat_values))
        flat = tf.reshape(ids, [-1])
        bucket, wanted = _bucket(flat, self._buckets, self._salt), hashed(flat)
        begin, end = tf.gather(self._ends, bucket), tf.gather(self._ends, bucket + 1)
        # The last of the bucket whose hash is not above the one that is wanted.
        place, last = tf.minimum(begin, self._size - 1), tf.maximum(end - 1, 0)
        for step in reversed(range(self._steps)):
            beyond = tf.minimum(place + (1 << step), last)
            place = tf.where(self._hash_at(beyond) <= wanted, beyond, place)
        known = (begin < end) & (self._hash_at(place) == wanted)
        index = tf.where(known, self._id_at(place) + FIRST_TOKEN, UNKNOWN)
        index = tf.reshape(tf.cast(index, tf.int64), tf.shape(ids))
        if self._rest is None:
            return index
        behind = self._rest.lookup(ids)
        behind = tf.where(behind == UNKNOWN, behind, behind + self._size)
        return tf.where(index == UNKNOWN, behind, index)

    def _id_at(self, place: tf.Tensor) -> tf.Tensor:
        """Places in the order of the buckets -> places in that of the ids."""
        return place if self._order is None else tf.gather(self._order, place)

    def _hash_at(self, place: tf.Tensor) -> tf.Tensor:
        return tf.gather(self.hashes, self._id_at(place))


def index_of(ids: Sequence[bytes] | np.ndarray | Ids) -> tf.lookup.StaticHashTable | IdIndex:
    """Makes the look-up of ids: place p -> index p + 2, and 1 for an id that is not there.

    Raises:
        DataError: two of many ids are alike.
    """
    if len(ids) > MANY:
        return IdIndex(ids)
    index = tf.range(FIRST_TOKEN, FIRST_TOKEN + len(ids), dtype=tf.int64)
    values = tf.constant(np.asarray(ids, object), tf.string)
    initializer = tf.lookup.KeyValueTensorInitializer(values, index)
    return tf.lookup.StaticHashTable(initializer, default_value=UNKNOWN)


def bucket_order(ids: Sequence[bytes] | np.ndarray | Ids) -> np.ndarray:
    """[N] places of ids: the order in which an `IdIndex` of them takes the least.

    Raises:
        DataError: two ids are alike.
    """
    _, order, _ = _sorted_keys(ids)
    return np.arange(len(ids)) if order is None else order


def _sorted_keys(
    ids: Sequence[bytes] | np.ndarray | Ids,
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Bucket and hash of [N] ids, int64, ascending; their places, None: as they are; the salt."""
    for salt in range(_SALTS):
        key, begin = np.empty(len(ids), np.int64), 0
        for piece in pieces(ids):
            text = tf.constant(piece, tf.string)
            bucket = _bucket(text, _buckets(ids), salt).numpy()
            key[begin : begin + len(piece)] = bucket << _HASH_BITS | hashed(text).numpy()
            begin += len(piece)
        order = None
        if not _ascends(key):
            order = np.argsort(key)
            key = key[order]
        if order is None or _ascends(key):
            return key, order, salt
    raise DataError(
        f"{len(ids):,} ids cannot be told apart: two of them have the same hashes by each of "
        f"{_SALTS} salts; required: ids of which none is there twice"
    )


def _ascends(key: np.ndarray) -> bool:
    return bool(np.all(key[1:] > key[:-1]))


def _buckets(ids: Sequence[bytes] | np.ndarray | Ids) -> int:
    return max(1, len(ids) // _A_BUCKET)


def _bucket(ids: tf.Tensor, buckets: int, salt: int) -> tf.Tensor:
    return tf.strings.to_hash_bucket_strong(ids, buckets, [salt, 0])
