"""Shuffled batches and negatives, vectorised, in the input pipeline.

They are a function of (seed, epoch, step) alone.

Because no state is carried, a run that was killed and resumed at any step sees the batches that it
would have seen.

How well rows are shuffled: an epoch has each of them exactly once. Up to 2 million rows lie in one
window, which may come in any order, each as likely. More are cut into blocks of 2,048 neighbours,
such as all events of forty users with fifty each. The blocks may come in any order; 1,024 of them
make a window, and so do its rows. So a batch has rows of a thousand places of the log that chance
has chosen, a thousandth of it of each on average, but a user's events are all within one window.
What is read at a time lies together, and what is held is the order of a window, 8 MiB, and of the
next, however long the log is.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from models.inputs.columns import ROWS_AT_ONCE, Column, as_tensor, chunks, group_starts
from models.inputs.preprocessing import FIRST_TOKEN, UNKNOWN
from models.names.errors import DataError
from models.names.label import GROUP, WEIGHT

BLOCK = 1 << 11
"""Rows that are read together; of int32 they are two pages."""
WINDOW = 1 << 21
"""Rows that are shuffled together, at least as many as a block has."""
# Before all places, of which there are fewer: rows over all items are held in memory.
_NOWHERE = -(1 << 30)
# Seeds of the orders of blocks and windows, far from those that anyone says.
_FAR = 1 << 32


class Share(NamedTuple):
    """What one replica has of every batch: as many of its rows as the others, one after the other.

    Attributes:
        number: which of the replicas, from 0.
        of: how many there are.
    """

    number: int
    of: int

    def bounds(self, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Where the share of so many rows begins and ends; the last may have fewer, or none."""
        size = -(-rows // self.of)
        return tf.minimum(self.number * size, rows), tf.minimum((self.number + 1) * size, rows)

    def cut(self, rows: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The share's rows of a batch, and the seed of what is drawn for them.

        Args:
            rows: [B, ...] of the whole batch.
            seed: [2] int64 of the step.

        Returns:
            The rows, and [6] int64: the seed, which row of the batch is the first, how many the
            batch has, and the share's `number` and `of`.
        """
        size = tf.shape(rows, tf.int64)[0]
        begin, end = self.bounds(size)
        return rows[begin:end], tf.concat([seed, [begin, size, self.number, self.of]], axis=0)


@dataclass(frozen=True)
class Batches:
    """Endless train batches.

    A replica of several workers makes its share of every batch and nothing of the others'. Noise is
    drawn of whole batches, which costs little, and cut: so the shares are, together, the batch of
    one.

    Attributes:
        steps: of an epoch.
        rows: train rows of an epoch: positives, not negatives.
        make: makes the dataset that begins so many steps later, of whole batches (None) or of a
            share of each. Its batches are dicts of columns. A length that its graph does not know
            is that of lists, which are padded with 0 on the right.
        empty_rows: whether a row of zeros adds nothing to the loss.
    """

    steps: int
    rows: int
    make: Callable[[int, Share | None], tf.data.Dataset]
    empty_rows: bool = False

    @functools.cached_property
    def dataset(self) -> tf.data.Dataset:
        """Whole batches from the first step on."""
        return self.make(0, None)

    def after(self, steps: int) -> "Batches":
        """The batches from so many steps later on, bit for bit."""
        make = self.make
        return dataclasses.replace(self, make=lambda later, share: make(steps + later, share))

    def map(self, function: Callable) -> "Batches":
        """Applies `function` to every batch, in parallel and in order.

        What the rows weigh stays, unless the function says it anew.

        Args:
            function: of a batch, or of a replica's share of one. Its noise is drawn by `uniform` or
                `normal`, with the step's seed or what `split` and `of_values` make of it.
        """

        def mapped(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            weight = batch.get(WEIGHT)
            found = function(batch)
            return found if weight is None else {**found, WEIGHT: found.get(WEIGHT, weight)}

        return self._of_each(mapped)

    def _of_each(self, function: Callable) -> "Batches":
        def of(dataset: tf.data.Dataset) -> tf.data.Dataset:
            return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE)

        make = self.make
        return dataclasses.replace(self, make=lambda later, share: of(make(later, share)))

    def in_few_shapes(self) -> "Batches":
        """Returns the same batches filled up with zeros, so that few shapes are among them.

        XLA compiles a step anew, which takes seconds, for every shape that it meets. Here lists are
        as long as the next of four numbers from a power of two to its double; and rows, where empty
        ones add nothing, as many as the next of eight. A smaller last batch is one shape more.
        """

        def filled(column: tf.Tensor) -> tf.Tensor:
            free = [length is None for length in column.shape]
            free[:1] = [self.empty_rows and free[0]] if free else []
            if not any(free):
                return column
            size = tf.shape(column, tf.int64)
            wanted = [
                tf.gather(allowed, tf.searchsorted(allowed, size[axis : axis + 1]))[0]
                if free[axis]
                else size[axis]
                for axis, allowed in enumerate([_ROWS, *[_LENGTHS] * (len(free) - 1)])
            ]
            behind = tf.stack(wanted) - size
            whole = tf.pad(column, tf.stack([tf.zeros_like(behind), behind], axis=1))
            return tf.ensure_shape(whole, column.shape)

        def fill(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {name: filled(column) for name, column in batch.items()}

        return self._of_each(fill)


_POWERS = 2 ** np.arange(40)[:, np.newaxis]
_LENGTHS = np.unique(_POWERS * np.arange(4, 8) // 4)
_ROWS = np.unique(_POWERS * np.arange(8, 16) // 8)


def shuffled_batches(
    columns: Mapping[str, np.ndarray | tf.RaggedTensor | range],
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
    some: "SomeOfEach | None" = None,
) -> Batches:
    """Endless batches, a fresh permutation every epoch; how fresh, says the module.

    Args:
        columns: name -> [E, ...] array or ragged [E, None] tensor, all of the same length; or
            `range(E)`, the numbers of the rows themselves.
        batch_size: rows a batch; the last of an epoch is smaller and never dropped.
        seed: of the permutations.
        first_epoch: the epoch to start with.
        some: draws the rows of an epoch; left out, an epoch has them all.

    Returns:
        Batches that are dicts of the columns, whole numbers as int64, plus `step_seed` ([2] int64,
        unique to the step; of a replica's share [6] as `Share.cut` makes it and, where columns are
        ragged, [8]: besides, which value of the first such column is the share's first, and how
        many the batch has).

    Raises:
        DataError: there is no row, of which no epoch would ever have a batch.
    """
    tensors = {
        name: column if isinstance(column, range) else as_tensor(column)
        for name, column in columns.items()
    }
    splits = [each.row_splits for each in tensors.values() if isinstance(each, tf.RaggedTensor)]
    any_column = next(iter(columns.values()))
    rows = len(any_column) if isinstance(any_column, range) else int(any_column.shape[0])
    count = some.count if some else rows
    if not count:
        raise DataError(
            "there is nothing to learn from: nothing of the train split makes a train row "
            f"(columns {', '.join(columns)})"
        )
    steps = -(-count // batch_size)

    def make(later: int, share: Share | None = None) -> tf.data.Dataset:
        first = first_epoch * steps + later

        def one_epoch(epoch):
            epoch_seed = tf.stack([tf.cast(seed, tf.int64), epoch])
            before = tf.where(epoch == first // steps, tf.cast(first % steps, tf.int64), 0)
            drawn = some.draw(epoch_seed) if some else None

            def batch(step, rows):
                step_seed = tf.stack([tf.cast(seed, tf.int64) + 1, epoch * steps + step])
                rows = rows if drawn is None else tf.gather(drawn, rows)
                if share:
                    whole, (rows, step_seed) = rows, share.cut(rows, step_seed)
                    if splits:
                        lengths = tf.gather(splits[0], whole + 1) - tf.gather(splits[0], whole)
                        values = [tf.reduce_sum(lengths[: step_seed[2]]), tf.reduce_sum(lengths)]
                        step_seed = tf.concat([step_seed, values], axis=0)
                return {
                    **{name: rows_of(tensor, rows) for name, tensor in tensors.items()},
                    "step_seed": step_seed,
                }

            orders = _orders(count, epoch_seed, before * batch_size)
            numbers = orders.rebatch(batch_size).enumerate(before)
            return numbers.map(batch, num_parallel_calls=tf.data.AUTOTUNE)

        epochs = tf.data.Dataset.range(first // steps, np.iinfo(np.int64).max)
        return epochs.flat_map(one_epoch)

    return Batches(steps, count, make)


def split(seed: tf.Tensor, count: int) -> list[tf.Tensor]:
    """Makes as many seeds of a step's one, each of as many numbers."""
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed[:2], count))
    return [tf.concat([one, tf.cast(seed[2:], one.dtype)], axis=0) for one in seeds]


