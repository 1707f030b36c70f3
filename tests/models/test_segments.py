"""Popularity within segments of users."""

from types import SimpleNamespace

import numpy as np
import pytest

from models.measures import segments
from models.measures.segments import popularity_scores
from models.names.errors import ConfigError
from models.names.features import CATEGORICAL, MULTIVALUED, Feature


def data(values, events):
    """Users of indices 0 and 1 (padding, unknown) and one a further value.

    Events are (user, item) indices; there are 4 items.
    """
    user, item = np.array(events).T
    return SimpleNamespace(
        features=(
            Feature("user_tags", "user", MULTIVALUED),
            Feature("user_country", "user", CATEGORICAL),
            Feature("item_genre", "item", CATEGORICAL),
        ),
        users=SimpleNamespace(
            features={"user_country": np.array([0, 0, *values])},
            tokens={"user_country": [b"jp", b"fr"]},
            index_count=2 + len(values),
        ),
        items=range(4),
        item_weights=np.bincount(item[item >= 2] - 2, minlength=4),
        events=SimpleNamespace(user=user, item=item, weights=np.ones(len(item))),
    )


# Countries 2 and 3; the fifth user, of country 2, has no event, the sixth an unknown country (1).
LOG = data([2, 2, 3, 3, 2, 1], [(2, 2), (2, 3), (3, 3), (4, 2), (4, 4), (5, 4), (5, 2), (3, 1)])


def test_each_segment_counts_its_own_events():
    segment_of, scores, names = segments.popularity(LOG, None)
    assert names == [b"", b"user_country = jp", b"user_country = fr"]
    assert segment_of.tolist() == [0, 0, 1, 1, 2, 2, 1, 0]
    # Overall items 2, 3, 4, 5 have 3, 2, 2 and 0 events; country 2 has 1, 2, 0, 0 of them, country
    # 3 has 2, 0, 2, 0.
    np.testing.assert_allclose(scores[0], popularity_scores(np.array([3, 2, 2, 0])))
    assert np.argsort(-scores[1]).tolist() == [1, 0, 2, 3]
    assert np.argsort(-scores[2]).tolist() == [
        0,
        2,
        1,
        3,
    ]  # equal counts in the order of popularity overall
    assert all(len(set(row)) == 4 and row.max() == 1.0 and row.min() > 0 for row in scores)


def test_a_segment_counts_by_what_events_weigh():
    # Country 2 has items 2, 3 and 3; its event of item 2 weighs as much as three.
    heavy = data([2, 2], [(2, 2), (2, 3), (3, 3)])
    assert segments.popularity(heavy, None)[1][1].argmax() == 1
    heavy.events.weights = np.array([3.0, 1.0, 1.0])
    assert segments.popularity(heavy, None)[1][1].argmax() == 0


def test_segments_can_be_switched_off_or_named():
    for found in (
        segments.popularity(LOG, ""),
        segments.popularity(data([1, 1], [(2, 2), (3, 3)]), None),
    ):
        assert not found.of_user.any() and len(found.scores) == 1 and found.names == [b""]
    assert segments.popularity(LOG, "user_country")[1].shape == (3, 4)
    with pytest.raises(ConfigError, match=r"one value each \(user_country\); received 'user_tags'"):
        segments.popularity(LOG, "user_tags")
