"""EGES: the contract, the weights and their gradient by hand, GES as a case, link prediction."""

import numpy as np
import tensorflow as tf

from benchmarks import experiment, graph, movielens
from components.build.walks import Transitions
from models.names import registry
from tests.models.contract import RetrieveContract
from tests.models.graph_data import (
    TOY,
    A,
    B,
    C,
    D,
    assert_a_new_item_is_like_those_of_its_category,
    by_hand,
    pair_of,
)


class TestEGES(RetrieveContract):
    name = "eges"
    hyper_parameters = TOY

    def test_a_new_item_is_like_those_of_its_category(self, trained):
        assert_a_new_item_is_like_those_of_its_category(trained)

    def test_the_weights_are_learnt_item_by_item(self, trained):
        rows = trained.model.preference.embeddings.numpy()
        # The id, the class, the title, the year; the unknown item keeps equal ones.
        assert rows.shape == (62, 4) and not rows[:2].any()
        assert np.ptp(rows[2:], axis=0).min() > 0.01


# Of a: the id, the color and the tags weigh 1 : 2 : 5.
PREFERENCE = np.log(np.float32([[1, 1, 1], [1, 1, 1], [1, 2, 5], [1, 1, 1], [1, 9, 9]]))


def test_an_item_is_the_weighted_mean_of_its_vectors():
    # a: 1/8 (1, 0) + 2/8 red (4, 0) + 5/8 (1, 4), the mean of x and y = (1.75, 2.5). c has no
    # features, whatever they would weigh. d is new: red and y count alike.
    model = by_hand("eges")
    model.preference.set_weights([PREFERENCE])
    vectors = model.item_vectors(tf.constant([A, B, C, D, 1], tf.int64))
    expected = [[1.75, 2.5], [0, 4], [3, 3], [2, 3], [0, 0]]
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)


def test_equal_weights_are_ges():
    ges, eges = by_hand("ges"), by_hand("eges")
    assert not eges.preference.embeddings.numpy().any()  # so it starts
    everything = tf.range(6, dtype=tf.int64)
    np.testing.assert_array_equal(ges.item_vectors(everything), eges.item_vectors(everything))
    eges.preference.set_weights([np.full([5, 3], 0.7, np.float32)])
    np.testing.assert_allclose(
        eges.item_vectors(everything), ges.item_vectors(everything), rtol=1e-6
    )


def test_the_gradient_of_one_pair():
    """The centre is a, H = (1.75, 2.5), with Z_b = (0, z), z = ln 3 / 2.5, so that H . Z = ln 3.

    sigmoid(ln 3) = 3/4: the loss is -ln 3/4, dL/dH = -Z / 4. With alpha = (1, 2, 5) / 8 and
    dL/da^s = alpha^s (W^s - H) . dL/dH, where (W^s - H) . Z is -2.5 z = -ln 3 of the id and of red,
    and (4 - 2.5) z = 0.6 ln 3 of the tags:

        id    1/8 * -ln 3     * -1/4 =  ln 3 / 32
        red   2/8 * -ln 3     * -1/4 =  ln 3 / 16
        tags  5/8 * 0.6 ln 3  * -1/4 = -3 ln 3 / 32

    dL/dW^s = alpha^s dL/dH, of which x and y have a half each; Z_b has -H / 4.
    """
    model, z = by_hand("eges"), np.log(3) / 2.5
    model.preference.set_weights([PREFERENCE])
    model.contexts.set_weights([np.float32([[0, 0], [0, 0], [7, 7], [0, z], [7, 7]])])
    variables = [
        table.embeddings
        for table in (
            model.preference,
            model.items,
            model.side["item_color"],
            model.side["item_tags"],
            model.contexts,
        )
    ]
    with tf.GradientTape() as tape:
        loss = model.compute_loss(pair_of(A, B))
    np.testing.assert_allclose(loss, -np.log(3 / 4), rtol=1e-5)
    preference, item, color, tags, context = (
        tf.convert_to_tensor(gradient).numpy() for gradient in tape.gradient(loss, variables)
    )
    expected = np.zeros([5, 3])
    expected[A] = np.log(3) * np.array([1 / 32, 1 / 16, -3 / 32])
    np.testing.assert_allclose(preference, expected, atol=1e-6)
    of_vector = np.array([0, -z / 4])
    np.testing.assert_allclose(item[A], of_vector / 8, rtol=1e-5)
    np.testing.assert_allclose(color, [[0, 0], [0, 0], of_vector * 2 / 8, [0, 0]], atol=1e-6)
    np.testing.assert_allclose(tags[2:], [of_vector * 5 / 16] * 2, rtol=1e-5)
    np.testing.assert_allclose(context[B], [-1.75 / 4, -2.5 / 4], rtol=1e-5)
    assert not item[[0, 1, B, C]].any() and not context[[0, 1, A, C]].any()


def test_the_auc_and_the_parts_of_a_graph_by_hand():
    # 3 beats both, 1 ties with one and beats none: (2 + 0.5) / 4.
    assert graph.auc(np.array([3.0, 1.0]), np.array([1.0, 2.0])) == 2.5 / 4
    pairs = {(item, (item + step) % 30) for item in range(30) for step in (1, 4)}
    source, target = np.array(sorted(pairs)).T
    transitions = Transitions(np.arange(30), source, target, np.ones(60))
    rest, removed = graph.part(transitions, 1 / 3, seed=1)
    left = {*zip(rest.source.tolist(), rest.target.tolist(), strict=True)}
    gone = {(source, target) for source, target in removed.tolist()}
    assert left | gone == pairs and not left & gone and len(gone) == 20
    for one, other in graph.unconnected(transitions, len(gone), seed=1).tolist():
        assert one != other and not {(one, other), (other, one)} & pairs


def test_the_row_of_movielens_is_built_as_a_run_is(monkeypatch, tmp_path):
    """With the walks and the items' features; popularity asks for neither."""
    asked = []
    monkeypatch.setattr(experiment, "prepare", lambda *given, **more: asked.append((given, more)))
    for name in ("eges", "popularity"):
        movielens.prepare(movielens.ROWS[name], tmp_path, tmp_path)
    (given, more), (others, nothing) = asked
    assert given[2] == "walk" and given[1] != others[1]
    assert more["walks"] == registry.get("eges").defaults["walks"] and more["walks"]["directed"]
    assert more["carries"] == {"item_features": True}
    assert set(nothing.values()) == {None}
