"""The task `Score`: a rating or a click probability for one row.

What all of its models share.
"""

from typing import Any, ClassVar, cast

import numpy as np
import tensorflow as tf

from models.contract.recommender import H, Recommender, weighed
from models.inputs import sampling
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.score_data import Inputs, ScoreData
from models.measures import lists
from models.names.errors import ConfigError
from models.names.features import DOCUMENT, NUMERIC, Feature
from models.names.hyper_parameters import Gradient
from models.names.label import GROUP, LABEL, WEIGHT, Label

HISTORY_LENGTH = 50
_NO_FIELDS = {LABEL, WEIGHT, GROUP}


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


def _as_input(column: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
    dense = column.to_tensor() if isinstance(column, tf.RaggedTensor) else column
    return tf.cast(dense, tf.int32) if dense.dtype.is_integer else dense
