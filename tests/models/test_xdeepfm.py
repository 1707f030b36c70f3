"""xDeepFM: the contract, CIN by hand and by NumPy, and the three parts of one logit."""

import numpy as np
import pytest
import tensorflow as tf

from models.feature_interaction.fm import pair_sum
from models.feature_interaction.xdeepfm import CompressedInteractionNetwork
from models.names.errors import ConfigError
from models.training.trainer import resolve
from tests.models.score_contract import ScoreContract

TOY = {
    "epochs": 30,
    "batch_size": 128,
    "learning_rate": 5e-3,
    "factors": 4,
    "maps": (8, 8),
    "hidden": (32, 32),
    "dropout": 0.2,
    "l2": 1e-3,
}


class TestXDeepFM(ScoreContract):
    name = "xdeepfm"
    hyper_parameters = TOY

    def test_three_parts_share_one_table_and_one_logit(self, trained):
        inputs, _, _ = trained.data.parse(tf.constant(trained.test[:8], tf.string))
        model = trained.model
        with tf.GradientTape(persistent=True) as tape:
            linear, interactions, deep = model.components(inputs, *model._look_up(inputs))
        for part in (interactions, deep):
            assert tape.gradient(part, model.factors.embeddings) is not None
        assert tape.gradient(linear, model.factors.embeddings) is None
        np.testing.assert_allclose(
            model.score_rows(inputs), linear + interactions + deep, atol=1e-6
        )
        weights = tf.concat(model.interactions.output_weights, axis=1)[0]
        fields = model.rows.pool(model._look_up(inputs)[1] * model._look_up(inputs)[2], inputs)
        pooled = model.interactions.pooled_maps(fields)
        assert pooled.shape == (8, 16)
        np.testing.assert_allclose(interactions, tf.linalg.matvec(pooled, weights), atol=1e-5)

    def test_the_penalty_is_of_both_networks_without_biases(self, trained):
        # Two filters and w_cin's two rows, two hidden layers and the last one.
        weights = trained.model.layer_weights()
        fields = len(trained.model.rows.fields)
        assert sorted(tuple(each.shape) for each in weights) == sorted(
            [(8, fields**2), (8, 8 * fields), (1, 8), (1, 8)]
            + [(4 * fields, 32), (32, 32), (32, 1)]
        )


def network(maps, connection="direct", activation="identity", fields=2, filters=None, seed=0):
    """A network with given or random filters."""
    made = CompressedInteractionNetwork(maps, connection, activation)
    made.build(tf.TensorShape([None, fields, None]))
    draw = np.random.default_rng(seed)
    for weight in made.trainable_variables:
        weight.assign(draw.normal(size=weight.shape))
    for weight, values in zip(made.filters, filters or [], strict=bool(filters)):
        weight.assign(np.reshape(values, weight.shape))
    return made


# One row, two fields of two coordinates: x_1 = (1, 2), x_2 = (3, -4).
ROW = tf.constant([[[1.0, 2.0], [3.0, -4.0]]])
# Map 1 is x_1 * x_1, map 2 is x_1 * x_2 + 2 x_2 * x_2.
FIRST = [[[1, 0], [0, 0]], [[0, 1], [0, 2]]]


@pytest.mark.parametrize(
    ("connection", "activation", "second", "expected"),
    [
        # X^1_1 = (1, 4), sum 5. X^1_2 = (3, -8) + 2 (9, 16) = (21, 24), sum 45.
        # X^2 = X^1_1 * x_2 + X^1_2 * x_1 = (3, -16) + (21, 48) = (24, 32), sum 56.
        ("direct", "identity", [[0, 1], [1, 0]], [5, 45, 56]),
        # The first half of layer 1 is passed on, the second pooled:
        # X^2 = X^1_1 * x_1 + 2 X^1_1 * x_2 = (1, 8) + 2 (3, -16) = (7, -24), sum -17.
        ("half", "identity", [[1, 2]], [45, -17]),
        # Layer 1 has no negative coordinate; relu(7, -24) = (7, 0), sum 7.
        ("half", "relu", [[1, 2]], [45, 7]),
    ],
)
def test_pooled_maps_by_hand(connection, activation, second, expected):
    made = network((2, 1), connection, activation, filters=[FIRST, [second]])
    np.testing.assert_allclose(made.pooled_maps(ROW), [expected])
    # w_cin = (1, 10, 100) or (10, 100).
    made.output_weights[0].assign([[1.0, 10.0][-made.output_weights[0].shape[1] :]])
    made.output_weights[1].assign([[100.0]])
    weights = [1, 10, 100][-len(expected) :]
    np.testing.assert_allclose(made(ROW), [np.dot(weights, expected)])


