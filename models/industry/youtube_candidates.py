"""YouTube candidate generation: bags of what was watched and searched, classified into all items.

Cite: Covington, Adams, Sargin: Deep Neural Networks for YouTube Recommendations, RecSys 2016,
section 3.

    x        = [mean of the watched items' rows; mean of the search tokens' rows;
                a row for each feature of the user and of the context; example age]
    u        = relu(W_d ... relu(W_1 x + b_1) ... + b_d), the widest layer first, each half as wide
               as the one before, the last of `width` units; of depth 0: W x + b
    P(i | x) = exp(u.v_i) / sum_j exp(u.v_j)
    loss     = - log  exp(u.v_i - log q_i) / sum_j exp(u.v_j - log q_j)
               over the row's own item and `negatives` draws j, of the items' share q of the events

The table of the watched items is not the one of the classes v. A label is an event of train and x
is what the user had before it, so the label is in the future of x; a user has at most
`examples_a_user` of them an epoch, drawn anew each, and what is fewer weighs more: all users weigh
the same. Example age is how old an event is at the newest event of train, as a share of the time
that train spans; a query is of age 0. Who has no history gets what user features and context say.

Draws are with replacement and shared by a batch. A draw that hits the row's own item stays, since
the posterior of the place of the label among the places of a sample is then exactly this softmax:
with ever more negatives it is the full one. (Removing hits is right for samplers that draw an item
once, with q the probability that they do.)

Deviations: searches are the text that the run names as context, which a row of train has of its
own event and a request tells; words alone, no pairs of them. What the paper feeds as numbers in
[0, 1] (the user's age, gender) is embedded as every feature: a number by its tenth of the values, a
category by its value. Unknown and missing values have zeros, as the paper's ranking has them. Not
published and ours: optimiser, first weights, dropout (none by default), how many examples a user
has, how age is scaled. The classes have no biases, as in the paper's formula.
"""

from collections.abc import Sequence

import numpy as np
import pydantic
import tensorflow as tf

from models.contract.query import Query
from models.contract.recommender import weighed
from models.contract.retrieve import DotProductModel
from models.inputs import sampling
from models.inputs.columns import as_tensor, take_index
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.token_layers import Mlp, TokenEmbedding, id_embedding
from models.names.hyper_parameters import Epochs, Gradient, LazyAdam, MixedPrecision, Ranking, Xla
from models.names.label import WEIGHT
from models.names.sizes import Parameters, Sizes, perceptron


class HyperParameters(Ranking, Epochs, Gradient, LazyAdam, MixedPrecision, Xla):
    """YouTube's own.

    `width` is that of the classes and of the last of `depth` layers; `embedding_dim` is that of
    watched items and of texts, `feature_dim` that of the other features; the newest
    `history_length` items and `search_length` words are read.

    Attributes:
        width: of the classes, and of the last layer.
        depth: number of layers, each half as wide as the one before.
        example_age: feed how old an event is.
        examples_a_user: events of a user that are examples in an epoch, at most.
        search_length: words of a search that are read.
    """

    batch_size: int = 1024
    embedding_dim: int = pydantic.Field(256, ge=1)
    feature_dim: int = pydantic.Field(16, ge=1)
    width: int = pydantic.Field(256, ge=1)
    depth: int = pydantic.Field(3, ge=0, le=6)
    dropout: float = pydantic.Field(0.0, ge=0, lt=1)
    example_age: bool = True
    examples_a_user: int = pydantic.Field(50, ge=1)
    negatives: int = pydantic.Field(4096, ge=1)
    history_length: int = pydantic.Field(50, ge=1)
    search_length: int = pydantic.Field(50, ge=1)

    def parameters(self, sizes: Sizes) -> Parameters:
        inputs = self.embedding_dim + self.example_age
        learnt = sizes.table("item", self.embedding_dim) + sizes.table("item", self.width)
        for column in (*sizes.of("user"), *sizes.of("context")):
            narrow = column.entity == "user" or column.is_single
            width = self.feature_dim if narrow else self.embedding_dim
            learnt, inputs = learnt + column.rows * width, inputs + width
        layers = [self.width * 2**number for number in reversed(range(self.depth))]
        return Parameters(learnt + perceptron(inputs, layers or [self.width]))


