"""The column `label` of the rows of a `score` model: made of the events' own, counted, and judged.

Pure functions on Arrow tables, vectorised, without Beam.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from components.build import groups
from components.build.splits import TEST, TRAIN, UNUSED, VALID, Log
from components.read import parsing
from components.tables.columns import BYTES, FLOAT, INT, kind_of
from models.names.errors import DataError
from models.names.features import NOT_FEATURES
from models.names.label import GROUP, LABEL, WEIGHT, Label

_PARTS = {"train": TRAIN, "valid": VALID, "test": TEST}


def with_label(log: Log, label: Label) -> tuple[Log, dict[str, Any]]:
    """Replaces the columns that a label is made of by `label` and, as it says, WEIGHT and GROUP.

    Clicks are 0 and 1, or -1 and 1, or false and true. Events without a label are moved out of
    their split.

    Returns:
        The log, and its part of what `merge` adds up and `check` judges.

    Raises:
        DataError: the label's column holds lists, or a weight is no number of 0 or more.
    """
    if label.grades:
        numbers, strange = groups.graded(log, label), np.zeros(len(log), bool)
    else:
        numbers, strange = _numbers(log.table.column(label.column), label)
    missing, values = np.isnan(numbers), numbers
    as_they_are = label.is_click and label.threshold is None
    if label.threshold is not None:
        values = np.where(missing, np.nan, numbers >= label.threshold)
    elif as_they_are:
        strange |= ~missing & ~np.isin(numbers, (-1, 0, 1))
        values = np.where(numbers == -1, 0, numbers)
    made = {LABEL: pa.array(values.astype(np.float32), mask=missing)}
    if label.weight:
        made[WEIGHT] = pa.array(_weights(log, label.weight))
    if label.group:
        made[GROUP] = pa.array(groups.names(log, label.group), pa.large_binary())
    # What the label is made of must not be learnt from; columns that are never features may stay.
    gone = {label.column, label.weight, label.group} - NOT_FEATURES | {*made}
    table = log.table.drop([name for name in log.table.column_names if name in gone])
    for name, column in made.items():
        table = table.append_column(name, column)
    split = np.where(missing, UNUSED, log.split).astype(np.int8)
    counts = {
        "splits": {
            name: _count(values[split == part], int((missing & (log.split == part)).sum()))
            for name, part in _PARTS.items()
        },
        "column": _count(numbers[~missing], 0),
        "strange": _first(log.table, label.column, strange),
        # Where -1 stands for no click, 0 is something else.
        "negative": int((numbers == -1).sum()) if as_they_are else 0,
        "zero": int((numbers == 0).sum()),
    }
    return replace(log, table=table, split=split), counts


def _weights(log: Log, name: str) -> np.ndarray:
    """[E] float32 of a column of weights, 1 where there is none."""
    column = log.table.column(name)
    if kind_of(column.type) not in (INT, FLOAT):
        raise DataError(
            f"label.weight: {name!r} holds {kind_of(column.type)}; required: numbers. Say so with "
            f"data.columns.types.{name}"
        )
    weights = column.cast(pa.float64()).to_numpy()
    weights = np.where(np.isnan(weights), 1.0, weights)
    wrong = (weights < 0) | np.isinf(weights)
    if wrong.any():
        raise DataError(
            f"label.weight: {name!r}: required: numbers of 0 or more; received "
            f"{weights[np.argmax(wrong)]:g} for the user {log.column('user_id')[np.argmax(wrong)]}"
        )
    return weights.astype(np.float32)


def _numbers(column: pa.ChunkedArray, label: Label) -> tuple[np.ndarray, np.ndarray]:
    """[E] float64, NaN where there is nothing; and which values are neither nothing nor numbers."""
    kind = kind_of(column.type)
    if kind in (INT, FLOAT):
        return column.cast(pa.float64()).to_numpy(), np.zeros(len(column), bool)
    if kind != BYTES:
        raise DataError(
            f"label.column: {label.column!r} holds {kind}; required: one number a row, or true and "
            "false"
        )
    if not len(column):
        return np.zeros(0), np.zeros(0, bool)
    numbers, strange, _ = parsing.to_judgements(pa.concat_arrays(column.chunks))
    return numbers, strange


def _count(values: np.ndarray, missing: int) -> dict[str, Any]:
    there = len(values) > 0
    return {
        "count": len(values),
        "missing": missing,
        "sum": float(values.sum()),
        "low": float(values.min()) if there else None,
        "high": float(values.max()) if there else None,
    }


def _first(table: pa.Table, name: str, strange: np.ndarray) -> dict[str, Any]:
    """How many values are strange, and the one that stands first in the log."""
    where = np.flatnonzero(strange)
    if not len(where):
        return {"count": 0, "row": None, "received": None}
    rows = table.column("row").to_numpy()[where]
    value = table.column(name)[int(where[rows.argmin()])].as_py()
    shown = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    return {"count": len(where), "row": int(rows.min()), "received": shown}


def merge(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of all shards together, as the report of a build holds them."""
    parts = list(parts)
    strange = [part["strange"] for part in parts if part["strange"]["count"]]
    first = min(strange, key=lambda one: one["row"], default=parts[0]["strange"])
    return {
        "splits": {name: _together([part["splits"][name] for part in parts]) for name in _PARTS},
        "column": _together([part["column"] for part in parts]),
        "strange": {**first, "count": sum(one["count"] for one in strange)},
        "negative": sum(part["negative"] for part in parts),
        "zero": sum(part["zero"] for part in parts),
    }


