"""Clicks and what was on display beside them."""

import numpy as np
import tensorflow as tf

from models.inputs.event_log import EventLog
from models.inputs.preprocessing import FIRST_TOKEN


def moments(log: EventLog) -> tuple[np.ndarray, np.ndarray]:
    """The events of one user at one time, which nobody can order.

    Returns:
        [E] int64 the first event of each event's moment, and [E] float32 the share that an event is
        of its moment. An event of no time (0) is a moment of its own.
    """
    first = np.r_[True, (log.user[1:] != log.user[:-1]) | (log.timestamp[1:] != log.timestamp[:-1])]
    first |= log.timestamp == 0
    start = np.maximum.accumulate(np.where(first, np.arange(len(log)), 0))
    return start, (1.0 / np.bincount(start)[start]).astype(np.float32)


class Displays:
    """What was on display beside each click and not clicked by the user anywhere in train.

    Args:
        log: the events; `shown` is there.
        positions: places from 1 on that are told apart; those behind are as the last.

    Attributes:
        clicks: [T] int64 numbers of the events that have something beside them.
        place: [T] int64 places of these clicks; 0 where the click is not on its own display.
    """

    def __init__(self, log: EventLog, positions: int):
        lengths = log.shown.row_lengths().numpy()
        item, event = log.shown.flat_values.numpy(), np.repeat(np.arange(len(log)), lengths)
        starts = np.cumsum(lengths) - lengths
        place = np.minimum(np.arange(len(item)) - starts[event] + 1, positions)
        size = int(max(item.max(initial=0), log.item.max(initial=0))) + 1
        user = log.user.astype(np.int64)
        clicked = np.isin(user[event] * size + item, user * size + log.item)
        own = np.flatnonzero(item == log.item[event])[::-1]
        of_event = np.zeros(len(log), np.int64)
        of_event[event[own]] = place[own]  # the first of several stands
        other = ~clicked & (item >= FIRST_TOKEN)
        count = np.bincount(event[other], minlength=len(log))
        self.clicks = np.flatnonzero(count)
        self.place = of_event[self.clicks]
        self._others, self._places = (
            tf.RaggedTensor.from_row_lengths(column[other], count[self.clicks])
            for column in (item, place)
        )

    def others(self, number: tf.Tensor) -> dict[str, tf.Tensor]:
        """Of [B] numbers of `clicks`: `others` and their `places`, [B, L] int64, 0 for padding."""
        return {
            "others": tf.gather(self._others, number).to_tensor(),
            "places": tf.gather(self._places, number).to_tensor(),
        }
