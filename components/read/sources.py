"""What a table is read from: its files, their form, and the columns to take."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from components.tables.columns import BYTES, INT
from components.tables.names import PART, REQUIRED, ROW
from components.tables.places import Place, Remote, open_binary, place
from models.names.errors import DataError

BLOCK_OF_ROWS = 1000
LISTS = ("session_lists", "user_lists")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
BYTE_ORDER_MARK = codecs.BOM_UTF8

_SAMPLE = 1 << 16
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@contextmanager
def open_file(path: str | Place, encoding: str | None = None) -> Iterator[io.BufferedReader]:
    """Opens a file to read its bytes: decompressed, in UTF-8, with lines that end in line feeds.

    Compression goes by the name (`COMPRESSIONS`). UTF-16 and UTF-32 are told by the first bytes,
    and so are lines that end in carriage returns alone; any other encoding has to be given.
    Positions count the bytes that are read; see `skip`.

    Raises:
        DataError: the compressed file is damaged or cut off, or the text is not of its encoding.
    """
    with _unpacked(path) as stream:
        told, returns = _form(stream.peek(_SAMPLE)[:_SAMPLE])
        encoding = told or encoding
        if encoding and _is_utf8(encoding):
            encoding = None
        if returns or encoding:
            yield io.BufferedReader(_Recoded(stream, encoding, returns, path), _SAMPLE)
        else:
            yield stream


def is_read_as_it_is(path: str | Place, encoding: str | None = None) -> bool:
    """Whether the bytes that `open_file` gives are those of the file."""
    if place(path).suffix in COMPRESSIONS:
        return False
    with open_binary(path) as stream:
        told, returns = _form(stream.read(_SAMPLE))
    return not returns and not told and (encoding is None or _is_utf8(encoding))


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")


def skip(stream: BinaryIO, size: int) -> None:
    """Passes over so many bytes from the start of a file that `open_file` has just opened."""
    if stream.seekable():
        stream.seek(size)
    while not stream.seekable() and size > 0:
        size -= len(stream.read(min(size, 1 << 20))) or size


@contextmanager
def _unpacked(path: str | Place) -> Iterator[io.BufferedReader]:
    found = place(path)
    kind = COMPRESSIONS.get(found.suffix)
    if kind is None:
        with open_binary(found, _SAMPLE) as stream:
            yield stream
        return
    try:
        if kind == "gzip":
            with open_binary(found) as packed, gzip.open(packed) as unpacked:
                yield cast(io.BufferedReader, unpacked)
        else:
            import pyarrow as pa

            packed = (
                found.unpacked(kind)
                if isinstance(found, Remote)
                else pa.input_stream(str(found), compression=kind)
            )
            with packed as unpacked:
                yield io.BufferedReader(_Raw(unpacked), _SAMPLE)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged or cut off: {error}. Fetch it again") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise DataError(f"{path} is damaged or cut off: {error}. Fetch it again") from error


class _Raw(io.RawIOBase):
    """A stream of PyArrow as one of Python."""

    def __init__(self, stream: Any):
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Recoded(io.RawIOBase):
    """A text of another encoding as UTF-8, and with line feeds for carriage returns."""

    def __init__(self, stream: BinaryIO, encoding: str | None, returns: bool, path: str | Place):
        self._stream, self._returns, self._path = stream, returns, path
        self._encoding = encoding or "utf-8"
        self._decoder = codecs.getincrementaldecoder(self._encoding)() if encoding else None
        self._held = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b" "
        while not self._held and data:
            data = self._stream.read(1 << 18)
            self._held = self._plain(data)
        part, self._held = self._held[: len(buffer)], self._held[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)

    def _plain(self, data: bytes) -> bytes:
        if self._decoder:
            try:
                data = self._decoder.decode(data, final=not data).encode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self._path} is no {self._encoding}: {error.reason} at "
                    f"{error.object[error.start : error.end]!r}; name its encoding under "
                    "data.columns.encoding"
                ) from error
        return data.replace(b"\r", b"\n") if self._returns else data


def _form(sample: bytes) -> tuple[str | None, bool]:
    """The encoding that the first bytes of a text tell, and whether its lines end in returns."""
    encoding = next((name for mark, name in _MARKS.items() if sample.startswith(mark)), None)
    if encoding is None and (zeros := sample.count(0)) > len(sample) // 4 and sample[:2] != b"\0\0":
        # Text of a Latin script without a mark has a zero in every other byte.
        encoding = "utf-16-le" if sample[1::2].count(0) > zeros // 2 else "utf-16-be"
    text = sample.decode(encoding or "latin-1", "ignore")
    return encoding, "\r" in text[:-1] and "\n" not in text


@dataclass(frozen=True)
class FileField:
    """One column of a table.

    Attributes:
        name: what it is called in the table.
        kind: what it holds (`components.tables.columns`); None until the values have told.
        index: position in the file (text) of the value; None for Parquet.
        header: what the file calls it, for messages and for Parquet.
        separator: what splits the values of a list.
        flags: names of one-or-nought columns from `index` on, which make up a list (u.item's
            genres).
        year: the name of a column to split a trailing `(1995)` off to.
        time: whether it holds points in time, which become seconds since 1970.
        unit: of those, where they are numbers; see `components.read.times`.
        text: whether the schema calls it text, of which models read the words.
    """

    name: str
    kind: str | None
    index: int | None
    header: str
    separator: str = "|"
    flags: tuple[str, ...] = ()
    year: str | None = None
    time: bool = False
    unit: str | None = None
    text: bool = False


@dataclass(frozen=True)
class Source:
    """One table's files.

    Attributes:
        table: `events`, `items` or `users`.
        files: in the order in which their rows are numbered; none for an empty table.
        fields: the columns to read.
        format: `text` (never quoted), `csv` (double quotes), `json` (an object a line), `parquet`,
            or one of `LISTS`: a line a session or a user.
        delimiter: between the values of a line; of a list, a blank stands for any run of blanks.
        width: number of values of a good line.
        header: whether the first line names the columns.
        encoding: of the text, where neither UTF-8 nor told by the file; it is read as UTF-8.
        timestamp_unit: of numeric times: s, ms, us, ns or yyyymmdd; None to tell by their size.
        parts: events: the part of the data (`PARTS`) that each file is, for the column `split`;
            none for no such column.
        anonymous: events: there are neither users nor items; every `BLOCK_OF_ROWS` rows get a
            user_id, all rows one item_id.
        decimal: the mark before the decimals of a number.
        seen: every name in the header of the files, whether it is read or not.
        notes: in words, what a user should know of how the files are taken.
    """

    table: str
    files: tuple[str, ...] = ()
    fields: tuple[FileField, ...] = ()
    format: str = "text"
    delimiter: str = "\t"
    width: int = 0
    header: bool = True
    encoding: str | None = None
    timestamp_unit: str | None = None
    parts: tuple[str, ...] = ()
    anonymous: bool = False
    decimal: str = "."
    seen: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def names_in_files(self) -> tuple[str, ...]:
        """What the files call their columns."""
        return self.seen or tuple(field.header for field in self.fields)

    def part_of(self, file: str) -> str | None:
        """The part of the data that one of the files is."""
        return self.parts[self.files.index(file)] if self.parts else None

    def columns(self) -> dict[str, str]:
        """Column name -> kind of the table that this gives."""
        columns = (
            {}
            if self.fields and not self.anonymous
            else {name: BYTES for name in REQUIRED[self.table]}
        )
        for field in self.fields:
            if field.kind is None:
                raise ValueError(f"nothing has told the kind of {field.name!r}")
            columns[field.name] = field.kind
            if field.year:
                columns[field.year] = INT
        if self.parts:
            columns[PART] = BYTES
        if self.table == "events":
            columns[ROW] = INT
        return columns
