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

    def test_a_stranger_with_a_users_ratings_is_scored_much_as_the_user(self, trained):
        """The user's own factors were learnt for the same loss, step by step."""
        model, events, user = trained.model, trained.data.events, 7
        own, item = events.user == user, np.arange(2, 42)
        inputs = {"user_id": np.full(40, user, np.int32), "item_id": item.astype(np.int32)}
        folded = model.fold_in(
            *(column[np.newaxis] for column in (item, events.item[own], events.label[own]))
        )[0]
        assert np.corrcoef(folded, model.score_rows(inputs))[0, 1] > 0.95


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("event", 0.0, RATING).load_once("biased_mf")


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


def test_two_ratings_folded_in_by_hand(data):
    """One factor, l2 1/2; items 2, 3 and 4 with biases 0, 1 and 0.5, vectors 1, 2 and 3.

    The ratings are m + 3 and m + 2, m the train mean: 3 and 1 are left of them. With A = [[1, 1],
    [1, 2]] (a one and the vector) A'A + 2 l2 I = [[3, 3], [3, 6]] and A' (3, 1) = (4, 5): b = 1,
    p = 1/3. Item 4: m + 0.5 + 1 + 3/3; an item that train has not seen: m + 1.
    """
    module = registry.load("biased_mf")
    model = module.Model(module.HyperParameters(factors=1, l2=0.5), data)
    model.items.build(None)
    table = model.items.embeddings.numpy()
    table[2:5] = [[0, 1], [1, 2], [0.5, 3]]
    model.items.embeddings.assign(table)
    mean = data.label_mean
    item, rated = tf.constant([[4, 1]], tf.int64), tf.constant([[2, 0, 3]], tf.int64)
    rating = tf.constant([[mean + 3, 0, mean + 2]], tf.float32)
    np.testing.assert_allclose(
        model.fold_in(item, rated, rating)[0], [mean + 2.5, mean + 1], rtol=1e-5
    )
    # Without ratings: the item's bias alone.
    np.testing.assert_allclose(
        model.fold_in(item, tf.zeros_like(rated), rating)[0], [mean + 0.5, mean], rtol=1e-5
    )
