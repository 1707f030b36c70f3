"""GAUC and NDCG in groups as TFMA adds them up, against those that trainings choose by."""

import numpy as np
import pytest
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types

from components.gate.metrics.groups import _GroupRows, group_auc, groups_key
from components.gate.metrics.inputs import CHANGE, ERROR
from components.gate.metrics.means import _change_margin, _floor_margin
from components.gate.metrics.sums import standard_error
from models.measures import lists, pointwise
from models.names import metrics
from models.names.label import GROUP


def test_group_auc_is_that_of_the_trainings_with_ties_and_users_of_one_class():
    random = np.random.RandomState(7)
    user = random.randint(40, size=600)
    prediction = random.randint(6, size=600).astype(np.float32) / 8  # few values: many ties
    positive = (random.rand(600) < 0.4) & (user > 4)  # five users never click
    wanted = pointwise.click_metrics(positive.astype(np.float32), prediction, user.astype(np.int64))
    assert wanted["gauc_users_left_out"] >= 5
    assert group_auc(user, prediction, positive) == pytest.approx(float(wanted["gauc"]), abs=1e-9)


def test_known_values():
    # User 1 orders one of two pairs rightly (3 rows), user 2 its pair wrongly (2 rows), user 3 has
    # one class.
    user = np.array([1, 1, 1, 2, 2, 3])
    prediction = np.array([0.5, 0.9, 0.1, 0.2, 0.3, 0.4])
    positive = np.array([1, 0, 0, 1, 0, 1])
    assert group_auc(user, prediction, positive) == pytest.approx((3 * 0.5 + 2 * 0.0) / 5)
    assert np.isnan(group_auc(user[5:], prediction[5:], positive[5:]))
    assert np.isnan(group_auc(user[:0], prediction[:0], positive[:0]))


@pytest.mark.parametrize("weighted", [False, True])
def test_group_ndcg_is_that_of_the_trainings_whatever_the_bundles(weighted):
    """Rows in three bundles, merged; two users have a search of the same name: two groups."""
    random = np.random.RandomState(3)
    user, search = random.randint(2, size=60), random.randint(8, size=60)
    label = random.choice([0, 0.01, 1, -0.4], size=60).astype(np.float32)
    prediction = (random.randint(6, size=60) / 8).astype(np.float32)
    weight = random.randint(3, size=60).astype(np.float32)
    key = metric_types.MetricKey("_groups", output_name="prediction", example_weighted=weighted)
    combiner, parts = _GroupRows(key), []
    for rows in np.array_split(np.arange(60), 3):
        part = combiner.create_accumulator()
        for row in rows:
            element = metric_types.StandardMetricInputs(
                labels={"prediction": label[[row]], "log_loss": label[[row]]},
                predictions={"prediction": prediction[[row]], "log_loss": np.zeros(1)},
                example_weights=weight[[row]],
                features={
                    "user_id": np.array([b"u%d" % user[row]]),
                    GROUP: np.array([b"s%d" % search[row]]),
                },
            )
            part = combiner.add_input(part, element)
        parts.append(part)
    found = combiner.extract_output(combiner.merge_accumulators(parts))[key]
    wanted = lists.group_metrics(
        label, prediction, (user * 8 + search).astype(np.int64), weight if weighted else None
    )
    errors = {f"{name}{ERROR}" for name in metrics.GROUP_METRICS[:3]}
    assert set(found) == {*metrics.GROUP_METRICS} | errors and 0 < found["groups"] <= 16
    for name, value in wanted.items():
        assert found[name] == pytest.approx(float(value), abs=1e-9), name
    nothing = combiner.extract_output(combiner.create_accumulator())[key]
    assert np.isnan(nothing["group_ndcg_10"]) and nothing["groups"] == 0


