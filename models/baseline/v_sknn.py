"""V-SKNN: the train sessions that are most like the current one vote for their items.

Cite: Ludewig, Jannach: Evaluation of Session-based Recommendation Algorithms, User Modeling and
User-Adapted Interaction 28, 2018; what the paper leaves open as in the authors' session-rec.

    s: the current session, oldest event first; t: a train session; both as sets of items
    w_i      = place of i's last event in s / length of s                (weighting: linear)
    x_ti     = the weight of the heaviest event of i in t, as the run's positives.values has it; 1
               where it says none
    sim(s,t) = sum of w_i x_ti over the items of both / number of items of s
    near(s)  = the `neighbours` with the largest sim among the `sample` most recent train sessions
               that have any item of s
    score(j) = sum over the t of near(s) that have j of
               x_tj sim(s,t) decay(s,t) (1 + idf_weight idf_j)
        decay: 1, or with decay: reciprocal 1 / (how far from the end of s its last event is whose
               item t has; the last is 1)
        idf_j = ln(train sessions / those that have j)

Deviations: scores are not divided by their largest, which leaves the order. Of two sessions the
more recent is the one that began later; it wins where similarities are equal. The authors' code
counts events, not sessions, under idf. Items without a vote score 0. The weights x are ours.
"""

from typing import Any, Literal

import numpy as np
import pydantic
import scipy.sparse
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.query import Query
from models.contract.retrieve import RetrieveModel
from models.inputs.data import TrainingData
from models.inputs.event_log import heaviest
from models.inputs.preprocessing import FIRST_TOKEN
from models.names.hyper_parameters import Ranking
from models.names.sizes import Parameters, Sizes


class HyperParameters(Ranking):
    """V-SKNN's own.

    Attributes:
        neighbours: k, how many sessions vote.
        sample: m, how many of the most recent are looked at.
        weighting: how an event of the current session weighs by its place.
        decay: how a session's vote weighs by how far back what it shares with the current one is.
        idf_weight: how much more the vote for a rare item weighs; 0 for nothing.
    """

    neighbours: int = pydantic.Field(100, ge=1)
    sample: int = pydantic.Field(1000, ge=1)
    weighting: Literal["linear", "quadratic", "same"] = "linear"
    decay: Literal["none", "reciprocal"] = "none"
    idf_weight: float = pydantic.Field(0.0, ge=0)

    def parameters(self, sizes: Sizes) -> Parameters:
        # Of each item of a session its place, int64, and its weight; and where each list begins.
        by_session = 3 * sizes.events + 2 * (sizes.sequences + 1)
        by_item = 3 * min(sizes.events, sizes.items * self.sample) + 2 * (sizes.items + 1)
        return Parameters(held=by_session + by_item + sizes.items)


