"""Popularity: the contract, and counts by hand."""

import numpy as np

from models.measures.segments import popularity_scores
from tests.models.contract import RetrieveContract


class TestPopularity(RetrieveContract):
    name = "popularity"


def test_scores_are_unique_and_follow_the_counts():
    # Counts 3, 5, 3, 0: item 1 first, then 0 before 2 (catalogue order), then 3.
    np.testing.assert_allclose(popularity_scores(np.array([3, 5, 3, 0])), [0.75, 1.0, 0.5, 0.25])
