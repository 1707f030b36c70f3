"""Shuffled batches and negatives, vectorised, in the input pipeline.

They are a function of (seed, epoch, step) alone.

Because no state is carried, a run that was killed and resumed at epoch e sees the batches that it
would have seen.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from models.inputs.preprocessing import FIRST_TOKEN, UNKNOWN
from models.names.label import GROUP, WEIGHT


class Batches(NamedTuple):
    """Endless train batches.

    Attributes:
        dataset: of dicts of columns. A length that its graph does not know is that of lists, which
            are padded with 0 on the right.
        steps: of an epoch.
        rows: train rows of an epoch; positives, not negatives.
        empty_rows: whether a row of zeros adds nothing to the loss.
    """

    dataset: tf.data.Dataset
    steps: int
    rows: int
    empty_rows: bool = False

    def map(self, function: Callable) -> "Batches":
        """Applies `function` to every batch, in parallel and in order.

        What the rows weigh stays, unless the function says it anew.
        """

        def mapped(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            weight = batch.get(WEIGHT)
            found = function(batch)
            return found if weight is None else {**found, WEIGHT: found.get(WEIGHT, weight)}

        return self._replace(dataset=self.dataset.map(mapped, num_parallel_calls=tf.data.AUTOTUNE))

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

        return self._replace(dataset=self.dataset.map(fill, num_parallel_calls=tf.data.AUTOTUNE))


_POWERS = 2 ** np.arange(40)[:, np.newaxis]
_LENGTHS = np.unique(_POWERS * np.arange(4, 8) // 4)
_ROWS = np.unique(_POWERS * np.arange(8, 16) // 8)


def shuffled_batches(
    columns: Mapping[str, np.ndarray | tf.RaggedTensor],
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
    some: "SomeOfEach | None" = None,
) -> Batches:
    """Endless batches, a fresh permutation every epoch.

    Args:
        columns: name -> [E, ...] array or ragged [E, None] tensor, all of the same length.
        batch_size: rows a batch; the last of an epoch is smaller and never dropped.
        seed: of the permutations.
        first_epoch: the epoch to start with.
        some: draws the rows of an epoch; left out, an epoch has them all.

    Returns:
        Batches that are dicts of the columns plus `step_seed` ([2] int64, unique to the step).
    """
    tensors = {
        name: tf.convert_to_tensor(column) if isinstance(column, np.ndarray) else column
        for name, column in columns.items()
    }
    count = some.count if some else int(next(iter(tensors.values())).shape[0])
    steps = -(-count // batch_size)

    def one_epoch(epoch):
        epoch_seed = tf.stack([tf.cast(seed, tf.int64), epoch])
        rows = some.draw(epoch_seed) if some else tf.range(count)
        order = tf.random.experimental.stateless_shuffle(rows, seed=epoch_seed)

        def batch(step):
            rows = order[step * batch_size : (step + 1) * batch_size]
            gathered = {name: tf.gather(tensor, rows) for name, tensor in tensors.items()}
            return {
                **gathered,
                "step_seed": tf.stack([tf.cast(seed, tf.int64) + 1, epoch * steps + step]),
            }

        return tf.data.Dataset.range(steps).map(batch, num_parallel_calls=tf.data.AUTOTUNE)

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    return Batches(epochs.flat_map(one_epoch), steps, count)


def group_batches(
    columns: Mapping[str, np.ndarray | tf.RaggedTensor],
    group: np.ndarray,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
) -> Batches:
    """Endless batches of whole groups, a fresh permutation of the groups every epoch.

    Several replicas share a batch by its rows, so a group at their border is two to them.

    Args:
        columns: as `shuffled_batches` takes them.
        group: [E] which group a row is in.
        batch_size: rows a batch, about: as many groups as have that many on average.
        seed: of the permutations.
        first_epoch: the epoch to start with.

    Returns:
        Batches as those of `shuffled_batches`, the rows of a group one after the other, and
        GROUP: [B] int32, ascending, the group's number in the batch.
    """
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lists = tf.RaggedTensor.from_row_splits(order, np.append(starts, len(group)))
    groups = max(1, round(batch_size * len(starts) / len(group)))
    tensors = {
        name: tf.convert_to_tensor(column) if isinstance(column, np.ndarray) else column
        for name, column in columns.items()
    }

    def rows_of(batch):
        rows = batch["rows"]
        gathered = {name: tf.gather(tensor, rows.flat_values) for name, tensor in tensors.items()}
        number = tf.cast(rows.value_rowids(), tf.int32)
        return {**gathered, GROUP: number, "step_seed": batch["step_seed"]}

    batches = shuffled_batches({"rows": lists}, groups, seed, first_epoch)
    return batches.map(rows_of)._replace(rows=len(group))


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
        user: [E] int64 user index of every train event.
        item: [E] int64 item index of every train event.
        item_count: number of train items; their indices are 2 .. item_count + 1.
    """

    def __init__(self, user: np.ndarray, item: np.ndarray, item_count: int):
        known = (item >= FIRST_TOKEN) & (item < FIRST_TOKEN + item_count)
        owned = np.unique(user[known].astype(np.int64) * item_count + item[known] - FIRST_TOKEN)
        owner, place = np.divmod(owned, item_count)
        before = np.arange(len(owned)) - np.searchsorted(owner, owner)
        self._item_count = item_count
        self._owned = tf.constant(owner * item_count + place - before)

    def draw(self, user: tf.Tensor, count: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws negatives for [B] users.

        Args:
            user: [B] int user indices.
            count: negatives of every row; or [B] int, of each row.
            seed: [2] of a stateless draw.

        Returns:
            [B, count] int64 item indices, as wide as the row with the most, padded with 0. A user
            who has every item has no negatives: 0 throughout.
        """
        first = tf.cast(user, tf.int64) * self._item_count
        start = tf.searchsorted(self._owned, first, out_type=tf.int64)
        end = tf.searchsorted(self._owned, first + self._item_count, out_type=tf.int64)
        free = self._item_count - (end - start)
        if isinstance(count, int):
            places = (each[:, tf.newaxis] for each in (first, start, free))
            return self._drawn(*places, tf.stack([tf.size(user), count]), seed)
        # As many draws as are wanted: a padded row would cost as much as the longest.
        counts = tf.where(free > 0, tf.cast(count, tf.int32), 0)
        row = tf.repeat(tf.range(tf.size(user)), counts)
        places = (tf.gather(each, row) for each in (first, start, free))
        drawn = self._drawn(*places, tf.shape(row), seed)
        return tf.RaggedTensor.from_row_lengths(drawn, counts).to_tensor()

    def _drawn(self, first, start, free, shape, seed):
        """Draws of a shape for users whose keys begin at `first`, and their own at `start`."""
        uniform = tf.random.stateless_uniform(shape, seed, dtype=tf.float64)
        number = tf.cast(uniform * tf.cast(free, tf.float64), tf.int64)
        key = tf.reshape(first + number, [-1])
        through = tf.searchsorted(self._owned, key, side="right", out_type=tf.int64)
        own = tf.reshape(through, shape) - start
        return tf.where(free > 0, FIRST_TOKEN + number + own, 0)


def forget_some(index: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Replaces a share `rate` of the indices by the unknown index.

    So the unknown row is an average, not noise.
    """
    if rate == 0.0:
        return index
    forget = tf.random.stateless_uniform(tf.shape(index), seed) < rate
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
        """[count] int64 item indices for a stateless [2] seed."""
        uniform = tf.random.stateless_uniform([self._count], seed, dtype=tf.float64)
        place = tf.searchsorted(self._cumulative, uniform, side="right", out_type=tf.int64)
        return tf.minimum(place, self._cumulative.shape[0] - 1) + FIRST_TOKEN
