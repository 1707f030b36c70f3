"""iALS: matrix factorisation of implicit feedback, by alternating least squares.

Cite: Hu, Koren, Volinsky: Collaborative Filtering for Implicit Feedback Datasets, ICDM 2008; the
scaled penalty: Rendle, Krichene, Zhang, Koren: Revisiting the Performance of iALS on Item
Recommendation Benchmarks, RecSys 2022.

    loss = sum over all users u and items i of c_ui (p_ui - x_u . y_i)^2
           + sum of l2_u |x_u|^2 + sum of l2_i |y_i|^2
        r_ui: what the user's events with the item weigh together, as the run's positives.values
              has it: how often the user had it, where all weigh 1;  p_ui = 1 where r_ui > 0, else 0
        c_ui = 1 + alpha r_ui;  l2_u = l2 (sum over i of c_ui)^exponent, l2_i likewise
    x_u  = (Y'Y + sum over the user's items of alpha r_ui y_i y_i' + l2_u I)^-1
           sum over the user's items of c_ui y_i

y_i likewise, users and items in turn, for all rows at once. Exponent 0 is the plain penalty of
2008. The items' vectors are all that is kept: a user's is solved from its history, known or not, of
which nothing says what an event weighs: each weighs 1.

Deviations: an early stop on validation, where the paper does ten sweeps. With exponent 1, l2 is the
lambda of 2022 and alpha its 1 / alpha_0; there the positives' right side is alpha r_ui y_i, here,
as in 2008, c_ui y_i. (The package `implicit` counts otherwise: c_ui = alpha r_ui, so that its alpha
of 1 gives every pair the same confidence: 0 here.)
"""

import numpy as np
import pydantic
import scipy.sparse
import tensorflow as tf

from models.contract.explain import times_in
from models.contract.loop import Loop
from models.contract.query import Query
from models.contract.retrieve import DotProductModel
from models.inputs import sampling
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.token_layers import id_embedding
from models.names.hyper_parameters import Epochs, Ranking
from models.names.sizes import Parameters, Sizes

_CELLS = 1 << 24  # numbers of float64 in the normal equations of one block of rows


class HyperParameters(Ranking, Epochs):
    """iALS' own. An epoch is a sweep: all users, then all items.

    Attributes:
        factors: width of the vectors.
        alpha: what a unit of feedback adds to the confidence.
        l2: lambda; the paper leaves it to validation, and so does the default (MovieLens-100K).
        exponent: how the penalty of a row grows with its sum of confidences: 0 not at all, 1 in
            proportion; then l2 is smaller by three orders of magnitude or more.
        stddev: of the items' first vectors, times sqrt(factors).
    """

    epochs: int = 10
    factors: int = pydantic.Field(64, ge=1)
    alpha: float = pydantic.Field(40.0, ge=0)
    l2: float = pydantic.Field(30.0, gt=0)
    exponent: float = pydantic.Field(0.0, ge=0, le=1)
    stddev: float = pydantic.Field(0.1, gt=0)

    def parameters(self, sizes: Sizes) -> Parameters:
        # The matrix of products is float64.
        held = sizes.table("item", self.factors) + 2 * self.factors**2
        # The log by user and by item: an index and a weight of 8 bytes each. While it is made as
        # much again, as matrices; later the vectors, float64: of the side that is solved for as
        # blocks, together and in order, and users' while the items' are.
        log, users, items = 8 * sizes.events, sizes.users, sizes.items
        vectors = 2 * self.factors * max(3 * users, users + 3 * items)
        return Parameters(held=held, beside=log + max(log, vectors))


