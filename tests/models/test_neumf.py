"""NeuMF: the contract, and what toy versions get wrong."""

import numpy as np
import pytest
import tensorflow as tf

from models.contract.query import Query
from models.names import registry
from tests.models.contract import RetrieveContract, loss_and_gradients, train

TOY = {"epochs": 40, "batch_size": 64, "learning_rate": 5e-3, "factors": 8, "patience": 10}


class TestNeuMF(RetrieveContract):
    name = "neumf"
    hyper_parameters = TOY


def one_batch(data, model, epoch=0):
    return next(model.batches(data, 0, epoch).dataset.as_numpy_iterator())


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("event", 0.0).load_once("neumf")


@pytest.fixture(scope="module")
def model(data):
    module = registry.load("neumf")
    return module.Model(module.HyperParameters(**TOY), data)


def test_tables_are_not_shared_between_the_branches(data, model):
    model.compute_loss(one_batch(data, model))
    tables = [model.gmf_user, model.gmf_item, model.mlp_user, model.mlp_item]
    assert len({id(table.embeddings) for table in tables}) == 4
    assert [table.embeddings.shape[1] for table in tables] == [8, 8, 16, 16]


def test_negatives_are_unobserved_and_redrawn_every_epoch(data, model):
    observed = set(zip(data.events.user, data.events.item))
    first, second = one_batch(data, model, 0), one_batch(data, model, 1)
    for user, items in zip(first["user"], first["items"]):
        assert (user, items[0]) in observed and not any(
            (user, item) in observed for item in items[1:]
        )
    assert first["items"].shape == (64, 5)
    assert not np.array_equal(np.sort(first["items"][:, 1:]), np.sort(second["items"][:, 1:]))
    np.testing.assert_array_equal(first["items"], one_batch(data, model, 0)["items"])


def test_whoever_has_every_item_learns_no_negative(data, model):
    """One positive label of one, where the others have a mean over five."""
    batch = {"user": tf.constant([2, 3]), "items": tf.constant([[2, 3, 4, 5, 6], [2, 0, 0, 0, 0]])}
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch)
    tables = [model.gmf_item.embeddings, model.mlp_item.embeddings]
    for gradient in tape.gradient(loss, tables):
        gradient = tf.convert_to_tensor(gradient).numpy()
        assert not gradient[0].any() and gradient[2].any()


def test_ranking_scores_are_the_training_logits(data, model):
    """The catalogue is scored by a factored form; it must be the function that the loss trains."""
    batch = one_batch(data, model)
    model.compute_loss(batch)
    users, items = tf.constant(batch["user"][:4]), tf.constant(batch["items"][:4])
    gmf = model.gmf_user(users)[:, tf.newaxis] * model.gmf_item(items)
    first = model.first_user(model.mlp_user(users))[:, tf.newaxis] + model.first_item(
        model.mlp_item(items)
    )
    logits = model.prediction(tf.concat([gmf, model.second(tf.nn.relu(first))], axis=-1))[..., 0]
    scores = model.score_items(Query(users, None, None), model.catalogue())
    np.testing.assert_allclose(
        tf.gather(scores, items - 2, batch_dims=1), logits, rtol=1e-4, atol=1e-6
    )


def test_what_a_batch_names_twice_is_multiplied_once_and_learns_the_same(data):
    """A batch of 128 names 640 items, more than there are."""
    module, found = registry.load("neumf"), []
    for compiled in (False, True):  # where XLA compiles, every row is multiplied
        tf.keras.utils.set_random_seed(0)
        changes = {"jit_compile": compiled, "l2": 0.1, "batch_size": 128}
        model = module.Model(module.HyperParameters(**{**TOY, **changes}), data)
        batch = one_batch(data, model)
        model.compute_loss(batch)
        traced = tf.function(model.compute_loss).get_concrete_function(batch)
        assert any(each.type == "Unique" for each in traced.graph.get_operations()) != compiled
        found.append(loss_and_gradients(model, batch))
    for once, each in zip(*found, strict=True):
        np.testing.assert_allclose(once, each, rtol=1e-4, atol=1e-7)


def test_pre_training_hands_over_tables_and_a_fused_output(data):
    """At alpha = 0.3: h = [0.3 h_GMF ; 0.7 h_MLP], b the mean of both."""
    module = registry.load("neumf")
    parameters = module.HyperParameters(**TOY, alpha=0.3)
    models = {
        variant: module.Model(parameters, data, variant) for variant in ("gmf", "mlp", "neumf")
    }
    batch = one_batch(data, models["neumf"])
    for number, each in enumerate(models.values()):
        each.compute_loss(batch)
        each.prediction.bias.assign([float(number)])
    fused = models["neumf"]
    fused._inherit(models["gmf"], models["mlp"])
    np.testing.assert_allclose(
        fused.prediction.kernel[:8], 0.3 * models["gmf"].prediction.kernel, rtol=1e-6
    )
    np.testing.assert_allclose(
        fused.prediction.kernel[8:], 0.7 * models["mlp"].prediction.kernel, rtol=1e-6
    )
    np.testing.assert_allclose(fused.prediction.bias, [0.5])
    np.testing.assert_array_equal(fused.gmf_item.embeddings, models["gmf"].gmf_item.embeddings)


@pytest.mark.thorough
def test_training_twice_with_a_seed_gives_the_same_model(data):
    first, second = (
        train("neumf", data, {**TOY, "epochs": 2, "pretrain": False}) for _ in range(2)
    )
    for left, right in zip(first.get_weights(), second.get_weights()):
        np.testing.assert_allclose(left, right, atol=1e-5)
