"""Logistic regression over one-hot and multi-hot fields, trained with FTRL-Proximal.

Cite: McMahan et al.: Ad Click Prediction: a View from the Trenches, KDD 2013.

    score = w0 + sum_i w_i x_i
            x: 1 for a single value, 1 / n for each of n values of a field
    n += g^2,  z += g - (sqrt(n) - sqrt(n_old)) / alpha w,
    w = 0 if |z| <= l1, else -(z - sign(z) l1) / ((beta + sqrt(n)) / alpha + l2)

Deviations: w0 is the log-odds of the train rate (for ratings, the train mean) plus a weight that is
learnt like the others; a share `unknown_rate` of train's ids and categories, .02 by default, is
made unknown, so that the weights of unknown values are learnt; gradients are means of mini-batches,
where the paper updates after every row; numbers are quantile buckets; the paper's systems work
(probabilistic feature inclusion, encoding of weights in few bits, subsampling of negatives) is left
out.
"""

import pydantic
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.score import ScoreModel
from models.inputs.fields import FieldRows
from models.inputs.score_data import Inputs, ScoreData
from models.names.hyper_parameters import Epochs, Forgetting, Gradient, Lists, SharedRows, Xla
from models.names.sizes import Parameters, Sizes
from models.training.optimizers import Ftrl


class HyperParameters(Epochs, Gradient, SharedRows, Xla, Forgetting, Lists):
    """Logistic regression's own: `learning_rate` is alpha.

    Attributes:
        beta: keeps the first steps of a weight small.
    """

    epochs: int = 30
    learning_rate: float = 0.05
    beta: float = pydantic.Field(1.0, ge=0)
    l1: float = pydantic.Field(0.0, ge=0)
    l2: float = pydantic.Field(0.0, ge=0)

    def parameters(self, sizes: Sizes) -> Parameters:
        return Parameters(sizes.sharing(self.hash_rows).field_rows + 1)


class LogisticRegression(ScoreModel[HyperParameters]):
    """A weight for every value of every field."""

    shards = True
    explains = "sum"

    def __init__(self, hyper_parameters: HyperParameters, data: ScoreData):
        super().__init__(hyper_parameters, data)
        self.rows = FieldRows(data.fields, hyper_parameters.hash_rows)
        self.weights_of = self.rows.embedding(1, 0.0, name="weights")
        # Added to the base rate, so that l1 and l2 draw the score to that and not to even odds.
        self.bias = self.add_weight(name="bias", shape=[], initializer="zeros")

    def learn(self, loop: Loop) -> None:
        own = self.hyper_parameters
        with loop.strategy.scope():
            optimizer = Ftrl(
                own.learning_rate, rows=own.batch_size, beta=own.beta, l1=own.l1, l2=own.l2
            )
        loop.fit(self, optimizer=optimizer)

    def score_rows(self, inputs: Inputs, training: bool = False) -> tf.Tensor:
        row, x = self.rows(inputs)
        return (
            self.initial_score + self.bias + tf.reduce_sum(self.weights_of(row)[..., 0] * x, axis=1)
        )

    def contributions(
        self, inputs: Inputs, left_out: dict[str, dict[str, int]]
    ) -> dict[str, tf.Tensor]:
        """The w_i x_i of a field."""
        row, x = self.rows(inputs)
        return self.rows.sums(self.weights_of(row)[..., 0] * x, inputs)


Model = LogisticRegression
