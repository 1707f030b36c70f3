"""ConvMF: matrix factorisation whose item factors are drawn towards the items' texts.

A convolutional network makes of a text what its item's factors are drawn towards.

Cite: Kim, Park, Oh, Lee, Yu: Convolutional Matrix Factorization for Document Context-Aware
Recommendation, RecSys 2016.

    r_ij ~ N(u_i . v_j, 1),   u_i ~ N(0, 1 / l2_users)
    v_j  ~ N(s_j, 1 / (l2_items c_j)),   s_j = cnn(text of item j)
    u_i  = (sum_j v_j v_j' + l2_users I)^-1 sum_j r_ij v_j
           over the items j that i has rated
    v_j  = (sum_i u_i u_i' + l2_items c_j I)^-1 (sum_i r_ij u_i + l2_items c_j s_j)
           over the users i that have rated j
    cnn: words -> windows of 3, 4, 5 -> ReLU, max over time -> tanh(W1 ..) -> dropout
           -> tanh(W2 ..), fitted to V by c_j |v_j - s_j|^2

An epoch is one round: all users, all items, then `network_epochs` passes of the network over the
items, from where the last round left it. It begins with s of the untrained network, V = s, U
uniform in [0, 1). c_j = 1, or with `weigh_items` the square root of the ratings that j has, scaled
to mean 1 (R-ConvMF). No biases; ratings are not centred. An unknown user has the mean user's
factors; an unknown item those of its text, where the request has one, else the mean item's.

Text: all text columns of the items, then the reviews of train, newest first; the first `length`
words, of which the commonest `vocabulary` are kept, without those in more than `max_share` of the
texts.

Deviations: word vectors start at random (ConvMF, not ConvMF+) unless `vectors` names a file;
windows over padding do not count; an item without text stays, with the text of no words; the best
round so far is kept, where the authors' code compares with the one before; no stop-word list
(theirs names a single word) and, as there, no weight decay of the network. Validation clips to the
scale.
"""

import dataclasses

import numpy as np
import pydantic
import tensorflow as tf

from models.cnn.item_text import ItemText
from models.cnn.layers import MaxOverTime, WordEmbedding, count_words, encode_distinct, trim
from models.contract.loop import Loop
from models.contract.score import ScoreModel
from models.inputs import sampling
from models.inputs.dropout import Dropout
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.score_data import Inputs, ScoreData
from models.inputs.token_layers import TokenEmbedding
from models.inputs.traced import traced
from models.names.errors import ConfigError
from models.names.features import DOCUMENT, TEXT, Feature
from models.names.hyper_parameters import Epochs, Gradient, MixedPrecision, Xla
from models.names.sizes import ADDED, Parameters, Sizes, dense, perceptron

_WIDTHS = (3, 4, 5)  # of the windows
_ROWS_AT_ONCE = 128


class HyperParameters(Epochs, Gradient, MixedPrecision, Xla):
    """ConvMF's own.

    Attributes:
        factors: k of the paper.
        l2_users: lambda_U.
        l2_items: lambda_V, the pull of v_j towards s_j.
        weigh_items: R-ConvMF.
        network_epochs: passes of the network over the items in a round.
        word_dimension: of a word's vector.
        vectors: a text file of word vectors, see `WordEmbedding`; the paper divides GloVe's by 20.
        kernels: of each width.
        units: of the layer before the last.
        dropout: before the last layer.
        length: words of a text that are read.
        vocabulary: words that have a vector.
        max_share: a word in more of the texts is left out.
    """

    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 1e-3
    factors: int = pydantic.Field(50, ge=1)
    l2_users: float = pydantic.Field(10.0, gt=0)
    l2_items: float = pydantic.Field(100.0, gt=0)
    weigh_items: bool = False
    network_epochs: int = pydantic.Field(5, ge=1)
    word_dimension: int = pydantic.Field(200, ge=1)
    vectors: str | None = None
    kernels: int = pydantic.Field(100, ge=1)
    units: int = pydantic.Field(200, ge=1)
    dropout: float = pydantic.Field(0.2, ge=0, lt=1)
    length: int = pydantic.Field(300, ge=1)
    vocabulary: int = pydantic.Field(8000, ge=1)
    max_share: float = pydantic.Field(0.5, gt=0, le=1)

    def parameters(self, sizes: Sizes) -> Parameters:
        texts = sizes.item_words + sizes.review_words
        words = (min(self.vocabulary, texts) + ADDED) * self.word_dimension
        windows = sum(dense(self.word_dimension * width, self.kernels) for width in _WIDTHS)
        last = perceptron(len(_WIDTHS) * self.kernels, [self.units], self.factors)
        factors = sizes.table("user", self.factors) + sizes.table("item", self.factors)
        return Parameters(words + windows + last, factors, slots=1)


