"""Mult-DAE: the contract, and its loss by hand. What it shares with Mult-VAE is tested there."""

import numpy as np
import pytest
import tensorflow as tf

from models.names import registry
from tests.models.contract import RetrieveContract, train

TOY = {"epochs": 40, "batch_size": 32, "learning_rate": 5e-3, "hidden": 32, "patience": 10}


class TestMultDAE(RetrieveContract):
    name = "mult_dae"
    hyper_parameters = TOY


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("profile", 0.0).load_once("mult_dae")


def make(data, **changes):
    module = registry.load("mult_dae")
    return module.Model(module.HyperParameters(**{**TOY, **changes}), data)


def one_batch(model, data):
    return next(model.batches(data, 0, 0).dataset.as_numpy_iterator())


def test_one_tanh_layer_between_the_items(data):
    model = make(data, hidden=3, l2=0.0)
    batch = one_batch(model, data)
    inputs = tf.sparse.to_dense(model.corrupted(batch)).numpy()
    first, bias = model.from_items.kernel.embeddings.numpy(), model.from_items.bias.numpy()
    last, last_bias = (
        model.to_items.kernel.embeddings.numpy(),
        model.to_items.bias.embeddings.numpy()[:, 0],
    )
    logits = (np.tanh(inputs @ first + bias) @ last.T + last_bias)[:, 2:]
    np.testing.assert_allclose(model.decode(model.encode(inputs))[:, 2:], logits, atol=1e-5)
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -np.take_along_axis(log_softmax, batch["items"] - 2, axis=1).sum(axis=1).mean()
    np.testing.assert_allclose(model.compute_loss(batch), expected, rtol=1e-5)


def test_kernels_are_penalised_once_a_batch_and_biases_never(data):
    model = make(data, l2=0.0)
    batch = one_batch(model, data)
    without = float(model.compute_loss(batch))
    model.hyper_parameters = model.hyper_parameters.model_copy(update={"l2": 8.0})
    squares = sum(
        (kernel.embeddings.numpy() ** 2).sum()
        for kernel in (model.from_items.kernel, model.to_items.kernel)
    )
    np.testing.assert_allclose(
        float(model.compute_loss(batch)) - without, 8.0 / 32 * squares, rtol=1e-4
    )


@pytest.mark.thorough
def test_training_twice_with_a_seed_gives_the_same_model(data):
    first, second = (train("mult_dae", data, {**TOY, "epochs": 2}) for _ in range(2))
    for left, right in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)
