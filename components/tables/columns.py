"""The kinds of columns that a table can have, and how Arrow holds them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

BYTES, INT, FLOAT = "bytes", "int", "float"
BYTES_LIST, INT_LIST, FLOAT_LIST = "bytes_list", "int_list", "float_list"

_ARROW = {
    BYTES: pa.large_binary(),
    INT: pa.int64(),
    FLOAT: pa.float32(),
    BYTES_LIST: pa.large_list(pa.large_binary()),
    INT_LIST: pa.large_list(pa.int64()),
    FLOAT_LIST: pa.large_list(pa.float32()),
}


def is_list(kind: str) -> bool:
    """Whether a column of this kind holds any number of values a row."""
    return kind.endswith("_list")


def arrow_type(kind: str) -> pa.DataType:
    """The Arrow type that holds a column kind in memory."""
    return _ARROW[kind]


def words_of(values: Sequence[Any], type_: pa.DataType) -> list[str]:
    """Values of a column as a run file would say them: 3 and not 3.0, a float32 as briefly."""
    if pa.types.is_floating(type_):
        return [f"{float(str(value)):.15g}" for value in np.asarray(values, np.float32)]
    return [
        value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
        for value in values
    ]


def kind_of(type_: pa.DataType) -> str:
    """The column kind of an Arrow type of ours."""
    return next(kind for kind, arrow in _ARROW.items() if arrow == type_)


def columns_of(table: pa.Table) -> dict[str, str]:
    """Column name -> kind, in the table's order."""
    return {field.name: kind_of(field.type) for field in table.schema}


def concatenated(parts: Sequence[pa.Table], columns: Mapping[str, str]) -> pa.Table:
    """The rows of all parts; of no parts, a table of no rows with these columns."""
    return pa.concat_tables(parts) if parts else empty_table(columns)


def empty_table(columns: Mapping[str, str]) -> pa.Table:
    """A table of no rows with the given columns."""
    return pa.schema([(name, arrow_type(kind)) for name, kind in columns.items()]).empty_table()
