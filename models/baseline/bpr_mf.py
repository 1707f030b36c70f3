"""BPR-MF: matrix factorisation that ranks what a user has above what it has not.

Cite: Rendle, Freudenthaler, Gantner, Schmidt-Thieme: BPR: Bayesian Personalized Ranking from
Implicit Feedback, UAI 2009.

    x_ui = b_i + p_u . q_i
    loss = - ln sigmoid(x_ui - x_uj)
           + l2_user |p_u|^2 + l2_item |q_i|^2 + l2_negative |q_j|^2 + l2_bias (b_i^2 + b_j^2)

i is an item of the user, j one that it has not, uniform over the train items, drawn anew every
epoch. Only the rows of a triple are penalised. A bias of the user would cancel.

Deviations: an epoch visits every train event once, in a random order, so a user weighs as much as
it has events (the paper draws triples uniformly, where a user weighs events x non-events); Adam on
the mean over a batch instead of plain steps on single triples; an id is forgotten at `unknown_rate`
(0 by default, as in the paper).
"""

import pydantic
import tensorflow as tf

from models.contract.query import Query
from models.contract.recommender import weighed
from models.contract.retrieve import DotProductModel
from models.inputs import sampling
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.token_layers import factor_tables, id_embedding
from models.names.hyper_parameters import Epochs, Forgetting, Gradient, LazyAdam, Ranking, Xla
from models.names.sizes import Parameters, Sizes


class HyperParameters(Ranking, Epochs, Gradient, LazyAdam, Xla, Forgetting):
    """BPR-MF's own.

    Attributes:
        l2_user: weight of the squares of a triple's user in the loss.
        l2_item: the same of the item that the user has.
        l2_negative: the same of the item that it has not.
        l2_bias: the same of both items' biases.
    """

    epochs: int = 100
    patience: int = 10
    unknown_rate: float = 0.0
    factors: int = pydantic.Field(64, ge=1)
    l2_user: float = pydantic.Field(0.0025, ge=0)
    l2_item: float = pydantic.Field(0.0025, ge=0)
    l2_negative: float = pydantic.Field(0.00025, ge=0)
    l2_bias: float = pydantic.Field(0.0, ge=0)

    def parameters(self, sizes: Sizes) -> Parameters:
        items = sizes.table("item", self.factors) + sizes.table("item", 1)
        return Parameters(sizes.table("user", self.factors) + items)


class BPRMF(DotProductModel[HyperParameters]):
    """User and item factors and the items' biases."""

    shards = True
    biased = True
    explains = "similarity"

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        self.user_factors, self.item_factors = factor_tables(
            data.users, data.items, hyper_parameters.factors, ("user_factors", "item_factors")
        )
        self.item_bias = id_embedding(data.items, 1, "zeros", name="item_bias")
        self._item_rows = tf.range(FIRST_TOKEN, data.items.embedding_rows, dtype=tf.int64)

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        events, rate = data.events, self.hyper_parameters.unknown_rate
        negatives = sampling.UniformNegatives(events.user, events.item, data.items.train_count)
        columns = events.columns("user", "item")

        def with_negative(batch):
            seeds = sampling.split(batch["step_seed"], 3)
            drawn = negatives.draw(batch["user"], 1, seeds[0])
            items = tf.concat([batch["item"][:, tf.newaxis], drawn], axis=1)
            return {
                "user": sampling.forget_some(batch["user"], rate, seeds[1]),
                "items": sampling.forget_some(items, rate, seeds[2]),
            }

        return sampling.shuffled_batches(
            columns, self.hyper_parameters.batch_size, seed, first_epoch
        ).map(with_negative)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        own = self.hyper_parameters
        # All items of the users, then all others: to halve what is looked up copies nothing.
        items = tf.reshape(tf.transpose(inputs["items"]), [-1])
        user = tf.cast(self.user_factors(inputs["user"]), tf.float32)
        has, other = tf.split(tf.cast(self.item_factors(items), tf.float32), 2)
        bias = tf.cast(self.item_bias(items)[:, 0], tf.float32)
        bias_has, bias_other = tf.split(bias, 2)
        ahead, squares = _of_triples(user, has, other)
        penalty = tf.linalg.matvec(squares, [own.l2_user, own.l2_item, own.l2_negative])
        penalty += own.l2_bias * (bias_has**2 + bias_other**2)
        lost = tf.nn.softplus(bias_other - bias_has - ahead) + penalty
        # Whoever has every item has no other to be ahead of.
        lost *= tf.cast(inputs["items"][:, 1] > 0, tf.float32)
        return tf.reduce_mean(weighed(inputs, lost))

    def query_embedding(self, query: Query) -> tf.Tensor:
        """The user's factors and a one, which the item's bias meets."""
        user = self.user_factors(query.user)
        return tf.concat([user, tf.ones_like(user[:, :1])], axis=1)

    def item_embeddings(self) -> tf.Tensor:
        """The items' factors and biases."""
        return tf.concat(
            [self.item_factors(self._item_rows), self.item_bias(self._item_rows)], axis=1
        )


@tf.custom_gradient
def _of_triples(user, has, other):
    """[B] p_u . (q_i - q_j) and [B, 3] squared lengths of the three, of [B, K] each.

    The gradient in closed form passes over what is as large as a third as often as TensorFlow's.
    """
    difference = has - other
    ahead = tf.reduce_sum(user * difference, axis=1)
    squares = tf.stack([tf.reduce_sum(rows**2, axis=1) for rows in (user, has, other)], axis=1)

    def gradient(of_ahead, of_squares):
        along = of_ahead[:, tf.newaxis] * user
        of_user, of_has, of_other = tf.split(2 * of_squares, 3, axis=1)
        return (
            of_ahead[:, tf.newaxis] * difference + of_user * user,
            along + of_has * has,
            of_other * other - along,
        )

    return (ahead, squares), gradient


Model = BPRMF
