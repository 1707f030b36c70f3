"""iALS: the contract, the closed form by hand, and what an alternation must obey."""

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from models.baseline import ials
from models.contract.query import Query
from models.names import registry
from tests.models.contract import RetrieveContract, train

TOY = {"epochs": 8, "factors": 4, "alpha": 10.0, "l2": 5.0}


class TestIALS(RetrieveContract):
    name = "ials"
    hyper_parameters = TOY

    def test_a_known_users_vector_is_solved_from_its_history(self, trained):
        """By the paper's formula (4), with NumPy, in the stored history's items."""
        model, data = trained.model, trained.data
        history = data.user_history[2].numpy()
        factors = model.item_factors.embeddings.numpy().astype(np.float64)
        own = factors[history]
        left = factors.T @ factors + 10.0 * own.T @ own + 5.0 * np.eye(4)
        expected = np.linalg.solve(left, 11.0 * own.sum(axis=0))
        embedding = trained.signatures["embed"](
            user_id=tf.constant(data.users.ids[:1]), history=tf.zeros([1, 0], tf.string)
        )["embedding"]
        np.testing.assert_allclose(embedding[0], expected, rtol=1e-4, atol=1e-5)

    def test_the_loss_falls_with_every_sweep(self, trained):
        data = trained.data
        model = registry.load("ials").Model(trained.model.hyper_parameters, data)
        losses = []
        for _ in range(4):
            model.sweep()
            losses.append(loss_of(model, data))
        assert all(np.diff(losses) < 0), losses


def loss_of(model, data):
    batches = model.batches(data, 0, 0)
    rows = batches.dataset.take(batches.steps)
    return np.mean([float(model.compute_loss(batch)) for batch in rows])


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("profile", 0.0).load_once("ials")


def make(data, **changes):
    module = registry.load("ials")
    return module.Model(module.HyperParameters(**{**TOY, **changes}), data)


# Two users, three items: the first has item 0 once and item 1 twice, the second has item 2. Rows
# and columns 0 and 1 are padding and the unknown.
COUNTS = np.pad([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]], [[2, 0], [2, 0]])
ITEMS = np.array([[0.0], [0.0], [1.0], [2.0], [3.0]])


def solved(**parameters):
    lists = ials.Lists(scipy.sparse.csr_matrix(COUNTS), 1)
    return lists.solve(tf.constant(ITEMS), 3, ials.HyperParameters(factors=1, **parameters))


def test_two_users_and_three_items_by_hand():
    # One factor, y = 1, 2, 3, Y'Y = 1 + 4 + 9 = 14; alpha 0.5, l2 4.
    # First: 14 + 0.5 (1 x 1 + 2 x 4) + 4 = 22.5; 1.5 x 1 + 2 x 2 = 5.5; x = 5.5 / 22.5.
    # Second: 14 + 0.5 (1 x 9) + 4 = 22.5; 1.5 x 3 = 4.5; x = 4.5 / 22.5.
    np.testing.assert_allclose(
        solved(alpha=0.5, l2=4.0), [[0], [0], [5.5 / 22.5], [4.5 / 22.5]], rtol=1e-12
    )


def test_the_penalty_grows_with_the_confidences_to_its_exponent():
    # Sums of confidences: 3 + 0.5 x 3 = 4.5 and 3 + 0.5 x 1 = 3.5; with exponent 1 and l2 2 the
    # penalties are 9 and 7 in the place of 4.
    np.testing.assert_allclose(
        solved(alpha=0.5, l2=2.0, exponent=1.0)[2:], [[5.5 / 27.5], [4.5 / 25.5]], rtol=1e-12
    )


def test_blocks_of_any_size_solve_the_same(monkeypatch):
    random = np.random.RandomState(1)
    counts = np.pad(random.poisson(0.3, [40, 30]).astype(float), [[2, 0], [2, 0]])
    factors = tf.constant(np.pad(random.rand(30, 3), [[2, 0], [0, 0]]))
    found = []
    for cells in (1 << 24, 50):
        monkeypatch.setattr(ials, "_CELLS", cells)
        lists = ials.Lists(scipy.sparse.csr_matrix(counts), 3)
        found.append(lists.solve(factors, 30, ials.HyperParameters(factors=3)))
        assert (lists.blocks > 10) == (cells == 50)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)


def test_repeats_are_counted_row_by_row():
    history = tf.ragged.constant([[3, 2, 3], [], [3]], dtype=tf.int64)
    items, counts = ials.count_repeats(history, 4)
    assert items.numpy().tolist() == [[3, 2], [0, 0], [3, 0]]
    assert counts.numpy().tolist() == [[2, 1], [0, 0], [1, 0]]


def test_a_repeat_in_the_history_weighs_as_in_train(data):
    """Item 2 twice and item 3: r is 2 and 1, as if train had it so."""
    model = make(data)
    model.sweep()
    history = tf.ragged.constant([[2, 3, 2]], dtype=tf.int64)
    factors = model.item_factors.embeddings.numpy().astype(np.float64)
    one, other = factors[2], factors[3]
    left = factors.T @ factors + 20 * np.outer(one, one) + 10 * np.outer(other, other)
    expected = np.linalg.solve(left + 5.0 * np.eye(4), 21 * one + 11 * other)
    found = model.query_embedding(Query(None, None, history))
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_the_loss_is_the_papers_over_the_users(data):
    """Dense, with every pair of user and item: c (p - x.y)^2 and both penalties."""
    model = make(data, exponent=1.0, l2=0.01)
    model.sweep()
    pairs = data.events.matrix(len(data.items)).toarray()  # nobody has an item twice
    items = model.item_factors.embeddings.numpy()[2:].astype(np.float64)
    confidence = 1.0 + 10.0 * pairs
    ridge = 0.01 * confidence.sum(axis=1)
    users = np.array(
        [
            np.linalg.solve(items.T @ (c[:, None] * items) + r * np.eye(4), items.T @ (c * p))
            for c, p, r in zip(confidence, pairs, ridge, strict=True)
        ]
    )
    expected = (confidence * (pairs - users @ items.T) ** 2).sum()
    expected += (ridge * (users**2).sum(axis=1)).sum()
    expected += (0.01 * confidence.sum(axis=0) * (items**2).sum(axis=1)).sum()
    np.testing.assert_allclose(loss_of(model, data), expected / len(pairs), rtol=1e-4)


def test_a_sweep_is_the_items_best_answer(data):
    """Every item's vector is the ridge regression on the users' vectors that it was made with."""
    model = make(data)
    before = model.item_factors.embeddings.numpy().astype(np.float64)
    model.sweep()
    after = model.item_factors.embeddings.numpy()
    pairs = data.events.matrix(len(data.items)).toarray()
    users = np.array(
        [
            np.linalg.solve(
                before.T @ before + 10 * before[2:].T @ (p[:, None] * before[2:]) + 5 * np.eye(4),
                11 * before[2:].T @ p,
            )
            for p in pairs
        ]
    )
    for item in (0, 7, 59):
        has = pairs[:, item]
        left = users.T @ users + 10 * users.T @ (has[:, None] * users) + 5 * np.eye(4)
        np.testing.assert_allclose(
            after[item + 2], np.linalg.solve(left, 11 * users.T @ has), rtol=1e-4, atol=1e-6
        )


@pytest.mark.thorough
def test_training_twice_with_a_seed_gives_the_same_model(data):
    first, second = (train("ials", data, {**TOY, "epochs": 2}) for _ in range(2))
    np.testing.assert_array_equal(first.item_factors.embeddings, second.item_factors.embeddings)
