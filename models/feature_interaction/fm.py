"""Factorization machine of degree two, over all values of all fields.

Cite: Rendle: Factorization Machines, ICDM 2010.

    score = w0 + sum_i w_i x_i + sum_{i < j} <v_i, v_j> x_i x_j
            x: 1 for a single value, 1 / n for each of n values
    sum_{i < j} <v_i, v_j> x_i x_j = 1/2 sum_f [ (sum_i v_if x_i)^2 - sum_i v_if^2 x_i^2 ]
            linear in the values

Pairs within a multi-valued field count, as in the paper; the same x stands in both terms.
`l2_linear` and `l2_factors` are the paper's separate regularisation of w and V, taken of the rows
that a batch uses.

Deviations: trained with Adam in mini-batches rather than by SGD, alternating least squares or MCMC;
w0 starts at the train mean (for clicks, its log-odds); numbers are quantile buckets, values of
their own; a share `unknown_rate` of train's ids and categories, .02 by default, is made unknown, so
that the rows of unknown values are trained.
"""

import pydantic
import tensorflow as tf

from models.contract.score import ScoreModel
from models.inputs.fields import FieldRows, row_penalty
from models.inputs.score_data import Inputs, ScoreData
from models.names.hyper_parameters import (
    Epochs,
    Forgetting,
    Gradient,
    LazyAdam,
    Lists,
    RowState,
    SharedRows,
    Xla,
)
from models.names.sizes import Parameters, Sizes


class HyperParameters(Epochs, Gradient, SharedRows, RowState, LazyAdam, Xla, Forgetting, Lists):
    """The machine's own: `factors` is k of the paper.

    Attributes:
        l2_linear: weight of the squared linear weights of a batch's rows in the loss.
        l2_factors: the same of their factors.
    """

    epochs: int = 40
    learning_rate: float = 2e-3
    factors: int = pydantic.Field(10, ge=1)
    stddev: float = pydantic.Field(0.01, gt=0)
    l2_linear: float = pydantic.Field(1e-4, ge=0)
    l2_factors: float = pydantic.Field(1e-3, ge=0)

    def parameters(self, sizes: Sizes) -> Parameters:
        return Parameters(sizes.sharing(self.hash_rows).field_rows * (1 + self.factors) + 1)


class FactorizationMachine(ScoreModel[HyperParameters]):
    """A weight and a vector for every value of every field."""

    shards = True
    explains = "sum"

    def __init__(self, hyper_parameters: HyperParameters, data: ScoreData):
        super().__init__(hyper_parameters, data)
        self.rows = FieldRows(data.fields, hyper_parameters.hash_rows)
        self.linear = self.rows.embedding(1, 0.0, name="linear")
        self.factors = self.rows.embedding(
            hyper_parameters.factors, hyper_parameters.stddev, name="factors"
        )
        self.bias = self.add_weight(
            name="bias", shape=[], initializer=tf.keras.initializers.Constant(self.initial_score)
        )

    def score_rows(self, inputs: Inputs, training: bool = False) -> tf.Tensor:
        return self._score(*self._look_up(inputs))

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        linear, factors, x = self._look_up(inputs)
        loss = tf.reduce_mean(self.example_losses(inputs, self._score(linear, factors, x)))
        own = self.hyper_parameters
        return (
            loss + own.l2_linear * row_penalty(linear, x) + own.l2_factors * row_penalty(factors, x)
        )

    def contributions(
        self, inputs: Inputs, left_out: dict[str, dict[str, int]]
    ) -> dict[str, tf.Tensor]:
        """The w_i x_i of a field, and half of every pair that it is in."""
        linear, factors, x = self._look_up(inputs)
        weighted = factors * x
        others = tf.reduce_sum(weighted, axis=1, keepdims=True) - weighted
        pairs = 0.5 * tf.reduce_sum(weighted * others, axis=2)
        return self.rows.sums((linear * x)[..., 0] + pairs, inputs)

    def _look_up(self, inputs):
        row, x = self.rows(inputs)
        return self.linear(row), self.factors(row), x[..., tf.newaxis]

    def _score(self, linear, factors, x):
        return self.bias + tf.reduce_sum(linear * x, axis=[1, 2]) + pair_sum(factors * x)


def pair_sum(weighted: tf.Tensor) -> tf.Tensor:
    """[B, n, k] vectors v_i x_i -> [B] sum over i < j of their dot products.

    Takes time linear in n.
    """
    return 0.5 * tf.reduce_sum(
        tf.reduce_sum(weighted, axis=1) ** 2 - tf.reduce_sum(weighted**2, axis=1), axis=1
    )


Model = FactorizationMachine
