"""Clicks with the clicks around them: what window-based embeddings with a goal are trained on."""

import numpy as np
import tensorflow as tf

from models.inputs import sampling
from models.inputs.preprocessing import FIRST_TOKEN
from models.names.errors import DataError


class Windows:
    """Tokens in sequences, each with its neighbours and the goal of its sequence.

    Args:
        tokens: [E] int64, sequence after sequence.
        sequence: [E] int64, ascending: which sequence each is of.
        window: neighbours at most so many places away, on both sides.
        goal: [S] int64 token that is a context of every token of a sequence; 0 for none.
        goal_weight: how often the tokens of a sequence with a goal are centres an epoch.

    Raises:
        DataError: no token has a neighbour or a goal.
    """

    def __init__(self, tokens, sequence, window: int, goal=None, goal_weight: int = 1):
        self._tokens, self._window = np.asarray(tokens, np.int64), window
        goals = goal[sequence] if goal is not None else np.zeros(len(tokens), np.int64)
        first = np.searchsorted(sequence, sequence)
        end = np.searchsorted(sequence, sequence, side="right")
        place = np.arange(len(tokens))
        centre = np.flatnonzero(((end - first > 1) | (goals > 0)) & (self._tokens >= FIRST_TOKEN))
        if not len(centre):
            raise DataError(
                "there is nothing to learn from: no session of the train split has two clicks"
            )
        centre = np.repeat(centre, np.where(goals[centre] > 0, goal_weight, 1))
        self._columns = {
            "place": place[centre],
            "first": first[centre],
            "end": end[centre],
            "goal": goals[centre],
        }

    def batches(
        self,
        rows: int,
        negatives: int,
        near: tuple[np.ndarray, int] | None,
        batch_size: int,
        seed: int,
        first_epoch: int,
        enemies: tuple[np.ndarray, int] | None = None,
    ) -> sampling.Batches:
        """Endless shuffled batches of centres.

        Args:
            rows: tokens are 2 .. rows - 1; negatives are drawn from them, alike.
            negatives: drawn a centre.
            near: [rows] int64 the neighbourhood of every token, and how many negatives a centre
                draws of its own one.
            batch_size: centres a batch.
            seed: of the order and the draws.
            first_epoch: the epoch to start with.
            enemies: [R, 2] pairs of tokens, ascending by the first: the second is a negative of
                the first; and how many a centre draws.

        Returns:
            Batches of `centre` [B], `positive` [B, 2 window + 1] and `negative` [B, N] int64
            tokens, 0 for none: a negative is neither the centre nor one of its positives.
        """
        tokens, none = tf.constant(self._tokens), tf.zeros([], tf.int64)
        offset = tf.constant([*range(-self._window, 0), *range(1, self._window + 1)], tf.int64)
        draws = [(_Everywhere(rows), negatives)]
        if near is not None and near[1]:
            draws.append((_neighbourhoods(near[0]), near[1]))
        if enemies is not None and len(enemies[0]) and enemies[1]:
            token, enemy = enemies[0].T
            draws.append((_Lists(enemy, token, np.arange(rows)), enemies[1]))

        def windows(batch):
            seeds = sampling.split(batch["step_seed"], max(2, len(draws)))
            around = batch["place"][:, tf.newaxis] + offset
            inside = (around >= batch["first"][:, tf.newaxis]) & (
                around < batch["end"][:, tf.newaxis]
            )
            centre = tf.gather(tokens, batch["place"])
            context = tf.where(inside, tf.gather(tokens, tf.where(inside, around, none)), none)
            positive = tf.concat([context, batch["goal"][:, tf.newaxis]], axis=1)
            positive = tf.where(positive == centre[:, tf.newaxis], none, positive)
            negative = tf.concat(
                [of.draw(centre, count, key) for (of, count), key in zip(draws, seeds)], axis=1
            )
            own = tf.concat([centre[:, tf.newaxis], positive], axis=1)
            wrong = tf.reduce_any(negative[:, :, tf.newaxis] == own[:, tf.newaxis], axis=2)
            return {
                "centre": centre,
                "positive": positive,
                "negative": tf.where(wrong, none, negative),
            }

        return sampling.shuffled_batches(self._columns, batch_size, seed, first_epoch).map(windows)


class _Everywhere:
    """Any token."""

    def __init__(self, rows: int):
        self._rows = rows

    def draw(self, centre: tf.Tensor, count: int, seed: tf.Tensor) -> tf.Tensor:
        shape = tf.stack([tf.shape(centre)[0], count])
        return sampling.uniform(shape, seed, minval=FIRST_TOKEN, maxval=self._rows, dtype=tf.int64)


class _Lists:
    """Tokens of the list that a centre has; 0 where it is empty.

    Args:
        members: [R] int64 the lists of tokens, one after the other.
        key: [R] int64 ascending, whose list each is of.
        of_token: [rows] int64 the key of every token's list.
    """

    def __init__(self, members: np.ndarray, key: np.ndarray, of_token: np.ndarray):
        first = np.searchsorted(key, of_token)
        self._members = tf.constant(members, tf.int64)
        self._first = tf.constant(first)
        self._size = tf.constant(np.searchsorted(key, of_token, side="right") - first)

    def draw(self, centre: tf.Tensor, count: int, seed: tf.Tensor) -> tf.Tensor:
        shape = tf.stack([tf.shape(centre)[0], count])
        share = sampling.uniform(shape, seed, dtype=tf.float64)
        size = tf.gather(self._size, centre)[:, tf.newaxis]
        within = tf.cast(share * tf.cast(size, tf.float64), tf.int64)
        place = tf.gather(self._first, centre)[:, tf.newaxis] + within
        place = tf.minimum(place, tf.size(self._members, tf.int64) - 1)
        return tf.where(size > 0, tf.gather(self._members, place), tf.zeros([], tf.int64))


def _neighbourhoods(near: np.ndarray) -> _Lists:
    members = np.argsort(near[FIRST_TOKEN:], kind="stable") + FIRST_TOKEN
    return _Lists(members, near[members], near)


def window_loss(vectors, contexts, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
    """The mean over the centres of a batch of what skip-gram with negative sampling loses on each.

    Args:
        vectors: the embedding of centres.
        contexts: the embedding of positives and negatives.
        inputs: a batch of `Windows`.
    """
    centre = vectors(inputs["centre"])

    def loss(name: str, sign: float) -> tf.Tensor:
        logits = tf.einsum("bd,bcd->bc", centre, contexts(inputs[name]))
        there = tf.cast(inputs[name] > 0, tf.float32)
        return tf.reduce_sum(there * tf.nn.softplus(-sign * tf.cast(logits, tf.float32)), axis=1)

    return tf.reduce_mean(loss("positive", 1.0) + loss("negative", -1.0))
