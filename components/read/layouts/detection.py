"""Where each public layout keeps its three tables: files, separators, columns.

Light: no Beam, no TFX.

A *layout* is found in a folder by its file names and described as three `Source`s, which
`components.read.readers` reads.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.read.clashes import check_names
from components.read.kinds import decide
from components.read.layouts import amazon, criteo, folders, movielens, recbole, sessions
from components.read.layouts.parts import TYPES, check_said, listed
from components.read.sources import Source, is_read_as_it_is
from components.read.times import DAY, UNITS
from components.tables.names import PART, REQUIRED, ROW, TABLES
from components.tables.places import Place, open_binary, place
from models.names.errors import ConfigError, DataError, nearest


def detect(folder: str, columns: Mapping[str, Any] | None = None) -> str:
    """Returns the name of the reader whose files lie in `folder`.

    Files are opened where their names do not tell; those that cannot be read are passed over.

    Args:
        folder: where the files are.
        columns: `data.columns`, which may name the files.

    Raises:
        DataError: the folder is missing, holds no layout that is known, or several.
    """
    path = _folder(folder)
    options = _checked_options(columns or {})
    for layouts in (_BY_NAME, _BY_CONTENT):
        found = [name for name in layouts if LAYOUTS[name][0](path, options)]
        if len(found) > 1:
            names = ", ".join(file.name for file in listed(path)[:10])
            raise DataError(
                f"{folder} holds the files of several layouts: {', '.join(found)}; required: the "
                f"one to read under data.reader, or a folder of one alone; received: {names}"
            )
        if found:
            return found[0]
    names = ", ".join(file.name for file in listed(path)[:10])
    raise DataError(
        f"{folder} holds no layout that a reader knows ({', '.join(LAYOUTS)}); required: for "
        f"example events.csv with user_id and item_id; received: {names or 'an empty folder'}"
    )


def conventions(
    folder: str, reader: str | None = None, columns: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a run on this folder has unless it says otherwise.

    That is `schema`, `label`, and `split` where the files are parted.

    Raises:
        DataError: see `detect`.
    """
    reader = reader or detect(folder, columns)
    if reader == "criteo":
        parted = any(source.parts for source in plan(folder, reader))
        return {**criteo.CONVENTIONS, **({"split": "predefined"} if parted else {})}
    return {}


def plan(
    folder: str, reader: str | None = None, columns: Mapping[str, Any] | None = None
) -> list[Source]:
    """Describes the three tables of a folder and checks what can be checked by their first rows.

    Args:
        folder: where the files are.
        reader: a name of `LAYOUTS`, or None to tell by the files.
        columns: how the user's columns are called: `{"user_id": "uid", ...}` for every table, or
            one such mapping a table under `events`, `items`, `users`; beside them

            - `types`: column -> category, number, time, or bytes, int, float, bytes_list, int_list,
              float_list;
            - `ignore`: columns to leave out;
            - `list_separator`: between the values of a list, `|`;
            - `timestamp_unit`: s, ms, us, ns or yyyymmdd;
            - `files`: table -> file, files or pattern; of session data part -> file;
            - `delimiter`, `encoding`, `decimal`: of text.

    Raises:
        ConfigError: an unknown reader, option, column or type.
        DataError: a file is missing, empty or cut off, a required column is missing, or two columns
            would be called alike in the built rows.
    """
    path = _folder(folder)
    if reader is not None and reader not in LAYOUTS:
        raise ConfigError(f"unknown reader {reader!r}{nearest(reader, LAYOUTS)}")
    reader = reader or detect(folder, columns)
    options = _checked_options(columns or {})
    if "files" in options and reader not in _NAMED_FILES:
        raise ConfigError(f"data.columns.files: the layout {reader} has names of its own")
    sources = LAYOUTS[reader][1](path, options)
    check_said(sources, options)
    ignored = options.get("ignore", ())
    sources = [decide(checked(_without(source, ignored))) for source in sources]
    check_names(sources)
    return sources


def _without(source: Source, ignored: Collection[str]) -> Source:
    kept = [one for one in source.fields if not {one.name, one.header} & set(ignored)]
    return replace(source, fields=tuple(kept))


