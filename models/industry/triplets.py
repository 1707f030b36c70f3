"""Articles beside one of their category and one of another."""

import numpy as np
import tensorflow as tf

from models.inputs import sampling
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.names.errors import ConfigError
from models.names.features import CATEGORICAL


class Triplets:
    """Draws to an article one of its category, and one of another.

    Args:
        category: [N] category of the articles; below 2: none.
    """

    def __init__(self, category: np.ndarray):
        order = np.argsort(category, kind="stable")
        order = order[category[order] >= FIRST_TOKEN]
        self._order, self._total = tf.constant(np.append(order, 0)), len(order)
        rank = np.full(len(category), -1)
        rank[order] = np.arange(len(order))
        start = np.searchsorted(category[order], category)
        size = np.searchsorted(category[order], category, side="right") - start
        self._of_article = tf.constant(np.stack([rank, start, size], axis=1))

    def draw(self, article: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Draws for [B] int64 articles by a seed as `sampling.uniform` takes it.

        Returns:
            [B] articles of the same category, [B] of another, and [B] bool whether there are both:
            else they are the article itself.
        """
        rank, start, size = tf.unstack(tf.gather(self._of_article, article), axis=1)
        drawn = sampling.uniform(tf.stack([tf.size(article), 2]), seed, dtype=tf.float64)

        def below(count, number):
            return tf.cast(drawn[:, number] * tf.cast(count, tf.float64), tf.int64)

        # Going round the category, from the article's own place on.
        within = (rank - start + 1 + below(size - 1, 0)) % tf.maximum(size, 1)
        outside = below(self._total - size, 1)
        outside += tf.where(outside < start, tf.zeros_like(size), size)
        there = (rank >= 0) & (size > 1) & (size < self._total)

        def chosen(place):
            return tf.where(there, tf.gather(self._order, tf.where(there, place, 0)), article)

        return chosen(start + within), chosen(outside), there


def category_of(data: TrainingData, name: str | None) -> np.ndarray:
    """[N + 2] int64 categories of the items; 0 throughout where there are none.

    Raises:
        ConfigError: the items have no feature of that name and of one value.
    """
    single = [field.name for field in data.item_fields if field.kind == CATEGORICAL]
    if name and name not in single:
        raise ConfigError(
            f"category: required: a feature of the items with one value, which are "
            f"{', '.join(single) or 'none'}; received {name!r}"
        )
    if name == "" or not single:
        return np.zeros(data.items.index_count, np.int64)
    return np.asarray(data.items.features[name or single[0]])
