"""Biased matrix factorisation for ratings, by stochastic gradient descent.

Cite: Koren, Bell, Volinsky: Matrix Factorization Techniques for Recommender Systems, IEEE Computer
2009.

    r = mu + b_u + b_i + p_u . q_i
    loss of one rating = 1/2 [ (r_ui - r)^2 + l2 (b_u^2 + b_i^2 + |p_u|^2 + |q_i|^2) ]

Every rating regularises its own user and item, so a row decays as often as it is learnt. mu is the
train mean. An unknown user or item adds nothing: its bias and vector are zero, and stay so. For a
user whom train has not seen, ratings that come with a request are folded in: the b_u and p_u that
minimise their loss, the items as they are, by the normal equations.

Deviations: steps are taken for `batch_size` ratings at once, each at the full learning rate, where
the paper goes one by one. For clicks the same score is a log-odds, with log loss.
"""

import pydantic
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.score import ScoreModel
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.score_data import Inputs, ScoreData
from models.inputs.token_layers import TokenEmbedding
from models.names.features import Feature
from models.names.hyper_parameters import Epochs, Forgetting, Gradient, Xla
from models.names.sizes import Parameters, Sizes


class HyperParameters(Epochs, Gradient, Xla, Forgetting):
    """Biased MF's own. `learning_rate` is that of a single rating."""

    epochs: int = 60
    batch_size: int = 256
    learning_rate: float = 0.01
    unknown_rate: float = 0.0
    factors: int = pydantic.Field(100, ge=1)
    l2: float = pydantic.Field(0.08, ge=0)
    stddev: float = pydantic.Field(0.1, gt=0)

    def parameters(self, sizes: Sizes) -> Parameters:
        width = 1 + self.factors
        return Parameters(sizes.table("user", width) + sizes.table("item", width), slots=0)


class BiasedMF(ScoreModel[HyperParameters]):
    """A bias and a vector for every user and item."""

    sums_loss = True
    explains = "sum"

    @staticmethod
    def reads(feature: Feature) -> bool:
        return False

    def __init__(self, hyper_parameters: HyperParameters, data: ScoreData):
        super().__init__(hyper_parameters, data)
        # One table a side, the bias in its first column: one look-up and one sparse update.
        self.users, self.items = (self._table(data.field(name)) for name in ("user_id", "item_id"))

    def learn(self, loop: Loop) -> None:
        # The loss is divided by the batch size, so that it can be read; the rate makes good for it.
        rate = self.hyper_parameters.learning_rate * self.hyper_parameters.batch_size
        with loop.strategy.scope():
            optimizer = tf.keras.optimizers.SGD(rate)
        loop.fit(self, optimizer=optimizer)

    def score_rows(self, inputs: Inputs, training: bool = False) -> tf.Tensor:
        return self._score(*self._look_up(inputs))

    def contributions(
        self, inputs: Inputs, left_out: dict[str, dict[str, int]]
    ) -> dict[str, tf.Tensor]:
        """A bias, and half of the product."""
        user, item = self._look_up(inputs)
        half = 0.5 * tf.reduce_sum(user[:, 1:] * item[:, 1:], axis=1)
        return {"user_id": user[:, 0] + half, "item_id": item[:, 0] + half}

    @property
    def folds_in(self) -> bool:
        return not self.label.is_click  # log loss has no closed form

    def fold_in(self, item: tf.Tensor, rated: tf.Tensor, rating: tf.Tensor) -> tf.Tensor:
        present = tf.cast(rated > 0, tf.float32)[..., tf.newaxis]
        # With a 1 in the place of the item's bias, the user's bias is a factor like the others.
        known, bias = self._factors(rated)
        known *= present
        rest = (rating[..., tf.newaxis] - bias - self.initial_score) * present
        # Every rating regularises; a little is left where there is none, or no l2.
        ridge = tf.maximum(self.hyper_parameters.l2 * tf.reduce_sum(present, axis=1), 1e-6)
        left = tf.matmul(known, known, transpose_a=True)
        left = tf.linalg.set_diag(left, tf.linalg.diag_part(left) + ridge)
        right = tf.matmul(known, rest, transpose_a=True)
        user = tf.linalg.cholesky_solve(tf.linalg.cholesky(left), right)
        factors, bias = self._factors(item)
        return self.initial_score + (bias + tf.matmul(factors, user))[..., 0]

    def _factors(self, item):
        """Of items [B, L]: a one and the vector, [B, L, 1 + factors], and the bias, [B, L, 1]."""
        row = self._known_rows(self.items, item)
        return tf.concat([tf.ones_like(row[..., :1]), row[..., 1:]], axis=-1), row[..., :1]

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        user, item = self._look_up(inputs)
        loss = self.example_losses(inputs, self._score(user, item))
        loss = loss if self.label.is_click else 0.5 * loss
        penalty = 0.5 * self.hyper_parameters.l2 * tf.reduce_sum(user**2 + item**2, axis=1)
        # Not the mean: the last, smaller batch of an epoch must not take larger steps.
        return tf.reduce_sum(loss + penalty) / self.hyper_parameters.batch_size

    def _score(self, user, item):
        return (
            self.initial_score
            + user[:, 0]
            + item[:, 0]
            + tf.reduce_sum(user[:, 1:] * item[:, 1:], axis=1)
        )

    def _look_up(self, inputs):
        """Bias and vector of each row's user and item, [B, 1 + factors] float32."""
        for table, name in ((self.users, "user_id"), (self.items, "item_id")):
            yield self._known_rows(table, inputs[name])

    def _known_rows(self, table, index):
        """Rows of a table, [..., 1 + factors] float32; zeros for the unknown."""
        known = tf.cast(index >= FIRST_TOKEN, tf.float32)
        return tf.cast(table(index), tf.float32) * known[..., tf.newaxis]

    def _table(self, field):
        def initial(shape, dtype=None, **_):
            vectors = tf.random.normal(
                [shape[0], shape[1] - 1],
                stddev=self.hyper_parameters.stddev,
                dtype=dtype or tf.float32,
            )
            return tf.concat([tf.zeros([shape[0], 1], vectors.dtype), vectors], axis=1)

        width = 1 + self.hyper_parameters.factors
        return TokenEmbedding(
            field.tokens, field.size, width, embeddings_initializer=initial, name=field.name
        )


Model = BiasedMF
