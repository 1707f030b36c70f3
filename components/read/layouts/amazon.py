"""The layout of Amazon reviews: JSON lines, plain or gzip. Light: no Beam, no TFX.

    reviews   an object a review: reviewerID, asin, overall, reviewText, unixReviewTime
    items     an object an item, where a file of them is there: asin, title, description, brand,
              main_cat

A file is told by the keys of its first line, whatever its name. Keys that are called otherwise are
named under `data.columns`. There is a rating and a time where the first review has them; any other
key may be missing anywhere.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.read.layouts import parts
from components.read.sources import Source
from models.names.errors import DataError

_SUFFIXES = (".json", ".jsonl", ".ndjson")
_KEYS = {
    "events": {
        "user_id": "reviewerID",
        "item_id": "asin",
        "rating": "overall",
        "timestamp": "unixReviewTime",
        "review": "reviewText",
    },
    "items": {
        "item_id": "asin",
        "title": "title",
        "description": "description",
        "brand": "brand",
        "category": "main_cat",
    },
}


def has_reviews(path: Path) -> bool:
    """Whether a folder holds JSON lines that are reviews."""
    needed = {_KEYS["events"][name] for name in ("user_id", "item_id")}
    return any(needed <= set(_first_object(file)) for file in _json_files(path))


def reviews(path: Path, options: Mapping[str, Any]) -> list[Source]:
    """Amazon's JSON lines: a file of reviews or more, and of items none or more."""
    keys = {
        # Names for all tables rename the columns that the layout knows; those under a table's name
        # may add columns as well.
        table: {name: parts.mapping(options, table).get(name, key) for name, key in known.items()}
        | dict(options.get(table, {}))
        for table, known in _KEYS.items()
    }
    found = {file: set(_first_object(file)) for file in _json_files(path)}
    needed = {
        table: [keys[table][name] for name in names]
        for table, names in (("events", ("user_id", "item_id")), ("items", ("item_id",)))
    }
    events = [file for file, has in found.items() if has.issuperset(needed["events"])]
    items = [
        file
        for file, has in found.items()
        if file not in events and has.issuperset(needed["items"])
    ]
    if not events:
        raise DataError(
            f"{path} holds no file of reviews; required: JSON lines with "
            f"{' and '.join(needed['events'])}, or their names under data.columns; "
            "received: "
            f"""{
                "; ".join(f"{file.name}: " + ", ".join(sorted(has)) for file, has in found.items())
                or "no JSON lines"
            }"""
        )
    for name in ("rating", "timestamp"):
        if keys["events"][name] not in found[events[0]]:
            del keys["events"][name]
    return [
        _source("events", events, keys["events"], options),
        _source("items", items, keys["items"], options),
        Source("users"),
    ]


def _source(
    table: str, files: list[Path], keys: Mapping[str, str], options: Mapping[str, Any]
) -> Source:
    if not files:
        return Source(table)
    fields = [
        parts.field(name, key, index, options, table, None)
        for index, (name, key) in enumerate(keys.items())
    ]
    return parts.make_source(table, files, fields, options, format="json", header=False)


def _json_files(path: Path) -> list[Path]:
    return [
        file
        for file in parts.listed(path)
        if file.is_file() and parts.plain_name(file).endswith(_SUFFIXES)
    ]


def _first_object(file: Path) -> dict[str, Any]:
    """The first line of a file where it is a JSON object, else an empty one."""
    try:
        value = json.loads(parts.peek(file))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
