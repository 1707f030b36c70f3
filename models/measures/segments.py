"""Popularity within segments of users.

It is what a user whom train has not seen gets, where the users table says something of them.
"""

from typing import NamedTuple

import numpy as np

from models.inputs.data import TrainingData
from models.inputs.preprocessing import BUCKETS, FIRST_TOKEN
from models.names.errors import ConfigError
from models.names.features import CATEGORICAL, NUMERIC

_CELLS = 10_000_000  # segments times items; more than that is not worth the memory of every server


def popularity_scores(item_counts: np.ndarray) -> np.ndarray:
    """[N] float32 in (0, 1], unique: the share of items that are not more popular.

    Counts are of events, each by what it weighs. Equal ones are in catalogue order.
    """
    count = len(item_counts)
    scores = np.empty(count, np.float32)
    scores[np.argsort(-item_counts, kind="stable")] = 1.0 - np.arange(count) / count
    return scores


class Segments(NamedTuple):
    """Popularity in S segments, and overall, which is segment 0.

    Attributes:
        of_user: [users + 2] int32, the segment of every user index; 0 for none.
        scores: [S + 1, N] float32.
        names: [S + 1] bytes, such as b"user_gender = F"; b"" of no segment.
    """

    of_user: np.ndarray
    scores: np.ndarray
    names: list[bytes]


def popularity(data: TrainingData, feature: str | None) -> Segments:
    """Popularity of every segment, which is one value of a user feature.

    Within it equal counts keep the order of popularity overall.

    Args:
        data: users with features, and the train events.
        feature: a feature of the users with one value each; None takes the first, an empty string
            none.

    Raises:
        ConfigError: the data has no such feature.
    """
    overall = popularity_scores(data.item_weights)
    nobody = Segments(np.zeros(data.users.index_count, np.int32), overall[np.newaxis], [b""])
    names = [
        each.name
        for each in data.features
        if each.entity == "user" and each.kind in (CATEGORICAL, NUMERIC)
    ]
    if feature and feature not in names:
        raise ConfigError(
            "segment: required: a feature of the users with one value each "
            f"({', '.join(names) or 'this data has none'}); received {feature!r}"
        )
    if feature == "" or not names:
        return nobody
    feature = feature or names[0]
    values = np.asarray(data.users.features[feature])
    events, items = data.events, len(data.items)
    seen = events.item >= FIRST_TOKEN
    # Missing and unknown values are no segment, nor is one that train has no event of.
    present = np.unique(values[events.user[seen]])
    present = present[present >= FIRST_TOKEN]
    if not len(present) or (len(present) + 1) * items > _CELLS:
        return nobody
    row = np.zeros(values.max() + 1, np.int32)
    row[present] = 1 + np.arange(len(present))
    segment_of = row[values]
    cells = segment_of[events.user[seen]].astype(np.int64) * items + events.item[seen] - FIRST_TOKEN
    size = (len(present) + 1) * items
    counts = np.bincount(cells, events.weights[seen], size).reshape(-1, items)
    # Catalogue order is popularity overall only among the items that train knows; say it, not
    # assume it.
    by_popularity = np.argsort(-overall, kind="stable")
    scores = np.empty(counts.shape, np.float32)
    scores[:, by_popularity] = [popularity_scores(one[by_popularity]) for one in counts]
    scores[0] = overall
    return Segments(segment_of, scores, [b"", *_names(data, feature, present)])


def _names(data: TrainingData, feature: str, present: np.ndarray) -> list[bytes]:
    """What the values of a feature that are segments are called, by their indices."""
    # A number has no vocabulary: it is in one of ten parts that are equally large in train.
    tokens = data.users.tokens[feature] or [
        b"part %d of %d" % (n + 1, BUCKETS) for n in range(BUCKETS)
    ]
    return [b"%s = %s" % (feature.encode(), tokens[value - FIRST_TOKEN]) for value in present]
