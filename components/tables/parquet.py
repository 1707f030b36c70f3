"""Parquet files as tables: columns that can be held, rows a bounded batch at a time."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from components.tables.places import Place, Remote, place
from models.names.errors import DataError


def parquet_fields(files: list[Place]) -> tuple[list[str], dict[str, str]]:
    """The columns that all files have and a table can hold, and the others with the reason.

    Raises:
        DataError: a file is no whole Parquet file or lacks a column of the first.
    """
    first: list[str] = []
    odd: dict[str, str] = {}
    for file in files:
        schema = open_parquet(str(file)).schema_arrow
        first = first or schema.names
        missing = [name for name in first if name not in schema.names]
        if missing:
            raise DataError(
                f"{file} lacks the columns {', '.join(missing)} that {files[0].name} has"
            )
        for field in schema:
            if field.name not in first:
                odd[field.name] = f"{files[0].name} has it not"
            elif not _is_held(field.type):
                odd[field.name] = f"no table can hold the type {field.type}"
    return [name for name in first if name not in odd], odd


def open_parquet(path: str) -> pq.ParquetFile:
    """Opens a Parquet file.

    Raises:
        DataError: it is missing, empty, cut off or no Parquet file.
    """
    try:
        found = place(path)
        # Of a store, the columns that are wanted are fetched at once and not one after the other.
        if isinstance(found, Remote):
            return pq.ParquetFile(found.arrow_file(), pre_buffer=True)
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path} is no whole Parquet file (truncated?); required: a file that ends in its "
            "footer; "
            f"received: {str(error).splitlines()[0]}"
        ) from error


def read_rows(path: str, group: int, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Yields one row group in batches of at most `rows` rows.

    Raises:
        DataError: PyArrow cannot read it.
    """
    file = open_parquet(path)
    try:
        yield from file.iter_batches(batch_size=rows, row_groups=[group], columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}, row group {group + 1}: {str(error).splitlines()[0]}; required: columns that "
            "PyArrow reads, or their names under data.columns.ignore"
        ) from error


def is_any_list(type_: pa.DataType) -> bool:
    """Whether a type is of lists, whatever their length."""
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(type_) for check in checks)


def is_text(type_: pa.DataType) -> bool:
    """Whether a type is of strings or bytes."""
    checks = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_binary,
        pa.types.is_large_binary,
    )
    return any(check(type_) for check in checks)


def _is_held(type_: pa.DataType) -> bool:
    if is_any_list(type_):
        return not is_any_list(type_.value_type) and _is_held(type_.value_type)
    if pa.types.is_dictionary(type_):
        return _is_held(type_.value_type)
    if pa.types.is_float16(type_):  # which PyArrow casts to nothing
        return False
    checks = (
        pa.types.is_integer,
        pa.types.is_boolean,
        pa.types.is_floating,
        pa.types.is_decimal,
        pa.types.is_timestamp,
        pa.types.is_date,
        pa.types.is_null,
    )
    return is_text(type_) or any(check(type_) for check in checks)
