"""The layout of Criteo's click logs: a label, 13 counts, 26 hashed categories a line.

Light: no Beam, no TFX.

Files are any of .txt, .csv, .tsv, also .gz: 40 values a line, TAB or comma between them, with a
header (`label, I1, ..., C26`) or, as Criteo publishes them, without. A file whose name has `test`
is test, `valid` or `dev` is validation, any other is train; with a test file the table has a column
`split`, which the split `predefined` goes by.

The data names neither users nor items, so both are made up: an event is an impression, its user a
block of 1,000 impressions that follow one another (so that work parts by user as it does elsewhere,
and GAUC is the AUC within such blocks), and its item is the same for all. The schema calls these
ids `anonymous`, and no model learns from them. The tables of items and users are empty.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.read.layouts import parts
from components.read.sources import FileField, Source
from components.tables.columns import BYTES, FLOAT
from components.tables.names import PARTS
from models.names.errors import DataError

COUNTS = tuple(f"I{number}" for number in range(1, 14))
CATEGORIES = tuple(f"C{number}" for number in range(1, 27))
COLUMNS = ("label", *COUNTS, *CATEGORIES)
CONVENTIONS = {"schema": "criteo", "label": {"column": "label"}}
"""What a run on this layout has unless it says otherwise."""

_SUFFIXES = (".txt", ".csv", ".tsv")


def has_criteo(path: Path) -> bool:
    """Whether a folder holds a file that begins with a header of this layout or an impression."""
    return any(_is_impression(_first(file)) for file in _text_files(path))


def criteo(path: Path, options: Mapping[str, Any]) -> list[Source]:
    """Criteo's click logs: a label, 13 counts and 26 categories a line, of all files.

    Raises:
        DataError: a file has another number of columns than 40, or another form than the first.
    """
    found = sorted(_text_files(path), key=lambda file: (PARTS.index(_part(file)), file.name))
    if not found:
        raise DataError(
            f"{path} holds no file ending in {', '.join(_SUFFIXES)}; required: impressions of 40 "
            "values a line"
        )
    forms = {}
    for file in found:
        values = _first(file)
        if len(values) != len(COLUMNS):
            raise DataError(
                f"{file}, line 1: required: {len(COLUMNS)} values, the label first; received: "
                f"{len(values)}"
                + (
                    ". A file without labels can be neither learnt from nor measured by; take it "
                    "out of the folder"
                    if len(values) == len(COLUMNS) - 1
                    else ""
                )
            )
        forms[file] = (_delimiter(file), _is_header(values))
    if len(set(forms.values())) > 1:
        raise DataError(
            f"{path}: required: one delimiter, and a header in all files or in none; "
            f"{found[0].name} is not as the others"
        )
    delimiter, header = forms[found[0]]
    shares = tuple(_part(file) for file in found)
    kinds = {"label": FLOAT, **dict.fromkeys(COUNTS, FLOAT), **dict.fromkeys(CATEGORIES, BYTES)}
    fields = [FileField(name, kinds[name], index, name) for index, name in enumerate(COLUMNS)]
    events = parts.make_source(
        "events",
        found,
        fields,
        options,
        format="csv" if delimiter == "," else "text",
        delimiter=delimiter,
        width=len(COLUMNS),
        header=header,
        parts=shares if set(shares) != {"train"} else (),
        anonymous=True,
    )
    return [events, Source("items"), Source("users")]


def _text_files(path: Path) -> list[Path]:
    return [
        file
        for file in parts.listed(path)
        if file.is_file()
        and parts.plain_name(file).endswith(_SUFFIXES)
        and "readme" not in file.name.lower()
    ]


def _part(file: Path) -> str:
    name = file.name.lower()
    return "test" if "test" in name else "valid" if "valid" in name or "dev" in name else "train"


def _delimiter(file: Path) -> str:
    return "\t" if "\t" in parts.peek(file) else ","


def _first(file: Path) -> list[str]:
    line = parts.peek(file)
    return line.split("\t") if "\t" in line else next(csv.reader(io.StringIO(line)), [])


def _is_header(values: list[str]) -> bool:
    return [value.strip().lower() for value in values] == [name.lower() for name in COLUMNS]


def _is_impression(values: list[str]) -> bool:
    if len(values) != len(COLUMNS):
        return False
    return _is_header(values) or (
        values[0] in ("0", "1")
        and all(value == "" or value.lstrip("-").isdigit() for value in values[1:14])
    )
