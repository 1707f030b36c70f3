"""Logistic regression: the contract, and FTRL by hand."""

import numpy as np
import tensorflow as tf

from models.training.optimizers import Ftrl
from tests.models.score_contract import ScoreContract


class TestLR(ScoreContract):
    name = "lr"
    hyper_parameters = {"epochs": 15, "batch_size": 128, "learning_rate": 0.1}
    least_auc = 0.75  # it has no interactions, by design


def test_ftrl_by_hand():
    # alpha 0.5, beta 1, l1 1, l2 0; gradients 0.5, then 2 on the first weight alone.
    # Step 1: n = .25, z = .5 -> |z| <= 1, w = 0. Step 2: n = 4.25, z = .5 + 2 - 0 = 2.5,
    # w = -(2.5 - 1) / ((1 + sqrt(4.25)) / .5) = -1.5 / 6.123106 = -.244974. The second weight: z =
    # -.5, stays exactly 0.
    optimizer, weights = Ftrl(0.5, beta=1.0, l1=1.0), tf.Variable([0.0, 0.0])
    optimizer.apply_gradients([(tf.constant([0.5, -0.5]), weights)])
    assert weights.numpy().tolist() == [0.0, 0.0]
    optimizer.apply_gradients(
        [(tf.IndexedSlices(tf.constant([2.0]), tf.constant([0]), tf.constant([2])), weights)]
    )
    np.testing.assert_allclose(weights, [-0.244974, 0.0], atol=1e-6)
    # Step 3, gradient -1: sigma = (sqrt(5.25) - sqrt(4.25)) / .5 = .459466, z = 2.5 - 1 + .459466 *
    # .244974 = 1.612557, w = -.612557 / ((1 + sqrt(5.25)) / .5) = -.612557 / 6.582576 = -.093057.
    optimizer.apply_gradients([(tf.constant([-1.0, 0.0]), weights)])
    np.testing.assert_allclose(weights, [-0.093057, 0.0], atol=1e-6)
