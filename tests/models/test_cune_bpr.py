"""CUNE-BPR: the contract, the three sets and the loss by hand, and a training that is killed."""

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from models.embedding.cune_bpr import friends_items
from models.names import registry
from models.training import keeper, warm_start
from models.training.loop import TrainingLoop
from tests.models.contract import RetrieveContract

TOY = {
    "epochs": 30,
    "batch_size": 64,
    "learning_rate": 1e-2,
    "factors": 8,
    "patience": 10,
    "friends": 5,
    "walks_per_user": 4,
    "walk_length": 6,
    "embedding_dim": 8,
    "embedding_epochs": 2,
}


class TestCUNEBPR(RetrieveContract):
    name = "cune_bpr"
    hyper_parameters = TOY


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("event", 1.0).load_once("cune_bpr")


def make(data, name="cune_bpr", **changes):
    module = registry.load(name)
    model = module.Model(module.HyperParameters(**changes), data)
    TrainingLoop(model.hyper_parameters, data).build(model)
    return model


def set_by_hand(model):
    """User 2: (1, 2). Items: 2: (0.5, 1), 3: (1, -1), 4: (0, 1); biases .1, .3, -.2."""
    for layer, rows in (
        (model.user_factors, [[1.0, 2.0]]),
        (model.item_factors, [[0.5, 1.0], [1.0, -1.0], [0.0, 1.0]]),
        (model.item_bias, [[0.1], [0.3], [-0.2]]),
    ):
        values = layer.embeddings.numpy()
        values[0] = 9.0  # what stands for nothing is not looked at
        values[2 : 2 + len(rows)] = rows
        layer.embeddings.assign(values)


def loss_of(model, *items):
    return model.compute_loss({"user": tf.constant([2]), "items": tf.constant([items])})


def softplus(x):
    return np.log1p(np.exp(x))


# x_2 = .1 + .5 + 2 = 2.6, x_3 = .3 + 1 - 2 = -.7, x_4 = -.2 + 2 = 1.8;
# |p|^2 = 5, |q_2|^2 = 1.25, |q_3|^2 = 2, |q_4|^2 = 1.
def test_loss_of_a_triple_by_hand(data):
    model = make(data, factors=2, l2=0.1, coefficient=4.0)
    set_by_hand(model)
    # Own item 2, a friend's 4, the rest's 3: 2.6 - 1.8 = .8 and (1.8 + .7) / 4 = .625.
    np.testing.assert_allclose(
        loss_of(model, 2, 4, 3), softplus(-0.8) + softplus(-0.625) + 0.1 * 9.25, rtol=1e-5
    )
    # Friends who have all the rest: nothing ranks below their items.
    np.testing.assert_allclose(loss_of(model, 2, 4, 0), softplus(-0.8) + 0.1 * 7.25, rtol=1e-5)
    # A user who has everything.
    np.testing.assert_allclose(loss_of(model, 2, 0, 0), 0.1 * 6.25, rtol=1e-5)


def test_without_friends_it_is_bpr_mf(data):
    ours = make(data, factors=2, l2=0.1)
    theirs = make(data, "bpr_mf", factors=2, l2_user=0.1, l2_item=0.1, l2_negative=0.1)
    for model in (ours, theirs):
        set_by_hand(model)
    # 2.6 + .7 = 3.3.
    np.testing.assert_allclose(loss_of(ours, 2, 0, 3), softplus(-3.3) + 0.1 * 8.25, rtol=1e-5)
    np.testing.assert_allclose(loss_of(ours, 2, 0, 3), loss_of(theirs, 2, 3), rtol=1e-6)


def test_what_friends_have_by_hand():
    # Users 2, 3, 4, items 0 to 3: 2 has 0 and 1, 3 has 1 and 2, 4 has 3. 2's friends are 3 and 4,
    # 3's is 2, 4 has none.
    friends = np.array([[0, 0], [0, 0], [3, 4], [2, 0], [0, 0]])
    user, item = np.array([2, 2, 3, 3, 4]), np.array([0, 1, 1, 2, 3])
    found = friends_items(friends, user, item, 4)
    expected = np.zeros((5, 4), bool)
    expected[2, [2, 3]] = expected[3, 0] = True
    np.testing.assert_array_equal(found.toarray() > 0, expected)
    assert found.nnz == 3
    # An event that is repeated is no second item.
    again = friends_items(friends, np.r_[user, 2, 3], np.r_[item, 0, 2], 4)
    assert again.nnz == 3 and np.array_equal(again.indices, found.indices)


def test_draws_are_of_their_sets(data):
    """Users 2 to 60 have the next two as friends, the others have none."""
    model = make(data, batch_size=100)
    rows = data.users.embedding_rows
    friends = np.zeros((rows, 2), np.int64)
    friends[2:61] = np.arange(2, 61)[:, np.newaxis] + [1, 2]
    model._friends = friends
    owned = scipy.sparse.csr_matrix(
        (np.ones(len(data.events)), (data.events.user, data.events.item)),
        (rows, data.items.embedding_rows),
    )
    has = owned.toarray() > 0
    social = (has[friends] & (friends > 0)[..., np.newaxis]).any(axis=1) & ~has
    drawn, seen = [], np.zeros_like(has)
    for epoch in (0, 1):
        batches = model.batches(data, 3, epoch)
        parts = list(batches.dataset.take(batches.steps).as_numpy_iterator())
        user = np.concatenate([part["user"] for part in parts])
        own, friend, rest = np.concatenate([part["items"] for part in parts]).T
        assert sorted(zip(user, own)) == sorted(zip(data.events.user, data.events.item))
        assert ((friend > 0) == (user < 61)).all()
        assert social[user, friend][user < 61].all()
        assert not has[user, rest].any() and not social[user, rest].any() and (rest >= 2).all()
        seen[user, friend] = True
        drawn.append(sorted(zip(user, friend, rest)))
    assert drawn[0] != drawn[1]
    # 14 draws a user from about as many: none of them is out of reach.
    assert 0.4 < seen[2:61, 2:].sum() / social.sum() < 0.8


@pytest.mark.thorough
def test_a_training_that_is_killed_twice_comes_to_the_same_bits(data, tmp_path, monkeypatch):
    """In the embedding of the users, then in the ranking."""
    parameters = registry.load("cune_bpr").HyperParameters(
        **{**TOY, "epochs": 2, "embedding_epochs": 3, "walks_per_user": 2}
    )

    def run(folder=None, killed_at=None):
        def say(line):
            if killed_at and line.startswith(killed_at):
                raise KeyboardInterrupt

        monkeypatch.setattr(keeper, "say", say)
        tf.keras.utils.set_random_seed(5)
        model = registry.load("cune_bpr").Model(parameters, data)
        loop = TrainingLoop(parameters, data, seed=5, checkpoint_dir=folder)
        model.learn(loop)
        return loop, model

    whole, expected = run()
    for place in ("users epoch   2", "model epoch   2"):
        with pytest.raises(KeyboardInterrupt):
            run(str(tmp_path), place)
    resumed, model = run(str(tmp_path))
    assert [row["stage"] for row in resumed.history] == ["users"] * 3 + ["model"] * 2
    assert [row["loss"] for row in whole.history] == [row["loss"] for row in resumed.history]
    np.testing.assert_array_equal(expected._friends, model._friends)
    assert model._friends.any()
    found = warm_start.variables_by_path(model)
    for path, variable in warm_start.variables_by_path(expected).items():
        np.testing.assert_array_equal(variable, found[path], err_msg=path)
