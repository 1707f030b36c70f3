"""`recsys ingest`: events and changes of the catalogue, from files or standard input to a state."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import click

from components.tables.places import is_remote
from models.names.errors import ConfigError, DataError, RecsysError
from serving.client.client import Client
from serving.state import Event, Item, open_state, read_events, read_items
from serving.state.store import Written
from serving.wire.errors import Code, ServingError, StartError

# Where a row stands, and what it says.
Row = tuple[str, dict[str, Any]]
# Takes events or items, and returns when they are durable.
Write = Callable[[list[Event], list[Item]], Written]
_ROWS_A_WRITE = 1000
# Longest that a line of standard input waits for others to be written with.
_WAIT_SECONDS = 0.2
_SAID_EVERY_SECONDS = 2.0
_NAMED = 10  # rejected rows that are shown
_OF_AN_EVENT = ("user_id", "item_id", "event_type", "dwell", "timestamp")


@dataclass
class Report:
    """What became of the rows.

    Attributes:
        written: events and items that are durable.
        expired: events older than the state keeps.
        rejected: rows that could not be taken.
        reasons: why, with where the row stands, of the first of them.
        unknown: items that came with features and are answered by no model of the server, though
            one reads their columns.
        unknown_ids: the first of them.
    """

    written: int = 0
    expired: int = 0
    rejected: int = 0
    reasons: list[str] = field(default_factory=list)
    unknown: int = 0
    unknown_ids: list[str] = field(default_factory=list)

    def add(self, written: Written) -> None:
        """Counts what a write has told."""
        self.written += written.written
        self.expired += written.expired
        self.unknown += len(written.unknown)
        self.unknown_ids += written.unknown[: _NAMED - len(self.unknown_ids)]

    def reject(self, where: str, why: str, count: int = 1) -> None:
        """Counts rows out; `where` is the first of them."""
        self.rejected += count
        if len(self.reasons) < _NAMED:
            self.reasons.append(f"{where}: {why}" + (f" ({count} rows)" if count > 1 else ""))


def run(
    source: str,
    reader: str | None,
    address: str,
    use_grpc: bool,
    state: str | None,
    events_per_user: int,
    ttl_days: float,
) -> None:
    """Writes a source to a server, or to a state where one is named, and prints what became of it.

    It ends the process with status 1 where a row was rejected.

    Raises:
        RecsysError: there is no such source, or nobody takes what it holds.
    """
    report = Report()
    to = state or address
    try:
        with contextlib.ExitStack() as closing:
            if state:
                store = closing.enter_context(open_state(state, events_per_user, ttl_days * 86400))
                write: Write = store.write
            else:
                protocol = "grpc" if use_grpc else "rest"
                client = closing.enter_context(
                    Client(address, protocol=protocol, timeout=60.0, retries=20)
                )
                write = _to_server(client)
            ingest(source, write, report, reader)
    except StartError as error:
        raise ConfigError(f"--state: {error}") from None
    except ServingError as error:
        done = f"after {report.written:,} that were written: {error}"
        raise RecsysError(f"writing to {to}, {done}") from None
    finally:
        for reason in report.reasons:
            click.echo(f"rejected: {reason}", err=True)
        if report.rejected > len(report.reasons):
            click.echo(f"rejected: {report.rejected:,} rows in all", err=True)
    told = (
        f"{report.written:,} written to {to}, {report.expired:,} older than it keeps, "
        f"{report.rejected:,} rejected"
    )
    if report.unknown:
        more = ", ..." if report.unknown > len(report.unknown_ids) else ""
        told += (
            f"; {report.unknown:,} not answered before the next export, since the model knows none "
            f"of their values: {', '.join(map(_shown, report.unknown_ids))}{more}"
        )
    click.echo(told)
    sys.exit(1 if report.rejected else 0)


def ingest(source: str, write: Write, report: Report, reader: str | None = None) -> None:
    """Reads a source to its end and writes it; what is wrong is left out and counted.

    Args:
        source: a folder, in any layout that a run reads: its events, and its items with their
            columns as features; a file of JSON lines, gzipped where its name ends so; or "-" for
            JSON lines on standard input. A line with a `user_id` is an event, another an item.
        write: takes them.
        report: what became of the rows, up to now.
        reader: of a folder: the layout's name; None to tell by the files.

    Raises:
        DataError: there is no such source, or no layout in the folder that is known.
        ServingError: what is right could not be written.
    """
    if source == "-":
        batches = _batches_as_they_come(sys.stdin.buffer, report)
    elif os.path.isdir(source) or is_remote(source):
        batches = _batches(_rows_of_folder(source, reader, report))
    elif os.path.isfile(source):
        batches = _batches(_rows_of_file(source, report))
    else:
        raise DataError(
            f"{source}: required: a folder, a file of JSON lines, or - for standard input; "
            "received: none of them"
        )
    said = time.monotonic()
    for batch in batches:
        events, items = _read(batch, report)
        if events:
            report.add(write(events, []))
        if items:
            _write_items(items, write, report)
        if time.monotonic() - said > _SAID_EVERY_SECONDS:
            said = time.monotonic()
            click.echo(f"{report.written:,} written, {report.rejected:,} rejected ...", err=True)


def _to_server(client: Client) -> Write:
    def write(events: list[Event], items: list[Item]) -> Written:
        if events:
            return client.write_events([vars(event) for event in events])
        return client.write_items([vars(item) for item in items])

    return write


def _write_items(items: list[tuple[str, Item]], write: Write, report: Report) -> None:
    """Writes items together; one by one where the server refuses any, such as a column's name."""
    try:
        report.add(write([], [item for _, item in items]))
    except ServingError as error:
        if error.code != Code.INVALID_ARGUMENT:
            raise
        if len(items) == 1:
            # The message begins with the position in a list of one.
            report.reject(items[0][0], error.message.partition(": ")[2])
            return
        for each in items:
            _write_items([each], write, report)


