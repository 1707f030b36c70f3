"""YouTube's ranking: expected watch time by weighted logistic regression over a deep network.

Cite: Covington, Adams, Sargin: Deep Neural Networks for YouTube Recommendations, RecSys 2016.

    x      = [e_1; ...; e_c; q_1, q_1^2, sqrt(q_1); ...; q_n, q_n^2, sqrt(q_n)]
             e: embeddings of the fields, of many values their mean; 0 where a value is unknown
             q: quantiles of the numbers in [0, 1), fitted on train
    s      = W relu(... relu(W_1 x + b_1) ...) + b
    loss   = T softplus(-s) of an impression that was watched for T, softplus(s) of one that was not
    answer = exp(s), the learned odds: sum T / (N - k) of N impressions, k watched, about E[T]

The label is the watch time of an impression, 0 where it was not watched. Columns of one id space
(`shared`) have one table, and enter each by itself. An embedding is `embedding_scale` times the
logarithm of its vocabulary wide.

With clicks as labels there is no time to weigh by: positives and negatives weigh the same, and the
answer is a probability.

Deviations: `negatives: every` takes every impression for a negative too, whose odds are sum T / N,
E[T] itself, however many are watched. Times above `longest` weigh as that many, where it is set.
Answers are at most the longest watch time of train. The last bias starts at the train mean.
"""

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pydantic
import tensorflow as tf

from models.contract.score import ScoreModel
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.schema import Field
from models.inputs.score_data import Inputs, ScoreData
from models.inputs.token_layers import Mlp, TokenEmbedding
from models.names.errors import ConfigError, DataError
from models.names.features import NUMERIC
from models.names.hyper_parameters import Epochs, Gradient, LazyAdam, MixedPrecision, Xla
from models.names.sizes import ADDED, Parameters, Sizes, perceptron


class HyperParameters(Epochs, Gradient, LazyAdam, MixedPrecision, Xla):
    """YouTube ranking's own.

    `powers` feeds squares and roots of the quantiles; `shared` names columns whose values are of
    one id space, such as `[["item_id", "last_item_id"]]`.

    Attributes:
        embedding_scale: width of an embedding over the logarithm of its vocabulary.
        shared: groups of columns whose values are of one id space and have one table.
        powers: feed the squares and roots of numbers too.
        longest: longer watch times weigh as this many seconds; None: as they are.
    """

    epochs: int = 20
    hidden: tuple[pydantic.PositiveInt, ...] = (1024, 512, 256)
    dropout: float = pydantic.Field(0.0, ge=0, lt=1)
    embedding_scale: float = pydantic.Field(3.0, gt=0)
    shared: tuple[tuple[str, ...], ...] = ()
    powers: bool = True
    negatives: Literal["unwatched", "every"] = "unwatched"
    longest: float | None = pydantic.Field(None, gt=0)

    @pydantic.field_validator("shared")
    @classmethod
    def _each_once(cls, value: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        names = [name for group in value for name in group]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"a column has one table; {name!r} is named more than once")
        return value

    def named_columns(self) -> Iterator[tuple[str, str]]:
        yield from (("shared", name) for group in self.shared for name in group)

    def parameters(self, sizes: Sizes) -> Parameters:
        fields = {column.name: column for column in sizes.columns if column.kind != NUMERIC}
        powers = 3 if self.powers else 1
        inputs = powers * (len(sizes.columns) - len(fields))
        # Fields that share a space share its values: as many as the largest of them has.
        named = [[fields.pop(name) for name in group if name in fields] for group in self.shared]
        learnt = 0
        for group in (*filter(None, named), *([column] for column in fields.values())):
            values = max(column.values for column in group)
            width = max(1, round(self.embedding_scale * math.log(1 + values)))
            learnt, inputs = learnt + (values + ADDED) * width, inputs + width * len(group)
        return Parameters(learnt + perceptron(inputs, self.hidden, 1))


