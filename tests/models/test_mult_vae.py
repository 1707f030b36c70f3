"""Mult-VAE: the contract, golden vectors, and what toy versions get wrong."""

import numpy as np
import pytest
import tensorflow as tf

from models.autoencoder.mult_vae import kl_divergence
from models.autoencoder.multinomial import negative_log_likelihood
from models.contract.query import Query
from models.contract.retrieve_task import Evaluation
from models.names import registry
from models.training.loop import TrainingLoop
from models.training.warm_start import load_weights, save_weights
from tests.models import toy
from tests.models.contract import RetrieveContract, train

TOY = {
    "epochs": 40,
    "batch_size": 32,
    "learning_rate": 5e-3,
    "hidden": 32,
    "latent": 8,
    "anneal_updates": 400,
    "patience": 10,
}


class TestMultVAE(RetrieveContract):
    name = "mult_vae"
    hyper_parameters = TOY

    def test_ranking_takes_the_mean_and_adds_no_noise(self, trained):
        history = tf.ragged.constant([[5, 9, 12]], dtype=tf.int64)
        scores = trained.model.score_items(Query(None, None, history), ())
        profile = np.zeros((1, trained.data.items.index_count), np.float32)
        profile[0, [5, 9, 12]] = 3**-0.5
        mean, _ = trained.model.posterior_of(tf.constant(profile))
        np.testing.assert_allclose(scores, trained.model.decode(mean)[:, 2:], rtol=1e-5)
        np.testing.assert_array_equal(
            scores, trained.model.score_items(Query(None, None, history), ())
        )

    def test_a_repeated_item_counts_once(self, trained):
        scores = [
            trained.model.score_items(
                Query(None, None, tf.ragged.constant([row], dtype=tf.int64)), ()
            )
            for row in ([5, 9], [5, 9, 5])
        ]
        np.testing.assert_allclose(*scores, rtol=1e-5)


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("profile", 0.0).load_once("mult_vae")


def make(data, **changes):
    module = registry.load("mult_vae")
    return module.Model(module.HyperParameters(**{**TOY, **changes}), data)


def take(model, data, count, epoch=0):
    return list(model.batches(data, 0, epoch).dataset.take(count).as_numpy_iterator())


def test_golden_kl_divergence():
    value = kl_divergence(
        tf.constant([[0.5, -1.0]]), tf.constant([[0.0, np.log(0.25)]], tf.float32)
    )
    np.testing.assert_allclose(value, [0.943147], atol=1e-5)


def test_likelihood_by_hand():
    # softmax of [0, ln 2, ln 5] is [1/8, 2/8, 5/8]. Items 0 and 2: ln 8 + ln 8/5; item 1 alone: ln
    # 4. A mean over users, a sum over items.
    # Padding and unknown, the first two columns, are no items, however likely.
    logits = tf.math.log([[9.0, 7.0, 1.0, 2.0, 5.0], [1.0, 8.0, 1.0, 2.0, 5.0]])
    loss = negative_log_likelihood(logits, tf.constant([[2, 4], [3, 0]], tf.int64))
    np.testing.assert_allclose(loss, (np.log(8) + np.log(8 / 5) + np.log(4)) / 2, rtol=1e-6)
    # Item 0 of the first user weighs 2, item 2 a half; padding nothing, whatever is said of it.
    weights = tf.constant([[2.0, 0.5], [1.0, 9.0]])
    loss = negative_log_likelihood(logits, tf.constant([[2, 4], [3, 0]], tf.int64), weights)
    np.testing.assert_allclose(loss, (2 * np.log(8) + np.log(8 / 5) / 2 + np.log(4)) / 2, rtol=1e-6)


def test_input_is_normalised_then_dropped_and_the_target_is_whole(data):
    """Every toy user has 7 train items.

    What is kept weighs 7^-0.5 / 0.75 at a rate of 0.25, the rest nothing.
    """
    model = make(data, dropout=0.25)
    profiles = {tuple(row) for row in data.events.matrix(60).tolil().rows}
    weights = []
    for batch in take(model, data, 4):
        assert {tuple(row - 2) for row in batch["items"]} <= profiles
        weights.append(batch["weights"])
        inputs = tf.sparse.to_dense(model.corrupted(batch)).numpy()
        np.testing.assert_allclose(
            np.take_along_axis(inputs, batch["items"], axis=1), batch["weights"]
        )
        assert np.count_nonzero(inputs) == np.count_nonzero(batch["weights"])
    weights = np.concatenate(weights)
    kept = weights > 0
    np.testing.assert_allclose(weights[kept], 7**-0.5 / 0.75, rtol=1e-6)
    assert kept.shape == (120, 7) and abs(kept.mean() - 0.75) < 3 * (0.75 * 0.25 / kept.size) ** 0.5


