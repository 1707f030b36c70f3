"""The train events as arrays.

What is computed of them is computed a piece at a time and lies where they lie (see
`models.inputs.columns`), so that their number is not bounded by memory.
"""

import functools
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import tensorflow as tf

from models.inputs.columns import ROWS_AT_ONCE, Column, chunks, group_starts, room, take_rows
from models.inputs.preprocessing import FIRST_TOKEN
from models.names.errors import DataError
from models.names.label import WEIGHT


@dataclass
class EventLog:
    """The train events, sorted by user and, within a user, by time.

    Attributes:
        user: [E] int32 user index.
        item: [E] int32 item index.
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
        return group_starts(self.user)

    @functools.cached_property
    def position(self) -> np.ndarray:
        """[E] int32: how many events of the same user come before."""
        position = Column(np.int32)
        for begin, end in chunks(self.starts):
            position.append(np.arange(begin, end) - _first_of_each(self.starts, begin, end))
        return position.array()

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """[E] float32: `weight`, 1 where all events count alike."""
        if self.weight is None:
            return np.broadcast_to(np.float32(1), len(self))
        return self.weight

    @functools.cached_property
    def example_weight(self) -> np.ndarray:
        """[E] float32: the weights over their mean, as `models.contract.recommender` wants them."""
        return (self.weights / self.weights.mean(dtype=np.float64)).astype(np.float32)

    def columns(self, *names: str) -> dict[str, np.ndarray]:
        """Columns of the events by name and, where they weigh differently, WEIGHT: for batches."""
        found = {name: getattr(self, name) for name in names}
        return found if self.weight is None else {**found, WEIGHT: self.example_weight}

    def sequences(self) -> tuple[np.ndarray, np.ndarray]:
        """The items as sequences: [E] int32, and where each begins; see `in_sequences`."""
        order, starts = self.in_sequences
        return take_rows(self.item, order), starts

    @property
    def sequence_weight(self) -> np.ndarray | None:
        """[E] float32 `example_weight` of the items of `sequences`; None where all weigh alike."""
        return None if self.weight is None else self.example_weight[self.in_sequences[0]]

    @functools.cached_property
    def in_sequences(self) -> tuple[np.ndarray, np.ndarray]:
        """The events as sequences.

        They are a user's sessions where the log has them, else all that a user has.

        Returns:
            Events, [E] int32 positions in this log, sequence after sequence, each oldest first; the
            sequences in the order of their first events. And where each of the S sequences begins,
            and the end: [S + 1] int64.
        """
        together, firsts = Column(_index_type(len(self))), []
        for begin, end in chunks(self.starts):
            user, session = self.user[begin:end], self.session[begin:end]
            # Stable: within a session the events stay in the order of time.
            order = np.lexsort((session, user))
            user, session = user[order], session[order]
            new = np.r_[True, (user[1:] != user[:-1]) | (session[1:] != session[:-1])]
            firsts.append(begin + np.flatnonzero(new))
            together.append(begin + order)
        events, first = together.array(), np.concatenate(firsts or [np.empty(0, np.int64)])
        lengths = np.diff(np.r_[first, len(self)])
        order = np.lexsort((self.row[events[first]], self.timestamp[events[first]]))
        first, starts = first[order], np.r_[0, np.cumsum(lengths[order])]
        ordered = Column(events.dtype)
        for begin, end in chunks(starts):
            one, last = np.searchsorted(starts, [begin, end])
            within = np.arange(begin, end) - _first_of_each(starts, begin, end)
            ordered.append(
                events[np.repeat(first[one:last], np.diff(starts[one : last + 1])) + within]
            )
        return ordered.array(), starts

    def matrix(self, item_count: int, latest: int | None = None) -> scipy.sparse.csr_matrix:
        """[P, item_count] float32: the weight of a user's event with the item, 1 as a rule.

        Of several events with one item the heaviest counts. By catalogue position; the rows are in
        the order of `starts`; there are no unknown items. Of each user so many of the `latest`
        events count, all where that is None.
        """
        weights, shape = self.weights, (len(self.starts) - 1, item_count)
        columns, values, counts = Column(np.int32), Column(np.float32), []
        for begin, end in chunks(self.starts):
            item = self.item[begin:end]
            first, last = np.searchsorted(self.starts, [begin, end])
            lengths = np.diff(self.starts[first : last + 1])
            known = item >= FIRST_TOKEN
            if latest is not None:
                after = np.repeat(self.starts[first + 1 : last + 1], lengths)
                known &= after - np.arange(begin, end) <= latest
            row = np.repeat(np.arange(last - first), lengths)[known]
            part = heaviest(
                row,
                item[known] - FIRST_TOKEN,
                weights[begin:end][known],
                (last - first, item_count),
            )
            columns.append(part.indices)
            values.append(part.data)
            counts.append(np.diff(part.indptr))
        splits = np.r_[0, np.cumsum(np.concatenate(counts or [np.empty(0, np.int64)]))]
        return scipy.sparse.csr_matrix((values.array(), columns.array(), splits), shape)


def require_successors(starts: np.ndarray) -> None:
    """Checks that there is an event to learn from the one before it.

    Args:
        starts: [S + 1] where each sequence begins, and the end.

    Raises:
        DataError: no sequence has two events.
    """
    if not (np.diff(starts) > 1).any():
        raise DataError(
            "every sequence of the train split is a single event; required: one of two at least, "
            "the second of which is learnt from the first"
        )


def by_user_and_time(
    user: np.ndarray,
    timestamp: np.ndarray,
    row: np.ndarray,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """The order of an `EventLog`, of events in any order.

    Args:
        user: [E] index.
        timestamp: [E].
        row: [E], which orders what no time does.
        known: [E] bool, the events to keep; None keeps all.

    Returns:
        [K] int32 (int64 of more than 2^31 events) numbers of events.
    """
    kept, pieces = 0, range(0, len(user), ROWS_AT_ONCE)
    counts = np.zeros(int(user.max(initial=0)) + 1, np.int64)
    for begin in pieces:
        piece = user[begin : begin + ROWS_AT_ONCE]
        piece = piece if known is None else piece[known[begin : begin + ROWS_AT_ONCE]]
        counts += np.bincount(piece, minlength=len(counts))
    kept = int(counts.sum())
    order, free = room((kept,), _index_type(len(user))), np.cumsum(counts) - counts
    for begin in pieces:
        rows = np.arange(begin, min(begin + ROWS_AT_ONCE, len(user)))
        rows = rows if known is None else rows[known[rows]]
        rows = rows[np.argsort(user[rows], kind="stable")]
        owner, size = np.unique(user[rows], return_counts=True)
        before = np.repeat(np.cumsum(size) - size, size)
        order[np.repeat(free[owner], size) + np.arange(len(rows)) - before] = rows
        free[owner] += size
    for begin, end in chunks(np.r_[0, np.cumsum(counts[counts > 0])]):
        rows = order[begin:end]
        order[begin:end] = rows[np.lexsort((row[rows], timestamp[rows], user[rows]))]
    return order


def _index_type(count: int) -> type:
    return np.int32 if count <= np.iinfo(np.int32).max else np.int64


def _first_of_each(starts: np.ndarray, begin: int, end: int) -> np.ndarray:
    """Where the group of each row of a piece of `chunks` begins: [end - begin] int64."""
    first, last = np.searchsorted(starts, [begin, end])
    return np.repeat(starts[first:last], np.diff(starts[first : last + 1]))


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
