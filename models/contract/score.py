"""The task `Score`: a rating or a click probability for one row.

What all of its models share: loss, evaluation, signatures.
"""

from collections.abc import Callable
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from models.contract.recommender import H, Recommender, weighed
from models.contract.requests import save, signature
from models.inputs import sampling
from models.inputs.preprocessing import FIRST_TOKEN, UNKNOWN
from models.inputs.score_data import Inputs, ScoreData
from models.inputs.traced import traced
from models.measures import lists, pointwise
from models.names import metrics
from models.names.errors import ConfigError
from models.names.features import DOCUMENT, ID, NUMERIC, Feature
from models.names.hyper_parameters import Gradient
from models.names.label import GROUP, LABEL, WEIGHT, Label

HISTORY_LENGTH = 50
_EVALUATION_ROWS = 8192
_NO_FIELDS = {LABEL, WEIGHT, GROUP}
RECALLED = {"recall_score": tf.float32, "recall_source": tf.string}
"""What the first stage tells of a candidate, for a ranker whose events have such columns."""


class ScoreModel(Recommender[H]):
    """Base of the models that score one (user, item, context) row.

    A subclass builds its layers in `__init__(hyper_parameters, data)` from `data.fields` and writes
    `score_rows`. Squared error of ratings or log loss of clicks, whichever the run is about, is the
    loss, plus what `penalty` returns; a paper with another loss writes `row_loss`, or
    `compute_loss` around `example_losses`, one with other train rows `batches`, one with a
    procedure of its own `learn`.

    Attributes:
        reads_quantiles: the model reads numbers as such beside their buckets: the inputs then have
            `data.quantiles`, field -> the name of its quantile, a float32 in [0, 1).
        reads_history: what the model reads beside the items of the user's history, of
            `models.names.features.HISTORY_COLUMNS`: indices, such as `event_types`. Its runs carry
            the last `HISTORY_LENGTH` events before each row, and requests may tell theirs; the
            inputs then have them, see `models.inputs.score_data`.
        label: what the run predicts; `label.is_click` chooses loss and link.
        list_loss: how the order of a group's rows is learnt; None: each row is by itself.
        explains: how `contributions` says what carried a score, of
            `models.names.registry.EXPLANATIONS`; the registry says it too.
        label_mean: the mean train label.
        label_range: the smallest and the largest train label, to which ratings are clipped.
    """

    reads_quantiles: ClassVar[bool] = False
    reads_history: ClassVar[tuple[str, ...]] = ()
    explains: ClassVar[str] = "difference"

    @classmethod
    def carries(cls) -> dict[str, Any]:
        """Returns what built rows carry for the model, as `components.build.config` calls it."""
        if not cls.reads_history:
            return {}
        return {"history": list(cls.reads_history), "row_history": HISTORY_LENGTH}

    @staticmethod
    def reads(feature: Feature) -> bool:
        """Returns whether a feature is a field of the model, besides `user_id` and `item_id`.

        It is asked about every feature and, where there are reviews, about the documents
        (`features.DOCUMENTS`).
        """
        return feature.kind != DOCUMENT

    @classmethod
    def check_label(cls, label: Label, list_loss: str | None = None) -> None:
        """Raises ConfigError where the label and the model, or its loss, do not fit together."""
        label.check_lists(list_loss)
        if label.weight and not cls.weighs_rows:
            raise ConfigError(
                f"label.weight: {cls.__name__} cannot weigh its train rows; received "
                f"{label.weight!r}"
            )

    def __init__(self, hyper_parameters: H, data: ScoreData):
        super().__init__(hyper_parameters, data)
        self.list_loss = hyper_parameters.setting("list_loss")
        self.check_label(data.label, self.list_loss)
        if self.list_loss and hyper_parameters.setting("jit_compile"):
            raise ConfigError(
                "jit_compile: lists of any length cannot be compiled by XLA; required: "
                f"jit_compile: false with list_loss: {self.list_loss}"
            )
        self.label = data.label
        self.label_mean = data.label_mean
        self.label_range = data.label_range

    @property
    def initial_score(self) -> float:
        """The score that answers the train mean: where a bias starts."""
        if not self.label.is_click:
            return self.label_mean
        share = min(max(self.label_mean, 1e-6), 1 - 1e-6)
        return float(np.log(share / (1 - share)))

    def score_rows(self, inputs: Inputs, training: bool = False) -> tf.Tensor:
        """Returns [B] scores of rows: the log-odds of a click, or a rating."""
        raise NotImplementedError(f"{type(self).__name__} must define score_rows()")

    @property
    def folds_in(self) -> bool:
        """Whether the model scores for users of whom it gets ratings and nothing else."""
        return False

    def fold_in(self, item: tf.Tensor, rated: tf.Tensor, rating: tf.Tensor) -> tf.Tensor:
        """Returns [B, C] scores, like `score_rows`, for users whom train has not seen.

        Args:
            item: [B, C] int64 indices; 1 for items that train has not seen.
            rated: [B, H] int64 indices of what the users have rated, each once; 0 for none.
            rating: [B, H] float32 labels on the scale of train; 0 for none.
        """
        raise NotImplementedError(f"{type(self).__name__} must define fold_in()")

    def contributions(
        self, inputs: Inputs, left_out: dict[str, dict[str, int]]
    ) -> dict[str, tf.Tensor]:
        """Returns what the fields of rows carry of their scores, on the scale of `score_rows`.

        Here that is what the score loses without the field. A model whose score is a sum over
        fields writes the parts, and says so in `explains`.

        Args:
            inputs: B rows.
            left_out: as of `ScoreData.left_out`.

        Returns:
            Each of its fields -> [B] float32.
        """
        # All variants at once: the graph does not grow with the fields.
        count = 1 + len(left_out)
        variants = {}
        for name, column in inputs.items():
            rows = [
                tf.fill(tf.shape(column), tf.cast(without[name], column.dtype))
                if name in without
                else column
                for without in left_out.values()
            ]
            variants[name] = tf.concat([column, *rows], axis=0)
        scores = tf.cast(self.score_rows(variants), tf.float32)
        whole, *others = tf.unstack(tf.reshape(scores, [count, -1]))
        return {name: whole - other for name, other in zip(left_out, others, strict=True)}

    def prepare(self) -> None:
        """Computes what `score_rows` needs of all users or items, such as their codes.

        It is called before an evaluation and the export.
        """

    def penalty(self, inputs: Inputs) -> tf.Tensor | float:
        """Returns what regularisation adds to the loss of a batch, a scalar."""
        return 0.0

    def predict_rows(self, inputs: Inputs) -> tf.Tensor:
        """Returns [B] float32 predictions: probabilities, or ratings within the range of train."""
        return self.link(self.score_rows(inputs))

    def link(self, score: tf.Tensor) -> tf.Tensor:
        """Maps scores of any shape to float32 predictions.

        Of a model that learnt an order of grades they are the scores: only their order means
        something, which a range would cut.
        """
        score = tf.cast(score, tf.float32)
        if self.label.is_click:
            return tf.sigmoid(score)
        return score if self.list_loss else tf.clip_by_value(score, *self.label_range)

    def batches(  # type: ignore[override]  # a task has one kind of data
        self, data: ScoreData, seed: int, first_epoch: int
    ) -> sampling.Batches:
        """The train rows: `label` and the fields; whole groups where the loss is of lists.

        A share `unknown_rate` of ids and categories is made unknown.
        """
        names = [field.name for field in data.fields if field.single and field.kind != NUMERIC]
        rate = self.hyper_parameters.setting("unknown_rate")

        def prepared(batch: dict[str, Any]) -> Inputs:
            seeds = sampling.split(batch.pop("step_seed"), max(len(names), 1))
            inputs = {name: _as_input(column) for name, column in batch.items()}
            for number, name in enumerate(names):
                forgotten = sampling.forget_some(inputs[name], rate, seeds[number])
                inputs[name] = tf.where(inputs[name] >= FIRST_TOKEN, forgotten, inputs[name])
            return inputs

        size = cast(Gradient, self.hyper_parameters).batch_size
        columns = {name: column for name, column in data.train.items() if name != GROUP}
        if self.list_loss:
            batches = sampling.group_batches(columns, data.train[GROUP], size, seed, first_epoch)
        else:
            batches = sampling.shuffled_batches(columns, size, seed, first_epoch)
        return batches.map(prepared)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The mean loss of a batch of `batches`."""
        fields = {name: column for name, column in inputs.items() if name not in _NO_FIELDS}
        score = tf.cast(self.score_rows(fields, training=training), tf.float32)
        return tf.reduce_mean(self.example_losses(inputs, score)) + self.penalty(fields)

    def example_losses(self, inputs: dict[str, tf.Tensor], score: tf.Tensor) -> tf.Tensor:
        """What [B] rows of a batch lose by their [B] scores, weighted as the run says.

        That is `row_loss`, or the loss of the lists that they are in. Every loss of a `score` model
        begins here, so that none forgets weights and lists.
        """
        if self.list_loss:
            score = tf.cast(score, tf.float32)
            loss = lists.LOSSES[self.list_loss](inputs[LABEL], score, inputs[GROUP])
        else:
            loss = self.row_loss(inputs[LABEL], score)
        return weighed(inputs, loss)

    def row_loss(self, label: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
        """[B] log loss of clicks or squared error of ratings."""
        if self.label.is_click:
            return tf.nn.sigmoid_cross_entropy_with_logits(labels=label, logits=score)
        return tf.math.squared_difference(label, score)


class Scorer(tf.Module):
    """A model with all that it needs to answer raw requests.

    That is the transforms, and the train mean to stand beside.

    Attributes:
        notes: what the training log says of what is exported.
    """

    notes: ClassVar[dict[str, Any]] = {}

    def __init__(self, model: ScoreModel[Any], data: ScoreData):
        super().__init__()
        model.prepare()
        self._model = model
        self._data = data
        self._transforms = data.transform_layer
        self._user_table, self._item_table = data.user_table, data.item_table
        self._histories = data.histories  # so that its tables are saved
        self._known = {field.name: field.size for field in data.fields if field.kind == ID}
        self._mean = tf.constant(data.label_mean, tf.float32)
        # What the signatures have in common is traced once; an attribute that is a function would
        # be traced again to be saved.
        self._transform_raw = traced(
            data.transform_raw, input_signature=[data.raw_signature()]
        ).__call__
        self._predict = traced(
            model.predict_rows, input_signature=[data.input_signature()]
        ).__call__
        self._reasons = traced(
            self._find_reasons, input_signature=[data.input_signature()]
        ).__call__

    def store_in_int8(self, smallest: int) -> None:
        """Does nothing: it has no table beside the model's."""

    def score(self, raw: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The `score` signature: raw features by name -> `score` [B] float32 and `strategy` [B]."""
        return self._answer(self._transform_raw(raw))

    def score_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """The same for serialized tf.Examples, where any feature may be left out."""
        return self._answer(self._data.parse(examples)[0])

    def score_explained(self, raw: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The `score_explained` signature: `score`, and what carried it.

        Returns:
            As `score`; and of the F fields, those first that moved the score most, `reason` [B, F]
            strings, their names, and `weight` [B, F] float32, on the scale of log-odds or ratings;
            `basis` [B], of `models.names.registry.EXPLANATIONS`.
        """
        inputs = self._transform_raw(raw)
        return {**self._answer(inputs), **self._reasons(inputs)}

    def explain(
        self, user_id: tf.Tensor, item_id: tf.Tensor, **told: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The `explain` signature: what carries the scores of `rank`, or of `rank_told`.

        Args:
            user_id: as of `rank`, which has the others too.
            item_id: [B, C].
            told: as of `rank_told`, where there is that.

        Returns:
            As `score_explained`: `reason` and `weight` [B, C, F], `basis` [B, C], all of them empty
            where there is no item; and `known` [B], as of `rank`.
        """
        inputs, known = self._rows_of(user_id, item_id, *self._told(told))
        why, there = self._reasons(inputs), item_id != ""
        shape = tf.concat([tf.shape(item_id), tf.shape(why["weight"])[1:]], axis=0)
        reason, weight = (tf.reshape(why[name], shape) for name in ("reason", "weight"))
        return {
            "reason": tf.where(there[..., tf.newaxis], reason, ""),
            "weight": tf.where(there[..., tf.newaxis], weight, 0.0),
            "basis": tf.where(there, self._model.explains, ""),
            "known": known,
        }

    def _find_reasons(self, inputs: Inputs) -> dict[str, tf.Tensor]:
        left_out = self._data.left_out
        parts = self._model.contributions(inputs, left_out)
        weights = tf.stack([tf.cast(parts[name], tf.float32) for name in left_out], axis=1)
        order = tf.argsort(-tf.abs(weights), axis=1, stable=True)
        return {
            "reason": tf.gather(tf.constant(list(left_out)), order),
            "weight": tf.gather(weights, order, batch_dims=1),
            "basis": tf.fill(tf.shape(weights)[:1], self._model.explains),
        }

    def rank(
        self, user_id: tf.Tensor, item_id: tf.Tensor, **told: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The `rank` signature, the second of two stages.

        The features come from the tables of users and items; context is missing. `rank_told` is the
        same with all that is `told`.

        Args:
            user_id: [B] strings.
            item_id: [B, C] strings, "" for none.
            told: the context of the requests, [B] (or [B, L]) raw values by the names of
                `ScoreData.context_fields`; their histories, [B, H] by those of `history_names`; and
                of the first stage `RECALLED`, [B, C].

        Returns:
            `score` [B, C] float32, and `known` [B] bool: whether train has seen the user.
        """
        return self._ranked(user_id, item_id, *self._told(told))

    def rank_examples(
        self, examples: tf.Tensor, item_id: tf.Tensor, **recalled: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The `rank_examples` signature: `rank_told` with the context of serialized requests."""
        spec = {"user_id": tf.io.FixedLenFeature([], tf.string, default_value="")}
        user_id = tf.io.parse_example(examples, spec)["user_id"]
        inputs, _, _ = self._data.parse(examples)
        names = [*self._data.history_names, *(field.name for field in self._data.context_fields)]
        names += [self._data.quantiles[name] for name in names if name in self._data.quantiles]
        return self._ranked(user_id, item_id, {name: inputs[name] for name in names}, recalled)

    def _told(self, told: Inputs) -> tuple[Inputs, Inputs]:
        """The context and history of requests as inputs, and what the first stage tells."""
        raw = {name: value for name, value in told.items() if name not in RECALLED}
        context = self._data.context_inputs(raw) | self._data.history_inputs(raw)
        return context, {name: told[name] for name in RECALLED if name in told}

    def _ranked(
        self, user_id: tf.Tensor, item_id: tf.Tensor, context: Inputs, recalled: Inputs
    ) -> dict[str, tf.Tensor]:
        inputs, known = self._rows_of(user_id, item_id, context, recalled)
        score = tf.reshape(self._predict(inputs), tf.shape(item_id))
        return {"score": score, "known": known}

    def _rows_of(
        self, user_id: tf.Tensor, item_id: tf.Tensor, context: Inputs, recalled: Inputs
    ) -> tuple[Inputs, tf.Tensor]:
        """The B x C rows of pairs, and [B] bool: whether train has seen the user."""
        user, item = self._user_table.lookup(user_id), self._item_table.lookup(item_id)
        count = tf.fill(tf.shape(user), tf.shape(item)[1])
        inputs = self._data.lookup(tf.repeat(user, count), tf.reshape(item, [-1]))
        inputs |= {name: tf.repeat(value, count, axis=0) for name, value in context.items()}
        flat = {name: tf.reshape(value, [-1]) for name, value in recalled.items()}
        inputs |= self._data.context_inputs(flat)
        return inputs, self._data.users.in_train(user)

    def fold_in(
        self, item_id: tf.Tensor, history: tf.Tensor, rating: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The `fold_in` signature of a model that folds in: for users whom train has not seen.

        Args:
            item_id: [B, C] strings, what to score.
            history: [B, H] strings, what the users have rated, "" for none. Of several ratings of
                an item the last stands; items that train has not seen are left out.
            rating: [B, H] float32, NaN for none.

        Returns:
            `score` [B, C] float32, and `strategy` [B]: `fold-in`, or `cold` without any rating.
        """
        item, rated = (
            tf.where(self._data.items.in_train(index), index, UNKNOWN)
            for index in map(self._item_table.lookup, (item_id, history))
        )
        rated = tf.where((rated == UNKNOWN) | tf.math.is_nan(rating), tf.zeros_like(rated), rated)
        again = rated[:, :, tf.newaxis] == rated[:, tf.newaxis, :]
        later = tf.range(tf.shape(rated)[1])[:, tf.newaxis] < tf.range(tf.shape(rated)[1])
        last = (rated > 0) & ~tf.reduce_any(again & later, axis=2)
        rated, rating = (tf.where(last, value, tf.zeros_like(value)) for value in (rated, rating))
        return {
            "score": self._model.link(self._model.fold_in(item, rated, rating)),
            "strategy": tf.where(tf.reduce_any(last, axis=1), "fold-in", "cold"),
        }

    def evaluate(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """The `evaluate` signature: metrics, and the `prediction` itself.

        Maps [B] serialized rows -> metric name -> [B, 1] float32.
        """
        inputs, label, _ = self._data.parse(examples)
        prediction = self._predict(inputs)
        values = pointwise.row_metrics(label, prediction, self._mean, self._data.label.is_click)
        return {
            name: value[:, tf.newaxis]
            for name, value in {metrics.PREDICTION: prediction, **values}.items()
        }

    def export(self, folder: str) -> None:
        """Writes the SavedModel with all signatures."""
        examples = tf.TensorSpec([None], tf.string, name="examples")
        pairs = {
            "user_id": tf.TensorSpec([None], tf.string, name="user_id"),
            "item_id": tf.TensorSpec([None, None], tf.string, name="item_id"),
        }
        score = signature(lambda **raw: self.score(raw), **self._data.raw_signature())
        signatures = {
            "serving_default": score,
            "score": score,
            "score_examples": traced(self.score_examples).get_concrete_function(examples),
            "evaluate": traced(self.evaluate).get_concrete_function(examples),
            "rank": signature(self.rank, **pairs),
            "score_explained": signature(
                lambda **raw: self.score_explained(raw), **self._data.raw_signature()
            ),
        }
        told: dict[str, tf.TensorSpec] = {}
        if self._data.context_fields or self._data.history_names:
            recalled = {
                name: tf.TensorSpec([None, None], kind, name=name)
                for name, kind in RECALLED.items()
            }
            raw = self._data.raw_signature()
            told = {field.name: raw[field.name] for field in self._data.context_fields} | recalled
            told |= self._data.history_signature()
            signatures["rank_told"] = signature(self.rank, **pairs, **told)
            signatures["rank_examples"] = signature(
                self.rank_examples, examples=examples, item_id=pairs["item_id"], **recalled
            )
        signatures["explain"] = signature(self.explain, **pairs, **told)
        if self._model.folds_in:
            rated = {"history": tf.string, "rating": tf.float32}
            signatures["fold_in"] = signature(
                self.fold_in,
                item_id=pairs["item_id"],
                **{name: tf.TensorSpec([None, None], kind, name) for name, kind in rated.items()},
            )
        save(self, folder, signatures)

    def _answer(self, inputs: Inputs) -> dict[str, tf.Tensor]:
        prediction = self._predict(inputs)
        known = tf.ones_like(prediction, tf.bool)
        for name in self._known:
            known &= inputs[name] >= FIRST_TOKEN
        return {"score": prediction, "strategy": tf.where(known, "model", "cold")}


class Evaluation:
    """Metrics of a model on fixed rows, for validation while training.

    Args:
        data: the training data (for its transforms).
        examples: [N] serialized rows.
        split: what the rows are called in an error.
    """

    def __init__(self, data: ScoreData, examples: npt.NDArray[np.object_], split: str = "valid"):
        self.metrics = metrics.of("score", data.label)
        self._label = data.label
        self._signature = data.input_signature()
        self._mean = tf.constant(data.label_mean, tf.float32)
        parse = traced(data.parse, input_signature=[tf.TensorSpec([None], tf.string)])
        starts = range(0, len(examples), _EVALUATION_ROWS)
        parsed = [
            parse(tf.constant(examples[start : start + _EVALUATION_ROWS], tf.string))
            for start in starts
        ]
        self._inputs = [inputs for inputs, _, _ in parsed]
        self._labels = tf.concat([labels for _, labels, _ in parsed], axis=0)
        self._users = tf.concat([users for _, _, users in parsed], axis=0)
        self._beside = data.beside(tf.constant(examples, tf.string))
        data.check_labels(self._labels.numpy(), split)

    def of(
        self, model: ScoreModel[Any], exporter: Scorer | None = None
    ) -> Callable[[], dict[str, float]]:
        """Returns a function that evaluates `model` as it then is: () -> {metric: value}.

        What serves it, the `exporter`, has no table beside the model's.
        """
        predict = traced(model.predict_rows, input_signature=[self._signature])
        measure = traced(self._measure)

        def evaluate() -> dict[str, float]:
            model.prepare()
            prediction = tf.concat([predict(inputs) for inputs in self._inputs], axis=0)
            return metrics.with_roots(
                {name: float(value) for name, value in measure(prediction).items()}
            )

        return evaluate

    def _measure(self, prediction: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = pointwise.row_metrics(self._labels, prediction, self._mean, self._label.is_click)
        weight = self._beside.get(WEIGHT, tf.ones_like(self._labels))
        values = {
            name: tf.reduce_sum(tf.cast(weight * value, tf.float64))
            / tf.reduce_sum(tf.cast(weight, tf.float64))
            for name, value in rows.items()
        }
        if self._label.is_click:
            values |= pointwise.click_metrics(self._labels, prediction, self._users, weight)
        if GROUP in self._beside:
            group = self._beside[GROUP]
            values |= lists.group_metrics(self._labels, prediction, group, weight)
        return values


class ScoreTask:
    """What the Trainer asks of the task; see `models.contract.tasks`."""

    name = "score"

    def __init__(self, label: Label):
        self.label = label
        self.metrics = metrics.of(self.name, label)

    def load(
        self,
        model_class: type[ScoreModel[Any]],
        transform_graph: str,
        schema: str,
        splits: dict[str, str],
    ) -> ScoreData:
        """Returns what a model of the class trains on.

        Raises:
            ConfigError: the model has no use for what the label says.
        """
        model_class.check_label(self.label)
        return ScoreData(
            transform_graph,
            schema,
            splits,
            self.label,
            model_class.reads,
            model_class.reads_quantiles,
            model_class.reads_history,
        )

    def evaluation(self, data: ScoreData, split: str) -> Evaluation | None:
        """Returns the evaluation on a split, None where it has no rows."""
        examples = data.queries(split)
        return Evaluation(data, examples, split) if len(examples) else None

    def exporter(self, model: ScoreModel[Any], data: ScoreData) -> Scorer:
        """Returns the module whose `export(folder)` writes the SavedModel."""
        return Scorer(model, data)

    def notes(self, model: ScoreModel[Any]) -> dict[str, str]:
        """Returns what the training log says of the served model: nothing."""
        return {}


def _as_input(column: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
    dense = column.to_tensor() if isinstance(column, tf.RaggedTensor) else column
    return tf.cast(dense, tf.int32) if dense.dtype.is_integer else dense
