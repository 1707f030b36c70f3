"""What answers raw requests: a `retrieve` model with look-ups, histories and popularity."""

import math
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from models.contract import explain
from models.contract.index import index_of
from models.contract.measurer import Measurer
from models.contract.query import Query
from models.contract.ranker import Ranker
from models.contract.request_reader import RequestReader
from models.contract.requests import K, save, signature
from models.contract.retrieve import DotProductModel, RetrieveModel
from models.contract.rules import (
    Asked,
    Rulebook,
    Rules,
    rules_signature,
)
from models.contract.similar import SimilarItems
from models.inputs.data import TrainingData
from models.inputs.history import History
from models.inputs.int8 import products
from models.inputs.item_columns import read_item_columns
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.schema import raw_signature
from models.inputs.traced import traced
from models.names import metrics
from models.names.index import EXACT, IndexConfig

_OWN_QUERIES = 512  # of which an index learns how many lists to look into


class Retriever(tf.Module):
    """A model with all that it needs to answer raw requests.

    That is look-ups, stored histories, popularity and the seen filter.

    Args:
        model: the model.
        data: what it was trained on.
        measured: what `evaluate` returns.
        index: how the nearest items are found.
        seed: of the index.

    Raises:
        ConfigError: an index for a model whose score is no dot product.
    """

    def __init__(
        self,
        model: RetrieveModel[Any],
        data: TrainingData,
        measured: metrics.MetricSet = metrics.RETRIEVE,
        index: IndexConfig = EXACT,
        seed: int = 0,
    ):
        super().__init__()
        self._model = model
        self.reader = RequestReader(model, data)
        self._item_table = data.item_table
        self._users = data.users
        self.ranker = Ranker(model, data)
        self.measurer = Measurer(self.ranker, self.reader, data, measured)
        # Named, so that its tables are exported too.
        self._item_fields = model.item_fields() if isinstance(model, DotProductModel) else ()
        features = data.context or model.reads_item_features or self._item_fields
        self._transform_layer = data.transform_layer if features else None
        self._filter_seen = model.hyper_parameters.filter_seen
        self._data = data
        self._rules: Any = None  # a Rulebook, made when it is exported
        self._similar: Any = None  # likewise, SimilarItems
        if index.kind != "exact":
            frozen = self.ranker.frozen_catalogue()
            nearest = index_of(model, frozen, index, seed, self._own_queries)
            self.ranker.inverted_file = nearest
        # What two signatures have in common is traced once; attributes that are functions would be
        # traced again to be saved.
        self._answer = traced(self._answer_requests).__call__
        self._under_rules = traced(self._answer_under_rules).__call__
        self._reasons = traced(self._find_reasons).__call__

    def recommend(
        self,
        user_id: tf.Tensor,
        history: tf.Tensor,
        exclude: tf.Tensor,
        k: tf.Tensor,
        **beside: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """The `recommend` signature; histories and exclusions are padded with empty strings.

        `recommend_events` is the same with all that the model reads `beside` the items: see
        `RequestReader.events_signature`.
        """
        excluded = self.reader.excluded(exclude)
        requested, context = self.reader.told(history, beside)
        return self._answer(user_id, requested, context, excluded, k)

    def recommend_examples(
        self, examples: tf.Tensor, count: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """The same for serialized tf.Examples, where everything but `user_id` may be left out.

        `recall_examples`, for a second stage, has `count` items, a scalar int32, instead of each
        request's own k.
        """
        *asked, k = self.reader.parse(examples)
        return self._answer(*asked, k if count is None else tf.fill(tf.shape(examples), count))

    def recommend_rules(
        self,
        user_id: tf.Tensor,
        history: tf.Tensor,
        exclude: tf.Tensor,
        k: tf.Tensor,
        **beside: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """The `recommend_rules` signature: `recommend` under the rules of `models.contract.rules`.

        It takes what the model reads beside the ids too, and says why there are `fewer` than k.
        """
        return self._recommend_rules(user_id, history, exclude, k, beside)[0]

    def recommend_explained(
        self,
        user_id: tf.Tensor,
        history: tf.Tensor,
        exclude: tf.Tensor,
        k: tf.Tensor,
        **beside: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """The `recommend_explained` signature: `recommend_rules`, and what carried each item.

        It takes besides how many `reasons` an item has, and answers what `explain` does; an item
        that is pinned says that.
        """
        reasons, pin = beside.pop("reasons"), beside["pin"]
        answer, query = self._recommend_rules(user_id, history, exclude, k, beside)
        why = self._reasons(query, answer["item_id"], reasons)
        return {**answer, **explain.with_pins(why, answer["item_id"], pin)}

    def explain(
        self,
        user_id: tf.Tensor,
        history: tf.Tensor,
        item_id: tf.Tensor,
        reasons: tf.Tensor,
        **beside: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """The `explain` signature: what carries the scores of items, answered or not.

        Args:
            user_id: [B] strings.
            history: [B, H] strings, padded with "".
            item_id: [B, K] strings, "" for none.
            reasons: [B] int32, how many.
            beside: as of `recommend_events`.

        Returns:
            As `models.contract.explain.explained`; and `strategy` [B].
        """
        query, _ = self.reader.query(user_id, *self.reader.told(history, beside))
        return self._reasons(query, item_id, reasons)

    def _recommend_rules(
        self,
        user_id: tf.Tensor,
        history: tf.Tensor,
        exclude: tf.Tensor,
        k: tf.Tensor,
        beside: dict[str, tf.Tensor],
    ) -> tuple[dict[str, tf.Tensor], Query]:
        excluded = self.reader.excluded(exclude)
        rules = Rules(**{name: beside.pop(name) for name in rules_signature()})
        query, seen = self.reader.query(user_id, *self.reader.told(history, beside))
        seen = seen if self._filter_seen else seen[:, :0]
        return self._under_rules(query, seen, excluded, rules, k), query

    def recall_rules(
        self, examples: tf.Tensor, count: tf.Tensor, **rules: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The `recall_rules` signature, which says what rules cost: `recall_queries` under them.

        Args:
            examples: [B] serialized query rows.
            count: scalar int32, how many items.
            rules: as `recommend_rules` takes them, of one row for all.
        """
        parsed = self.reader.parse_queries(examples)
        rows = tf.shape(examples)[0]
        all_ = {name: tf.repeat(value, rows, axis=0) for name, value in rules.items()}
        masked, k = parsed["masked"], tf.fill(tf.shape(examples), count)
        return self._under_rules(parsed["query"], masked, masked[:, :0], Rules(**all_), k)

    def embed(
        self, user_id: tf.Tensor, history: tf.Tensor, **beside: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The `embed` signature of a dot-product model: the query vector [B, D].

        `embed_events` is the same with all that the model reads `beside` the items.
        """
        query, _ = self.reader.query(user_id, *self.reader.told(history, beside))
        return {"embedding": tf.cast(self._model.query_embedding(query), tf.float32)}

    def item_vectors(self, item_id: tf.Tensor) -> dict[str, tf.Tensor]:
        """The `item_vectors` signature of a dot-product model: what `embed` is multiplied with.

        Args:
            item_id: [B] strings.

        Returns:
            `embedding` [B, D] float32, and `known` [B] bool: false, and the embedding 0, of an item
            that nobody knows or that has no vector.
        """
        position = self.item_index(item_id) - FIRST_TOKEN
        embedding, known = self._model.vectors_at(position, self.ranker.catalogue)
        return {"embedding": embedding, "known": known}

    def embed_items(self, **raw: tf.Tensor) -> dict[str, tf.Tensor]:
        """The `embed_items` signature of a model that embeds items by their features.

        Args:
            **raw: features by their names, of items that need not be in any table: [B] or, of
                several values, [B, L]; strings, "" where missing, or float32, NaN where missing.

        Returns:
            `embedding` [B, D] float32, as those that `retrieve` searches; and `known` [B] bool,
            false where nothing that was told is known.
        """
        vectors, known = self._model.embed_features(raw)
        return {"embedding": vectors, "known": known}

    def explain_features(
        self, user_id: tf.Tensor, history: tf.Tensor, reasons: tf.Tensor, **told: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The `explain_features` signature: `explain`, of an item a row that no table knows.

        Args:
            user_id: [B] strings.
            history: [B, H] strings, padded with "".
            reasons: [B] int32, how many.
            told: the features of the item, as of `embed_items`; the rest as of `recommend_events`.

        Returns:
            `reason` [B, R] strings, `weight` [B, R] float32, `basis` and `strategy` [B] strings.
        """
        raw = {field.name: told.pop(field.name) for field in self._item_fields}
        query, _ = self.reader.query(user_id, *self.reader.told(history, told))
        vectors, known = self._model.embed_features(raw)
        position = tf.where(known, tf.range(tf.size(known)), -1)[:, tf.newaxis]
        answered = self._model.answers(query)
        # Of an item that nobody had popularity has nothing to say.
        fallback = self.ranker.segment(query.user), tf.zeros(tf.shape(position))
        catalogue = self._model.catalogue_of(vectors)
        ids = self.ranker.item_ids
        why = explain.explained(
            self._model, query, answered, position, catalogue, ids, fallback, reasons
        )
        first = {name: value[:, 0] for name, value in why.items()}
        return {**first, "strategy": self.ranker.strategy(query.user, answered)}

    def similar_features(
        self, exclude: tf.Tensor, k: tf.Tensor, allow: tf.Tensor, where: tf.Tensor, **raw: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The `similar_features` signature: `similar` to items of which only features are known.

        See `models.contract.similar`; `raw` are the features by name.
        """
        vectors, known = self._model.embed_features(raw)
        vectors = vectors[:, :-1] if self._model.biased else vectors
        return self._similar.answer_features(vectors, known, exclude, k, allow, where)

    def evaluate(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """The `evaluate` signature, as of `Measurer.evaluate`."""
        return self.measurer.evaluate(examples)

    def store_in_int8(self, smallest: int) -> None:
        """Stores the vectors of the catalogue in bytes, tables of so many numbers at least."""
        self.ranker.store_in_int8(smallest)

    @property
    def notes(self) -> dict[str, Any]:
        """What the training log says of what is exported: the index, where there is one."""
        index = self.ranker.inverted_file
        if index is None:
            return {}
        recall = None if math.isnan(index.recall) else round(index.recall, 4)
        return {"index": {"lists": index.lists, "probes": index.probes, "recall_100": recall}}

    def item_index(self, item_id: tf.Tensor) -> tf.Tensor:
        """Item ids of any shape to int64 indices, 1 for those that nobody knows."""
        return self._item_table.lookup(item_id)

    def export(self, folder: str, rules: bool = True) -> None:
        """Writes the SavedModel with all signatures.

        Args:
            folder: a new one.
            rules: whether those that take rules, of which `similar` is one, and those that explain
                are among them; they are half of the work.
        """
        strings, matrix = tf.TensorSpec([None], tf.string), tf.TensorSpec([None, None], tf.string)
        examples = tf.TensorSpec([None], tf.string, name="examples")

        def spec(base: tf.TensorSpec, name: str) -> tf.TensorSpec:
            return tf.TensorSpec(base.shape, base.dtype, name=name)

        count = tf.TensorSpec([], tf.int32, name="count")
        who = {"user_id": spec(strings, "user_id"), "history": spec(matrix, "history")}
        asked = {
            **who,
            "exclude": spec(matrix, "exclude"),
            "k": K,
        }
        recommend = signature(self.recommend, **asked)
        signatures = {
            "serving_default": recommend,
            "recommend": recommend,
            "recommend_examples": traced(self.recommend_examples).get_concrete_function(examples),
            "recall_examples": traced(self.recommend_examples).get_concrete_function(
                examples, count
            ),
            "evaluate": traced(self.evaluate).get_concrete_function(examples),
            "recall_queries": traced(self.measurer.recall_queries).get_concrete_function(
                examples, count
            ),
        }
        beside = self.reader.events_signature()
        if beside:
            signatures["recommend_events"] = signature(self.recommend, **asked, **beside)
        if isinstance(self._model, DotProductModel):
            signatures["embed"] = signature(self.embed, **who)
            signatures["retrieve"] = self._retrieve()
            if self._item_fields:
                signatures["embed_items"] = signature(
                    self.embed_items, **raw_signature(self._item_fields)
                )
            signatures["item_vectors"] = signature(
                self.item_vectors, item_id=spec(strings, "item_id")
            )
            if beside:
                signatures["embed_events"] = signature(self.embed, **who, **beside)
        if rules and self._rules is None:  # what is traced knows the one it was traced with
            self._rules = Rulebook(
                read_item_columns(self._data),
                self._item_table,
                self.ranker.item_ids.shape[0],
                self._item_vectors(),
            )
            if self._rules.vectors is not None:
                self._rules.vectors = self.ranker.stored_table(self._rules.vectors)
        if rules:
            taken = rules_signature()
            self._similar = self._similar or SimilarItems(self._data, self._rules)
            signatures["similar"] = signature(
                self._similar.answer,
                item_id=spec(strings, "item_id"),
                exclude=spec(matrix, "exclude"),
                k=K,
                allow=taken["allow"],
                where=taken["where"],
            )
            if self._item_fields:
                signatures["similar_features"] = signature(
                    self.similar_features,
                    **raw_signature(self._item_fields),
                    exclude=spec(matrix, "exclude"),
                    k=K,
                    allow=taken["allow"],
                    where=taken["where"],
                )
            signatures["recommend_rules"] = signature(
                self.recommend_rules, **asked, **beside, **taken
            )
            why = explain.reasons_signature()
            signatures["recommend_explained"] = signature(
                self.recommend_explained, **asked, **beside, **taken, **why
            )
            signatures["explain"] = signature(
                self.explain, **who, item_id=spec(matrix, "item_id"), **beside, **why
            )
            if self._item_fields:
                signatures["explain_features"] = signature(
                    self.explain_features,
                    **who,
                    **beside,
                    **raw_signature(self._item_fields),
                    **why,
                )
            signatures["recall_rules"] = traced(self.recall_rules).get_concrete_function(
                examples, count, **taken
            )
        for name, function in self._model.signatures(self).items():
            if name in signatures:
                raise ValueError(f"{name} is a signature of every model")
            signatures[name] = function
        save(self, folder, signatures)

    def _item_vectors(self) -> tf.Tensor | None:
        """[N, D] in catalogue order without biases, 0 of items that have none.

        None of other models.
        """
        if not isinstance(self._model, DotProductModel):
            return None
        vectors, position = self._model.index(self.ranker.frozen_catalogue())
        vectors = vectors[:, :-1] if self._model.biased else vectors
        shape = [self.ranker.item_ids.shape[0], vectors.shape[1]]
        return tf.scatter_nd(position[:, tf.newaxis], vectors, shape)

    def _retrieve(self) -> Any:
        """The `retrieve` signature: unfiltered nearest items of a query vector.

        By the index of the run or TFRS' exact one: plain ops that a stock server loads.
        """
        vectors, positions = self._model.index(self.ranker.frozen_catalogue())
        if self.ranker.inverted_file is None and not self.ranker.in_int8:
            self.index = tfrs.layers.factorized_top_k.BruteForce()
            self.index.index(vectors, positions)

        def retrieve(embedding: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
            if self.ranker.inverted_file is not None:
                count = tf.repeat(k, tf.shape(embedding)[0])
                score, position = self.ranker.inverted_file.nearest(embedding, count)
            elif self.ranker.in_int8:  # of the bytes: a copy of floats would be as large
                found, of = self._model.index(self.ranker.catalogue)
                score = products(embedding, found)
                score, row = tf.math.top_k(score, tf.minimum(k, of.shape[0]))
                position = tf.gather(of, row)
            else:
                score, position = self.index(embedding, k=tf.minimum(k, positions.shape[0]))
            return {"item_id": tf.gather(self.ranker.item_ids, position), "score": score}

        return traced(retrieve).get_concrete_function(
            tf.TensorSpec([None, vectors.shape[1]], tf.float32, name="embedding"),
            tf.TensorSpec([], tf.int32, name="k"),
        )

    def _answer_requests(
        self,
        user_id: tf.Tensor,
        requested: History,
        context: dict[str, Any],
        excluded: tf.RaggedTensor,
        k: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        with tf.control_dependencies(
            [tf.debugging.assert_positive(k, message="k must be at least 1")]
        ):
            user_id = tf.identity(user_id)
        query, seen = self.reader.query(user_id, requested, context)
        out = tf.concat([seen, excluded], axis=1) if self._filter_seen else excluded
        scores, position, answered = self.ranker.first(query, out, k)
        scores = self.ranker.reranked(query, scores, answered, position)
        return self.ranker.top(scores, query.user, answered, k, position)

    def _own_queries(self) -> tf.Tensor:
        """[Q, D] vectors of the run's own queries that the model answers.

        They are those of validation or, where a model is fitted on everything, of users.
        """
        raw = self._data.queries("valid")
        draw = np.random.default_rng(0)
        if len(raw):
            chosen = raw[draw.permutation(len(raw))[:_OWN_QUERIES]]
            query = self.reader.parse_queries(tf.constant(chosen, tf.string))["query"]
        else:
            ids = self._users.ids[draw.permutation(len(self._users))[:_OWN_QUERIES]]
            told = self.reader.told(tf.zeros([len(ids), 0], tf.string), {})
            query, _ = self.reader.query(tf.constant(ids, tf.string), *told)
        vectors = tf.cast(self._model.query_embedding(query), tf.float32)
        return tf.boolean_mask(vectors, self._model.answers(query))

    def _answer_under_rules(
        self,
        query: Query,
        seen: tf.RaggedTensor,
        excluded: tf.RaggedTensor,
        rules: Rules,
        k: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        scores, _, answered = self.ranker.scores(query, self.ranker.catalogue)
        asked = Asked(scores, query.history, seen, excluded)
        with tf.control_dependencies(
            [tf.debugging.assert_positive(k, message="k must be at least 1")]
        ):
            answer = self._rules.answer(
                asked, rules, lambda scores: self.ranker.reranked(query, scores, answered), k
            )
        position = answer.pop("position")
        ids = tf.gather(self.ranker.item_ids, tf.maximum(position, 0))
        return {
            "item_id": tf.where(position >= 0, ids, ""),
            "strategy": self.ranker.strategy(query.user, answered),
            **answer,
        }

    def _find_reasons(
        self, query: Query, item_id: tf.Tensor, count: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        position = tf.cast(self.item_index(item_id), tf.int32) - FIRST_TOKEN
        segment = self.ranker.segment(query.user)
        fallback = segment, self.ranker.popularity_at(query.user, position)
        answered, catalogue = self._model.answers(query), self.ranker.catalogue
        ids = self.ranker.item_ids
        why = explain.explained(
            self._model, query, answered, position, catalogue, ids, fallback, count
        )
        return {**why, "strategy": self.ranker.strategy(query.user, answered)}