class IALS(DotProductModel[HyperParameters]):
    """The items' vectors, and users' as their histories have it."""

    uses_user_id = False
    uses_history = True
    explains = "sum"
    sums_loss = True

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        events, width = data.events, hyper_parameters.factors
        # Rows 0 and 1, of padding and of the unknown, have no events: their vectors are 0 and count
        # for nothing.
        user = FIRST_TOKEN + np.repeat(np.arange(len(events.starts) - 1), np.diff(events.starts))
        counts = scipy.sparse.csr_matrix(
            (events.weights.astype(np.float64), (user, events.item)),
            (user[-1] + 1, data.items.embedding_rows),
        )
        self._by_user, self._by_item = Lists(counts, width), Lists(counts.T.tocsr(), width)
        self._users, self._items = (size - FIRST_TOKEN for size in counts.shape)

        def initial(shape, **_):
            drawn = tf.random.normal(shape, stddev=hyper_parameters.stddev * width**-0.5)
            return drawn * tf.cast(tf.range(shape[0]) >= FIRST_TOKEN, tf.float32)[:, tf.newaxis]

        self.item_factors = id_embedding(data.items, width, initial, name="item_factors")
        self.item_factors.trainable = False  # solved for
        self.item_factors.build(None)
        self.gram = self.add_weight(
            name="gram",
            shape=[width, width],
            dtype=tf.float64,
            initializer="zeros",
            trainable=False,
        )
        self._item_rows = tf.range(FIRST_TOKEN, data.items.embedding_rows, dtype=tf.int64)

    def learn(self, loop: Loop) -> None:
        # There is nothing to take a step for: the steps of an epoch measure the loss.
        with loop.strategy.scope():
            optimizer = tf.keras.optimizers.SGD()
        loop.fit(self, optimizer=optimizer, before_epoch=self.sweep)

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        """The blocks of users, the same in every epoch."""
        lists = self._by_user

        def make(later: int, share: sampling.Share | None = None) -> tf.data.Dataset:
            def block(number):
                items, counts = lists.block(number, share)
                return {"items": items, "counts": counts}

            return tf.data.Dataset.range(lists.blocks).repeat().skip(later).map(block)

        return sampling.Batches(lists.blocks, self._users, make)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The loss over the number of users, in parts that have it as their mean."""
        items, counts, parameters = inputs["items"], inputs["counts"], self.hyper_parameters
        factors = tf.cast(self.item_factors.embeddings, tf.float64)
        user = solve(factors, self.gram, items, counts, self._items, parameters)
        score = tf.einsum("bf,blf->bl", user, tf.gather(factors, items))
        own = (1.0 + parameters.alpha * counts) * (1.0 - score) ** 2 - score**2
        rows = (
            tf.einsum("bf,fg,bg->b", user, self.gram, user)
            + tf.reduce_sum(tf.where(items > 0, own, 0.0), axis=1)
            + penalty(counts, self._items, parameters) * tf.reduce_sum(user**2, axis=1)
        )
        of_items = penalty(self._by_item.totals[:, tf.newaxis], self._users, parameters)
        rows += tf.reduce_sum(of_items * tf.reduce_sum(factors**2, axis=1)) / self._users
        return tf.cast(tf.reduce_sum(rows) * self._by_user.blocks / self._users, tf.float32)

    def sweep(self) -> None:
        """Sets the users' vectors, then the items', to what is best given the others."""
        parameters = self.hyper_parameters
        items = tf.cast(self.item_factors.embeddings, tf.float64)
        users = self._by_user.solve(items, self._items, parameters)
        items = self._by_item.solve(users, self._users, parameters)
        self.item_factors.embeddings.assign(tf.cast(items, tf.float32))
        self.gram.assign(tf.matmul(items, items, transpose_a=True))

    def query_embedding(self, query: Query) -> tf.Tensor:
        """The vector that is best for the history; 0 without one."""
        items, counts = count_repeats(query.history, self.item_factors.input_dim)
        factors = self.item_factors.embeddings
        user = solve(factors, self.gram, items, counts, self._items, self.hyper_parameters)
        return tf.cast(user, tf.float32)

    def item_embeddings(self) -> tf.Tensor:
        return self.item_factors(self._item_rows)

    def contributions(
        self, query: Query, items: tf.Tensor, position: tf.Tensor, catalogue: tf.Tensor
    ) -> tf.Tensor:
        """The paper's own, s_ij = y_i' W y_j of its section 5, times the confidence of j."""
        factors, parameters = self.item_factors.embeddings, self.hyper_parameters
        listed, counts = count_repeats(query.history, self.item_factors.input_dim)
        left, _ = equations(factors, self.gram, listed, counts, self._items, parameters)
        own = tf.cast(tf.gather(factors, items), tf.float64)
        confidence = 1.0 + parameters.alpha * tf.cast(times_in(query.history, items), tf.float64)
        own *= confidence[..., tf.newaxis]
        solved = tf.linalg.cholesky_solve(tf.linalg.cholesky(left), tf.linalg.matrix_transpose(own))
        return tf.matmul(tf.gather(catalogue, position), tf.cast(solved, tf.float32))


class Lists:
    """Who had what and how often, in blocks of rows that are about equally long.

    Args:
        counts: [R, C] of rows by others, users by items or the reverse; events weigh as they do.
        width: of the vectors that are solved for.

    Attributes:
        blocks: how many; together they have every row but those of padding and of the unknown.
        totals: [R] float64: the sum of each row's counts.
    """

    def __init__(self, counts: scipy.sparse.csr_matrix, width: int):
        counts.sum_duplicates()
        lengths = np.diff(counts.indptr)[FIRST_TOKEN:]
        longest_first = np.argsort(-lengths, kind="stable")
        starts = [0]
        while starts[-1] < len(lengths):
            cells = width * (int(lengths[longest_first[starts[-1]]]) + width)
            starts.append(min(starts[-1] + max(_CELLS // cells, 1), len(lengths)))
        splits = tf.constant(counts.indptr.astype(np.int64))
        self._others = tf.RaggedTensor.from_row_splits(counts.indices.astype(np.int64), splits)
        self._counts = tf.RaggedTensor.from_row_splits(counts.data, splits)
        self._rows, self._starts = tf.constant(longest_first + FIRST_TOKEN), tf.constant(starts)
        self._place = np.argsort(longest_first)
        self.blocks = len(starts) - 1
        self.totals = np.asarray(counts.sum(axis=1))[:, 0]

    def block(
        self, number: int | tf.Tensor, share: sampling.Share | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The others' rows, [B, L] int64 padded with 0, and the [B, L] float64 counts.

        Args:
            number: which block.
            share: of the block's rows; None: all of them.
        """
        rows = self._rows[self._starts[number] : self._starts[number + 1]]
        if share:
            begin, end = share.bounds(tf.size(rows))
            rows = rows[begin:end]
        return tuple(tf.gather(each, rows).to_tensor() for each in (self._others, self._counts))

    def solve(self, factors: tf.Tensor, others: int, parameters: HyperParameters) -> tf.Tensor:
        """[R, D] float64 vectors of all rows, for the others' [C, D]; see `solve`."""
        gram = tf.matmul(factors, factors, transpose_a=True)
        blocks = [
            solve(factors, gram, *self.block(number), others, parameters)
            for number in range(self.blocks)
        ]
        solved = tf.gather(tf.concat(blocks, axis=0), self._place)
        return tf.pad(solved, [[FIRST_TOKEN, 0], [0, 0]])


