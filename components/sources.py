"""What a table is read from: its files, their form, and the columns to take."""

from dataclasses import dataclass

from components.columns import BYTES, BYTES_LIST, FLOAT, FLOAT_LIST, INT

TABLES = ("events", "items", "users")
REQUIRED = {"events": ("user_id", "item_id"), "items": ("item_id",), "users": ("user_id",)}
KINDS = (BYTES, INT, FLOAT, BYTES_LIST, FLOAT_LIST)
RESERVED = "row"


@dataclass(frozen=True)
class Field:
    """One column of a table.

    Attributes:
        name: what it is called in the table.
        kind: what it holds (`components.columns`).
        index: position in the file (text) of the value; None for Parquet.
        source: what the file calls it, for messages and for Parquet.
        separator: what splits the values of a list.
        flags: names of one-or-nought columns from `index` on, which make up a list (u.item's
            genres).
        year: the name of a column to split a trailing `(1995)` off to.
    """

    name: str
    kind: str
    index: int | None
    source: str
    separator: str = "|"
    flags: tuple[str, ...] = ()
    year: str | None = None


@dataclass(frozen=True)
class Source:
    """One table's files.

    Attributes:
        table: `events`, `items` or `users`.
        files: in the order in which their rows are numbered; none for an empty table.
        fields: the columns to read.
        format: `text` (never quoted), `csv` (double quotes) or `parquet`.
        delimiter: between the values of a line.
        width: number of values of a good line.
        header: whether the first line names the columns.
        encoding: of the text; ids are re-encoded as UTF-8.
        timestamp_unit: of numeric times: s, ms, us or ns.
    """

    table: str
    files: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    format: str = "text"
    delimiter: str = "\t"
    width: int = 0
    header: bool = True
    encoding: str = "utf-8"
    timestamp_unit: str = "s"

    def columns(self) -> dict[str, str]:
        """Column name -> kind of the table that this gives."""
        columns = {} if self.fields else {name: BYTES for name in REQUIRED[self.table]}
        for field in self.fields:
            columns[field.name] = field.kind
            if field.year:
                columns[field.year] = INT
        if self.table == "events":
            columns[RESERVED] = INT
        return columns
