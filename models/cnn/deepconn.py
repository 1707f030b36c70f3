"""DeepCoNN: two convolutional networks read the reviews of a user and of an item.

One reads what a user has written, the other what has been written about an item.

Cite: Zheng, Noroozi, Yu: Joint Deep Modeling of Users and Items Using Reviews for Recommendation,
WSDM 2017.

    x      = ReLU(W max over time ReLU(V * K + b) + g)
             V: the vectors of the words of the user's document
    y      = likewise of the item's document, with kernels and weights of its own
    z      = [x, y]
    rating = w0 + w . z + sum_{j < l} <v_j, v_l> z_j z_l
           = w0 + w . z + 1/2 sum_f [ (sum_j v_jf z_j)^2 - sum_j v_jf^2 z_j^2 ]
    loss   = squared error

A document is all the reviews that train has of a user (of an item), the newest first, cut at the
end. The pair's own review is never in it, neither in training nor at the prediction: it does not
exist when a rating is asked for (Catherine, Cohen, RecSys 2017, show how much of the published gain
it makes). A request may bring documents of its own; where it does not, those of train are read.

Deviations: the word vectors start at random unless `vectors` names a file of pre-trained ones, and
are learnt; the vocabulary is Transform's, of all reviews, one table for both networks; w0 starts at
the train mean; dropout is on the pairwise vector of the factorization machine, with its weights and
those of the networks initialised as in the NARRE authors' implementation.
"""

from typing import ClassVar

import numpy as np
import pydantic
import tensorflow as tf

from models.cnn.layers import MaxOverTime, WordEmbedding, count_words, encode_distinct, trim
from models.contract.loop import Loop
from models.contract.score import ScoreModel
from models.inputs.documents import Documents
from models.inputs.dropout import Dropout
from models.inputs.score_data import Inputs, ScoreData
from models.names.features import DOCUMENT, Feature
from models.names.hyper_parameters import Epochs, Gradient, MixedPrecision
from models.names.sizes import ADDED, Parameters, Sizes, dense


class HyperParameters(Epochs, Gradient, MixedPrecision):
    """DeepCoNN's own.

    Attributes:
        word_dimension: of a word's vector.
        vectors: a text file of word vectors, see `WordEmbedding`.
        kernels: convolution kernels of a network (n1).
        window: words of a window (t).
        units: of a network's last layer (n2).
        factors: of the factorization machine.
        dropout: share of its pairwise vector that is dropped in training.
        length_quantile: documents are cut to the length that this share of them does not exceed,
        longest: and to this many words at most.
    """

    REFUSALS: ClassVar[dict[str, str]] = {
        "jit_compile": "a step cuts the pair's own review out of ragged documents, which XLA "
        "does not compile",
    }

    epochs: int = 40
    batch_size: int = 100
    learning_rate: float = 0.002
    word_dimension: int = pydantic.Field(300, ge=1)
    vectors: str | None = None
    kernels: int = pydantic.Field(100, ge=1)
    window: int = pydantic.Field(3, ge=1)
    units: int = pydantic.Field(50, ge=1)
    factors: int = pydantic.Field(8, ge=1)
    dropout: float = pydantic.Field(0.5, ge=0, lt=1)
    length_quantile: float = pydantic.Field(0.85, gt=0, le=1)
    longest: int = pydantic.Field(500, ge=1)

    def parameters(self, sizes: Sizes) -> Parameters:
        words = (sizes.review_words + ADDED) * self.word_dimension
        network = dense(self.word_dimension * self.window, self.kernels)
        network += dense(self.kernels, self.units)
        machine = 1 + 2 * self.units * (1 + self.factors)
        return Parameters(words + 2 * network + machine, slots=1)


