"""Adam in one fused step against Keras' own, and its lazy form row by row."""

import numpy as np
import pytest
import tensorflow as tf

from models.training.optimizers import Adam

RATE = 0.05
STEPS = ([1, 4, 1], [0, 1, 2], [4, 4, 4], [3, 0, 1])
"""Rows of a table that each step reads; row 5 is never read."""


def trained(optimizer, steps=STEPS) -> tuple[np.ndarray, np.ndarray]:
    """A table that is read by rows and a dense weight, after so many steps."""
    table = tf.Variable(np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2))
    weight = tf.Variable([[0.5, -0.25], [1.0, 2.0]])
    optimizer.build([table, weight])

    @tf.function
    def step(rows):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((tf.gather(table, rows) @ weight - 1.0) ** 2)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, [table, weight]), [table, weight], strict=True)
        )

    for rows in steps:
        step(tf.constant(rows))
    return table.numpy(), weight.numpy()


def test_the_fused_step_is_keras_own():
    for ours, keras in zip(
        trained(Adam(RATE)), trained(tf.keras.optimizers.Adam(RATE)), strict=True
    ):
        np.testing.assert_allclose(ours, keras, atol=1e-5)


def test_a_lazy_step_leaves_the_rows_that_it_does_not_read():
    before, one, two = (trained(Adam(RATE, lazy=True), STEPS[:count])[0] for count in (0, 1, 2))
    for old, new, read in ((before, one, STEPS[0]), (one, two, STEPS[1])):
        moved = (old != new).any(axis=1)
        assert set(np.flatnonzero(moved)) == set(read)
    eager = trained(Adam(RATE), STEPS[:2])[0]
    assert (eager[4] != one[4]).any()  # Adam itself moves on by momentum


def test_where_every_step_reads_every_row_lazy_is_adam():
    steps = [list(range(6))] * 3
    for lazy, eager in zip(
        trained(Adam(RATE, lazy=True), steps), trained(Adam(RATE), steps), strict=True
    ):
        np.testing.assert_allclose(lazy, eager, atol=1e-5)


def test_l2_is_the_gradient_of_a_penalty_in_the_loss():
    """Rows that no step reads move towards zero too, unless it is lazy."""

    class Penalised(tf.keras.optimizers.Adam):
        def update_step(self, gradient, variable):
            super().update_step(tf.convert_to_tensor(gradient) + 0.3 * variable, variable)

    table, weight = trained(Adam(RATE, l2=0.3, epsilon=1e-3))
    for ours, keras in zip((table, weight), trained(Penalised(RATE, epsilon=1e-3)), strict=True):
        np.testing.assert_allclose(ours, keras, atol=1e-5)
    start = trained(Adam(RATE), ())[0]
    assert (np.abs(table[5]) < np.abs(start[5])).all()
    lazy = trained(Adam(RATE, lazy=True, l2=0.3, epsilon=1e-3))[0]
    np.testing.assert_array_equal(lazy[5], start[5])
    steps = [list(range(6))] * 3  # all rows, every time: lazy is eager
    for one, other in zip(
        trained(Adam(RATE, lazy=True, l2=0.3), steps),
        trained(Adam(RATE, l2=0.3), steps),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_it_is_rebuilt_from_its_configuration():
    again = Adam.from_config(Adam(0.25, lazy=True, l2=0.5, epsilon=0.125).get_config())
    assert again.lazy is True and float(again.learning_rate) == pytest.approx(0.25)
    assert (again.l2, again.epsilon) == (0.5, 0.125)
