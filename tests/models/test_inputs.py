"""Inputs that models share: id embeddings, negatives, profiles and their corruption."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from models.inputs.columns import choose
from models.inputs.data import Entities
from models.inputs.profiles import (
    corrupted,
    multi_hot,
    normalised,
    shuffled_profiles,
    sparse_rows,
)
from models.inputs.sampling import Batches, CountedNegatives, UniformNegatives
from models.inputs.schema import present
from models.inputs.token_layers import EntityEncoder, ZeroRows, id_embedding

# Two users that train has seen, indices 2 and 3, and two that only the table knows, 4 and 5.
ENTITIES = Entities(np.array([b"a", b"b", b"c", b"d"], object), 2, {}, {}, {})


def test_an_id_embedding_gives_cold_entities_the_row_of_the_unknown():
    table = id_embedding(ENTITIES, 1, tf.keras.initializers.Constant(0.0), name="ids")
    table.build(None)
    table.set_weights([np.array([[0.0], [10.0], [20.0], [30.0]], np.float32)])
    for dtype in (tf.int32, tf.int64):
        rows = table(tf.constant([[0, 1, 2], [3, 4, 5]], dtype))[..., 0]
        assert rows.numpy().tolist() == [[0, 10, 20], [30, 10, 10]]
    assert table.tokens.tolist() == [b"a", b"b"] and table.embeddings.shape == [4, 1]


def test_only_the_rows_that_are_read_have_gradients():
    table = id_embedding(ENTITIES, 1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(table(tf.constant([5, 2, 4])))
    gradient = tape.gradient(loss, table.embeddings)
    assert isinstance(gradient, tf.IndexedSlices) and gradient.indices.numpy().tolist() == [1, 2, 1]


def test_an_encoder_forgets_ids_and_knows_cold_ones():
    encoder = EntityEncoder(ENTITIES, 3, 1)
    forgotten = encoder(tf.constant([2, 3], tf.int64), tf.constant([True, False])).numpy()
    unknown, second = encoder(tf.constant([5, 3], tf.int64)).numpy()
    np.testing.assert_array_equal(forgotten, [unknown, second])
    assert not np.array_equal(unknown, second)


def test_zero_rows_are_where_they_are_in_pieces_too():
    rows = ZeroRows([0, 1, 3], tf.keras.initializers.Constant(7.0))
    np.testing.assert_array_equal(rows([5, 1])[:, 0], [0, 0, 7, 0, 7])
    piece = rows([5, 1], partition_shape=(3, 1), partition_offset=(2, 0))
    np.testing.assert_array_equal(piece[:, 0], [7, 0, 7])


def described(lists):
    """The same, with a value each, of which train has two, and lists."""
    features = {
        "colour": tf.constant([0, 0, 2, 3, 1, 0], tf.int64),
        "class": tf.ragged.constant([[], [], *lists, [2, 1], [1]], tf.int64),
    }
    tokens = dict.fromkeys(features, [b"x", b"y"])
    return Entities(ENTITIES.ids, 2, features, dict.fromkeys(features, 4), tokens)


def test_what_train_never_has_adds_nothing_to_an_encoder():
    """The cold one is of a colour that train has not, and of the class x and one that it has not.

    A new one, whom no table has, is encoded alike; another without a colour, nor a known class.
    """
    encoder = EntityEncoder(described([[2], [3]]), 3, 2)
    cold = encoder(tf.constant([4, 5], tf.int64)).numpy()
    x = encoder._embeddings["class"](tf.constant(2))
    np.testing.assert_array_equal(cold, [[0, 0, 0, *x, 0, 0], [0] * 7])
    values = {
        "colour": tf.constant([1, 0], tf.int64),
        "class": tf.ragged.constant([[2, 1], [1]], tf.int64),
    }
    new, known = encoder.encode_new(values)
    np.testing.assert_array_equal(new, cold)
    assert known.numpy().tolist() == [True, False]
    # Where train has rare values, they are one that it learns, and counts.
    encoder = EntityEncoder(described([[2, 1], [3]]), 3, 2)
    found = encoder(tf.constant([4], tf.int64))[0, 3:5]
    np.testing.assert_array_equal(found, encoder._embeddings["class"](tf.constant(2)) / 2)


def test_in_train_is_neither_padding_nor_unknown_nor_cold():
    assert (
        ENTITIES.in_train(tf.range(6)).numpy().tolist() == [False, False, True, True] + [False] * 2
    )


@pytest.fixture(scope="module")
def negatives():
    """Five items, 2 to 6.

    User 2 has 2, 4 (twice) and one that train does not know; user 3 has 6, user 4 all of them,
    user 5 nothing.
    """
    user = np.array([2, 2, 2, 2, 3, 4, 4, 4, 4, 4])
    item = np.array([4, 2, 4, 1, 6, 2, 3, 4, 5, 6])
    return UniformNegatives(user, item, 5)


def test_negatives_are_uniform_over_what_a_user_has_not(negatives):
    drawn = negatives.draw(tf.constant([2, 3, 5]), 6000, tf.constant([1, 2])).numpy()
    for row, free in zip(drawn, ([3, 5, 6], [2, 3, 4, 5], [2, 3, 4, 5, 6]), strict=True):
        items, counts = np.unique(row, return_counts=True)
        assert items.tolist() == free
        share = 1 / len(free)
        # Four standard errors.
        assert np.abs(counts / 6000 - share).max() < 4 * (share * (1 - share) / 6000) ** 0.5
    again = negatives.draw(tf.constant([2, 3, 5]), 6000, tf.constant([1, 2])).numpy()
    np.testing.assert_array_equal(drawn, again)
    other = negatives.draw(tf.constant([2, 3, 5]), 6000, tf.constant([1, 3])).numpy()
    assert (drawn != other).any()


def test_counted_negatives_are_uniform_over_what_a_user_has_not():
    """Three users of the items 2 to 6, one with items at either end, one at the end, one with all.

    With one item of n, `count` draws an item are n `count` of the user.
    """
    own = np.array([2, 5, 5, 6, 2, 3, 4, 5, 6])
    drawer = CountedNegatives(own, np.array([0, 2, 4, 9]), 5)
    draw, most = tf.function(drawer.draw), 6000
    places = draw(drawer.profiles, 7, most, tf.constant([1, 2])).numpy()
    assert (places[-5 * most :] < 0).all() and (places[: -5 * most] >= 0).all()
    for row, free in enumerate(([3, 4, 6], [2, 3, 4])):
        drawn = places[row * 2 * most : (row + 1) * 2 * most] - row * 7
        items, counts = np.unique(drawn, return_counts=True)
        assert items.tolist() == free
        # Four standard errors.
        assert np.abs(counts / (2 * most) - 1 / 3).max() < 4 * (2 / 9 / (2 * most)) ** 0.5
    other = draw(drawer.profiles[1:2], 7, most, tf.constant([1, 3])).numpy()
    assert set(other) == {2, 3, 4}  # in a batch of its own the row is the first


def test_who_has_everything_has_no_negatives(negatives):
    drawn = negatives.draw(tf.constant([3, 4], tf.int64), 7, tf.constant([5, 6], tf.int64)).numpy()
    assert drawn.shape == (2, 7) and drawn.dtype == np.int64
    assert (drawn[0] > 0).all() and not drawn[1].any()
    empty = negatives.draw(tf.zeros([0], tf.int64), 7, tf.constant([5, 6], tf.int64))
    assert empty.shape == (0, 7)


def test_profiles_come_with_their_users(toy_data):
    data = toy_data("profile", 0.0).load_once("mult_dae")
    owned = {}
    for user, item in zip(data.events.user.tolist(), data.events.item.tolist(), strict=True):
        owned.setdefault(user, set()).add(item)
    batches = shuffled_profiles(data, 32, seed=1)
    found = {}
    for batch in batches.dataset.take(batches.steps).as_numpy_iterator():
        for user, items in zip(batch["user"].tolist(), batch["items"], strict=True):
            found[user] = set(items[items > 0].tolist())
    assert found == owned and len(found) == 120


def test_corruption_hides_entries_and_needs_no_normalisation():
    items = tf.constant([[2, 3, 5, 0]] * 500, tf.int64)
    seed = tf.constant([1, 2])
    plain = corrupted(tf.cast(items > 0, tf.float32), 0.75, seed).numpy()
    # Kept entries weigh 1 / (1 - 0.75), so the expectation is 1; padding stays nothing.
    assert set(plain.ravel()) == {0.0, 4.0} and not plain[:, 3].any()
    assert abs(plain[:, :3].mean() - 1.0) < 4 * (4 * 0.75 / 1500) ** 0.5 * 2
    unit = corrupted(normalised(items), 0.75, seed).numpy()
    np.testing.assert_allclose(unit, plain * 3**-0.5, rtol=1e-6)
    assert not corrupted(normalised(items), 1.0, seed).numpy().any()
    np.testing.assert_array_equal(corrupted(normalised(items), 0.0, seed), normalised(items))
    # As the input of a network: a column an index.
    row = multi_hot(items[:1], 6, tf.constant([[4.0, 0.0, 4.0, 0.0]])).numpy()
    assert row.tolist() == [[0, 0, 4, 0, 0, 4]]
    sparse = sparse_rows(items[:2], 6, tf.constant([[4.0, 0.0, 4.0, 0.0], [0.0, 2.0, 0.0, 0.0]]))
    assert sparse.values.numpy().tolist() == [4, 4, 2]
    assert tf.sparse.to_dense(sparse).numpy().tolist() == [[0, 0, 4, 0, 0, 4], [0, 0, 0, 2, 0, 0]]
    # Of an item that is there twice the highest weight; of nobody nothing.
    twice = multi_hot(
        tf.constant([[3, 3, 2], [0, 0, 0]], tf.int64), 5, tf.constant([[1.0, 5, 2]] * 2)
    )
    assert twice.numpy().tolist() == [[0, 0, 2, 5, 0], [0, 0, 0, 0, 0]]


def made_of(dataset):
    return Batches(1, 1, lambda later, share: dataset.skip(later))


def test_batches_have_few_shapes_when_they_are_filled_up():
    """9 items become 10; 17 rows stay, or become 18 where empty ones are nothing.

    Lists are of 8, 10, 12, 14 or 16 items and so on, rows are 16, 18, .. 32.
    """

    def batch(_):
        rows = tf.RaggedTensor.from_row_lengths(tf.range(1, 26), [9, *[1] * 16]).to_tensor()
        told = {"items": rows, "there": rows > 0, "fixed": tf.ones([17, 3])}
        return {**told, "step_seed": tf.constant([1, 2])}

    batches = made_of(tf.data.Dataset.from_tensors({"step": 0})).map(batch)
    plain, filled = (next(iter(each.dataset)) for each in (batches, batches.in_few_shapes()))
    assert filled["items"].shape == filled["there"].shape == [17, 10]
    assert filled["items"][0].numpy().tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert not filled["there"][0, 9:].numpy().any()
    for name in ("fixed", "step_seed"):
        np.testing.assert_array_equal(filled[name], plain[name])

    def tiles(batch):
        ones = tf.ones([batch["count"]], tf.int32)
        return {"centre": tf.stack([ones, ones], axis=1), "weight": tf.cast(ones, tf.float32)}

    counts = tf.data.Dataset.from_tensor_slices({"count": [17, 15]})
    batches = dataclasses.replace(made_of(counts), empty_rows=True).map(tiles)
    first, second = list(batches.in_few_shapes().dataset)
    assert first["centre"].shape == [18, 2] and first["weight"].numpy().tolist() == [1] * 17 + [0]
    assert second["weight"].shape == [15]  # 8, 9, .. 16: of so few every number
    # Shapes that the graph knows stay known to it.
    assert batches.in_few_shapes().dataset.element_spec["centre"].shape[1] == 2


def test_an_empty_list_gets_one_place():
    """Of two rows without any item, which `to_tensor` makes [2, 0]."""
    rows = tf.ragged.constant([[], []], tf.int64)
    batches = made_of(tf.data.Dataset.from_tensors({"items": rows}))
    batches = batches.map(lambda batch: {"items": batch["items"].to_tensor()})
    filled = next(iter(batches.in_few_shapes().dataset))
    assert filled["items"].numpy().tolist() == [[0], [0]]


@pytest.mark.parametrize("splits", [tf.int32, tf.int64])
def test_a_mask_chooses_of_ragged_rows(splits):
    rows = tf.ragged.constant([[b"a", b"b"], [], [b"c"], [b"d", b"e"]], row_splits_dtype=splits)
    mask = tf.ragged.constant([[True, False], [], [False], [True, True]], row_splits_dtype=splits)
    chosen = choose(rows, mask)
    assert chosen.to_list() == [[b"a"], [], [], [b"d", b"e"]]
    assert chosen.row_splits.dtype == splits
    matrix = tf.constant([[3, 0], [0, 4]])
    assert choose(matrix, matrix > 0).to_list() == [[3], [4]]
    assert choose(matrix[:0], matrix[:0] > 0).to_list() == []


def test_values_that_are_not_missing_stand_on_the_left():
    found = present(tf.constant([["a", ""], ["", ""], ["", "b"]]), tf.string)
    assert found.indices.numpy().tolist() == [[0, 0], [2, 0]]
    assert found.values.numpy().tolist() == [b"a", b"b"]
    assert found.dense_shape.numpy().tolist() == [3, 1]
    numbers = present(tf.constant([float("nan"), 4.0]), tf.int64)
    assert numbers.values.dtype == tf.int64 and numbers.indices.numpy().tolist() == [[1, 0]]
    nothing = present(tf.fill([2, 3], ""), tf.string)
    assert nothing.dense_shape.numpy().tolist() == [2, 0] and not len(nothing.values)
