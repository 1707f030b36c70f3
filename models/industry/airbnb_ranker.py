"""Airbnb's search ranker: the order of lists, told how like each listing is to what its guest did.

Cite: Grbovic, Cheng: Real-time Personalization using Embeddings for Search Ranking at Airbnb,
KDD 2018.

    sim_H(l)   = max over markets m of cos(v_l, sum over h in H, of m, of v_h)
                 H: what the guest clicked, clicked long, skipped, wished for, inquired about,
                 booked
    last(l)    = cos(v_l, v_h), h the latest long click
    types(l)   = cos(v_ut, v_lt), the types of the guest and of the listing
    s          = W relu(... relu(W_1 x + b_1) ...) + b
                 x: fields, quantiles of numbers, similarities, and which of these there are
    loss       LambdaRank of graded labels: booked 1, contacted .25, clicked .01, shown 0,
               refused -.4 (`label.grades`, `label.group`; see `models.measures.lists`)

v are the vectors of `models.industry.airbnb`, learnt of the same train events in a stage of its own
and then still. What a guest did is what came before the search (`label.group`), in train rows as in
requests. A similarity is missing, which is told apart from 0, where a guest did nothing of the
kind, the type is unknown or a listing has no vector: nobody clicked it, and there are not three
like it.

Deviations: a network for boosted trees, so ids have vectors too. What a skip or a long click is,
the log says by its event types; without any, all that a guest had counts as clicked. The paper
learns embeddings of earlier months than the ranker; here of the same events, so a train row's own
click is among them, and passes over them that learn it by heart cost the ranker more than they give
(`benchmarks/README.md`). History is the last 50 events, not two weeks. Lists are not cut after the
last click, and those without a booking count if anything in them is worth more than nothing.
`list_loss: null` learns each row by itself, as runs without lists must.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pydantic
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.score import ScoreModel
from models.industry import airbnb
from models.industry.clicks import type_indices
from models.inputs.fields import FieldRows
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.score_data import Inputs, ScoreData
from models.inputs.token_layers import Mlp
from models.names.features import NUMERIC
from models.names.hyper_parameters import (
    Epochs,
    Forgetting,
    Gradient,
    LazyAdam,
    Lists,
    MixedPrecision,
    Ranking,
    SharedRows,
    Xla,
)
from models.names.sizes import Parameters, Sizes, perceptron


class HyperParameters(
    Epochs, Gradient, SharedRows, LazyAdam, MixedPrecision, Xla, Lists, Forgetting
):
    """The ranker's own.

    Attributes:
        field_dim: width of the embedding of each field.
        similarities: tell the ranker of the embeddings; false: fields alone.
        listings: how the embeddings are learnt; its `booking_types` are what was booked here.
        click_types: event types that mean that a listing was clicked.
        long_click_types: those that mean that it was looked at for long.
        skip_types: those that mean that it was passed over.
        wish_types: those that mean that it was put on a list of wishes.
        inquiry_types: those that mean that its host was asked.
    """

    list_loss: Literal["lambda_rank", "softmax"] | None = "lambda_rank"
    batch_size: int = 1024
    field_dim: int = pydantic.Field(8, ge=1)
    hidden: tuple[pydantic.PositiveInt, ...] = (64, 32)
    dropout: float = pydantic.Field(0.0, ge=0, lt=1)
    similarities: bool = True
    listings: airbnb.HyperParameters = airbnb.HyperParameters()
    click_types: tuple[str, ...] = ("click", "long_click")
    long_click_types: tuple[str, ...] = ("long_click",)
    skip_types: tuple[str, ...] = ("skip", "skipped")
    wish_types: tuple[str, ...] = ("wishlist", "wish")
    inquiry_types: tuple[str, ...] = ("contact", "inquiry")

    @pydantic.field_validator("listings")
    @classmethod
    def _compiled_together(cls, value: airbnb.HyperParameters) -> airbnb.HyperParameters:
        if value.jit_compile:
            raise ValueError("jit_compile of the ranker compiles both stages; say it there")
        # They are for what validates and answers, which the embeddings here do not.
        idle = {*Ranking.model_fields, *Epochs.model_fields} - {"epochs"} | {"history_length"}
        for name in sorted(idle):
            if getattr(value, name) != type(value).model_fields[name].default:
                raise ValueError(f"{name} has no effect on the embeddings of a ranker")
        return value

    def named_columns(self) -> Iterator[tuple[str, str]]:
        yield from super().named_columns()
        yield from ((f"listings.{key}", name) for key, name in self.listings.named_columns())

    def parameters(self, sizes: Sizes) -> Parameters:
        numbers = sum(column.kind == NUMERIC for column in sizes.columns)
        inputs = self.field_dim * len(sizes.columns) + numbers
        own = self.field_dim * sizes.sharing(self.hash_rows).field_rows
        if not self.similarities:
            return Parameters(own + perceptron(inputs, self.hidden, 1))
        listings = self.listings.parameters(sizes)
        # Eight similarities, and whether each is there.
        learnt = own + perceptron(inputs + 16, self.hidden, 1) + listings.learnt
        return Parameters(learnt, listings.held, listings.beside)


class AirbnbRanker(ScoreModel[HyperParameters]):
    """Orders the listings of a search by what their guest did before it."""

    reads_quantiles = True
    reads_history = ("event_types",)

    def __init__(self, hyper_parameters: HyperParameters, data: ScoreData):
        super().__init__(hyper_parameters, data)
        own = hyper_parameters
        self.rows = FieldRows(data.fields, own.hash_rows)
        self.fields = self.rows.embedding(own.field_dim, own.field_dim**-0.5, name="fields")
        self._quantiles = list(data.quantiles.values())
        self.deep = Mlp(own.hidden, own.dropout, name="deep")
        self.output_layer = tf.keras.layers.Dense(
            1, bias_initializer=tf.keras.initializers.Constant(self.initial_score), name="output"
        )
        if not own.similarities:
            return
        shown = (*own.listings.shown_types, *own.skip_types)
        listings = own.listings.model_copy(update={"shown_types": shown})
        self.embeddings = airbnb.Airbnb(listings, data)
        self._let_move(False)
        kinds = (
            own.click_types,
            own.long_click_types,
            own.skip_types,
            own.wish_types,
            own.inquiry_types,
            own.listings.booking_types,
        )
        # [types, kinds]: who tells no type tells of clicks.
        of_type = np.zeros([FIRST_TOKEN + len(data.event_types), len(kinds)], bool)
        of_type[0, 0] = True
        for number, names in enumerate(kinds):
            of_type[type_indices(data.event_types, names), number] = True
        self._kinds = tf.constant(of_type)
        self._market = tf.constant(self.embeddings.market)

    def learn(self, loop: Loop) -> None:
        if self.hyper_parameters.similarities:
            self._let_move(True)
            self.embeddings.learn(loop, "listings", validate=False)
            self._let_move(False)
        loop.fit(self)

    def score_rows(self, inputs: Inputs, training: bool = False) -> tf.Tensor:
        row, x = self.rows(inputs)
        pooled = self.rows.pool(self.fields(row) * x[..., tf.newaxis], inputs)
        width = len(self.rows.fields) * self.hyper_parameters.field_dim
        parts = [tf.reshape(pooled, [-1, width])]
        parts += [inputs[name][:, tf.newaxis] for name in self._quantiles]
        if self.hyper_parameters.similarities:
            parts += self.similarities(inputs)
        hidden = self.deep(tf.concat(parts, axis=1), training=training)
        return tf.cast(self.output_layer(hidden)[:, 0], tf.float32)

    def similarities(self, inputs: Inputs) -> tuple[tf.Tensor, tf.Tensor]:
        """What the embeddings say of rows.

        Returns:
            Two [B, 8] float32: the similarities, in the order of the module, 0 where one is
            missing; and 1 where it is there.
        """
        listing, history = inputs["table_item"], inputs["history"]
        candidate, vectors = self.vectors(listing), self.vectors(history)
        there = tf.reduce_any(vectors != 0, axis=2, keepdims=True)
        chosen = tf.gather(self._kinds, inputs["event_types"]) & there
        sets = market_similarities(candidate, vectors, chosen, tf.gather(self._market, history))
        has_candidate = tf.reduce_any(candidate != 0, axis=1, keepdims=True)
        there = tf.reduce_any(chosen, axis=1) & has_candidate
        long = tf.cast(chosen[:, :, 1], tf.int32)
        latest = (long > 0) & (tf.cumsum(long, axis=1, exclusive=True, reverse=True) == 0)
        last = tf.reduce_sum(tf.where(latest[..., tf.newaxis], vectors, 0.0), axis=1)
        guest = tf.stop_gradient(self.embeddings.user_types(inputs["table_user"]))
        kind = tf.stop_gradient(self.embeddings.listing_types(listing))
        typed = tf.reduce_any(guest != 0, axis=1) & tf.reduce_any(kind != 0, axis=1)
        value = tf.concat(
            [sets, _cosine(candidate, last)[:, tf.newaxis], _cosine(guest, kind)[:, tf.newaxis]],
            axis=1,
        )
        there = tf.concat([there, there[:, 1:2], typed[:, tf.newaxis]], axis=1)
        return tf.where(there, value, 0.0), tf.cast(there, tf.float32)

    def vectors(self, index: tf.Tensor) -> tf.Tensor:
        """Item indices of any shape -> their vectors, 0 where a listing has none."""
        rows = self.embeddings.item_vectors(tf.reshape(index, [-1]))
        shape = tf.concat([tf.shape(index), tf.shape(rows)[1:]], axis=0)
        return tf.stop_gradient(tf.cast(tf.reshape(rows, shape), tf.float32))

    def _let_move(self, trainable: bool) -> None:
        """The listings' vectors move in their own stage and in no other."""
        for table in (self.embeddings.listings, self.embeddings.contexts):
            table.trainable = trainable


