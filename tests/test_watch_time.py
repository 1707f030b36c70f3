"""What the benchmark of YouTube's ranking measures against."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.watch_time import expected_loss
from models.measures.pointwise import watch_time_loss


def test_the_expected_loss_by_hand():
    """Pairs of one page, the watched one first, weigh p T (1 - p of the other).

    .5 x 10 x .8 = 4 and .2 x 30 x .5 = 3; the second page, of the same, has a tie.
    """
    probability, seconds = np.full((2, 2), [0.5, 0.2]), np.full((2, 2), [10.0, 30.0])
    assert expected_loss(np.array([[2, 1], [2, 1]]), probability, seconds) == pytest.approx(3 / 7)
    assert expected_loss(np.array([[2, 1], [1, 1]]), probability, seconds) == pytest.approx(
        (3 + 7 / 2) / 14
    )


def test_the_odds_have_the_least_expected_loss():
    random = np.random.RandomState(0)
    probability, seconds = random.uniform(0.05, 0.6, (1, 5)), random.uniform(1, 50, (1, 5))
    odds = probability * seconds / (1 - probability)
    losses = {
        order: expected_loss(np.array([order]), probability, seconds)
        for order in itertools.permutations(range(5))
    }
    best = min(losses, key=losses.get)
    np.testing.assert_array_equal(np.argsort(best), np.argsort(odds[0]))
    assert expected_loss(odds, probability, seconds) == pytest.approx(losses[best])


def test_draws_have_the_expected_loss():
    """40,000 drawn pages of one truth, times constant: the loss of what happened is near."""
    random = np.random.RandomState(0)
    probability, seconds = np.array([0.1, 0.3, 0.2, 0.05]), np.array([5.0, 1.0, 3.0, 9.0])
    score = np.array([1.0, 3.0, 2.0, 2.0])
    pages = 40_000
    time = np.where(random.uniform(size=(pages, 4)) < probability, seconds, 0.0)
    page = np.repeat(np.arange(pages), 4)
    drawn = watch_time_loss(tf.constant(time.ravel()), tf.tile(score, [pages]), tf.constant(page))
    expected = expected_loss(score[None], probability[None], seconds[None])
    assert float(drawn) == pytest.approx(expected, abs=0.01)
