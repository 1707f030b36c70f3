"""Lists of rows: NDCG within them, list-wise losses, batches of whole groups."""

import math

import numpy as np
import pytest
import tensorflow as tf

from models.contract.score import ScoreModel
from models.inputs import sampling
from models.inputs.traced import traced
from models.measures import lists
from models.names import metrics
from models.names.errors import ConfigError
from models.names.label import GROUP, Label

# Group 1: the grade 1 stands below a 0. Group 2: all the same score. Group 3: nothing wanted.
LABELS = tf.constant([0.0, 1.0, 0.0, 0.0, 2.0, 0.0, -0.4])
SCORES = tf.constant([0.9, 0.5, 0.1, 0.3, 0.3, 0.7, 0.2])
GROUPS = tf.constant([1, 1, 1, 2, 2, 3, 3], tf.int64)
LOG3 = 1 / math.log2(3)


def test_ndcg_by_hand():
    """Group 1: gain 1 at the second place. Group 2: gain 3, tied: (3 / 2)(1 + LOG3) of 3.

    A random order of group 1 has 1/3 at each of its three places.
    """
    ours, random, counted = lists.group_ndcg(LABELS, SCORES, GROUPS)
    np.testing.assert_allclose(ours, [LOG3, (1 + LOG3) / 2, 0], rtol=1e-6)
    np.testing.assert_allclose(random, [(1 + LOG3 + 0.5) / 3, (1 + LOG3) / 2, 0], rtol=1e-6)
    assert counted.numpy().tolist() == [True, True, False]
    at_one, _, _ = lists.group_ndcg(LABELS, SCORES, GROUPS, k=1)
    np.testing.assert_allclose(at_one, [0, 0.5, 0])


def test_the_order_of_rows_is_no_order():
    order = tf.constant([4, 6, 2, 0, 5, 1, 3])
    shuffled = (tf.gather(column, order) for column in (LABELS, SCORES, GROUPS))
    for ours, again in zip(
        lists.group_ndcg(LABELS, SCORES, GROUPS), lists.group_ndcg(*shuffled), strict=True
    ):
        np.testing.assert_array_equal(ours, again)


def test_what_was_refused_costs_and_the_best_order_reaches_one():
    """Gains 1 and 2^-.4 - 1 = -.2421; the worse first: (-.2421 + LOG3) / (1 - .2421 LOG3)."""
    label, refused = tf.constant([1.0, -0.4]), 2**-0.4 - 1
    group = tf.zeros(2, tf.int64)
    best, _, _ = lists.group_ndcg(label, tf.constant([2.0, 1.0]), group)
    worst, _, _ = lists.group_ndcg(label, tf.constant([1.0, 2.0]), group)
    np.testing.assert_allclose(best, [1.0])
    np.testing.assert_allclose(worst, [(refused + LOG3) / (1 + refused * LOG3)], rtol=1e-6)
    unknown, _, _ = lists.group_ndcg(label, tf.constant([float("nan"), 2.0]), group)
    np.testing.assert_allclose(unknown, worst)


def test_means_over_groups_and_what_is_left_out():
    values = lists.group_metrics(LABELS, SCORES, GROUPS)
    ours, random = [LOG3, (1 + LOG3) / 2], [(1.5 + LOG3) / 3, (1 + LOG3) / 2]
    assert set(values) == {*metrics.GROUP_METRICS}
    assert float(values["group_ndcg_10"]) == pytest.approx(np.mean(ours))
    assert float(values["lift_group_ndcg_10"]) == pytest.approx(np.mean(ours) - np.mean(random))
    assert (float(values["groups"]), float(values["groups_left_out"])) == (2, 1)
    # Rows of 1, 2, 3 weigh 2 on average; those of 1, 0 a half.
    weighed = lists.group_metrics(
        LABELS, SCORES, GROUPS, tf.constant([1.0, 2.0, 3.0, 1.0, 0.0, 9.0, 9.0])
    )
    assert float(weighed["group_ndcg_10"]) == pytest.approx((2 * ours[0] + 0.5 * ours[1]) / 2.5)
    nothing = lists.group_metrics(tf.zeros(2), tf.zeros(2), tf.zeros(2, tf.int64))
    assert float(nothing["group_ndcg_10"]) == float(nothing["groups"]) == 0