class Network(tf.keras.layers.Layer):
    """[B, L] words -> [B, factors], each in (-1, 1)."""

    def __init__(self, hyper_parameters: HyperParameters, tokens, name: str = "network"):
        super().__init__(name=name)
        initial, vectors = (
            tf.keras.initializers.RandomUniform(-0.05, 0.05),
            hyper_parameters.vectors,
        )
        self._embedding = WordEmbedding(
            tokens, hyper_parameters.word_dimension, initial, vectors, scale=1 / 20, name="words"
        )
        self._widths = [MaxOverTime(hyper_parameters.kernels, width) for width in _WIDTHS]
        self._hidden = tf.keras.layers.Dense(hyper_parameters.units, activation="tanh")
        self._dropout = Dropout(hyper_parameters.dropout)
        self._last = tf.keras.layers.Dense(hyper_parameters.factors, activation="tanh")

    def call(self, words, training=False):
        words = trim(words)
        embedded, lengths = self._embedding(words), count_words(words)
        pooled = tf.concat([windows(embedded, lengths) for windows in self._widths], axis=1)
        return self._last(self._dropout(self._hidden(pooled), training=training))


class ConvMF(ScoreModel[HyperParameters]):
    """Factors of users and items in closed form, a network of the items' texts in turn."""

    weighs_rows = False

    @staticmethod
    def reads(feature: Feature) -> bool:
        return feature.entity == "item" and feature.kind in (TEXT, DOCUMENT)

    def __init__(self, hyper_parameters: HyperParameters, data: ScoreData):
        super().__init__(hyper_parameters, data)
        if data.label.is_click:
            raise ConfigError(
                "convmf predicts ratings by their squared error; required: a label without a "
                "threshold, such as label.column: rating"
            )
        users, items = data.field("user_id"), data.field("item_id")
        self._text = ItemText(
            data, hyper_parameters.length, hyper_parameters.vocabulary, hyper_parameters.max_share
        )
        self.network = Network(hyper_parameters, self._text.tokens)
        log = data.events
        # Those below features.min_count have no factors: the mean stands in for them.
        known = (log.item >= FIRST_TOKEN) & (log.item < items.size)
        known &= (log.user >= FIRST_TOKEN) & (log.user < users.size)
        user, item, label = log.user[known], log.item[known], log.label[known]
        self._by_user = Ratings(user, item, label, users.size)
        self._by_item = Ratings(item, user, label, items.size)
        self._items = np.arange(FIRST_TOKEN, items.size, dtype=np.int64)
        weight = (
            np.sqrt(self._by_item.counts) if hyper_parameters.weigh_items else np.ones(items.size)
        )
        self._weight = tf.constant(weight / max(weight[FIRST_TOKEN:].mean(), 1e-9), tf.float32)
        width, uniform = hyper_parameters.factors, tf.keras.initializers.RandomUniform(0.0, 1.0)
        self.user_factors = TokenEmbedding(
            users.tokens,
            users.size,
            width,
            embeddings_initializer=uniform,
            trainable=False,
            dtype="float32",  # solved for, not learnt: no layer of them computes
            name="users",
        )
        self.item_factors = TokenEmbedding(
            items.tokens, items.size, width, trainable=False, dtype="float32", name="items"
        )
        self.user_factors.build(None)
        self.item_factors.build(None)
        self.item_factors.embeddings.assign(self.read_texts())

    def learn(self, loop: Loop) -> None:
        with loop.strategy.scope():
            optimizer = tf.keras.optimizers.RMSprop(self.hyper_parameters.learning_rate)
        loop.fit(self, optimizer=optimizer, before_epoch=traced(self.update_factors))

    def batches(self, data: ScoreData, seed: int, first_epoch: int) -> sampling.Batches:
        passes = self.hyper_parameters.network_epochs
        batches = sampling.shuffled_batches(
            {"item": self._items}, self.hyper_parameters.batch_size, seed, first_epoch * passes
        )
        return dataclasses.replace(
            batches, steps=passes * batches.steps, rows=passes * batches.rows
        )

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        item = inputs["item"]
        text = self.network(tf.gather(self._text.words, item), training=training)
        difference = tf.stop_gradient(self.item_factors(item)) - tf.cast(text, tf.float32)
        return tf.reduce_mean(tf.gather(self._weight, item) * tf.reduce_mean(difference**2, axis=1))

    def score_rows(self, inputs: Inputs, training: bool = False) -> tf.Tensor:
        given = self._text.read(inputs)
        new = (inputs["item_id"] < FIRST_TOKEN) & tf.reduce_any(given > 0, axis=1)
        # The known items' texts are not read again: all of them make one text of no words.
        of_text = encode_distinct(
            self.network, tf.where(new[:, tf.newaxis], given, 0), self.hyper_parameters.factors
        )
        item = tf.where(new[:, tf.newaxis], of_text, self.item_factors(inputs["item_id"]))
        return tf.reduce_sum(self.user_factors(inputs["user_id"]) * item, axis=1)

    def read_texts(self):
        """[items, factors] float32: s of every item."""
        return encode_distinct(self.network, self._text.words, self.hyper_parameters.factors)

    def update_factors(self):
        """Sets U, then V, to what is best given the rest."""
        users, items = self.user_factors.embeddings, self.item_factors.embeddings
        ridge = tf.fill([len(self._by_user.counts)], self.hyper_parameters.l2_users)
        users.assign(with_mean(self._by_user.solve(items, ridge, tf.zeros_like(users))))
        items.assign(
            with_mean(
                self._by_item.solve(
                    users, self.hyper_parameters.l2_items * self._weight, self.read_texts()
                )
            )
        )


