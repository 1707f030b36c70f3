"""A folder of tables of one's own: `events`, and `items` and `users` where there are any.

CSV with a header, or Parquet; one file a table, several, or a folder of them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.read.layouts import parts
from components.read.sources import FileField, Source
from components.tables.names import TABLES
from models.names.errors import DataError


def table_files(path: Path, table: str, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of a table, in the order of their names.

    They are `events.csv`, or `events-*.csv`, or a folder `events/` of them.
    """
    for suffix in suffixes:
        found = [path / f"{table}{suffix}"] if (path / f"{table}{suffix}").is_file() else []
        found = (
            found
            or sorted(path.glob(f"{table}[-_]*{suffix}"))
            or sorted((path / table).glob(f"*{suffix}"))
        )
        if found:
            return found
    return []


def delimited(path: Path, options: Mapping[str, Any]) -> list[Source]:
    """Tables of one's own with a header: `events.csv` or `.tsv`, and `items`, `users`."""
    sources = []
    for table in TABLES:
        files = table_files(path, table, (".csv", ".tsv"))
        if not files and table == "events":
            raise DataError(
                f"{path / 'events.csv'} is missing; required: the file of the table events"
            )
        sources.append(parts.headed(table, files, options) if files else Source(table))
    return sources


def parquet(path: Path, options: Mapping[str, Any]) -> list[Source]:
    """Tables of one's own: `events.parquet`, and `items`, `users` where they are there."""
    from components.tables.parquet import parquet_fields

    sources = []
    for table in TABLES:
        files = table_files(path, table, (".parquet",))
        if not files and table == "events":
            raise DataError(
                f"{path / 'events.parquet'} is missing; required: the file of the table events"
            )
        if not files:
            sources.append(Source(table))
            continue
        names = {source: name for name, source in parts.mapping(options, table).items()}
        found = parquet_fields(files)
        parts.check_mapped(table, files[0], list(found), options)
        fields = []
        for source, kind in found.items():
            name = names.get(source, source)
            kind = dict(options.get("types", {})).get(name) or parts.KNOWN_KINDS.get(name) or kind
            fields.append(FileField(name, kind, None, source))
        sources.append(parts.make_source(table, files, fields, options, format="parquet"))
    return sources
