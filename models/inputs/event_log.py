"""The train events as arrays."""

import functools
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import tensorflow as tf

from models.inputs.preprocessing import FIRST_TOKEN
from models.names.label import WEIGHT


@dataclass
class EventLog:
    """The train events, sorted by user and, within a user, by time.

    Attributes:
        user: [E] int64 user index.
        item: [E] int64 item index.
        timestamp: [E] int64 seconds, 0 where there is none.
        rating: [E] float32, NaN where there is none.
        row: [E] int64 number in the source; it orders what no time does.
        session: [E] int64, equal within a session of a user; 0 where the train rows are no
            sessions. The events of a user that have no session id are one session together, in
            the splits, the rows and here.
        label: [E] float32, what a `score` run learns; NaN in a `retrieve` run.
        event_type: [E] int64 index of `TrainingData.event_types`, 0 where there is none; None
            unless the model reads it, as the next two.
        dwell: [E] float32 seconds, NaN where there is none.
        context: name -> [E] int64 index of the context columns that the run names; of text, ragged
            [E, None].
        shown: ragged [E, None] int64 item indices: what was on display when the event happened, in
            order of position; an item that the catalogue lacks is 1. None where the train rows are
            not of the kind `event` or the log does not say it.
        weight: [E] float32 greater than 0, what an event counts for; None where all count alike.
    """

    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray
    rating: np.ndarray
    row: np.ndarray
    session: np.ndarray
    label: np.ndarray
    event_type: np.ndarray | None = None
    dwell: np.ndarray | None = None
    context: dict[str, np.ndarray | tf.RaggedTensor] | None = None
    shown: tf.RaggedTensor | None = None
    weight: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user)

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """[P + 1] int64: where the events of each of the P users begin, and the end."""
        return np.r_[np.flatnonzero(np.r_[True, self.user[1:] != self.user[:-1]]), len(self)]

    @functools.cached_property
    def position(self) -> np.ndarray:
        """[E] int64: how many events of the same user come before."""
        return np.arange(len(self)) - np.repeat(self.starts[:-1], np.diff(self.starts))

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """[E] float32: `weight`, 1 where all events count alike."""
        return np.ones(len(self), np.float32) if self.weight is None else self.weight

    @functools.cached_property
    def example_weight(self) -> np.ndarray:
        """[E] float32: the weights over their mean, as `models.contract.recommender` wants them."""
        return (self.weights / self.weights.mean(dtype=np.float64)).astype(np.float32)

    def columns(self, *names: str) -> dict[str, np.ndarray]:
        """Columns of the events by name and, where they weigh differently, WEIGHT: for batches."""
        found = {name: getattr(self, name) for name in names}
        return found if self.weight is None else {**found, WEIGHT: self.example_weight}

    def sequences(self) -> tuple[np.ndarray, np.ndarray]:
        """The items as sequences: [E] int64, and where each begins; see `in_sequences`."""
        order, starts = self.in_sequences
        return self.item[order], starts

    @property
    def sequence_weight(self) -> np.ndarray | None:
        """[E] float32 `example_weight` of the items of `sequences`; None where all weigh alike."""
        return None if self.weight is None else self.example_weight[self.in_sequences[0]]

    @functools.cached_property
    def in_sequences(self) -> tuple[np.ndarray, np.ndarray]:
        """The events as sequences.

        They are a user's sessions where the log has them, else all that a user has.

        Returns:
            Events, [E] int64 positions in this log, sequence after sequence, each oldest first; the
            sequences in the order of their first events. And where each of the S sequences begins,
            and the end: [S + 1] int64.
        """
        # Stable: within a session the events stay in the order of time.
        together = np.lexsort((self.session, self.user))
        user, session = self.user[together], self.session[together]
        firsts = np.flatnonzero(
            np.r_[True, (user[1:] != user[:-1]) | (session[1:] != session[:-1])]
        )
        lengths = np.diff(np.r_[firsts, len(self)])
        order = np.lexsort((self.row[together][firsts], self.timestamp[together][firsts]))
        starts = np.r_[0, np.cumsum(lengths[order])]
        within = np.arange(len(self)) - np.repeat(starts[:-1], lengths[order])
        return together[np.repeat(firsts[order], lengths[order]) + within], starts

    def matrix(self, item_count: int, latest: int | None = None) -> scipy.sparse.csr_matrix:
        """[P, item_count] float32: the weight of a user's event with the item, 1 as a rule.

        Of several events with one item the heaviest counts. By catalogue position; the rows are in
        the order of `starts`; there are no unknown items. Of each user so many of the `latest`
        events count, all where that is None.
        """
        known = self.item >= FIRST_TOKEN
        if latest is not None:
            known &= (
                np.repeat(self.starts[1:], np.diff(self.starts)) - np.arange(len(self)) <= latest
            )
        rows = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))[known]
        shape = (len(self.starts) - 1, item_count)
        return heaviest(rows, self.item[known] - FIRST_TOKEN, self.weights[known], shape)


def heaviest(
    row: np.ndarray, column: np.ndarray, weight: np.ndarray, shape: tuple[int, int]
) -> scipy.sparse.csr_matrix:
    """A matrix of the largest weight of every cell.

    Args:
        row: [E] int64.
        column: [E] int64.
        weight: [E] float32, greater than 0.
        shape: of the matrix.

    Returns:
        float32, its columns ascending within a row.
    """
    order = np.lexsort((-weight, column, row))
    row, column = row[order], column[order]
    first = np.ones(len(order), bool)
    first[1:] = (row[1:] != row[:-1]) | (column[1:] != column[:-1])
    cells = weight[order][first], (row[first], column[first])
    return scipy.sparse.csr_matrix(cells, shape)