class YouTubeRanking(ScoreModel[HyperParameters]):
    """Orders impressions by the time that they are expected to be watched for."""

    reads_quantiles = True

    def __init__(self, hyper_parameters: HyperParameters, data: ScoreData):
        super().__init__(hyper_parameters, data)
        if not self.label.is_click and self.label_range[0] < 0:
            raise DataError(
                f"label.column {self.label.column!r}: required: watch times, 0 or more; the "
                f"smallest is {self.label_range[0]:g}"
            )
        self._fields = [field for field in data.fields if field.kind != NUMERIC]
        self._quantiles = list(data.quantiles.values())
        self._spaces = _spaces(self._fields, hyper_parameters.shared)
        self.tables = {
            name: TokenEmbedding(
                space.tokens,
                FIRST_TOKEN + len(space.tokens),
                max(1, round(hyper_parameters.embedding_scale * math.log(1 + len(space.tokens)))),
                name=name,
            )
            for name, space in self._spaces.items()
        }
        self.deep = Mlp(hyper_parameters.hidden, hyper_parameters.dropout, name="deep")
        self.output_layer = tf.keras.layers.Dense(
            1, bias_initializer=tf.keras.initializers.Constant(self.initial_score), name="output"
        )

    @property
    def initial_score(self) -> float:
        """The score that answers the train mean."""
        return (
            super().initial_score if self.label.is_click else math.log(max(self.label_mean, 1e-6))
        )

    def score_rows(self, inputs: Inputs, training: bool = False) -> tf.Tensor:
        hidden = self.deep(self.features(inputs), training=training)
        return tf.cast(self.output_layer(hidden)[:, 0], tf.float32)

    def features(self, inputs: Inputs) -> tf.Tensor:
        """[B, width] what the network reads; zeros of what is unknown or missing."""
        parts = []
        for name, space in self._spaces.items():
            for field, row_of in space.rows.items():
                row = tf.gather(row_of, inputs[field.name])
                known = tf.cast(row >= FIRST_TOKEN, tf.float32)[..., tf.newaxis]
                vectors = tf.cast(self.tables[name](row), tf.float32) * known
                if not field.single:
                    count = tf.reduce_sum(known, axis=1)
                    vectors = tf.math.divide_no_nan(tf.reduce_sum(vectors, axis=1), count)
                parts.append(vectors)
        for name in self._quantiles:
            value = inputs[name]
            powers = [value, value**2, tf.sqrt(value)] if self.hyper_parameters.powers else [value]
            parts.append(tf.stack(powers, axis=1))
        return tf.concat(parts, axis=1)

    def row_loss(self, label: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
        """[B] losses of watch times, 0 where an impression was not watched; or of clicks."""
        if self.label.is_click:
            return super().row_loss(label, score)
        own = self.hyper_parameters
        weight = label if own.longest is None else tf.minimum(label, own.longest)
        unwatched = 1.0 if own.negatives == "every" else tf.cast(label <= 0, tf.float32)
        return weight * tf.nn.softplus(-score) + unwatched * tf.nn.softplus(score)

    def predict_rows(self, inputs: Inputs) -> tf.Tensor:
        """Returns [B] float32 expected watch times, in the label's unit; or probabilities."""
        if self.label.is_click:
            return super().predict_rows(inputs)
        return tf.minimum(tf.exp(self.score_rows(inputs)), self.label_range[1])


class _Space:
    """An id space: its tokens, and for each of its fields the row of every index."""

    def __init__(self, fields: list[Field]):
        tokens = dict.fromkeys(token for field in fields for token in field.tokens)
        self.tokens = list(tokens)
        place = {token: FIRST_TOKEN + number for number, token in enumerate(self.tokens)}
        own = range(FIRST_TOKEN)
        self.rows = {
            field: tf.constant(
                np.array([*own, *(place[token] for token in field.tokens)], np.int32)
            )
            for field in fields
        }


def _spaces(fields: list[Field], shared: tuple[tuple[str, ...], ...]) -> dict[str, _Space]:
    by_name = {field.name: field for field in fields}
    for name in (name for group in shared for name in group):
        if name not in by_name:
            raise ConfigError(
                f"shared: required: fields of categories, which are {', '.join(by_name)}; received "
                f"{name!r}"
            )
    grouped = [group for group in shared if group]
    alone = [(name,) for name in by_name if not any(name in group for group in grouped)]
    return {group[0]: _Space([by_name[name] for name in group]) for group in (*grouped, *alone)}


Model = YouTubeRanking
