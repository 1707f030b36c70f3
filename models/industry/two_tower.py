"""Two-tower retrieval with in-batch softmax and sampling-bias correction.

Cite: Yi, Yang, Hong, Cheng, Heldt, Kumthekar, Zhao, Wei, Chi: Sampling-Bias-Corrected Neural
Modeling for Large Corpus Item Recommendations, RecSys 2019. The loss is tfrs.tasks.Retrieval's.

    u       = normalise(f(user id, features, history))
    v       = normalise(g(item id, title words, genres, year))
    s(u, v) = u.v / temperature
    loss    = - r_i log  exp(s(u, v_i) - log p_i) / sum_j exp(s(u, v_j) - log p_j)
              over the items j of the batch

p_i, the probability that item i is in a batch, is its share of the train events, counted in
Transform.

Deviations: p is exact rather than the streaming estimate of the paper (the train split is at hand);
the reward r_i is what the event weighs (positives.values of the run; 1 where it says none); the
history of a train row holds the items before it, so the row never sees its own item or later ones;
items of the batch that equal the positive are removed from the negatives (accidental hits); ids are
forgotten at `unknown_rate`, which trains the unknown rows and lets the towers answer from features
and history alone. The history is pooled with one learned weight a position, counted back from now,
through the item encoder that both towers share.

What a step costs is the batch against itself and the histories, so an item that occurs in a batch
several times is encoded once: it stands in the sum over j once, with how often it occurs as its
weight, and its id is forgotten, and its units are dropped, for all of its rows in that batch
together. A history is pooled by a sparse product that never holds [B, L, D] going forward. The
penalty l2 / 2 |w|^2 is not in the loss: its gradient is added where weights are moved (with
`lazy_adam` of the rows that move), so no gradient is as large as a table.
"""

from typing import ClassVar

import numpy as np
import pydantic
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.query import Query
from models.contract.recommender import weighed
from models.contract.retrieve import DotProductModel
from models.inputs import sampling
from models.inputs.columns import as_tensor, take_index
from models.inputs.data import TrainingData
from models.inputs.dropout import Dropout
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.schema import Field
from models.inputs.token_layers import EntityEncoder
from models.names.hyper_parameters import (
    Epochs,
    Forgetting,
    Gradient,
    LazyAdam,
    MixedPrecision,
    Ranking,
)
from models.names.sizes import Parameters, Sizes, perceptron
from models.training.optimizers import Adam


class HyperParameters(Ranking, Epochs, Gradient, LazyAdam, MixedPrecision, Forgetting):
    """Two-tower's own: the last `history_length` items enter the user tower."""

    REFUSALS: ClassVar[dict[str, str]] = {
        "jit_compile": "a step counts the distinct items of its batch (tf.unique_with_counts) "
        "and pools histories by a sparse product, neither of which XLA compiles",
    }

    epochs: int = 40
    batch_size: int = 1024
    learning_rate: float = 6e-3
    unknown_rate: float = 0.1
    embedding_dim: int = pydantic.Field(128, ge=1)
    feature_dim: int = pydantic.Field(32, ge=1)
    hidden: tuple[pydantic.PositiveInt, ...] = ()
    history_length: int = pydantic.Field(20, ge=1)
    temperature: float = pydantic.Field(0.1, gt=0)
    dropout: float = pydantic.Field(0.3, ge=0, lt=1)
    l2: float = pydantic.Field(1e-6, ge=0)

    def parameters(self, sizes: Sizes) -> Parameters:
        width, learnt = {}, self.history_length  # a weight a place of the history
        for entity in ("user", "item"):
            features = sizes.of(entity)
            width[entity] = self.embedding_dim + self.feature_dim * len(features)
            learnt += sizes.table(entity, self.embedding_dim)
            learnt += self.feature_dim * sum(feature.rows for feature in features)
        # The user's tower reads the history's items too.
        for inputs in (width["user"] + width["item"], width["item"]):
            learnt += perceptron(inputs, self.hidden, self.embedding_dim)
        return Parameters(learnt)


class Tower(tf.keras.layers.Layer):
    """A multi-layer perceptron with a linear, normalised output: [B, any] -> [B, embedding_dim]."""

    def __init__(self, hyper_parameters: HyperParameters, name: str):
        super().__init__(name=name)
        self._dropout = Dropout(hyper_parameters.dropout)
        self._hidden = [
            tf.keras.layers.Dense(units, activation="relu") for units in hyper_parameters.hidden
        ]
        self._output = tf.keras.layers.Dense(hyper_parameters.embedding_dim)

    def call(self, inputs, training=False):
        for layer in self._hidden:
            inputs = layer(self._dropout(inputs, training=training))
        return tf.math.l2_normalize(self._output(self._dropout(inputs, training=training)), axis=-1)


