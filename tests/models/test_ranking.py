"""Ranking metrics against values worked out by hand."""

import numpy as np
import pytest
import tensorflow as tf

from models.measures import ranking, recommended
from models.names import metrics
from models.names.errors import ConfigError
from models.names.metrics import RETRIEVE_METRICS

INF = float("inf")


def test_conservative_ranks_count_ties_against_the_target():
    # Scores 3 1 1 2: target 1 ties with item 2 -> ranks 3 (optimistic) and 4 (conservative).
    conservative, optimistic = ranking.ranks(
        tf.constant([[3.0, 1.0, 1.0, 2.0]]), tf.constant([[1, 0]])
    )
    assert conservative.numpy().tolist() == [[4.0, 1.0]] and optimistic.numpy().tolist() == [
        [3.0, 1.0]
    ]


def test_masked_unknown_and_not_a_number_targets_rank_nowhere():
    scores = tf.constant([[-INF, 2.0, float("nan"), 1.0]])
    conservative, _ = ranking.ranks(scores, tf.constant([[0, -1, 2, 1]]))
    # The one that is not a number counts as the best for the others: item 1 is second.
    assert (conservative.numpy()[0, :3] > 1e6).all() and conservative.numpy()[0, 3] == 2.0


def test_constant_scorer_gains_nothing():
    conservative, _ = ranking.ranks(tf.zeros([1, 50]), tf.constant([[7]]))
    assert ranking.hit_rate(conservative, 10).numpy().tolist() == [0.0]


def test_golden_vector():
    # Ranked relevance [0, 1, 0, 1, 0], 3 relevant items, K = 5: targets at ranks 2 and 4, the third
    # beyond.
    rank, count = tf.constant([[2.0, 4.0, 40.0]]), tf.constant([3.0])
    np.testing.assert_allclose(ranking.recall(rank, count, 5), [2 / 3], atol=1e-6)
    np.testing.assert_allclose(ranking.ndcg(rank, count, 5), [0.498189], atol=1e-6)
    np.testing.assert_allclose(ranking.reciprocal_rank(rank, 5), [0.5], atol=1e-6)
    np.testing.assert_allclose(ranking.average_precision(rank, count, 5), [1 / 3], atol=1e-6)


def test_rows_are_ranked_some_at_a_time(monkeypatch):
    """Ten rows, four at a time: each learns of how many were with it."""

    def counted(rows):
        size = tf.shape(rows)[0]
        return {"rows": rows, "many": (tf.fill([size, 2], size),)}

    traced = tf.function(lambda rows: ranking.by_parts(counted, rows, 4))
    for ask in (traced, lambda rows: ranking.by_parts(counted, rows, 4)):
        found = ask(tf.range(10))
        assert found["rows"].numpy().tolist() == list(range(10))
        assert found["many"][0].numpy().tolist() == [[4, 4]] * 8 + [[2, 2]] * 2
        assert ask(tf.range(0))["many"][0].shape == [0, 2]
    monkeypatch.setattr(ranking, "AT_ONCE", 1000)
    assert [ranking.rows_at_once(items) for items in (0, 300, 5000)] == [1000, 3, 1]


def test_leave_one_out_ndcg_by_rank():
    rank = tf.range(1.0, 11.0)[:, tf.newaxis]
    expected = [1, 0.6309, 0.5, 0.4307, 0.3869, 0.3562, 0.3333, 0.3155, 0.3010, 0.2891]
    np.testing.assert_allclose(ranking.ndcg(rank, tf.ones([10]), 10), expected, atol=5e-5)


def test_sampled_candidates_rank_among_themselves_only():
    scores = tf.constant([[5.0, 4.0, 3.0, 2.0]])
    values = ranking.retrieve_metrics(
        scores, scores, tf.constant([[2]]), tf.ones([1]), tf.constant([[3, -1]])
    )
    assert (
        float(values["ncf99_ndcg_10"][0]) == 1.0 and abs(float(values["ndcg_10"][0]) - 0.5) < 1e-6
    )
    assert set(values) == set(RETRIEVE_METRICS)
    empty = ranking.retrieve_metrics(
        scores, scores, tf.constant([[2]]), tf.ones([1]), tf.zeros([1, 0], tf.int32)
    )
    assert float(empty["ncf99_hr_10"][0]) == 0.0


