"""GES: the contract, the mean of an item and its features by hand, new items."""

import numpy as np
import tensorflow as tf

from tests.models.contract import RetrieveContract
from tests.models.graph_data import (
    TOY,
    A,
    B,
    C,
    D,
    assert_a_new_item_is_like_those_of_its_category,
    by_hand,
)


class TestGES(RetrieveContract):
    name = "ges"
    hyper_parameters = TOY

    def test_a_new_item_is_like_those_of_its_category(self, trained):
        assert_a_new_item_is_like_those_of_its_category(trained)

    def test_an_item_of_unknown_features_has_no_vector(self, trained):
        _, inputs = trained.signatures["embed_items"].structured_input_signature
        blank = {
            name: tf.fill([2] + [1] * (spec.shape.rank - 1), "" if spec.dtype == tf.string else nan)
            for name, spec in inputs.items()
        }
        # Of the second item one feature is told, and train has not seen its value.
        blank["item_title"] = tf.constant(["", "zzz"])
        answer = trained.signatures["embed_items"](**blank)
        assert answer["known"].numpy().tolist() == [False, False]
        assert not answer["embedding"].numpy().any()


nan = float("nan")


def test_an_item_is_the_mean_of_its_vectors():
    # a: ((1, 0) + red (4, 0) + the mean (1, 4) of x and y) / 3. b: ((0, 2) + blue (0, 4) +
    # y (0, 6)) / 3. c has no features: (3, 3). d is new and its second tag is unknown: (red (4, 0)
    # + y (0, 6)) / 2. Of an unknown item nothing is there.
    model = by_hand("ges")
    vectors = model.item_vectors(tf.constant([A, B, C, D, 1], tf.int64))
    expected = [[2, 4 / 3], [0, 4], [3, 3], [2, 3], [0, 0]]
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    # The catalogue has them at unit length, d too.
    embeddings = model.item_embeddings().numpy()
    np.testing.assert_allclose(embeddings[3], [2 / 13**0.5, 3 / 13**0.5], rtol=1e-6)
    assert np.isfinite(model.catalogue()[1]).all()


def test_a_trained_item_that_no_walk_has_points_where_its_features_do():
    # (0 + red (4, 0) + (1, 4)) / 3 has the direction of (5, 4).
    model = by_hand("ges")
    rows = model.items.get_weights()[0]
    rows[A] = 0
    model.items.set_weights([rows])
    np.testing.assert_allclose(model.item_embeddings()[0], [5 / 41**0.5, 4 / 41**0.5], rtol=1e-6)