def test_lambda_rank_by_hand():
    """Group 1 has the order b, a, c of the scores 1, 0, -1; a, the better one, is in the middle.

    Swapping a and b changes (1 - 0)(1 - LOG3), a and c (LOG3 - 1/2), both over an ideal of 1. The
    pairs lose ln(1 + e^1) and ln(1 + e^-1). Group 2 wants nothing: no loss, whatever its order.
    """
    label = tf.constant([1.0, 0.0, 0.0, 0.0, -0.4])
    score = tf.constant([0.0, 1.0, -1.0, 0.0, 5.0])
    group = tf.constant([0, 0, 0, 1, 1])
    loss = lists.lambda_rank(label, score, group)
    expected = (1 - LOG3) * math.log1p(math.e) + (LOG3 - 0.5) * math.log1p(1 / math.e)
    np.testing.assert_allclose(loss, [expected, 0, 0, 0, 0], rtol=1e-5)


def test_lambda_rank_divides_by_the_ideal_and_grades_its_pairs():
    """Grades 2 and 1 in the wrong order: |3 - 1| (1 - LOG3) over the ideal 3 + LOG3."""
    loss = lists.lambda_rank(tf.constant([2.0, 1.0]), tf.constant([0.0, 0.0]), tf.constant([7, 7]))
    # Equal scores stand as the rows do, here in the best order; swapping costs the same.
    expected = 2 * (1 - LOG3) / (3 + LOG3) * math.log(2)
    np.testing.assert_allclose(loss, [expected, 0], rtol=1e-5)


def test_lambda_rank_teaches_the_order():
    score = tf.Variable(tf.constant([2.0, 1.0, 0.0, -1.0]))
    label, group = tf.constant([0.0, 0.25, 1.0, -0.4]), tf.zeros(4, tf.int32)

    @traced
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(lists.lambda_rank(label, score, group))
        score.assign_sub(tape.gradient(loss, score))

    for _ in range(300):
        step()
    assert np.argsort(-score.numpy()).tolist() == [2, 1, 0, 3]


def test_list_softmax_by_hand():
    """Gains 1 and 3 of 0, ln 2: shares 1/4, 3/4 of -ln(1/3) and -ln(2/3). No gain, no loss."""
    loss = lists.list_softmax(
        tf.constant([1.0, 2.0, 0.0]), tf.constant([0.0, math.log(2), 4.0]), tf.constant([0, 0, 1])
    )
    np.testing.assert_allclose(loss, [math.log(3) / 4, 0.75 * math.log(1.5), 0], rtol=1e-5)


def test_batches_hold_whole_groups_and_an_epoch_every_row_once():
    group = np.array([5, 7, 5, 9, 7, 5, 8])
    columns = {"row": np.arange(7)}
    batches = sampling.group_batches(columns, group, batch_size=3, seed=1)
    # Two groups a batch: 3 rows of 7 rows in 4 groups are 1.7 groups.
    assert (batches.steps, batches.rows) == (2, 7)
    epochs = [list(batches.dataset.skip(2 * epoch).take(2)) for epoch in (0, 1)]
    for epoch in epochs:
        seen = np.concatenate([batch["row"] for batch in epoch])
        assert sorted(seen) == list(range(7))
        for batch in epoch:
            of_row = group[batch["row"].numpy()]
            # Numbered 0 and 1 in the batch, one after the other, each with all of its rows.
            for number in (0, 1):
                rows = batch["row"].numpy()[batch[GROUP].numpy() == number]
                assert sorted(rows) == np.flatnonzero(group == group[rows[0]]).tolist()
            assert (np.diff(batch[GROUP]) >= 0).all() and len(set(of_row)) == 2
    again = next(iter(sampling.group_batches(columns, group, 3, seed=1, first_epoch=1).dataset))
    np.testing.assert_array_equal(again["row"], epochs[1][0]["row"])


def test_a_list_loss_wants_lists():
    with pytest.raises(ConfigError, match="label.group: required by .*list_loss: lambda_rank"):
        ScoreModel.check_label(Label(column="label"), "lambda_rank")
    grouped = metrics.of("score", Label(column="label", group="search_id"))
    assert grouped.monitor == "group_ndcg_10" and grouped.higher_is_better
    assert grouped.lift == "lift_group_ndcg_10" and grouped.reference == "a random order"
    assert metrics.named("lift_group_ndcg_10").monitor == "group_ndcg_10"
