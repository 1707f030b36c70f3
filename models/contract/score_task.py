"""The task `Score`: what the Trainer asks of it, and validation while training."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from models.contract.score import ScoreModel
from models.contract.scorer import Scorer
from models.inputs.score_data import ScoreData
from models.inputs.traced import traced
from models.measures import lists, pointwise
from models.names import metrics
from models.names.label import GROUP, WEIGHT, Label

_EVALUATION_ROWS = 8192


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
