"""EASE: the contract, the closed form by hand, and what an inverse must obey.

The inverse is one on the whole matrix.
"""

import numpy as np
import pytest
import scipy.sparse

from models.baseline.ease import EASE, count_together, solve
from models.names import memory, registry
from models.names.errors import ConfigError
from tests.models.contract import RetrieveContract


class TestEASE(RetrieveContract):
    name = "ease"
    hyper_parameters = {"l2": 5.0}

    def test_repeated_items_count_once(self, trained):
        once = self.ask(trained, ["nobody"], [["item 2 é世", "item 3 é世"]])
        twice = self.ask(trained, ["nobody"], [["item 2 é世", "item 3 é世", "item 2 é世"]])
        np.testing.assert_array_equal(once["item_id"], twice["item_id"])
        np.testing.assert_allclose(once["score"], twice["score"], rtol=1e-6)


def test_two_items_by_hand():
    # X = [[1, 1], [1, 0]]: X'X = [[2, 1], [1, 1]]; with lambda 1: [[3, 1], [1, 2]], P = 1/5 [[2,
    # -1], [-1, 3]]. B = -P / diag(P) by columns, diagonal 0: B_01 = (1/5) / (3/5) = 1/3, B_10 =
    # (1/5) / (2/5) = 1/2.
    np.testing.assert_allclose(
        solve(np.array([[2.0, 1.0], [1.0, 1.0]]), 1.0), [[0, 1 / 3], [1 / 2, 0]]
    )


def test_two_items_and_a_heavy_event_by_hand():
    # X = [[2, 1], [1, 0]]: X'X = [[5, 2], [2, 1]]; with lambda 1: [[6, 2], [2, 2]], P = 1/8 [[2,
    # -2], [-2, 6]]: B_01 = (2/8) / (6/8) = 1/3, B_10 = (2/8) / (2/8) = 1.
    together = count_together(scipy.sparse.csr_matrix([[2.0, 1.0], [1.0, 0.0]]))
    np.testing.assert_allclose(solve(together, 1.0), [[0, 1 / 3], [1, 0]])


def test_columns_are_ridge_regressions_on_the_other_items():
    """B_.j minimises |X_j - X b|^2 + lambda |b|^2 under b_j = 0.

    That is an ordinary ridge regression without column j.
    """
    pairs = (np.random.RandomState(5).rand(40, 6) < 0.4).astype(float)
    weights = solve(pairs.T @ pairs, 3.0)
    for item in range(6):
        others = np.delete(np.arange(6), item)
        inputs = pairs[:, others]
        expected = np.linalg.solve(inputs.T @ inputs + 3.0 * np.eye(5), inputs.T @ pairs[:, item])
        np.testing.assert_allclose(weights[others, item], expected, atol=1e-10)
        assert weights[item, item] == 0.0


def test_the_inverse_is_taken_in_place_and_equals_the_plain_one():
    """More items than a block of the mirroring has, with a small lambda; 8 bytes an entry."""
    random = np.random.RandomState(3)
    pairs = scipy.sparse.csr_matrix((random.rand(900, 700) < 0.05).astype(np.float32))
    together = count_together(pairs)
    np.testing.assert_array_equal(together, (pairs.T @ pairs).toarray())
    inverse = np.linalg.inv(together + 2.0 * np.eye(700))
    expected = inverse / -np.diag(inverse)
    np.fill_diagonal(expected, 0.0)
    weights = solve(together, 2.0)
    np.testing.assert_allclose(weights, expected, atol=1e-10)
    assert np.shares_memory(weights, together)


def test_the_limit_follows_from_memory(monkeypatch):
    """16 bytes an entry: 0.8 x 20 million bytes hold 1,000 x 1,000 of them."""
    monkeypatch.setattr(memory, "total_bytes", lambda: 20_000_000)
    assert EASE.HyperParameters().most_items() == 1000
    assert EASE.HyperParameters(max_items=7).most_items() == 7


def test_a_catalogue_beyond_the_limit_is_refused(toy_data):
    data, module = toy_data("profile", 0.0).load("ease"), registry.load("ease")
    with pytest.raises(ConfigError, match="at most 59 items .*; received 60"):
        module.Model(module.HyperParameters(max_items=59), data)
