"""Profiles: all that a user has, as one row over the items; training batches and requests alike."""

import numpy as np
import tensorflow as tf

from models.inputs import sampling
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.names.label import WEIGHT


def multi_hot(items: tf.Tensor, index_count: int, weights: tf.Tensor | None = None) -> tf.Tensor:
    """Spreads lists of items over a row that has a column for every index.

    Args:
        items: [B, L] int64 item indices, padded with 0; an item that is repeated counts once, with
            its highest weight.
        index_count: number of item indices, padding and unknown included.
        weights: [B, L] float32, at least 0; default 1.

    Returns:
        [B, index_count] float32; the column of the padding is 0.
    """
    present = tf.cast(items > 0, tf.float32)
    weights = present if weights is None else weights * present
    rows, columns = tf.shape(items, tf.int64)[0], tf.cast(index_count, tf.int64)
    place = tf.range(rows)[:, tf.newaxis] * columns + items
    # A scatter of maxima takes five times as long. What no list has is the least of all numbers.
    highest = tf.math.unsorted_segment_max(
        tf.reshape(weights, [-1]), tf.reshape(place, [-1]), rows * columns
    )
    return tf.nn.relu(tf.reshape(highest, tf.stack([rows, columns])))


def sparse_rows(items: tf.Tensor, index_count: int, weights: tf.Tensor) -> tf.SparseTensor:
    """The same of lists whose items come once each, ascending, as a sparse [B, index_count].

    It has what does not weigh 0, which may be less.
    """
    place = tf.where((items > 0) & (weights != 0))
    indices = tf.stack([place[:, 0], tf.gather_nd(items, place)], axis=1)
    rows = tf.shape(items, tf.int64)[0]
    return tf.SparseTensor(indices, tf.gather_nd(weights, place), [rows, index_count])


def normalised(items: tf.Tensor) -> tf.Tensor:
    """[B, L] items -> [B, L] float32 weights that give every profile the length 1.

    Items come once each, padded with 0; without items the weights are 0.
    """
    there = items > 0
    count = tf.math.count_nonzero(there, axis=1, keepdims=True, dtype=tf.float64)
    # In float32 the last bit of a root depends on the place in the batch, thus on the share.
    weight = tf.cast(tf.math.rsqrt(tf.maximum(count, 1.0)), tf.float32)
    return tf.where(there, weight, 0.0)


def corrupted(weights: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """Hides a share of the entries of profiles, each by itself.

    Args:
        weights: [B, L] float32 of a profile's items: 1, or what `normalised` returns.
        rate: of what is hidden, 0 to 1; 1 hides everything.
        seed: as `sampling.uniform` takes it, of the items: see `sampling.of_values`.

    Returns:
        [B, L] float32: 0 where hidden, else the weight over 1 - rate, so that the input's
        expectation, and a ranking from a whole profile, need no scale.
    """
    # Drawn for the items alone: how far lists are padded is not the same in every share of a batch.
    place = tf.where(weights > 0)
    values = partly_hidden(tf.gather_nd(weights, place), rate, seed)
    return tf.scatter_nd(place, values, tf.shape(weights, tf.int64))


def partly_hidden(weights: tf.Tensor, rate: float, seed: tf.Tensor) -> tf.Tensor:
    """The same of the items alone, those of one profile after the other's: [E] float32."""
    kept = sampling.uniform(tf.shape(weights), seed) >= rate
    return tf.where(kept, weights / max(1.0 - rate, 1e-9), 0.0)


def shuffled_profiles(
    data: TrainingData, batch_size: int, seed: int, first_epoch: int = 0
) -> sampling.Batches:
    """Endless batches of users, each with all of its train items.

    Returns:
        Batches with `user` ([B] int64 index of the user whose profile it is), `items` ([B, L]
        int64 item indices, each once, ascending, padded with 0) and `step_seed` (whose values are
        the items); where events weigh differently, WEIGHT too ([B, L] float32, of the items).
    """
    users, items, splits, weight = user_profiles(data)
    rows = tf.RaggedTensor.from_row_splits(tf.constant(items), splits)
    columns = {"user": users, "items": rows}
    if weight is not None:
        columns[WEIGHT] = rows.with_flat_values(tf.constant(weight))
    dense = [name for name in columns if name != "user"]
    batches = sampling.shuffled_batches(columns, batch_size, seed, first_epoch)
    # Dense from here on: neither XLA nor a mirrored strategy takes ragged batches.
    return batches.map(lambda batch: {**batch, **{name: batch[name].to_tensor() for name in dense}})


def user_profiles(
    data: TrainingData,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """All train items of every user.

    Returns:
        [P] indices of the users; [E] int64 indices of their items, of each user once and ascending,
        one user's after the other's; [P + 1] int64 where they begin, and the end; and [E] float32
        of what they weigh, where events weigh differently.
    """
    pairs = data.events.matrix(len(data.items))
    items = pairs.indices.astype(np.int64) + FIRST_TOKEN
    weight = None
    if data.events.weight is not None:
        weight = (pairs.data / pairs.data.mean(dtype=np.float64)).astype(np.float32)
    users = data.events.user[data.events.starts[:-1]]
    return users, items, pairs.indptr.astype(np.int64), weight
