"""Airbnb's listing embeddings, and user types and listing types in one space.

Cite: Grbovic, Cheng: Real-time Personalization using Embeddings for Search Ranking at Airbnb,
KDD 2018.

    listings   loss of a click on l = - sum over c of its window of log sigmoid(v'_c . v_l)
                      - log sigmoid(v'_b . v_l)                       b: what its session booked
                      - sum over N random listings and M of l's market of log sigmoid(- v'_n . v_l)
               a session that booked counts `booked_weight` times
    types      a user's bookings in their order, as user type, listing type, user type, ...: the
               same loss on that, whose last sum is over `rejections` types that refused the centre
               type, or were refused by it
    score      mean over the last clicks j of cos(v_j, v_i); without a click cos(v_ut, v_lt)
               clicks are all events but bookings, rejections and what was only shown; where
               train has no others, or a request tells no types, every event is one
    cold       a listing that train has not seen is the mean of the 3 nearest that have a vector

The booked listing is the context of every click of its session, however far away. A type is what
the features named by `user_type` and `listing_type` say together; left out, all that have one value
(numbers by their quantile bucket). A listing that was never the centre of a window, all of its
clicks being sessions of one that booked nothing, has no vector. Users whose type never booked, and
listings that have no vector, get and are none.

Deviations: Adam on batches of clicks, where word2vec steps pair by pair. Nearest is measured by how
many features are the same, those of the market (`market`) among them, for nobody but a listing site
has coordinates; where no market is named any listing may be near. A user's type is that of the
table of users, not as it was when a booking was made. Ten passes, no validation, for the types.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pydantic
import tensorflow as tf

from models.contract.item_to_item import ItemToItemModel, LastItems
from models.contract.loop import Loop
from models.contract.query import Query
from models.contract.recommender import Recommender
from models.industry.clicks import are, centres, click_sessions, click_types
from models.industry.listing_types import NEAREST, market_of, nearest_listings, types_of
from models.industry.windows import Windows, window_loss
from models.inputs.columns import choose
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.sampling import Batches
from models.inputs.token_layers import TokenEmbedding, ZeroRows, around_zero, id_embedding
from models.inputs.traced import traced
from models.names.hyper_parameters import Epochs, Gradient, LazyAdam, Xla
from models.names.sizes import ADDED, Parameters, Sizes
from models.training.optimizers import Adam


class HyperParameters(LastItems, Epochs, Gradient, LazyAdam, Xla):
    """Airbnb's own.

    Attributes:
        booking_types: event types that mean that a listing was booked.
        rejection_types: those that mean that the host refused.
        shown_types: those that mean that it was shown and no more: neither clicks nor anything.
        market: the feature of the listings that is their market; None: there are no markets.
        user_type: features of users that make a type; left out, all of one value.
        listing_type: likewise of listings.
        window: clicks on either side that are the context of a click.
        market_negatives: listings of the same market drawn against each click, if `market` is told.
        rejections: types that refused, or were refused, against each type.
        booked_weight: how often a session counts that booked.
    """

    epochs: int = 10
    batch_size: int = 1024
    learning_rate: float = 5e-3
    embedding_dim: int = pydantic.Field(32, ge=1)
    window: int = pydantic.Field(5, ge=1)
    negatives: int = pydantic.Field(5, ge=1)
    market_negatives: int = pydantic.Field(5, ge=0)
    rejections: int = pydantic.Field(5, ge=0)
    booked_weight: int = pydantic.Field(5, ge=1)
    booking_types: tuple[str, ...] = ("booking", "booked", "buy", "purchase", "order")
    rejection_types: tuple[str, ...] = ("rejection", "rejected")
    shown_types: tuple[str, ...] = ("impression", "shown", "skip", "skipped")
    market: str | None = None
    user_type: tuple[str, ...] | None = None
    listing_type: tuple[str, ...] | None = None

    def named_columns(self) -> Iterator[tuple[str, str]]:
        yield from super().named_columns()
        if self.market is not None:
            yield "market", self.market
        yield from (("user_type", name) for name in self.user_type or ())
        yield from (("listing_type", name) for name in self.listing_type or ())

    def parameters(self, sizes: Sizes) -> Parameters:
        # A type is a combination of features of one value, and of any entity at most one.
        types = 0
        for entity, count in (("user", sizes.users), ("item", sizes.catalogue)):
            single = [feature.values + 1 for feature in sizes.of(entity) if feature.is_single]
            types += ADDED + min(math.prod(single), count + 1)
        width = self.embedding_dim
        # The types are learnt in two tables beside, with their optimiser's and the averages.
        held = types * width
        return Parameters(2 * sizes.table("item", width), held, beside=8 * held)


class Airbnb(ItemToItemModel[HyperParameters]):
    """One space of listings for those who click, one of types for those who do not."""

    cold_items = True
    weighs_rows = False
    reads_history = ("event_types",)
    reads_item_features = True

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        width = hyper_parameters.embedding_dim
        embedded = centres(data, hyper_parameters)
        initial = ZeroRows(np.flatnonzero(~embedded), around_zero(width))
        self.listings = id_embedding(data.items, width, initial, name="listings")
        self.contexts = id_embedding(data.items, width, around_zero(width), name="contexts")
        self._clicks = tf.constant(click_types(data, hyper_parameters))
        self._user_type, users = types_of(data.users, "user", hyper_parameters.user_type)
        self._listing_type, listings = types_of(data.items, "item", hyper_parameters.listing_type)
        self._listing_type += FIRST_TOKEN + len(users)
        # Filled by a stage of its own: the model's own steps leave it alone.
        self.types = TokenEmbedding(
            [*users, b"missing", b"unknown", *listings],
            2 * FIRST_TOKEN + len(users) + len(listings),
            width,
            embeddings_initializer="zeros",
            trainable=False,
            name="types",
        )
        for table in (self.listings, self.contexts, self.types):
            table.build(None)
        self.market = market_of(data.items, hyper_parameters.market)
        # Indices, 0 for none; there is a row at least, to be looked at where nothing is cold.
        near = np.append(
            nearest_listings(data.items, self.market, embedded), [[-1] * NEAREST], axis=0
        )
        self._near = tf.constant(np.where(near >= 0, near + FIRST_TOKEN, 0))

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> Batches:
        own, rows = self.hyper_parameters, data.items.embedding_rows
        item, session, bought = click_sessions(data, own)
        windows = Windows(item, session, own.window, goal=bought, goal_weight=own.booked_weight)
        near = (self.market[:rows], own.market_negatives) if own.market is not None else None
        return windows.batches(rows, own.negatives, near, own.batch_size, seed, first_epoch)

    def learn(self, loop: Loop, stage: str = "model", validate: bool = True) -> None:
        """Learns listings, then types; a ranker that reads them calls the listings a `stage`."""
        own = self.hyper_parameters

        def fit(model: Any, stage: str, validate: bool) -> None:
            with loop.strategy.scope():
                optimizer = Adam(own.learning_rate, lazy=own.lazy_adam)
            loop.fit(model, stage, optimizer, own.epochs, validate=validate)

        fit(self, stage, validate)
        rows = self.types.input_dim
        types = Types(own, loop.data, self._user_type, self._listing_type, rows)
        if types.booked:
            fit(types, "types", False)
            self.types.embeddings.assign(types.learnt())

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        return window_loss(self.listings, self.contexts, inputs)

    def item_vectors(self, index: tf.Tensor) -> tf.Tensor:
        """The vectors of listings; of a cold one the mean of those near it, 0 of too few."""
        near = tf.gather(self._near, tf.maximum(index - self.listings.input_dim, 0))
        known = tf.math.l2_normalize(self.listings(tf.maximum(near, FIRST_TOKEN)), axis=2)
        mean = tf.where(near[:, :1] > 0, tf.reduce_mean(known, axis=1), 0.0)
        cold = (index >= self.listings.input_dim)[:, tf.newaxis]
        return tf.where(cold, mean, self.listings(index))

    def catalogue(self) -> Any:
        """The listings' vectors and those of their types side by side; and the penalties."""
        vectors, penalty = super().catalogue()
        return tf.concat([vectors, self.types(self._listing_type[FIRST_TOKEN:])], axis=1), penalty

    def query_embedding(self, query: Query) -> tf.Tensor:
        """The clicks' mean in the listings' half; or, without any, the type in the other."""
        query = self._clicked(query)
        none = tf.cast(query.history.row_lengths() == 0, tf.float32)[:, tf.newaxis]
        of_user = none * self.user_types(query.user)
        return tf.concat([super().query_embedding(query), of_user], axis=1)

    def answers(self, query: Query) -> tf.Tensor:
        query = self._clicked(query)
        without = query.history.row_lengths() == 0
        typed = without & tf.reduce_any(self.user_types(query.user) != 0, axis=1)
        return super().answers(query) | typed

    def contributions(
        self, query: Query, items: tf.Tensor, position: tf.Tensor, catalogue: Any
    ) -> tf.Tensor:
        return super().contributions(self._clicked(query), items, position, catalogue)

    def _clicked(self, query: Query) -> Query:
        """The same query with the clicks of its history alone."""
        if query.event_types is None:
            return query
        types = query.event_types
        clicks = types.with_flat_values(tf.gather(self._clicks, types.flat_values))
        return query._replace(history=choose(query.history, clicks), event_types=None)

    def signatures(self, retriever: Any) -> dict[str, Any]:
        """`embed_listings`: [N] ids -> their vectors [N, D], and whether they have one."""

        def embed(item_id: tf.Tensor) -> dict[str, tf.Tensor]:
            table, *_ = retriever.ranker.frozen_catalogue()
            vectors = table[:, : self.hyper_parameters.embedding_dim]
            index = retriever.item_index(item_id) - FIRST_TOKEN
            rows = tf.where(
                index[:, tf.newaxis] >= 0, tf.gather(vectors, tf.maximum(index, 0)), 0.0
            )
            return {"embedding": rows, "known": tf.reduce_any(rows != 0, axis=1)}

        spec = tf.TensorSpec([None], tf.string, name="item_id")
        return {"embed_listings": traced(embed).get_concrete_function(spec)}

    def user_types(self, index: tf.Tensor) -> tf.Tensor:
        """[B] user indices -> [B, D] vectors of their types, 0 where there is none."""
        return tf.cast(self.types(tf.gather(self._user_type, index)), tf.float32)

    def listing_types(self, index: tf.Tensor) -> tf.Tensor:
        """The same of item indices."""
        return tf.cast(self.types(tf.gather(self._listing_type, index)), tf.float32)


