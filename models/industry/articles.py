"""Articles by their words: a denoising auto-encoder that categories supervise weakly.

Step one of `models.industry.yahoo_news`, where paper and equations stand.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pydantic
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.recommender import Recommender
from models.industry.triplets import Triplets, category_of
from models.inputs import sampling
from models.inputs.columns import drop_unknown
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.token_layers import TokenEmbedding
from models.names.errors import DataError
from models.names.features import TEXT
from models.names.hyper_parameters import HyperParameters

_BLOCK = 8192  # articles encoded at once


class ArticleSettings(HyperParameters):
    """How articles are encoded, and how that is learnt.

    Attributes:
        article_dim: width of the vectors.
        vocabulary: words that are read, those in the most articles of train.
        article_length: words of an article that are read in training; of more a systematic sample,
            drawn anew each time.
        corruption: p, the share of an article's words that are hidden.
        similarity: alpha, what the similarity counts beside the reconstruction.
        category: the feature of one value that says what is similar; left out, the first by name;
            empty, none.
        article_epochs: passes over the articles of train.
        article_batch_size: triplets a step.
        article_learning_rate: of Adam.
    """

    article_dim: int = pydantic.Field(500, ge=1)
    vocabulary: int = pydantic.Field(10_000, ge=1)
    article_length: int = pydantic.Field(200, ge=1)
    corruption: float = pydantic.Field(0.3, ge=0, lt=1)
    similarity: float = pydantic.Field(10_000.0, ge=0)
    category: str | None = None
    article_epochs: int = pydantic.Field(20, ge=1)
    article_batch_size: int = pydantic.Field(100, ge=1)
    article_learning_rate: float = pydantic.Field(3e-3, gt=0)

    def named_columns(self) -> Iterator[tuple[str, str]]:
        yield from super().named_columns()
        if self.category:
            yield "category", self.category


class Words:
    """The words of articles, in one vocabulary of all their texts.

    Args:
        data: its items have text.
        vocabulary: how many words there are, those in the most articles of train.

    Attributes:
        tokens: the vocabulary; index 2 + n is word n.
        fields: the features that hold text, of `TrainingData.item_fields`.
        of_items: ragged [N + 2, None] int64: the words of the items by index.

    Raises:
        DataError: the items have no text.
    """

    def __init__(self, data: TrainingData, vocabulary: int):
        self.fields = [field for field in data.item_fields if field.kind == TEXT]
        if not self.fields:
            raise DataError(
                "the model reads the text of items; required: a column of the table items that "
                "data.schema says is text (natural_language_domain); received: "
                f"{', '.join(field.name for field in data.item_fields) or 'no column'}"
            )
        tokens = np.concatenate([np.asarray(field.tokens, object) for field in self.fields])
        distinct, number = np.unique(tokens, return_inverse=True)
        ends = np.cumsum([len(field.tokens) for field in self.fields])
        self._index = {
            field.name: np.r_[[0] * FIRST_TOKEN, FIRST_TOKEN + numbers]
            for field, numbers in zip(self.fields, np.split(number, ends[:-1]), strict=True)
        }
        of_train = self.read(data.items.features)[: data.items.embedding_rows]
        articles = np.bincount(of_train.flat_values, minlength=len(distinct) + FIRST_TOKEN)
        count = articles[FIRST_TOKEN:]
        kept = np.sort(np.lexsort((np.arange(len(count)), -count))[:vocabulary])
        place = np.zeros(len(distinct) + FIRST_TOKEN, np.int64)
        place[FIRST_TOKEN + kept] = FIRST_TOKEN + np.arange(len(kept))
        self._index = {name: place[index] for name, index in self._index.items()}
        self.tokens = tuple(distinct[kept])
        self.of_items = self.read(data.items.features)

    def read(self, columns: Mapping[str, tf.RaggedTensor]) -> tf.RaggedTensor:
        """The distinct words of [K] articles, ragged [K, None] int64, ascending.

        Args:
            columns: name of a field -> ragged [K, None] indices of its words.
        """
        parts = [
            columns[name].with_flat_values(tf.gather(index, columns[name].flat_values))
            for name, index in self._index.items()
        ]
        words = drop_unknown(tf.concat(parts, axis=1))
        size = max(int(index.max(initial=0)) for index in self._index.values()) + 1
        keys, _ = tf.unique(tf.sort(words.value_rowids() * size + words.flat_values))
        return tf.RaggedTensor.from_value_rowids(
            keys % size, keys // size, words.nrows(), validate=False
        )


class ArticleEncoder(tf.keras.layers.Layer):
    """h = f(W x + b) - f(b) of articles, and y = f(W' h + b'), what their words are made again.

    Args:
        tokens: the vocabulary.
        settings: see `ArticleSettings`.
    """

    def __init__(self, tokens: tuple[bytes, ...], settings: ArticleSettings):
        super().__init__(name="encoder")
        self._rows, width = len(tokens) + FIRST_TOKEN, settings.article_dim
        self._kept, self._most = 1.0 - settings.corruption, settings.article_length
        limit = (6.0 / (self._rows + width)) ** 0.5

        def uniform() -> tf.keras.initializers.Initializer:  # one would begin both tables alike
            return tf.keras.initializers.RandomUniform(-limit, limit)

        def table(dimension: int, initializer: Any, name: str) -> TokenEmbedding:
            layer = TokenEmbedding(
                tokens, self._rows, dimension, embeddings_initializer=initializer, name=name
            )
            layer.build(None)
            return layer

        self.words = table(width, uniform(), "words")  # W
        self.decoded = table(width, uniform(), "decoded")  # W'
        self.decoded_bias = table(1, "zeros", "decoded_bias")  # b'
        self.bias = self.add_weight("bias", [width], initializer="zeros")  # b

    def call(self, words: tf.RaggedTensor) -> tf.Tensor:
        """As it is applied: ragged [K, None] words -> [K, D]; 0 of an article without any."""
        word, place = tf.unique(words.flat_values, tf.int64)
        total = tf.math.unsorted_segment_sum(
            tf.gather(self.words(word), place), words.value_rowids(), words.nrows()
        )
        # In training no more of a text are read, so of a longer one each word that much seldomer.
        read = self._most / tf.maximum(words.row_lengths(), self._most)
        share = self._kept * tf.cast(read, total.dtype)
        return self.activate(share[:, tf.newaxis] * total)

    def corrupted(self, words: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        """[..., L] words, 0 for none, and [..., L] bool which are not hidden -> [..., D]."""
        there = tf.cast(kept & (words >= FIRST_TOKEN), tf.float32)
        return self.activate(tf.linalg.matvec(self.words(words), there, transpose_a=True))

    def activate(self, product: tf.Tensor) -> tf.Tensor:
        """W x -> f(W x + b) - f(b)."""
        return tf.sigmoid(product + self.bias) - tf.sigmoid(self.bias)

    def reconstruction(self, vectors: tf.Tensor, words: tf.Tensor) -> tf.Tensor:
        """L_R, the cross entropy of y and x summed over the vocabulary.

        Args:
            vectors: [B, D] float32 h.
            words: [B, L] int64 words of x, 0 for none.

        Returns:
            [B] float32.
        """
        logits = tf.matmul(vectors, self.decoded.embeddings, transpose_b=True)
        logits += self.decoded_bias.embeddings[:, 0]
        there = tf.cast(words >= FIRST_TOKEN, tf.float32)
        told = tf.reduce_sum(there * tf.gather(logits, words, batch_dims=1), axis=1)
        return tf.reduce_sum(tf.nn.softplus(logits[:, FIRST_TOKEN:]), axis=1) - told

    def encode_all(self, words: tf.RaggedTensor) -> np.ndarray:
        """As `call`, of many articles: [N, D] float32."""
        rows = range(0, int(words.nrows()), _BLOCK)
        return np.concatenate([self(words[start : start + _BLOCK]).numpy() for start in rows])


class Articles(Recommender[ArticleSettings]):
    """Step one: an encoder learns from the articles that train has.

    Args:
        hyper_parameters: settings that include `ArticleSettings`.
        data: what the task trains on.
        encoder: what learns.
        words: ragged [N + 2, None] words of the items.
    """

    def __init__(
        self,
        hyper_parameters: Any,
        data: TrainingData,
        encoder: ArticleEncoder,
        words: tf.RaggedTensor,
    ):
        super().__init__(hyper_parameters, data)
        self.encoder, self._words = encoder, words
        self._category = category_of(data, hyper_parameters.category)

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        own, category = self.hyper_parameters, self._category[: data.items.embedding_rows]
        triplets, words, most = Triplets(category), self._words, own.article_length
        begins, sizes = words.row_starts(), words.row_lengths()
        articles = {"article": np.arange(FIRST_TOKEN, len(category))}

        def drawn(batch):
            seeds = sampling.split(batch["step_seed"], 3)
            same, other, there = triplets.draw(batch["article"], seeds[0])
            texts = tf.stack([batch["article"], same, other], axis=1)
            begin, size = (tf.gather(each, texts)[..., tf.newaxis] for each in (begins, sizes))
            place = tf.range(tf.clip_by_value(tf.reduce_max(size), 0, most))  # of no row less
            # A text that is too long is other words of itself each time, as far from each other.
            turn = sampling.uniform(tf.shape(size), seeds[1], dtype=tf.float64)
            step = tf.cast(turn * tf.cast(size, tf.float64), tf.int64)
            step += place * tf.maximum(size, most) // most
            inside = place < size
            chosen = tf.where(inside, begin + step % tf.maximum(size, 1), 0)
            # Drawn as wide as texts can be: in every share of a batch the longest is another.
            shape = tf.concat([tf.shape(texts), [most]], axis=0)
            hidden = sampling.uniform(shape, seeds[2])[..., : tf.size(place)]
            return {
                "words": tf.where(inside, tf.gather(words.flat_values, chosen), 0),
                "kept": inside & (hidden >= own.corruption),
                "there": there,
            }

        batches = sampling.shuffled_batches(articles, own.article_batch_size, seed, first_epoch)
        return batches.map(drawn)

    def learn(self, loop: Loop) -> None:
        own = self.hyper_parameters
        with loop.strategy.scope():
            optimizer = tf.keras.optimizers.Adam(own.article_learning_rate)
        self.trainable = True
        loop.fit(self, "articles", optimizer, epochs=own.article_epochs, validate=False)
        # The user's step compares with the vectors, and must not move them.
        self.trainable = False

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        texts, kept = (tf.unstack(inputs[name], axis=1) for name in ("words", "kept"))
        pairs = zip(texts, kept, strict=True)
        vectors = [self.encoder.corrupted(*pair) for pair in pairs]  # h_0, h_1, h_2
        lost = [self.encoder.reconstruction(*pair) for pair in zip(vectors, texts, strict=True)]
        far = tf.reduce_sum(vectors[0] * (vectors[2] - vectors[1]), axis=1)
        apart = tf.cast(inputs["there"], tf.float32) * tf.nn.softplus(far)
        return tf.reduce_mean(tf.add_n(lost) + self.hyper_parameters.similarity * apart)