class TwoTower(DotProductModel[HyperParameters]):
    """A user and an item tower that meet in a dot product."""

    uses_history = True
    cold_items = True
    shards = True

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        width, feature_width = hyper_parameters.embedding_dim, hyper_parameters.feature_dim
        self._data = data
        self._users = EntityEncoder(data.users, width, feature_width, name="users")
        self._items = EntityEncoder(data.items, width, feature_width, name="items")
        self._user_tower = Tower(hyper_parameters, name="user_tower")
        self._item_tower = Tower(hyper_parameters, name="item_tower")
        self._recency = self.add_weight(
            name="recency",
            shape=[hyper_parameters.history_length],
            initializer=tf.keras.initializers.Constant(0.0),
        )
        self._item_count, self._data = len(data.items), data
        probability = data.item_counts / max(1, data.item_counts.sum())
        self._probability = tf.constant(
            np.concatenate([[1.0] * FIRST_TOKEN, np.maximum(probability, 1e-12)]), tf.float32
        )

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        events = data.events
        length = self.hyper_parameters.history_length
        columns = {**events.columns("user", "item", "position"), "row": range(len(events))}
        items = as_tensor(events.item)
        batches = sampling.shuffled_batches(
            columns, self.hyper_parameters.batch_size, seed, first_epoch
        )

        def with_history(batch):
            back = tf.range(1, length + 1, dtype=tf.int64)
            before = batch["row"][:, tf.newaxis] - back
            inside = back <= batch["position"][:, tf.newaxis]
            history = tf.where(inside, take_index(items, tf.maximum(before, 0)), 0)
            seeds = sampling.split(batch["step_seed"], 2)
            rate = self.hyper_parameters.unknown_rate
            forget_user, forget_item = (
                sampling.uniform(tf.shape(batch["user"]), one) < rate for one in seeds
            )
            return {
                **batch,
                "history": history,
                "forget_user": forget_user,
                "forget_item": forget_item,
            }

        return batches.map(with_history)

    def learn(self, loop: Loop) -> None:
        own = self.hyper_parameters
        with loop.strategy.scope():
            # A penalty in the loss would make gradients of whole tables, one beside the other.
            optimizer = Adam(own.learning_rate, lazy=own.lazy_adam, l2=own.l2)
        loop.fit(self, optimizer=optimizer)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        query = self._embed_query(
            inputs["user"], inputs["history"], inputs["forget_user"], training
        )
        item, place, count = tf.unique_with_counts(inputs["item"], tf.int64)
        first = tf.math.unsorted_segment_min(
            tf.range(tf.size(place)), place, tf.size(item, tf.int64)
        )
        forget = tf.gather(inputs["forget_item"], first)
        vectors = self._item_tower(self._items(item, forget), training=training)
        rows = corrected_softmax(
            tf.cast(query, tf.float32) / self.hyper_parameters.temperature,
            tf.cast(vectors, tf.float32),
            place,
            tf.cast(count, tf.float32),
            tf.gather(self._probability, item),
        )
        return tf.reduce_mean(weighed(inputs, rows))

    def query_embedding(self, query: Query) -> tf.Tensor:
        oldest_first = query.history[:, -self.hyper_parameters.history_length :]
        newest_first = tf.reverse_sequence(
            oldest_first.to_tensor(), oldest_first.row_lengths(), seq_axis=1
        )
        return self._embed_query(query.user, newest_first)

    def item_embeddings(self) -> tf.Tensor:
        return self._item_tower(
            self._items(tf.range(FIRST_TOKEN, FIRST_TOKEN + self._item_count, dtype=tf.int64))
        )

    def item_fields(self) -> tuple[Field, ...]:
        return self._data.item_fields

    def embed_features(self, raw: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        encoded, known = self._items.encode_new(self._data.item_index(raw))
        # Where no id was ever forgotten, the unknown one's vector has learnt nothing.
        known &= self.hyper_parameters.unknown_rate > 0
        return tf.cast(self._item_tower(encoded), tf.float32), known

    def _embed_query(self, user, history, forget=None, training=False):
        """`history` is [B, up to history_length] item indices, newest first, padded with 0."""
        weight = tf.exp(self._recency[: tf.shape(history)[1]]) * tf.cast(history > 0, tf.float32)
        weight /= tf.maximum(tf.reduce_sum(weight, axis=1, keepdims=True), 1e-9)
        item, place = tf.unique(tf.reshape(history, [-1]), tf.int64)
        pooled = weighted_rows(
            weight, tf.reshape(place, tf.shape(history)), tf.cast(self._items(item), tf.float32)
        )
        users = self._users(user, forget)
        return self._user_tower(
            tf.concat([users, tf.cast(pooled, users.dtype)], axis=-1), training=training
        )


def corrected_softmax(query, items, place, count, probability):
    """[B] losses of a batch against the distinct items in it.

    Args:
        query: [B, D], divided by the temperature.
        items: [U, D], each item once.
        place: [B] int64, which of them is a row's own.
        count: [U], how many rows of the batch each has.
        probability: [U], of each to be in a batch.
    """
    logits = tf.matmul(query, items, transpose_b=True) + tf.math.log(count / probability)
    # A row's own item counts once: its other rows are no negatives.
    own = tf.stack([tf.range(tf.size(place, tf.int64)), place], axis=1)
    logits = tf.tensor_scatter_nd_sub(logits, own, tf.math.log(tf.gather(count, place)))
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=place, logits=logits)


@tf.custom_gradient
def weighted_rows(weight, place, table):
    """Sums rows of a table, weighted: [B, L] weights and int64 row numbers, [U, D] -> [B, D]."""
    rows, length = tf.unstack(tf.shape(place, tf.int64))
    matrix = tf.SparseTensor(
        tf.stack([tf.repeat(tf.range(rows), length), tf.reshape(place, [-1])], axis=1),
        tf.reshape(weight, [-1]),
        [rows, tf.shape(table, tf.int64)[0]],
    )

    def gradient(above):
        of_weight = tf.matmul(tf.gather(table, place), above[:, :, tf.newaxis])[:, :, 0]
        return of_weight, None, tf.sparse.sparse_dense_matmul(matrix, above, adjoint_a=True)

    return tf.sparse.sparse_dense_matmul(matrix, table), gradient


Model = TwoTower
