"""Layouts of session data: a table of clicks, or a list of items a line. Light: no Beam, no TFX.

    session_log    a header with SessionId, ItemId and Time (any case, with or without `_`), TAB or
                   comma; optionally UserId
    session_lists  a line a session: its items, oldest first. A line `items TAB item`, as test files
                   have, is a session as well; when the lines after it are the same session a step
                   shorter, they belong to it and are passed over
    user_lists     a line a user: the user's id, then the items, oldest first

Without users a session is its own user: user_id is the session's id, or the number of its line.
Files ending in .gz are read as they are. A file whose name has `test` or `valid` in it is that part
of the data, any other is train; with a test file the table has a column `split`, which the split
`predefined` goes by. A `train_full` file is taken in place of the files that part it into train and
validation. `data.columns.files` (`{train: ..., test: ...}`, patterns within the folder) says
otherwise.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.read.layouts import parts
from components.read.sources import FileField, Source
from components.tables.columns import BYTES
from components.tables.names import PARTS
from models.names.errors import ConfigError, DataError

_SUFFIXES = (".txt", ".csv", ".tsv", ".dat")
_NAMES = {
    "sessionid": "session_id",
    "itemid": "item_id",
    "time": "timestamp",
    "timestamp": "timestamp",
    "userid": "user_id",
}


def has_log(path: Path) -> bool:
    """Whether a folder holds clicks with a header that names sessions and items."""
    return any(_is_log(file) for file in _text_files(path))


def has_session_lists(path: Path) -> bool:
    """Whether a folder holds a file of sessions, by its name.

    The content does not tell: a list of items looks like anything.
    """
    return any(
        re.search(r"sessions?\b", file.name.lower()) for file in _text_files(path)
    ) and not has_log(path)


def has_user_lists(path: Path) -> bool:
    """Whether a folder holds a file of sequences, by its name."""
    return any(
        re.search(r"sequences?\b", file.name.lower()) for file in _text_files(path)
    ) and not has_log(path)


def session_log(path: Path, options: Mapping[str, Any]) -> list[Source]:
    """A table of clicks whose header has SessionId, ItemId and Time, and perhaps UserId."""
    files, shares = _chosen(
        path,
        options,
        _is_log if "session_id" not in parts.mapping(options, "events") else None,
        many=True,
    )
    header = re.split(r"[\t,;|]", parts.first_line(files[0], options.get("encoding")))
    known = {name.strip('"'): _NAMES[_plain(name)] for name in header if _plain(name) in _NAMES}
    source = parts.headed("events", files, options, known)
    fields = list(source.fields)
    names = {field.name: field for field in fields}
    if "session_id" not in names:
        raise DataError(
            f"{files[0]}, line 1: a column of sessions is missing; required: SessionId, or its "
            "name under "
            f"data.columns.session_id; received: {', '.join(field.header for field in fields)}"
        )
    if "user_id" not in names:
        session = names["session_id"]
        fields.insert(0, FileField("user_id", BYTES, session.index, session.header))
    log = replace(source, fields=tuple(fields), parts=shares)
    return [log, Source("items"), Source("users")]


def session_lists(path: Path, options: Mapping[str, Any]) -> list[Source]:
    """Text without a header, a line a session: its items, oldest first."""
    fields = [
        FileField("user_id", BYTES, 0, "line"),
        FileField("session_id", BYTES, 0, "line"),
        FileField("item_id", BYTES, 1, "items"),
    ]
    return _lists(path, options, fields, "session_lists")


def user_lists(path: Path, options: Mapping[str, Any]) -> list[Source]:
    """Text without a header, a line a user: the user's id, then the items, oldest first."""
    fields = [
        FileField("user_id", BYTES, 0, "the first of a line"),
        FileField("item_id", BYTES, 1, "items"),
    ]
    return _lists(path, options, fields, "user_lists")


def _lists(
    path: Path, options: Mapping[str, Any], fields: list[FileField], format_: str
) -> list[Source]:
    files, shares = _chosen(path, options, None, many=False)
    separator = options.get("list_separator", " ")
    source = parts.make_source(
        "events",
        files,
        fields,
        options,
        format=format_,
        delimiter=separator,
        header=False,
        parts=shares,
    )
    return [source, Source("items"), Source("users")]


def _chosen(
    path: Path, options: Mapping[str, Any], is_one, many: bool
) -> tuple[list[Path], tuple[str, ...]]:
    """The files to read, and the part of the data that each is; no parts where all are train."""
    named = options.get("files", {})
    if not isinstance(named, Mapping) or set(named) - set(PARTS):
        raise ConfigError(
            f"data.columns.files must map {', '.join(PARTS)} to files of the folder; received "
            f"{named!r}"
        )
    found: dict[str, list[Path]] = {part: [] for part in PARTS}
    if named:
        for part, pattern in named.items():
            found[part] = sorted(path.glob(str(pattern)))
            if not found[part]:
                raise DataError(
                    f"{path / str(pattern)} is missing; it is named by data.columns.files.{part}"
                )
    else:
        for file in _text_files(path):
            if is_one is None or is_one(file):
                found[_part(file)].append(file)
        whole = [file for file in found["train"] if "train_full" in file.name.lower()]
        if whole:
            found["train"], found["valid"] = whole, []
    if not found["train"]:
        raise DataError(
            f"{path} holds no file of train sessions; required: one, or its name under "
            "data.columns.files.train"
        )
    for part, files in found.items():
        if len(files) > 1 and not many and not named:
            raise DataError(
                f"{path} holds {len(files)} files that may be {part}: "
                f"{', '.join(file.name for file in files)}; "
                f"name the one to read under data.columns.files.{part}"
            )
    files = [(file, part) for part in PARTS for file in found[part]]
    shares = tuple(part for _, part in files) if found["valid"] or found["test"] else ()
    return [file for file, _ in files], shares


def _text_files(path: Path) -> list[Path]:
    return [
        file
        for file in parts.listed(path)
        if file.is_file()
        and parts.plain_name(file).endswith(_SUFFIXES)
        and not re.match(r"readme|terms|licen[cs]e", file.name.lower())
    ]


def _part(file: Path) -> str:
    return next((part for part in ("test", "valid") if part in file.name.lower()), "train")


def _is_log(file: Path) -> bool:
    names = {_plain(name) for name in re.split(r"[\t,;|]", parts.peek(file))}
    return {"sessionid", "itemid"} <= names


def _plain(name: str) -> str:
    return name.strip().strip('"').replace("_", "").lower()
