"""What the layouts are put together of: columns by name, tables of files with a header.

Light: no Beam, no TFX.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from components.read.sources import FileField, Source, open_file
from components.tables.columns import BYTES, BYTES_LIST, FLOAT, FLOAT_LIST, INT, INT_LIST
from components.tables.names import REQUIRED, TABLES
from models.names.errors import ConfigError, DataError, nearest

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
TIME = "time"
TYPES = {
    **{kind: kind for kind in (BYTES, INT, FLOAT, BYTES_LIST, INT_LIST, FLOAT_LIST)},
    "category": BYTES,
    "number": FLOAT,
    TIME: INT,
}
"""What `data.columns.types` may say -> kind of the column."""

OPTIONS = (
    "timestamp_unit",
    "list_separator",
    "types",
    "ignore",
    "files",
    "delimiter",
    "encoding",
    "decimal",
    "schema",
)
"""Keys of `data.columns` that are no mapping; `schema` is the run's: table -> column -> kind."""

DELIMITERS = (",", ";", "\t", "|")
_COLUMNS_OF_EVENTS = ("timestamp", "rating", "label", "session_id", "event_type", "dwell")


def listed(path: Path) -> list[Path]:
    """The files and folders in a folder, without hidden ones and what Spark leaves behind."""
    return [file for file in sorted(path.iterdir()) if not file.name.startswith((".", "_"))]


def plain_name(file: Path) -> str:
    """The name of a file without the suffix of its compression."""
    return re.sub(r"\.(gz|zst|bz2)$", "", file.name)


def mapping(options: Mapping[str, Any], table: str) -> dict[str, str]:
    """Column name -> name in the file, for one table."""
    flat = {
        name: value for name, value in options.items() if name not in TABLES and name not in OPTIONS
    }
    return {**flat, **options.get(table, {})}