def _shown(item_id: str) -> str:
    return item_id.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _read(batch: list[Row], report: Report) -> tuple[list[Event], list[tuple[str, Item]]]:
    events: list[Event] = []
    items: list[tuple[str, Item]] = []
    for where, row in batch:
        try:
            if "user_id" in row:
                events += read_events(row)
            else:
                items += [(where, item) for item in read_items(row)]
        except ServingError as error:
            # The message begins with the position in a list of one.
            report.reject(where, error.message.partition(": ")[2])
    return events, items


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(rows)
    while batch := list(itertools.islice(rows, _ROWS_A_WRITE)):
        yield batch


def _batches_as_they_come(lines: Iterable[bytes], report: Report) -> Iterator[list[Row]]:
    """Rows of standard input, written soon: who writes them there may wait for more to happen."""
    found: queue.Queue[Row | None] = queue.Queue(10 * _ROWS_A_WRITE)

    def read() -> None:
        for row in _rows_of_lines(lines, "line", report):
            found.put(row)
        found.put(None)

    threading.Thread(target=read, daemon=True).start()
    row = found.get()
    while row is not None:
        batch, end = [row], time.monotonic() + _WAIT_SECONDS
        row = None
        while len(batch) < _ROWS_A_WRITE:
            try:
                row = found.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            if row is None:
                yield batch
                return
            batch.append(row)
        yield batch
        row = found.get()


def _rows_of_file(path: str, report: Report) -> Iterator[Row]:
    opened = gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")  # noqa: SIM115
    with opened as lines:
        try:
            yield from _rows_of_lines(lines, f"{path}, line", report)
        except (gzip.BadGzipFile, EOFError) as error:
            raise DataError(f"{path}: required: a whole gzip file; received: {error}") from None


def _rows_of_lines(lines: Iterable[bytes], where: str, report: Report) -> Iterator[Row]:
    """The objects of JSON lines; blank lines are passed over."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8", "surrogateescape"))
        except (ValueError, RecursionError) as error:
            report.reject(f"{where} {number}", f"not JSON: {error}")
            continue
        if isinstance(row, dict):
            yield f"{where} {number}", row
        else:
            report.reject(f"{where} {number}", "required: an object")


def _rows_of_folder(folder: str, reader: str | None, report: Report) -> Iterator[Row]:
    """The rows of a folder's events and items, as a run reads them."""
    from components.read.layouts.detection import plan
    from components.read.raw import blocks
    from components.read.typed import parse

    for source in plan(folder, reader):
        if source.table == "users" or not source.files:
            continue
        for block in blocks(source):
            parsed = parse(source, block)
            for reason, (count, line, received) in parsed.rejects.items():
                report.reject(f"{block.file}, line {line}", f"{reason}: {received}", count)
            make = _event if source.table == "events" else _item
            for number, row in enumerate(parsed.table.to_pylist()):
                yield f"{block.file}, row {block.row + number + 1}", make(row)


def _event(row: dict[str, Any]) -> dict[str, Any]:
    event = {name: row[name] for name in _OF_AN_EVENT if row.get(name) is not None}
    kind = event.get("event_type")
    if kind is not None:
        event["event_type"] = _plain(kind if not isinstance(kind, list) else kind[:1])
    return event


def _item(row: dict[str, Any]) -> dict[str, Any]:
    features = {name: _plain(value) for name, value in row.items() if name != "item_id"}
    return {"item_id": row["item_id"], "features": features}


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it; None where it is missing."""
    if isinstance(value, list):
        return [_plain(each) for each in value] or None
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape") or None
    return None if value != value else value
