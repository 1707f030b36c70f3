"""CDAE: a denoising auto-encoder of what a user has, with a node of the user's own.

Cite: Wu, DuBois, Zheng, Ester: Collaborative Denoising Auto-Encoders for Top-N Recommender Systems,
WSDM 2016.

    x~_i    = x_i / (1 - q) with probability 1 - q, else 0        x_i: 1 where the user has item i
    z       = h(sum_i x~_i w_i + v_u + b)                         w_i, v_u, b: K wide
    score_i = w'_i . z + b'_i
    loss    = sum over the items i of O and S of l(y_i, score_i)  O: all that the user has, y = 1
                                                                  S: `negatives` |O| others, y = 0
              + l2 / 2 (|v_u|^2 + |b|^2 + sum over the items read of |w_i|^2
                        + sum over O and S of |w'_i|^2 + b'_i^2)

mean over the users of a batch; an item of O weighs 1, or as the heaviest of the user's events with
it over the mean, where the run weighs events (positives.values). The paper's variants are M1:
`mapping` identity and `loss` square; M2: identity, logistic; M3: sigmoid, square; M4: sigmoid,
logistic. S is drawn with replacement, uniformly from the train items that the user has not;
corruption and S are drawn anew every epoch.
What was hidden from the input is a target too. Nothing is hidden where the model answers. Weights
start uniform within 4 sqrt(6 / (items + K)), biases at 0.

Deviations: a batch of users is a step, where the released code steps user by user; AdaGrad is that
code's, on the sum over the batch, but for its 1 beside the root of the accumulator, which is here
under it (as `epsilon` over the square of the batch, since the gradient is of the mean); the
logistic loss is of the sigmoid's argument, and the square loss of the score without a sigmoid; the
epoch is chosen on validation, where the paper makes 50 passes. Users without a node, whom train has
not seen, get the mean node of those it has.
"""

from typing import Literal

import pydantic
import tensorflow as tf

from models.contract.query import Query
from models.contract.recommender import weighed
from models.contract.retrieve import DotProductModel
from models.inputs import sampling
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.profiles import (
    corrupted,
    multi_hot,
    partly_hidden,
    shuffled_profiles,
    user_profiles,
)
from models.inputs.token_layers import id_embedding
from models.names.hyper_parameters import Epochs, Gradient, Ranking, Xla
from models.names.label import WEIGHT
from models.names.sizes import Parameters, Sizes
from models.training.optimizers import Adagrad

_FEW_ITEMS = 20_000  # so many are computed all
_MAPPINGS = {"identity": tf.identity, "sigmoid": tf.sigmoid, "tanh": tf.tanh}


class HyperParameters(Ranking, Epochs, Gradient, Xla):
    """CDAE's own: `hidden` is K, `corruption` q. A batch holds users.

    Attributes:
        corruption: share of what a user has that is hidden from the input.
        mapping: h, what the code is made by.
    """

    epochs: int = 50
    batch_size: int = 16
    learning_rate: float = 0.1
    hidden: int = pydantic.Field(50, ge=1)
    corruption: float = pydantic.Field(0.5, ge=0, le=1)
    negatives: int = pydantic.Field(5, ge=1)
    mapping: Literal["identity", "sigmoid", "tanh"] = "sigmoid"
    loss: Literal["square", "logistic"] = "logistic"
    l2: float = pydantic.Field(0.01, ge=0)

    def parameters(self, sizes: Sizes) -> Parameters:
        items = 2 * sizes.table("item", self.hidden) + sizes.table("item", 1)
        learnt = items + sizes.table("user", self.hidden) + self.hidden
        return Parameters(learnt, slots=1)


