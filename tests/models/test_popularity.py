"""Popularity: the contract, and counts by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.baseline.popularity import recent_counts
from models.contract.query import Query
from models.contract.retrieve_task import RetrieveTask
from models.contract.retriever import Retriever
from models.measures import ranking
from models.measures.segments import popularity_scores
from models.names.errors import ConfigError, DataError
from models.training.trainer import resolve
from tests.models.contract import RetrieveContract, strings, train

# Items 2, 3, 3 and 4; 1, 2, 2 and 0 days before the last event.
EVENTS = SimpleNamespace(
    item=np.array([2, 3, 3, 4]),
    timestamp=1_000_000 - 86_400 * np.array([1, 2, 2, 0]),
    weights=np.ones(4),
)


class TestPopularity(RetrieveContract):
    name = "popularity"


def test_scores_are_unique_and_follow_the_counts():
    # Counts 3, 5, 3, 0: item 1 first, then 0 before 2 (catalogue order), then 3.
    np.testing.assert_allclose(popularity_scores(np.array([3, 5, 3, 0])), [0.75, 1.0, 0.5, 0.25])


def test_events_beyond_the_window_do_not_count_and_its_edge_does():
    np.testing.assert_array_equal(recent_counts(EVENTS, 4, 1.0, None), [1, 0, 1, 0])
    np.testing.assert_array_equal(recent_counts(EVENTS, 4, 2.0, None), [1, 2, 1, 0])
    np.testing.assert_array_equal(recent_counts(EVENTS, 4, 0.5, None), [0, 0, 1, 0])


def test_an_event_weighs_half_after_a_half_life():
    # Ages of one, two, two and no half-lives: 1/2, 1/4 + 1/4, 1.
    np.testing.assert_allclose(recent_counts(EVENTS, 4, None, 1.0), [0.5, 0.5, 1, 0])
    np.testing.assert_allclose(recent_counts(EVENTS, 4, 1.5, 1.0), [0.5, 0, 1, 0])


def test_what_an_event_weighs_counts_beside_its_age():
    # Weights 1, 2, 1 and 3; ages of one, two, two and no half-lives: 1/2, 2/4 + 1/4, 3.
    heavy = SimpleNamespace(**{**vars(EVENTS), "weights": np.array([1.0, 2.0, 1.0, 3.0])})
    np.testing.assert_allclose(recent_counts(heavy, 4, None, 1.0), [0.5, 0.75, 3, 0])
    np.testing.assert_allclose(recent_counts(heavy, 4, 1.0, None), [1, 0, 3, 0])


def test_recency_wants_times():
    log = SimpleNamespace(item=np.array([2]), timestamp=np.array([0]))
    with pytest.raises(DataError, match="required: a column timestamp"):
        recent_counts(log, 1, 7.0, None)


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("event", 0.0).load_once("popularity")


def test_the_recent_are_ranked_first(data):
    """The toy log lasts 15 minutes: of a window of two only the last events count."""
    model = train("popularity", data, {"window_days": 120 / 86_400})
    events = data.events
    late = events.timestamp >= events.timestamp.max() - 120
    counts = np.bincount(events.item[late] - 2, minlength=60)
    assert 0 < late.sum() < len(events)
    query = Query(tf.constant([2]), tf.constant([True]), tf.ragged.constant([[]], dtype=tf.int64))
    np.testing.assert_array_equal(model.score_items(query, ())[0], popularity_scores(counts))


def test_an_evaluation_ranks_some_rows_at_a_time(data, monkeypatch):
    """The same of every row, however many are ranked together; never more than there is room."""
    model = train("popularity", data, {})
    queries = tf.constant(data.queries("test"), tf.string)
    examples, count = tf.TensorSpec([None], tf.string), tf.constant(5)

    def asked():
        retriever, met = Retriever(model, data), []
        ranked = retriever.measurer._ranked

        def noted(rows, catalogue):
            met.append(tf.py_function(most.append, [tf.shape(rows["target_count"])[0]], []))
            with tf.control_dependencies(met):
                return ranked(rows, catalogue)

        retriever.measurer._ranked, most = noted, []
        evaluate = tf.function(retriever.evaluate, input_signature=[examples])
        recall = tf.function(lambda rows: retriever.measurer.recall_queries(rows, count))
        found = evaluate(queries), recall.get_concrete_function(examples)(queries)
        return found, max(map(int, most))

    whole, most = asked()
    assert most == len(queries) == 120
    monkeypatch.setattr(ranking, "AT_ONCE", 50 * len(data.items) + 1)
    parts, most = asked()
    assert most == 50
    for one, other in zip(whole, parts, strict=True):
        assert one.keys() == other.keys() and len(one) > 10
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_a_sessions_items_come_first_by_their_count(data):
    """S-POP: twice, once, then popularity; a known user's session alone is looked at."""
    model = train("popularity", data, {"session_first": True, "filter_seen": False})
    assert RetrieveTask().notes(model) == {"history": "session"}
    ids = data.items.ids
    once, twice = ids[40], ids[50]
    answer = Retriever(model, data).recommend(
        tf.constant([data.users.ids[0], b"nobody"]),
        strings([[once, twice, twice]] * 2),
        strings([[]] * 2),
        tf.constant([4, 4]),
    )
    for row in answer["item_id"].numpy():
        assert row.tolist() == [twice, once, ids[0], ids[1]]
    # 2 + 10/60, 1 + 20/60 and the shares of the first two.
    np.testing.assert_allclose(answer["score"][0], [2 + 10 / 60, 1 + 20 / 60, 1, 59 / 60], 1e-6)


def test_a_session_first_that_is_filtered_out_is_refused():
    with pytest.raises(ConfigError, match="session_first .* requires filter_seen: false"):
        resolve("popularity", {"session_first": True})