def first_line(path: Path, encoding: str | None = None) -> str:
    """The header of a text file, without its byte order mark.

    Raises:
        DataError: the file is missing, empty or no text.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing; required: a file whose first line names its columns")
    with open_file(path, encoding) as file:
        line = file.readline(1 << 20)
    if not line.strip():
        raise DataError(f"{path} is empty; required: a first line that names the columns")
    try:
        return line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise DataError(
            f"{path}, line 1: required: UTF-8, or the encoding under data.columns.encoding, such "
            f"as latin-1; received {line[:40]!r}"
        ) from None


def peek(file: Path) -> str:
    """The first line of a file, for telling what it is: empty for what cannot be read as text."""
    try:
        with open_file(file) as stream:
            line = stream.readline(1 << 20)
    except (DataError, OSError, UnicodeError):
        return ""
    return "" if b"\0" in line else line.decode("utf-8-sig", "replace").rstrip("\r\n")


def field(
    name: str,
    source: str,
    index: int | None,
    options: Mapping[str, Any],
    table: str,
    default: str | None = BYTES,
    **more,
) -> FileField:
    """A column, of the kind that the options, the schema or its name say.

    `default` is the kind where they say none; None to tell by the values.
    """
    types = dict(options.get("types", {}))
    said = types.get(name) or types.get(source)
    known = options.get("schema", {}).get(table, {}).get(name)
    schema = BYTES if known == "text" else known
    if name in REQUIRED[table] or table == "events" and name in _COLUMNS_OF_EVENTS:
        for place, told in (("data.columns.types", TYPES.get(said, said)), ("data.schema", schema)):
            if told not in (None, KNOWN_KINDS[name]):
                words = [word for word, kind in TYPES.items() if kind == KNOWN_KINDS[name]]
                raise ConfigError(
                    f"{place}: {name} of {table} has a meaning of its own; required: "
                    f"{' or '.join(words)}; received: {said if place.endswith('types') else told}"
                )
    if schema == BYTES and default is not None:
        schema = None  # the layout knows better: a list is BYTES to a schema as well
    kind = TYPES.get(said, said) or schema or KNOWN_KINDS.get(name) or default
    return FileField(name, kind, index, source, time=said == TIME, text=known == "text", **more)


def fields_of(
    table: str,
    file: Path,
    header: list[str],
    options: Mapping[str, Any],
    known: Mapping[str, str] | None = None,
    kinds: Mapping[str, str] | None = None,
    **more,
) -> tuple[list[FileField], list[str]]:
    """The columns of a file, by the names in its header.

    A column that the options name is what they say; it has the place of one that the file itself
    calls so. A name that is no legal one for a model is made one.

    Args:
        table: of the file.
        file: for messages.
        header: what it calls its columns.
        options: `data.columns`.
        known: name in the file -> column, as the layout has it.
        kinds: name in the file -> kind, as the layout has it.
        **more: of every `FileField`.

    Returns:
        The columns, and in words what was left out or is called otherwise.

    Raises:
        DataError: a name is there twice, one that the options name is not, or one that differs from
            a name with a meaning in capitals, blanks and the like alone.
    """
    known, kinds = known or {}, kinds or {}
    where = f"{file}, line 1"
    named = [name for name in header if name.strip()]
    for name in named:
        if named.count(name) > 1:
            raise DataError(
                f"{where}: the column {name!r} is there {named.count(name)} times; required: each "
                "name once"
            )
    check_mapped(table, file, header, options)
    mapped = {name: to for name, to in mapping(options, table).items() if to in header}
    ignored = options.get("ignore", ())
    fields, notes = [], []
    for index, source in enumerate(header):
        if not source.strip():
            notes.append(f"{file.name}: column {index + 1} has no name and is left out")
            continue
        names = [name for name, to in mapped.items() if to == source]
        if source in ignored or set(names) & set(ignored):
            notes.append(f"{file.name}: {source} is left out (data.columns.ignore)")
            continue
        own = known.get(source, source)
        if not names and own in mapped:
            notes.append(f"{file.name}: {source} is left out: {own} is {mapped[own]}")
            continue
        for name in names or [own]:
            legal = legal_name(name, index)
            if legal != name.strip() and legal in (*REQUIRED[table], *KNOWN_KINDS):
                legal += "_"  # a name with a meaning has to be written as it is
            while legal in [one.name for one in fields]:
                if legal == name:
                    raise DataError(f"{where}: two columns are {name!r}; name one in data.columns")
                legal += "_"
            if legal != name:
                notes.append(f"{file.name}: the column {name!r} is called {legal!r} here")
            fields.append(field(legal, source, index, options, table, kinds.get(source), **more))
    _check_near(table, where, fields)
    return fields, notes


def legal_name(name: str, index: int = 0) -> str:
    """A name that TensorFlow takes for a layer and a file system for a file."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        return name
    ascii_ = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", ascii_).strip("_.-") or f"column_{index + 1}"


def _check_near(table: str, where: str, fields: list[FileField]) -> None:
    """A column of another spelling would be a mere feature, and what it means lost in silence."""
    names = {one.name for one in fields}
    own = [one for one in fields if one.name == legal_name(one.header)]
    for wanted in (*REQUIRED[table], *(_COLUMNS_OF_EVENTS if table == "events" else ())):
        near = [one for one in own if _letters(one.header) == _letters(wanted)]
        if wanted not in names and near:
            raise DataError(
                f"{where}: did you mean {wanted!r} by the column {near[0].header!r}? Then say "
                f"data.columns.{wanted}: {near[0].header!r}, else data.columns.ignore: "
                f"[{near[0].header!r}]"
            )


