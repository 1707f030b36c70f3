"""Adam in one fused step against Keras' own, and its lazy form row by row; row-wise Adagrad."""

import numpy as np
import pytest
import tensorflow as tf

from models.contract import tasks
from models.training.optimizers import Adam, RowAdagrad
from tests.models.score_contract import CLICK, train

RATE = 0.05
ROWS = {
    "epochs": 20,
    "batch_size": 128,
    "learning_rate": 0.1,
    "factors": 4,
    "stddev": 0.1,
    "row_adagrad": True,
}
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


def test_row_adagrad_by_hand():
    """Rows 1 and 4 are read, row 1 twice, by gradients of (3, 4) a time; then row 1 once more.

    Row 1: 6, 8, so an accumulator of (36 + 64) / 2 = 50; then 50 + (9 + 16) / 2 = 62.5.
    """
    table = tf.Variable(np.zeros([6, 2], np.float32))
    optimizer = RowAdagrad(0.1)
    optimizer.build([table])
    for rows in ([1, 4, 1], [1]):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table, rows) @ [[3.0], [4.0]])
        optimizer.apply_gradients([(tape.gradient(loss, table), table)])
    found = table.numpy()
    first = -0.1 * np.array([6, 8]) / 50**0.5
    np.testing.assert_allclose(found[1], first - 0.1 * np.array([3, 4]) / 62.5**0.5, rtol=1e-5)
    np.testing.assert_allclose(found[4], -0.1 * np.array([3, 4]) / 12.5**0.5, rtol=1e-5)
    assert not found[[0, 2, 3, 5]].any()
    assert [each.shape for each in optimizer.variables if each.shape.rank] == [[6]]


def test_row_adagrad_moves_a_dense_weight_as_the_same_rows():
    sparse, dense = (tf.Variable([[1.0, -2.0], [3.0, 0.5]]) for _ in range(2))
    for variable, gradient in (
        (sparse, tf.IndexedSlices([[0.5, 1.0], [-1.0, 2.0]], [0, 1])),
        (dense, tf.constant([[0.5, 1.0], [-1.0, 2.0]])),
    ):
        optimizer = RowAdagrad(0.1)
        optimizer.build([variable])
        for _ in range(2):
            optimizer.apply_gradients([(gradient, variable)])
    np.testing.assert_allclose(sparse, dense, rtol=1e-6)


def test_a_model_keeps_a_number_a_row_of_its_tables(toy_data):
    model, data = train("fm", toy_data("event", 0.0, CLICK), ROWS)
    measured = tasks.of("fm", CLICK).evaluation(data, "test").of(model)()
    assert measured["auc"] > 0.85, measured
    shapes = [tuple(each.shape) for one in model.optimizer.optimizers for each in one.variables]
    rows = model.rows.count
    assert shapes.count((rows,)) == 2 and (rows, 4) not in shapes and (rows, 1) not in shapes
