"""Popularity within segments of users.

It is what a user whom train has not seen gets, where the users table says something of them.
"""

import numpy as np

from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
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


def popularity(data: TrainingData, feature: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Popularity of every segment, which is one value of a user feature.

    Within it equal counts keep the order of popularity overall.

    Args:
        data: users with features, and the train events.
        feature: a feature of the users with one value each; None takes the first, an empty string
            none.

    Returns:
        The segment of every user index, [users + 2] int32, 0 for none; and [segments + 1, N]
        float32 scores, overall popularity in row 0.

    Raises:
        ConfigError: the data has no such feature.
    """
    overall = popularity_scores(data.item_weights)
    nobody = np.zeros(data.users.index_count, np.int32), overall[np.newaxis]
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
    values = np.asarray(data.users.features[feature or names[0]])
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
    return segment_of, scores
