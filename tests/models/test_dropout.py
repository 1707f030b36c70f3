"""Dropout: a function of seed, step, place and replica."""

import numpy as np
import pytest
import tensorflow as tf

from models.inputs.dropout import Dropout, Step


def drawn(layer, seed=1, number=0, count=1, shape=(50, 40)):
    """What is left of ones in `count` calls of one step."""
    with Step(seed, tf.constant(number, tf.int64)):
        return [layer(tf.ones(shape), training=True).numpy() for _ in range(count)]


def test_a_share_is_dropped_and_the_rest_is_scaled():
    (left,) = drawn(Dropout(0.75))
    assert set(np.unique(left)) == {0.0, 4.0}
    # 2,000 draws: the share deviates by 0.0097.
    assert abs((left == 0).mean() - 0.75) < 0.04


@pytest.mark.parametrize("rate", [0.3, 0.5])
def test_what_is_left_is_as_much_as_there_was(rate):
    """Places are drawn by 16 bits and by 8: a mean of 1, give or take .002 of 200,000 places."""
    (left,) = drawn(Dropout(rate), shape=(501, 401))
    assert abs(left.mean() - 1) < 0.01 and abs((left == 0).mean() - rate) < 0.005
    # Neighbours, which may be parts of one random word, know nothing of each other.
    kept = left > 0
    for apart in (1, 2, 3, 4):
        assert abs((kept[:, apart:] & kept[:, :-apart]).mean() - (1 - rate) ** 2) < 0.01


def test_masks_differ_by_place_step_and_seed_and_by_nothing_else():
    layer = Dropout(0.5)
    first, second = drawn(layer, count=2)
    others = [second, *drawn(layer, number=1), *drawn(layer, seed=2)]
    # Of two masks that know nothing of each other half of the 2,000 places agree (deviation 22).
    for other in others:
        assert abs((first == other).sum() - 1000) < 110
    # Another object, and an earlier step in between: the same place of the same step.
    np.testing.assert_array_equal(drawn(Dropout(0.5), count=2), [first, second])


def test_whole_vectors_are_dropped_or_kept():
    (left,) = drawn(Dropout(0.5, whole_vectors=True))
    assert set(left.sum(axis=1)) == {0.0, 80.0}


def test_nothing_is_dropped_outside_of_training():
    ones = tf.ones([4, 5])
    np.testing.assert_array_equal(Dropout(0.5)(ones), ones)
    np.testing.assert_array_equal(Dropout(0.0)(ones, training=True), ones)
    with pytest.raises(RuntimeError, match="outside of a training step"):
        Dropout(0.5)(ones, training=True)


def test_half_precision_drops_the_same_places_compiled_or_not():
    """bfloat16 has 256 numbers between 1/2 and 1, too few for a rate of 0.001 to be drawn in it."""
    layer = Dropout(0.001, dtype="bfloat16")

    def step():
        with Step(1, tf.constant(0, tf.int64)):
            return layer(tf.ones([1000, 100], tf.bfloat16), training=True)

    left, compiled = (tf.function(step, jit_compile=jit)() for jit in (False, True))
    # 100,000 draws at 0.001: 100, give or take 10.
    assert left.dtype == tf.bfloat16 and 50 < (left.numpy() == 0).sum() < 150
    assert 50 < (compiled.numpy() == 0).sum() < 150
