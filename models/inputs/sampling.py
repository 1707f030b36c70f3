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

# Rejection rounds; a user who owns half of the catalogue keeps a collision with probability 2**-8.
_ROUNDS = 8


class Batches(NamedTuple):
    """Endless train batches: the dataset, and the steps and train rows of an epoch.

    The rows are positives, not negatives.
    """

    dataset: tf.data.Dataset
    steps: int
    rows: int

    def map(self, function: Callable) -> "Batches":
        """Applies `function` to every batch, in parallel and in order."""
        return self._replace(
            dataset=self.dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE)
        )


def shuffled_batches(
    columns: Mapping[str, np.ndarray | tf.RaggedTensor],
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
) -> Batches:
    """Endless batches, a fresh permutation every epoch.

    Args:
        columns: name -> [E, ...] array or ragged [E, None] tensor, all of the same length.
        batch_size: rows a batch; the last of an epoch is smaller and never dropped.
        seed: of the permutations.
        first_epoch: the epoch to start with.

    Returns:
        Batches that are dicts of the columns plus `step_seed` ([2] int64, unique to the step).
    """
    tensors = {
        name: tf.convert_to_tensor(column) if isinstance(column, np.ndarray) else column
        for name, column in columns.items()
    }
    count = int(next(iter(tensors.values())).shape[0])
    steps = -(-count // batch_size)

    def one_epoch(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=tf.stack([tf.cast(seed, tf.int64), epoch])
        )

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


class UniformNegatives:
    """Draws items uniformly from the train items, rejecting those that the user has in train.

    Args:
        user: [E] user index of every train event.
        item: [E] item index of every train event.
        item_count: number of train items; their indices are 2 .. item_count + 1.
    """

    def __init__(self, user: np.ndarray, item: np.ndarray, item_count: int):
        self._item_count = item_count
        self._stride = item_count + FIRST_TOKEN
        self._observed = tf.constant(np.unique(user.astype(np.int64) * self._stride + item))

    def draw(self, user: tf.Tensor, count: int, seed: tf.Tensor) -> tf.Tensor:
        """Draws negatives for [B] users: [B, count] int64 item indices.

        The seed is a stateless one, [2].
        """
        shape = tf.stack([tf.shape(user)[0], count])
        owner = tf.cast(user, tf.int64)[:, tf.newaxis] * self._stride
        drawn = self._uniform(shape, seed, 0)
        for round_ in range(1, _ROUNDS):
            drawn = tf.where(
                self._is_observed(owner + drawn), self._uniform(shape, seed, round_), drawn
            )
        return drawn

    def _uniform(self, shape: tf.Tensor, seed: tf.Tensor, round_: int) -> tf.Tensor:
        folded = tf.random.experimental.stateless_fold_in(seed, round_)
        return tf.random.stateless_uniform(
            shape, folded, FIRST_TOKEN, FIRST_TOKEN + self._item_count, tf.int64
        )

    def _is_observed(self, key: tf.Tensor) -> tf.Tensor:
        place = tf.searchsorted(self._observed, tf.reshape(key, [-1]))
        place = tf.minimum(place, tf.size(self._observed) - 1)
        return tf.reshape(tf.gather(self._observed, place), tf.shape(key)) == key


def forget_some(index: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Replaces a share `rate` of the indices by the unknown index.

    So the unknown row is an average, not noise.
    """
    if rate == 0.0:
        return index
    forget = tf.random.stateless_uniform(tf.shape(index), seed) < rate
    return tf.where(forget, tf.fill(tf.shape(index), tf.cast(UNKNOWN, index.dtype)), index)