def test_beta_grows_by_updates_up_to_its_cap(data):
    # 120 users in batches of 32: 4 updates an epoch. beta = min(0.2, t / 30) for t = 0, 1, ...
    batches = take(make(data, anneal_updates=30), data, 9)
    np.testing.assert_allclose(
        [batch["beta"][0] for batch in batches],
        [0, 1 / 30, 2 / 30, 3 / 30, 4 / 30, 5 / 30, 0.2, 0.2, 0.2],
        rtol=1e-5,
    )
    assert [len(batch["beta"]) for batch in batches[:4]] == [32, 32, 32, 24]


def test_beta_reaches_its_cap_within_the_run_by_default(data):
    # 4 updates an epoch, 10 epochs: 40 updates, of which 0.85 are 34.
    batches = take(make(data, epochs=10, anneal_updates=None), data, 40)
    np.testing.assert_allclose(
        [batch["beta"][0] for batch in batches],
        [0.2 * min(1.0, update / 34) for update in range(40)],
        rtol=1e-5,
    )


def test_a_resumed_training_sees_the_same_users_noise_and_beta(data):
    model = make(data)
    whole, resumed = take(model, data, 8)[4:], take(model, data, 4, epoch=1)
    for left, right in zip(whole, resumed, strict=True):
        for name in ("items", "weights", "noise", "beta"):
            np.testing.assert_array_equal(left[name], right[name])
    assert not np.array_equal(whole[0]["noise"], whole[1]["noise"])


def test_loss_is_likelihood_of_a_sample_plus_beta_times_divergence(data):
    model = make(data)
    batch = take(model, data, 1)[0]
    mean, log_variance = model.posterior_of(model.corrupted(batch))
    logits = model.decode(mean + batch["noise"] * np.exp(log_variance / 2)).numpy()[:, 2:]
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -np.take_along_axis(log_softmax, batch["items"] - 2, axis=1).sum(axis=1).mean()
    divergence = (
        0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance).numpy().sum(axis=1).mean()
    )
    assert divergence > 0
    for beta in (0.0, 0.7):
        value = model.compute_loss({**batch, "beta": np.full(32, beta, np.float32)})
        np.testing.assert_allclose(value, expected + beta * divergence, rtol=1e-5)


def test_initial_weights(data):
    model = make(data, hidden=600, latent=200)
    model.compute_loss(take(model, data, 1)[0])
    kernel, bias = (weight.numpy() for weight in (model.posterior.kernel, model.posterior.bias))
    assert (
        kernel.shape == (600, 400)
        and np.abs(kernel).max() <= (6 / 1000) ** 0.5
        and np.abs(kernel).max() > 0.99 * (6 / 1000) ** 0.5
    )
    for bias in (
        model.from_items.bias,
        model.posterior.bias,
        model.generator.bias,
        model.to_items.bias.embeddings,
    ):
        assert 0 < np.abs(bias.numpy()).max() <= 0.0021


def test_warm_start_aligns_the_items_on_both_sides(data, tmp_path):
    old, new = make(data), make(data)
    for model in (old, new):
        TrainingLoop(model.hyper_parameters, data).build(model)
    save_weights(old, str(tmp_path))
    for layer in (new.from_items.kernel, new.to_items.kernel, new.to_items.bias):
        layer.tokens = layer.tokens[::-1]
    counts = load_weights(new, str(tmp_path))
    assert counts["aligned"] == 3 and counts["rows"] == 180 and counts["skipped"] == 0
    for side in ("from_items", "to_items"):
        before, after = (getattr(model, side).kernel.embeddings.numpy() for model in (old, new))
        np.testing.assert_array_equal(after[2:], before[:1:-1])


@pytest.mark.thorough
def test_strong_generalisation(tmp_path):
    """Users held out whole.

    Train has none of their events, and a part of their items is enough to find the others.
    """
    built = toy.build(
        tmp_path,
        0.0,
        "profile",
        {"name": "user_holdout", "valid_fraction": 0.2, "test_fraction": 0.2, "input_share": 0.7},
    )
    data = built.load("mult_vae")
    assert (
        data.users.train_count == 72
        and len(data.events.starts) - 1 == 72
        and len(data.queries("test")) == 24
    )
    values = Evaluation(data, data.queries("test")).of(train("mult_vae", data, TOY))()
    # 9 items a user: 2 wanted (.3 of 9, rounded down), 7 known. Whoever knows the block of 15 has
    # them among the 8 that are left of it, so within the first 10; a blind order of the catalogue
    # of 60 has each within its first 10 with probability 10 / 53.
    assert values["recall_10"] > 0.9, values
