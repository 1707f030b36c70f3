"""Most popular items: the floor that every other model must beat.

They are also the fallback of the other models for whom they cannot answer.

Cite: no paper; the sheet of every comparison starts with it. S-POP: Hidasi, Karatzoglou, Baltrunas,
Tikk: Session-based Recommendations with Recurrent Neural Networks, ICLR 2016.

    score(i)   = share of the catalogue's items that are not more popular than i
                 + with session_first: how often i stands in the session
    popularity = sum over the item's train events of weight 2^(-age / half_life_days), if any is
                 given; only of events whose age is at most window_days, if any is given
        age: days from the event to the last train event
        weight: of the event, as the run's positives.values has it; 1 where it says none

Deviations: the score is the rank's share, not the count, so that no two items tie; equal counts
keep the catalogue's order. A session is whatever history a query has.
"""

from typing import Any

import numpy as np
import pydantic
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.query import Query
from models.contract.retrieve import RetrieveModel
from models.inputs.data import EventLog, TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.measures.segments import popularity_scores
from models.names.errors import DataError
from models.names.hyper_parameters import Ranking
from models.names.sizes import Parameters, Sizes

_DAY = 86_400.0


class HyperParameters(Ranking):
    """Popularity's own: by default train events of any age count alike, whoever asks.

    Attributes:
        window_days: older events do not count; left out, all do.
        half_life_days: age by which an event's weight is halved; left out, it never is.
        session_first: S-POP: the session's own items come first; it wants `filter_seen: false`.
    """

    window_days: float | None = pydantic.Field(None, gt=0)
    half_life_days: float | None = pydantic.Field(None, gt=0)
    session_first: bool = False

    @pydantic.model_validator(mode="after")
    def _keeps_what_was_seen(self) -> "HyperParameters":
        if self.session_first and self.filter_seen:
            raise ValueError(
                "session_first ranks what was seen first and requires filter_seen: false"
            )
        return self

    def parameters(self, sizes: Sizes) -> Parameters:
        return Parameters()


class Popularity(RetrieveModel[HyperParameters]):
    """Scores every item by its train events."""

    explains = "popularity"

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        window, half_life = hyper_parameters.window_days, hyper_parameters.half_life_days
        counts = data.item_weights
        if window or half_life:
            counts = recent_counts(data.events, len(data.items), window, half_life)
        self._scores = tf.constant(popularity_scores(counts))
        self.session_based = hyper_parameters.session_first

    def learn(self, loop: Loop) -> None:
        loop.record(self)

    def score_items(self, query: Query, catalogue: Any) -> tf.Tensor:
        scores = tf.tile(self._scores[tf.newaxis], [tf.shape(query.user)[0], 1])
        if not self.hyper_parameters.session_first:
            return scores
        places = [query.history.value_rowids(), query.history.flat_values - FIRST_TOKEN]
        ones = tf.ones_like(query.history.flat_values, tf.float32)
        return tf.tensor_scatter_nd_add(scores, tf.stack(places, axis=1), ones)

    def answers(self, query: Query) -> tf.Tensor:
        return tf.ones_like(query.known)


def recent_counts(
    events: EventLog, item_count: int, window_days: float | None, half_life_days: float | None
) -> np.ndarray:
    """[N] float64: the items' train events, by their weight and age.

    Args:
        events: the train events.
        item_count: N.
        window_days: older ones do not count; None for all.
        half_life_days: age that halves the weight of an event; None for never.

    Raises:
        DataError: the events have no times.
    """
    last = events.timestamp.max()
    if last <= 0:
        raise DataError(
            "recent popularity is counted by time; required: a column timestamp of the events; "
            "received none"
        )
    age = (last - events.timestamp) / _DAY
    weight = (
        events.weights if half_life_days is None else events.weights * 0.5 ** (age / half_life_days)
    )
    if window_days is not None:
        weight = np.where(age <= window_days, weight, 0.0)
    known = events.item >= FIRST_TOKEN
    return np.bincount(events.item[known] - FIRST_TOKEN, weight[known], item_count)


Model = Popularity