def solve(
    factors: tf.Tensor,
    gram: tf.Tensor,
    listed: tf.Tensor,
    counts: tf.Tensor,
    others: int,
    parameters: HyperParameters,
) -> tf.Tensor:
    """The vectors that are best for what rows have, given the vectors of that.

    Args:
        factors: [C, D]; row 0 is zero.
        gram: [D, D] float64, the products of all factors.
        listed: [B, L] int64 rows of `factors`, each once, padded with 0.
        counts: [B, L] float64, how often; 0 for padding.
        others: of how many the rows could have had any.
        parameters: alpha, l2 and its exponent.

    Returns:
        [B, D] float64.
    """
    left, right = equations(factors, gram, listed, counts, others, parameters)
    return tf.linalg.cholesky_solve(tf.linalg.cholesky(left), right)[..., 0]


def equations(
    factors: tf.Tensor,
    gram: tf.Tensor,
    listed: tf.Tensor,
    counts: tf.Tensor,
    others: int,
    parameters: HyperParameters,
) -> tuple[tf.Tensor, tf.Tensor]:
    """What `solve` solves, of its arguments: [B, D, D] and [B, D, 1], float64."""
    known, extra = tf.cast(tf.gather(factors, listed), tf.float64), parameters.alpha * counts
    left = gram + tf.matmul(known * extra[..., tf.newaxis], known, transpose_a=True)
    ridge = penalty(counts, others, parameters)[:, tf.newaxis]
    left = tf.linalg.set_diag(left, tf.linalg.diag_part(left) + ridge)
    return left, tf.matmul(known, 1.0 + extra[..., tf.newaxis], transpose_a=True)


def penalty(counts: tf.Tensor, others: int, parameters: HyperParameters) -> tf.Tensor:
    """[B] float64: the weight of the squared length of rows with [B, L] counts."""
    confidences = others + parameters.alpha * tf.reduce_sum(counts, axis=1)
    return parameters.l2 * confidences**parameters.exponent


def count_repeats(history: tf.RaggedTensor, rows: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Ragged [B, None] histories -> each one's items once, and how often they stand there.

    Args:
        history: indices below `rows`.
        rows: of the table that the indices are of.

    Returns:
        [B, L] int64 indices, padded with 0, and [B, L] float64 counts.
    """
    key, _, counts = tf.unique_with_counts(history.value_rowids() * rows + history.flat_values)
    items, counts = (
        tf.RaggedTensor.from_value_rowids(values, key // rows, history.nrows(), validate=False)
        for values in (key % rows, tf.cast(counts, tf.float64))
    )
    return items.to_tensor(), counts.to_tensor()


Model = IALS
