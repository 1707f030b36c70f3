"""What a table is read from: its files, their form, and the columns to take."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from components.tables.columns import BYTES, BYTES_LIST, FLOAT, FLOAT_LIST, INT
from components.tables.names import PART, REQUIRED, ROW
from models.names.errors import DataError

KINDS = (BYTES, INT, FLOAT, BYTES_LIST, FLOAT_LIST)
BLOCK_OF_ROWS = 1000
LISTS = ("session_lists", "user_lists")


@contextmanager
def open_file(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a file to read its bytes; those of a name that ends in .gz are decompressed.

    Positions in a compressed file count the bytes of its contents; to get to one, all before it is
    decompressed.

    Raises:
        DataError: the compressed file is damaged or cut off.
    """
    if not str(path).endswith(".gz"):
        with open(path, "rb") as stream:
            yield stream
        return
    try:
        with gzip.open(path) as stream:
            yield cast(BinaryIO, stream)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged or cut off: {error}. Fetch it again") from error


@dataclass(frozen=True)
class FileField:
    """One column of a table.

    Attributes:
        name: what it is called in the table.
        kind: what it holds (`components.tables.columns`).
        index: position in the file (text) of the value; None for Parquet.
        header: what the file calls it, for messages and for Parquet.
        separator: what splits the values of a list.
        flags: names of one-or-nought columns from `index` on, which make up a list (u.item's
            genres).
        year: the name of a column to split a trailing `(1995)` off to.
    """

    name: str
    kind: str
    index: int | None
    header: str
    separator: str = "|"
    flags: tuple[str, ...] = ()
    year: str | None = None


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
        encoding: of the text; ids are re-encoded as UTF-8.
        timestamp_unit: of numeric times: s, ms, us or ns.
        parts: events: the part of the data (`PARTS`) that each file is, for the column `split`;
            none for no such column.
        anonymous: events: there are neither users nor items; every `BLOCK_OF_ROWS` rows get a
            user_id, all rows one item_id.
    """

    table: str
    files: tuple[str, ...] = ()
    fields: tuple[FileField, ...] = ()
    format: str = "text"
    delimiter: str = "\t"
    width: int = 0
    header: bool = True
    encoding: str = "utf-8"
    timestamp_unit: str = "s"
    parts: tuple[str, ...] = ()
    anonymous: bool = False

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
            columns[field.name] = field.kind
            if field.year:
                columns[field.year] = INT
        if self.parts:
            columns[PART] = BYTES
        if self.table == "events":
            columns[ROW] = INT
        return columns