def measured(scores, targets, count, candidates=((-1,),)):
    """The metrics of one query, as numbers."""
    scores = tf.constant([scores], tf.float32)
    values = ranking.retrieve_metrics(
        scores, scores, tf.constant([targets]), tf.constant([count]), tf.constant(candidates)
    )
    return {name: float(value[0]) for name, value in values.items()}


def test_a_target_that_stands_twice_gains_once():
    # Item 0 is first: it alone is all there is to find (twice it would be 1 + 1/log2(3) over 1 of
    # NDCG, and precisions 1/1 + 2/1 of MAP).
    twice, once = measured([5, 4, 3, 2], [0, 0], 2.0), measured([5, 4, 3, 2], [0], 1.0)
    assert twice == once and (twice["ndcg_10"], twice["map_10"], twice["recall_10"]) == (1, 1, 1)
    # Of items 3 (rank 4, twice) and 0 (rank 1) and one outside of the catalogue two are found;
    # (1 + 1/log2(5)) / (1 + 1/log2(3) + 1/2) = 1.430677 / 2.130930; (1/1 + 2/4) / 3.
    mixed = measured([5, 4, 3, 2], [3, 0, -1, 3], 4.0)
    np.testing.assert_allclose(mixed["recall_10"], 2 / 3, atol=1e-6)
    np.testing.assert_allclose(mixed["ndcg_10"], 0.671386, atol=1e-6)
    np.testing.assert_allclose(mixed["map_10"], 0.5, atol=1e-6)


def test_a_candidate_that_is_the_target_does_not_stand_before_it():
    # Target 2 against candidates 2 (itself) and 3 (below): first of two.
    values = measured([5, 4, 3, 2], [2], 1.0, [[2, 3]])
    assert values["ncf99_ndcg_10"] == 1.0
    # A candidate that is listed twice stands before it once: second, 1/log2(3).
    values = measured([5, 4, 3, 2], [2], 1.0, [[0, 0]])
    np.testing.assert_allclose(values["ncf99_ndcg_10"], 0.630930, atol=1e-6)


def test_a_candidate_that_is_not_a_number_stands_before_the_target():
    # Item 0 is not a number and so the best of the others: target 2 is second of three, 1/log2(3).
    values = measured([float("nan"), 4, 3, 2], [2], 1.0, [[0, 3]])
    np.testing.assert_allclose(values["ncf99_ndcg_10"], 0.630930, atol=1e-6)
    # As a target it is the worst.
    assert measured([float("nan"), 4, 3, 2], [0], 1.0, [[2, 3]])["ncf99_hr_10"] == 0.0


def test_several_targets_share_the_list_of_the_candidates():
    # Items 0 and 1 are the two best of the three that are listed: all there is to gain, no more.
    np.testing.assert_allclose(
        measured([5, 4, 3, 2], [1, 0], 2.0, [[3]])["ncf99_ndcg_10"], 1.0, atol=1e-6
    )


def test_many_targets_rank_as_few():
    # Up to four targets are counted, more are searched for: scores with ties, -inf and what is not
    # a number.
    scores = np.round(np.random.RandomState(0).randn(6, 40), 1).astype(np.float32)
    scores[:, 3], scores[2, 5] = -INF, np.nan
    targets = np.tile(np.arange(-1, 9), (6, 1))
    many = ranking.ranks(tf.constant(scores), tf.constant(targets))
    for place in range(targets.shape[1]):
        few = ranking.ranks(tf.constant(scores), tf.constant(targets[:, place : place + 1]))
        for left, right in zip(many, few, strict=True):
            np.testing.assert_array_equal(left[:, place : place + 1], right)


def asked(scores, targets, count, *names, longest=0, information=None):
    """Metrics that a run asks for, of one query."""
    scores = tf.constant([scores], tf.float32)
    values = ranking.retrieve_metrics(
        scores,
        scores,
        tf.constant([targets]),
        tf.constant([count]),
        tf.constant([[-1]]),
        names,
        longest,
        information,
    )
    return [values[name].numpy()[0] for name in names] if names else values


