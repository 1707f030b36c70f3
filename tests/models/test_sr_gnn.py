"""SR-GNN: the contract, and what its paper says of it, by hand."""

import json

import numpy as np
import pytest
import tensorflow as tf

from models.gnn import sessions, sr_gnn
from models.inputs import softmax
from models.names.errors import DataError
from models.training import warm_start
from models.training.loop import TrainingLoop
from tests.models.contract import RetrieveContract

TOY = {"epochs": 6, "batch_size": 32, "learning_rate": 0.01, "units": 24, "history_length": 10}


class TestSRGNN(RetrieveContract):
    name = "sr_gnn"
    hyper_parameters = TOY


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def graphs(*clicks):
    return sessions.session_graphs(tf.ragged.constant(clicks, dtype=tf.int64).to_tensor())


def matrices(graph):
    """The incoming and the outgoing half of the adjacency matrix of nodes."""
    nodes = graph.place.shape[0]
    whole = tf.sparse.to_dense(
        tf.sparse.reorder(sessions.adjacency(graph, tf.range(nodes, dtype=tf.int64), nodes))
    ).numpy()
    return whole[:, :nodes].tolist(), whole[:, nodes:].tolist()


# Row by row: 5 is led to from 7; 7 and 9 from 5. 5 leads to 7 and 9, half each; 7 to 5; 9 nowhere.
INCOMING = [[0, 1, 0], [1, 0, 0], [1, 0, 0]]
OUTGOING = [[0, 0.5, 0.5], [1, 0, 0], [0, 0, 0]]


def test_a_session_is_a_graph_of_its_items():
    # 5 -> 7 -> 5 -> 9 has the nodes 5, 7 and 9; the other session's 7 is a node of its own, which
    # nothing leads to.
    graph = graphs([5, 7, 5, 9], [7])
    assert graph.item.numpy()[graph.place].tolist() == [5, 7, 9, 7]
    assert graph.item.numpy().tolist() == [5, 7, 9]
    assert graph.session.numpy().tolist() == [0, 0, 0, 1]
    assert graph.clicks.numpy().tolist() == [2, 1, 1, 1]
    assert graph.last.numpy().tolist() == [2, 3]
    incoming, outgoing = matrices(graph)
    alone = [[0, 0, 0, 0]]
    assert incoming == [[*row, 0] for row in INCOMING] + alone
    assert outgoing == [[*row, 0] for row in OUTGOING] + alone


def test_an_edge_that_is_taken_twice_is_one_and_a_repeat_leads_to_itself():
    # 5 -> 7 twice and 5 -> 9 once: a half each, not two thirds.
    assert matrices(graphs([5, 7, 5, 7, 5, 9]))[1][0] == [0, 0.5, 0.5]
    assert matrices(graphs([5, 5, 5])) == ([[1]], [[1]])
    assert matrices(graphs([5])) == ([[0]], [[0]])


def test_a_session_without_items_has_a_last_node_and_disturbs_no_other():
    graph = graphs([], [5, 7], [])
    assert graph.item.numpy()[graph.place].tolist() == [0, 5, 7, 0]
    assert graph.last.numpy().tolist() == [0, 2, 3]
    assert matrices(graph)[0] == [[0] * 4, [0] * 4, [0, 1, 0, 0], [0] * 4]


