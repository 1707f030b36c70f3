"""Parquet files as tables: column kinds from their schema, rows a bounded batch at a time."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.tables.columns import BYTES, FLOAT, INT
from models.names.errors import DataError


def parquet_fields(files: list[Path]) -> dict[str, str]:
    """Column -> kind, as the first file has them.

    Raises:
        DataError: a file is no whole Parquet file, lacks a column of the first, or has a column of
            no usable type.
    """
    found: dict[str, str] = {}
    for file in files:
        schema = open_parquet(str(file)).schema_arrow
        if not found:
            found = {field.name: _kind(field, file) for field in schema}
        missing = [name for name in found if name not in schema.names]
        if missing:
            raise DataError(
                f"{file} lacks the columns {', '.join(missing)} that {files[0].name} has"
            )
    return found


def open_parquet(path: str) -> pq.ParquetFile:
    """Opens a Parquet file.

    Raises:
        DataError: it is missing, empty, cut off or no Parquet file.
    """
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path} is no whole Parquet file (truncated?); required: a file that ends in its "
            "footer; "
            f"received: {str(error).splitlines()[0]}"
        ) from error


def read_rows(path: str, group: int, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Yields one row group in batches of at most `rows` rows."""
    file = open_parquet(path)
    yield from file.iter_batches(batch_size=rows, row_groups=[group], columns=columns)


def _kind(field: pa.Field, file: Path) -> str:
    type_, suffix = field.type, ""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        type_, suffix = type_.value_type, "_list"
    if pa.types.is_integer(type_) or pa.types.is_boolean(type_):
        return INT + suffix
    if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return FLOAT + suffix
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        return INT
    if pa.types.is_null(type_) or any(
        check(type_)
        for check in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    ):
        return BYTES + suffix
    raise DataError(
        f"{file}: the column {field.name!r} has the type {field.type}, which no table can hold"
    )