def market_similarities(
    candidate: tf.Tensor, vectors: tf.Tensor, chosen: tf.Tensor, market: tf.Tensor
) -> tf.Tensor:
    """The cosine of a listing with what a guest did, market by market: the largest.

    Args:
        candidate: [B, D] vectors of listings.
        vectors: [B, L, D] those of a history.
        chosen: [B, L, S] bool: which events are in each set.
        market: [B, L] of the history's listings.

    Returns:
        [B, S]; 0 for an empty set.
    """
    same = tf.cast(market[:, :, tf.newaxis] == market[:, tf.newaxis], tf.float32)
    found = []
    for there in tf.unstack(chosen, axis=2):
        # Each event stands for its market.
        of_market = same * tf.cast(there, tf.float32)[:, tf.newaxis]
        centroid = tf.matmul(of_market, vectors)
        cosine = _cosine(candidate[:, tf.newaxis], centroid)
        best = tf.reduce_max(tf.where(there, cosine, -1.0), axis=1)
        found.append(tf.where(tf.reduce_any(there, axis=1), best, 0.0))
    return tf.stack(found, axis=1)


def _cosine(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(
        tf.math.l2_normalize(one, axis=-1) * tf.math.l2_normalize(other, axis=-1), axis=-1
    )


Model = AirbnbRanker
