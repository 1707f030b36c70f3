"""The models that give every item a score: what each of them declares and writes."""

from collections.abc import Sequence
from typing import Any, ClassVar

import tensorflow as tf

from models.contract import explain
from models.contract.query import Query
from models.contract.recommender import H, Recommender
from models.inputs.int8 import products, take
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.schema import Field


class RetrieveModel(Recommender[H]):
    """Base of the models that score the whole catalogue.

    A subclass sets the class attributes, builds its layers in `__init__(hyper_parameters, data)`
    and writes `score_items`; one trained by gradient also writes `compute_loss` and `batches`; one
    with a procedure of its own overrides `learn`.

    Attributes:
        uses_user_id: the model answers users whom train has seen, by their index (`Query.user`).
            Without it and without a history that it can use, a user gets popularity.
        uses_history: the model reads `Query.history`, and answers whoever has one: users whom train
            has not seen too. Without it the history only tells what was seen already.
        session_based: a session is all that the model looks at, so where a request has a history
            the model reads that alone, and the stored one of a known user only where it has none.
            Otherwise the request's is what came after training: it is added to the stored one,
            newest last, items that stand in both twice. Whatever it is, items of either have been
            seen. `recommend`, `embed`, batches and bundles have it alike, and the training log that
            is exported with the model says it (`history`).
        cold_items: items that train has not seen, but the table of items describes, belong to the
            catalogue: the model scores them by their features.
        reads_history: what the model reads beside the items of a history, of
            `models.names.features.HISTORY_COLUMNS`. Its runs carry it from the events to the
            requests, and `Query` and `EventLog` have it.
        reads_context: the model reads the context columns that the run names (`features.context`):
            `data.context`, `EventLog.context` and `Query.context` have them.
        reads_item_features: the model reads `data.items.features`; rows that are lists then carry
            what Transform fits their vocabularies on. The other kinds always do.
        reranks: how many of the first items `rerank` orders anew; 0 for none.
        explains: how `contributions` says what carried an answer, of
            `models.names.registry.EXPLANATIONS`; the registry says it too.
    """

    uses_user_id: ClassVar[bool] = True
    uses_history: ClassVar[bool] = False
    session_based: ClassVar[bool] = False
    cold_items: ClassVar[bool] = False
    reads_history: ClassVar[tuple[str, ...]] = ()
    reads_context: ClassVar[bool] = False
    reads_item_features: ClassVar[bool] = False
    reranks: ClassVar[int] = 0
    explains: ClassVar[str] = "difference"

    @classmethod
    def carries(cls, context: Sequence[str] = ()) -> dict[str, Any]:
        """Returns what built rows carry for the model, as `components.build.config` calls it.

        Args:
            context: the columns that the run names.
        """
        return {
            "history": list(cls.reads_history),
            "context": list(context) if cls.reads_context else [],
            "item_features": cls.reads_item_features,
        }

    def catalogue(self) -> Any:
        """Returns what scoring needs of the items.

        It is computed once an evaluation and frozen at export.
        """
        return ()

    def score_items(self, query: Query, catalogue: Any) -> tf.Tensor:
        """Returns [B, N] float32 scores of the catalogue's items for the queries."""
        raise NotImplementedError(f"{type(self).__name__} must define score_items()")

    def answers(self, query: Query) -> tf.Tensor:
        """Returns [B] bool: whether the model has what it needs for a query.

        The others get popularity.
        """
        by_id = query.known if self.uses_user_id else tf.zeros_like(query.known)
        return by_id | (query.history.row_lengths() > 0) if self.uses_history else by_id

    def rerank(self, query: Query, position: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
        """Returns new scores of the first items, which decide their order among themselves.

        Evaluation and serving alike do so before an answer is cut to k: in the new order the items
        have the old scores, the highest first. Equal new scores keep the old order.

        Args:
            query: who asks.
            position: [B, `reranks`] int32 catalogue positions, best first.
            score: [B, `reranks`] float32; -inf where an item may not be answered.

        Returns:
            [B, `reranks`] float32; -inf leaves an item out.
        """
        raise NotImplementedError(f"{type(self).__name__} must define rerank()")

    def contributions(
        self, query: Query, items: tf.Tensor, position: tf.Tensor, catalogue: Any
    ) -> tf.Tensor:
        """Returns what items of the histories carry of the scores of others.

        Here that is what a score loses where the item is left out of the history, wherever it
        stands there. It costs as much as L queries more. A model whose score is a sum over the
        history writes the parts, and says so in `explains`.

        Args:
            query: who asks.
            items: [B, L] int64 indices, each once; 0 pads, whose weights nobody looks at.
            position: [B, K] int32 catalogue positions, whose scores are explained.
            catalogue: as of `catalogue`.

        Returns:
            [B, K, L] float32.
        """

        def scores(query: Query, row: tf.Tensor) -> tf.Tensor:
            return tf.gather(self.score_items(query, catalogue), position[row], axis=1)

        return explain.differences(query, items, scores)

    def signatures(self, retriever: Any) -> dict[str, Any]:
        """Returns signatures of the model's own, by name, to be exported beside the common ones.

        Such as one that embeds an item by its features. Each is a concrete function.

        Args:
            retriever: the `models.contract.retriever.Retriever` that is exported.
        """
        return {}


class DotProductModel(RetrieveModel[H]):
    """A model whose score is the dot product of a query and an item vector: it can be indexed.

    Attributes:
        biased: the last number of an item's vector is its bias, which says how popular the item is,
            not what it is like; that of a query is 1.
    """

    biased: bool = False

    def query_embedding(self, query: Query) -> tf.Tensor:
        """Returns [B, D] float32."""
        raise NotImplementedError(f"{type(self).__name__} must define query_embedding()")

    def item_embeddings(self) -> tf.Tensor:
        """Returns [N, D] float32 in catalogue order."""
        raise NotImplementedError(f"{type(self).__name__} must define item_embeddings()")

    def item_fields(self) -> tuple[Field, ...]:
        """Returns the features by which `embed_features` tells items that no table knows apart.

        None are those of a model that cannot.
        """
        return ()

    def embed_features(self, raw: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Embeds items by raw features, as of `TrainingData.item_index`.

        It is the signature `embed_items`.

        Returns:
            [B, D] float32 vectors as of `item_embeddings`, and [B] bool: false where nothing that
            was told is known.
        """
        raise NotImplementedError(f"{type(self).__name__} must define embed_features()")

    def catalogue(self) -> Any:
        return self.catalogue_of(tf.cast(self.item_embeddings(), tf.float32))

    def catalogue_of(self, vectors: tf.Tensor) -> Any:
        """Returns the catalogue of items with these vectors, [N, D] float32."""
        return vectors

    def index(self, catalogue: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the signature `retrieve` searches.

        That is [M, D] float32 vectors and their [M] int64 catalogue positions.
        """
        return catalogue, tf.range(tf.shape(catalogue, tf.int64)[0])

    def vectors_at(self, position: tf.Tensor, catalogue: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the vectors of items that `retrieve` searches, and whether they have one.

        Args:
            position: of the catalogue, of any shape; -1 for none.
            catalogue: as of `catalogue`.

        Returns:
            [..., D] float32, 0 where there is none, and [...] bool.
        """
        vectors, of = self.index(catalogue)
        row = tf.reshape(tf.cast(position, of.dtype), [-1])
        place = tf.minimum(tf.searchsorted(of, row), tf.size(of) - 1)
        known = tf.gather(of, place) == row
        found = tf.where(known[:, tf.newaxis], tf.cast(take(vectors, place), tf.float32), 0.0)
        shape = tf.shape(position)
        width = tf.shape(found)[1:]
        return tf.reshape(found, tf.concat([shape, width], axis=0)), tf.reshape(known, shape)

    def score_items(self, query: Query, catalogue: Any) -> tf.Tensor:
        return products(tf.cast(self.query_embedding(query), tf.float32), catalogue)

    def contributions(
        self, query: Query, items: tf.Tensor, position: tf.Tensor, catalogue: Any
    ) -> tf.Tensor:
        """As `RetrieveModel.contributions`.

        Where the user's vector is of no history (`explains` is `similarity`): the cosines of the
        items' vectors, without biases.
        """
        vectors, _ = self.vectors_at(position, catalogue)
        if self.explains == "similarity":
            others, _ = self.vectors_at(items - FIRST_TOKEN, catalogue)
            near = (each[..., :-1] if self.biased else each for each in (vectors, others))
            unit = (tf.math.l2_normalize(each, axis=2) for each in near)
            return tf.matmul(*unit, transpose_b=True)

        def scores(query: Query, row: tf.Tensor) -> tf.Tensor:
            embedding = tf.cast(self.query_embedding(query), tf.float32)
            return tf.matmul(embedding, vectors[row], transpose_b=True)

        return explain.differences(query, items, scores)