def test_cut_offs_that_a_run_asks_for():
    # Targets are at ranks 1 and 4, and a third is outside the catalogue.
    found = asked(
        [5, 4, 3, 2],
        [0, 3, -1],
        3.0,
        "recall_50",
        "recall_min_2",
        "recall_min_50",
        "precision_4",
        "precision_1",
        "hr_1",
        "mrr_1",
        "ndcg_100",
    )
    # 2 of 3; 1 of min(2, 3); 2 of min(50, 3); 2 in 4; 1 in 1; and of NDCG
    # (1 + 1/log2(5)) / (1 + 1/log2(3) + 1/2) = 0.671386, as at 10.
    np.testing.assert_allclose(found, [2 / 3, 1 / 2, 2 / 3, 1 / 2, 1, 1, 1, 0.671386], atol=1e-6)


def test_auc_of_a_query():
    # Ranks 1 and 4 of four: the target at 1 is before both others, that at 4 behind both.
    assert asked([5, 4, 3, 2], [0, 3], 2.0, "auc") == [0.5]
    # One item is masked: of the pairs (0, 1), (3, 1) the first is in order.
    assert asked([5, 4, -np.inf, 2], [3, 0], 2.0, "auc") == [0.5]
    # A tie counts against the target: of two others one scores less.
    assert asked([3, 3, 2], [0], 1.0, "auc") == [0.5]
    # Two targets that tie with each other alone are both before the two others.
    assert asked([3, 3, 2, 1], [0, 1], 2.0, "auc") == [1.0]
    # A constant scorer has none in order; nor has a target outside the catalogue.
    assert asked([1, 1, 1], [2], 1.0, "auc") == [0.0]
    assert asked([3, 2, 1], [0, -1], 2.0, "auc") == [0.5]
    # Nothing else could be recommended.
    assert asked([1, -np.inf], [0], 1.0, "auc") == [1.0]


def test_what_is_recommended():
    # Shares of the events 1/2, 1/4, 1/8: 1, 2 and 3 bits. The first two of the list are items 2
    # and 0, (3 + 1) / 2; of three places one stays empty, since item 1 is masked.
    values = asked([5.0, -np.inf, 6.0], [0], 1.0, longest=3, information=tf.constant([1.0, 2, 3]))
    assert values["recommended"].numpy().tolist() == [[2, 0, -1]]
    assert values["catalogue_size"].numpy().tolist() == [3.0]
    bits = {"longest": 4, "information": tf.constant([1.0, 2, 3])}
    assert asked([5.0, -np.inf, 6.0], [0], 1.0, "novelty_1", "novelty_4", **bits) == [3.0, 2.0]


def test_coverage_and_gini_of_all_lists():
    counts = np.array([0, 3, 1, 0])
    # Two items of four. Sorted 0 0 1 3 with weights -3 -1 1 3: (1 + 9) / (3 * 4) = 5 / 6.
    assert recommended.coverage(counts) == 0.5 and recommended.gini(counts) == pytest.approx(5 / 6)
    assert (
        recommended.gini(np.array([2, 2, 2])) == 0.0
        and recommended.gini(np.array([0, 9, 0])) == 1.0
    )
    assert np.isnan(recommended.gini(np.zeros(3, int))) and np.isnan(
        recommended.gini(np.array([4]))
    )


def test_what_a_run_may_ask_for():
    measured = metrics.RETRIEVE.asking(["recall@50", "AUC", "coverage_10", "novelty_20", "hr_10"])
    assert measured.means[-3:] == ("recall_50", "auc", "novelty_20")
    assert measured.of_lists == ("coverage_10",) and measured.longest_list == 20
    assert measured.outputs[-2:] == ("recommended", "catalogue_size")
    assert list(measured.shown.values())[-4:] == ["Recall@50", "AUC", "Coverage@10", "Novelty@20"]
    assert measured.choosing_by("recall_50").monitor == "recall_50"
    assert metrics.RETRIEVE.asking([]) == metrics.RETRIEVE
    for wrong, message in (
        ("recal_50", "did you mean 'recall_50'"),
        ("recall", "such as recall_50"),
        ("ndcg_0", "received 'ndcg_0'"),
    ):
        with pytest.raises(ConfigError, match=message):
            metrics.RETRIEVE.asking([wrong])
    with pytest.raises(ConfigError, match="for models that rank the catalogue"):
        metrics.CLICK.asking(["recall_50"])
