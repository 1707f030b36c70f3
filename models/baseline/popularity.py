"""Most popular items: the floor that every other model must beat.

They are also the fallback of the other models for whom they cannot answer.

Cite: no paper; the sheet of every comparison starts with it.

    score(i)   = share of the catalogue's items that are not more popular than i
    popularity = number of train events

Deviations: the score is the rank's share, not the count, so that no two items tie; equal counts
keep the catalogue's order.
"""

from typing import Any

import tensorflow as tf

from models.contract.loop import Loop
from models.contract.query import Query
from models.contract.retrieve import RetrieveModel
from models.inputs.data import TrainingData
from models.measures.segments import popularity_scores
from models.names.hyper_parameters import Ranking


class HyperParameters(Ranking):
    """Popularity has none of its own."""


class Popularity(RetrieveModel[HyperParameters]):
    """Scores every item by its train count, whoever asks."""

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        self._scores = tf.constant(popularity_scores(data.item_counts))

    def learn(self, loop: Loop) -> None:
        loop.record(self)

    def score_items(self, query: Query, catalogue: Any) -> tf.Tensor:
        return tf.tile(self._scores[tf.newaxis], [tf.shape(query.user)[0], 1])

    def answers(self, query: Query) -> tf.Tensor:
        return tf.ones_like(query.known)


Model = Popularity