def _letters(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def make_source(
    table: str, files: list[Path], fields: Iterable[FileField], options: Mapping[str, Any], **more
) -> Source:
    """A table's files and columns."""
    more.setdefault("encoding", options.get("encoding"))
    return Source(
        table,
        tuple(str(file) for file in files),
        tuple(fields),
        timestamp_unit=options.get("timestamp_unit"),
        decimal=options.get("decimal", "."),
        **more,
    )


def headed(
    table: str,
    files: list[Path],
    options: Mapping[str, Any],
    known: Mapping[str, str] | None = None,
) -> Source:
    """A table of text files with a header, whose delimiter is told by the header.

    Raises:
        DataError: the files have different columns, or those of one are not right; see `fields_of`.
    """
    encoding = options.get("encoding")
    lines = [first_line(file, encoding) for file in files]
    wanted = {mapping(options, table).get(name, name) for name in REQUIRED[table]}
    given = {source for source, name in (known or {}).items() if name in REQUIRED[table]}
    usual = "\t" if plain_name(files[0]).endswith(".tsv") else ","
    delimiter = options.get("delimiter") or told_delimiter(lines[0], wanted | given, usual)
    headers = [_split(line, delimiter) for line in lines]
    for file, header in zip(files, headers, strict=True):
        if header != headers[0]:
            raise DataError(
                f"{file}, line 1: required: the columns of {files[0].name} "
                f"({', '.join(headers[0])}); "
                f"received: {', '.join(header)}"
            )
    fields, notes = fields_of(
        table,
        files[0],
        headers[0],
        options,
        known,
        separator=options.get("list_separator", "|"),
    )
    if delimiter != usual:
        notes.insert(0, f"{files[0].name}: the delimiter is {delimiter!r}")
    return make_source(
        table,
        files,
        fields,
        options,
        format="csv" if len(delimiter.encode()) == 1 else "text",
        delimiter=delimiter,
        width=len(headers[0]),
        seen=tuple(headers[0]),
        notes=tuple(notes),
    )


def told_delimiter(line: str, wanted: Iterable[str], usual: str) -> str:
    """The delimiter of a header: that which gives the most of the names wanted, and most names."""
    wanted = {_letters(name) for name in wanted}

    def found(delimiter: str) -> tuple[int, int, bool]:
        names = _split(line, delimiter)
        return len(wanted & set(map(_letters, names))), len(names), delimiter == usual

    return max(DELIMITERS, key=found)


def _split(line: str, delimiter: str) -> list[str]:
    if len(delimiter) > 1:
        return line.split(delimiter)
    return next(csv.reader(io.StringIO(line, newline=""), delimiter=delimiter), [])


def check_mapped(table: str, file: Path, header: list[str], options: Mapping[str, Any]) -> None:
    """Raises DataError for a column that the options name for this table and the file lacks."""
    for name, source in options.get(table, {}).items():
        if source not in header:
            raise DataError(
                f"{file}, line 1: the column {source!r}, named by data.columns.{table}.{name}, is "
                f"missing{nearest(source, header)}"
            )


def check_said(sources: list[Source], options: Mapping[str, Any]) -> None:
    """Raises ConfigError for what the options say of columns that no table has."""
    seen = sorted({name for source in sources for name in source.names_in_files()})
    held = {(field.name, field.header) for source in sources for field in source.fields}
    names = sorted({name for name, _ in held} | set(seen))
    for name, to in mapping(options, "").items():
        legal = {(legal_name(name), to), (name, to)}
        if not legal & held and to not in options.get("ignore", ()):
            hint = nearest(name, OPTIONS) if to not in seen else ""
            hint = hint if "did you mean" in hint else ""
            if name in seen and to in {*chain(*REQUIRED.values()), "timestamp"} - set(seen):
                raise ConfigError(
                    f"data.columns.{name}: no file has a column {to!r}, but one has {name!r}; "
                    f"required: our name first, then the file's, so {to}: {name}"
                )
            raise ConfigError(
                f"data.columns.{name}: no file has a column {to!r}{nearest(to, seen)}"
                + hint.replace("did you mean", "or is the option meant")
            )
    for option in ("types", "ignore"):
        for name in options.get(option, ()):
            if name not in names:
                raise ConfigError(
                    f"data.columns.{option}: no table has a column {name!r}{nearest(name, names)}"
                )
