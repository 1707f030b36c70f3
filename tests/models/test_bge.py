"""BGE: the contract, the loss by hand, and what becomes of an item that no walk has."""

import numpy as np
import pytest
import tensorflow as tf

from tests.models.contract import RetrieveContract
from tests.models.graph_data import TOY, A, B, C, by_hand, catalogue, pair_of


class TestBGE(RetrieveContract):
    name = "bge"
    hyper_parameters = TOY

    def test_it_trains_on_walks_of_an_hour(self, trained):
        assert trained.data.has_walks and trained.data.walks.nrows() == 20 * 60
        assert trained.data.walks.row_lengths().numpy().max() == 10


def test_the_loss_by_hand():
    # H_a = (1, 0), H_b = (0, 2). Z_b = (2, 1), Z_a = (5, -1), negative Z_c = (-1, 3), which counts
    # 4 times. The pairs are (a, b) and (b, a): 2 and -2 are the logits of the positives, -1 and 6
    # those of the negatives.
    model = by_hand("bge")
    model.contexts.set_weights([np.float32([[0, 0], [0, 0], [5, -1], [2, 1], [-1, 3]])])
    whole = {
        "centre": tf.constant([[A, B]], tf.int64),
        "context": tf.constant([[A, B]], tf.int64),
        "offset": tf.constant([0], tf.int64),
        "negative": tf.constant([[C]], tf.int64),
        "negative_weight": tf.constant([[4.0]]),
    }

    def softplus(x):
        return np.log1p(np.exp(x))

    expected = (softplus(-2) + 4 * softplus(-1) + softplus(2) + 4 * softplus(6)) / 2
    np.testing.assert_allclose(model.compute_loss(whole), expected, rtol=1e-5)
    one = model.compute_loss(pair_of(A, B, weights=(4.0,)))
    np.testing.assert_allclose(one, softplus(-2) + 4 * softplus(-1), rtol=1e-5)
    assert model.compute_loss(pair_of(A, A)) == 0.0  # no pair at all


def test_an_item_that_no_walk_has_is_not_returned():
    model = by_hand("bge")
    untrained = type(model)(model.hyper_parameters, catalogue())
    assert not untrained.items.embeddings.numpy().any()
    model.items.set_weights([np.float32([[0, 0], [0, 0], [3, 4], [0, 0], [0, 5]])])
    vectors, penalty = model.catalogue()
    # d is not of the trained table: BGE knows no new items, whose row is the unknown one.
    np.testing.assert_allclose(vectors[:3], [[0.6, 0.8], [0, 0], [0, 1]], rtol=1e-6)
    assert penalty.numpy().tolist() == [0.0, -np.inf, 0.0, -np.inf]
    assert not model.cold_items and not model.reads_item_features
    assert model.signatures(None) == {}


@pytest.mark.parametrize("length", [0, -1])
def test_a_query_has_at_least_one_item(length):
    with pytest.raises(ValueError, match="history_length\n.*must be at least 1"):
        by_hand("bge", history_length=length)
