"""Biased matrix factorisation: the contract on ratings, a step by hand, and unknown ids."""

import numpy as np
import pytest
import tensorflow as tf

from models.names import registry
from models.training.loop import TrainingLoop
from tests.models.score_contract import RATING, ScoreContract

TOY = {
    "epochs": 60,
    "batch_size": 16,
    "learning_rate": 0.05,
    "factors": 4,
    "l2": 0.02,
    "patience": 20,
}


class TestBiasedMF(ScoreContract):
    name = "biased_mf"
    hyper_parameters = TOY
    label = RATING

    def test_strangers_get_the_mean_and_the_bias_that_is_known(self, trained):
        data, model = trained.data, trained.model
        known = int(data.items.ids.tolist().index("item 1 é".encode()) + 2)
        inputs = {
            "user_id": tf.constant([1, 1, 0], tf.int32),
            "item_id": tf.constant([1, known, known], tf.int32),
        }
        bias = float(model.items.embeddings[known, 0])
        np.testing.assert_allclose(
            model.score_rows(inputs),
            [data.label_mean, data.label_mean + bias, data.label_mean + bias],
            rtol=1e-5,
        )


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("event", 0.0, RATING).load("biased_mf")


def test_one_step_by_hand(data):
    """One rating: e = r - (mu + p.q), and the step that follows.

    p <- p + lr (e q - l2 p), b <- b + lr (e - l2 b) from b = 0; other rows stay as they are.
    """
    module = registry.load("biased_mf")
    parameters = module.HyperParameters(
        **{**TOY, "batch_size": 1, "epochs": 1_000_000, "learning_rate": 0.1, "l2": 0.5}
    )
    model = module.Model(parameters, data)
    batch = {"user_id": tf.constant([2]), "item_id": tf.constant([3]), "label": tf.constant([5.0])}
    model.compute_loss(batch)
    users, items = model.users.embeddings.numpy(), model.items.embeddings.numpy()
    model.compile(optimizer=tf.keras.optimizers.SGD(0.1))
    model.train_step(batch)
    p, q = users[2, 1:], items[3, 1:]
    error = 5.0 - data.label_mean - p @ q
    np.testing.assert_allclose(
        model.users.embeddings[2], np.r_[0.1 * error, p + 0.1 * (error * q - 0.5 * p)], rtol=1e-4
    )
    np.testing.assert_allclose(
        model.items.embeddings[3], np.r_[0.1 * error, q + 0.1 * (error * p - 0.5 * q)], rtol=1e-4
    )
    untouched = np.delete(np.arange(len(users)), 2)
    np.testing.assert_array_equal(model.users.embeddings.numpy()[untouched], users[untouched])


def test_the_penalty_is_of_the_rows_of_the_batch(data):
    module = registry.load("biased_mf")
    losses = []
    for l2 in (0.0, 1.0):
        tf.keras.utils.set_random_seed(1)
        model = module.Model(module.HyperParameters(**{**TOY, "batch_size": 2, "l2": l2}), data)
        batch = {
            "user_id": tf.constant([2, 2]),
            "item_id": tf.constant([3, 4]),
            "label": tf.constant([5.0, 1.0]),
        }
        losses.append(float(model.compute_loss(batch)))
    users, items = model.users.embeddings.numpy(), model.items.embeddings.numpy()
    # User 2 rates twice and is regularised twice; half the squares, over a batch of two.
    expected = 0.5 * (2 * np.sum(users[2] ** 2) + np.sum(items[3] ** 2) + np.sum(items[4] ** 2)) / 2
    np.testing.assert_allclose(losses[1] - losses[0], expected, rtol=1e-4)
    assert TrainingLoop(model.hyper_parameters, data).evaluation is None
