"""CUNE's network of users: the projection, the walks and the friends by hand; train alone."""

import collections

import numpy as np
import pytest

from models.embedding import user_network
from models.inputs.preprocessing import FIRST_TOKEN
from models.names import registry
from models.training.loop import TrainingLoop
from tests.models import toy

A, B, C = range(3)
# a likes 0 and 1, b likes 1 and 2, c likes 0 and 1; a says so of 1 twice.
USER, ITEM = np.array([A, A, A, B, B, C, C]), np.array([0, 1, 1, 1, 2, 0, 1])
# Both like: a and b 1, a and c 0 and 1, b and c 1.
NETWORK = [[0, 1, 2], [1, 0, 1], [2, 1, 0]]


def test_the_projection_counts_what_two_users_both_like():
    network = user_network.project(USER, ITEM, (3, 3))
    np.testing.assert_array_equal(network.toarray(), NETWORK)
    assert network.nnz == 6  # no edge of weight 0, of a user to itself neither


def test_an_item_that_too_many_like_makes_no_edge():
    # Three like 1, so that a and c have 0 in common and b has nothing.
    network = user_network.project(USER, ITEM, (3, 3), most_likers=2)
    np.testing.assert_array_equal(network.toarray(), [[0, 0, 1], [0, 0, 0], [1, 0, 0]])
    assert network.nnz == 2


def test_a_step_is_drawn_by_weight_and_goes_where_the_walk_has_not_been():
    network = user_network.project(USER, ITEM, (4, 3))  # user 3 likes nothing
    walks = user_network.walk_users(network, 20_000, 3, seed=5)
    assert walks.shape == (60_000, 3)
    assert collections.Counter(walks[:, 0]) == {A: 20_000, B: 20_000, C: 20_000}
    assert set(walks.ravel()) == {A, B, C}
    from_a = walks[walks[:, 0] == A]
    # To c by 2 of 3; a standard error is .0033.
    assert abs(np.mean(from_a[:, 1] == C) - 2 / 3) < 0.012
    # The third is the third user, unless 11 draws say the first: from c that is (2/3)^11 = .0116,
    # from b (1/2)^11 = .0005. By weight alone it would be 2/3 and 1/2.
    through_c, through_b = (from_a[from_a[:, 1] == user] for user in (C, B))
    assert abs(np.mean(through_c[:, 2] == A) - 0.0116) < 0.004
    assert np.mean(through_b[:, 2] == A) < 0.003


def test_walks_depend_on_the_seed_alone():
    network = user_network.project(USER, ITEM, (3, 3))
    walks = user_network.walk_users(network, 50, 6, seed=5)
    np.testing.assert_array_equal(walks, user_network.walk_users(network, 50, 6, seed=5))
    assert not np.array_equal(walks, user_network.walk_users(network, 50, 6, seed=6))
    # Every step is an edge.
    assert (np.array(NETWORK)[walks[:, :-1], walks[:, 1:]] > 0).all()


# Cosines: 0-1 .6, 0-2 0, 0-4 -1, 0-5 1, 1-2 .8, 1-4 -.6, 1-5 .6, 2-4 0, 2-5 0, 4-5 -1; user 3 has
# no vector. By inner product 1 would be nearer to 0 than 5 is: 3 against .1.
VECTORS = np.array([[1, 0], [3, 4], [0, 2], [0, 0], [-1, 0], [0.1, 0]], np.float32)


@pytest.mark.parametrize("rows_at_once", [2, 1000])
def test_friends_are_those_of_the_highest_cosine(rows_at_once, monkeypatch):
    monkeypatch.setattr(user_network, "_ROWS_AT_ONCE", rows_at_once)
    found = user_network.nearest_users(VECTORS, 2)
    # Equal ones in order: 0 and 5 are alike to user 1, as are 0, 4 and 5 to user 2.
    np.testing.assert_array_equal(
        found[[0, 1, 3, 4, 5]], [[5, 1], [2, 0], [-1, -1], [2, 1], [0, 1]]
    )
    assert found[2, 0] == 1 and found[2, 1] in (0, 4, 5)


