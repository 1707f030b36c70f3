"""A folder of tables of one's own: `events`, and `items` and `users` where there are any.

Text with a header, or Parquet; one file a table, several parts, or a folder of them. Text may be
compressed.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.read.layouts import parts
from components.read.sources import Source
from components.tables.names import TABLES
from models.names.errors import DataError

SUFFIXES = {"csv": (".csv", ".tsv"), "parquet": (".parquet",)}


def formats(path: Path, table: str, options: Mapping[str, Any]) -> dict[str, list[Path]]:
    """Format -> the files of a table in it, in the order of their names; one table has one.

    They are `events.csv`, or `events-*.csv`, or a folder `events/` or `events.csv/` of them, or
    what `data.columns.files.events` says.

    Raises:
        DataError: there is more than one candidate, or none where the options name some.
    """
    pattern = dict(options.get("files", {})).get(table)
    if pattern is not None:
        named = [file for one in _listed(pattern) for file in sorted(path.glob(one))]
        found = [file for one in named for file in ([one] if one.is_file() else _inside(one))]
        if not found:
            raise DataError(
                f"{path / str(pattern)} is missing; it is named by data.columns.files.{table}"
            )
        kind = "parquet" if any(is_of(file, "parquet") for file in found) else "csv"
        return {kind: found}
    return {kind: files for kind in SUFFIXES if (files := _candidate(path, table, kind))}


def _listed(pattern: Any) -> list[str]:
    return [pattern] if isinstance(pattern, str) else [str(one) for one in pattern]


def _candidate(path: Path, table: str, kind: str) -> list[Path]:
    there = [file for file in parts.listed(path) if is_of(file, kind)]
    whole = [file for file in there if Path(parts.plain_name(file)).stem == table]
    numbered = [file for file in there if re.match(rf"{table}[-_.]\w", file.name)]
    numbered = [file for file in numbered if file not in whole]
    names = [parts.plain_name(file) for file in numbered]
    twice = [[file] for file, name in zip(numbered, names) if names.count(name) > 1]
    groups = [*([file] for file in whole), numbered]
    if (path / table).is_dir():
        groups.append([file for file in _inside(path / table) if is_of(file, kind)])
    groups = [group for group in groups if group]
    if len(groups) > 1 or twice:
        several = twice or groups
        shown = ", ".join(str(group[0].relative_to(path)) for group in several)
        raise DataError(
            f"{path} holds several files that may be the table {table}: {shown}; take all but one "
            f"away, or name what to read under data.columns.files.{table}, such as "
            f"{several[0][0].name!r} or '{table}*'"
        )
    found = groups[0] if groups else []
    return _inside(found[0]) if len(found) == 1 and found[0].is_dir() else found


def _inside(folder: Path) -> list[Path]:
    """The files of a folder and those below it."""
    found = []
    for file in parts.listed(folder):
        found += _inside(file) if file.is_dir() else [file]
    return found


def is_of(file: Path, kind: str) -> bool:
    """Whether a file is of a format, by its name."""
    name = parts.plain_name(file) if kind == "csv" else file.name
    return name.lower().endswith(SUFFIXES[kind])


def has(kind: str):
    """Whether a folder holds events in a format."""
    return lambda path, options: kind in formats(path, "events", options)


def delimited(path: Path, options: Mapping[str, Any]) -> list[Source]:
    """Tables of one's own with a header: `events.csv` or `.tsv`; `items`, `users` as either."""
    return _tables(path, options, "csv")


def parquet(path: Path, options: Mapping[str, Any]) -> list[Source]:
    """Tables of one's own: `events.parquet` or a folder; `items`, `users` in either format."""
    return _tables(path, options, "parquet")


def _tables(path: Path, options: Mapping[str, Any], kind: str) -> list[Source]:
    sources = []
    for table in TABLES:
        found = formats(path, table, options)
        if table == "events" and kind not in found:
            raise DataError(
                f"{path / table}{SUFFIXES[kind][0]} is missing; required: the file of the table "
                "events"
            )
        if table != "events" and len(found) > 1:
            names = ", ".join(files[0].name for files in found.values())
            raise DataError(
                f"{path} holds several files that may be the table {table}: {names}; take all but "
                f"one away, or name what to read under data.columns.files.{table}"
            )
        if table == "events":
            found = {kind: found[kind]}
        if "csv" in found:
            sources.append(parts.headed(table, found["csv"], options))
        elif "parquet" in found:
            sources.append(parquet_table(table, found["parquet"], options))
        else:
            sources.append(Source(table))
    return sources


def parquet_table(table: str, files: list[Path], options: Mapping[str, Any]) -> Source:
    """A table of Parquet files."""
    from components.tables.parquet import parquet_fields

    held, odd = parquet_fields(files)
    fields, notes = parts.fields_of(
        table, files[0], held, options, separator=options.get("list_separator", "|")
    )
    notes += [f"{files[0].name}: {name} is left out: {why}" for name, why in odd.items()]
    return parts.make_source(
        table, files, fields, options, format="parquet", seen=(*held, *odd), notes=tuple(notes)
    )