class Ratings:
    """The train ratings by their rows, users or items, for ridge regressions of all rows at once.

    Args:
        row: [E] whose factors are solved for.
        other: [E] the other side.
        value: [E] float32.
        count: number of rows.
    """

    def __init__(self, row: np.ndarray, other: np.ndarray, value: np.ndarray, count: int):
        order = np.argsort(row, kind="stable")
        self.counts = np.bincount(row, minlength=count)
        # One more row without ratings, to fill the last block with; rows of like numbers of ratings
        # share a block.
        lengths = np.append(self.counts, 0)
        self._other = tf.RaggedTensor.from_row_lengths(other[order], lengths)
        self._value = tf.RaggedTensor.from_row_lengths(value[order].astype(np.float32), lengths)
        by_size = np.argsort(-self.counts, kind="stable")
        self._blocks = np.append(by_size, np.full(-count % _ROWS_AT_ONCE, count)).reshape(
            -1, _ROWS_AT_ONCE
        )
        self._place = np.argsort(by_size)

    def solve(self, factors: tf.Tensor, ridge: tf.Tensor, prior: tf.Tensor) -> tf.Tensor:
        """The argmin over x of sum (value - x . factor)^2 + ridge |x - prior|^2, for every row.

        Args:
            factors: [M, k] of the other side.
            ridge: [count] float32.
            prior: [count, k] float32.

        Returns:
            [count, k] float32.
        """
        width = factors.shape[1]
        ridge, prior = tf.pad(ridge, [[0, 1]], constant_values=1.0), tf.pad(prior, [[0, 1], [0, 0]])

        def block(rows):
            other, strength = tf.gather(self._other, rows), tf.gather(ridge, rows)[:, tf.newaxis]
            present = tf.sequence_mask(other.row_lengths(), dtype=tf.float32)[..., tf.newaxis]
            known = tf.gather(factors, other.to_tensor()) * present
            value = tf.gather(self._value, rows).to_tensor()[..., tf.newaxis]
            squares = tf.matmul(known, known, transpose_a=True) + strength[
                ..., tf.newaxis
            ] * tf.eye(width)
            right = tf.matmul(known, value, transpose_a=True)[..., 0] + strength * tf.gather(
                prior, rows
            )
            return tf.linalg.cholesky_solve(tf.linalg.cholesky(squares), right[..., tf.newaxis])[
                ..., 0
            ]

        solved = tf.map_fn(
            block,
            tf.constant(self._blocks),
            fn_output_signature=tf.TensorSpec([None, width], tf.float32),
            parallel_iterations=1,
        )
        return tf.gather(tf.reshape(solved, [-1, width]), self._place)


def with_mean(factors: tf.Tensor) -> tf.Tensor:
    """Puts the mean of the known rows in the place of the missing one and the unknown one."""
    return tf.concat(
        [
            tf.tile(tf.reduce_mean(factors[FIRST_TOKEN:], axis=0, keepdims=True), [FIRST_TOKEN, 1]),
            factors[FIRST_TOKEN:],
        ],
        axis=0,
    )


Model = ConvMF
