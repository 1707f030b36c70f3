"""Yahoo! JAPAN's news: articles by an auto-encoder of their words, users by a GRU over articles.

Cite: Okura, Tagami, Ono, Tajima: Embedding-based News Recommendation for Millions of Users,
KDD 2017.

    articles (step one, `models.industry.articles`; x: which words an article has)
    h        = f(W x~ + b) - f(b)         f: sigmoid; x~: x with a share p of its words hidden
    y        = f(W' h + b')               so an article without words is 0
    loss     = sum over n = 0, 1, 2 of L_R(y_n, x_n) + alpha log(1 + exp(h_0 . h_2 - h_0 . h_1))
               L_R: cross entropy over the words;  x_1: of the category of x_0;  x_2: of another
    applied  a = h of x~ = (1 - p) s x: nothing is drawn; s: the share of the text's words that are
               read in training, `article_length` of a longer one, else 1
    users (step two; the a stand still)
    h_t      = GRU(a_t, h_t-1)            h_0: learnt, of all users
    u_t      = tanh(W_u h_t + b_u)
    R(u, a)  = u . a
    loss     = - log sigmoid(R(u, a_p) - R(u, a_q) + B_pq), the mean over the articles q that were
               on display at a click on p and not clicked; of n clicks at a time each counts 1 / n
               B: learnt, by the positions of p and q; dropped at serving
    served   by R, and an article is left out whose cosine with one above it is over a threshold

What was on display is the events' column `shown`, in order of position; q is what the user clicked
nowhere in train, and events without a display are history alone. Where the log tells of no display
q is one of `negatives` random articles that the user has not had, and there is no B. The state at a
click is that before all clicks of the user at that time. An article that train has not seen, but
the table of items describes, is ranked as any other; one that no table knows has a vector by the
signature `encode_article`, to be multiplied with that of `embed`, and `update_state` reads it.

Deviations: not published and ours: p, alpha, the vocabulary, Adam and its rate for step one, what
is a duplicate, how many positions there are, tanh in u. L_R is summed over the vocabulary, beside
which one similarity is small: hence an alpha of thousands. Of a text longer than `article_length` a
sample is read each time, and words that it leaves out count as absent in L_R. The encoder learns
from the articles that train has, the newest `history_length` are read, and the first 100 alone are
searched for duplicates. Whoever has read nothing gets popularity, which here knows neither
freshness nor variety; nothing expires, and expected page views are not in the score.
"""

from typing import Any, ClassVar

import numpy as np
import pydantic
import tensorflow as tf

from models.contract.item_to_item import ItemVectorModel
from models.contract.loop import Loop
from models.contract.query import Query
from models.contract.recommender import weighed
from models.contract.requests import signature
from models.industry.articles import ArticleEncoder, Articles, ArticleSettings, Words
from models.industry.displays import Displays, moments
from models.industry.recurrent import read_through
from models.inputs import sampling
from models.inputs.columns import as_tensor, take_index
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.schema import Field, raw_signature
from models.inputs.token_layers import TokenEmbedding
from models.names.hyper_parameters import Epochs, Gradient, Ranking, Xla
from models.names.label import WEIGHT
from models.names.sizes import ADDED, Parameters, Sizes, dense


class HyperParameters(Ranking, Epochs, Gradient, Xla, ArticleSettings):
    """Yahoo's own; sizes, batch and rate are the paper's.

    Attributes:
        units: width of the GRU.
        history_length: articles that are read, the latest.
        positions: places on a display that B tells apart; those behind are as the last.
        negatives: random articles a click, where nothing says what was on display.
        duplicate_cosine: an article that is more similar to one above it is left out; None: none.
    """

    REFUSALS: ClassVar[dict[str, str]] = {
        "mixed_precision": "its states are carried, and its vectors compared, in float32",
    }

    batch_size: int = 20
    learning_rate: float = 5e-3
    units: int = pydantic.Field(200, ge=1)
    history_length: int = pydantic.Field(100, ge=1)
    positions: int = pydantic.Field(20, ge=1)
    negatives: int = pydantic.Field(10, ge=1)
    duplicate_cosine: float | None = pydantic.Field(0.98, gt=0, le=1)

    def parameters(self, sizes: Sizes) -> Parameters:
        width, rows = self.article_dim, min(self.vocabulary, sizes.item_words) + ADDED
        learnt = 2 * rows * width + rows + width  # the encoder
        learnt += dense(width + self.units, 3 * self.units) + dense(self.units, width)
        learnt += self.units + self.positions**2
        return Parameters(learnt, held=(sizes.catalogue + ADDED) * width)