def _folder(folder: str) -> Place:
    path = place(folder)
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
    for name, value in options.items():
        if name in TABLES or name in ("types", "files", "schema"):
            if not isinstance(value, Mapping):
                raise ConfigError(f"data.columns.{name} must be a mapping; received {value!r}")
        elif name == "ignore":
            options[name] = [value] if isinstance(value, str) else list(value)
        elif not isinstance(value, str) or not value:
            raise ConfigError(
                f"data.columns.{name} must be "
                + (f"text, such as {_EXAMPLES[name]!r}" if name in _EXAMPLES else "a column's name")
                + f"; received {value!r}"
            )
    for name in ("delimiter", "list_separator"):
        if name in options:  # as it is typed in a shell
            options[name] = options[name].replace("\\t", "\t")
    for name, kind in dict(options.get("types", {})).items():
        if kind not in TYPES:
            raise ConfigError(
                f"data.columns.types.{name}: unknown type {kind!r}{nearest(str(kind), TYPES)}"
            )
    if options.get("decimal", ".") not in (".", ","):
        raise ConfigError(
            f"data.columns.decimal must be '.' or ','; received {options['decimal']!r}"
        )
    try:
        "a".encode(options.get("encoding", "utf-8"))
    except LookupError:
        raise ConfigError(
            f"data.columns.encoding: unknown encoding {options['encoding']!r}; known: utf-8, "
            "utf-16, latin-1, cp1252 and what else Python's codecs has"
        ) from None
    return options


def checked(source: Source) -> Source:
    """A source whose files are there and whole and name the columns that its table must have.

    Raises:
        DataError: they are not, or do not.
    """
    if not source.files:
        return source
    names = [field.name for field in source.fields]
    # The source's own columns of these names give way to the reader's.
    reserved = (ROW, PART) if source.parts else (ROW,)
    if set(reserved) & set(names):
        fields = tuple(field for field in source.fields if field.name not in reserved)
        gone = ", ".join(field.header for field in source.fields if field.name in reserved)
        note = f"{Path(source.files[0]).name}: {gone} is left out: the reader has its own"
        source = replace(source, fields=fields, notes=(*source.notes, note))
    for file in source.files:
        if not place(file).is_file():
            raise DataError(f"{file} is missing; required: the file of the table {source.table}")
        if place(file).stat().st_size == 0:
            raise DataError(f"{file} is empty; required: rows of the table {source.table}")
    for name in REQUIRED[source.table]:
        if name not in names and not source.anonymous:
            headers = source.names_in_files()
            raise DataError(
                f"{source.files[0]}, line 1: the column {name!r} of the table {source.table} is "
                f"missing; received: {', '.join(headers)}. "
                f"Name it under data.columns if it is called otherwise"
            )
    if source.format in ("text", "csv"):
        for file in source.files:
            _check_end(place(file), source)
    return source


def _check_end(path: Place, source: Source) -> None:
    """A last line that has neither all its fields nor an end is the mark of a broken download."""
    if not is_read_as_it_is(path, source.encoding):  # a checksum says when it is cut off
        return
    size = path.stat().st_size
    with open_binary(path) as file:
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
        with open_binary(path) as file:
            line = 1 + sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 24), b""))
        raise DataError(
            f"{path}, line {line}: the file ends in the middle of a line; required: "
            f"{source.width} fields, "
            f"received: {received}. It looks truncated: fetch it again"
        )


# name -> (whether a folder holds it, its three tables)
LAYOUTS = {
    "recbole": (lambda path, _: bool(recbole.interactions(path)), recbole.atomic),
    "ml_100k": (lambda path, _: (path / "u.data").is_file(), movielens.ratings_100k),
    "ml_dat": (lambda path, _: (path / "ratings.dat").is_file(), movielens.ratings_dat),
    "ml_csv": (lambda path, _: (path / "ratings.csv").is_file(), movielens.ratings_csv),
    "parquet": (folders.has("parquet"), folders.parquet),
    "csv": (folders.has("csv"), folders.delimited),
    "criteo": (lambda path, _: criteo.has_criteo(path), criteo.criteo),
    "amazon": (lambda path, _: amazon.has_reviews(path), amazon.reviews),
    "session_log": (lambda path, _: sessions.has_log(path), sessions.session_log),
    "session_lists": (lambda path, _: sessions.has_session_lists(path), sessions.session_lists),
    "user_lists": (lambda path, _: sessions.has_user_lists(path), sessions.user_lists),
}
_BY_NAME = ("recbole", "ml_100k", "ml_dat", "ml_csv", "parquet", "csv")
_BY_CONTENT = ("criteo", "amazon", "session_log", "session_lists", "user_lists")
_NAMED_FILES = ("parquet", "csv", "session_log", "session_lists", "user_lists")
_EXAMPLES = {"list_separator": "|", "delimiter": ";", "encoding": "latin-1", "decimal": ","}
