"""GAUC as TFMA adds it up, against the one that trainings choose by."""

import numpy as np
import pytest

from components.gate import row_metrics
from models.measures import pointwise


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
