"""DeepFM: a factorization machine and a deep network on one and the same embedding table.

Cite: Guo, Tang, Ye, Li, He: DeepFM: A Factorization-Machine based Neural Network for CTR
Prediction, IJCAI 2017.

    y_FM  = <w, x> + sum_{i < j} <e_i, e_j>
            e_i: embedding of field i; of many values their mean
    y_DNN = W_out relu(... relu(W_1 [e_1; ...; e_m] + b_1) ...) + b_out
    score = y_FM + y_DNN
            summed with coefficient 1, trained together without pre-training

Deviations: numbers are quantile buckets with an embedding each, where the paper multiplies one
embedding by the value; L2 of the rows that a batch uses, which the paper does not state; the last
bias starts at the train mean (for clicks, its log-odds); a share `unknown_rate` of train's ids and
categories, .02 by default, is made unknown, so that the rows of unknown values are trained.
"""

import pydantic
import tensorflow as tf

from models.contract.score import ScoreModel
from models.feature_interaction.fm import pair_sum
from models.inputs.fields import FieldRows, row_penalty
from models.inputs.score_data import Inputs, ScoreData
from models.inputs.token_layers import Mlp
from models.names.hyper_parameters import (
    Epochs,
    Forgetting,
    Gradient,
    LazyAdam,
    Lists,
    MixedPrecision,
    RowState,
    SharedRows,
    Xla,
)
from models.names.sizes import Parameters, Sizes, perceptron


class HyperParameters(
    Epochs, Gradient, SharedRows, RowState, LazyAdam, MixedPrecision, Xla, Forgetting, Lists
):
    """DeepFM's own: `factors` is k of the paper, `hidden` the deep component."""

    epochs: int = 30
    factors: int = pydantic.Field(10, ge=1)
    hidden: tuple[pydantic.PositiveInt, ...] = (400, 400, 400)
    dropout: float = pydantic.Field(0.5, ge=0, lt=1)
    stddev: float = pydantic.Field(0.01, gt=0)
    l2: float = pydantic.Field(1e-4, ge=0)

    def parameters(self, sizes: Sizes) -> Parameters:
        inputs = len(sizes.columns) * self.factors
        deep = perceptron(inputs, self.hidden, 1)
        return Parameters(sizes.sharing(self.hash_rows).field_rows * (1 + self.factors) + deep)


class DeepFM(ScoreModel[HyperParameters]):
    """Low-order interactions by a factorization machine, high-order ones by a network."""

    shards = True

    def __init__(self, hyper_parameters: HyperParameters, data: ScoreData):
        super().__init__(hyper_parameters, data)
        self.rows = FieldRows(data.fields, hyper_parameters.hash_rows)
        self.linear = self.rows.embedding(1, 0.0, name="linear")
        self.factors = self.rows.embedding(
            hyper_parameters.factors, hyper_parameters.stddev, name="factors"
        )
        self.deep = Mlp(hyper_parameters.hidden, hyper_parameters.dropout, name="deep")
        self.output_layer = tf.keras.layers.Dense(
            1, bias_initializer=tf.keras.initializers.Constant(self.initial_score), name="output"
        )

    def score_rows(self, inputs: Inputs, training: bool = False) -> tf.Tensor:
        return sum(self.components(inputs, *self._look_up(inputs), training))

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        linear, factors, x = self._look_up(inputs)
        score = sum(self.components(inputs, linear, factors, x, training))
        penalty = row_penalty(linear, x) + row_penalty(factors, x)
        return (
            tf.reduce_mean(self.example_losses(inputs, score)) + self.hyper_parameters.l2 * penalty
        )

    def components(self, inputs, linear, factors, x, training=False):
        """Returns the two [B] parts of the score: y_FM and y_DNN."""
        fields = self.rows.pool(factors * x, inputs)
        machine = tf.reduce_sum(linear * x, axis=[1, 2]) + pair_sum(fields)
        flat = tf.reshape(fields, [-1, len(self.rows.fields) * self.hyper_parameters.factors])
        return machine, tf.cast(
            self.output_layer(self.deep(flat, training=training))[:, 0], tf.float32
        )

    def _look_up(self, inputs):
        row, x = self.rows(inputs)
        return self.linear(row), self.factors(row), x[..., tf.newaxis]


Model = DeepFM
