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


def atomic(path: Path, options: Mapping[str, Any]) -> list[Source]:
    """RecBole's atomic files: `NAME.inter`, and `NAME.item`, `NAME.user` where they are there."""
    stem = sorted(path.glob("*.inter"))[0].with_suffix("")
    sources = []
    for table, suffix in zip(TABLES, (".inter", ".item", ".user")):
        file = stem.with_name(stem.name + suffix)
        if table != "events" and not file.is_file():
            sources.append(Source(table))
            continue
        mapping = {source: name for name, source in parts.mapping(options, table).items()}
        header = parts.first_line(file).split("\t")
        fields = []
        for index, column in enumerate(header):
            source, _, kind = column.partition(":")
            if kind not in _ATOMIC_KINDS:
                raise DataError(
                    f"{file}, line 1: required: column names as name:type with a type of "
                    f"{', '.join(_ATOMIC_KINDS)}; received: {column!r}"
                )
            name = mapping.get(source, _ATOMIC_NAMES.get(source, source))
            fields.append(
                parts.field(name, source, index, options, _ATOMIC_KINDS[kind], separator=" ")
            )
        sources.append(parts.make_source(table, [file], fields, options, width=len(header)))
    return sources
