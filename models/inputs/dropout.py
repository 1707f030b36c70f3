"""Dropout as a function of (seed, step).

A training that was killed and resumed goes on with the masks that were its due.
"""

import threading

import tensorflow as tf


class _Current(threading.local):
    """The step that this thread traces: replicas are traced by threads of their own."""

    seed: tf.Tensor | None = None
    masks: int = 0


_current = _Current()


class Step:
    """Within `with Step(seed, number)` the layers `Dropout` draw the masks of a training step.

    `Recommender.train_step` opens it; a model's author has nothing to do with it.

    Args:
        seed: of the training.
        number: scalar int64 tensor or variable, steps so far.
    """

    def __init__(self, seed: int, number: tf.Tensor | tf.Variable):
        self._seed, self._number = seed, number

    def __enter__(self) -> None:
        number = tf.cast(tf.convert_to_tensor(self._number), tf.int64)
        _current.seed = tf.stack([tf.constant(self._seed, tf.int64), number])
        _current.masks = 0

    def __exit__(self, *error) -> None:
        _current.seed = None


class Dropout(tf.keras.layers.Layer):
    """Sets a share of the values to 0 in training and scales the others by 1 / (1 - rate).

    A mask is a function of the training's seed, the step, its place among the masks of the step
    and the replica: none is like another, whichever layers share this object.

    A place takes 8 random bits where they say the rate exactly, such as a half, and 16 otherwise,
    by which the rate is rounded to 1 / 65,536, and so is the scale.

    Args:
        rate: share of the values, at least 0 and less than 1.
        whole_vectors: drop all of a vector (the last axis) or nothing of it.
        **kwargs: of a Keras layer.
    """

    def __init__(self, rate: float, whole_vectors: bool = False, **kwargs):
        super().__init__(**kwargs)
        exact = float(256 * rate).is_integer()
        self._kind = tf.uint8 if exact else tf.uint16
        self._threshold = min(round(rate * (self._kind.max + 1)), self._kind.max)
        self._rate, self._whole_vectors = self._threshold / (self._kind.max + 1), whole_vectors

    def call(self, inputs, training=False):
        if not training or not self._rate:
            return inputs
        if _current.seed is None:
            raise RuntimeError(
                f"{self.name}: dropout was asked for outside of a training step; required: "
                "training=True only within Recommender.train_step, or `with dropout.Step(...)`"
            )
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        number = tf.cast(_current.masks * replicas + replica, tf.int64)
        _current.masks += 1
        shape = tf.shape(inputs)
        if self._whole_vectors:
            shape = tf.concat([shape[:-1], [1]], axis=0)
        seed = tf.random.experimental.stateless_fold_in(_current.seed, number)
        # A product has a product as its gradient; a choice of two would cost twice as much.
        mask = tf.cast(self._kept(shape, seed), inputs.dtype)
        return inputs * (mask / tf.cast(1.0 - self._rate, inputs.dtype))

    def _kept(self, shape, seed):
        """What is left, [...] bool; a random word, which is what takes time, does for several."""
        size, kind = tf.reduce_prod(shape), self._kind
        words = -(-size // (4 // kind.size))
        drawn = tf.random.stateless_uniform(
            [words], seed, minval=None, maxval=None, dtype=tf.uint32
        )
        parts = tf.reshape(tf.bitcast(drawn, kind), [-1])[:size]
        return tf.reshape(parts, shape) >= tf.constant(self._threshold, kind)
