"""What a row counts for: in the loss, in the metrics and in the mean that they are held against."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.autoencoder.autorec import AutoRec
from models.contract.score import ScoreModel
from models.contract.score_task import Evaluation, ScoreTask
from models.inputs.score_data import ScoreData
from models.measures import pointwise
from models.names import metrics
from models.names.errors import ConfigError, DataError
from models.names.label import LABEL, WEIGHT, Label

WEIGHED = Label(column="label", weight="importance")
LABELS = tf.constant([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
PREDICTIONS = tf.constant([0.9, 0.4, 0.4, 0.6, 0.2, 0.2])
USERS = tf.constant([1, 1, 1, 2, 2, 2], tf.int64)
WEIGHTS = tf.constant([2.0, 1.0, 1.0, 3.0, 1.0, 2.0])


def repeated(values):
    """Every row as often as it weighs."""
    return tf.repeat(values, tf.cast(WEIGHTS, tf.int32))


def test_a_row_that_weighs_two_is_that_row_twice():
    rows = map(repeated, (LABELS, PREDICTIONS, USERS))
    weighed = pointwise.click_metrics(LABELS, PREDICTIONS, USERS, WEIGHTS)
    for name, value in pointwise.click_metrics(*rows).items():
        np.testing.assert_allclose(weighed[name], value, rtol=1e-6, err_msg=name)


def test_weighted_auc_by_hand():
    """User 1: .9 beats the negative (2 x 1), .4 ties with it (1 x 1 / 2): 2.5 of 3.

    User 2: .2 is below .6 (0 of 1 x 3) and ties with .2 (1 x 2 / 2): 1 of 5. GAUC weighs the users
    by their 4 and 6 rows.
    """
    area, rows, pairs = pointwise.group_auc(LABELS, PREDICTIONS, USERS, WEIGHTS)
    np.testing.assert_allclose(area, [2.5 / 3, 1 / 5])
    np.testing.assert_allclose(rows, [4, 6])
    np.testing.assert_allclose(pairs, [3, 5])
    value, _, _ = pointwise.gauc(LABELS, PREDICTIONS, USERS, WEIGHTS)
    assert float(value) == pytest.approx((4 * 2.5 / 3 + 6 / 5) / 10)


def test_the_loss_is_weighted_where_the_batch_says_so():
    """Log losses at s = 0 are ln 2 each; a row without weight loses nothing."""
    model = SimpleNamespace(
        label=WEIGHED,
        list_loss=None,
        row_loss=lambda label, score: ScoreModel.row_loss(model, label, score),
    )
    batch = {LABEL: tf.constant([1.0, 0.0]), WEIGHT: tf.constant([3.0, 0.0])}
    losses = ScoreModel.example_losses(model, batch, tf.zeros(2))
    np.testing.assert_allclose(losses, [3 * np.log(2), 0.0], rtol=1e-6)
    del batch[WEIGHT]
    np.testing.assert_allclose(
        ScoreModel.example_losses(model, batch, tf.zeros(2)), [np.log(2)] * 2, rtol=1e-6
    )


class Rows(ScoreData):
    """Train rows that are there, and not read."""

    def __init__(self, label, weight):
        self.label, self._lists, self._told = label, False, weight

    def _read(self, split):
        labels = np.array([1, 0, 0], np.float32)
        return {LABEL: labels, WEIGHT: np.array(self._told, np.float32)}


def test_only_proportions_matter_and_the_mean_is_weighted():
    """Weights 6, 3, 3 are 1.5, .75, .75 of their mean; half of the weight is on the click."""
    for told in ([6, 3, 3], [2, 1, 1]):
        rows = Rows(WEIGHED, told)
        np.testing.assert_allclose(rows.train[WEIGHT], [1.5, 0.75, 0.75])
        assert rows.label_mean == pytest.approx(0.5)
    with pytest.raises(DataError, match="label.weight: 'importance': .*; all of them are 0"):
        _ = Rows(WEIGHED, [0, 0, 0]).train


def test_metrics_are_weighted_means():
    """Log loss .5 for weights 3 and 1 on the truth of both: - (3 ln .8 + ln .4) / 4."""
    evaluation = Evaluation.__new__(Evaluation)
    evaluation._labels, evaluation._label = tf.constant([1.0, 0.0]), WEIGHED
    evaluation._mean, evaluation._users = tf.constant(0.5), tf.constant([1, 1], tf.int64)
    evaluation._beside = {WEIGHT: tf.constant([3.0, 1.0])}
    values = evaluation._measure(tf.constant([0.8, 0.6]))
    expected = -(3 * np.log(0.8) + np.log(0.4)) / 4
    assert float(values["log_loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(values["constant_log_loss"]) == pytest.approx(np.log(2), rel=1e-5)
    # Predicted 3 x .8 + .6 clicks, 3 observed.
    assert float(values["calibration"]) == pytest.approx(3.0 / 3)


def test_who_cannot_weigh_refuses():
    with pytest.raises(ConfigError, match="label.weight: AutoRec cannot weigh .*'importance'"):
        ScoreTask(WEIGHED).load(AutoRec, "", "", {})
    assert metrics.of("score", WEIGHED).weight == WEIGHT
    assert metrics.of("score", Label(column="label")).weight is None
