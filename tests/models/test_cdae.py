"""CDAE: the contract, its loss by hand in all four variants, its negatives and the user's node."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.autoencoder import cdae
from models.contract.query import Query
from models.names import registry
from models.names.label import WEIGHT
from tests.models.contract import RetrieveContract

TOY = {"epochs": 40, "patience": 10, "batch_size": 8, "hidden": 16, "corruption": 0.2}
VARIANTS = [
    {"mapping": mapping, "loss": loss}
    for mapping in ("identity", "sigmoid")
    for loss in ("square", "logistic")
]


class TestCDAE(RetrieveContract):
    name = "cdae"
    hyper_parameters = TOY

    def test_a_stranger_gets_the_mean_node_and_no_two_users_the_same(self, trained):
        model, history = trained.model, tf.ragged.constant([[2, 3]] * 3, dtype=tf.int64)
        nodes = model.users.embeddings.numpy()
        query = Query(tf.constant([2, 3, 1], tf.int64), tf.constant([True, True, False]), history)
        pooled = model.item_inputs.embeddings.numpy()[2:4].sum(axis=0) + model.bias.numpy()
        expected = np.stack([nodes[2], nodes[3], nodes[2:].mean(axis=0)]) + pooled
        found = model.query_embedding(query).numpy()
        np.testing.assert_allclose(found[:, :-1], 1 / (1 + np.exp(-expected)), atol=1e-5)
        assert (found[:, -1] == 1).all() and not np.allclose(found[0], found[1])


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("profile", 0.0).load("cdae")


def make(data, **changes):
    module = registry.load("cdae")
    tf.keras.utils.set_random_seed(2)
    return module.Model(module.Model.HyperParameters(**{**TOY, **changes}), data)


def one_batch(model, data):
    return next(model.batches(data, 0, 0).dataset.as_numpy_iterator())


def with_weights(batch):
    """An item of a profile weighs by its index."""
    return {**batch, WEIGHT: (batch["items"] % 4 / 2).astype(np.float32)}


@pytest.mark.parametrize("variant", VARIANTS, ids=["M1", "M2", "M3", "M4"])
def test_loss_by_hand(data, variant):
    model = make(data, l2=0.3, **variant)
    batch = with_weights(one_batch(model, data))
    model.compute_loss(batch)  # builds
    model.bias.assign(np.linspace(-0.5, 0.5, 16))
    inputs, outputs = model.item_inputs.embeddings.numpy(), model.item_outputs.embeddings.numpy()
    nodes, bias = model.users.embeddings.numpy(), model.bias.numpy()
    model.item_bias.embeddings.assign_add(0.1 * tf.ones_like(model.item_bias.embeddings))
    total = 0.0
    for user, items, weights, negatives in zip(
        batch["user"], batch["items"], batch["weights"], batch["negatives"], strict=True
    ):
        code = weights @ inputs[items] + nodes[user] + bias
        code = code if variant["mapping"] == "identity" else 1 / (1 + np.exp(-code))
        penalty = (nodes[user] ** 2).sum() + (bias**2).sum()
        penalty += (inputs[items[weights > 0]] ** 2).sum()
        listed = [(i, 1, i % 4 / 2) for i in items] + [(i, 0, 1) for i in negatives]
        for item, wanted, weight in listed:
            if item:
                score = outputs[item] @ code + 0.1
                total += weight * (
                    (wanted - score) ** 2
                    if variant["loss"] == "square"
                    else np.log1p(np.exp(-score if wanted else score))
                )
                penalty += (outputs[item] ** 2).sum() + 0.1**2
        total += 0.3 / 2 * penalty
    np.testing.assert_allclose(model.compute_loss(batch), total / len(batch["user"]), rtol=1e-4)


def test_rows_that_are_read_and_whole_tables_give_one_loss_and_one_gradient(data, monkeypatch):
    model = make(data, l2=0.3)
    batch = with_weights(one_batch(model, data))
    model.compute_loss(batch)  # builds
    model.item_bias.embeddings.assign_add(0.1 * tf.ones_like(model.item_bias.embeddings))
    found = []
    for few, jit in ((0, False), (1_000, False), (1_000, True)):  # XLA: by a scatter
        monkeypatch.setattr(cdae, "_FEW_ITEMS", few)
        model.hyper_parameters = model.hyper_parameters.model_copy(update={"jit_compile": jit})
        with tf.GradientTape() as tape:
            loss = model.compute_loss(batch)
        gradients = tape.gradient(loss, model.trainable_variables)
        # An index that is read twice has two rows in a sparse gradient: dense, their sum.
        found.append([loss, *map(tf.convert_to_tensor, gradients)])
    for sparse, dense, compiled in zip(*found, strict=True):
        assert np.abs(sparse).max() > 0
        for other in (dense, compiled):
            np.testing.assert_allclose(other, sparse, rtol=1e-4, atol=1e-6)


def test_five_negatives_a_positive_none_of_them_the_users_own(data):
    model = make(data)
    batch = one_batch(model, data)
    for items, negatives in zip(batch["items"], batch["negatives"], strict=True):
        own, drawn = items[items > 0], negatives[negatives > 0]
        assert len(drawn) == 5 * len(own) and not set(drawn) & set(own)
        assert drawn.min() >= 2 and drawn.max() < data.items.embedding_rows


def test_corruption_hides_from_the_input_and_never_from_the_targets(data):
    half = one_batch(make(data, corruption=0.5), data)
    there = half["items"] > 0
    # Kept is 1 / (1 - .5) = 2; of 8 users with 7 items each about half is kept.
    assert set(half["weights"][there]) == {0.0, 2.0} and not half["weights"][~there].any()
    none, all_ = (one_batch(make(data, corruption=rate), data) for rate in (0.0, 1.0))
    assert (none["weights"] == there).all() and not all_["weights"].any()
    # With everything hidden what is left is a factor model: the loss does not see the inputs.
    model = make(data, corruption=1.0)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(all_)
    gradients = tape.gradient(loss, [model.item_inputs.embeddings, model.users.embeddings])
    assert not np.any(tf.convert_to_tensor(gradients[0])) and np.any(
        tf.convert_to_tensor(gradients[1])
    )


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_batch_steps_by_the_sum_over_its_users(data, batch_size):
    """As the authors' AdaGrad does: the gradient of the mean would be next to nothing."""
    used = []
    loop = SimpleNamespace(
        strategy=tf.distribute.get_strategy(), fit=lambda _, optimizer: used.append(optimizer)
    )
    make(data, batch_size=batch_size, learning_rate=0.1).learn(loop)
    # A gradient of 3 in the sum: .1 x 3 / sqrt(3^2 + 1) = .09487
    weight = tf.Variable([1.0])
    used[0].apply_gradients([(tf.constant([3.0 / batch_size]), weight)])
    np.testing.assert_allclose(weight, [1 - 0.09487], atol=1e-5)