def test_a_gated_step_by_the_matrices():
    """The first, whose two sessions share the states of their items, and one after it."""
    layer, units = sr_gnn.GatedStep(2), 2
    random = np.random.RandomState(0)
    state = random.uniform(-1, 1, [3, 2]).astype(np.float32)
    graph = graphs([5, 7, 5, 9], [9])
    layer(graph, tf.constant(state), graph.place)
    for variable in layer.weights:
        variable.assign(random.uniform(-1, 1, variable.shape))

    def step(state):
        parts = [
            np.pad(matrix, [[0, 1], [0, 1]]) @ (state @ part.kernel.numpy() + part.bias.numpy())
            for part, matrix in ((layer.incoming, INCOMING), (layer.outgoing, OUTGOING))
        ]
        message = np.concatenate(parts, axis=1) + layer.bias.numpy()
        of_message = message @ layer.message.kernel.numpy() + layer.message.bias.numpy()
        of_state = state @ layer.recurrent.kernel.numpy() + layer.recurrent.bias.numpy()
        reset = sigmoid(of_message[:, :units] + of_state[:, :units])
        update = sigmoid(of_message[:, units : 2 * units] + of_state[:, units : 2 * units])
        # After the product: the reset gate scales U h + d, its bias too, not h.
        candidate = np.tanh(of_message[:, 2 * units :] + reset * of_state[:, 2 * units :])
        return (1 - update) * candidate + update * state

    first = step(state[[0, 1, 2, 2]])
    found = layer(graph, tf.constant(state), graph.place)
    np.testing.assert_allclose(found, first, atol=1e-6)
    np.testing.assert_allclose(
        layer(graph, found, tf.range(4, dtype=tf.int64)), step(first), atol=1e-6
    )


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("sequence", 0.0).load_once("sr_gnn")


def make(data, **settings):
    tf.keras.utils.set_random_seed(1)
    model = sr_gnn.SRGNN(sr_gnn.HyperParameters(**{**TOY, "units": 3, **settings}), data)
    TrainingLoop(model.hyper_parameters, data).build(model)
    return model


def test_the_read_out_sums_over_clicks_without_a_softmax(data):
    model = make(data)
    graph = graphs([5, 7, 5, 9])
    state = np.random.RandomState(0).uniform(-1, 1, [3, 3]).astype(np.float32)
    model.step = lambda graph, state, place: state  # read out what there is
    last = state[2]  # of 9
    whole = np.zeros(3)
    for node in (0, 1, 0, 2):  # 5 stands there twice
        hidden = (
            last @ model.attention_last.kernel.numpy()
            + state[node] @ model.attention_click.kernel.numpy()
            + model.attention_click.bias.numpy()
        )
        whole += (sigmoid(hidden) @ model.attention.kernel.numpy()) * state[node]
    expected = (
        np.concatenate([whole, last]) @ model.read_out.kernel.numpy() + model.read_out.bias.numpy()
    )
    np.testing.assert_allclose(model._read(graph, tf.constant(state))[0], expected, rtol=1e-4)
    # One click of 5 less is one term less, whatever the other weights are: nothing normalises them.
    fewer = graph._replace(clicks=tf.ones([3]))
    hidden = last @ model.attention_last.kernel.numpy() + model.attention_click(state[:1]).numpy()
    term = (sigmoid(hidden) @ model.attention.kernel.numpy()) * state[:1]
    np.testing.assert_allclose(
        model._read(graph, tf.constant(state)) - model._read(fewer, tf.constant(state)),
        term @ model.read_out.kernel.numpy()[:3],
        atol=1e-6,
    )


def test_a_session_is_read_the_same_wherever_it_stands(data):
    model, rows = make(data), [[5, 7, 5, 9], [7, 9], [9, 9, 9, 5, 3, 7]]

    def read(*rows):
        graph = graphs(*rows)
        return model._read(graph, model.items(graph.item)).numpy()

    together = read(*rows)
    np.testing.assert_allclose(read(*rows[::-1])[::-1], together, rtol=1e-5)
    for row, session in enumerate(rows):
        np.testing.assert_allclose(read(session)[0], together[row], rtol=1e-5)
    # The order of the clicks is told by the edges and by the last.
    assert abs(read([7, 5, 9]) - read([5, 7, 9])).max() > 1e-4


