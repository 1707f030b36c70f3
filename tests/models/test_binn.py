"""BINN: the contract, and what its paper says of it, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.contract.query import Query
from models.industry import binn
from models.industry.recurrent import read_through
from models.inputs.skip_gram import SkipGram, tile_loss
from models.names.errors import ConfigError
from tests.models.contract import RetrieveContract

TOY = {
    "epochs": 5,
    "batch_size": 32,
    "learning_rate": 1e-2,
    "embedding_dim": 16,
    "units": 16,
    "vector_epochs": 10,
    "vector_batch_size": 256,
}
VIEW, CART = 2, 3


class TestBINN(RetrieveContract):
    name = "binn"
    hyper_parameters = TOY


@pytest.fixture(scope="module")
def make(toy_data):
    """A function that makes a model with random item vectors, of a log that has two types."""
    data = toy_data("sequence", 0.0).load_once("binn")
    told = SimpleNamespace(items=data.items, event_types=[b"view", b"cart"])

    def make(**hyper_parameters):
        tf.keras.utils.set_random_seed(1)
        model = binn.BINN(binn.HyperParameters(**{**TOY, **hyper_parameters}), told)
        shape = model.vectors.embeddings.shape
        model.vectors.set_weights([np.random.RandomState(0).normal(size=shape)])
        return model

    return make


def ask(model, events):
    """The vector that is predicted after [(item, type), ...]."""
    items, types = zip(*events, strict=True)
    history = tf.ragged.constant([items], dtype=tf.int64)
    told = tf.ragged.constant([types], dtype=tf.int64)
    query = Query(tf.constant([1]), tf.constant([False]), history, told)
    return model.query_embedding(query).numpy()[0]


def test_a_step_of_clstm_by_hand(make):
    """The gates read the one-hot of the type beside the item's vector, and the state before."""
    model = make(units=1, embedding_dim=2, parts="session")
    model.vectors.set_weights([np.tile([[3.0, 4.0]], [62, 1])])  # of length 5: v = (.6, .8)
    # Rows: v (2), one-hot of unknown, view, cart; columns: input, forget, candidate, output.
    kernel = np.array(
        [
            [1.0, 0.5, -1.0, 0.0],
            [0.0, 0.5, 1.0, 1.0],
            [9.0, 9.0, 9.0, 9.0],
            [0.2, 0.1, 0.5, -0.3],
            [-1.0, 2.0, 0.7, 0.4],
        ]
    )
    recurrent, bias = np.array([[0.3, -0.2, 0.6, 0.1]]), np.array([0.0, 1.0, 0.0, 0.0])
    items, types = tf.constant([[5, 9]]), tf.constant([[VIEW, CART]])
    model._states(model.session, items, types, False)
    model.session.set_weights([kernel, recurrent, bias])
    states, _ = model._states(model.session, items, types, False)
    # First: the gates before their functions are (.6 + .2, .3 + .4 + .1 + 1, -.6 + .8 + .5,
    # .8 - .3) = (.8, 1.8, .7, .5); c = sigmoid(.8) tanh(.7) = .68997 x .60437 = .41700, and h =
    # sigmoid(.5) tanh(.41700) = .62246 x .39440 = .24550.
    # Second: (.6 - 1, .7 + 2 + 1, .2 + .7, .8 + .4) + h x (.3, -.2, .6, .1) = (-.32635, 3.65090,
    # 1.04730, 1.22455); c = .97469 x .41700 + .41913 x .78075 = .73368, h = .77286 x .62531.
    np.testing.assert_allclose(states[0, :, 0], [0.24550, 0.48328], atol=2e-5)


def test_padding_leaves_the_state_as_it_is():
    cell = tf.keras.layers.LSTMCell(3)
    inputs = tf.random.stateless_normal([2, 4, 2], [1, 2])
    there = tf.constant([[True, True, False, False], [True] * 4])
    states = read_through(cell, inputs, there).numpy()
    alone = read_through(cell, inputs[:1, :2], there[:1, :2]).numpy()
    np.testing.assert_allclose(states[0, :2], alone[0], atol=1e-6)
    np.testing.assert_allclose(states[0, 2:], [alone[0, 1]] * 2, atol=1e-6)


def test_plain_looks_change_nothing_of_the_preference(make):
    model = make(parts="preference")
    bought = [(5, CART), (9, CART)]
    looked = [(7, VIEW), bought[0], (8, VIEW), (8, VIEW), bought[1], (30, VIEW)]
    np.testing.assert_allclose(ask(model, looked), ask(model, bought), atol=1e-6)
    assert not np.allclose(ask(model, [bought[1], bought[0]]), ask(model, bought), atol=1e-4)
    # The types of a preference are a setting.
    both = make(parts="preference", preference_types=("view", "cart"))
    assert not np.allclose(ask(both, looked), ask(both, bought), atol=1e-4)


def test_only_the_latest_events_are_the_session(make):
    model = make(parts="session", recent_length=3)
    latest = [(5, VIEW), (6, CART), (7, VIEW)]
    np.testing.assert_allclose(ask(model, [(9, CART), *latest]), ask(model, latest), atol=1e-6)
    assert not np.allclose(ask(model, latest[1:]), ask(model, latest), atol=1e-4)
    # What was done is read, not what was looked at alone.
    assert not np.allclose(
        ask(model, [(i, CART) for i, _ in latest]), ask(model, latest), atol=1e-4
    )


