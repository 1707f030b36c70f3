"""GAUC and NDCG in groups as TFMA adds them up, against those that trainings choose by."""

import numpy as np
import pytest
from tensorflow_model_analysis.metrics import metric_types

from components.gate import row_metrics
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
    assert row_metrics.group_auc(user, prediction, positive) == pytest.approx(
        float(wanted["gauc"]), abs=1e-9
    )


def test_known_values():
    # User 1 orders one of two pairs rightly (3 rows), user 2 its pair wrongly (2 rows), user 3 has
    # one class.
    user = np.array([1, 1, 1, 2, 2, 3])
    prediction = np.array([0.5, 0.9, 0.1, 0.2, 0.3, 0.4])
    positive = np.array([1, 0, 0, 1, 0, 1])
    assert row_metrics.group_auc(user, prediction, positive) == pytest.approx(
        (3 * 0.5 + 2 * 0.0) / 5
    )
    assert np.isnan(row_metrics.group_auc(user[5:], prediction[5:], positive[5:]))
    assert np.isnan(row_metrics.group_auc(user[:0], prediction[:0], positive[:0]))


@pytest.mark.parametrize("weighted", [False, True])
def test_group_ndcg_is_that_of_the_trainings_whatever_the_bundles(weighted):
    """Rows in three bundles, merged; two users have a search of the same name: two groups."""
    random = np.random.RandomState(3)
    user, search = random.randint(2, size=60), random.randint(8, size=60)
    label = random.choice([0, 0.01, 1, -0.4], size=60).astype(np.float32)
    prediction = (random.randint(6, size=60) / 8).astype(np.float32)
    weight = random.randint(3, size=60).astype(np.float32)
    key = metric_types.MetricKey("_groups", output_name="prediction", example_weighted=weighted)
    combiner, parts = row_metrics._GroupRows(key), []
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
    assert set(found) == {*metrics.GROUP_METRICS} and 0 < found["groups"] <= 16
    for name, value in wanted.items():
        assert found[name] == pytest.approx(float(value), abs=1e-9), name
    nothing = combiner.extract_output(combiner.create_accumulator())[key]
    assert np.isnan(nothing["group_ndcg_10"]) and nothing["groups"] == 0
