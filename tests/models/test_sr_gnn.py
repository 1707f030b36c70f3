"""SR-GNN: the contract, and what its paper says of it, by hand."""

import json

import numpy as np
import pytest
import tensorflow as tf

from models.contract.retrieve_task import Evaluation
from models.gnn import sr_gnn
from models.training import warm_start
from models.training.loop import TrainingLoop
from tests.models.contract import RetrieveContract

TOY = {"epochs": 6, "batch_size": 32, "learning_rate": 0.01, "units": 24, "history_length": 10}


class TestSRGNN(RetrieveContract):
    name = "sr_gnn"
    hyper_parameters = TOY


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def graphs(*sessions):
    return sr_gnn.session_graphs(tf.ragged.constant(sessions, dtype=tf.int64).to_tensor())


def edges(graph):
    return sorted(zip(graph.source.numpy().tolist(), graph.target.numpy().tolist(), strict=True))


def test_a_session_is_a_graph_of_its_items():
    # 5 -> 7 -> 5 -> 9 has the nodes 5, 7 and 9; the other session's 7 is a node of its own, which
    # nothing leads to.
    graph = graphs([5, 7, 5, 9], [7])
    assert graph.item.numpy().tolist() == [5, 7, 9, 7]
    assert graph.node.numpy().tolist() == [0, 1, 0, 2, 3]
    assert graph.session.numpy().tolist() == [0, 0, 0, 0, 1]
    assert edges(graph) == [(0, 1), (0, 2), (1, 0)]
    assert graph.last.numpy().tolist() == [2, 3]


def test_an_edge_that_is_taken_twice_is_one_and_a_repeat_leads_to_itself():
    assert edges(graphs([5, 7, 5, 7])) == [(0, 1), (1, 0)]
    assert edges(graphs([5, 5, 5])) == [(0, 0)]
    assert edges(graphs([5])) == []


def test_a_session_without_items_has_a_last_node_and_disturbs_no_other():
    graph = graphs([], [5, 7], [])
    assert graph.item.numpy().tolist() == [0, 5, 7, 0] and edges(graph) == [(1, 2)]
    assert graph.last.numpy().tolist() == [0, 2, 3]


def test_one_gated_step_by_the_matrices():
    # The graph of 5 -> 7 -> 5 -> 9. Row by row: 5 is led to from 7, 7 and 9 from 5; 5 leads to 7
    # and 9, a half each, 7 to 5, and 9 nowhere.
    incoming = np.array([[0, 1, 0], [1, 0, 0], [1, 0, 0]])
    outgoing = np.array([[0, 0.5, 0.5], [1, 0, 0], [0, 0, 0]])
    layer, units = sr_gnn.GatedStep(2), 2
    state = np.array([[0.8, -0.5], [0.1, 0.4], [-0.7, 0.3]], np.float32)
    graph = graphs([5, 7, 5, 9])
    layer(graph, tf.constant(state))
    random = np.random.RandomState(0)
    for variable in layer.weights:
        variable.assign(random.uniform(-1, 1, variable.shape))
    weights = {name: getattr(layer, name) for name in ("incoming", "outgoing")}
    parts = [
        matrix @ (state @ weights[name].kernel.numpy() + weights[name].bias.numpy())
        for name, matrix in (("incoming", incoming), ("outgoing", outgoing))
    ]
    message = np.concatenate(parts, axis=1) + layer.bias.numpy()
    of_message = message @ layer.message.kernel.numpy() + layer.message.bias.numpy()
    of_state = state @ layer.recurrent.kernel.numpy() + layer.recurrent.bias.numpy()
    reset = sigmoid(of_message[:, :units] + of_state[:, :units])
    update = sigmoid(of_message[:, units : 2 * units] + of_state[:, units : 2 * units])
    # After the product: the reset gate scales U h + d, its bias too, not h.
    candidate = np.tanh(of_message[:, 2 * units :] + reset * of_state[:, 2 * units :])
    expected = (1 - update) * candidate + update * state
    np.testing.assert_allclose(layer(graph, tf.constant(state)), expected, atol=1e-6)


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("sequence", 0.0).load("sr_gnn")


