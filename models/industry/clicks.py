"""Which events of a log are clicks on listings, and in which sessions they are.

`own` are the hyper-parameters of `models.industry.airbnb`, which name the types of events.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN


def type_indices(tokens: Sequence[bytes], wanted: Sequence[str]) -> list[int]:
    """The indices in `EventLog.event_type` of the wanted types, of the names of all."""
    names = {name.encode() for name in wanted}
    return [number + FIRST_TOKEN for number, token in enumerate(tokens) if token in names]


def are(
    event_type: np.ndarray | None, tokens: Sequence[bytes], wanted: Sequence[str]
) -> np.ndarray:
    """[E] bool: whether events are of one of the wanted types."""
    return np.isin(event_type, type_indices(tokens, wanted))


def click_types(data: TrainingData, own: Any) -> np.ndarray:
    """[T + 2] bool, by type: which events are clicks; all of them where train has no others."""
    others = own.booking_types + own.rejection_types + own.shown_types
    clicks = np.ones(FIRST_TOKEN + len(data.event_types), bool)
    clicks[type_indices(data.event_types, others)] = False
    return clicks | (not clicks[data.events.event_type].any())


def click_sessions(data: TrainingData, own: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The clicks of train by session, of listings that have a row: rare ones may have none.

    Returns:
        [C] int64 listings; [C] int64, ascending, the session of each; and [S] int64, what each
        session booked last, 0 for nothing.
    """
    events, (order, starts) = data.events, data.events.in_sequences
    item, session = events.item[order], np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    there = (item >= FIRST_TOKEN) & (item < data.items.embedding_rows)
    booked = there & are(events.event_type, data.event_types, own.booking_types)[order]
    bought = np.zeros(len(starts) - 1, np.int64)
    bought[session[booked]] = item[booked]
    clicked = there & click_types(data, own)[events.event_type[order]]
    return item[clicked], session[clicked], bought


def centres(data: TrainingData, own: Any) -> np.ndarray:
    """[rows] bool: the listings that are a centre of `Windows` of these sessions."""
    item, session, bought = click_sessions(data, own)
    centre = (np.bincount(session, minlength=len(bought)) > 1) | (bought > 0)
    return np.isin(np.arange(data.items.embedding_rows), item[centre[session]])
