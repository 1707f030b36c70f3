"""A score model and what it needs to answer raw requests: the signatures of its SavedModel."""

from typing import Any, ClassVar

import tensorflow as tf

from models.contract.requests import save, signature
from models.contract.score import ScoreModel
from models.inputs.preprocessing import FIRST_TOKEN, UNKNOWN
from models.inputs.score_data import Inputs, ScoreData
from models.inputs.traced import traced
from models.measures import pointwise
from models.names import metrics
from models.names.features import ID

RECALLED = {"recall_score": tf.float32, "recall_source": tf.string}
"""What the first stage tells of a candidate, for a ranker whose events have such columns."""


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
