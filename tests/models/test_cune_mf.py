"""CUNE-MF: the contract on ratings, loss and gradient by hand, what it is without friends."""

import numpy as np
import pytest
import tensorflow as tf

from models.contract import tasks
from models.names import registry
from models.names.errors import ConfigError
from models.training.loop import TrainingLoop
from tests.models.score_contract import CLICK, RATING, ScoreContract

TOY = {
    "epochs": 60,
    "batch_size": 16,
    "learning_rate": 0.02,
    "factors": 6,
    "l2": 0.02,
    "social": 0.01,
    "friends": 5,
    "walks_per_user": 4,
    "walk_length": 6,
    "embedding_dim": 8,
    "embedding_epochs": 2,
    "patience": 20,
}


class TestCUNEMF(ScoreContract):
    name = "cune_mf"
    hyper_parameters = TOY
    label = RATING

    def test_strangers_get_the_mean_vector(self, trained):
        model = trained.model
        users, items = model.users.embeddings.numpy(), model.items.embeddings.numpy()
        inputs = {
            "user_id": tf.constant([1, 0, 5], tf.int32),
            "item_id": tf.constant([4, 1, 1], tf.int32),
        }
        user, item = users[2:].mean(axis=0), items[2:].mean(axis=0)
        np.testing.assert_allclose(
            model.score_rows(inputs), [user @ items[4], user @ item, users[5] @ item], rtol=1e-4
        )

    def test_who_likes_nothing_has_no_friends(self, trained):
        rows = trained.data.train
        liked = rows["user_id"][rows["label"] >= 3.0]
        friends = trained.model._friends
        assert friends.shape[1] == 5
        for user in range(2, trained.data.users.embedding_rows):
            assert friends[user].any() == (user in liked)


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("event", 0.0, RATING).load_once("cune_mf")


def make(data, name="cune_mf", **changes):
    module = registry.load(name)
    model = module.Model(module.HyperParameters(**changes), data)
    TrainingLoop(model.hyper_parameters, data).build(model)
    return model


def batch_of(friends):
    return {
        "user_id": tf.constant([2]),
        "item_id": tf.constant([3]),
        "label": tf.constant([5.0]),
        "friends": tf.constant([friends], tf.int64),
    }


def set_by_hand(model):
    """User 2: (1, 2). Its friends, 4: (0, 2), and 5: (3, 1). Item 3: (0.5, 1)."""
    for layer, rows in (
        (model.users, {0: [9.0, 9.0], 2: [1.0, 2.0], 4: [0.0, 2.0], 5: [3.0, 1.0]}),
        (model.items, {3: [0.5, 1.0]}),
    ):
        values = layer.embeddings.numpy()
        for row, value in rows.items():
            values[row] = value
        layer.embeddings.assign(values)


OWN = {"factors": 2, "batch_size": 1, "l2": 0.1, "social": 0.2}


def test_loss_and_gradient_by_hand(data):
    model = make(data, **OWN)
    set_by_hand(model)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch_of([4, 5, 0]))
    # p.q = 0.5 + 2 = 2.5, error 2.5; |p|^2 = 5, |q|^2 = 1.25; away from 4: 1, from 5: 4 + 1 = 5.
    np.testing.assert_allclose(loss, 0.5 * (2.5**2 + 0.1 * 6.25 + 0.2 * 6), rtol=1e-6)
    users, items = tape.gradient(loss, [model.users.embeddings, model.items.embeddings])
    users, items = tf.convert_to_tensor(users).numpy(), tf.convert_to_tensor(items).numpy()
    # User: -2.5 (0.5, 1) + 0.1 (1, 2) + 0.2 [(1, 0) + (-2, 1)]; its friends stay where they are.
    np.testing.assert_allclose(users[2], [-1.25 + 0.1 - 0.2, -2.5 + 0.2 + 0.2], rtol=1e-5)
    np.testing.assert_allclose(items[3], [-2.5 + 0.05, -5.0 + 0.1], rtol=1e-5)
    assert not np.delete(users, 2, axis=0).any() and not np.delete(items, 3, axis=0).any()


def test_a_user_without_friends_loses_nothing(data):
    model = make(data, **OWN)
    set_by_hand(model)
    expected = 0.5 * (2.5**2 + 0.1 * 6.25)
    for friends in ([0, 0, 0], []):
        np.testing.assert_allclose(model.compute_loss(batch_of(friends)), expected, rtol=1e-6)


def test_with_biases_and_without_friends_it_is_biased_mf(data):
    ours = make(data, biases=True, **OWN)
    theirs = make(data, "biased_mf", factors=2, batch_size=1, l2=0.1)
    random = np.random.default_rng(0)
    for table, other in ((ours.users, theirs.users), (ours.items, theirs.items)):
        values = random.normal(size=table.embeddings.shape).astype(np.float32)
        table.embeddings.assign(values)
        other.embeddings.assign(values)
    batch = batch_of([0, 0])
    np.testing.assert_allclose(ours.compute_loss(batch), theirs.compute_loss(batch), rtol=1e-6)
    np.testing.assert_allclose(ours.score_rows(batch), theirs.score_rows(batch), rtol=1e-6)
    # Friends draw the vectors and leave the bias, the first column, alone.
    user = ours.users.embeddings.numpy()
    away = np.sum((user[2, 1:] - user[4, 1:]) ** 2)
    gained = ours.compute_loss(batch_of([4, 0])) - ours.compute_loss(batch)
    np.testing.assert_allclose(gained, 0.5 * 0.2 * away, rtol=1e-4)


def test_rows_carry_the_friends_of_their_user(data):
    model = make(data, batch_size=32)
    model._friends = np.arange(2 * data.users.embedding_rows).reshape(-1, 2)
    batches = model.batches(data, 0, 0)
    count = 0
    for batch in batches.dataset.take(batches.steps).as_numpy_iterator():
        np.testing.assert_array_equal(batch["friends"][:, 0], 2 * batch["user_id"])
        count += len(batch["label"])
    assert count == len(data.train["label"])


def test_clicks_are_refused(toy_data):
    module, toy = registry.load("cune_mf"), toy_data("event", 0.0, CLICK)
    assert tasks.of("cune_mf", RATING).name == "score"
    with pytest.raises(ConfigError, match="cune_mf predicts ratings.*label.column: rating"):
        module.Model(module.HyperParameters(), toy.load("cune_mf"))
