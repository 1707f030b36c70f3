"""Blocks of delimited text to typed columns, a block at a time: no Python runs per row.

Text is handled as bytes throughout, so an id leaves as the very bytes that the file held.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from components.read.numbers import to_numbers
from components.read.quotes import Records
from components.read.times import to_seconds
from components.tables.columns import BYTES, BYTES_LIST, FLOAT_LIST, INT, INT_LIST, arrow_type

_SHOWN = 80


@dataclass
class Rejects:
    """Rows left out, counted by reason, with where the first of each was.

    Attributes:
        reasons: reason -> (count, line of the first, what was received there).
    """

    reasons: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    def add(self, reason: str, lines: np.ndarray, received: list[str]) -> None:
        """Counts rows under `reason`.

        `lines` are their 1-based lines in the file, `received` what the first held.
        """
        if len(lines):
            count, line, text = self.reasons.get(
                reason, (0, int(lines[0]), received[0] if received else "")
            )
            self.reasons[reason] = (count + len(lines), line, text)


def show(value: bytes | None) -> str:
    """A value as an error message quotes it."""
    text = "" if value is None else value.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def split_fields(
    data: bytes, delimiter: str, expected: int, lines: np.ndarray, rejects: Rejects
) -> tuple[list[pa.Array], np.ndarray]:
    """Splits unquoted delimited text.

    Args:
        data: whole lines, with or without a line feed at the end.
        delimiter: one or more characters.
        expected: number of fields of a good line.
        lines: 1-based line number of every line.
        rejects: takes the lines with another number of fields; blank lines are passed over.

    Returns:
        The columns (large_binary), and the index within the block of every row kept.
    """
    data = data.replace(b"\r\n", b"\n")
    text = (
        pc.split_pattern(pa.array([data], pa.large_binary()), "\n").flatten().slice(0, len(lines))
    )
    fields = pc.split_pattern(text, delimiter)
    counts = fields.value_lengths().to_numpy(zero_copy_only=False)
    blank = pc.equal(pc.binary_length(text), 0).to_numpy(zero_copy_only=False)
    good = (counts == expected) & ~blank
    bad = np.flatnonzero(~good & ~blank)
    if len(bad):
        rejects.add(
            "wrong number of fields",
            lines[bad],
            [f"required {expected}, received {counts[bad[0]]}: {show(text[int(bad[0])].as_py())}"],
        )
    kept = np.flatnonzero(good)
    if len(kept) != len(fields):
        fields = fields.take(pa.array(kept))
    flat = fields.flatten()
    if not len(kept):
        return [pa.array([], pa.large_binary())] * expected, kept
    index = np.arange(len(kept), dtype=np.int64) * expected
    return [flat.take(pa.array(index + position)) for position in range(expected)], kept


def split_csv(
    data: bytes,
    delimiter: str,
    expected: int,
    records: Records,
    lines: np.ndarray,
    rejects: Rejects,
) -> tuple[list[pa.Array], np.ndarray]:
    """Splits CSV text with double quotes.

    Arguments and result are as of `split_fields`; PyArrow is given the records that are whole.
    """
    bounds = records.bounds
    heads = np.frombuffer(data + b"\n", np.uint8)[bounds[:-1]]
    lengths = np.diff(bounds)
    good = ~((lengths == 1) & (heads == 0x0A) | (lengths == 2) & (heads == 0x0D))
    for reason in dict.fromkeys(records.broken.values()):
        bad = np.array([one for one, why in records.broken.items() if why == reason])
        first = data[bounds[bad[0]] : bounds[bad[0] + 1]]
        rejects.add(reason, lines[bad], [show(first.rstrip(b"\r\n"))])
        good[bad] = False
    kept = np.flatnonzero(good)
    if not len(kept):
        return [pa.array([], pa.large_binary())] * expected, kept
    if len(kept) < len(good):
        data = b"".join(_pieces(data, bounds, good))
    wrong: list[tuple[int, int, str]] = []

    def refuse(row) -> str:
        wrong.append((row.number - 1, row.actual_columns, row.text or ""))
        return "skip"

    names = [str(position) for position in range(expected)]
    table = pa_csv.read_csv(
        io.BytesIO(data),
        read_options=pa_csv.ReadOptions(
            use_threads=False, column_names=names, block_size=max(len(data) + 1, 1024)
        ),
        parse_options=pa_csv.ParseOptions(
            delimiter=delimiter,
            newlines_in_values=True,
            ignore_empty_lines=False,
            invalid_row_handler=refuse,
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types={name: pa.large_binary() for name in names},
            null_values=[],
            strings_can_be_null=False,
            quoted_strings_can_be_null=False,
        ),
    )
    if table.num_rows + len(wrong) != len(kept):
        raise RuntimeError(
            f"PyArrow reads {table.num_rows + len(wrong)} records where there are {len(kept)}"
        )
    if wrong:
        numbers = np.array([number for number, _, _ in wrong], np.int64)
        _, received, text = wrong[0]
        rejects.add(
            "wrong number of fields",
            lines[kept[numbers]],
            [f"required {expected}, received {received}: {show(text.encode())}"],
        )
        kept = np.delete(kept, numbers)
    columns = [column.combine_chunks() for column in table.columns]
    columns = [
        column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
        for column in columns
    ]
    return columns, kept


def _pieces(data: bytes, bounds: np.ndarray, good: np.ndarray) -> Iterator[bytes]:
    """The text of the good records, in as few pieces as there are."""
    change = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]])))
    for first, after in change.reshape(-1, 2):
        yield data[bounds[first] : bounds[after]]


def whole_sessions(data: bytes, delimiter: str, bounds: np.ndarray) -> int:
    """How many lines of sessions are complete, whatever the lines after them say.

    The last lines are not, while they are steps of one session, which the next line may go on with.

    Args:
        data: whole lines; see `split_lists`.
        delimiter: the same.
        bounds: of the lines, as of `quotes.Records`.
    """
    between = delimiter.encode()
    number = len(bounds) - 2

    def line(one: int) -> bytes:
        return data[bounds[one] : bounds[one + 1]].rstrip(b"\r\n")

    if b"\t" not in line(number):
        return number + 1
    while number and line(number).replace(b"\t", between) == line(number - 1).partition(b"\t")[0]:
        number -= 1
    return number


def count_values(data: bytes, delimiter: str, lines: int) -> int:
    """How many values there are in so many lines of lists; see `split_lists`."""
    text = _lines_of(data, lines)
    return len(_values(pc.replace_substring(text, "\t", delimiter), delimiter)[0])


def _lines_of(data: bytes, count: int) -> pa.Array:
    text = pc.split_pattern(pa.array([data], pa.large_binary()), "\n").flatten().slice(0, count)
    return pc.replace_substring(text, "\r", "")


def _values(joined: pa.Array, delimiter: str) -> tuple[pa.Array, np.ndarray]:
    """Every value of lines that the delimiter alone parts, and the number of its line."""
    values = pc.split_pattern(joined, delimiter)
    owner = np.repeat(np.arange(len(joined)), values.value_lengths().to_numpy(zero_copy_only=False))
    flat = values.flatten()
    full = pc.greater(pc.binary_length(flat), 0).to_numpy(zero_copy_only=False)
    if delimiter != " ":
        # An empty place between two delimiters is an empty id, and rejected as such.
        full |= (pc.binary_length(joined).to_numpy(zero_copy_only=False) > 0)[owner]
    return flat.filter(pa.array(full)), owner[full]


def split_lists(
    data: bytes, delimiter: str, lines: np.ndarray, rejects: Rejects, made_up: str | None
) -> tuple[list[pa.Array], np.ndarray, np.ndarray]:
    """Splits lines that are lists of items.

    A line `items TAB item` is a list, too; a line that is the one before it without its last item
    is a step of the same session, and passed over. Blank lines are passed over.

    Args:
        data: whole lines.
        delimiter: between the items; a blank stands for any run of blanks.
        lines: 1-based line number of every line.
        rejects: takes the lines of an owner without items.
        made_up: None where the first of a line is its owner's id; else the owner is called by this
            and its line's number.

    Returns:
        Owner and item of every event (large_binary); the index of every event among all values of
        the block; the line of every value.
    """
    text = _lines_of(data, len(lines))
    joined = pc.replace_substring(text, "\t", delimiter)
    ahead = pc.list_element(pc.split_pattern(text, "\t", max_splits=1), 0)
    has_step = pc.match_substring(text, "\t").to_numpy(zero_copy_only=False)
    step = np.zeros(len(text), bool)
    if len(text) > 1:
        step[1:] = pc.equal(joined.slice(1), ahead.slice(0, len(text) - 1)).to_numpy(
            zero_copy_only=False
        )
    step &= np.concatenate([[False], has_step[:-1]])
    flat, owner = _values(joined, delimiter)
    place = np.arange(len(owner))
    first = np.concatenate([[True], owner[1:] != owner[:-1]]) if len(owner) else np.zeros(0, bool)
    good = ~step[owner]
    if made_up is None:
        sizes = np.bincount(owner, minlength=len(text))
        lonely = np.flatnonzero(sizes == 1)
        rejects.add(
            "no items", lines[lonely], [show(text[int(lonely[0])].as_py())] if len(lonely) else []
        )
        good &= ~first
        owners = flat.filter(pa.array(first)).take(pa.array(np.cumsum(first) - 1))
    else:
        names = np.array([f"{made_up}{line}".encode() for line in lines], object)
        owners = pa.array(names[owner], pa.large_binary())
    keep = pa.array(good)
    return [owners.filter(keep), flat.filter(keep)], place[good], lines[owner]


def not_utf8(column: pa.Array) -> np.ndarray:
    """Which values of a column of text (large_binary) are no UTF-8."""
    try:
        column.cast(pa.large_string())
    except pa.ArrowInvalid:
        return np.array([not _is_utf8(value) for value in column.to_pylist()], bool)
    return np.zeros(len(column), bool)


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def id_problems(column: pa.Array, name: str) -> list[tuple[str, np.ndarray]]:
    """Finds ids that are not allowed: blank ones, and ones with a line break.

    A vocabulary file, which has a line an id, could not hold the latter.
    """
    length = pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    empty = length == 0
    # ASCII blanks only: other Unicode spaces may be part of somebody's id.
    values = column.to_numpy(zero_copy_only=False)
    suspects = np.flatnonzero((length > 0) & (length <= 16))
    short = pd.Series(values[suspects], dtype=object)
    blank = np.zeros(len(column), bool)
    if len(short):
        codes, unique = pd.factorize(short)
        blank[suspects] = np.fromiter(
            (value.strip() == b"" for value in unique), bool, len(unique)
        )[codes]
    broken = pc.or_(pc.match_substring(column, "\n"), pc.match_substring(column, "\r"))
    broken = broken.fill_null(False).to_numpy(zero_copy_only=False)
    return [
        (f"empty {name}", empty),
        (f"blank {name}", blank & ~broken),
        (f"line break in {name}", broken),
    ]


_BOOLEANS = {b"true": b"1", b"false": b"0"}
_NO_JUDGEMENT = (b"", b"nan")


def to_judgements(
    column: pa.Array, decimal: str = "."
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads ratings, or clicks: numbers, or true and false; blank or NaN where there is none.

    Returns:
        [N] float64, NaN where there is none; which values are there and no finite number; and
        which are missing.
    """
    if not pa.types.is_large_binary(column.type):
        numbers = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        missing = np.isnan(numbers)
        return numbers, ~missing & ~(np.abs(numbers) < 2.0**63), missing
    # There are few distinct ones.
    codes, distinct = pd.factorize(column.to_numpy(zero_copy_only=False))
    words = [_BOOLEANS.get(word, word) for word in (value.strip().lower() for value in distinct)]
    numbers, _, bad = to_numbers(pa.array(words, pa.large_binary()), decimal)
    nothing = np.isin(np.array(words, object), _NO_JUDGEMENT)
    # The last of each is for the code -1, of what is null.
    numbers, bad = np.append(np.where(bad, np.nan, numbers), np.nan), np.append(bad, False)
    nothing = np.append(nothing, True)
    return numbers[codes], (bad & ~nothing)[codes], nothing[codes]


