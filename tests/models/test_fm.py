"""Factorization machine: the contract, the golden vector, and the identity."""

import numpy as np
import pytest
import tensorflow as tf

from models.feature_interaction.fm import pair_sum
from tests.models.score_contract import RATING, ScoreContract

TOY = {
    "epochs": 30,
    "batch_size": 128,
    "learning_rate": 1e-2,
    "factors": 4,
    "stddev": 0.1,
    "l2_factors": 1e-3,
}


class TestFM(ScoreContract):
    name = "fm"
    hyper_parameters = TOY

    def test_missing_and_unknown_rows_are_trained(self, trained):
        # Some users have no age in train, and unknown_rate makes some ids unknown: their rows have
        # moved from zero.
        rows, table = trained.model.rows, trained.model.linear.embeddings.numpy()
        for name, index in (("user_occupation", 0), ("user_id", 1), ("item_id", 1)):
            assert abs(table[rows.offsets[name] + index, 0]) > 1e-4, name


class TestFMOnRatings(ScoreContract):
    name = "fm"
    hyper_parameters = TOY
    label = RATING


def test_golden_vector():
    # The sheet's: w0 .1, w [.1, -.2, .3, .4], V [[1, 0], [.5, -.5], [2, 1], [0, 1]], x [1, 2, 0, 3]
    # -> -1.0.
    x = np.array([1.0, 2.0, 0.0, 3.0], np.float32)
    factors = np.array([[1, 0], [0.5, -0.5], [2, 1], [0, 1]], np.float32)
    linear = 0.1 + np.dot([0.1, -0.2, 0.3, 0.4], x)
    pairs = pair_sum(tf.constant(factors * x[:, np.newaxis])[tf.newaxis])
    np.testing.assert_allclose(linear + pairs, [-1.0], atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_identity_equals_the_double_loop(scale):
    weighted = scale * np.random.RandomState(1).normal(size=(3, 7, 4)).astype(np.float32)
    expected = [sum(row[i] @ row[j] for i in range(7) for j in range(i + 1, 7)) for row in weighted]
    np.testing.assert_allclose(pair_sum(tf.constant(weighted)), expected, rtol=1e-4)
