"""The layout of RecBole: atomic files, tab-separated, whose header names a column and its type."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.read.layouts import parts
from components.read.sources import Source
from components.tables.columns import BYTES, BYTES_LIST, FLOAT, FLOAT_LIST
from components.tables.names import TABLES
from models.names.errors import DataError

_ATOMIC_NAMES = {
    "movie_title": "title",
    "release_year": "year",
    "class": "genres",
    "genre": "genres",
}


_ATOMIC_KINDS = {"token": BYTES, "token_seq": BYTES_LIST, "float": FLOAT, "float_seq": FLOAT_LIST}


def interactions(path: Path) -> list[Path]:
    """The files of events."""
    return [file for file in parts.listed(path) if file.suffix == ".inter"]


def atomic(path: Path, options: Mapping[str, Any]) -> list[Source]:
    """RecBole's atomic files: `NAME.inter`, and `NAME.item`, `NAME.user` where they are there."""
    found = interactions(path)
    if len(found) != 1:
        raise DataError(
            f"{path}: required: one file that ends in .inter; received: "
            f"{', '.join(file.name for file in found) or 'none'}"
        )
    sources = []
    for table, suffix in zip(TABLES, (".inter", ".item", ".user")):
        file = found[0].parent / (found[0].stem + suffix)
        if table != "events" and not file.is_file():
            sources.append(Source(table))
            continue
        header = parts.first_line(file, options.get("encoding")).split("\t")
        kinds = {}
        for column in header:
            source, _, kind = column.partition(":")
            if kind not in _ATOMIC_KINDS:
                raise DataError(
                    f"{file}, line 1: required: column names as name:type with a type of "
                    f"{', '.join(_ATOMIC_KINDS)}; received: {column!r}"
                )
            kinds[source] = _ATOMIC_KINDS[kind]
        names = [column.partition(":")[0] for column in header]
        fields, notes = parts.fields_of(
            table, file, names, options, _ATOMIC_NAMES, kinds, separator=" "
        )
        sources.append(
            parts.make_source(
                table,
                [file],
                fields,
                options,
                width=len(header),
                seen=tuple(names),
                notes=tuple(notes),
            )
        )
    return sources