def _together(counts: list[Mapping[str, Any]]) -> dict[str, Any]:
    there = [one for one in counts if one["count"]]
    return {
        **{key: sum(one[key] for one in counts) for key in ("count", "missing", "sum")},
        "low": min((one["low"] for one in there), default=None),
        "high": max((one["high"] for one in there), default=None),
    }


def check(found: Mapping[str, Any], label: Label, parts: Sequence[str] = ("train", "test")) -> None:
    """Raises DataError unless the labels are what the run learns, and there is something to learn.

    Args:
        found: of `merge`.
        label: what the run learns.
        parts: the splits that must have some.
    """
    column, strange = found["column"], found["strange"]
    what = f"label.column {label.column!r}" + (
        "" if label.threshold is None else f" from label.threshold {label.threshold:g} on"
    )
    if not column["count"] and not strange["count"]:
        raise DataError(f"{what}: no event has a label; required: one at least")
    received = (
        f"received: numbers from {column['low']:g} to {column['high']:g}"
        if column["count"]
        else "received: no number"
    )
    wanted = "0 and 1 (or -1 and 1, or false and true)" if label.is_click else "numbers"
    mend = (
        "; label.threshold makes clicks of numbers, and label.kind: rating learns the numbers"
        if label.is_click and label.threshold is None
        else ""
    )
    if strange["count"]:
        raise DataError(
            f"{what}: required: {wanted}; {received}, and {strange['count']:,} labels that are "
            f"none of these, the first {strange['received']!r} in row {strange['row']}{mend}"
        )
    if found["negative"] and found["zero"]:
        raise DataError(
            f"{what}: required: {wanted}; received: {found['negative']:,} of -1 and "
            f"{found['zero']:,} of 0{mend}"
        )
    for name in parts:
        one = found["splits"][name]
        if not one["count"]:
            raise DataError(
                f"{what}: no event of {name} has a label; required: one at least; received: "
                f"{one['missing']:,} events without one"
            )
        if one["low"] == one["high"] and (name == "train" or label.is_click):
            needed = "both 0 and 1" if label.is_click else "different numbers"
            why = (
                "there is nothing to learn"
                if name == "train"
                else "no AUC can be measured. Choose another split.name or fractions"
            )
            raise DataError(
                f"{what}: all {one['count']:,} labels of {name} are {one['low']:g}, of which "
                f"{why}; required: {needed}; {received}"
            )
