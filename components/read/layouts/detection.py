"""Where each public layout keeps its three tables: files, separators, columns.

Light: no Beam, no TFX.

A *layout* is found in a folder by its file names and described as three `Source`s, which
`components.read.readers` reads.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.read.layouts import amazon, criteo, folders, movielens, recbole, sessions
from components.read.sources import KINDS, Source
from components.read.times import DAY, UNITS
from components.tables.names import PART, REQUIRED, ROW, TABLES
from models.names.errors import ConfigError, DataError, nearest


def detect(folder: str) -> str:
    """Returns the name of the reader whose files lie in `folder`.

    Raises:
        DataError: the folder is missing, or holds no layout that is known.
    """
    path = _folder(folder)
    found = [name for name, (present, _) in LAYOUTS.items() if present(path)]
    if not found:
        names = sorted(file.name for file in path.iterdir())[:10]
        raise DataError(
            f"{folder} holds no layout that a reader knows ({', '.join(LAYOUTS)}); required: for "
            "example events.csv "
            f"with user_id and item_id; received: {', '.join(names) or 'an empty folder'}"
        )
    return found[0]


def conventions(folder: str, reader: str | None = None) -> dict[str, Any]:
    """What a run on this folder has unless it says otherwise.

    That is `schema`, `label`, and `split` where the files are parted.

    Raises:
        DataError: see `detect`.
    """
    reader = reader or detect(folder)
    if reader == "criteo":
        parted = any(source.parts for source in plan(folder, reader))
        return {**criteo.CONVENTIONS, **({"split": "predefined"} if parted else {})}
    return {}


def plan(
    folder: str, reader: str | None = None, columns: Mapping[str, Any] | None = None
) -> list[Source]:
    """Describes the three tables of a folder and checks what can be checked without reading them.

    Args:
        folder: where the files are.
        reader: a name of `LAYOUTS`, or None to tell by the files.
        columns: how the user's columns are called: `{"user_id": "uid", ...}` for every table, or
            one such mapping a table under `events`, `items`, `users`; beside them `types` (column
            -> bytes, int, float, bytes_list, float_list), `timestamp_unit` (s, ms, us, ns),
            `list_separator`, and `files` of session data (see `layouts.sessions`).

    Raises:
        ConfigError: an unknown reader, option or type.
        DataError: a file is missing, empty or cut off, or a required column is missing.
    """
    path = _folder(folder)
    reader = reader or detect(folder)
    if reader not in LAYOUTS:
        raise ConfigError(f"unknown reader {reader!r}{nearest(reader, LAYOUTS)}")
    options = _checked_options(columns or {})
    sources = LAYOUTS[reader][1](path, options)
    return [_checked(source) for source in sources]


def _folder(folder: str) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise DataError(
            f"the data folder {folder} does not exist; required: a folder with the source's files"
        )
    return path


def _checked_options(columns: Mapping[str, Any]) -> dict[str, Any]:
    options = dict(columns)
    unit = options.get("timestamp_unit")
    if unit is not None and unit not in (*UNITS, DAY):
        raise ConfigError(
            f"data.columns.timestamp_unit must be {', '.join(UNITS)} or {DAY}; received {unit!r}"
        )
    for name, kind in dict(options.get("types", {})).items():
        if kind not in KINDS:
            raise ConfigError(
                f"data.columns.types.{name}: unknown type {kind!r}{nearest(str(kind), KINDS)}"
            )
    for name, value in options.items():
        if name in TABLES or name in ("types", "files"):
            if not isinstance(value, Mapping):
                raise ConfigError(f"data.columns.{name} must be a mapping; received {value!r}")
        elif not isinstance(value, str):
            raise ConfigError(
                f"data.columns.{name} must be the name of a column; received {value!r}"
            )
    return options


def _checked(source: Source) -> Source:
    if not source.files:
        return source
    names = [field.name for field in source.fields]
    # The source's own columns of these names give way to the reader's.
    reserved = (ROW, PART) if source.parts else (ROW,)
    if set(reserved) & set(names):
        fields = tuple(field for field in source.fields if field.name not in reserved)
        source = replace(source, fields=fields)
    for file in source.files:
        if not Path(file).is_file():
            raise DataError(f"{file} is missing; required: the file of the table {source.table}")
        if Path(file).stat().st_size == 0:
            raise DataError(f"{file} is empty; required: rows of the table {source.table}")
    for name in REQUIRED[source.table]:
        if name not in names and not source.anonymous:
            raise DataError(
                f"{source.files[0]}, line 1: the column {name!r} of the table {source.table} is "
                "missing; "
                f"received: {', '.join(field.header for field in source.fields)}. "
                "Name it under data.columns if it is called otherwise"
            )
    if source.format in ("text", "csv"):
        for file in source.files:
            _check_end(Path(file), source)
    return source


def _check_end(path: Path, source: Source) -> None:
    """A last line that has neither all its fields nor an end is the mark of a broken download."""
    if path.suffix == ".gz":  # its checksum says when it is cut off
        return
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - (1 << 16)))
        tail = file.read()
    if tail.endswith((b"\n", b"\x1a")) or b"\n" not in tail and size > 1 << 16:
        return
    last = tail.rsplit(b"\n", 1)[-1]
    received = last.count(source.delimiter.encode()) + 1
    if source.format == "csv":
        if b'"' in tail:
            return
    if received < source.width:
        with open(path, "rb") as file:
            line = 1 + sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 24), b""))
        raise DataError(
            f"{path}, line {line}: the file ends in the middle of a line; required: "
            f"{source.width} fields, "
            f"received: {received}. It looks truncated: fetch it again"
        )


# In the order in which `detect` tries them.
LAYOUTS = {
    "recbole": (lambda path: any(path.glob("*.inter")), recbole.atomic),
    "ml_100k": (lambda path: (path / "u.data").is_file(), movielens.ratings_100k),
    "ml_dat": (lambda path: (path / "ratings.dat").is_file(), movielens.ratings_dat),
    "ml_csv": (lambda path: (path / "ratings.csv").is_file(), movielens.ratings_csv),
    "parquet": (
        lambda path: bool(folders.table_files(path, "events", (".parquet",))),
        folders.parquet,
    ),
    "csv": (
        lambda path: bool(folders.table_files(path, "events", (".csv", ".tsv"))),
        folders.delimited,
    ),
    "criteo": (criteo.has_criteo, criteo.criteo),
    "amazon": (amazon.has_reviews, amazon.reviews),
    "session_log": (sessions.has_log, sessions.session_log),
    "session_lists": (sessions.has_session_lists, sessions.session_lists),
    "user_lists": (sessions.has_user_lists, sessions.user_lists),
}