def test_the_preference_is_the_mean_over_the_steps_of_both_directions(make):
    model = make(units=2)
    items, types = tf.constant([[5, 9, 7, 0]]), tf.constant([[CART, VIEW, CART, 0]])
    mean, empty = model._preference(items, types, False)
    ahead, _ = model._states(model.forward, items[:, :3], types[:, :3], False)
    back, _ = model._states(model.backward, items[:, 2::-1], types[:, 2::-1], False)
    expected = tf.concat([tf.reduce_mean(ahead, axis=1), tf.reduce_mean(back, axis=1)], axis=1)
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    assert empty.numpy().tolist() == [[0.0]]
    mean, empty = model._preference(items * 0, types * 0, False)
    assert mean.numpy().tolist() == [[0.0] * 4] and empty.numpy().tolist() == [[1.0]]


def test_a_row_reads_what_a_query_of_the_same_history_does(make, toy_data):
    data = toy_data("sequence", 0.0).load_once("binn")
    log = data.events
    log.event_type = np.where(np.arange(len(log)) % 3 == 0, CART, VIEW)
    model = make()
    batch = next(iter(model.batches(data, 0, 0).dataset))
    names = [f"{part}_{name}" for part in ("recent", "preference") for name in ("item", "type")]
    read = [batch[name] for name in names]
    assert (read[3].numpy()[read[2] > 0] == CART).all() and (read[2].numpy() > 0).any()
    predicted = tf.math.l2_normalize(model.predict_vector(tuple(read[:2]), tuple(read[2:])), axis=1)
    for row in range(4):
        events = [pair for pair in zip(read[0][row].numpy(), read[1][row].numpy()) if pair[0]]
        np.testing.assert_allclose(ask(model, events), predicted[row], atol=1e-5)
    assert not (read[0].numpy() == batch["target"].numpy()[:, None]).any()


def test_the_types_of_a_preference():
    types = [b"view", b"cart", b"buy"]
    assert binn.preference_index(None, types) == [3, 4]
    assert binn.preference_index(("buy",), types) == [4]
    # A log without types has no preference; one that has others than are named, says so.
    assert binn.preference_index(("buy",), []) == binn.preference_index(None, []) == []
    with pytest.raises(ConfigError, match=r"types of train \(view, cart, buy\); received order"):
        binn.preference_index(("order", "buy"), types)


def test_w_item2vec_weighs_a_positive_by_how_often_its_centre_is_there():
    # a a a b in one sequence: the mean is 2, so a weighs 3 / 2 and b 1 / 2; c once, d once: 1.
    items = tf.constant([2, 2, 2, 3, 4, 5], tf.int64)
    rows = tf.RaggedTensor.from_row_lengths(items, tf.constant([4, 2], tf.int64))
    settings = dict(negatives=1, subsample=0, window=None, block=2, shared=1, batch_size=99)
    pairs = SkipGram(rows, 4, **settings, max_set=9, seed=0, count_weighted=True)
    (batch,) = pairs.batches().dataset.take(pairs.steps)
    weight = dict(zip(batch["centre"].numpy().ravel(), batch["emphasis"].numpy().ravel()))
    assert weight == {2: 1.5, 3: 0.5, 4: 1.0, 5: 1.0}
    # u.v = 0 for all pairs: each positive is ln 2 times its emphasis, each centre's negative ln 2;
    # both over K = 2: of the first row .5 (1.5 + .5 + n1), of the second .5 (2 + n2), n the
    # negatives of two centres each, 0 where the one that was drawn is of the row.
    zeros = lambda index: tf.zeros([tf.size(index), 3])  # noqa: E731
    loss = tile_loss(batch, zeros, zeros, count=6, negatives=1, window=None, limit=9.0)
    negatives = 2 * tf.reduce_sum(batch["negative_weight"])
    np.testing.assert_allclose(loss, np.log(2) * 0.5 * (4 + negatives), rtol=1e-5)

    # Another number than of equal weights, where the pairs are not alike.
    def fitting(index):
        return tf.gather(tf.constant([0, 0, 1.0, 2.0, 0, 0]), index)[:, tf.newaxis]

    loss = tile_loss(
        batch,
        fitting,
        lambda i: tf.ones([tf.size(i), 1]),
        count=6,
        negatives=1,
        window=None,
        limit=9.0,
    )
    softplus = lambda x: np.log1p(np.exp(x))  # noqa: E731
    positives = 0.5 * (1.5 * softplus(-1) + 0.5 * softplus(-2)) + 0.5 * 2 * np.log(2)
    rows_of = dict(
        zip(batch["centre"].numpy()[:, 0], tf.reduce_sum(batch["negative_weight"], axis=1).numpy())
    )
    first = next(value for key, value in rows_of.items() if key in (2, 3))
    second = next(value for key, value in rows_of.items() if key in (4, 5))
    expected = positives + 0.5 * first * (softplus(1) + softplus(2)) + 0.5 * second * 2 * np.log(2)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_both_parts_and_the_frozen_vectors(make):
    counts = {}
    for parts in ("both", "session", "preference"):
        model = make(parts=parts)
        ask(model, [(5, VIEW), (9, CART)])
        names = {variable.name.split("/")[0] for variable in model.trainable_variables}
        counts[parts] = len(model.trainable_variables)
        assert not any(
            variable is model.vectors.embeddings for variable in model.trainable_variables
        )
        assert names
    # An LSTM has three weights, the projection two.
    assert counts == {"both": 11, "session": 5, "preference": 8}
