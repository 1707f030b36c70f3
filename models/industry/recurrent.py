"""Recurrent cells over padded sequences."""

import tensorflow as tf


def read_through(
    cell: tf.keras.layers.Layer,
    inputs: tf.Tensor,
    there: tf.Tensor,
    first: tf.Tensor | None = None,
) -> tf.Tensor:
    """Reads sequences; padding leaves the state as it is.

    Args:
        cell: a Keras cell, such as `GRUCell` or `LSTMCell`.
        inputs: [B, L, W] float32, padded on the right.
        there: [B, L] bool: the step is none of padding.
        first: [units] the state to begin with, of a cell that has one; left out, zeros.

    Returns:
        [B, L, units] float32 hidden states after every step.
    """
    sizes = tf.nest.flatten(cell.state_size)
    begin = [
        tf.zeros([tf.shape(inputs)[0], size]) + (0.0 if first is None else first) for size in sizes
    ]

    def step(before, now):
        values, is_there = now
        after = tf.nest.flatten(cell(values, before)[1])
        return [tf.where(is_there, new, old) for new, old in zip(after, before, strict=True)]

    # A step of padding more: there must be one to scan, also where all sequences are empty.
    inputs, there = tf.pad(inputs, [[0, 0], [0, 1], [0, 0]]), tf.pad(there, [[0, 0], [0, 1]])
    steps = (tf.transpose(inputs, [1, 0, 2]), tf.transpose(there)[..., tf.newaxis])
    return tf.transpose(tf.scan(step, steps, begin)[0], [1, 0, 2])[:, :-1]