class VSKNN(RetrieveModel[HyperParameters]):
    """An index of the train sessions, by item and by session."""

    uses_user_id = False
    uses_history = True
    session_based = True
    explains = "sum"

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        self._count = len(data.items)
        sessions = session_matrix(
            *data.events.sequences(), self._count, data.events.sequence_weight
        )
        by_item = most_recent(sessions, hyper_parameters.sample)
        having = np.maximum(sessions.getnnz(axis=0), 1)
        arrays = {
            # The sessions of item j are places splits[j] up to splits[j + 1], the items of a
            # session likewise.
            "sessions": by_item.indices.astype(np.int64),
            "session_weights": by_item.data,
            "session_splits": by_item.indptr.astype(np.int64),
            "items": sessions.indices.astype(np.int64),
            "item_weights": sessions.data,
            "item_splits": sessions.indptr.astype(np.int64),
            "rarity": np.log(sessions.shape[0] / having).astype(np.float32),
        }
        self.index = {name: self._constant(name, array) for name, array in arrays.items()}

    def learn(self, loop: Loop) -> None:
        loop.record(self)

    def catalogue(self) -> Any:
        return {name: tf.identity(variable) for name, variable in self.index.items()}

    def score_items(self, query: Query, catalogue: Any) -> tf.Tensor:
        return tf.map_fn(
            lambda history: self._score(history - FIRST_TOKEN, catalogue),
            query.history,
            fn_output_signature=tf.TensorSpec([self._count], tf.float32),
        )

    def contributions(
        self, query: Query, items: tf.Tensor, position: tf.Tensor, catalogue: Any
    ) -> tf.Tensor:
        """Sum over the t of near(s) of x_tj w_i x_ti / |s| decay(s, t) (1 + idf_weight idf_j)."""
        count = tf.shape(items)[1]

        def one_query(row):
            place, size, near, _, decay = self._near(query.history[row] - FIRST_TOKEN, catalogue)
            own = tf.maximum(items[row] - FIRST_TOKEN, 0)
            asked, which = tf.unique(tf.concat([own, tf.cast(position[row], tf.int64)], axis=0))
            weights = self._weights_of(near, asked, catalogue)
            of_own, of_others = (
                tf.gather(weights, which[part], axis=1)
                for part in (slice(None, count), slice(count, None))
            )
            # Both begin with the newest item of the session.
            place = tf.pad(place, [[0, tf.maximum(count - tf.size(place), 0)]])[:count]
            parts = of_own * place / size * decay[:, tf.newaxis]
            rarity = tf.gather(catalogue["rarity"], position[row])[:, tf.newaxis]
            rarity = 1.0 + self.hyper_parameters.idf_weight * rarity
            return tf.matmul(of_others, parts, transpose_a=True) * rarity

        return tf.map_fn(
            one_query,
            tf.range(tf.shape(position)[0]),
            fn_output_signature=tf.TensorSpec([None, None], tf.float32),
        )

    def _weights_of(self, sessions: tf.Tensor, items: tf.Tensor, index: Any) -> tf.Tensor:
        """[R, U] float32 x of items, each once, in sessions."""
        count = tf.size(items)
        column = tf.fill([self._count], count)
        column = tf.tensor_scatter_nd_update(column, items[:, tf.newaxis], tf.range(count))
        places = _lists(index["item_splits"], sessions)
        columns = tf.gather(column, tf.gather(index["items"], places.flat_values))
        cells = tf.stack([tf.cast(places.value_rowids(), tf.int32), columns], axis=1)
        weights = tf.gather(index["item_weights"], places.flat_values)
        return tf.scatter_nd(cells, weights, [tf.size(sessions), count + 1])[:, :count]

    def _score(self, session: tf.Tensor, index: dict[str, tf.Tensor]) -> tf.Tensor:
        """[L] int64 catalogue positions of one session, oldest first -> [N] float32 scores."""
        _, _, near, vote, decay = self._near(session, index)
        voted = _lists(index["item_splits"], near)
        items = tf.gather(index["items"], voted.flat_values)
        votes = tf.gather(vote * decay, voted.value_rowids())
        votes *= tf.gather(index["item_weights"], voted.flat_values)
        scores = tf.math.unsorted_segment_sum(votes, items, self._count)
        return scores * (1.0 + self.hyper_parameters.idf_weight * index["rarity"])

    def _near(self, session: tf.Tensor, index: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        """What near(s) is of a session of [L] int64 catalogue positions, oldest first.

        Returns:
            [I] w of its items, each once, the newest first, and their number; [R] sessions, their
            sim and their decay, float32.
        """
        parameters, length = self.hyper_parameters, tf.size(session)
        # Backwards the first of equal items is the last event: how many steps back it is, from 0.
        items, which = tf.unique(session[::-1])
        back = tf.math.unsorted_segment_min(tf.range(length), which, tf.size(items))
        place = tf.cast(length - back, tf.float32) / tf.cast(tf.maximum(length, 1), tf.float32)
        place **= {"same": 0.0, "linear": 1.0, "quadratic": 2.0}[parameters.weighting]
        size = tf.cast(tf.maximum(tf.size(items), 1), tf.float32)
        shared = _lists(index["session_splits"], items)
        sessions, which = tf.unique(tf.gather(index["sessions"], shared.flat_values))
        similarity = (
            tf.math.unsorted_segment_sum(
                tf.gather(place, shared.value_rowids())
                * tf.gather(index["session_weights"], shared.flat_values),
                which,
                tf.size(sessions),
            )
            / size
        )
        steps = tf.math.unsorted_segment_min(
            tf.gather(back, shared.value_rowids()), which, tf.size(sessions)
        )
        # A later session has a higher number.
        _, recent = tf.math.top_k(sessions, tf.minimum(parameters.sample, tf.size(sessions)))
        vote, near = tf.math.top_k(
            tf.gather(similarity, recent), tf.minimum(parameters.neighbours, tf.size(recent))
        )
        near = tf.gather(recent, near)
        decay = tf.ones_like(vote)
        if parameters.decay == "reciprocal":
            decay /= tf.cast(tf.gather(steps, near) + 1, tf.float32)
        return place, size, tf.gather(sessions, near), vote, decay

    def _constant(self, name: str, array: np.ndarray) -> tf.Variable:
        variable = self.add_weight(
            name=name, shape=array.shape, dtype=array.dtype, initializer="zeros", trainable=False
        )
        variable.assign(array)
        return variable


def session_matrix(
    items: np.ndarray, starts: np.ndarray, count: int, weight: np.ndarray | None = None
) -> scipy.sparse.csr_matrix:
    """Which items a session has: [S, count], the weight of its heaviest event of the item.

    Args:
        items: [E] int64 item indices, session after session.
        starts: [S + 1] where each begins, and the end.
        count: items of the catalogue.
        weight: [E] float32 of the events; None: all are 1.
    """
    session = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    weight = np.ones(len(items), np.float32) if weight is None else weight
    return heaviest(session, items - FIRST_TOKEN, weight, (len(starts) - 1, count))


def most_recent(sessions: scipy.sparse.csr_matrix, most: int) -> scipy.sparse.csr_matrix:
    """[S, N] -> [N, S]: of the sessions of every item the last ones, `most` of them.

    What is left out of an item's is not among as many of the last of any that have the item.
    """
    by_item = sessions.T.tocsr()
    by_item.sort_indices()
    left = np.repeat(by_item.indptr[1:], np.diff(by_item.indptr)) - np.arange(by_item.nnz)
    kept = left <= most
    lengths = np.minimum(np.diff(by_item.indptr), most)
    return scipy.sparse.csr_matrix(
        (by_item.data[kept], by_item.indices[kept], np.r_[0, np.cumsum(lengths)]), by_item.shape
    )


def _lists(splits: tf.Tensor, rows: tf.Tensor) -> tf.RaggedTensor:
    """The places of the lists of `rows`: ragged [R, None] int64."""
    return tf.ragged.range(tf.gather(splits, rows), tf.gather(splits, rows + 1))


Model = VSKNN
