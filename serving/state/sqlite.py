"""Live state in a file: SQLite with a write-ahead log, which several processes share."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import threading
import time
from typing import Iterator, Sequence, TypeVar

from serving.state.events import Event, Item
from serving.state.store import Live, Store
from serving.wire.errors import Code, ServingError, StartError

T = TypeVar("T")
_VERSION = 1
_WAIT_SECONDS = 10.0  # for another process that writes
_PURGE_SECONDS = 60.0
_TABLES = """
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY,
    user_id BLOB NOT NULL,
    timestamp INTEGER NOT NULL,
    item_id BLOB NOT NULL,
    event_type TEXT NOT NULL,
    dwell REAL NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS events_of_a_user
    ON events (user_id, timestamp, item_id, event_type, dwell);
CREATE INDEX IF NOT EXISTS events_by_age ON events (timestamp);
CREATE TABLE IF NOT EXISTS items (
    item_id BLOB PRIMARY KEY,
    "left" INTEGER NOT NULL,
    features TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS catalogue (changes INTEGER NOT NULL);
INSERT INTO catalogue SELECT 0 WHERE NOT EXISTS (SELECT * FROM catalogue);
"""
# Each step of a statement hands Python's lock to other threads, and on a busy machine waits for it:
# so many rows are one statement, and a history is one row.
_ROWS_A_STATEMENT = 1000
_WRITE = """
INSERT OR IGNORE INTO events (user_id, item_id, event_type, dwell, timestamp)
VALUES {}
"""
_DROP_BEYOND = """
DELETE FROM events WHERE number IN (
    SELECT number FROM (
        SELECT number, row_number() OVER (
            PARTITION BY user_id ORDER BY timestamp DESC, number DESC
        ) AS place FROM events WHERE user_id IN ({})
    ) WHERE place > ?
)
"""
_READ = """
SELECT json_group_array(json_array(timestamp, number, hex(item_id), event_type, dwell)) FROM (
    SELECT * FROM events WHERE user_id = ? AND timestamp >= ?
    ORDER BY timestamp DESC, number DESC LIMIT ?
)
"""
_CHANGE = """
INSERT INTO items (item_id, "left", features) VALUES (?, ?, ?)
ON CONFLICT (item_id) DO UPDATE SET "left" = excluded."left",
    features = iif(excluded.features = '{}', items.features, excluded.features)
"""


class SqliteStore(Store):
    """A store in a file; see `Store`.

    A commit is on the disk, by fsync, before it is acknowledged. Readers wait for no writer; a
    look-up is a few reads of memory, so an event loop may wait for it.
    """

    is_near = True

    def __init__(self, path: str, events_per_user: int, ttl_seconds: float):
        """Opens the file, or makes it; see `open_state`."""
        super().__init__(events_per_user, ttl_seconds)
        try:
            self._writer = _connect(path)
            version = self._writer.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise StartError(f"{path} is a state of version {version}, not {_VERSION}")
            self._writer.execute("PRAGMA journal_mode = WAL")
            self._writer.execute("PRAGMA synchronous = FULL")
            self._writer.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT")
            self._writer.execute(f"PRAGMA user_version = {_VERSION}")
            self._reader = _connect(path)
        except sqlite3.Error as error:
            raise StartError(f"cannot keep the state in {path}: {error}") from error
        self._path = path
        self._reading = threading.Lock()
        self._left: tuple[bytes, ...] = ()
        self._changes = -1
        self._purged = 0.0
        self._thread.start()

    def look_up(self, users: Sequence[bytes]) -> Live:
        oldest = self.oldest()
        with self._reads() as reader:
            (changes,) = reader.execute("SELECT changes FROM catalogue").fetchone()
            if changes != self._changes:
                rows = reader.execute('SELECT item_id FROM items WHERE "left" ORDER BY item_id')
                self._left, self._changes = tuple(row[0] for row in rows), changes
            found = {}
            for user in set(users):
                rows = reader.execute(_READ, (user, oldest, self.events_per_user)).fetchone()
                found[user] = [
                    Event(user, bytes.fromhex(item), event_type, dwell, timestamp)
                    for timestamp, _, item, event_type, dwell in sorted(json.loads(rows[0]))
                ]
            return Live([found[user] for user in users], self._left, changes)

    def items(self) -> dict[bytes, Item]:
        with self._reads() as reader:
            rows = reader.execute(
                """SELECT item_id, features FROM items WHERE NOT "left" AND features != '{}'"""
            ).fetchall()
        return {item_id: Item(item_id, json.loads(features)) for item_id, features in rows}

    @contextlib.contextmanager
    def _reads(self) -> Iterator[sqlite3.Connection]:
        with self._reading:
            try:
                yield self._reader
            except sqlite3.Error as error:
                raise ServingError(
                    Code.UNAVAILABLE, f"cannot read the state in {self._path}: {error}"
                ) from error

    def _commit(self, events: Sequence[Event], items: Sequence[Item]) -> None:
        writer = self._writer
        try:
            writer.execute("BEGIN IMMEDIATE")
            for some in _pieces(events):
                values = [(e.user_id, e.item_id, e.event_type, e.dwell, e.timestamp) for e in some]
                places = ", ".join(["(?, ?, ?, ?, ?)"] * len(some))
                writer.execute(_WRITE.format(places), [*itertools.chain(*values)])
            for users in _pieces(list({event.user_id for event in events})):
                places = ", ".join("?" * len(users))
                writer.execute(_DROP_BEYOND.format(places), [*users, self.events_per_user])
            if items:
                writer.executemany(
                    _CHANGE,
                    [(item.item_id, item.left, json.dumps(dict(item.features))) for item in items],
                )
                writer.execute("UPDATE catalogue SET changes = changes + 1")
            if self.ttl_seconds and time.monotonic() - self._purged > _PURGE_SECONDS:
                writer.execute("DELETE FROM events WHERE timestamp < ?", (self.oldest(),))
                self._purged = time.monotonic()
            writer.execute("COMMIT")
        except sqlite3.Error as error:
            if writer.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    writer.execute("ROLLBACK")
            raise ServingError(
                Code.UNAVAILABLE, f"cannot write the state in {self._path}: {error}"
            ) from error

    def _close(self) -> None:
        with self._reading:
            self._reader.close()
        self._writer.close()


def _pieces(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        yield rows[start : start + _ROWS_A_STATEMENT]


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
    )
