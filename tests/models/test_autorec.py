"""AutoRec: the contract on ratings for both variants, and the loss by hand.

Also what toy versions get wrong.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.autoencoder.autorec import rating_matrix
from models.names import registry
from models.names.errors import ConfigError
from tests.models.score_contract import CLICK, RATING, ScoreContract

TOY = {
    "epochs": 120,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "hidden": 32,
    "l2": 1.0,
    "patience": 20,
}


class TestItemAutoRec(ScoreContract):
    name = "autorec"
    hyper_parameters = TOY
    label = RATING

    def test_prediction_is_the_rebuilt_train_vector_of_the_item_at_the_place_of_the_user(
        self, trained
    ):
        model, events = trained.model, trained.data.events
        item, user = int(events.item[0]), 7
        vector = np.zeros((1, trained.data.users.embedding_rows), np.float32)
        chosen = events.item == item
        vector[0, events.user[chosen]] = events.label[chosen]
        expected = model.decoder(model.encoder(tf.constant(vector)))[0, user]
        inputs = {
            "user_id": tf.constant([user], tf.int32),
            "item_id": tf.constant([item], tf.int32),
        }
        np.testing.assert_allclose(model.score_rows(inputs)[0], expected, rtol=1e-4)

    def test_strangers_get_means(self, trained):
        """An unknown user: the item's mean. An unknown item: the mean of all."""
        events, item = trained.data.events, 5
        inputs = {
            "user_id": tf.constant([1, 0, 4, 1], tf.int32),
            "item_id": tf.constant([item, item, 1, 1], tf.int32),
        }
        mean = events.label[events.item == item].mean()
        total = trained.data.label_mean
        np.testing.assert_allclose(
            trained.model.score_rows(inputs), [mean, mean, total, total], rtol=1e-5
        )


class TestUserAutoRec(ScoreContract):
    name = "autorec"
    hyper_parameters = {**TOY, "variant": "user"}
    label = RATING

    def test_strangers_get_means(self, trained):
        """An unknown item: the user's mean. An unknown user: the mean of all."""
        events, user = trained.data.events, 5
        inputs = {
            "user_id": tf.constant([user, 1], tf.int32),
            "item_id": tf.constant([1, 4], tf.int32),
        }
        mean = events.label[events.user == user].mean()
        np.testing.assert_allclose(
            trained.model.score_rows(inputs), [mean, trained.data.label_mean], rtol=1e-5
        )

    def test_a_stranger_with_a_users_ratings_is_scored_as_the_user(self, trained):
        model, events, user = trained.model, trained.data.events, 5
        own = events.user == user
        item = np.arange(1, 12)
        inputs = {"user_id": np.full(11, user, np.int32), "item_id": item.astype(np.int32)}
        folded = model.fold_in(
            *(column[np.newaxis] for column in (item, events.item[own], events.label[own]))
        )
        np.testing.assert_allclose(folded[0], model.score_rows(inputs), rtol=1e-4)
        nothing = tf.zeros([1, 1], tf.int64), tf.zeros([1, 1])
        np.testing.assert_allclose(
            model.fold_in(tf.constant([item]), *nothing), trained.data.label_mean, rtol=1e-5
        )


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("profile", 0.0, RATING).load_once("autorec")


def make(data, **changes):
    module = registry.load("autorec")
    return module.Model(module.HyperParameters(**{**TOY, **changes}), data)


def test_loss_is_masked_and_penalised_by_hand(data):
    """Two items, two and one ratings.

    The loss is the squares of three errors over two items, and l2 / 2 of the squared kernels over
    40 items.
    """
    model = make(data, l2=80.0)
    batch = {
        "column": tf.constant([[2, 5], [3, 0]], tf.int64),
        "rating": tf.constant([[4.0, 1.0], [5.0, 0.0]]),
    }
    vectors = np.zeros((2, data.users.embedding_rows), np.float32)
    vectors[[0, 0, 1], [2, 5, 3]] = [4, 1, 5]
    weights, back = model.encoder.kernel.embeddings.numpy(), model.decoder.kernel.embeddings.numpy()
    codes = 1 / (1 + np.exp(-(vectors @ weights + model.encoder.bias.numpy())))
    rebuilt = codes @ back.T + model.decoder.bias.embeddings.numpy()[:, 0]
    errors = (4 - rebuilt[0, 2]) ** 2 + (1 - rebuilt[0, 5]) ** 2 + (5 - rebuilt[1, 3]) ** 2
    penalty = 80 / 2 / 40 * ((weights**2).sum() + (back**2).sum())
    np.testing.assert_allclose(model.compute_loss(batch), errors / 2 + penalty, rtol=1e-4)


def test_only_observed_ratings_give_a_gradient(data):
    model = make(data, l2=0.0)
    batch = {"column": tf.constant([[2, 5]], tf.int64), "rating": tf.constant([[4.0, 1.0]])}
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch)
    gradients = tape.gradient(
        loss,
        [
            model.encoder.kernel.embeddings,
            model.decoder.kernel.embeddings,
            model.decoder.bias.embeddings,
        ],
    )
    for gradient in gradients:
        assert set(np.flatnonzero(np.abs(tf.convert_to_tensor(gradient)).sum(axis=1))) == {2, 5}


def test_an_epoch_has_every_train_rating_once_and_no_other(data):
    model = make(data)
    batches = model.batches(data, 0, 0)
    seen = [
        rating
        for batch in batches.dataset.take(batches.steps).as_numpy_iterator()
        for rating in batch["rating"][batch["column"] > 0]
    ]
    assert batches.rows == 40 and batches.steps == 5
    assert sorted(seen) == sorted(data.events.label)


def test_of_several_ratings_of_a_pair_the_last_counts():
    events = SimpleNamespace(
        user=np.array([2, 2, 2, 3]),
        item=np.array([4, 3, 4, 4]),
        label=np.array([1.0, 2.0, 5.0, 3.0], np.float32),
    )
    expected = np.zeros((5, 4), np.float32)
    expected[4, 2], expected[3, 2], expected[4, 3] = 5, 2, 3
    np.testing.assert_array_equal(rating_matrix(events, True, 5, 4).toarray(), expected)
    np.testing.assert_array_equal(rating_matrix(events, False, 4, 5).toarray(), expected.T)
    # A column that is out of the vocabulary, or unknown, is left out.
    assert rating_matrix(events, True, 4, 4).nnz == 1


def test_codes_are_of_the_weights_as_they_are(data):
    model = make(data)
    model.prepare()
    before = model.codes.numpy()
    model.encoder.bias.assign_add(tf.ones_like(model.encoder.bias))
    model.prepare()
    assert (model.codes.numpy()[2:] > before[2:]).all()


def test_clicks_are_refused(toy_data):
    with pytest.raises(ConfigError, match="autorec rebuilds ratings"):
        make(toy_data("event", 0.0, CLICK).load_once("autorec"))
