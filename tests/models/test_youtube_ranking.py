"""YouTube's ranking: weighted logistic regression of watch times."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.industry.youtube_ranking import HyperParameters, YouTubeRanking
from models.inputs.schema import Field
from models.measures.pointwise import watch_time_loss
from models.names.errors import ConfigError, DataError
from models.names.label import Label
from tests.models.score_contract import RATING, ScoreContract


class TestYouTubeRanking(ScoreContract):
    """Ratings are watched, all of them: each is a negative too, so that its odds are its mean."""

    name = "youtube_ranking"
    label = RATING
    most_error = 0.75
    hyper_parameters = {
        "epochs": 14,
        "batch_size": 128,
        "learning_rate": 3e-3,
        "hidden": [64],
        "dropout": 0.2,
        "negatives": "every",
    }


def field(name, kind, tokens, listed=False):
    return Field(name, "item", kind, tf.string, listed, tuple(tokens))


def data(labels=(0.0, 4.0), label="watched", **changes):
    """A video, the one before it (of the same ids), many topics and a number."""
    fields = (
        field("item_id", "id", [b"a", b"b"]),
        field("previous", "categorical", [b"b", b"c"]),
        field("topics", "multivalued", [b"x", b"y"], listed=True),
        field("age", "numeric", [b"bucket 0"]),
    )
    made = {
        "fields": fields,
        "quantiles": {"age": "age_quantile"},
        "label": Label(column=label),
        "label_mean": float(np.mean(labels)),
        "label_range": (min(labels), max(labels)),
    }
    return SimpleNamespace(**{**made, **changes})


def model(hyper_parameters=None, **changes):
    return YouTubeRanking(
        HyperParameters(**{"hidden": [], **(hyper_parameters or {})}), data(**changes)
    )


INPUTS = {
    "item_id": tf.constant([3, 1], tf.int32),  # b; unknown
    "previous": tf.constant([2, 0], tf.int32),  # b; missing
    "topics": tf.constant([[2, 3, 1], [0, 0, 0]], tf.int32),  # x, y and an unknown one; none
    "age": tf.constant([2, 0], tf.int32),
    "age_quantile": tf.constant([0.25, 0.0]),
}


def test_what_the_network_reads():
    """Two ids of one space share a row; what is unknown or missing is 0 and not in a bag's mean.

    The shared space has a, b, c: round(3 ln 4) = 4 columns; the topics round(3 ln 3) = 3.
    """
    ranker = model({"shared": [["item_id", "previous"]]})
    features = ranker.features(INPUTS).numpy()
    assert features.shape == (2, 4 + 4 + 3 + 3)
    ids, topics = (ranker.tables[name].embeddings.numpy() for name in ("item_id", "topics"))
    np.testing.assert_allclose(features[0, :4], ids[3])  # b is the second token
    np.testing.assert_allclose(features[0, 4:8], ids[3])
    np.testing.assert_allclose(features[0, 8:11], (topics[2] + topics[3]) / 2, rtol=1e-6)
    np.testing.assert_allclose(features[0, 11:], [0.25, 0.0625, 0.5])
    np.testing.assert_array_equal(features[1], np.zeros(14))
    apart = model({"powers": False})
    assert set(apart.tables) == {"item_id", "previous", "topics"}
    assert apart.features(INPUTS).shape == (2, 3 + 3 + 3 + 1)


def test_the_loss_by_hand():
    """At s = ln 3: softplus(-s) = ln(4/3), softplus(s) = ln 4."""
    score, time = tf.fill([3], math.log(3)), tf.constant([5.0, 0.0, 100.0])
    watched, not_watched = math.log(4 / 3), math.log(4)
    np.testing.assert_allclose(
        model().row_loss(time, score), [5 * watched, not_watched, 100 * watched], rtol=1e-5
    )
    np.testing.assert_allclose(
        model({"negatives": "every", "longest": 10}).row_loss(time, score),
        [5 * watched + not_watched, not_watched, 10 * watched + not_watched],
        rtol=1e-5,
    )


@pytest.mark.parametrize("negatives, expected", [("unwatched", 60 / 90), ("every", 60 / 100)])
def test_the_odds_are_the_watch_time(negatives, expected):
    """100 impressions that look alike, 10 of them watched for 6: sum T / (N - k), or / N."""
    time = tf.constant([6.0] * 10 + [0.0] * 90)
    score = tf.Variable(0.0)
    ranker = model({"negatives": negatives})
    for _ in range(400):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(ranker.row_loss(time, tf.fill([100], score)))
        score.assign_sub(2.0 * tape.gradient(loss, score))
    assert math.exp(score) == pytest.approx(expected, rel=1e-3)


def test_clicks_weigh_the_same_and_have_a_probability():
    ranker = model(labels=(0.0, 1.0), label="label")
    score = tf.constant([0.3, -0.2])
    expected = tf.nn.sigmoid_cross_entropy_with_logits(tf.constant([1.0, 0.0]), score)
    np.testing.assert_allclose(ranker.row_loss(tf.constant([1.0, 0.0]), score), expected)
    np.testing.assert_allclose(ranker.predict_rows(INPUTS)[1], 0.5)  # the share of clicks


def test_an_answer_is_at_most_the_longest_time_and_starts_at_the_mean():
    ranker = model()
    assert float(ranker.predict_rows(INPUTS)[1]) == pytest.approx(2.0)
    ranker.output_layer.bias.assign([50.0])
    np.testing.assert_allclose(ranker.predict_rows(INPUTS), [4.0, 4.0])


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="'watched': required: watch times, 0 or more.* -1"):
        model(labels=(-1.0, 3.0))
    with pytest.raises(ConfigError, match="shared: required: .*item_id, previous.* 'age'"):
        model({"shared": [["item_id", "age"]]})


def test_the_papers_measure_by_hand():
    """Page 1: 6 watched below one of two others: 6; 2 above both: 0. Page 2 has nothing unwatched.

    Of the 8 seconds that could be mispredicted 6 are, by half of the pairs: a pair weighs its time.
    """
    time = tf.constant([6.0, 2.0, 0.0, 0.0, 9.0])
    score = tf.constant([0.5, 0.9, 0.6, 0.1, 0.3])
    page = tf.constant([1, 1, 1, 1, 2], tf.int64)
    assert float(watch_time_loss(time, score, page)) == pytest.approx((6 * 1) / (6 * 2 + 2 * 2))