class CDAE(DotProductModel[HyperParameters]):
    """A user's items and node make a code, which is matched with an output table."""

    uses_history = True
    shards = True
    biased = True

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        width = hyper_parameters.hidden
        self._few = data.items.embedding_rows <= _FEW_ITEMS
        limit = 4 * (6 / (data.items.train_count + width)) ** 0.5
        # Each its own initializer: one would begin all three alike.
        self.item_inputs, self.users, self.item_outputs = (
            id_embedding(entities, width, tf.keras.initializers.RandomUniform(-limit, limit), name)
            for entities, name in (
                (data.items, "item_inputs"),
                (data.users, "users"),
                (data.items, "item_outputs"),
            )
        )
        self.item_bias = id_embedding(data.items, 1, "zeros", "item_bias")
        for table in (self.item_inputs, self.users, self.item_outputs, self.item_bias):
            table.build(None)
        self.bias = self.add_weight("bias", [width], initializer="zeros")
        self._item_rows = tf.range(FIRST_TOKEN, data.items.embedding_rows, dtype=tf.int64)
        self._user_rows = tf.range(FIRST_TOKEN, data.users.embedding_rows, dtype=tf.int64)

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        if self._few:
            return self._rows_of_all_items(data, seed, first_epoch)
        events, own = data.events, self.hyper_parameters
        negatives = sampling.UniformNegatives(events.user, events.item, data.items.train_count)

        def with_noise(batch):
            seeds = sampling.split(sampling.of_values(batch["step_seed"]), 2)
            present = tf.cast(batch["items"] > 0, tf.float32)
            count = tf.math.count_nonzero(batch["items"], axis=1)
            drawn = negatives.draw(tf.repeat(batch["user"], count), own.negatives, seeds[1])
            by_user = tf.RaggedTensor.from_row_lengths(drawn, count).merge_dims(1, 2)
            return {
                "user": batch["user"],
                "items": batch["items"],
                "weights": corrupted(present, own.corruption, seeds[0]),
                "negatives": by_user.to_tensor(),
            }

        batches = shuffled_profiles(data, own.batch_size, seed, first_epoch)
        return batches.map(with_noise)

    def _rows_of_all_items(self, data, seed, first_epoch):
        """The same users and draws, as rows over all items.

        Those are `weights`, what is read; `wanted`, 1 where the user has the item; and `listed`,
        how often an item is in O and S: [B, rows] float32.
        """
        own, size, name = self.hyper_parameters, self.item_inputs.input_dim, "profile"
        users, items, splits, weight = user_profiles(data)
        negatives = sampling.CountedNegatives(items, splits, data.items.train_count)
        columns = {"user": users, name: negatives.profiles}
        if weight is not None:
            columns[WEIGHT] = tf.RaggedTensor.from_row_splits(tf.constant(weight), splits)

        def with_noise(batch):
            seeds = sampling.split(sampling.of_values(batch["step_seed"]), 2)
            profiles = batch[name]
            item = tf.cast(profiles.values[:, 0], tf.int32)
            place = size * sampling.ragged_rows(profiles) + item
            drawn = negatives.draw(profiles, size, own.negatives, seeds[1])

            def spread(values, places):
                shape = [profiles.nrows(), size]
                sums = tf.math.unsorted_segment_sum(values, places, shape[0] * size)
                return tf.reshape(sums, shape)

            present = tf.ones_like(place, tf.float32)
            every = tf.concat([place, drawn], axis=0)
            found = {
                "user": batch["user"],
                "weights": spread(partly_hidden(present, own.corruption, seeds[0]), place),
                "wanted": spread(present, place),
                "listed": spread(tf.ones_like(every, tf.float32), every),
            }
            if WEIGHT in batch:
                found[WEIGHT] = spread(batch[WEIGHT].values, place)
            return found

        batches = sampling.shuffled_batches(columns, own.batch_size, seed, first_epoch)
        return batches.map(with_noise)

    def learn(self, loop):
        own = self.hyper_parameters
        with loop.strategy.scope():
            # g / B / sqrt(sum of (g / B)^2 + 1 / B^2) = g / sqrt(sum of g^2 + 1)
            optimizer = Adagrad(own.learning_rate, epsilon=own.batch_size**-2.0)
        loop.fit(self, optimizer=optimizer)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        own, node = self.hyper_parameters, self.users(inputs["user"])
        loss, penalty = (self._dense if self._few else self._sparse)(inputs, node)
        count = tf.cast(tf.shape(node)[0], tf.float32)
        penalty += tf.reduce_sum(node**2) + count * tf.reduce_sum(self.bias**2)
        return (loss + own.l2 / 2 * penalty) / count

    def _sparse(self, inputs, node):
        """The loss of all users and the sum of what is penalised, by the rows that are read."""
        weights = inputs["weights"][..., tf.newaxis]
        read = self.item_inputs(inputs["items"])
        code = self.encode(tf.reduce_sum(weights * read, axis=1), node)
        targets = tf.concat([inputs["items"], inputs["negatives"]], axis=1)
        vectors, bias = self.item_outputs(targets), self.item_bias(targets)[..., 0]
        scores = bias + tf.einsum("bk,bsk->bs", code, vectors)
        wanted = tf.concat(
            [tf.ones_like(inputs["items"]), tf.zeros_like(inputs["negatives"])], axis=1
        )
        there = tf.cast(targets > 0, tf.float32)
        loss = there * self.item_loss(tf.cast(wanted, tf.float32), scores)
        had = weighed(inputs, loss[:, : tf.shape(inputs["items"])[1]])
        loss = tf.concat([had, loss[:, tf.shape(had)[1] :]], axis=1)
        penalty = tf.reduce_sum(tf.cast(weights > 0, tf.float32) * read**2)
        penalty += tf.reduce_sum(there * (tf.reduce_sum(vectors**2, axis=2) + bias**2))
        return tf.reduce_sum(loss), penalty

    def _dense(self, inputs, node):
        """The same by whole tables: of few items, products are faster than reading rows."""
        own, wanted, listed = self.hyper_parameters, inputs["wanted"], inputs["listed"]
        read, vectors = (
            tf.convert_to_tensor(table.embeddings)
            for table in (self.item_inputs, self.item_outputs)
        )
        bias = tf.convert_to_tensor(self.item_bias.embeddings)[:, 0]
        code = self.encode(tf.matmul(inputs["weights"], read), node)
        scores = tf.matmul(code, vectors, transpose_b=True) + bias
        had = weighed(inputs, wanted)
        weights = listed + had - wanted if WEIGHT in inputs else listed
        # l(1, s) is l(0, s) - s of the logistic loss, l(0, s) - 2 s + 1 of the square one.
        if own.loss == "square":
            loss = tf.reduce_sum(weights * scores**2) - tf.reduce_sum(had * (2 * scores - 1))
        else:
            loss = _logistic_loss(scores, weights, had)
        # What is not hidden is 1 / (1 - q).
        kept = (1 - own.corruption) * tf.reduce_sum(inputs["weights"], axis=0)
        penalty = tf.reduce_sum(kept * tf.reduce_sum(read**2, axis=1))
        squares = tf.reduce_sum(vectors**2, axis=1) + bias**2
        return loss, penalty + tf.reduce_sum(tf.reduce_sum(listed, axis=0) * squares)

    def item_loss(self, wanted: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
        """[B, S] losses of scores where 1 or 0 is wanted."""
        if self.hyper_parameters.loss == "square":
            return (wanted - scores) ** 2
        return tf.nn.sigmoid_cross_entropy_with_logits(wanted, scores)

    def encode(self, pooled: tf.Tensor, node: tf.Tensor) -> tf.Tensor:
        """[B, K] sums of the items' vectors and nodes of the users -> [B, K] codes."""
        return _MAPPINGS[self.hyper_parameters.mapping](pooled + node + self.bias)

    def query_embedding(self, query: Query) -> tf.Tensor:
        """The code of the whole history and a one, which the item's bias meets."""
        rows = self.item_inputs.input_dim
        profile = multi_hot(query.history.to_tensor(), rows)
        nodes = self.users(query.user)
        mean = tf.reduce_mean(self.users(self._user_rows), axis=0, keepdims=True)
        node = tf.where(query.known[:, tf.newaxis], nodes, mean)
        code = self.encode(tf.matmul(profile, self.item_inputs.embeddings), node)
        return tf.concat([code, tf.ones_like(code[:, :1])], axis=1)

    def item_embeddings(self) -> tf.Tensor:
        """The items' output vectors and biases."""
        return tf.concat(
            [self.item_outputs(self._item_rows), self.item_bias(self._item_rows)], axis=1
        )


@tf.custom_gradient
def _logistic_loss(scores, weights, had):
    """The sum of weights ln(1 + exp(scores)) - had scores, by one sigmoid for it and its gradient.

    TensorFlow's softplus takes as long as two of the products.
    """
    p = tf.sigmoid(scores)
    above = tf.nn.relu(scores) - tf.math.log(tf.maximum(p, 1 - p))
    loss = tf.reduce_sum(weights * above) - tf.reduce_sum(had * scores)
    return loss, lambda upstream: (upstream * (weights * p - had), None, None)


Model = CDAE
