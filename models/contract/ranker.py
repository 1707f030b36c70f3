"""What ranks the catalogue for a query: the model, or popularity where it cannot answer."""

from typing import Any

import tensorflow as tf

from models.contract.index import InvertedFile
from models.contract.query import Query
from models.contract.retrieve import DotProductModel, RetrieveModel
from models.contract.rules import mask_found, mask_items
from models.inputs.data import TrainingData
from models.inputs.int8 import Int8Table
from models.measures import segments


class Ranker(tf.Module):
    """A model's scores of the frozen catalogue, and popularity's for whom it does not answer.

    Args:
        model: the model.
        data: what it was trained on.

    Attributes:
        item_ids: [N] strings of the catalogue.
        inverted_file: finds the nearest items of a dot-product model; None is the exact ranking.
    """

    def __init__(self, model: RetrieveModel[Any], data: TrainingData):
        super().__init__()
        self._model = model
        self._users = data.users
        self.item_ids = tf.Variable(tf.constant(data.items.ids, tf.string), trainable=False)
        of_users = segments.popularity(data, model.hyper_parameters.segment)
        self._segments = tf.constant(of_users.names, tf.string)
        self._segment_of = tf.Variable(of_users.of_user, trainable=False)
        self._popularity = tf.Variable(of_users.scores, trainable=False)
        self._frozen = tf.nest.map_structure(
            lambda value: tf.Variable(value, trainable=False), model.catalogue()
        )
        self._smallest: int | None = None
        self.inverted_file: InvertedFile | None = None

    def store_in_int8(self, smallest: int) -> None:
        """Stores the vectors of the catalogue in bytes, tables of so many numbers at least."""
        self._smallest = smallest
        self._frozen = tf.nest.map_structure(self.stored_table, self._frozen)

    @property
    def in_int8(self) -> bool:
        """Whether large tables are stored in bytes."""
        return self._smallest is not None

    def stored_table(self, table: tf.Variable) -> tf.Variable | Int8Table:
        """A table of items as it is stored: in bytes where it is large and that was asked for."""
        is_large = self._smallest is not None and table.shape.num_elements() >= self._smallest
        is_table = table.dtype == tf.float32 and table.shape.rank == 2
        return Int8Table(table.numpy()) if is_large and is_table else table

    def frozen_catalogue(self) -> Any:
        """The model's catalogue as it is exported, for signatures of its own."""
        return tf.nest.map_structure(tf.convert_to_tensor, self._frozen)

    @property
    def catalogue(self) -> Any:
        """The same for what ranks: variables as they are.

        Tables in bytes are tensors, but for models that multiply vectors with them.
        """
        if isinstance(self._model, DotProductModel):
            return self._frozen
        return tf.nest.map_structure(
            lambda table: tf.convert_to_tensor(table) if isinstance(table, Int8Table) else table,
            self._frozen,
        )

    def scores(self, query: Query, catalogue: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """[B, N] scores; popularity's; and who was answered.

        The scores are the model's or, where it cannot answer, those of popularity in the segment.
        """
        answered = self._model.answers(query)
        scores = tf.cast(self._model.score_items(query, catalogue), tf.float32)
        popularity = tf.tile(self._popularity[:1], [tf.shape(query.user)[0], 1])
        fallback = self.popularity_of(query.user)
        return tf.where(answered[:, tf.newaxis], scores, fallback), popularity, answered

    def first(
        self, query: Query, out: tf.RaggedTensor, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor]:
        """Masked scores among which the first k [B] items are, and who was answered [B].

        Without an index the scores are [B, N], and their positions None. With one they are those of
        as many items as stay k when all that may be `out` is taken away, [B, C], at their positions
        [B, C] int32.
        """
        if self.inverted_file is None:
            scores, _, answered = self.scores(query, self.catalogue)
            return mask_items(scores, out), None, answered
        answered = self._model.answers(query)
        count = tf.maximum(k, self._model.reranks) + tf.cast(out.row_lengths(), tf.int32)
        count = tf.minimum(count, self.item_ids.shape[0])
        embedding = tf.cast(self._model.query_embedding(query), tf.float32)
        score, position = self.inverted_file.nearest(embedding, count)
        width = tf.maximum(tf.reduce_max(tf.concat([count, [1]], axis=0)), tf.shape(score)[1])
        rest = [[0, 0], [0, width - tf.shape(score)[1]]]  # items without a vector
        score = tf.pad(score, rest, constant_values=float("-inf"))
        position = tf.pad(position, rest)

        def popular() -> tuple[tf.Tensor, tf.Tensor]:
            best = tf.math.top_k(self.popularity_of(query.user), width)
            by_model = answered[:, tf.newaxis]
            return tf.where(by_model, score, best[0]), tf.where(by_model, position, best[1])

        score, position = tf.cond(tf.reduce_all(answered), lambda: (score, position), popular)
        return mask_found(score, position, out), position, answered

    def reranked(
        self,
        query: Query,
        scores: tf.Tensor,
        answered: tf.Tensor,
        positions: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Masked scores in the order of `RetrieveModel.rerank`, where a model answered.

        They are [B, N], or those of some `positions`, as of `first`.
        """
        if not self._model.reranks:
            return scores
        first, position = tf.math.top_k(
            scores, tf.minimum(self._model.reranks, tf.shape(scores)[1])
        )
        there = position if positions is None else tf.gather(positions, position, batch_dims=1)
        renewed = self._model.rerank(query, there, first)
        renewed = tf.where(tf.math.is_inf(first), first, renewed)
        # top_k is stable, so equal new scores keep the old order.
        order = tf.math.top_k(renewed, tf.shape(first)[1])
        old = tf.where(tf.math.is_inf(order.values), order.values, first)
        rows = tf.broadcast_to(tf.range(tf.shape(scores)[0])[:, tf.newaxis], tf.shape(position))
        place = tf.stack([rows, tf.gather(position, order.indices, batch_dims=1)], axis=-1)
        changed = tf.tensor_scatter_nd_update(scores, place, old)
        return tf.where(answered[:, tf.newaxis], changed, scores)

    def top(
        self,
        scores: tf.Tensor,
        user: tf.Tensor,
        answered: tf.Tensor,
        k: tf.Tensor,
        positions: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """The first k [B] items of masked scores, as of `first`, and where they come from."""
        top, position = tf.math.top_k(
            scores, tf.minimum(tf.reduce_max(tf.concat([k, [1]], axis=0)), tf.shape(scores)[1])
        )
        if positions is not None:
            position = tf.gather(positions, position, batch_dims=1)
        wanted = (tf.range(tf.shape(top)[1]) < k[:, tf.newaxis]) & (top > float("-inf"))
        return {
            "item_id": tf.where(wanted, tf.gather(self.item_ids, position), ""),
            "score": tf.where(wanted, top, 0.0),
            "strategy": self.strategy(user, answered),
        }

    def strategy(self, user: tf.Tensor, answered: tf.Tensor) -> tf.Tensor:
        """[B] strings: who answered."""
        popularity = tf.where(tf.gather(self._segment_of, user) > 0, "segment", "fallback")
        return tf.where(
            answered, tf.where(self._users.in_train(user), "model", "fold-in"), popularity
        )

    def popularity_of(self, user: tf.Tensor) -> tf.Tensor:
        """[B, N] scores of popularity in the segments of the users."""
        return tf.gather(self._popularity, tf.gather(self._segment_of, user))

    def popularity_at(self, user: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        """Of these, the scores of the items at some positions [B, K], -1 for any."""
        segment = tf.gather(self._segment_of, user)
        rows = tf.repeat(segment[:, tf.newaxis], tf.shape(position)[1], axis=1)
        return tf.gather_nd(self._popularity, tf.stack([rows, tf.maximum(position, 0)], axis=2))

    def segment(self, user: tf.Tensor) -> tf.Tensor:
        """[B] strings: the names of the segments of the users, "" of none."""
        return tf.gather(self._segments, tf.gather(self._segment_of, user))

    def index_recall(self, queries: dict[str, Any], scores: tf.Tensor, k: int) -> tf.Tensor:
        """[B]: which share of the best k of the exact, masked ranking [B, N] is found."""
        if self.inverted_file is None:
            return tf.ones(tf.shape(scores)[:1])
        wanted = tf.fill(tf.shape(scores)[:1], k)
        found, position, answered = self.first(queries["query"], queries["masked"], wanted)
        found = self.reranked(queries["query"], found, answered, position)
        best = tf.math.top_k(found, tf.minimum(k, tf.shape(found)[1]))
        position = tf.gather(position, best.indices, batch_dims=1)
        exact = tf.math.top_k(scores, tf.minimum(k, tf.shape(scores)[1])).values
        least = tf.reduce_min(tf.where(tf.math.is_inf(exact), float("inf"), exact), axis=1)
        # By their exact scores, so that of equal items either is right.
        of_found = tf.gather(scores, position, batch_dims=1)
        right = (of_found >= least[:, tf.newaxis]) & (best.values > float("-inf"))
        hits, size = (
            tf.reduce_sum(tf.cast(of, tf.float32), axis=1) for of in (right, ~tf.math.is_inf(exact))
        )
        return tf.where(size > 0, tf.math.divide_no_nan(hits, size), 1.0)
