"""Points in time, as any layout writes them, to whole seconds since 1970. Light: no Beam, no TFX.

What is read, alike in every version of the libraries:

    numbers    seconds, milliseconds, microseconds or nanoseconds since 1970, told apart by their
               size (`data.columns.timestamp_unit` says which where that cannot tell)
    20200913   in a column of nothing but such numbers: days
    ISO 8601   2020-09-13, 2020-09-13T12:26, 2020-09-13 12:26:40.123456789Z, +02:00 and so on, also
               20200913T122640Z, 2020-W37-7 and 2020-257; without a zone it is UTC
    Arrow      its timestamps and dates, of any unit and zone
"""

import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.read.numbers import to_numbers, utf8

DAY = "yyyymmdd"
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
UNREADABLE = (
    "timestamp is no time that is read (a number since 1970 in s, ms, us or ns; or ISO 8601, such "
    "as 2020-09-13 12:26:40)"
)
BEYOND = "timestamp is before 1970 or after 2262"

_LAST = 9_223_372_036  # what 64 bits of nanoseconds hold: 2262-04-11
_LIKELY = -5_364_662_400  # 1800
_SECONDS_A_DAY = 86_400
_UNREAD = np.iinfo(np.int64).min
_DATE = (
    r"(?P<year>\d{4})-(?:(?P<month>\d\d)(?:-(?P<day>\d\d))?"
    r"|W(?P<week>\d\d)(?:-(?P<weekday>\d))?|(?P<yearday>\d{3}))"
)
_TIME = r"(?P<hour>\d\d)(?::(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,]\d+)?)?)?"
_ZONE = r"(?P<zone>Z|z| ?UTC| ?GMT| ?[+-]\d\d(?::?\d\d)?)?"
_FORMS = (
    re.compile(rf"{_DATE}(?:[Tt ]{_TIME}{_ZONE})?"),
    re.compile(
        r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)"
        rf"[Tt ](?P<hour>\d\d)(?:(?P<minute>\d\d)(?:(?P<second>\d\d)(?:[.,]\d+)?)?)?{_ZONE}"
    ),
)