def reference(made, fields, maps, connection, activation):
    """The paper's sums with NumPy, all outer products held: the scores, [B]."""
    passed, score = fields, 0.0
    for number, count in enumerate(maps):
        outer = np.einsum("bid,bjd->bijd", passed, fields)
        filters = made.filters[number].numpy().reshape(count, *outer.shape[1:3])
        layer = np.einsum("hij,bijd->bhd", filters, outer)
        layer = np.maximum(layer, 0) if activation == "relu" else layer
        half = connection == "half" and number < len(maps) - 1
        pooled = layer[:, count // 2 :] if half else layer
        passed = layer[:, : count // 2] if half else layer
        score = score + pooled.sum(axis=2) @ made.output_weights[number].numpy()[0]
    return score


@pytest.mark.parametrize("activation", ["identity", "relu"])
@pytest.mark.parametrize("connection", ["direct", "half"])
# Three fields have six pairs: layers of 8 and 6 are folded into the pairs, and one of 2 is not.
@pytest.mark.parametrize("maps", [(4,), (4, 5), (8, 6, 5), (2, 6, 5), (4, 6, 2, 3)])
def test_every_order_of_the_sums_is_the_papers(maps, connection, activation):
    made = network(maps, connection, activation, fields=3)
    fields = np.random.default_rng(1).normal(size=(5, 3, 2)).astype("float32")
    expected = reference(made, fields, maps, connection, activation)
    np.testing.assert_allclose(made(tf.constant(fields)), expected, rtol=1e-3, atol=1e-3)


def test_gradients_are_those_of_the_plain_sums():
    """Of the folded layers, and of the one that makes its own (TensorFlow derives `plain`)."""
    for maps in [(8, 6, 5), (4, 6, 2, 3)]:
        made = network(maps, fields=3)
        fields = tf.constant(np.random.default_rng(1).normal(size=(5, 3, 2)), tf.float32)

        def plain(made, fields):
            passed, score = fields, 0.0
            for filters, output in zip(made.filters, made.output_weights, strict=True):
                cube = tf.reshape(filters, [filters.shape[0], passed.shape[1], 3])
                passed = tf.einsum("hij,bid,bjd->bhd", cube, passed, fields)
                score += tf.einsum("bhd,h->b", passed, output[0])
            return score

        gradients = []
        for function in (lambda made, fields: made(fields), plain):
            with tf.GradientTape() as tape:
                tape.watch(fields)
                loss = tf.reduce_sum(tf.sin(function(made, fields) / 100))
            gradients.append(tape.gradient(loss, [fields, *made.trainable_variables]))
        for left, right in zip(*gradients, strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-4)


def test_one_map_of_ones_over_pairs_is_the_factorization_machine():
    fields = tf.constant(np.random.default_rng(1).normal(size=(5, 3, 2)), tf.float32)
    made = network((1,), fields=3, filters=[np.triu(np.ones((3, 3)), k=1)])
    np.testing.assert_allclose(made.pooled_maps(fields)[:, 0], pair_sum(fields), atol=1e-5)


def test_interactions_are_by_vector():
    """The same permutation of the coordinates of all fields changes nothing; of one it does."""
    made = network((4, 3), fields=3)
    fields = np.random.default_rng(1).normal(size=(5, 3, 4)).astype("float32")
    expected = made.pooled_maps(tf.constant(fields))
    together, one = fields[:, :, [2, 0, 3, 1]], fields.copy()
    one[:, 0] = fields[:, 0, [2, 0, 3, 1]]
    np.testing.assert_allclose(
        made.pooled_maps(tf.constant(together)), expected, rtol=1e-4, atol=1e-4
    )
    assert not np.allclose(made.pooled_maps(tf.constant(one)), expected, atol=0.1)


def test_odd_layers_cannot_be_halved():
    with pytest.raises(ConfigError, match="must be even to be halved"):
        resolve("xdeepfm", {"connection": "half", "maps": (3, 4)})
    assert resolve("xdeepfm", {"connection": "half", "maps": (4, 3)}).maps == (4, 3)