class Types(Recommender[HyperParameters]):
    """The second stage: types of users and of listings, learnt from bookings and rejections."""

    def __init__(self, hyper_parameters, data, user_type, listing_type, rows):
        super().__init__(hyper_parameters, data)
        events, own = data.events, hyper_parameters
        pair = np.stack([user_type.numpy()[events.user], listing_type.numpy()[events.item]], axis=1)
        # Padding is of no type, and so is who and what no feature describes: nothing to learn.
        typed = (pair != [int(user_type[0]), int(listing_type[0])]).all(axis=1)
        booked = typed & are(events.event_type, data.event_types, own.booking_types)
        rejected = typed & are(events.event_type, data.event_types, own.rejection_types)
        # The log is sorted by user and time, which is the order that is wanted here.
        self._tokens, self._owner = pair[booked].reshape(-1), np.repeat(events.user[booked], 2)
        both = np.concatenate([pair[rejected], pair[rejected][:, ::-1]])
        self._rejected = both[np.argsort(both[:, 0], kind="stable")]
        self.booked = len(self._tokens) > 2
        self._rows = rows
        width = own.embedding_dim
        self.vectors = tf.keras.layers.Embedding(self._rows, width, around_zero(width))
        self.contexts = tf.keras.layers.Embedding(self._rows, width, around_zero(width))

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> Batches:
        own = self.hyper_parameters
        windows = Windows(self._tokens, self._owner, own.window)
        return windows.batches(
            self._rows,
            own.negatives,
            None,
            own.batch_size,
            seed,
            first_epoch,
            enemies=(self._rejected, own.rejections),
        )

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        return window_loss(self.vectors, self.contexts, inputs)

    def learnt(self) -> np.ndarray:
        """[types, D] unit vectors; 0 of a type that is in no booking."""
        there = np.isin(np.arange(self._rows), self._tokens)[:, np.newaxis]
        return tf.where(there, tf.math.l2_normalize(self.vectors.embeddings, axis=1), 0.0)


Model = Airbnb
