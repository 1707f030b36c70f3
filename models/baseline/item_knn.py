"""Item-based nearest neighbours with shrunk cosine similarity.

Cite: Sarwar, Karypis, Konstan, Riedl: Item-Based Collaborative Filtering Recommendation Algorithms,
WWW 2001; shrinkage and settings as in Ferrari Dacrema, Boglio, Cremonesi, Jannach, TOIS 2021.

    s_ij  = x_i . x_j / (|x_i| |x_j| + shrink),   s_ii = 0
            the `neighbours` largest of a column are kept
    score = x_u S

Deviations: implicit data only, without row weighting. What is kept of S is stored as lists, so that
a catalogue of any size fits.
"""

import time
from typing import Any

import numpy as np
import pydantic
import scipy.sparse
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.query import Query
from models.contract.retrieve import RetrieveModel
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.names.hyper_parameters import Ranking


class HyperParameters(Ranking):
    """Item-kNN's own."""

    neighbours: int = pydantic.Field(100, ge=1)
    shrink: float = pydantic.Field(0.0, ge=0)


class ItemKNN(RetrieveModel[HyperParameters]):
    """Every item of a history votes for the items that it is near to.

    Any history will do, so new users are native.
    """

    uses_user_id = False
    uses_history = True

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        self._count = len(data.items)
        kept = self._count * min(hyper_parameters.neighbours, self._count)

        def lists(name, shape, dtype):
            return self.add_weight(
                name=name, shape=[shape], dtype=dtype, initializer="zeros", trainable=False
            )

        # The votes of item j are entries splits[j] up to splits[j + 1]: for which item, and how
        # much.
        self.splits = lists("splits", self._count + 1, tf.int64)
        self.votes_for = lists("votes_for", kept, tf.int64)
        self.votes = lists("votes", kept, tf.float32)

    def learn(self, loop: Loop) -> None:
        started = time.monotonic()
        pairs = loop.data.events.matrix(self._count)
        weights = similarities(
            pairs.T @ pairs, self.hyper_parameters.neighbours, self.hyper_parameters.shrink
        )
        self.splits.assign(weights.indptr.astype(np.int64))
        rest = (
            self.votes.shape[0] - weights.nnz
        )  # items with fewer neighbours than are asked for leave places over
        self.votes_for.assign(np.pad(weights.indices.astype(np.int64), (0, rest)))
        self.votes.assign(np.pad(weights.data.astype(np.float32), (0, rest)))
        loop.record(self, seconds=time.monotonic() - started)

    def catalogue(self) -> Any:
        return tf.identity(self.splits), tf.identity(self.votes_for), tf.identity(self.votes)

    def score_items(self, query: Query, catalogue: Any) -> tf.Tensor:
        splits, votes_for, votes = catalogue

        def one_query(history):
            # A repeated item counts once, as in the binary matrix that the similarities were
            # computed on.
            items = tf.unique(history - FIRST_TOKEN).y
            entries = tf.ragged.range(
                tf.gather(splits, items), tf.gather(splits, items + 1)
            ).flat_values
            return tf.math.unsorted_segment_sum(
                tf.gather(votes, entries), tf.gather(votes_for, entries), self._count
            )

        return tf.map_fn(
            one_query,
            query.history,
            fn_output_signature=tf.TensorSpec([self._count], tf.float32),
        )


def similarities(together, neighbours: int, shrink: float) -> scipy.sparse.csr_matrix:
    """[N, N] counts -> [N, N], the largest `neighbours` of each column.

    The counts (dense or sparse) are of users who have both items.
    """
    together = scipy.sparse.coo_matrix(together)
    norm = np.sqrt(together.diagonal().astype(np.float64))
    apart = (together.row != together.col) & (together.data > 0)
    row, column = together.row[apart], together.col[apart]
    similarity = together.data[apart] / np.maximum(norm[row] * norm[column] + shrink, 1e-12)
    # Of equal similarities the earlier (more popular) item is kept.
    order = np.lexsort((row, -similarity, column))
    column = column[order]
    rank = np.arange(len(order)) - np.searchsorted(column, column)
    kept = order[rank < neighbours]
    return scipy.sparse.csr_matrix(
        (similarity[kept], (row[kept], column[rank < neighbours])), together.shape
    )


Model = ItemKNN
