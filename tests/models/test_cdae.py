"""CDAE: the contract, its loss by hand in all four variants, its negatives and the user's node."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.autoencoder import cdae
from models.contract.query import Query
from models.inputs.profiles import user_profiles
from models.names import registry
from models.names.label import WEIGHT
from tests.models import contract
from tests.models.contract import RetrieveContract, loss_and_gradients

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
    return toy_data("profile", 0.0).load_once("cdae")


def make(data, **changes):
    module = registry.load("cdae")
    tf.keras.utils.set_random_seed(2)
    return module.Model(module.Model.HyperParameters(**{**TOY, **changes}), data)


@pytest.fixture(params=["rows", "lists"])
def form(request, monkeypatch):
    """Batches are rows over all items, of a few, or lists of items, of many."""
    if request.param == "lists":
        monkeypatch.setattr(cdae, "_FEW_ITEMS", 0)


def one_batch(model, data):
    return next(model.batches(data, 0, 0).dataset.as_numpy_iterator())


def with_weights(batch):
    """An item of a profile weighs by its index."""
    item = batch["items"] if "items" in batch else np.arange(batch["wanted"].shape[1])
    return {**batch, WEIGHT: (item % 4 / 2 * np.ones((len(batch["user"]), 1))).astype(np.float32)}


def rows_of(batch, size):
    """What is read, what the users have and how often each negative was drawn: [B, size] each."""
    if "wanted" in batch:
        return batch["weights"], batch["wanted"], batch["listed"] - batch["wanted"]
    found = np.zeros((3, len(batch["user"]), size), np.float32)
    row = np.arange(len(batch["user"]))[:, np.newaxis]
    for rows, name, value in (
        (found[0], "items", batch["weights"]),
        (found[1], "items", 1),
        (found[2], "negatives", 1),
    ):
        np.add.at(rows, (row, batch[name]), value)
        rows[:, 0] = 0  # padding
    return found


def as_lists(batch):
    """The same batch in lists, padded."""

    def lists(counts):
        return tf.ragged.constant(
            [np.repeat(np.arange(len(row)), row.astype(int)).tolist() for row in counts], tf.int64
        ).to_tensor()

    items = lists(batch["wanted"])
    there = tf.cast(items > 0, tf.float32)
    taken = {
        name: there * tf.gather(batch[name], items, batch_dims=1) for name in ("weights", WEIGHT)
    }
    negatives = lists(batch["listed"] - batch["wanted"])
    return {"user": batch["user"], "items": items, "negatives": negatives, **taken}


@pytest.mark.parametrize("variant", VARIANTS, ids=["M1", "M2", "M3", "M4"])
def test_loss_by_hand(form, data, variant):
    model = make(data, l2=0.3, **variant)
    batch = with_weights(one_batch(model, data))
    model.compute_loss(batch)  # builds
    model.bias.assign(np.linspace(-0.5, 0.5, 16))
    inputs, outputs = model.item_inputs.embeddings.numpy(), model.item_outputs.embeddings.numpy()
    nodes, bias = model.users.embeddings.numpy(), model.bias.numpy()
    model.item_bias.embeddings.assign_add(0.1 * tf.ones_like(model.item_bias.embeddings))
    total = 0.0
    for user, weights, wanted, negatives in zip(
        batch["user"], *rows_of(batch, len(inputs)), strict=True
    ):
        code = weights @ inputs + nodes[user] + bias
        code = code if variant["mapping"] == "identity" else 1 / (1 + np.exp(-code))
        penalty = (nodes[user] ** 2).sum() + (bias**2).sum() + (inputs[weights > 0] ** 2).sum()
        listed = [(i, 1, i % 4 / 2) for i in np.flatnonzero(wanted)]
        listed += [(i, 0, 1) for i in np.repeat(np.arange(len(negatives)), negatives.astype(int))]
        for item, own, weight in listed:
            score = outputs[item] @ code + 0.1
            total += weight * (
                (own - score) ** 2
                if variant["loss"] == "square"
                else np.log1p(np.exp(-score if own else score))
            )
            penalty += (outputs[item] ** 2).sum() + 0.1**2
        total += 0.3 / 2 * penalty
    np.testing.assert_allclose(model.compute_loss(batch), total / len(batch["user"]), rtol=1e-4)


def test_rows_that_are_read_and_whole_tables_give_one_loss_and_one_gradient(data):
    model = make(data, l2=0.3)
    rows = with_weights(one_batch(model, data))
    model.compute_loss(rows)  # builds
    model.item_bias.embeddings.assign_add(0.1 * tf.ones_like(model.item_bias.embeddings))
    found = []
    for model._few, batch in ((False, as_lists(rows)), (True, rows)):
        found.append(loss_and_gradients(model, batch))
    for sparse, dense in zip(*found, strict=True):
        assert np.abs(sparse).max() > 0
        np.testing.assert_allclose(dense, sparse, rtol=1e-4, atol=1e-6)


def test_five_negatives_a_positive_none_of_them_the_users_own(form, data):
    batch, size = one_batch(make(data), data), data.items.embedding_rows
    _, wanted, negatives = rows_of(batch, size)
    np.testing.assert_array_equal(negatives.sum(axis=1), 5 * wanted.sum(axis=1))
    assert not (wanted * negatives).any() and not negatives[:, :2].any()
    of_user = {user: set() for user in batch["user"]}
    for user, item in zip(data.events.user, data.events.item, strict=True):
        of_user.setdefault(user, set()).add(item)
    assert [set(np.flatnonzero(row)) for row in wanted] == [of_user[user] for user in batch["user"]]


def test_events_that_weigh_differently_come_with_their_weights(form, toy_data):
    plain = toy_data("profile", 0.0).load_once("cdae")
    data = contract.with_weights(plain, (1 + plain.events.item % 3).astype(np.float32))
    batch = one_batch(make(data), data)
    _, wanted, _ = rows_of(batch, data.items.embedding_rows)
    users, items, splits, weights = user_profiles(data)
    places = {user: slice(*splits[row : row + 2]) for row, user in enumerate(users)}
    for row, user in enumerate(batch["user"]):
        assert np.flatnonzero(wanted[row]).tolist() == items[places[user]].tolist()
        np.testing.assert_allclose(
            batch[WEIGHT][row][batch[WEIGHT][row] > 0], weights[places[user]]
        )
    assert len({round(float(value), 5) for value in batch[WEIGHT].ravel() if value}) == 3


def test_corruption_hides_from_the_input_and_never_from_the_targets(form, data):
    size = data.items.embedding_rows
    half, none, all_ = (
        rows_of(one_batch(make(data, corruption=rate), data), size) for rate in (0.5, 0.0, 1.0)
    )
    there = half[1] > 0
    # Kept is 1 / (1 - .5) = 2; of 8 users with 7 items each about half is kept.
    assert set(half[0][there]) == {0.0, 2.0} and not half[0][~there].any()
    assert (none[0] == (none[1] > 0)).all() and not all_[0].any() and (all_[1] == half[1]).all()
    # With everything hidden what is left is a factor model: the loss does not see the inputs.
    model = make(data, corruption=1.0)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(one_batch(model, data))
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
