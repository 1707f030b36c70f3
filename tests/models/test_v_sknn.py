"""V-SKNN: the contract, scores by hand, and the whole against plain Python."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.baseline.v_sknn import VSKNN, most_recent, session_matrix
from models.contract.query import Query
from tests.models.contract import RetrieveContract

# Items 2 .. 6; sessions by age, the oldest first.
SESSIONS = [[2, 3, 2], [3, 4], [2, 5], [6]]


class TestVSKNN(RetrieveContract):
    name = "v_sknn"
    hyper_parameters = {"neighbours": 20}


def scores(sessions, history, count=5, weight=None, **parameters):
    """[count] scores of a model that knows these sessions and nothing else."""
    starts = np.r_[0, np.cumsum([len(session) for session in sessions])]
    log = SimpleNamespace(
        sequences=lambda: (np.concatenate(sessions), starts), sequence_weight=weight
    )
    data = SimpleNamespace(items=range(count), events=log)
    model = VSKNN(VSKNN.HyperParameters(**parameters), data)
    query = Query(None, None, tf.ragged.constant([history], dtype=tf.int64))
    return model.score_items(query, model.catalogue()).numpy()[0]


def test_scores_by_hand():
    # The session 2, 3 weighs item 2 by 1/2 and item 3 by 1. {2, 3}: (1/2 + 1) / 2 = .75; {3, 4}:
    # 1 / 2 = .5; {2, 5}: .5 / 2 = .25; {6} shares nothing. Item 2: .75 + .25, item 3: .75 + .5.
    np.testing.assert_allclose(scores(SESSIONS, [2, 3]), [1.0, 1.25, 0.5, 0.25, 0.0])
    # Squares of the places: {2, 3}: (1/4 + 1) / 2, {2, 5}: 1/8. All the same: 1, .5, .5.
    np.testing.assert_allclose(
        scores(SESSIONS, [2, 3], weighting="quadratic"), [0.75, 1.125, 0.5, 0.125, 0.0]
    )
    np.testing.assert_allclose(
        scores(SESSIONS, [2, 3], weighting="same"), [1.5, 1.5, 0.5, 0.5, 0.0]
    )


def test_what_events_weigh_by_hand():
    # As above, but the events of {3, 4} weigh 1/2 and 2: its similarity is 1 x 1/2 / 2 = .25, and
    # it gives item 3 .25 x 1/2 and item 4 .25 x 2. Of item 2 in the first the heavier counts.
    weight = np.array([1.0, 1.0, 0.5, 0.5, 2.0, 1.0, 1.0, 1.0], np.float32)
    np.testing.assert_allclose(
        scores(SESSIONS, [2, 3], weight=weight), [1.0, 0.875, 0.5, 0.25, 0.0]
    )


def test_of_a_repeated_item_the_last_event_counts():
    # 2, 3, 2: item 2 weighs 3/3, item 3 weighs 2/3, over two items. {2, 3}: 5/6, {3, 4}: 1/3, {2,
    # 5}: 1/2.
    np.testing.assert_allclose(
        scores(SESSIONS, [2, 3, 2]), [5 / 6 + 1 / 2, 5 / 6 + 1 / 3, 1 / 3, 1 / 2, 0], rtol=1e-6
    )


def test_a_vote_decays_with_the_steps_back_to_what_is_shared():
    # {2, 3} and {3, 4} share the last event: 1/1; {2, 5} the one before: 1/2 of .25.
    np.testing.assert_allclose(
        scores(SESSIONS, [2, 3], decay="reciprocal"), [0.875, 1.25, 0.5, 0.125, 0.0]
    )


def test_rare_items_weigh_more():
    # Items 2 and 3 are in two of four sessions, 4 and 5 in one: ln 2, ln 4; twice that, and 1.
    factors = 1 + 2 * np.log([2, 2, 4, 4, 4])
    np.testing.assert_allclose(
        scores(SESSIONS, [2, 3], idf_weight=2.0), [1.0, 1.25, 0.5, 0.25, 0.0] * factors, rtol=1e-6
    )


def test_only_the_nearest_vote_and_of_equals_the_more_recent():
    np.testing.assert_allclose(scores(SESSIONS, [2, 3], neighbours=1), [0.75, 0.75, 0, 0, 0])
    # Item 2 alone is as near to {2, 3} as to {2, 5}, the later one.
    np.testing.assert_allclose(scores(SESSIONS, [2], neighbours=1), [1, 0, 0, 1, 0])


def test_only_the_most_recent_are_looked_at():
    """Of three that share an item with 2, 3 the oldest, {2, 3}, is not, though the nearest."""
    np.testing.assert_allclose(scores(SESSIONS, [2, 3], sample=2), [0.25, 0.5, 0.5, 0.25, 0])


def test_no_session_in_common_gives_no_score():
    np.testing.assert_array_equal(scores(SESSIONS[:3], [6]), 0.0)


def test_an_items_last_sessions_are_kept():
    matrix = session_matrix(np.array([2, 3, 2, 2, 3, 2]), np.array([0, 2, 4, 5, 6]), 2)
    # Item 2 is in the sessions 0, 1 (twice: once counts) and 3, item 3 in 0 and 2.
    assert matrix.toarray().tolist() == [[1, 1], [1, 0], [0, 1], [1, 0]]
    kept = most_recent(matrix, 2)
    assert kept.indices.tolist() == [1, 3, 0, 2] and kept.indptr.tolist() == [0, 2, 4]


def plain(sessions, history, count, neighbours, sample):
    """The procedure in plain Python, session after session."""
    place = {item: number / len(history) for number, item in enumerate(history, start=1)}
    sharing = [n for n, session in enumerate(sessions) if {*session} & {*history}][-sample:]
    near = sorted(
        ((sum(place[i] for i in {*sessions[n]} & {*history}) / len(place), n) for n in sharing),
        reverse=True,
    )
    found = np.zeros(count)
    for similarity, number in near[:neighbours]:
        found[[item - 2 for item in {*sessions[number]}]] += similarity
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_index_answers_as_a_look_at_every_session(seed):
    """Popular items, so that the sample of each is cut, and ties of similarity are many."""
    random = np.random.RandomState(seed)
    sessions = [
        np.minimum(random.geometric(0.2, random.randint(1, 7)) + 1, 31).tolist() for _ in range(200)
    ]
    for _ in range(5):
        history = np.minimum(random.geometric(0.2, 4) + 1, 31).tolist()
        np.testing.assert_allclose(
            scores(sessions, history, 30, neighbours=10, sample=25),
            plain(sessions, history, 30, 10, 25),
            atol=1e-5,
        )