def to_seconds(
    column: pa.Array, unit: str | None = None, bounded: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads points in time.

    Args:
        column: text (large_binary), numbers, timestamps or dates.
        unit: of numbers: a key of `UNITS` or `DAY`; None to tell by their size.
        bounded: as of events: before 1970 and after 2262 there was none. Else any time will do,
            such as a birth.

    Returns:
        int64 seconds since 1970, cut to whole ones; which values are no time; and which are one
        out of bounds. Both of these have the second 0.
    """
    type_ = column.type
    missing = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_large_binary(type_):
        seconds, bad = _of_text(column, unit)
    elif pa.types.is_timestamp(type_):
        seconds, bad = _whole(column.cast(pa.int64())) // UNITS[type_.unit], missing
    elif pa.types.is_date32(type_):
        seconds, bad = _whole(column.cast(pa.int32()).cast(pa.int64())) * _SECONDS_A_DAY, missing
    elif pa.types.is_date64(type_):
        seconds, bad = _whole(column.cast(pa.int64())) // UNITS["ms"], missing
    elif pa.types.is_integer(type_):
        seconds, bad = _of_numbers(_whole(column.cast(pa.int64(), safe=False)), unit), missing
    else:
        numbers = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        bad = ~(np.abs(numbers) < 2.0**63)
        seconds = _of_numbers(np.floor(np.where(bad, 0, numbers)).astype(np.int64), unit)
    beyond = ~bad & ((seconds < 0) | (seconds > _LAST)) & bounded
    return np.where(bad | beyond, 0, seconds), bad, beyond


def are_days(column: pa.Array) -> bool:
    """Whether a column holds nothing but days such as 20200913, and one at least."""
    if pa.types.is_large_binary(column.type):
        _, whole, bad = to_numbers(column.filter(pc.greater(pc.binary_length(column), 0)))
        whole = np.where(bad, 0, whole)
    elif pa.types.is_integer(column.type):
        whole = _whole(column.drop_null().cast(pa.int64(), safe=False))
    else:
        return False
    seconds = _of_days(whole)
    return bool(len(whole)) and bool(((seconds >= 0) & (seconds <= _LAST)).all())


def are_likely(column: pa.Array) -> bool:
    """Whether a column of text holds nothing but times, of years that something may have been in.

    Codes such as 1001-123 are times of ISO 8601, too: the 123rd day of a year.
    """
    seconds, bad, _ = to_seconds(column, bounded=False)
    return not bad.any() and bool(((seconds >= _LIKELY) & (seconds <= _LAST)).all())


def _whole(column: pa.Array) -> np.ndarray:
    return column.fill_null(0).to_numpy(zero_copy_only=False)


def _of_numbers(whole: np.ndarray, unit: str | None) -> np.ndarray:
    if unit == DAY:
        return _of_days(whole)
    if unit:
        return whole // UNITS[unit]
    # A number of milliseconds since 1973 is none of seconds before 2262, and so on.
    seconds = whole.copy()
    for size, divisor in ((10**11, UNITS["ms"]), (10**14, UNITS["us"]), (10**17, UNITS["ns"])):
        seconds = np.where(whole >= size, whole // divisor, seconds)
    return seconds


def _of_days(whole: np.ndarray) -> np.ndarray:
    days = _day(whole // 10_000, whole // 100 % 100, whole % 100)
    return np.where(days == _UNREAD, -1, days * _SECONDS_A_DAY)


def _of_text(column: pa.Array, unit: str | None) -> tuple[np.ndarray, np.ndarray]:
    text = utf8(column.fill_null(b""))
    number = pc.match_substring_regex(text, r"^\s*[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?\s*$")
    number = number.to_numpy(zero_copy_only=False)
    seconds, bad = np.zeros(len(text), np.int64), np.ones(len(text), bool)
    if number.any():
        _, whole, wrong = to_numbers(column.filter(pa.array(number)))
        seconds[number], bad[number] = _of_numbers(whole, unit), wrong
    rest = np.flatnonzero(~number)
    if len(rest):
        found = _of_iso(pc.utf8_trim_whitespace(text.take(pa.array(rest))))
        bad[rest] = found == _UNREAD
        seconds[rest] = np.where(found == _UNREAD, 0, found)
    return seconds, bad


def _of_iso(text: pa.Array) -> np.ndarray:
    """[N] texts -> [N] seconds, or `_UNREAD`.

    All texts of one shape, such as 0000-00-00T00:00:00Z, are read at once, by the places that one
    regular expression finds in the shape.
    """
    shapes = pc.replace_substring_regex(text, "[0-9]", "0").dictionary_encode()
    codes = shapes.indices.to_numpy(zero_copy_only=False)
    seconds = np.full(len(text), _UNREAD, np.int64)
    for code, shape in enumerate(shapes.dictionary.to_pylist()):
        form = next((form for form in _FORMS if form.fullmatch(shape)), None)
        if form is None or not shape.isascii():
            continue
        rows = np.flatnonzero(codes == code)
        joined = text.take(pa.array(rows)).buffers()[2]
        digits = np.frombuffer(joined, np.uint8, len(rows) * len(shape)) - np.uint8(ord("0"))
        seconds[rows] = _moment(form.fullmatch(shape), digits.reshape(len(rows), len(shape)))
    return seconds


def _moment(found: re.Match[str], digits: np.ndarray) -> np.ndarray:
    def part(name: str, otherwise: int, start: int = 0) -> np.ndarray:
        first, after = found.span(name)
        if first < 0 or first + start >= after:
            return np.full(len(digits), otherwise)
        number = np.zeros(len(digits), np.int64)
        for place in range(first + start, after):
            number = number * 10 + digits[:, place]
        return number

    days = _date(found, part)
    hour, minute, second = part("hour", 0), part("minute", 0), part("second", 0)
    of_day = hour * 3600 + minute * 60 + second
    # 24:00 is the next midnight, and second 60 is leapt.
    good = (days != _UNREAD) & (minute < 60) & (second <= 60) & (of_day <= _SECONDS_A_DAY)
    zone = found["zone"] or ""
    shift = np.zeros(len(digits), np.int64)
    if sign := re.search("[+-]", zone):
        at = found.start("zone") + sign.end()
        places = [at + n for n, mark in enumerate(zone[sign.end() :]) if mark == "0"]
        number = digits[:, places].astype(np.int64)
        minutes = number[:, 2] * 10 + number[:, 3] if number.shape[1] == 4 else 0
        shift = (number[:, 0] * 10 + number[:, 1]) * 3600 + minutes * 60
        shift = -shift if sign.group() == "-" else shift
        good &= np.abs(shift) < _SECONDS_A_DAY
    return np.where(good, np.where(good, days, 0) * _SECONDS_A_DAY + of_day - shift, _UNREAD)


def _date(found: re.Match[str], part: Callable[..., np.ndarray]) -> np.ndarray:
    named = found.groupdict()
    year = part("year", 0)
    if named.get("week"):
        week, weekday = part("week", 1), part("weekday", 1)
        start = _first_week(year) + (week - 1) * 7
        good = (week >= 1) & (start < _first_week(year + 1))
        return np.where(good & (weekday >= 1) & (weekday <= 7), start + weekday - 1, _UNREAD)
    if named.get("yearday"):
        number = part("yearday", 1)
        one = np.ones(len(year), np.int64)
        first, after = _day(year, one, one), _day(year + 1, one, one)
        return np.where((number >= 1) & (first + number <= after), first + number - 1, _UNREAD)
    return _day(year, part("month", 1), part("day", 1))


def _first_week(year: np.ndarray) -> np.ndarray:
    """The Monday of week 1, in days since 1970."""
    fourth = _day(year, np.full(len(year), 1), np.full(len(year), 4))  # is in week 1
    return fourth - (fourth + 3) % 7


def _day(year: np.ndarray, month: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Days since 1970 of a date of the calendar, or `_UNREAD`."""
    good = (year >= 0) & (year <= 9999) & (month >= 1) & (month <= 12) & (day >= 1)
    months = np.where(good, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + np.where(good, day - 1, 0)
    good &= days.astype("datetime64[M]") == months
    return np.where(good, days.astype(np.int64), _UNREAD)