class Bag(TokenEmbedding):
    """The mean of the rows of what is known, zeros where nothing is.

    Maps [B, L] indices -> [B, dimension].
    """

    def __init__(self, tokens: Sequence[bytes], rows: int, dimension: int, name: str):
        normal = tf.keras.initializers.RandomNormal(stddev=dimension**-0.5)
        super().__init__(tokens, rows, dimension, embeddings_initializer=normal, name=name)

    def call(self, index):
        known = tf.cast(index >= FIRST_TOKEN, self.compute_dtype)[..., tf.newaxis]
        total = tf.reduce_sum(super().call(index) * known, axis=1)
        return total / tf.maximum(tf.reduce_sum(known, axis=1), 1.0)


class YoutubeCandidates(DotProductModel[HyperParameters]):
    """A tower over bags that meets a table of classes in a dot product."""

    uses_user_id = False
    uses_history = True
    reads_context = True
    shards = True

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        wide, narrow = hyper_parameters.embedding_dim, hyper_parameters.feature_dim
        width, depth = hyper_parameters.width, hyper_parameters.depth
        self._item_count = data.items.train_count
        # Here, since models are made in the strategy's scope and batches are not.
        self._replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._context = data.context
        self._features = {
            name: table.to_tensor() if isinstance(table, tf.RaggedTensor) else table[:, tf.newaxis]
            for name, table in sorted(data.users.features.items())
        }
        items = data.items
        self.watched = Bag(items.ids[: self._item_count], items.embedding_rows, wide, "watched")
        self.bags = {
            name: Bag(data.users.tokens[name], data.users.vocabulary_sizes[name], narrow, name)
            for name in self._features
        } | {
            field.name: Bag(field.tokens, field.size, narrow if field.single else wide, field.name)
            for field in self._context
        }
        self.tower = (
            Mlp([width * 2**n for n in reversed(range(depth))], hyper_parameters.dropout, "tower")
            if depth
            else tf.keras.layers.Dense(width, name="tower")
        )
        normal = tf.keras.initializers.RandomNormal(stddev=width**-0.5)
        self.classes = id_embedding(items, width, normal, name="classes")
        share = np.maximum(data.item_counts, 1e-6) / max(1, data.item_counts.sum())
        self._log_share = tf.constant(np.log(np.r_[[1.0] * FIRST_TOKEN, share]), tf.float32)

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        events, settings = data.events, self.hyper_parameters
        columns = {
            **events.columns("user", "item", "position"),
            "row": range(len(events)),
            "age": example_age(events.timestamp),
            WEIGHT: equal_weights(events.starts, settings.examples_a_user) * events.example_weight,
            **{f"context/{field.name}": events.context[field.name] for field in self._context},
        }
        items = as_tensor(events.item)
        # A batch is shared out among the replicas, and each wants all of its negatives.
        draws = settings.negatives * self._replicas
        negatives = sampling.PopularitySamples(data.item_counts[: self._item_count], 1.0, draws)
        back = tf.range(settings.history_length, 0, -1, dtype=tf.int64)

        def with_inputs(batch):
            told = {name: self._padded(batch.pop(name)) for name in [*batch] if "/" in name}
            before = batch["row"][:, tf.newaxis] - back
            inside = back <= batch["position"][:, tf.newaxis]
            return {
                **batch,
                **told,
                "watched": tf.where(inside, take_index(items, tf.maximum(before, 0)), 0),
                "negative": negatives.draw(batch["step_seed"]),
            }

        return sampling.shuffled_batches(
            columns,
            settings.batch_size,
            seed,
            first_epoch,
            sampling.SomeOfEach(events.position, settings.examples_a_user),
        ).map(with_inputs)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        told = {field.name: inputs[f"context/{field.name}"] for field in self._context}
        described = self._described(inputs["user"], told)
        vectors = self._embed(inputs["watched"], described, inputs["age"], training)
        own, drawn = inputs["item"], inputs["negative"]
        rows = corrected_softmax(
            vectors,
            tf.cast(self.classes(own), tf.float32),
            tf.cast(self.classes(drawn), tf.float32),
            tf.gather(self._log_share, own),
            tf.gather(self._log_share, drawn),
        )
        return tf.reduce_mean(weighed(inputs, rows))

    def answers(self, query: Query) -> tf.Tensor:
        described = self._described(query.user, query.context or {}).values()
        told = [tf.reduce_any(index >= FIRST_TOKEN, axis=1) for index in described]
        return tf.reduce_any(tf.stack([query.history.row_lengths() > 0, *told]), axis=0)

    def query_embedding(self, query: Query) -> tf.Tensor:
        watched = query.history[:, -self.hyper_parameters.history_length :].to_tensor()
        now = tf.zeros(tf.shape(query.user))
        return self._embed(watched, self._described(query.user, query.context or {}), now)

    def item_embeddings(self) -> tf.Tensor:
        return self.classes(tf.range(FIRST_TOKEN, FIRST_TOKEN + self._item_count, dtype=tf.int64))

    def _described(self, user, context):
        """The indices of all features, name -> [B, L]: the user's, and those that are told."""
        of_user = {name: tf.gather(table, user) for name, table in self._features.items()}
        return of_user | {name: self._padded(values) for name, values in context.items()}

    def _padded(self, values):
        """Indices [B], [B, L] or ragged [B, None] of a text, whose last words are kept: [B, L]."""
        if isinstance(values, tf.RaggedTensor):
            length = self.hyper_parameters.search_length
            return values[:, -length:].to_tensor(shape=[None, length])
        return values if len(values.shape) == 2 else values[:, tf.newaxis]

    def _embed(self, watched, described, age, training=False):
        """[B, L] watched items, 0 for none, indices of features and [B] ages -> [B, width]."""
        parts = [self.watched(watched)]
        parts += [layer(described[name]) for name, layer in self.bags.items()]
        if self.hyper_parameters.example_age:
            parts.append(tf.cast(age, parts[0].dtype)[:, tf.newaxis])
        return tf.cast(self.tower(tf.concat(parts, axis=1), training=training), tf.float32)