class Network(tf.keras.layers.Layer):
    """One of the two parallel networks: the documents of the users, or of the items, to [B, units].

    Args:
        documents: of train.
        embedding: of words, shared by both networks.
    """

    def __init__(
        self,
        hyper_parameters: HyperParameters,
        documents: Documents,
        embedding: WordEmbedding,
        name: str,
    ):
        super().__init__(name=name)
        small = tf.keras.initializers.TruncatedNormal(stddev=0.1)
        bias = tf.keras.initializers.Constant(0.1)
        written = np.minimum(documents.lengths[documents.lengths > 0], hyper_parameters.longest)
        self.length = (
            int(np.ceil(np.quantile(written, hyper_parameters.length_quantile)))
            if len(written)
            else 1
        )
        self._documents = documents
        self._units = hyper_parameters.units
        self._embedding = embedding
        self._pooled = MaxOverTime(
            hyper_parameters.kernels,
            hyper_parameters.window,
            kernel_initializer=small,
            bias_initializer=bias,
        )
        self._dense = tf.keras.layers.Dense(
            hyper_parameters.units, activation="relu", bias_initializer=bias
        )

    def words(self, given, owner, partner):
        """[B, length] int32: the words of the documents.

        That is the document `given` ([B, any] words) where there is one, else train's without the
        pair's own review.
        """
        given = given[:, : self.length]
        given = tf.pad(given, [[0, 0], [0, self.length - tf.shape(given)[1]]])
        stored = self._documents.without(owner, partner, self.length)
        return tf.where(tf.reduce_any(given > 0, axis=1, keepdims=True), given, stored)

    def call(self, words, training=False):
        # In a batch of training every row has a document of its own; elsewhere most rows of a user,
        # or of an item, share one.
        return (
            self._encode(words) if training else encode_distinct(self._encode, words, self._units)
        )

    def _encode(self, words):
        words = trim(words)
        return self._dense(self._pooled(self._embedding(words), count_words(words)))


class DeepCoNN(ScoreModel[HyperParameters]):
    """Two networks, joined by a factorization machine."""

    @staticmethod
    def reads(feature: Feature) -> bool:
        return feature.kind == DOCUMENT

    def __init__(self, hyper_parameters: HyperParameters, data: ScoreData):
        super().__init__(hyper_parameters, data)
        users, items = (
            data.documents(entity, hyper_parameters.longest) for entity in ("user", "item")
        )
        uniform = tf.keras.initializers.RandomUniform(-1.0, 1.0)
        tokens = data.field("user_document").tokens
        self.embedding = WordEmbedding(
            tokens, hyper_parameters.word_dimension, uniform, hyper_parameters.vectors, name="words"
        )
        self.user_network = Network(hyper_parameters, users, self.embedding, name="user")
        self.item_network = Network(hyper_parameters, items, self.embedding, name="item")
        self.machine = FactorizationMachine(
            2 * hyper_parameters.units, hyper_parameters, self.initial_score
        )

    def learn(self, loop: Loop) -> None:
        with loop.strategy.scope():
            optimizer = tf.keras.optimizers.RMSprop(self.hyper_parameters.learning_rate)
        loop.fit(self, optimizer=optimizer)

    def score_rows(self, inputs: Inputs, training: bool = False) -> tf.Tensor:
        user, item = inputs["user_id"], inputs["item_id"]
        x = self.user_network(
            self.user_network.words(inputs["user_document"], user, item), training=training
        )
        y = self.item_network(
            self.item_network.words(inputs["item_document"], item, user), training=training
        )
        return self.machine(tf.concat([x, y], axis=1), training=training)


class FactorizationMachine(tf.keras.layers.Layer):
    """w0 + w . z + the dot products of all pairs: [B, n] -> [B]."""

    def __init__(self, inputs: int, hyper_parameters: HyperParameters, bias: float):
        super().__init__(name="machine")

        def uniform() -> tf.keras.initializers.Initializer:  # one would begin both alike
            return tf.keras.initializers.RandomUniform(-0.1, 0.1)

        self.bias = self.add_weight(
            name="bias", shape=[], initializer=tf.keras.initializers.Constant(bias)
        )
        self.linear = self.add_weight(name="linear", shape=[inputs], initializer=uniform())
        self.factors = self.add_weight(
            name="factors", shape=[inputs, hyper_parameters.factors], initializer=uniform()
        )
        self._dropout = Dropout(hyper_parameters.dropout)

    def call(self, z, training=False):
        pairs = 0.5 * (tf.matmul(z, self.factors) ** 2 - tf.matmul(z**2, self.factors**2))
        return (
            self.bias
            + tf.linalg.matvec(z, self.linear)
            + tf.reduce_sum(self._dropout(pairs, training=training), axis=1)
        )


Model = DeepCoNN
