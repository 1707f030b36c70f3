"""What the layouts are put together of: columns by name, tables of files with a header.

Light: no Beam, no TFX.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components.read.sources import FileField, Source, open_file
from components.tables.columns import BYTES, BYTES_LIST, FLOAT, INT
from components.tables.names import TABLES
from models.names.errors import DataError

# What a column of this name holds, wherever it comes from.
KNOWN_KINDS = {
    "user_id": BYTES,
    "item_id": BYTES,
    "session_id": BYTES,
    "event_type": BYTES,
    "review": BYTES,
    "title": BYTES,
    "gender": BYTES,
    "occupation": BYTES,
    "zip_code": BYTES,
    "timestamp": INT,
    "year": INT,
    "age": INT,
    "rating": FLOAT,
    "label": FLOAT,
    "dwell": FLOAT,
    "genres": BYTES_LIST,
    "shown": BYTES_LIST,
}
OPTIONS = ("timestamp_unit", "list_separator", "types", "files")


def mapping(options: Mapping[str, Any], table: str) -> dict[str, str]:
    """Column name -> name in the file, for one table."""
    flat = {
        name: value for name, value in options.items() if name not in TABLES and name not in OPTIONS
    }
    return {**flat, **options.get(table, {})}


def first_line(path: Path) -> str:
    """The header of a text file, without its byte order mark.

    Raises:
        DataError: the file is missing or empty.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing; required: a file whose first line names its columns")
    with open_file(path) as file:
        line = file.readline(1 << 20)
    if not line.strip():
        raise DataError(f"{path} is empty; required: a first line that names the columns")
    return line.decode("utf-8-sig", "replace").rstrip("\r\n")


def field(
    name: str,
    source: str,
    index: int | None,
    options: Mapping[str, Any],
    default: str = BYTES,
    **more,
) -> FileField:
    """A column, of the kind that the options or its name say."""
    kind = dict(options.get("types", {})).get(name) or KNOWN_KINDS.get(name) or default
    return FileField(name, kind, index, source, **more)


def make_source(
    table: str, files: list[Path], fields: Iterable[FileField], options: Mapping[str, Any], **more
) -> Source:
    """A table's files and columns."""
    unit = options.get("timestamp_unit", "s")
    return Source(
        table, tuple(str(file) for file in files), tuple(fields), timestamp_unit=unit, **more
    )


def headed(
    table: str,
    files: list[Path],
    options: Mapping[str, Any],
    names: Mapping[str, str] | None = None,
    delimiter: str | None = None,
) -> Source:
    """A table of text files with a header; the delimiter goes by the suffix unless it is given.

    Raises:
        DataError: the files have different columns, or lack one that the options name.
    """
    delimiter = delimiter or ("\t" if files[0].suffix == ".tsv" else ",")
    names = {**(names or {}), **{source: name for name, source in mapping(options, table).items()}}
    headers = [
        next(csv.reader(io.StringIO(first_line(file)), delimiter=delimiter)) for file in files
    ]
    for file, header in zip(files, headers, strict=True):
        if header != headers[0]:
            raise DataError(
                f"{file}, line 1: required: the columns of {files[0].name} "
                f"({', '.join(headers[0])}); "
                f"received: {', '.join(header)}"
            )
    separator = options.get("list_separator", "|")
    fields = [
        field(names.get(source, source), source, index, options, separator=separator)
        for index, source in enumerate(headers[0])
    ]
    check_mapped(table, files[0], headers[0], options)
    return make_source(
        table, files, fields, options, format="csv", delimiter=delimiter, width=len(headers[0])
    )


def check_mapped(table: str, file: Path, header: list[str], options: Mapping[str, Any]) -> None:
    """Raises DataError for a column that the options name and the file lacks."""
    for name, source in options.get(table, {}).items():
        if source not in header:
            raise DataError(
                f"{file}, line 1: the column {source!r}, named by data.columns.{table}.{name}, is "
                "missing; "
                f"received: {', '.join(header)}"
            )