def example_age(timestamp: np.ndarray) -> np.ndarray:
    """[E] int64 seconds -> [E] float32: 0 at the newest event, 1 at the oldest.

    An event of no time (0) is of age 0.
    """
    newest = timestamp.max()
    age = np.where(timestamp > 0, newest - timestamp, 0)
    return (age / max(1, age.max())).astype(np.float32)


def equal_weights(starts: np.ndarray, most: int) -> np.ndarray:
    """[E] float32 weights of events of which an epoch has at most so many of each user.

    Those of an epoch sum to the same for every user, and have a mean of 1.

    Args:
        starts: [P + 1], where the events of each user begin, and the end.
        most: events of a user.
    """
    counts = np.diff(starts)
    drawn = np.minimum(counts, most)
    return np.repeat(drawn.mean() / drawn, counts).astype(np.float32)


def corrected_softmax(
    query: tf.Tensor,
    own: tf.Tensor,
    drawn: tf.Tensor,
    own_log_share: tf.Tensor,
    drawn_log_share: tf.Tensor,
) -> tf.Tensor:
    """[B] losses of rows against their own item and the draws that they share.

    Args:
        query: [B, D].
        own: [B, D], the class of a row's own item.
        drawn: [S, D], those of the draws, with replacement.
        own_log_share: [B], log q of the own items.
        drawn_log_share: [S], of the draws.
    """
    label = tf.reduce_sum(query * own, axis=1) - own_log_share
    others = tf.matmul(query, drawn, transpose_b=True) - drawn_log_share
    logits = tf.concat([label[:, tf.newaxis], others], axis=1)
    return tf.reduce_logsumexp(logits, axis=1) - label


Model = YoutubeCandidates