def uniform(shape: tf.Tensor, seed: tf.Tensor, **settings: Any) -> tf.Tensor:
    """Draws as `tf.random.stateless_uniform`, for every row of a batch or of a replica's share.

    Args:
        shape: [B, ...] of what is drawn, as a tensor of whole numbers.
        seed: [2] of a batch; of a share what `Share.cut` makes of it: a share's are its rows of
            what the batch would draw.
        **settings: as `tf.random.stateless_uniform` takes them.
    """
    return _draw(tf.random.stateless_uniform, shape, seed, settings)


def normal(shape: tf.Tensor, seed: tf.Tensor, **settings: Any) -> tf.Tensor:
    """Draws as `tf.random.stateless_normal`, otherwise like `uniform`."""
    return _draw(tf.random.stateless_normal, shape, seed, settings)


def of_values(seed: tf.Tensor) -> tf.Tensor:
    """Makes of a step's seed that of draws for each value of its lists, instead of each row.

    Then the rows of which `uniform` tells are the values of `shuffled_batches`' first ragged
    column, one list after the other.
    """
    return tf.concat([seed[:2], seed[6:]], axis=0)


def _draw(function, shape, seed, settings):
    if seed.shape[0] == 2:
        return function(shape, seed, **settings)
    first, rows = tf.unstack(tf.cast(seed[2:4], shape.dtype))
    whole = tf.concat([[rows], shape[1:]], axis=0)
    return function(whole, seed[:2], **settings)[first : first + shape[0]]


