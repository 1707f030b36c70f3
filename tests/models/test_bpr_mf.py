"""BPR-MF: the contract, the loss by hand, and what toy versions get wrong."""

import numpy as np
import pytest
import tensorflow as tf

from models.names import registry
from models.names.label import WEIGHT
from tests.models.contract import RetrieveContract, train

TOY = {"epochs": 30, "batch_size": 64, "learning_rate": 1e-2, "factors": 8, "patience": 10}


class TestBPRMF(RetrieveContract):
    name = "bpr_mf"
    hyper_parameters = TOY

    def test_embedding_times_index_is_the_score_bias_included(self, trained):
        bias = trained.model.item_bias.embeddings
        assert np.ptp(bias) > 0
        embedding = trained.signatures["embed"](
            user_id=tf.constant(["user 0"]), history=tf.zeros([1, 0], tf.string)
        )["embedding"]
        found = trained.signatures["retrieve"](embedding=embedding, k=tf.constant(60))
        answer = self.ask(trained, ["user 0"], k=60)
        score = dict(zip(found["item_id"].numpy()[0], found["score"].numpy()[0], strict=True))
        for item, value in zip(answer["item_id"][0], answer["score"][0], strict=True):
            if item:
                np.testing.assert_allclose(score[item], value, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("event", 0.0).load_once("bpr_mf")


def make(data, **changes):
    module = registry.load("bpr_mf")
    model = module.Model(module.HyperParameters(**{**TOY, "factors": 2, **changes}), data)
    model.compute_loss({"user": tf.constant([2]), "items": tf.constant([[2, 3]])})
    return model


def set_by_hand(model):
    """User 2: (1, 2). Item 2: (0.5, 1), bias 0.1. Item 3: (1, -1), bias 0.3."""
    for layer, rows in (
        (model.user_factors, [[1.0, 2.0]]),
        (model.item_factors, [[0.5, 1.0], [1.0, -1.0]]),
        (model.item_bias, [[0.1], [0.3]]),
    ):
        values = layer.embeddings.numpy()
        values[2 : 2 + len(rows)] = rows
        layer.embeddings.assign(values)


def test_loss_by_hand(data):
    # x_ui = 0.1 + 0.5 + 2 = 2.6, x_uj = 0.3 + 1 - 2 = -0.7; -ln sigmoid(3.3) = ln(1 + e^-3.3) =
    # 0.036221.
    model = make(data, l2_user=0.0, l2_item=0.0, l2_negative=0.0)
    set_by_hand(model)
    batch = {"user": tf.constant([2]), "items": tf.constant([[2, 3]])}
    np.testing.assert_allclose(model.compute_loss(batch), np.log1p(np.exp(-3.3)), rtol=1e-5)
    # |p|^2 = 5, |q_i|^2 = 1.25, |q_j|^2 = 2, biases 0.01 + 0.09.
    model = make(data, l2_user=0.1, l2_item=0.2, l2_negative=0.3, l2_bias=0.5)
    set_by_hand(model)
    np.testing.assert_allclose(
        model.compute_loss(batch), np.log1p(np.exp(-3.3)) + 0.5 + 0.25 + 0.6 + 0.05, rtol=1e-5
    )


def test_whoever_has_every_item_teaches_nothing(data):
    """Such a row has no negative: 0, the padding, which is none either."""
    model = make(data, l2_user=0.1, l2_bias=0.5)
    with tf.GradientTape() as tape:
        one = model.compute_loss({"user": tf.constant([2]), "items": tf.constant([[2, 3]])})
        both = {"user": tf.constant([2, 4]), "items": tf.constant([[2, 3], [5, 0]])}
        loss = model.compute_loss(both)
    np.testing.assert_allclose(loss, one / 2, rtol=1e-6)
    gradient = tf.convert_to_tensor(tape.gradient(loss, model.item_factors.embeddings)).numpy()
    assert not gradient[[0, 5]].any() and gradient[[2, 3]].all()


def test_only_the_rows_of_the_batch_are_penalised(data):
    model = make(data, l2_user=1.0, l2_item=1.0, l2_negative=1.0, l2_bias=1.0)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(
            {"user": tf.constant([2, 4]), "items": tf.constant([[5, 3], [5, 6]])}
        )
    gradients = tape.gradient(loss, [model.user_factors.embeddings, model.item_factors.embeddings])
    touched = [
        set(np.flatnonzero(np.abs(tf.convert_to_tensor(gradient)).sum(axis=1)))
        for gradient in gradients
    ]
    assert touched == [{2, 4}, {3, 5, 6}]


def test_the_gradient_is_that_of_the_loss(data):
    """In closed form beside TensorFlow's own, of equations in which the same rows come twice."""
    model = make(data, l2_user=0.1, l2_item=0.2, l2_negative=0.3, l2_bias=0.5)
    user, items = tf.constant([2, 4, 2]), tf.constant([[5, 3], [3, 6], [5, 6]])
    model.compute_loss({"user": user, "items": items})
    weight = tf.constant([1.0, 0.5, 1.5])
    tables = [model.user_factors, model.item_factors, model.item_bias]
    variables = [table.embeddings for table in tables]
    with tf.GradientTape(persistent=True) as tape:
        loss = model.compute_loss({"user": user, "items": items, WEIGHT: weight})
        p, has, other = (tables[0](user), *(tables[1](items[:, side]) for side in (0, 1)))
        bias = tables[2](items)[..., 0]
        lost = tf.nn.softplus(bias[:, 1] - bias[:, 0] - tf.reduce_sum(p * (has - other), axis=1))
        lost += tf.reduce_sum(0.1 * p**2 + 0.2 * has**2 + 0.3 * other**2, axis=1)
        plain = tf.reduce_mean(weight * (lost + 0.5 * tf.reduce_sum(bias**2, axis=1)))
    np.testing.assert_allclose(loss, plain, rtol=1e-6)
    for found, expected in zip(
        tape.gradient(loss, variables), tape.gradient(plain, variables), strict=True
    ):
        np.testing.assert_allclose(
            tf.convert_to_tensor(found), tf.convert_to_tensor(expected), rtol=1e-5, atol=1e-8
        )


def test_negatives_are_unobserved_and_redrawn_every_epoch(data):
    model = make(data)
    observed = set(zip(data.events.user, data.events.item, strict=True))
    first, second = (
        next(model.batches(data, 0, epoch).dataset.as_numpy_iterator()) for epoch in (0, 1)
    )
    for user, (positive, negative) in zip(first["user"], first["items"], strict=True):
        assert (user, positive) in observed and (user, negative) not in observed
    assert not np.array_equal(np.sort(first["items"][:, 1]), np.sort(second["items"][:, 1]))


def test_an_epoch_has_every_event_once(data):
    batches = make(data).batches(data, 0, 0)
    pairs = [
        pair
        for batch in batches.dataset.take(batches.steps).as_numpy_iterator()
        for pair in zip(batch["user"].tolist(), batch["items"][:, 0].tolist(), strict=True)
    ]
    assert sorted(pairs) == sorted(
        zip(data.events.user.tolist(), data.events.item.tolist(), strict=True)
    )


def test_training_twice_with_a_seed_gives_the_same_model(data):
    first, second = (train("bpr_mf", data, {**TOY, "epochs": 2}) for _ in range(2))
    for left, right in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)
