"""Item-based nearest neighbours with shrunk cosine similarity.

Cite: Sarwar, Karypis, Konstan, Riedl: Item-Based Collaborative Filtering Recommendation Algorithms,
WWW 2001; shrinkage, weighting and settings as in Ferrari Dacrema, Boglio, Cremonesi, Jannach, TOIS
2021; BM25: Robertson, Walker, Jones, Hancock-Beaulieu, Gatford: Okapi at TREC-3, 1994.

    s_ij  = x_i . x_j / (|x_i| |x_j| + shrink),   s_ii = 0
            the `neighbours` largest of a column are kept
    score = x_u S
    x_ui  = 0 where the user has not the item, else the weight of the user's heaviest event with it
            (positives.values of the run; 1 where it says none), times
        none    1
        tf_idf  idf_u                    idf_u = ln(items / (1 + the user's items))
        bm25    idf_u (k1 + 1) / (1 + k1 (1 - b + b n_i / mean n))      n_i: users of the item

To weigh, items are documents, and the users who have them are their words: one who has much says
little. A cosine leaves nothing of an item's own factor; shrinkage and the score do.

Deviations: implicit data only: how often a user had an item is not asked. idf_u of who asks is left
out, since it is the same for all items; a query's items weigh 1. What is kept of S is stored as
lists, so that a catalogue of any size fits.
"""

import time
from typing import Any, Literal

import numpy as np
import pydantic
import scipy.sparse
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.query import Query
from models.contract.retrieve import RetrieveModel
from models.inputs.data import TrainingData
from models.inputs.neighbours import similarities
from models.inputs.preprocessing import FIRST_TOKEN
from models.names.hyper_parameters import Ranking
from models.names.sizes import Parameters, Sizes


class HyperParameters(Ranking):
    """Item-kNN's own.

    Attributes:
        neighbours: how many of an item vote for it.
        shrink: how much a similarity that few users support is weakened.
        weighting: of what users have.
        k1: of BM25: how far items differ by their number of users.
        b: of BM25: how much of that number counts, 0 to 1.
    """

    neighbours: int = pydantic.Field(100, ge=1)
    shrink: float = pydantic.Field(0.0, ge=0)
    weighting: Literal["none", "bm25", "tf_idf"] = "none"
    k1: float = pydantic.Field(1.2, ge=0)
    b: float = pydantic.Field(0.75, ge=0, le=1)

    def parameters(self, sizes: Sizes) -> Parameters:
        kept = sizes.items * min(self.neighbours, sizes.items)
        # The events as a matrix, twice (by user and by item); what is kept, as it is found.
        return Parameters(held=2 * (sizes.items + 1) + 3 * kept, beside=4 * sizes.events + 6 * kept)


class ItemKNN(RetrieveModel[HyperParameters]):
    """Every item of a history votes for the items that it is near to.

    Any history will do, so new users are native.
    """

    uses_user_id = False
    uses_history = True
    explains = "sum"

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
        parameters, pairs = self.hyper_parameters, loop.data.events.matrix(self._count)
        of_users, of_items = (
            scipy.sparse.diags(factors)
            for factors in factors_of(pairs, parameters.weighting, parameters.k1, parameters.b)
        )
        pairs = of_users @ pairs @ of_items
        # The history of a query has its items' factors too.
        weights = of_items @ similarities(pairs, parameters.neighbours, parameters.shrink)
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
        votes_for, votes = _lists(catalogue)

        def one_query(history):
            # A repeated item counts once, as in the binary matrix that the similarities were
            # computed on.
            items = tf.unique(history - FIRST_TOKEN).y
            of, vote = (tf.gather(each, items).flat_values for each in (votes_for, votes))
            return tf.math.unsorted_segment_sum(vote, of, self._count)

        return tf.map_fn(
            one_query,
            query.history,
            fn_output_signature=tf.TensorSpec([self._count], tf.float32),
        )

    def contributions(
        self, query: Query, items: tf.Tensor, position: tf.Tensor, catalogue: Any
    ) -> tf.Tensor:
        votes_for, votes = _lists(catalogue)

        def one_query(asked):
            voters, position = asked
            voters = tf.maximum(voters - FIRST_TOKEN, 0)
            wanted, place = tf.unique(position)
            size = tf.size(wanted)
            # In which column an item's votes are counted; beyond the others those that nobody asks.
            column = tf.fill([self._count], size)
            column = tf.tensor_scatter_nd_update(column, wanted[:, tf.newaxis], tf.range(size))
            of, vote = (tf.gather(each, voters) for each in (votes_for, votes))
            cells = [tf.cast(of.value_rowids(), tf.int32), tf.gather(column, of.flat_values)]
            shape = [tf.size(voters), size + 1]
            found = tf.scatter_nd(tf.stack(cells, axis=1), vote.flat_values, shape)
            return tf.gather(tf.transpose(found), place)

        return tf.map_fn(
            one_query, (items, position), fn_output_signature=tf.TensorSpec([None, None])
        )


def _lists(catalogue: Any) -> list[tf.RaggedTensor]:
    """Of every item whom it votes for, and how much.

    A list is copied as one piece, which takes two fifths of looking its entries up one by one.
    """
    splits, *columns = catalogue
    return [
        tf.RaggedTensor.from_row_splits(each[: splits[-1]], splits, validate=False)
        for each in columns
    ]


def factors_of(
    pairs: scipy.sparse.csr_matrix, weighting: str, k1: float, b: float
) -> tuple[np.ndarray, np.ndarray]:
    """The factors of the users [P] and of the items [N] of which each x_ui is the product.

    Args:
        pairs: [P, N], not 0 where the user has the item.
        weighting: `none`, `bm25` or `tf_idf`.
        k1: of BM25.
        b: of BM25.
    """
    of_users, of_items = (np.ones(size) for size in pairs.shape)
    if weighting != "none":
        of_users = np.log(pairs.shape[1] / (1.0 + pairs.getnnz(axis=1)))
    if weighting == "bm25":
        users = pairs.getnnz(axis=0)
        of_items = (k1 + 1.0) / (1.0 + k1 * (1.0 - b + b * users / users.mean()))
    return of_users, of_items


Model = ItemKNN