def make(data, **settings):
    tf.keras.utils.set_random_seed(1)
    model = sr_gnn.SRGNN(sr_gnn.HyperParameters(**{**TOY, "units": 3, **settings}), data)
    TrainingLoop(model.hyper_parameters, data).build(model)
    return model


def test_the_read_out_sums_over_clicks_without_a_softmax(data):
    model = make(data)
    graph = graphs([5, 7, 5, 9])
    state = np.random.RandomState(0).uniform(-1, 1, [3, 3]).astype(np.float32)
    model.step = lambda graph, state: state  # read out what there is
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
    fewer = graph._replace(node=graph.node[1:], session=graph.session[1:])
    hidden = last @ model.attention_last.kernel.numpy() + model.attention_click(state[:1]).numpy()
    term = (sigmoid(hidden) @ model.attention.kernel.numpy()) * state[:1]
    np.testing.assert_allclose(
        model._read(graph, tf.constant(state)) - model._read(fewer, tf.constant(state)),
        term @ model.read_out.kernel.numpy()[:3],
        atol=1e-6,
    )


def test_a_session_is_read_the_same_wherever_it_stands(data):
    model, sessions = make(data), [[5, 7, 5, 9], [7, 9], [9, 9, 9, 5, 3, 7]]

    def read(*sessions):
        graph = graphs(*sessions)
        return model._read(graph, model.items(graph.item)).numpy()

    together = read(*sessions)
    np.testing.assert_allclose(read(*sessions[::-1])[::-1], together, rtol=1e-5)
    for row, session in enumerate(sessions):
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
        looked_up, whole = sr_gnn.rows_and_table(table, rows)
        ours = 3.0 * sr_gnn.softmax_loss(vectors * looked_up, whole, target)
        scores = tf.matmul(vectors * tf.gather(table, rows), table[2:], transpose_b=True)
        theirs = 3.0 * tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(target - 2, scores)
        )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    for source in (vectors, table):
        expected = tf.convert_to_tensor(tape.gradient(theirs, source))
        np.testing.assert_allclose(tape.gradient(ours, source), expected, atol=1e-6)


def test_the_loss_of_a_target_whose_probability_underflows():
    # Scores 0 and 200: the loss is 200, though exp(-200) is 0 in float32.
    table = tf.constant([[0.0], [0.0], [0.0], [200.0]])
    np.testing.assert_allclose(
        sr_gnn.softmax_loss(tf.ones([1, 1]), table, tf.constant([2], tf.int64)), 200
    )


def test_every_prefix_is_a_row_once_an_epoch():
    items, starts = np.array([2, 3, 2, 4, 9, 5, 6]), np.array([0, 4, 5, 7])
    # 9 is a session of one click: nothing comes after it, and nothing of it is read before 5.
    expected = [((2,), 3), ((2, 3), 2), ((3, 2), 4), ((5,), 6)]  # two clicks at most

    def epochs(first_epoch, count):
        batches = sr_gnn.prefix_batches(items, starts, 2, 3, seed=4, first_epoch=first_epoch)
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


def test_weights_start_uniform_within_one_over_the_root_of_the_width_and_differ(data):
    model = make(data, units=16)
    for weight in model.trainable_variables:
        value = np.abs(weight.numpy())
        assert value.max() <= 0.25 and (value.size < 100 or value.max() > 0.24), weight.name
    starts = [tuple(weight.numpy().flat[:16]) for weight in model.trainable_variables]
    assert len(set(starts)) == len(starts)


def test_the_learning_rate_falls_and_a_killed_training_comes_to_the_same_bits(data, tmp_path):
    settings = {"decay_epochs": 2, "patience": 50, "units": 8, "batch_size": 200}

    def run(epochs, folder):
        model = make(data, epochs=epochs, **settings)
        loop = TrainingLoop(
            model.hyper_parameters,
            data,
            seed=5,
            evaluation=Evaluation(data, data.queries("valid")),
            checkpoint_dir=folder,
        )
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