class YahooNews(ItemVectorModel[HyperParameters]):
    """A state of what a user has read, near the articles that come next."""

    cold_items = True
    reads_item_features = True
    reranks = 100

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        own = hyper_parameters
        self._data, self._words = data, Words(data, own.vocabulary)
        self.encoder = ArticleEncoder(self._words.tokens, own)
        self.encoder.trainable = False
        # What the encoder makes of all items: filled in when it has learnt.
        self.articles = TokenEmbedding(
            data.items.ids,
            data.items.index_count,
            own.article_dim,
            embeddings_initializer="zeros",
            trainable=False,
            name="articles",
        )
        self.articles.build(None)
        self.gru = tf.keras.layers.GRUCell(own.units, reset_after=False)
        self.gru.build([None, own.article_dim])
        self.user = tf.keras.layers.Dense(own.article_dim, "tanh", name="user")
        self.user.build([None, own.units])
        self.first_state = self.add_weight("first_state", [own.units], initializer="zeros")
        places = [own.positions, own.positions]
        self.position_bias = self.add_weight("position_bias", places, initializer="zeros")

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        own, log = self.hyper_parameters, data.events
        items, (start, weight) = as_tensor(log.item), moments(log)
        displays = Displays(log, own.positions) if log.shown is not None else None
        told = displays is not None and len(displays.clicks) > 0
        clicks = displays.clicks if told else np.arange(len(log))
        columns = {
            "user": log.user[clicks],
            "item": log.item[clicks],
            "begin": np.maximum(start - own.history_length, start - log.position[start])[clicks],
            "end": start[clicks],
            WEIGHT: (weight * log.example_weight)[clicks],
        }
        if told:
            columns |= {"place": displays.place, "display": np.arange(len(clicks))}
        negatives = sampling.UniformNegatives(log.user, log.item, data.items.train_count)

        def drawn(batch):
            read = take_index(items, tf.ragged.range(batch.pop("begin"), batch.pop("end")))
            batch["history"] = read.to_tensor()
            seed, user = batch.pop("step_seed"), batch.pop("user")
            if told:
                beside = displays.others(batch.pop("display"))
                return {**batch, **beside}
            others = negatives.draw(user, own.negatives, seed)
            nowhere = {"place": tf.zeros_like(batch["item"]), "places": tf.zeros_like(others)}
            return {**batch, "others": others, **nowhere}

        return sampling.shuffled_batches(columns, own.batch_size, seed, first_epoch).map(drawn)

    def learn(self, loop: Loop) -> None:
        self.learn_articles(loop)
        self.learn_users(loop)

    def learn_articles(self, loop: Loop) -> None:
        """Step one, which fills in `articles`."""
        with loop.strategy.scope():
            step = Articles(self.hyper_parameters, loop.data, self.encoder, self._words.of_items)
        step.learn(loop)
        self.articles.embeddings.assign(self.encoder.encode_all(self._words.of_items))

    def learn_users(self, loop: Loop) -> None:
        """Step two, by what stands in `articles`."""
        with loop.strategy.scope():
            optimizer = tf.keras.optimizers.RMSprop(self.hyper_parameters.learning_rate)
        loop.fit(self, optimizer=optimizer)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        others = inputs["others"]
        apart = self.articles(inputs["item"])[:, tf.newaxis] - self.articles(others)
        margin = tf.linalg.matvec(apart, self.user(self.read(inputs["history"])))
        margin += self.bias_of(inputs["place"][:, tf.newaxis], inputs["places"])
        there = tf.cast(others >= FIRST_TOKEN, tf.float32)
        rows = tf.reduce_sum(there * tf.nn.softplus(-margin), axis=1)
        rows = tf.math.divide_no_nan(rows, tf.reduce_sum(there, axis=1))
        return tf.reduce_mean(weighed(inputs, rows))

    def bias_of(self, place: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
        """B of places from 1 on, which broadcast; 0 where one is 0: nobody knows it."""
        known = tf.cast((place > 0) & (others > 0), tf.float32)
        pair = tf.maximum(place - 1, 0) * self.hyper_parameters.positions
        pair += tf.maximum(others - 1, 0)
        return known * tf.gather(tf.reshape(self.position_bias, [-1]), pair)

    def read(self, history: tf.Tensor) -> tf.Tensor:
        """[B, L] item indices, padded on the right with 0 -> [B, units] states after the last."""
        # A step of padding more: the state of a history of none is the first.
        vectors = self.articles(tf.pad(history, [[0, 0], [0, 1]]))
        there = tf.reduce_any(vectors != 0, axis=-1)
        states = read_through(self.gru, vectors, there, self.first_state)
        return states[:, -1]

    def item_vectors(self, index: tf.Tensor) -> tf.Tensor:
        return self.articles(index)

    def item_embeddings(self) -> tf.Tensor:
        return self.articles.embeddings[FIRST_TOKEN:]

    def query_embedding(self, query: Query) -> tf.Tensor:
        return self.user(
            self.read(query.history[:, -self.hyper_parameters.history_length :].to_tensor())
        )

    def rerank(self, query: Query, position: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
        limit = self.hyper_parameters.duplicate_cosine
        if limit is None:
            return score
        vectors = tf.math.l2_normalize(self.articles(position + FIRST_TOKEN), axis=2)
        kept = without_duplicates(tf.matmul(vectors, vectors, transpose_b=True) > limit)
        return tf.where(kept, score, float("-inf"))

    def item_fields(self) -> tuple[Field, ...]:
        return tuple(self._words.fields)

    def embed_features(self, raw: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        words = self._words.read(self._data.item_index(raw))
        return self.encoder(words), words.row_lengths() > 0

    def signatures(self, retriever: Any) -> dict[str, Any]:
        """`encode_article` and `update_state`, by which new articles are served without training.

        `encode_article`, which is `embed_items` under the paper's name: the texts of articles by
        their names, [B] strings, "" where missing -> `embedding` [B, D] float32, and `known` [B]
        bool: false, and the embedding 0, where there is no word that train has.

        `update_state`: `state` [B, units] float32, 0 throughout of a user who has read nothing, and
        `embedding` [B, D] of the article that was read -> the next `state`, and the user's
        `embedding` [B, D], which is what `embed` returns and `retrieve` takes. An article of 0
        leaves the state as it is.
        """

        def update_state(state: tf.Tensor, embedding: tf.Tensor) -> dict[str, tf.Tensor]:
            nobody = tf.reduce_all(state == 0, axis=1, keepdims=True)
            state = tf.where(nobody, self.first_state, state)
            after, _ = self.gru(embedding, [state])
            state = tf.where(tf.reduce_any(embedding != 0, axis=1, keepdims=True), after, state)
            return {"state": state, "embedding": self.user(state)}

        own = self.hyper_parameters
        return {
            "encode_article": signature(retriever.embed_items, **raw_signature(self.item_fields())),
            "update_state": signature(
                update_state,
                state=tf.TensorSpec([None, own.units], tf.float32, name="state"),
                embedding=tf.TensorSpec([None, own.article_dim], tf.float32, name="embedding"),
            ),
        }


def without_duplicates(near: tf.Tensor) -> tf.Tensor:
    """Walks down lists: an item is kept that is not near one that is kept above it.

    Args:
        near: [B, K, K] bool, which items are near which.

    Returns:
        [B, K] bool.
    """
    place = tf.range(tf.shape(near)[1])
    near &= place < place[:, tf.newaxis]

    # Each round is right for one place more at least; mostly for all after two or three.
    def step(kept, _):
        return ~tf.reduce_any(near & kept[:, tf.newaxis], axis=2), kept

    everything = tf.ones(tf.shape(near)[:2], tf.bool)
    return tf.while_loop(
        lambda kept, before: tf.reduce_any(kept != before),
        step,
        (step(everything, None)[0], everything),
    )[0]


Model = YahooNews
