"""Groups of rows that are lists, such as searches, and what their user had done before them.

Pure functions on the log of some users, vectorised, without Beam.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa

from components.build.splits import Log
from components.tables.columns import BYTES, INT, kind_of
from models.names.errors import DataError
from models.names.label import Label


def names(log: Log, column: str) -> np.ndarray:
    """[E] object array of bytes: what the group of each event is called.

    An event without one is a group of its own, called after its row.
    """
    made = log.table.column(column)
    if kind_of(made.type) not in (BYTES, INT):
        raise DataError(f"label.group: {column!r} holds {kind_of(made.type)}; required: ids")
    text = made if kind_of(made.type) == BYTES else made.cast(pa.string()).cast(pa.binary())
    values = text.to_numpy().astype(object)
    alone = pd.isna(values) | (values == b"")
    values[alone] = [b"\0row %d" % row for row in log.column("row")[alone]]
    return values


def numbered(log: Log, column: str) -> np.ndarray:
    """[E] int64: equal for the events of a user that are in one group."""
    code, distinct = pd.factorize(names(log, column))
    return log.user * max(len(distinct), 1) + code


def whole(log: Log, column: str | None) -> Log:
    """Moves every event into the split of its group's last one, so that no list is torn.

    The last, since what comes after a cut in time must not be learnt from.
    """
    if column is None or not len(log):
        return log
    group = pd.factorize(numbered(log, column))[0]
    last = np.zeros(group.max() + 1, np.int64)
    last[group] = np.arange(len(log))  # of several the last one written stands
    return replace(log, split=log.split[last[group]])


def starts(log: Log, column: str | None) -> np.ndarray:
    """[E] int64 place of the first event of each event's group; of the event itself without one."""
    place = np.arange(len(log))
    if column is None or not len(log):
        return place
    group = pd.factorize(numbered(log, column))[0]
    first = np.full(group.max() + 1, len(log))
    np.minimum.at(first, group, place)
    return first[group]


def graded(log: Log, label: Label) -> np.ndarray:
    """[E] float64 grades of the events, NaN where there is none; see `label.grades`."""
    column = log.table.column(label.column)
    if kind_of(column.type) != BYTES:
        raise DataError(
            f"label.column: {label.column!r} holds {kind_of(column.type)}; required with "
            "label.grades: names"
        )
    by_name = {name.encode(): grade for name, grade in (label.grades or {}).items()}
    grades = pd.Series(log.column(label.column)).map(by_name).to_numpy(np.float64, na_value=np.nan)
    if label.group is None:
        return grades
    pair = pd.MultiIndex.from_arrays([numbered(log, label.group), log.column("item_id")])
    pair = pd.factorize(pair)[0]
    # The farthest from 0 first, of several the first; the others lose their grade.
    order = np.lexsort((np.arange(len(log)), -np.nan_to_num(np.abs(grades), nan=-1.0), pair))
    again = np.zeros(len(log), bool)
    again[order[1:]] = pair[order][1:] == pair[order][:-1]
    return np.where(again, np.nan, grades)