def to_list(
    column: pa.Array, separator: str, kind: str, decimal: str = "."
) -> tuple[pa.Array, np.ndarray]:
    """Splits every value on `separator` (a blank: on any run of blanks); returns as `as_list` does.

    Empty values give empty lists.
    """
    return as_list(pc.split_pattern(column.cast(pa.large_binary()), separator), kind, decimal)


def as_list(lists: pa.Array, kind: str, decimal: str = ".") -> tuple[pa.Array, np.ndarray]:
    """Lists of text as lists of a kind, without what is empty or no number there.

    Returns:
        The lists, and which of them held what is no number.
    """
    values = lists.flatten().cast(pa.large_binary())
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    full = pc.greater(pc.binary_length(values), 0).to_numpy(zero_copy_only=False)
    owner, wrong = np.repeat(np.arange(len(lengths)), lengths), np.zeros(len(lengths), bool)
    if kind != BYTES_LIST:
        numbers, whole, bad = to_numbers(values, decimal)
        wrong[owner[full & bad]] = True
        full &= ~bad
        values = pa.array(numbers.astype(np.float32) if kind == FLOAT_LIST else whole)
    counts = np.bincount(owner[full], minlength=len(lengths))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    return pa.LargeListArray.from_arrays(offsets, values.filter(pa.array(full))), wrong


