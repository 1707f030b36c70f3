"""Where the records of a text end, and which of them no quotes make sense of.

Quotes are those of RFC 4180: one opens at the start of a field alone, is closed before a delimiter
or the end of the record, and stands for itself where it is doubled within quotes; in a field that
does not begin with one it is a character like any other. `cut` is the only place that decides on
this: what it lets through is read alike by every parser of CSV.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

LONGEST = 1 << 20
"""Bytes of a record within which its quotes must be closed."""

NEVER_CLOSED = "quote that is never closed"
NOT_DOUBLED = "text after a closing quote"
RETURN = "carriage return outside quotes"

_FEED, _RETURN, _QUOTE = 0x0A, 0x0D, 0x22
# So many lines in one record, each with the fields of a row, are rows and no text in quotes.
_ROWS_IN_QUOTES = 4


@dataclass(frozen=True)
class Records:
    """The records of a text.

    Attributes:
        bounds: [N + 1] int64; record n is bytes bounds[n] to bounds[n + 1], its line feed included.
        lines: [N] int64, the line on which each begins, 0 the first.
        broken: number of a record -> why it cannot be read; it is one line.
    """

    bounds: np.ndarray
    lines: np.ndarray
    broken: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def size(self) -> int:
        """Bytes that all records take together; what comes after is the start of another."""
        return int(self.bounds[-1])


def cut(data: bytes, last: bool, delimiter: str | None = None, width: int = 0) -> Records:
    """Cuts a text, which begins with a record, into records.

    A quote that is not closed costs its own line: the next record begins on the next one. That it
    is not is known when something else follows a closing quote, when `LONGEST` is exceeded, when
    the text has no more, or when the lines that it would span are rows by themselves.

    Args:
        data: the text.
        last: whether it ends here; else a record without its end is left for the next time.
        delimiter: one byte between fields that may be quoted; None where nothing ever is quoted.
        width: number of fields of a good record.
    """
    array = np.frombuffer(data, np.uint8)
    feeds = np.flatnonzero(array == _FEED)
    inside, broken, size = np.array([], np.int64), {}, None
    if delimiter and (b'"' in data or data.count(b"\r") != data.count(b"\r\n")):
        clean = _clean(data, array, feeds, last, delimiter, width)
        if clean is None:
            inside, broken, size = _by_line(data, array, feeds, last, delimiter, width)
        else:
            inside, size = clean
    ends = np.delete(feeds, inside) + 1
    if size is not None:
        ends = ends[ends <= size]
    elif last and (len(ends) == 0 or ends[-1] < len(data)) and data:
        ends = np.append(ends, len(data))
    bounds = np.concatenate([[0], ends]).astype(np.int64)
    lines = np.searchsorted(feeds, bounds[:-1])
    if broken:
        numbers = np.searchsorted(lines, list(broken))
        broken = {
            int(number): reason
            for number, reason in zip(numbers, broken.values())
            if number < len(lines)
        }
    return Records(bounds, lines, broken)


def _clean(
    data: bytes, array: np.ndarray, feeds: np.ndarray, last: bool, delimiter: str, width: int
) -> tuple[np.ndarray, int | None] | None:
    """The line feeds within quotes, by number, where all quotes are as they should be.

    No Python runs per record.
    """
    around = np.concatenate([[_FEED], array, [_FEED, _FEED]]).astype(np.uint8)
    quotes = np.flatnonzero(array == _QUOTE)
    before, after, then = around[quotes], around[quotes + 2], around[quotes + 3]
    own = ord(delimiter)
    opens = np.isin(before[::2], (own, _FEED, _QUOTE))
    closes = np.isin(after, (own, _FEED, _QUOTE)) | (after == _RETURN) & (then == _FEED)
    if not (opens.all() and closes[1::2].all()):
        return None
    returns = np.flatnonzero((array == _RETURN) & (around[2:-1] != _FEED))
    if (np.searchsorted(quotes, returns) % 2 == 0).any():
        return None
    within = np.searchsorted(quotes, feeds) % 2 == 1
    real = np.flatnonzero(~within)
    ends = np.concatenate([[0], feeds[real] + 1])
    if len(quotes) % 2 and (last or len(data) - ends[-1] > LONGEST):
        return None
    spans = np.diff(np.concatenate([[-1], real]))
    if (np.diff(ends)[spans > 1] > LONGEST).any():
        return None
    for number in np.flatnonzero(spans >= _ROWS_IN_QUOTES):
        if _are_rows(data[ends[number] : ends[number + 1]], delimiter, width):
            return None
    return np.flatnonzero(within), None if last or not len(quotes) % 2 else int(ends[-1])


def _by_line(
    data: bytes, array: np.ndarray, feeds: np.ndarray, last: bool, delimiter: str, width: int
) -> tuple[np.ndarray, dict[int, str], int | None]:
    """Likewise where they are not, line by line of those that have a quote or a return.

    Returns:
        The line feeds within quotes, by number; the lines that are broken; and where the last
        record begins, where it has no end.
    """
    pattern = _record(delimiter, rb"\r\n")
    around = np.append(array, _FEED)
    odd = (array == _QUOTE) | (array == _RETURN) & (around[1:] != _FEED)
    starts = np.concatenate([[0], feeds + 1])
    inside: list[int] = []
    broken: dict[int, str] = {}
    after = 0
    for line in _distinct(np.searchsorted(feeds, np.flatnonzero(odd))):
        if line < after:
            continue
        start = int(starts[line])
        end = int(feeds[line]) if line < len(feeds) else len(data)
        limit = min(len(data), max(start + LONGEST, end + 1))
        found = pattern.match(data, start, limit)
        opened = found is not None and found["open"] is not None
        cut_off = opened or found is not None and found.end() == limit and data[limit - 1] != _FEED
        if cut_off and limit == len(data) and not last:
            return np.array(inside, np.int64), broken, start
        if found is None or opened or cut_off and limit < len(data):
            broken[line] = _why(data, start, end, delimiter)
            continue
        after = int(np.searchsorted(feeds, found.end() - 1)) + 1
        if after - line >= _ROWS_IN_QUOTES and _are_rows(
            data[start : found.end()], delimiter, width
        ):
            broken[line], after = NEVER_CLOSED, line + 1
            continue
        inside.extend(range(line, after - 1))
    return np.array(inside, np.int64), broken, None


def _distinct(ascending: np.ndarray) -> Iterator[int]:
    return iter(ascending[np.diff(ascending, prepend=-1) > 0].tolist())


def _are_rows(record: bytes, delimiter: str, width: int) -> bool:
    own = delimiter.encode()
    return width > 1 and all(
        line.count(own) == width - 1 for line in record.rstrip(b"\r\n").split(b"\n")
    )


def _why(data: bytes, start: int, end: int, delimiter: str) -> str:
    """Why the line from `start` to `end` is no record."""
    found = _record(delimiter, rb"\r\n").match(data, start, end)
    if found:
        return NEVER_CLOSED
    return RETURN if _record(delimiter, rb"\n").match(data, start, end) else NOT_DOUBLED


@lru_cache
def _record(delimiter: str, ends: bytes) -> re.Pattern[bytes]:
    """A record with its line end; `open` is a last field whose quote is not closed.

    `ends` are the characters that a field without quotes cannot hold.
    """
    own = re.escape(delimiter).encode()
    text = rb'"[^"]*(?:""[^"]*)*'
    quoted = text + rb'"(?=' + own + rb"|\r?\n|\r?\Z)"
    plain = rb'(?!")[^' + own + ends + rb"]*"
    field_ = rb"(?:" + quoted + rb"|" + plain + rb")"
    return re.compile(rb"(?:%s%s)*(?:%s\r?(?:\n|\Z)|(?P<open>%s\Z))" % (field_, own, field_, text))
