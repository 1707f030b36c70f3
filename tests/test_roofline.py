"""What the roofline counts of graphs whose work is known."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.roofline import SIZES, Core, work_of
from models.training.optimizers import Adam


def by_kind(function) -> dict:
    found = {}
    for each in work_of(function):
        assert each.kind not in found, f"two of {each.kind}"
        found[each.kind] = each
    return found


@pytest.mark.parametrize("turned", [False, True])
def test_a_product_of_matrices(turned):
    left, right = tf.random.normal([30, 20]), tf.random.normal([20, 50])
    left = tf.transpose(left) if turned else left
    (work,) = by_kind(lambda: tf.matmul(left, right, transpose_a=turned)).values()
    assert work.product and work.operations == 2 * 30 * 20 * 50
    assert work.size == 4 * (30 * 20 + 20 * 50 + 30 * 50)
    # 60,000 operations and 12,400 bytes: which of the two takes longer is the core's affair.
    assert Core(1e6, (1e12,) * len(SIZES)).limit_of(work) == 0.06
    assert Core(1e12, (1e6,) * len(SIZES)).limit_of(work) == 0.0124


def test_an_einsum_multiplies_over_all_its_letters():
    left, right = (tf.Variable(tf.random.normal([3, *shape])) for shape in ((4, 5), (5, 6)))
    found = work_of(lambda: tf.einsum("bij,bjk->bik", left, right))
    assert sum(each.operations for each in found if each.product) == 2 * 3 * 4 * 5 * 6


def test_rows_that_are_looked_up_distinct_and_written():
    table, rows = tf.Variable(tf.random.normal([1000, 8])), tf.Variable([5, 7, 5, 5])

    def step():
        distinct = tf.unique(rows)[0]  # two: a length that the graph does not know
        found = tf.gather(table, distinct)
        return tf.reduce_sum(tf.exp(found))

    found = by_kind(step)
    # A look-up reads two rows and writes them, and no more of the table.
    assert found["ResourceGather"].size == 2 * 2 * 8 * 4
    assert not found["ResourceGather"].operations
    assert found["Exp"].operations == 16 and found["Exp"].size == 2 * 16 * 4
    assert not found["Exp"].product


def test_what_an_optimiser_does_is_counted_and_what_is_computed_twice_is_not():
    weight = tf.Variable(np.ones(1000, np.float32))
    other = tf.random.normal([1000])
    optimizer = Adam(0.1)
    optimizer.build([weight])

    def step():
        gradient = tf.exp(other) + tf.exp(other)
        optimizer.apply_gradients([(gradient, weight)])
        return gradient

    work = work_of(step)
    (update,) = (each for each in work if each.kind == "ResourceApplyAdam")
    (exponential,) = (each for each in work if each.kind == "Exp")
    assert update.size == 7 * 4 * 1000 and exponential.operations == 1000


def test_arrays_that_do_not_fit_a_cache_move_as_memory_does():
    core = Core(1e9, (4e9, 3e9, 2e9, 1e9))
    for size, seconds in zip((*SIZES, 2 * SIZES[-1]), (4e9, 3e9, 2e9, 1e9, 1e9), strict=True):
        assert core.moved(size) == size / seconds
