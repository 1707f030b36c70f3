"""What a column holds, told by its values where nobody has said. Light: no Beam, no TFX.

One rule for every format, over the first rows of the files:

    number     all values are numbers, and one at least is not whole
    category   whole numbers (codes, zip codes, flags) and every other text
    time       all values are dates or times; kept as seconds since 1970
    left out   of events: a category whose values all differ, as ids of requests do

`data.columns.types` says otherwise. What the rule is applied to is also what the run says of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.read import raw, times
from components.read.numbers import to_numbers
from components.read.sources import LISTS, FileField, Source
from components.tables.columns import BYTES, BYTES_LIST, FLOAT, FLOAT_LIST, INT
from components.tables.names import REQUIRED
from components.tables.parquet import is_any_list, is_text
from models.names.errors import DataError

ROWS = 5_000
_BYTES = 1 << 20
_FILES = 10
_MANY = 100  # so many values that all differ are no categories
_WORDS = {
    BYTES: "category",
    BYTES_LIST: "categories",
    FLOAT: "number",
    INT: "whole number",
    FLOAT_LIST: "numbers",
    "int_list": "whole numbers",
}


@dataclass(frozen=True)
class _Told:
    kind: str | None  # None for a column that is left out
    time: bool = False


def decide(source: Source) -> Source:
    """A source whose columns all have their kind, and whose notes say which.

    Raises:
        DataError: a column that has to hold one value a row holds lists.
    """
    if not source.files or source.format in LISTS or source.anonymous:
        return source
    samples = list(_samples(source))
    fields, notes = [], list(source.notes)
    words = []
    for field in source.fields:
        columns = [sample[field.name] for sample in samples]
        _require_single(source, field, columns)
        if field.name in REQUIRED[source.table]:
            fields.append(field)
            continue
        if field.kind is None:
            told = _told(columns, source)
            if told.kind is None:
                words.append(f"{field.name}: left out, for its values all differ (types takes it)")
                continue
            field = replace(field, kind=told.kind, time=told.time)
        if field.time:
            there = [column for column in map(_there, columns) if len(column)]
            if there and all(map(times.are_days, there)):
                field = replace(field, unit=times.DAY)
        fields.append(field)
        words.append(f"{field.name}: {_said(source, field, columns)}")
    unit = source.timestamp_unit
    stamps = [sample["timestamp"] for sample in samples if "timestamp" in sample]
    if source.table == "events" and stamps and unit is None:
        stamps = [stamp for stamp in map(_there, stamps) if len(stamp)]
        if stamps and all(map(times.are_days, stamps)):
            unit = times.DAY
            notes.append(f"timestamp: days such as {_first(stamps)}")
        elif stamps and (early := _all_in_the_seventies(stamps)):
            notes.append(f"timestamp: {early}")
    names = ", ".join(file.rsplit("/", 1)[-1] for file in source.files[:3])
    more = f" and {len(source.files) - 3} more" if len(source.files) > 3 else ""
    notes.insert(0, f"{source.table} ({names}{more}): {', '.join(words) or 'ids alone'}")
    return replace(source, fields=tuple(fields), notes=tuple(notes), timestamp_unit=unit)


def _samples(source: Source) -> Iterable[dict[str, pa.Array]]:
    """The first rows of some of the files."""
    files = source.files
    chosen = files if len(files) <= _FILES else (*files[: _FILES - 1], files[-1])
    for file in chosen:
        found = raw.sample(source, file, ROWS, _BYTES)
        if found is not None:
            yield found


def _require_single(source: Source, field: FileField, columns: list[pa.Array]) -> None:
    single = (*REQUIRED[source.table], "timestamp", "rating", "label", "session_id", "event_type")
    if field.name in single or field.kind in (INT, FLOAT):
        for column in columns:
            if is_any_list(column.type):
                raise DataError(
                    f"{source.files[0]}: the column {field.header!r} holds lists; required: one "
                    f"value a row for {field.name}"
                )


def _told(columns: list[pa.Array], source: Source) -> _Told:
    lists = any(is_any_list(column.type) for column in columns)
    values = [column.flatten() if is_any_list(column.type) else column for column in columns]
    values = [_there(column) for column in values]
    values = [column for column in values if len(column)]
    if values and not lists and all(map(_are_times, values)):
        return _Told(INT, time=True)
    if _are_numbers(values, source.decimal):
        return _Told(FLOAT_LIST if lists else FLOAT)
    if source.table == "events" and not lists:
        there = [one for column in values for one in column.to_pylist()]
        if len(there) >= _MANY and len(set(there)) == len(there):
            return _Told(None)
    return _Told(BYTES_LIST if lists else BYTES)


def _are_numbers(columns: list[pa.Array], decimal: str) -> bool:
    """Whether all values are numbers, and one is not whole."""
    whole = True
    for column in columns:
        type_ = column.type
        if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
            numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
            numbers = numbers[np.isfinite(numbers)]
        elif pa.types.is_integer(type_) or pa.types.is_null(type_):
            continue
        elif pa.types.is_boolean(type_) or not is_text(type_):
            return False
        else:
            numbers, _, bad = to_numbers(column, decimal)
            if bad.any():
                return False
        whole = whole and bool((numbers == np.floor(numbers)).all())
    return not whole


def _are_times(column: pa.Array) -> bool:
    type_ = column.type
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        return True
    if not is_text(type_):
        return False
    dashed = pc.match_substring_regex(column, r"^\s*\d{4}-").to_numpy(zero_copy_only=False)
    return bool(dashed.all()) and times.are_likely(column)


def _said(source: Source, field: FileField, columns: list[pa.Array]) -> str:
    if source.table == "events" and field.name == "timestamp":
        return "time"
    if field.name == "session_id":
        return "id"
    if field.text and field.kind == BYTES:
        return "text"
    word = "time" if field.time else _WORDS[str(field.kind)]
    if field.kind in (FLOAT, INT) and field.name not in ("rating", "label", "dwell"):
        return f"{word} (10 buckets)"
    if field.kind == BYTES:
        values = set().union(*(_there(raw.as_text(column)).to_pylist() for column in columns))
        rows = sum(map(len, columns))
        return f"{word} ({len(values):,} values in the first {rows:,} rows)"
    return word


def _all_in_the_seventies(stamps: list[pa.Array]) -> str | None:
    found = map(times.to_seconds, stamps)
    seconds = np.concatenate([seconds[~(bad | beyond)] for seconds, bad, beyond in found])
    if not len(seconds) or seconds.max() >= 10 * 365 * 86_400 or seconds.max() < 10**7:
        return None
    return (
        f"all lie in the 1970s, such as {_first(stamps)}; is data.columns.timestamp_unit "
        f"{', '.join((*times.UNITS, times.DAY))} right?"
    )


def _first(columns: list[pa.Array]) -> str:
    texts = [_there(raw.as_text(column.slice(0, 1))).to_pylist() for column in columns]
    return next((text[0].decode("utf-8", "replace") for text in texts if text), "")


def _there(column: pa.Array) -> pa.Array:
    """The values that are there; of text, as large_binary."""
    column = (raw.as_text(column) if is_text(column.type) else column).drop_null()
    if not is_text(column.type):
        return column
    return column.filter(pc.greater(pc.binary_length(column), 0))