def test_the_standard_error_of_weighted_values_by_hand():
    """Values 0, 0 and 3, weights 1, 1 and 2: the mean is 6 / 4.

    Deviations times weights are -1.5, -1.5 and 3, their squares 13.5 together; 3 / 2 of it over 4^2
    is the square of the error. With weights of 1 it is s / sqrt(3), s^2 = (1 + 1 + 4) / 2.
    """
    mean, error = standard_error(np.array([1.0, 1, 2]), np.array([0.0, 0, 3]))
    assert mean == 1.5 and error == pytest.approx((1.5 * 13.5 / 16) ** 0.5)
    mean, error = standard_error(np.ones(3), np.array([0.0, 0, 3]))
    assert mean == 1.0 and error == pytest.approx(1.0)
    assert np.isnan(standard_error(np.ones(1), np.array([2.0]))[1])
    # Rows that do not count, do not.
    assert np.isnan(standard_error(np.zeros(2), np.array([2.0, 3.0]))[0])


def held_against(baseline):
    """Two lists of two rows with the labels 1 and 0, of which the model has both right."""
    key = metric_types.MetricKey("_groups", model_name=tfma.CANDIDATE_KEY, output_name="p")
    combiner = _GroupRows(key)
    rows = combiner.create_accumulator()
    ranked = ((0, 1, 2), (0, 0, 1), (1, 1, 2), (1, 0, 1))
    for (search, label, ours), theirs in zip(ranked, baseline, strict=True):
        outputs = {
            tfma.CANDIDATE_KEY: {"p": np.array([ours], np.float32)},
            tfma.BASELINE_KEY: {"p": np.array([theirs], np.float32)},
        }
        element = metric_types.StandardMetricInputs(
            labels={tfma.CANDIDATE_KEY: {"p": np.array([label], np.float32)}},
            predictions=outputs,
            features={"user_id": np.array([b"u"]), GROUP: np.array([b"s%d" % search])},
        )
        rows = combiner.add_input(rows, element)
    return combiner.extract_output(rows)[key]


def test_groups_are_held_against_the_baseline_group_by_group():
    """The baseline has one of two lists right.

    NDCG of the wrong order is 1 / log2(3) = .6309, so the change is .3691 and 0: .1845 in the mean,
    with a standard error of .3691 / 2.
    """
    found = held_against([1, 2, 2, 1])
    lost = 1 - 1 / np.log2(3)
    assert found["group_ndcg_10"] == 1.0
    assert found["group_ndcg_10" + CHANGE] == pytest.approx(lost / 2)
    assert found["group_ndcg_10" + CHANGE + ERROR] == pytest.approx(lost / 2)


def test_a_baseline_that_has_a_nan_is_held_against_as_one_that_ranks_it_last():
    """Its positive without a score comes after the other: the same as the wrong order."""
    found = held_against([np.nan, 2, 2, 1])
    assert found["group_ndcg_10" + CHANGE] == pytest.approx((1 - 1 / np.log2(3)) / 2)


def margins(mean, bound, counts):
    names = ("x", "x" + ERROR, "x" + CHANGE, "x" + CHANGE + ERROR)
    found = {"groups": 1.0 * counts, **dict.fromkeys(names, mean)}
    place = tfma.CANDIDATE_KEY, "", False
    floor = _floor_margin("floor", "x", True, bound, 2.0, *place)[1]
    change = _change_margin("change", "x", True, bound, 2.0, True, *place)[1]
    values = {groups_key(*place): found}
    return [
        next(number for key, number in one.result(values).items() if key.name == name)
        for one, name in ((floor, "floor"), (change, "change"))
    ]


def test_a_slice_in_which_nothing_counts_has_no_fault_and_no_proof():
    assert margins(np.nan, -0.005, counts=False) == [0.0, 0.0]
    # What is asked for is not proven; and a model that answers NaN has a fault.
    assert np.isnan(margins(np.nan, 0.001, counts=False)).all()
    assert np.isnan(margins(np.nan, -0.005, counts=True)).all()