def to_feature(
    column: pa.Array,
    kind: str,
    separator: str,
    decimal: str = ".",
    time: bool = False,
    unit: str | None = None,
) -> tuple[pa.Array, np.ndarray]:
    """Types a feature column of text; what is empty or cannot be read becomes missing.

    Args:
        column: large_binary.
        kind: what it is to hold.
        separator: of the values of a list.
        decimal: the mark before the decimals of a number.
        time: whether it holds points in time.
        unit: of those that are numbers; see `to_seconds`.

    Returns:
        The typed column, and which values were there but could not be read.
    """
    if kind in (BYTES_LIST, INT_LIST, FLOAT_LIST):
        return to_list(column, separator, kind, decimal)
    empty = pc.equal(pc.binary_length(column), 0).fill_null(True).to_numpy(zero_copy_only=False)
    if kind == BYTES:
        return pc.if_else(pa.array(empty), pa.scalar(None, pa.large_binary()), column), np.zeros(
            len(column), bool
        )
    if time:
        seconds, bad, _ = to_seconds(column, unit, bounded=False)
        return pa.array(seconds, mask=bad).cast(arrow_type(kind)), bad & ~empty
    numbers, whole, bad = to_numbers(column, decimal)
    values = whole if kind == INT else numbers.astype(np.float32)
    return pa.array(values, arrow_type(kind), mask=bad), bad & ~empty


def split_year(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """`Toy Story (1995)` -> `Toy Story` and 1995.

    A title without a year keeps its text and has none.
    """
    text = pd.Series(column.to_numpy(zero_copy_only=False), dtype=object)
    parts = text.str.decode("utf-8", "surrogateescape").str.extract(r"^(.*?)\s*\((\d{4})\)\s*$")
    title = parts[0].str.encode("utf-8", "surrogateescape").where(parts[0].notna(), text)
    year = pd.to_numeric(parts[1], errors="coerce")
    return (
        pa.array(title, pa.large_binary()),
        pa.array(year.fillna(0).astype(np.int64).to_numpy(), mask=year.isna().to_numpy()),
    )
