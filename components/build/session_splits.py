"""Splits that keep a session whole: by the last days, and as the source itself says.

Pure functions on arrays.

A session belongs to one side by its LAST event, as the papers on sessions have it: no event of a
train session comes after the split point, while a test session may have begun before it.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa

from components.tables.hashing import hash_ids, mix
from components.tables.names import PART, PARTS
from models.names.errors import DataError

DAY = 86_400


@dataclass
class SessionEnds:
    """When the sessions of a log end.

    Attributes:
        sessions: [S] uint64, ascending distinct hashes.
        ends: [S] int64, the time of the last event; its row number where the log has no times.
        parts: [S] int8, the highest number in `PARTS` that the source gives an event of it; 0 where
            it says nothing.
    """

    sessions: np.ndarray = field(default_factory=lambda: np.array([], np.uint64))
    ends: np.ndarray = field(default_factory=lambda: np.array([], np.int64))
    parts: np.ndarray = field(default_factory=lambda: np.array([], np.int8))


def gather(table: pa.Table, by_session: bool) -> SessionEnds:
    """The sessions of one batch of events; its users, where `by_session` is false."""
    times = table.column("timestamp" if "timestamp" in table.column_names else "row").to_numpy()
    return _merge(hashes(table, by_session), times.astype(np.int64), parts_of(table))


def merge(all_: list[SessionEnds]) -> SessionEnds:
    """The sessions of all batches together."""
    names = ("sessions", "ends", "parts")
    return _merge(*(np.concatenate([getattr(one, name) for one in all_]) for name in names))


def _merge(sessions: np.ndarray, ends: np.ndarray, parts: np.ndarray) -> SessionEnds:
    distinct, inverse = np.unique(sessions, return_inverse=True)
    last, part = np.full(len(distinct), np.iinfo(np.int64).min), np.zeros(len(distinct), np.int8)
    np.maximum.at(last, inverse, ends)
    np.maximum.at(part, inverse, parts)
    return SessionEnds(distinct, last, part)


def hashes(table: pa.Table, by_session: bool) -> np.ndarray:
    """[E] uint64: a hash of each event's user and session; of its user where not `by_session`."""
    users = hash_ids(table.column("user_id").to_numpy())
    if not by_session:
        return users
    return mix(users, 1) ^ hash_ids(table.column("session_id").to_pandas().fillna(b"").to_numpy())


def parts_of(table: pa.Table) -> np.ndarray:
    """[E] int8: the number in `PARTS` of what the column `split` says, 0 where there is none.

    Raises:
        DataError: it says something else.
    """
    if PART not in table.column_names:
        return np.zeros(table.num_rows, np.int8)
    column = table.column(PART).to_numpy()
    codes, values = pd.factorize(column)
    known = {part.encode(): number for number, part in enumerate(PARTS)}
    for value in values:
        if value not in known:
            where = int(np.flatnonzero(column == value)[0])
            raise DataError(
                f"events.{PART}: required: {', '.join(PARTS)}; received "
                f"{value.decode('utf-8', 'backslashreplace')!r} "
                f"in row {table.column('row')[where].as_py()}"
            )
    if (codes < 0).any():
        raise DataError(
            f"events.{PART}: required: {', '.join(PARTS)}; received nothing in "
            f"{(codes < 0).sum()} rows"
        )
    return (
        np.array([known[value] for value in values], np.int8)[codes]
        if len(values)
        else np.zeros(0, np.int8)
    )


def last_days(found: SessionEnds, days: float, with_validation: bool) -> np.ndarray:
    """Assigns sessions by their ends: the last `days` of the log are test.

    Validation is counted back from the last session that is left: what ends within `days` of it.

    Returns:
        [S] int8: 2 for test, 1 for validation, 0 for train.
    """
    side = np.zeros(len(found.ends), np.int8)
    side[found.ends > found.ends.max(initial=0) - int(days * DAY)] = 2
    if with_validation:
        side[_last(found.ends, side == 0, days)] = 1
    return side


def predefined(
    found: SessionEnds, days: float, valid_fraction: float, has_times: bool
) -> np.ndarray:
    """Assigns sessions as the source says.

    Where it names no validation, the train sessions that end within the last `days` of train are
    taken for it; in a log without times, the last `valid_fraction` of the train sessions.

    Returns:
        [S] int8: 2 for test, 1 for validation, 0 for train.
    """
    side = found.parts.copy()
    if valid_fraction and not (side == 1).any():
        train = side == 0
        if has_times:
            side[_last(found.ends, train, days)] = 1
        else:
            order = np.flatnonzero(train)[np.argsort(found.ends[train], kind="stable")]
            side[order[len(order) - round(len(order) * valid_fraction) :]] = 1
    return side


def _last(ends: np.ndarray, among: np.ndarray, days: float) -> np.ndarray:
    latest = ends[among].max(initial=np.iinfo(np.int64).min + int(days * DAY))
    return among & (ends > latest - int(days * DAY))
