"""The task `Retrieve`: a score for every item.

What all of its models share: evaluation and the exported signatures.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs

from models.contract.query import Query
from models.contract.recommender import H, Recommender
from models.inputs.data import STRINGS, TrainingData, drop_unknown
from models.inputs.preprocessing import FIRST_TOKEN
from models.measures import ranking, segments
from models.names import metrics

_EVALUATION_CELLS = (
    2_000_000  # scores computed at once in evaluation: bounds memory on any catalogue
)
DEFAULT_K = 10


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
    """

    uses_user_id: ClassVar[bool] = True
    uses_history: ClassVar[bool] = False
    session_based: ClassVar[bool] = False
    cold_items: ClassVar[bool] = False

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


class DotProductModel(RetrieveModel[H]):
    """A model whose score is the dot product of a query and an item vector: it can be indexed."""

    def query_embedding(self, query: Query) -> tf.Tensor:
        """Returns [B, D] float32."""
        raise NotImplementedError(f"{type(self).__name__} must define query_embedding()")

    def item_embeddings(self) -> tf.Tensor:
        """Returns [N, D] float32 in catalogue order."""
        raise NotImplementedError(f"{type(self).__name__} must define item_embeddings()")

    def catalogue(self) -> tf.Tensor:
        return tf.cast(self.item_embeddings(), tf.float32)

    def index(self, catalogue: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what the signature `retrieve` searches.

        That is [M, D] float32 vectors and their [M] int64 catalogue positions.
        """
        return catalogue, tf.range(tf.shape(catalogue, tf.int64)[0])

    def score_items(self, query: Query, catalogue: Any) -> tf.Tensor:
        return tf.matmul(
            tf.cast(self.query_embedding(query), tf.float32), catalogue, transpose_b=True
        )


@tf.function(reduce_retracing=True)
def mask_items(scores: tf.Tensor, items: tf.RaggedTensor) -> tf.Tensor:
    """Sets scores [B, N] to -inf at ragged [B, None] item indices."""
    positions = tf.stack([items.value_rowids(), items.flat_values - FIRST_TOKEN], axis=1)
    return tf.tensor_scatter_nd_update(
        scores, positions, tf.fill(tf.shape(positions)[:1], float("-inf"))
    )


def parse_requests(examples: tf.Tensor) -> dict[str, Any]:
    """Parses [B] serialized requests, where everything but `user_id` may be left out.

    Returns:
        `user_id` [B] strings, `history` and `exclude` ragged [B, None] strings, `k` [B] int32.
    """
    spec = {
        "user_id": tf.io.FixedLenFeature([], tf.string, default_value=""),
        "history": STRINGS,
        "exclude": STRINGS,
        "k": tf.io.FixedLenFeature([], tf.int64, default_value=DEFAULT_K),
    }
    rows = tf.io.parse_example(examples, spec)
    return {**rows, "k": tf.cast(rows["k"], tf.int32)}


class Retriever(tf.Module):
    """A model with all that it needs to answer raw requests.

    That is look-ups, stored histories, popularity and the seen filter.
    """

    def __init__(self, model: RetrieveModel[Any], data: TrainingData):
        super().__init__()
        self._model = model
        self._item_table = data.item_table
        self._user_table = data.user_table
        self._users = data.users
        self._item_ids = tf.Variable(tf.constant(data.items.ids, tf.string), trainable=False)
        segment_of, popularity = segments.popularity(data, model.hyper_parameters.segment)
        self._segment_of = tf.Variable(segment_of, trainable=False)
        self._popularity = tf.Variable(popularity, trainable=False)
        # Variables, not constants: a graph may not hold more than 2 GB.
        self._history_values = tf.Variable(data.user_history.flat_values, trainable=False)
        self._history_splits = tf.Variable(data.user_history.row_splits, trainable=False)
        self._filter_seen = model.hyper_parameters.filter_seen
        self._frozen = tf.nest.map_structure(
            lambda value: tf.Variable(value, trainable=False), model.catalogue()
        )
        # What two signatures have in common is traced once; attributes that are functions would be
        # traced again to be saved.
        self._measure = tf.function(self._measure_queries).__call__
        self._answer = tf.function(self._answer_requests).__call__

    def parse_queries(self, examples: tf.Tensor) -> dict[str, Any]:
        """Parses [B] serialized query rows into indices.

        The evaluation's own history is used, never the stored one.
        """
        spec = {"user_id": tf.io.FixedLenFeature([], tf.string, default_value="")}
        lists = ("history", "exclude", "targets", "candidates")
        rows = tf.io.parse_example(examples, {**spec, **dict.fromkeys(lists, STRINGS)})
        index = {name: self._item_table.lookup(rows[name]) for name in lists}
        history = drop_unknown(index["history"])
        return {
            "query": self._query(self._user_table.lookup(rows["user_id"]), history),
            "masked": tf.concat(
                [history if self._filter_seen else history[:, :0], drop_unknown(index["exclude"])],
                axis=1,
            ),
            "targets": _positions(index["targets"]),
            "target_count": tf.cast(index["targets"].row_lengths(), tf.float32),
            "candidates": _positions(index["candidates"]),
        }

    def metrics(self, queries: dict[str, Any], catalogue: Any) -> dict[str, tf.Tensor]:
        """Ranks the whole catalogue for parsed queries: metric name -> [B] float32."""
        return self._ranked(queries, catalogue)[0]

    def evaluate(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """The `evaluate` signature: [B] serialized query rows -> metric name -> [B, 1] float32."""
        return self._measure(examples)[0]

    def recall_queries(self, examples: tf.Tensor, count: tf.Tensor) -> dict[str, tf.Tensor]:
        """The `recall_queries` signature, on which a second stage is evaluated.

        It returns what `recommend` returns and what `evaluate` does.

        Args:
            examples: [B] serialized query rows; their own history is what the user has had, never
                the stored one.
            count: scalar int32, how many items.
        """
        values, scores, user, answered = self._measure(examples)
        return {**self._top(scores, user, answered, tf.fill(tf.shape(examples), count)), **values}

    def recommend(
        self, user_id: tf.Tensor, history: tf.Tensor, exclude: tf.Tensor, k: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The `recommend` signature; histories and exclusions are padded with empty strings."""
        requested = self._item_table.lookup(tf.RaggedTensor.from_tensor(history))
        excluded = self._item_table.lookup(tf.RaggedTensor.from_tensor(exclude))
        return self._answer(user_id, drop_unknown(requested), drop_unknown(excluded), k)

    def recommend_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """The same for serialized tf.Examples, where everything but `user_id` may be left out."""
        rows = parse_requests(examples)
        history, exclude = (
            drop_unknown(self._item_table.lookup(rows[name])) for name in ("history", "exclude")
        )
        return self._answer(rows["user_id"], history, exclude, rows["k"])

    def embed(self, user_id: tf.Tensor, history: tf.Tensor) -> dict[str, tf.Tensor]:
        """The `embed` signature of a dot-product model: the query vector [B, D]."""
        user = self._user_table.lookup(user_id)
        requested = drop_unknown(self._item_table.lookup(tf.RaggedTensor.from_tensor(history)))
        query = self._query(user, self._history(self._stored(user), requested))
        return {"embedding": tf.cast(self._model.query_embedding(query), tf.float32)}

    def export(self, folder: str) -> None:
        """Writes the SavedModel with all signatures."""
        strings, matrix = tf.TensorSpec([None], tf.string), tf.TensorSpec([None, None], tf.string)
        examples = tf.TensorSpec([None], tf.string, name="examples")

        def spec(base: tf.TensorSpec, name: str) -> tf.TensorSpec:
            return tf.TensorSpec(base.shape, base.dtype, name=name)

        recommend = tf.function(self.recommend).get_concrete_function(
            spec(strings, "user_id"),
            spec(matrix, "history"),
            spec(matrix, "exclude"),
            tf.TensorSpec([None], tf.int32, name="k"),
        )
        signatures = {
            "serving_default": recommend,
            "recommend": recommend,
            "recommend_examples": tf.function(self.recommend_examples).get_concrete_function(
                examples
            ),
            "evaluate": tf.function(self.evaluate).get_concrete_function(examples),
            "recall_queries": tf.function(self.recall_queries).get_concrete_function(
                examples, tf.TensorSpec([], tf.int32, name="count")
            ),
        }
        if isinstance(self._model, DotProductModel):
            signatures["embed"] = tf.function(self.embed).get_concrete_function(
                spec(strings, "user_id"), spec(matrix, "history")
            )
            signatures["retrieve"] = self._brute_force()
        tf.saved_model.save(self, folder, signatures=signatures)

    def _brute_force(self) -> Any:
        """Unfiltered nearest items of a query vector.

        TFRS' exact index: plain ops that a stock server loads.
        """
        self.index = tfrs.layers.factorized_top_k.BruteForce()
        vectors, positions = self._model.index(
            tf.nest.map_structure(tf.convert_to_tensor, self._frozen)
        )
        self.index.index(vectors, positions)

        def retrieve(embedding: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
            score, position = self.index(embedding, k=tf.minimum(k, positions.shape[0]))
            return {"item_id": tf.gather(self._item_ids, position), "score": score}

        return tf.function(retrieve).get_concrete_function(
            tf.TensorSpec([None, vectors.shape[1]], tf.float32, name="embedding"),
            tf.TensorSpec([], tf.int32, name="k"),
        )

    def _measure_queries(
        self, examples: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor, tf.Tensor]:
        """[B] serialized query rows -> metrics [B, 1], and what to recall from.

        That is masked scores [B, N], users and who was answered.
        """
        queries = self.parse_queries(examples)
        values, scores, answered = self._ranked(queries, self._frozen)
        return (
            {name: values[name][:, tf.newaxis] for name in metrics.RETRIEVE_METRICS},
            scores,
            queries["query"].user,
            answered,
        )

    def _ranked(
        self, queries: dict[str, Any], catalogue: Any
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        """Metrics [B], masked scores [B, N] and who was answered [B]."""
        scores, popularity, answered = self._scores(queries["query"], catalogue)
        scores, popularity = (
            mask_items(scores, queries["masked"]),
            mask_items(popularity, queries["masked"]),
        )
        values = ranking.retrieve_metrics(
            scores, popularity, queries["targets"], queries["target_count"], queries["candidates"]
        )
        return values, scores, answered

    def _answer_requests(
        self,
        user_id: tf.Tensor,
        requested: tf.RaggedTensor,
        excluded: tf.RaggedTensor,
        k: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        with tf.control_dependencies(
            [tf.debugging.assert_positive(k, message="k must be at least 1")]
        ):
            user = self._user_table.lookup(user_id)
        stored = self._stored(user)
        query = self._query(user, self._history(stored, requested))
        scores, _, answered = self._scores(query, self._frozen)
        seen = [stored, requested] if self._filter_seen else []
        scores = mask_items(scores, tf.concat([*seen, excluded], axis=1))
        return self._top(scores, user, answered, k)

    def _top(
        self, scores: tf.Tensor, user: tf.Tensor, answered: tf.Tensor, k: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The first k [B] items of masked [B, N] scores, and where they come from."""
        top, position = tf.math.top_k(
            scores, tf.minimum(tf.reduce_max(tf.concat([k, [1]], axis=0)), tf.shape(scores)[1])
        )
        wanted = (tf.range(tf.shape(top)[1]) < k[:, tf.newaxis]) & (top > float("-inf"))
        popularity = tf.where(tf.gather(self._segment_of, user) > 0, "segment", "fallback")
        return {
            "item_id": tf.where(wanted, tf.gather(self._item_ids, position), ""),
            "score": tf.where(wanted, top, 0.0),
            "strategy": tf.where(
                answered, tf.where(self._users.in_train(user), "model", "fold-in"), popularity
            ),
        }

    def _scores(self, query: Query, catalogue: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """[B, N] scores; popularity's; and who was answered.

        The scores are the model's or, where it cannot answer, those of popularity in the segment.
        """
        answered = self._model.answers(query)
        scores = tf.cast(self._model.score_items(query, catalogue), tf.float32)
        popularity = tf.tile(self._popularity[:1], [tf.shape(query.user)[0], 1])
        fallback = tf.gather(self._popularity, tf.gather(self._segment_of, query.user))
        return tf.where(answered[:, tf.newaxis], scores, fallback), popularity, answered

    def _query(self, user: tf.Tensor, history: tf.RaggedTensor) -> Query:
        """A user whom train has not seen is not known to the model.

        That holds though the tables may hold features and a history.
        """
        return Query(user, self._users.in_train(user), history)

    def _stored(self, user: tf.Tensor) -> tf.RaggedTensor:
        histories = tf.RaggedTensor.from_row_splits(
            self._history_values, self._history_splits, validate=False
        )
        return tf.gather(histories, user)

    def _history(self, stored: tf.RaggedTensor, requested: tf.RaggedTensor) -> tf.RaggedTensor:
        """What the model reads, see `RetrieveModel.session_based`."""
        if not self._model.session_based:
            return tf.concat([stored, requested], axis=1)
        keep = tf.repeat(requested.row_lengths() == 0, stored.row_lengths())
        return tf.concat(
            [tf.ragged.boolean_mask(stored, stored.with_values(keep)), requested], axis=1
        )


def _positions(index: tf.RaggedTensor) -> tf.Tensor:
    """Ragged item indices -> dense catalogue positions.

    They are -1 for padding and for items outside the catalogue.
    """
    dense = tf.maximum(index - FIRST_TOKEN, -1).to_tensor(default_value=-1)
    return tf.cast(dense, tf.int32)


class Evaluation:
    """Mean metrics of a model on fixed queries, for validation while training.

    Args:
        data: the training data (for its look-ups).
        queries: [Q] serialized query rows.
    """

    metrics = metrics.RETRIEVE

    def __init__(self, data: TrainingData, queries: npt.NDArray[np.object_]):
        self._data = data
        self._queries = queries

    def of(self, model: RetrieveModel[Any]) -> Callable[[], dict[str, float]]:
        """Returns a function that evaluates `model` as it then is.

        The function is () -> {metric: mean over queries}.
        """
        retriever = Retriever(model, self._data)
        size = max(1, _EVALUATION_CELLS // max(1, len(self._data.items)))
        batches = [
            retriever.parse_queries(tf.constant(self._queries[start : start + size], tf.string))
            for start in range(0, len(self._queries), size)
        ]
        compute = tf.function(retriever.metrics, reduce_retracing=True)

        def evaluate() -> dict[str, float]:
            catalogue = model.catalogue()
            totals: dict[str, list[float]] = {}
            for batch in batches:
                for name, value in compute(batch, catalogue).items():
                    totals.setdefault(name, []).append(float(tf.reduce_sum(value)))
            return {name: sum(parts) / len(self._queries) for name, parts in totals.items()}

        return evaluate


class RetrieveTask:
    """What the Trainer asks of the task; see `models.contract.tasks`."""

    name = "retrieve"
    metrics = metrics.RETRIEVE

    def load(
        self,
        model_class: type[RetrieveModel[Any]],
        transform_graph: str,
        schema: str,
        splits: dict[str, str],
    ) -> TrainingData:
        """Returns what a model of the class trains on."""
        return TrainingData(transform_graph, schema, splits, model_class.cold_items)

    def evaluation(self, data: TrainingData, split: str) -> Evaluation | None:
        """Returns the evaluation on a split, None where it has no queries."""
        queries = data.queries(split)
        return Evaluation(data, queries) if len(queries) else None

    def exporter(self, model: RetrieveModel[Any], data: TrainingData) -> Retriever:
        """Returns the module whose `export(folder)` writes the SavedModel."""
        return Retriever(model, data)

    def notes(self, model: RetrieveModel[Any]) -> dict[str, str]:
        """Returns what the training log says of the served model.

        It is `history`, see `RetrieveModel.session_based`.
        """
        return {"history": "session" if model.session_based else "added"}
