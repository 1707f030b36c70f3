"""Blocks of files to typed rows: what `readers` maps over blocks, and a run looks at first.

Light: no Beam, no TFX.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from components.read import parsing, raw, times
from components.read.parsing import Rejects
from components.read.raw import Block
from components.read.sources import BLOCK_OF_ROWS, FileField, Source
from components.tables.columns import BYTES, INT, arrow_type, is_list
from components.tables.names import PART, REQUIRED, ROW
from components.tables.parquet import is_any_list, is_text
from models.names.errors import DataError

_ENCODING = "data.columns.encoding names another encoding"


@dataclass
class Parsed:
    """What became of a block: its good rows, and its bad ones by reason.

    Attributes:
        ahead: by how much a row's line is ahead of its number in the table; None where rows differ
            in that, as those with line breaks in quotes do.
    """

    block: Block
    table: pa.Table
    read: int
    rejects: dict[str, tuple[int, int, str]]
    unreadable: dict[str, int]
    ahead: int | None


def parse(source: Source, block: Block) -> Parsed:
    """Reads, types and checks one block."""
    rejects = Rejects()
    return _typed_rows(source, block, raw.read_block(source, block, rejects), rejects)


def first_rows(source: Source, rows: int, size: int) -> tuple[Parsed, bool] | None:
    """Reads, types and checks the first rows of a table as `parse` does.

    Args:
        source: of the table.
        rows: how many at most.
        size: bytes of text at most.

    Returns:
        The rows, and whether they are all that the table has; None for a table without any.
    """
    rejects = Rejects()
    found = raw.first_rows(source, rows, size, rejects)
    if found is None:
        return None
    block, columns, whole = found
    return _typed_rows(source, block, columns, rejects), whole


def check_rejected(report: Mapping[str, Any], max_rejected_share: float) -> None:
    """Raises DataError where too many rows of a table had to be rejected.

    Args:
        report: `table`, rows `read` and `kept`, and `rejected`: reason -> count, file and line of
            the first, and what was received there.
        max_rejected_share: of the rows read.
    """
    rejected = report["read"] - report["kept"]
    if rejected and rejected > max_rejected_share * report["read"]:
        raise DataError(
            f"the table {report['table']}: {rejected} of {report['read']} rows had to be rejected, "
            f"{rejected / report['read']:.1%}; at most {max_rejected_share:.1%} is allowed "
            f"(data.max_rejected_share). Reasons: {reasons_of(report)}"
        )


def no_events(source: Source) -> DataError:
    """The error of a log without any event."""
    return DataError(
        f"{', '.join(source.files)}: the table events has no rows; required: at least one event"
    )


def reasons_of(report: Mapping[str, Any]) -> str:
    """In words, why rows of a table are rejected; see `check_rejected`."""
    return "; ".join(
        f"{reason} ({first['count']}, first: {first['file']}, line {first['line']}: "
        f"{first['received']})"
        for reason, first in report["rejected"].items()
    )


def _typed_rows(source: Source, block: Block, read: raw.Columns, rejects: Rejects) -> Parsed:
    columns, kept, lines = read
    count = len(kept) + sum(count for count, _, _ in rejects.reasons.values())
    rows = block.row + kept
    lines = lines[kept]
    ahead = np.unique(lines - rows)

    arrays: dict[str, pa.Array] = {}
    unreadable: dict[str, int] = {}
    good = np.ones(len(kept), bool)

    def refuse(reason: str, bad: np.ndarray, column: pa.Array) -> None:
        nonlocal good
        bad = bad & good
        where = np.flatnonzero(bad)
        if len(where):
            rejects.add(reason, lines[where], [_shown(column, int(where[0]))])
            good &= ~bad

    def note(name: str, bad: np.ndarray) -> None:
        if bad.any():
            unreadable[name] = int(bad.sum())

    for field in source.fields:
        column, bad = columns[field.name], np.zeros(len(kept), bool)
        if source.format == "parquet":
            column, bad = _typed(column, field, source)
        if isinstance(column, pa.LargeBinaryArray):
            refuse(f"{field.name} is not UTF-8 ({_ENCODING})", parsing.not_utf8(column), column)
        if field.name in REQUIRED[source.table]:
            for reason, bad in parsing.id_problems(column, field.name):
                refuse(reason, bad, column)
            arrays[field.name] = column
        elif source.table == "events" and field.name == "timestamp":
            seconds, bad, beyond = times.to_seconds(column, source.timestamp_unit)
            refuse(times.UNREADABLE, bad, column)
            refuse(times.BEYOND, beyond, column)
            arrays[field.name] = pa.array(seconds)
        elif source.table == "events" and field.name in ("rating", "label"):
            # An event without a rating is an event; a run that learns ratings counts it.
            numbers, bad, missing = parsing.to_judgements(column, source.decimal)
            refuse(f"{field.name} is not a number", bad, column)
            arrays[field.name] = pa.array(numbers.astype(np.float32), mask=missing | bad)
        elif isinstance(column, pa.LargeBinaryArray):
            if field.year:
                column, arrays[field.year] = parsing.split_year(column)
            arrays[field.name], bad = parsing.to_feature(
                column, field.kind, field.separator, source.decimal, field.time, field.unit
            )
            note(field.name, bad)
        else:
            arrays[field.name] = column
            note(field.name, bad)
    if source.anonymous:
        blocks_, place = np.unique(rows // BLOCK_OF_ROWS, return_inverse=True)
        names_ = np.array(
            [b"rows %d-%d" % (n * BLOCK_OF_ROWS, (n + 1) * BLOCK_OF_ROWS - 1) for n in blocks_],
            object,
        )
        arrays["user_id"] = pa.array(names_[place] if len(rows) else [], pa.large_binary())
        arrays["item_id"] = pa.array(np.full(len(rows), b"any", object), pa.large_binary())
    if source.parts:
        part = (source.part_of(block.file) or "").encode()
        arrays[PART] = pa.array(np.full(len(kept), part, object), pa.large_binary())
    if source.table == "events":
        arrays[ROW] = pa.array(rows)
    names = list(source.columns())
    table = pa.table(
        [arrays[name].cast(arrow_type(kind)) for name, kind in source.columns().items()],
        names=names,
    )
    if not good.all():
        table = table.filter(pa.array(good))
    straight = int(ahead[0]) if len(ahead) == 1 else None
    return Parsed(block, table, count, rejects.reasons, unreadable, straight)


def _shown(column: pa.Array, row: int) -> str:
    try:
        value = column[row].as_py()
    except (ValueError, OverflowError):  # a date that Python has none of
        value = column.slice(row, 1).view(pa.int64())[0].as_py()
    return parsing.show(value if isinstance(value, bytes) else str(value).encode())


def _typed(array: pa.Array, field: FileField, source: Source) -> tuple[pa.Array, np.ndarray]:
    """A column of Parquet as its kind, or as text (large_binary) where that is to be parsed.

    Returns:
        The column, and which values were there but are none of the kind.
    """
    type_, readable = array.type, np.zeros(len(array), bool)
    is_time = pa.types.is_timestamp(type_) or pa.types.is_date(type_)
    numeric = not is_text(type_) and not pa.types.is_null(type_)
    if source.table == "events" and field.name == "timestamp":
        return array if numeric else raw.as_text(array), readable
    if source.table == "events" and field.name in ("rating", "label"):
        return array if numeric and not is_time else raw.as_text(array), readable
    if is_list(field.kind) and is_any_list(type_):
        return parsing.as_list(raw.texts_of(array), field.kind)
    if field.kind == BYTES or is_list(field.kind) or not numeric:
        return raw.as_text(array), readable
    if is_time or field.time:
        seconds, bad, _ = times.to_seconds(array, field.unit, bounded=False)
        # In a column of floats nothing is a NaN, too.
        nothing = array.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
        values = pa.array(seconds, mask=bad | nothing)
        return values.cast(arrow_type(field.kind), safe=False), bad & ~nothing
    if pa.types.is_integer(type_) and field.kind == INT:
        return array.cast(pa.int64(), safe=False), readable
    numbers = array.cast(pa.float64(), safe=False).fill_null(np.nan)
    numbers = numbers.to_numpy(zero_copy_only=False)
    missing = np.isnan(numbers)
    bad = ~(np.abs(numbers) < 2.0**63)
    if field.kind == INT:
        values = np.floor(np.where(bad, 0, numbers)).astype(np.int64)
        return pa.array(values, mask=bad), bad & ~missing
    return pa.array(numbers.astype(np.float32), mask=bad), bad & ~missing
