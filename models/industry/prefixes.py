"""The events before each target: what a model of sequences reads of them in training."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from models.inputs import sampling
from models.inputs.columns import as_tensor
from models.inputs.event_log import EventLog
from models.names.label import WEIGHT


def targets(log: EventLog) -> dict[str, np.ndarray]:
    """The targets as columns of batches.

    Returns:
        `position` and `target`, [T] int64: as `first_events` has it, and the item; and, where
        events weigh differently, WEIGHT, [T] float32.
    """
    position, weight = first_events(log), log.sequence_weight
    columns = {"position": position, "target": log.sequences()[0][position]}
    return columns if weight is None else {**columns, WEIGHT: weight[position]}


def first_events(log: EventLog) -> np.ndarray:
    """The targets: the first event of an item in its sequence, which has earlier ones.

    So nothing that was done with the target stands before it.

    Returns:
        [T] int64 positions in the order of `EventLog.in_sequences`, ascending.
    """
    items, starts = log.sequences()
    sequence = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.lexsort((np.arange(len(items)), items, sequence))
    again = (items[order][1:] == items[order][:-1]) & (sequence[order][1:] == sequence[order][:-1])
    first = np.ones(len(items), bool)
    first[order[1:][again]] = False
    first[starts[:-1]] = False
    return np.flatnonzero(first)


class Prefixes:
    """Reads the last events of a sequence before a position.

    Args:
        log: the events.
        columns: name -> [E] array in the order of the log: what is read of an event.
        length: the most events that are read, the latest.
        chosen: [E] bool in the order of the log: which are read; left out, all.
    """

    def __init__(
        self,
        log: EventLog,
        columns: Mapping[str, np.ndarray],
        length: int,
        chosen: np.ndarray | None = None,
    ):
        order, starts = log.in_sequences
        read = np.ones(len(log), bool) if chosen is None else chosen[order]
        self._columns = {name: as_tensor(values[order][read]) for name, values in columns.items()}
        # Of the events that are read, how many come before each position.
        before = np.append(0, np.cumsum(read))
        self._end = tf.constant(before)
        self._start = tf.constant(np.repeat(before[starts[:-1]], np.diff(starts)))
        self._length = length

    def read(self, position: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads before [B] positions in the order of `EventLog.in_sequences`, in-graph.

        Returns:
            Name -> [B, L] values, oldest first, padded with 0 on the right.
        """
        end = tf.gather(self._end, position)
        begin = tf.maximum(tf.gather(self._start, position), end - self._length)
        place = tf.ragged.range(begin, end)
        return {
            name: sampling.rows_of(values, place).to_tensor()
            for name, values in self._columns.items()
        }