def test_nobody_is_its_own_friend_and_there_may_be_fewer_than_wanted():
    found = user_network.nearest_users(VECTORS, 7)
    assert found.shape == (6, 7)
    for user in (0, 1, 2, 4, 5):
        assert sorted(found[user]) == [-1, -1, -1, *sorted({0, 1, 2, 4, 5} - {user})]
    assert (user_network.nearest_users(VECTORS[:1], 2) == -1).all()
    assert (user_network.nearest_users(VECTORS[3:4], 2) == -1).all()


OWN = {
    "friends": 5,
    "walks_per_user": 8,
    "walk_length": 10,
    "embedding_dim": 8,
    "embedding_epochs": 3,
}


def loop_of(data, **changes):
    parameters = registry.load("cune_bpr").HyperParameters(**{**OWN, **changes})
    return TrainingLoop(parameters, data, seed=3), parameters


def test_friends_have_the_same_taste_and_whoever_likes_nothing_has_none(toy_data):
    data = toy_data("event", 0.0).load_once("cune_bpr")
    loop, own = loop_of(data)
    events = data.events
    nobody = 7
    likes = events.user != nobody
    friends = user_network.find_friends(loop, own, events.user[likes], events.item[likes])
    assert friends.shape == (data.users.embedding_rows, 5)
    assert not friends[[0, 1, nobody]].any() and nobody not in friends
    others = np.setdiff1d(np.arange(FIRST_TOKEN, len(friends)), [nobody])
    assert (friends[others] >= FIRST_TOKEN).all()
    assert not (friends[others] == others[:, np.newaxis]).any()
    # Users of two blocks have nothing in common, so no walk leads from one to the other.
    block = np.array([int(name.decode().split()[1]) % toy.BLOCKS for name in data.users.ids])
    same = block[friends[others] - FIRST_TOKEN] == block[others - FIRST_TOKEN, np.newaxis]
    assert same.mean() > 0.95
    assert [row["stage"] for row in loop.history] == ["users"] * 3


def test_an_edge_is_made_by_train_alone(toy_data, monkeypatch):
    """The network beside one out of the raw log, without each user's last two events."""
    source = toy_data("event", 1.0)
    data = source.load("cune_bpr")
    caught = []

    def catch(network, *_):
        caught.append(network)
        raise InterruptedError

    monkeypatch.setattr(user_network, "walk_users", catch)
    for user, item in (
        (data.events.user, data.events.item),
        # Unknown users and items join nobody.
        (np.r_[data.events.user, [1, 1, 2, 3]], np.r_[data.events.item, [2, 3, 1, 1]]),
    ):
        with pytest.raises(InterruptedError):
            user_network.find_friends(*loop_of(data), user, item)
    rows = [
        line.split("\t")
        for line in (source.folder / "source" / "toy.inter").read_text("utf-8").splitlines()[1:]
    ]
    events = collections.defaultdict(list)
    for user, item, _, time in rows:
        events[user].append((int(time), item))

    def by_hand(last):
        liked = [
            {item for _, item in sorted(events[name.decode()])[:last]} for name in data.users.ids
        ]
        together = np.array([[len(left & right) for left in liked] for right in liked])
        np.fill_diagonal(together, 0)
        return together

    for network in caught:
        np.testing.assert_array_equal(network.toarray(), by_hand(-2))
    assert (by_hand(-2) != by_hand(None)).any()


def test_where_nobody_shares_an_item_nobody_has_friends(toy_data):
    data = toy_data("event", 0.0).load_once("cune_bpr")
    loop, own = loop_of(data)
    friends = user_network.find_friends(loop, own, np.array([2, 3]), np.array([2, 3]))
    assert friends.shape == (data.users.embedding_rows, 0) and not loop.history
