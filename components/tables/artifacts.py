"""The three tables as artifacts.

Each is `Split-all` of gzip TFRecords, and `report.json` that says what was read and rejected.
"""

import posixpath
from collections.abc import Mapping

import pyarrow as pa

from components.tables import records
from components.tables.columns import concatenated, is_list

ALL = "all"


def split_folder(uri: str, split: str) -> str:
    """Where an Examples artifact keeps the files of a split."""
    return posixpath.join(uri, f"Split-{split}")


def table_columns(uri: str) -> dict[str, str]:
    """Column name -> kind of a table.

    It is known from the table's report, or from its rows when another component wrote it.
    """
    report = posixpath.join(uri, records.REPORT)
    if records.exists(report):
        return records.read_json(report)["columns"]
    return _columns_of_rows(uri)


def _columns_of_rows(uri: str) -> dict[str, str]:
    columns: dict[str, str] = {}
    for path in records.shards(split_folder(uri, ALL)):
        for name, kind in records.guess_columns(path).items():
            if not is_list(columns.get(name, "")):
                columns[name] = kind
    return columns


def read_table(uri: str) -> pa.Table:
    """A whole table in memory: for small ones, tests and reports."""
    return read_split(uri, ALL, table_columns(uri))


def read_split(uri: str, split: str, columns: Mapping[str, str]) -> pa.Table:
    """A whole split of an Examples artifact in memory, in the order of its files."""
    parts = [
        part
        for path in records.shards(split_folder(uri, split))
        for part in records.read_batches(path, columns)
    ]
    return concatenated(parts, columns)
