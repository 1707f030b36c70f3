"""Item-kNN: the contract, and similarities by hand."""

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from models.baseline import item_knn
from models.contract.query import Query
from models.inputs import neighbours as neighbours_of
from tests.models.contract import RetrieveContract, train

# Item 0 has all four users, item 1 two of them, item 2 another one.
USERS = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [1.0, 0.0, 0.0]])


def similarities(users, neighbours, shrink):
    """As a dense matrix."""
    pairs = scipy.sparse.csr_matrix(users, dtype=np.float32)
    return neighbours_of.similarities(pairs, neighbours, shrink).toarray()


class TestItemKNN(RetrieveContract):
    name = "item_knn"
    hyper_parameters = {"neighbours": 14}

    def test_score_is_the_sum_over_the_history(self, trained):
        history = ["item 2 é世", "item 3 é世"]
        parts = [
            self.ask(trained, ["nobody"], [[item]], exclude=[history], k=60) for item in history
        ]
        whole = self.ask(trained, ["nobody"], [history], k=60)
        tables = [dict(zip(part["item_id"][0], part["score"][0], strict=True)) for part in parts]
        for item, score in zip(whole["item_id"][0], whole["score"][0], strict=True):
            if item:
                np.testing.assert_allclose(score, tables[0][item] + tables[1][item], atol=1e-5)


def test_cosines_by_hand():
    # 2 / sqrt(4 * 2) = 0.7071, 1 / sqrt(4 * 1) = 0.5, no user in common: 0; never an item with
    # itself.
    np.testing.assert_allclose(
        similarities(USERS, 10, 0.0), [[0, 0.70710678, 0.5], [0.70710678, 0, 0], [0.5, 0, 0]]
    )


def test_shrinkage_weakens_what_few_users_support():
    # 2 / (2.8284 + 2) = 0.41421, 1 / (2 + 2) = 0.25.
    np.testing.assert_allclose(similarities(USERS, 10, 2.0)[0], [0, 0.41421356, 0.25], atol=1e-7)


def test_each_column_keeps_its_nearest_neighbours_only():
    # Column 0 has 0.7071 and 0.5: with one neighbour item 2 loses its say on item 0, but not the
    # reverse.
    np.testing.assert_allclose(
        similarities(USERS, 1, 0.0), [[0, 0.70710678, 0.5], [0.70710678, 0, 0], [0, 0, 0]]
    )


def test_of_equal_similarities_the_more_popular_item_is_kept():
    users = np.array([[1.0, 0, 1], [0, 1, 1], [1, 0, 0], [0, 1, 0]])
    kept = similarities(users, 1, 0.0)[:, 2]
    assert kept[0] > 0 and kept[1] == 0


def test_an_item_without_users_is_like_nothing():
    assert np.isfinite(similarities(np.zeros((2, 2)), 1, 0.0)).all()


def test_a_block_of_items_is_as_all_of_them(monkeypatch):
    """Whichever items are looked at together, the same similarities are kept, ties included."""
    users = np.random.RandomState(0).rand(40, 30) < 0.2
    together = (users.T.astype(np.float64)) @ users
    norm = np.sqrt(np.diagonal(together))
    whole = together / np.maximum(np.outer(norm, norm), 1e-12)
    np.fill_diagonal(whole, 0.0)
    expected = np.zeros_like(whole)
    for column in range(30):
        best = sorted(range(30), key=lambda row: (-whole[row, column], row))[:4]
        expected[best, column] = whole[best, column]
    for at_once in (1, 50, 10_000):
        monkeypatch.setattr(neighbours_of, "_AT_ONCE", at_once)
        np.testing.assert_allclose(similarities(users, 4, 0.0), expected)


# Users by items: the first has items 0 and 1, the second item 0.
PAIRS = scipy.sparse.csr_matrix([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])


def test_who_has_much_says_little():
    # ln(4 / (1 + 2)) and ln(4 / (1 + 1)).
    of_users, of_items = item_knn.factors_of(PAIRS, "tf_idf", 1.2, 0.75)
    np.testing.assert_allclose(of_users, [0.28768207, 0.69314718])
    np.testing.assert_array_equal(of_items, 1.0)
    for factors in item_knn.factors_of(PAIRS, "none", 1.2, 0.75):
        np.testing.assert_array_equal(factors, 1.0)


def test_bm25_by_hand():
    # The items have 2, 1, 0 and 0 users, 0.75 in the mean. With k1 2 and b 0.5 the factors are
    # 3 / (1 + 2 (0.5 + 0.5 x 2 / 0.75)) = 3 / (1 + 1 + 2.6667) = 0.642857,
    # 3 / (1 + 1 + 1.3333) = 0.9, and 3 / 2 for those without users.
    of_users, of_items = item_knn.factors_of(PAIRS, "bm25", 2.0, 0.5)
    np.testing.assert_allclose(of_items, [0.64285714, 0.9, 1.5, 1.5])
    np.testing.assert_allclose(of_users, [0.28768207, 0.69314718])
    # Without a length to account for, all items are the same: (k1 + 1) / (1 + k1).
    np.testing.assert_allclose(item_knn.factors_of(PAIRS, "bm25", 2.0, 0.0)[1], 1.0)


@pytest.mark.parametrize("weighting", ["bm25", "tf_idf"])
def test_weighted_scores_are_of_weighted_users_and_a_weighted_history(toy_data, weighting):
    """Dense, with the formulas of the module: X weighted, its shrunk cosines, x_u S."""
    data = toy_data("profile", 0.0).load_once("item_knn")
    settings = {"neighbours": 60, "shrink": 3.0, "weighting": weighting, "k1": 2.0, "b": 0.5}
    model = train("item_knn", data, settings)
    pairs = data.events.matrix(60).toarray().astype(np.float64)
    idf, users = np.log(60 / (1 + pairs.sum(axis=1))), pairs.sum(axis=0)
    factor = 3 / (1 + 2 * (0.5 + 0.5 * users / users.mean())) if weighting == "bm25" else 1.0
    weighted = idf[:, None] * pairs * factor
    norm = np.sqrt((weighted**2).sum(axis=0))
    cosines = weighted.T @ weighted / (np.outer(norm, norm) + 3.0)
    np.fill_diagonal(cosines, 0.0)
    query = Query(None, None, tf.ragged.constant([[3, 7]], dtype=tf.int64))
    expected = (np.isin(np.arange(2, 62), [3, 7]) * factor) @ cosines
    np.testing.assert_allclose(model.score_items(query, model.catalogue())[0], expected, atol=1e-6)


def test_lists_score_as_the_matrix_does(toy_data):
    data = toy_data("profile", 0.0).load_once("item_knn")
    model = train("item_knn", data, {"neighbours": 9})
    pairs = data.events.matrix(len(data.items))
    matrix = similarities(pairs, 9, 0.0)
    assert ((matrix > 0).sum(axis=0) <= 9).all()
    histories = [[3, 7, 3], [2, 40, 41, 42], []]  # a repeated item counts once
    query = Query(None, None, tf.ragged.constant(histories, dtype=tf.int64))
    expected = [
        sum((matrix[item - 2] for item in set(history)), np.zeros(len(data.items)))
        for history in histories
    ]
    np.testing.assert_allclose(model.score_items(query, model.catalogue()), expected, atol=1e-6)
