"""A data folder to the three table artifacts, with a report of what was read and rejected."""

import hashlib
import posixpath
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam

from components.read.readers import ReadSource
from components.read.sources import LISTS, Source
from components.read.typed import Parsed, check_rejected, no_events
from components.tables import records
from components.tables.artifacts import ALL, split_folder
from components.tables.columns import empty_table
from components.tables.names import TABLES
from components.tables.places import Remote, open_binary, place
from models.names.errors import DataError

_WHOLE_FILES = 256 << 20


def fingerprint(folder: str) -> str:
    """A hash of a data folder that changes when its files do.

    So a cached read is never a stale one.

    Up to 256 MB the contents are hashed whole; beyond that names, sizes, times of change and the
    ends of each file; on an object store names, sizes and times of change.

    Raises:
        DataError: the folder does not exist.
    """
    path = place(folder)
    if not path.is_dir():
        raise DataError(
            f"the data folder {folder} does not exist; required: a folder with the source's files"
        )
    files = sorted(
        file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".")
    )
    if isinstance(path, Remote):
        return _fingerprint_of_names(files, path)
    whole = sum(file.stat().st_size for file in files) <= _WHOLE_FILES
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.relative_to(path)}\0{status.st_size}\0".encode())
        with open_binary(file) as stream:
            if whole:
                for block in iter(lambda: stream.read(1 << 20), b""):
                    digest.update(block)
            else:
                digest.update(f"{status.st_mtime_ns}\0".encode() + stream.read(1 << 16))
                stream.seek(max(0, status.st_size - (1 << 16)))
                digest.update(stream.read())
    return digest.hexdigest()[:32]


def _fingerprint_of_names(files: list[Remote], folder: Remote) -> str:
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(
            f"{file.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\0".encode()
        )
    return digest.hexdigest()[:32]


def write_tables(
    make_pipeline: Callable[[], beam.Pipeline],
    sources: list[Source],
    uris: Mapping[str, str],
    max_rejected_share: float,
) -> dict[str, dict[str, Any]]:
    """Reads the sources and writes their tables.

    Args:
        make_pipeline: gives the Beam pipeline to run in.
        sources: as `detection.plan` describes them.
        uris: table -> folder of its artifact.
        max_rejected_share: the run stops when a larger share of a table's rows had to be rejected.

    Returns:
        Table -> report: rows `read`, `kept`, `rejected` by reason with the first of each,
        `unreadable` feature values by column, `columns` (name -> kind), `notes` in words.

    Raises:
        DataError: too many rows were rejected, or no event is left.
    """
    with make_pipeline() as pipeline:
        for source in sources:
            uri = uris[source.table]
            folder = split_folder(uri, ALL)
            report = beam.pvalue.AsList(
                pipeline
                | f"Read[{source.table}]" >> ReadSource(source, folder=uri)
                | f"Write[{source.table}]" >> beam.Map(_write, folder)
            )
            _ = (
                pipeline
                | f"Once[{source.table}]" >> beam.Create([None])
                | f"Report[{source.table}]" >> beam.Map(_report, report, source=source, uri=uri)
            )
    reports = {}
    for source in sources:
        records.remove_staging(uris[source.table])
        reports[source.table] = records.read_json(
            posixpath.join(uris[source.table], records.REPORT)
        )
    for report in reports.values():
        check_rejected(report, max_rejected_share)
    if not reports["events"]["kept"]:
        raise no_events(next(source for source in sources if source.table == "events"))
    return reports


def _write(parsed: Parsed, folder: str) -> dict[str, Any]:
    records.write_table(parsed.table, folder, parsed.block.number)
    return {
        "number": parsed.block.number,
        "file": parsed.block.file,
        "read": parsed.read,
        "kept": parsed.table.num_rows,
        "rejects": parsed.rejects,
        "unreadable": parsed.unreadable,
        "ahead": parsed.ahead,
    }


def _report(_, written: list[dict[str, Any]], source: Source, uri: str) -> None:
    written = sorted(written, key=lambda one: one["number"])
    if not written:
        records.write_table(empty_table(source.columns()), split_folder(uri, ALL), 0)
    rejected: dict[str, dict[str, Any]] = {}
    unreadable: dict[str, int] = {}
    for one in written:
        for reason, (count, line, received) in one["rejects"].items():
            first = {"count": 0, "file": one["file"], "line": line, "received": received}
            rejected.setdefault(reason, first)["count"] += count
        for column, count in one["unreadable"].items():
            unreadable[column] = unreadable.get(column, 0) + count
    report = {
        "table": source.table,
        "files": [Path(file).name for file in source.files],
        "read": sum(one["read"] for one in written),
        "kept": sum(one["kept"] for one in written),
        "rejected": rejected,
        "unreadable": unreadable,
        "columns": source.columns(),
        "notes": list(source.notes),
    }
    ahead = {one["ahead"] for one in written}
    if source.format not in LISTS and len(ahead) == 1 and None not in ahead:
        report["lines_ahead"] = ahead.pop()  # a row's number tells its line
    records.write_json(posixpath.join(uri, records.REPORT), report)


def summary(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """One line: rows read and kept of each table that is there, and why others were rejected."""
    parts = []
    for table in TABLES:
        report = reports[table]
        if not report["read"]:
            continue
        text = f"{table} {report['kept']:,} of {report['read']:,} rows"
        if report["rejected"]:
            reasons = ", ".join(
                f"{first['count']:,} {reason}" for reason, first in report["rejected"].items()
            )
            text += f" (rejected: {reasons})"
        parts.append(text)
    return " · ".join(parts)
