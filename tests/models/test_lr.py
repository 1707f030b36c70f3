"""Logistic regression: the contract, and FTRL by hand."""

import numpy as np
import pytest
import tensorflow as tf

from models.contract import tasks
from models.names import registry
from models.training import warm_start
from models.training.loop import TrainingLoop
from models.training.optimizers import Ftrl
from tests.models.score_contract import RATING, ScoreContract, train


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


@pytest.mark.parametrize("sparse", [False, True])
def test_ftrl_steps_from_the_weights_that_it_is_given(sparse):
    """With n = 0 and z_0 of the weight, w' = w - g / ((beta + |g|) / alpha + l2), of one sign."""
    alpha, rows, beta, l1, l2 = 0.5, 4, 1.0, 0.8, 0.4
    start, gradient = np.array([0.7, -0.3, 0.6, 0.9]), np.array([0.2, 0.1, 0.0])
    optimizer = Ftrl(alpha, rows=rows, beta=beta, l1=l1, l2=l2)
    weights = tf.Variable(start, dtype=tf.float32)
    slices = tf.IndexedSlices(tf.constant(gradient, tf.float32), tf.range(3), tf.constant([4]))
    optimizer.apply_gradients(
        [(slices if sparse else tf.constant([*gradient, 0.0], tf.float32), weights)]
    )
    step = gradient / ((beta / rows + np.abs(gradient)) / alpha + l2 / rows)
    np.testing.assert_allclose(weights, [*(start[:3] - step), 0.9], atol=1e-6)


def test_ftrl_of_zero_weights_starts_as_it_always_has():
    optimizer, weights = Ftrl(0.5, rows=4, l1=1.0, l2=1.0), tf.Variable([0.0, -0.0])
    optimizer.build([weights])
    assert [slot.numpy().tobytes() for slot in optimizer.variables[1:]] == [bytes(8), bytes(8)]


def test_a_warm_start_survives_the_first_step(toy_data, tmp_path):
    toy = toy_data("event", 0.0, RATING)
    old, data = train("lr", toy, {"epochs": 15, "batch_size": 128, "learning_rate": 0.1})
    warm_start.save_weights(old, str(tmp_path))
    # An alpha at which FTRL on its own makes little of a weight in one step.
    parameters = registry.load("lr").HyperParameters(learning_rate=0.001, unknown_rate=0.0)
    new = registry.load("lr").Model(parameters, data)
    session = TrainingLoop(parameters, data, stage_epochs={"model": 1})
    session.build(new)
    warm_start.load_weights(new, str(tmp_path))
    rmse = tasks.of("lr", RATING).evaluation(data, "valid").of
    loaded, before = rmse(new)()["rmse"], [each.numpy() for each in new.trainable_variables]
    assert loaded < 0.9 * rmse(new)()["constant_rmse"]
    new.learn(session)
    assert rmse(new)()["rmse"] < 1.02 * loaded
    # While n is 0 a step of FTRL is shorter than alpha.
    for old_values, variable in zip(before, new.trainable_variables, strict=True):
        assert 0 < np.abs(variable.numpy() - old_values).max() <= parameters.learning_rate
