"""The vectors of the users and items of one domain, for the models that map between domains."""

from typing import Any, Literal

import numpy as np
import pydantic
import tensorflow as tf

from models.contract.recommender import Recommender, weighed
from models.inputs import sampling
from models.inputs.columns import as_tensor, take_index
from models.inputs.data import Entities, TrainingData
from models.inputs.event_log import EventLog
from models.inputs.token_layers import factor_tables, id_embedding
from models.names.errors import DataError
from models.names.hyper_parameters import HyperParameters


class VectorSettings(HyperParameters):
    """How the vectors of a domain are learnt.

    Attributes:
        factors: K, their width.
        objective: the loss: `bpr`, or `mf` of what a user has against what it has not, or of
            `ratings` alone.
        pairs: bpr: the lesser of a pair is an item that the user has not (`unobserved`) or has
            rated lower (`graded`, which wants ratings).
        negatives: mf: drawn items a positive.
        l2: lambda.
        item_biases: items have biases beside their vectors, which are not mapped.
    """

    factors: int = pydantic.Field(50, ge=1)
    objective: Literal["bpr", "mf", "ratings"] = "bpr"
    pairs: Literal["unobserved", "graded"] = "unobserved"
    negatives: int = pydantic.Field(4, ge=1)
    l2: float = pydantic.Field(0.0025, ge=0)
    item_biases: bool = True


class DomainVectors(Recommender[VectorSettings]):
    """The vectors of one domain, learnt of its events alone.

    Args:
        hyper_parameters: settings that include `VectorSettings`.
        data: what the task trains on.
        users: of the domain.
        items: of the domain.
        events: of the domain, in the indices of these users and items.
    """

    def __init__(
        self,
        hyper_parameters: Any,
        data: TrainingData,
        users: Entities,
        items: Entities,
        events: EventLog,
    ):
        super().__init__(hyper_parameters, data)
        self.users, self.items = factor_tables(
            users, items, hyper_parameters.factors, ("users", "items")
        )
        tables = [self.users, self.items]
        if hyper_parameters.item_biases:
            self.item_bias = id_embedding(items, 1, "zeros", "item_bias")
            tables.append(self.item_bias)
        for table in tables:
            table.build(None)
        self._events, self._item_count = events, items.train_count

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        own, events = self.hyper_parameters, self._events
        columns = events.columns("user", "item")
        if own.objective == "ratings":
            columns["rating"] = rated(events)
            batches = sampling.shuffled_batches(columns, own.batch_size, seed, first_epoch)
            return batches.map(lambda batch: {**batch, "items": batch["item"][:, tf.newaxis]})
        if own.objective == "bpr" and own.pairs == "graded":
            columns, draw = graded_pairs(events)
        else:
            drawn = sampling.UniformNegatives(events.user, events.item, self._item_count)
            count = 1 if own.objective == "bpr" else own.negatives

            def draw(batch):
                return drawn.draw(batch["user"], count, batch["step_seed"])

        def with_others(batch):
            items = tf.concat([batch["item"][:, tf.newaxis], draw(batch)], axis=1)
            return {"user": batch["user"], "items": items}

        return sampling.shuffled_batches(columns, own.batch_size, seed, first_epoch).map(
            with_others
        )

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The mean over rows of a user and items [B, 1 + others]; 0 stands for no item.

        Where ratings are learnt, `rating` [B] is that of the first.
        """
        user, items = self.users(inputs["user"]), self.items(inputs["items"])
        # A product and a sum: einsum multiplies matrices row by row, at several times the cost.
        score = tf.reduce_sum(user[:, tf.newaxis] * items, axis=2) + self.bias(inputs["items"])
        there = tf.cast(inputs["items"] > 0, tf.float32)
        if self.hyper_parameters.objective == "bpr":
            loss = there[:, 1] * tf.nn.softplus(score[:, 1] - score[:, 0])
        else:
            value = inputs.get("rating", tf.ones_like(score[:, 0]))
            wanted = tf.one_hot(tf.zeros_like(inputs["user"]), tf.shape(score)[1])
            wanted *= value[:, tf.newaxis]
            loss = tf.reduce_sum(there * (wanted - score) ** 2, axis=1)
        squares = tf.reduce_sum(user**2, axis=1) + tf.reduce_sum(
            there * tf.reduce_sum(items**2, axis=2), axis=1
        )
        return tf.reduce_mean(weighed(inputs, loss + self.hyper_parameters.l2 * squares))

    def bias(self, item: tf.Tensor) -> tf.Tensor:
        """The biases of item indices of any shape; 0 where items have none."""
        if not self.hyper_parameters.item_biases:
            return tf.zeros_like(item, tf.float32)
        return self.item_bias(item)[..., 0]


def rated(events: EventLog) -> np.ndarray:
    """[E] float32 ratings; raises DataError where an event has none."""
    missing = int(np.isnan(events.rating).sum())
    if missing:
        raise DataError(
            "objective: ratings: required: events with a rating each, in both domains; received "
            f"{missing:,} without. Say objective: bpr or mf"
        )
    return events.rating


def graded_pairs(events: EventLog) -> tuple[dict[str, np.ndarray], Any]:
    """Pairs of an item and one that the same user has rated lower, drawn anew every epoch.

    Args:
        events: with ratings.

    Returns:
        Columns of the events that have a lesser one, and what draws one for a batch of them.

    Raises:
        DataError: no user has rated two items differently.
    """
    order = np.lexsort((events.rating, events.user))
    user, item, rating = events.user[order], events.item[order], events.rating[order]
    new = np.r_[True, user[1:] != user[:-1]]
    # Where the user's events begin, and those that are rated as this one is.
    start = np.maximum.accumulate(np.where(new, np.arange(len(user)), 0))
    grade = new | np.r_[True, rating[1:] != rating[:-1]]
    end = np.maximum.accumulate(np.where(grade, np.arange(len(user)), 0))
    has = (end > start) & ~np.isnan(rating)
    if not has.any():
        raise DataError(
            "pairs: graded: required: events with ratings, in both domains, of which a user has "
            "different ones; received none. Say pairs: unobserved"
        )
    items = as_tensor(item)
    columns = {name: column[order] for name, column in events.columns("user", "item").items()}
    columns |= {"start": start, "end": end}

    def draw(batch):
        uniform = sampling.uniform(tf.shape(batch["start"]), batch["step_seed"], dtype=tf.float64)
        count = tf.cast(batch["end"] - batch["start"], tf.float64)
        place = batch["start"] + tf.cast(uniform * count, tf.int64)
        return take_index(items, place)[:, tf.newaxis]

    return {name: column[has] for name, column in columns.items()}, draw