def test_the_loss_is_the_cross_entropy_of_tensorflow_and_so_are_its_gradients():
    random = np.random.RandomState(0)
    vectors = tf.constant(random.normal(size=[4, 3]), tf.float32)
    table = tf.constant(random.normal(size=[7, 3]), tf.float32)
    rows, target = tf.constant([2, 5, 2, 0], tf.int64), tf.constant([2, 6, 6, 3], tf.int64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([vectors, table])
        # Every row of `table` has a gradient of the softmax; 2, 5 and 0 have one of the look-up
        # besides, 2 twice.
        looked_up, whole = softmax.rows_and_table(table, rows)
        weight = tf.constant([2.0, 1.0, 0.5, 1.0])
        ours = 3.0 * softmax.cross_entropy(vectors * looked_up, whole, target, weight)
        scores = tf.matmul(vectors * tf.gather(table, rows), table[2:], transpose_b=True)
        theirs = 3.0 * tf.reduce_mean(
            weight * tf.nn.sparse_softmax_cross_entropy_with_logits(target - 2, scores)
        )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    for source in (vectors, table):
        expected = tf.convert_to_tensor(tape.gradient(theirs, source))
        np.testing.assert_allclose(tape.gradient(ours, source), expected, atol=1e-5)


def test_the_loss_of_a_target_whose_probability_underflows():
    # Scores 0 and 200: the loss is 200, though exp(-200) is 0 in float32.
    table = tf.constant([[0.0], [0.0], [0.0], [200.0]])
    np.testing.assert_allclose(
        softmax.cross_entropy(tf.ones([1, 1]), table, tf.constant([2], tf.int64), tf.ones(1)), 200
    )


def test_every_prefix_is_a_row_once_an_epoch():
    items, starts = np.array([2, 3, 2, 4, 9, 5, 6]), np.array([0, 4, 5, 7])
    # 9 is a session of one click: nothing comes after it, and nothing of it is read before 5.
    expected = [((2,), 3), ((2, 3), 2), ((3, 2), 4), ((5,), 6)]  # two clicks at most

    def epochs(first_epoch, count):
        batches = sessions.prefix_batches(items, starts, 2, 3, seed=4, first_epoch=first_epoch)
        assert (batches.steps, batches.rows) == (2, 4)
        return list(batches.dataset.take(2 * count).as_numpy_iterator())

    whole = epochs(0, 2)
    orders = []
    for epoch in (whole[:2], whole[2:]):
        rows = [
            (tuple(item[item > 0].tolist()), int(target))
            for batch in epoch
            for item, target in zip(batch["item"], batch["target"], strict=True)
        ]
        orders.append(rows)
        assert sorted(rows) == sorted(expected)
        for batch in epoch:
            assert batch["item"][:, -1].any()  # as wide as its longest
    for left, right in zip(whole[2:], epochs(1, 1), strict=True):
        np.testing.assert_array_equal(left["item"], right["item"])


def test_sessions_of_one_event_have_nothing_to_learn():
    with pytest.raises(DataError, match="required: one of two at least"):
        sessions.prefix_batches(np.array([2, 3]), np.array([0, 1, 2]), 2, 3, seed=4)


def test_weights_start_uniform_within_one_over_the_root_of_the_width_and_differ(data):
    model = make(data, units=16)
    for weight in model.trainable_variables:
        value = np.abs(weight.numpy())
        assert value.max() <= 0.25 and (value.size < 100 or value.max() > 0.24), weight.name
    starts = [tuple(weight.numpy().flat[:16]) for weight in model.trainable_variables]
    assert len(set(starts)) == len(starts)


@pytest.mark.thorough
def test_the_learning_rate_falls_and_a_killed_training_comes_to_the_same_bits(data, tmp_path):
    settings = {"decay_epochs": 2, "units": 8, "batch_size": 200}

    def run(epochs, folder):
        model = make(data, epochs=epochs, **settings)
        loop = TrainingLoop(model.hyper_parameters, data, seed=5, checkpoint_dir=folder)
        model.learn(loop)
        return loop, model

    whole, model = run(3, None)
    # The last step is of the third epoch.
    np.testing.assert_allclose(model.optimizer.learning_rate, 0.001, rtol=1e-5)
    _, half = run(2, str(tmp_path))
    np.testing.assert_allclose(half.optimizer.learning_rate, 0.01, rtol=1e-5)
    state = json.loads((tmp_path / "model" / "state.json").read_text())
    (tmp_path / "model" / "state.json").write_text(json.dumps({**state, "finished": False}))
    resumed, again = run(3, str(tmp_path))
    assert [row["loss"] for row in whole.history] == [row["loss"] for row in resumed.history]
    for path, variable in warm_start.variables_by_path(model).items():
        np.testing.assert_array_equal(variable, warm_start.variables_by_path(again)[path])