def rows_of(column: tf.Tensor | tf.RaggedTensor | range, rows: tf.Tensor) -> tf.Tensor:
    """The rows of a column that a batch has; whole numbers as int64."""
    if isinstance(column, range):
        return tf.cast(rows, tf.int64)
    found = tf.gather(column, rows)
    return tf.cast(found, tf.int64) if found.dtype.is_integer else found


def _orders(count: int, seed: tf.Tensor, first: tf.Tensor) -> tf.data.Dataset:
    """The order of an epoch from a place on, a window at a time; see the module.

    Args:
        count: rows of the epoch.
        seed: [2] int64 of it.
        first: rows of its order that are left out at its beginning.

    Returns:
        [N] int32 numbers of rows (int64 of more than 2^31), as long as the windows are.
    """
    kind = tf.int32 if count <= np.iinfo(np.int32).max else tf.int64
    whole, in_window = count // BLOCK, WINDOW // BLOCK
    windows = max(1, -(-whole // in_window))
    blocks = tf.range(whole, dtype=kind)
    if windows > 1:
        blocks = tf.random.experimental.stateless_shuffle(blocks, seed + [_FAR, 0])
    begin = tf.minimum(first // (in_window * BLOCK), windows - 1)

    def window(number):
        own = blocks[number * in_window : (number + 1) * in_window]
        rows = tf.reshape(own[:, tf.newaxis] * BLOCK + tf.range(BLOCK, dtype=kind), [-1])
        # What is less than a block goes with the last window.
        ends = tf.constant([count, whole * BLOCK], kind)
        rest = tf.range(ends[tf.cast(number == windows - 1, tf.int32)], ends[0])
        rows = tf.concat([rows, rest], axis=0)
        order = tf.random.experimental.stateless_shuffle(rows, seed + [number * _FAR, 0])
        return order[tf.where(number == begin, first - begin * in_window * BLOCK, 0) :]

    return tf.data.Dataset.range(begin, windows).map(window).prefetch(1)


def group_batches(
    columns: Mapping[str, np.ndarray | tf.RaggedTensor],
    group: np.ndarray,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
) -> Batches:
    """Endless batches of whole groups, a fresh permutation of the groups every epoch.

    Several workers share a batch by its groups. The devices of one worker, which have a batch cut
    by its rows, see two where a group is at their border.

    Args:
        columns: as `shuffled_batches` takes them.
        group: [E] which group a row is in.
        batch_size: rows a batch, about: as many groups as have that many on average.
        seed: of the permutations.
        first_epoch: the epoch to start with.

    Returns:
        Batches as those of `shuffled_batches`, the rows of a group one after the other, and
        GROUP: [B] int32, ascending, the group's number in the batch, or in the share.
    """
    order = np.argsort(group, kind="stable")
    lists = tf.RaggedTensor.from_row_splits(order, group_starts(group[order]))
    groups = max(1, round(batch_size * lists.shape[0] / len(group)))
    tensors = {name: as_tensor(column) for name, column in columns.items()}

    def of_groups(batch):
        rows = batch["rows"]
        gathered = {name: rows_of(tensor, rows.flat_values) for name, tensor in tensors.items()}
        number = tf.cast(rows.value_rowids(), tf.int32)
        return {**gathered, GROUP: number, "step_seed": of_values(batch["step_seed"])}

    batches = shuffled_batches({"rows": lists}, groups, seed, first_epoch)
    return dataclasses.replace(batches.map(of_groups), rows=len(group))


class SomeOfEach:
    """Draws events without replacement, at most so many of every user.

    Args:
        position: [E] int64: how many events of the same user come before. The events lie user by
            user, as in an `EventLog`.
        most: events of a user.

    Attributes:
        count: how many events a draw has.
    """

    def __init__(self, position: np.ndarray, most: int):
        places = np.flatnonzero(position < most)
        self.count = len(places)
        self._places = tf.constant(places)
        self._user = tf.constant(np.cumsum(position == 0), tf.float64)

    def draw(self, seed: tf.Tensor) -> tf.Tensor:
        """Returns [count] int32 numbers of events, user by user, for a stateless [2] seed."""
        noise = tf.random.stateless_uniform(tf.shape(self._user), seed, dtype=tf.float64)
        # Shuffles the events of each user among themselves, of which the first ones are taken.
        return tf.gather(tf.argsort(self._user + noise), self._places)


class UniformNegatives:
    """Draws items uniformly, with replacement, from the train items that the user has not in train.

    The number r of the items that a user has not, counted from 0, is the item r + (how many of the
    user's own lie at or before it); those are the own ones whose place, less the own ones before,
    is at most r. So one binary search finds an item that is none of the user's, and nothing has to
    be rejected.

    Args:
        user: [E] user index of every train event.
        item: [E] item index of every train event.
        item_count: number of train items; their indices are 2 .. item_count + 1.
    """

    def __init__(self, user: np.ndarray, item: np.ndarray, item_count: int):
        if not _ascends(user):
            order = np.argsort(user, kind="stable")
            user, item = user[order], item[order]
        owned = Column(np.int64)
        for begin, end in chunks(group_starts(user)):
            part = item[begin:end].astype(np.int64)
            known = (part >= FIRST_TOKEN) & (part < FIRST_TOKEN + item_count)
            keys = user[begin:end].astype(np.int64) * item_count + part - FIRST_TOKEN
            own = np.unique(keys[known])
            owner = own // item_count
            owned.append(own - np.arange(len(own)) + np.searchsorted(owner, owner))
        self._item_count = item_count
        keys = owned.array()
        # Where the own ones of each user begin; those of one whom train does not have: at the end.
        users = int(user[-1]) + 2 if len(user) else 1
        self._starts = tf.constant(np.searchsorted(keys, np.arange(users) * item_count))
        self._owned = as_tensor(keys)

    def draw(self, user: tf.Tensor, count: int, seed: tf.Tensor) -> tf.Tensor:
        """Draws negatives for [B] users.

        Args:
            user: [B] int user indices.
            count: negatives of every row.
            seed: as `uniform` takes it.

        Returns:
            [B, count] int64 item indices. A user who has every item has no negatives: 0 throughout.
        """
        first = (tf.cast(user, tf.int64) * self._item_count)[:, tf.newaxis]
        beyond = tf.cast(tf.size(self._starts) - 1, user.dtype)
        start, end = (
            tf.gather(self._starts, tf.minimum(each, beyond))[:, tf.newaxis]
            for each in (user, user + 1)
        )
        free = self._item_count - (end - start)
        drawn = uniform(tf.stack([tf.size(user), count]), seed, dtype=tf.float64)
        number = tf.cast(drawn * tf.cast(free, tf.float64), tf.int64)
        key = tf.reshape(first + number, [-1])
        through = tf.searchsorted(self._owned, key, side="right", out_type=tf.int64)
        own = tf.reshape(through, tf.shape(drawn)) - start
        return tf.where(free > 0, FIRST_TOKEN + number + own, 0)


class CountedNegatives:
    """Draws as `UniformNegatives` does, for profiles whose rows over all items fit in memory.

    A user who has n of N items draws r of the first N - n. Where r is one of the user's own, it
    stands for one of the last n that the user has not: there are as many, and each has its r. What
    an own item stands for is known before, so a draw is a look-up and no search.

    Args:
        item: [E] int64 item indices, of each user once and ascending, user by user.
        splits: [P + 1] int64 where those of each user begin, and the end.
        item_count: N; the items' indices are 2 .. N + 1.

    Attributes:
        profiles: [P, None, 3] int64: the item, what stands for it, and N - n of the user.
    """

    def __init__(self, item: np.ndarray, splits: np.ndarray, item_count: int):
        lengths = np.diff(splits)
        free, user = (
            np.repeat(each, lengths) for each in (item_count - lengths, range(len(lengths)))
        )
        last = free + np.arange(len(item)) - np.repeat(splits[:-1], lengths) + FIRST_TOKEN
        first = user * (item_count + FIRST_TOKEN)
        instead = item.copy()
        instead[item < free + FIRST_TOKEN] = last[~np.isin(first + last, first + item)]
        instead[free == 0] = _NOWHERE
        values = tf.constant(np.stack([item, instead, free], axis=1))
        self.profiles = tf.RaggedTensor.from_row_splits(values, splits)

    @staticmethod
    def draw(profiles: tf.RaggedTensor, width: int, count: int, seed: tf.Tensor) -> tf.Tensor:
        """Draws negatives for the users of a batch, so many for each of their items.

        Args:
            profiles: [B, None, 3], the users' own of the attribute.
            width: of the rows over all items, padding and unknown included.
            count: negatives of an item.
            seed: as `uniform` takes it, of the items.

        Returns:
            [S] int32 places in the B rows over the items, laid end to end: row times width, and the
            item. The places of a user who has every item are negative: such a segment is left out.
        """
        pairs = tf.cast(profiles.values, tf.int32)
        first, size = width * ragged_rows(profiles), width * tf.cast(profiles.nrows(), tf.int32)
        # How far from each place is what it stands for; of all but the own ones 0. (A sum of
        # segments is a scatter at a fifth of the time.)
        further = tf.math.unsorted_segment_sum(pairs[:, 1] - pairs[:, 0], first + pairs[:, 0], size)
        shape, bits = tf.stack([tf.size(first), count]), {"minval": None, "maxval": None}
        drawn = uniform(shape, seed, dtype=tf.uint32, **bits)
        share = tf.cast(pairs[:, 2:], tf.float64) / 2.0**32
        number = tf.cast(tf.cast(drawn, tf.float64) * share, tf.int32)
        place = tf.reshape(first[:, tf.newaxis] + FIRST_TOKEN + number, [-1])
        return place + tf.gather(further, place)


def ragged_rows(lists: tf.RaggedTensor) -> tf.Tensor:
    """The row of each of a ragged tensor's values: [E] int32."""
    return tf.repeat(tf.range(tf.cast(lists.nrows(), tf.int32)), lists.row_lengths())


def _ascends(user: np.ndarray) -> bool:
    pieces = range(0, len(user), ROWS_AT_ONCE)
    parts = (user[begin : begin + ROWS_AT_ONCE + 1] for begin in pieces)
    return all((part[1:] >= part[:-1]).all() for part in parts)


def forget_some(index: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Replaces a share `rate` of the indices by the unknown index.

    So the unknown row is an average, not noise.
    """
    if rate == 0.0:
        return index
    forget = uniform(tf.shape(index), seed) < rate
    return tf.where(forget, tf.fill(tf.shape(index), tf.cast(UNKNOWN, index.dtype)), index)


class PopularitySamples:
    """Draws `count` items with probability proportional to support ** alpha, with replacement.

    Args:
        supports: [N] train counts of the items 2 .. N + 1.
        alpha: 0 for uniform, 1 for popularity.
        count: items a draw.
    """

    def __init__(self, supports: np.ndarray, alpha: float, count: int):
        weight = np.where(supports > 0, np.maximum(supports, 1).astype(np.float64) ** alpha, 0.0)
        self._cumulative = tf.constant(np.cumsum(weight) / weight.sum(), tf.float64)
        self._count = count

    def draw(self, seed: tf.Tensor) -> tf.Tensor:
        """[count] int64 item indices for a step's seed; of a replica's share, its share of them."""
        drawn = tf.random.stateless_uniform([self._count], seed[:2], dtype=tf.float64)
        if seed.shape[0] > 2:
            begin, end = Share(*tf.unstack(seed[4:6])).bounds(self._count)
            drawn = drawn[begin:end]
        place = tf.searchsorted(self._cumulative, drawn, side="right", out_type=tf.int64)
        return tf.minimum(place, self._cumulative.shape[0] - 1) + FIRST_TOKEN
