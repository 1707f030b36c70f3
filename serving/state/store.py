"""What a store of live state is, whatever keeps it."""

from __future__ import annotations

import math
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Sequence

from serving.state.events import Event, Item
from serving.wire.errors import Code, ServingError, StartError

EVENTS_PER_USER = 100
TTL_SECONDS = 30 * 86400.0
# Beyond this much that waits to be written, clients are told to come again.
MOST_WAITING = 100_000
_MOST_A_COMMIT = 10_000


@dataclass(frozen=True)
class Live:
    """What a store knows of a request's users.

    Attributes:
        histories: the events of each user, oldest first.
        left: items that left the catalogue.
        changes: a number that is another after every change of the catalogue.
    """

    histories: list[list[Event]]
    left: tuple[bytes, ...] = ()
    changes: int = 0

    def after(self, seconds: int) -> "Live":
        """The same, of events that were later than a time in seconds since 1970."""
        if not seconds:
            return self
        later = [[each for each in row if each.timestamp > seconds] for row in self.histories]
        return replace(self, histories=later)


@dataclass(frozen=True)
class Written:
    """What became of what was written.

    Attributes:
        written: events or items that are durable now.
        expired: events that are older than a store keeps any, and were left out.
        answered_now: the models of the server that answer one of the items that came with features.
        answered_after_export: the others, which know an item once it stands in their tables.
        unknown: of the items that came with features those that no model answers now, though one
            reads their columns: train has seen none of the values.
    """

    written: int
    expired: int = 0
    answered_now: tuple[str, ...] = ()
    answered_after_export: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


class Store:
    """Keeps the newest events of each user, and how the catalogue changed.

    One thread writes. It takes all that waits into one commit, so that many small writes cost as
    few commits as the disk is slow; what is written is acknowledged when its commit is durable. A
    subclass commits and reads. All methods may be called by several threads.

    Attributes:
        events_per_user: how many events of a user are kept, the newest.
        ttl_seconds: how old an event may be, by its own timestamp; 0: any age.
        is_near: a look-up takes less than to hand it to another thread.
    """

    is_near = False

    def __init__(self, events_per_user: int = EVENTS_PER_USER, ttl_seconds: float = TTL_SECONDS):
        if events_per_user < 1:
            raise StartError(f"a state keeps at least 1 event a user, got {events_per_user}")
        if not 0 <= ttl_seconds < math.inf:
            raise StartError(f"a state keeps events for 0 seconds or more, got {ttl_seconds}")
        self.events_per_user = events_per_user
        self.ttl_seconds = ttl_seconds
        self._waiting: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._waiting_rows = 0
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._commit_all, name="state", daemon=True)

    def submit(self, events: Sequence[Event] = (), items: Sequence[Item] = ()) -> "Future[Written]":
        """Hands events and items to the writer.

        Returns:
            What is done when they are durable, or fails with a ServingError: UNAVAILABLE.
        """
        kept = [event for event in events if event.timestamp >= self.oldest()]
        done: Future[Written] = Future()
        write = _Write(
            kept, list(items), Written(len(kept) + len(items), len(events) - len(kept)), done
        )
        with self._lock:
            if self._closed:
                raise ServingError(Code.UNAVAILABLE, "the state is closed")
            if self._waiting_rows and self._waiting_rows + write.rows > MOST_WAITING:
                raise ServingError(
                    Code.UNAVAILABLE, f"{self._waiting_rows} events wait to be written already"
                )
            self._waiting_rows += write.rows
            self._waiting.put(write)
        return done

    def write(self, events: Sequence[Event] = (), items: Sequence[Item] = ()) -> Written:
        """Writes events and items, and returns when they are durable.

        Raises:
            ServingError: UNAVAILABLE: they could not be written.
        """
        return self.submit(events, items).result()

    def look_up(self, users: Sequence[bytes]) -> Live:
        """What is known of users, one history each; those that nobody knows have an empty one.

        Raises:
            ServingError: UNAVAILABLE: the state cannot be read.
        """
        raise NotImplementedError

    def items(self) -> dict[bytes, Item]:
        """All items that entered with features and have not left, by id.

        Raises:
            ServingError: UNAVAILABLE: the state cannot be read.
        """
        raise NotImplementedError

    def oldest(self) -> int:
        """The timestamp of the oldest event that is kept now."""
        return math.ceil(time.time() - self.ttl_seconds) if self.ttl_seconds else 0

    def close(self) -> None:
        """Writes what waits, and closes."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._waiting.put(None)
        self._thread.join()
        self._close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _commit(self, events: Sequence[Event], items: Sequence[Item]) -> None:
        """Makes them durable, in order, or raises a ServingError and keeps none."""
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError

    def _commit_all(self) -> None:
        ended = False
        while not ended:
            writes = []
            rows = 0
            write = self._waiting.get()
            while True:
                if write is None:
                    ended = True
                    break
                writes.append(write)
                rows += write.rows
                if rows >= _MOST_A_COMMIT:
                    break
                try:
                    write = self._waiting.get_nowait()
                except queue.Empty:
                    break
            if writes:
                self._commit_together(writes)

    def _commit_together(self, writes: "list[_Write]") -> None:
        error: ServingError | None = None
        try:
            self._commit(
                [event for write in writes for event in write.events],
                [item for write in writes for item in write.items],
            )
        except ServingError as raised:
            error = raised
        except Exception as raised:  # the thread goes on, or nobody would be answered any more
            error = ServingError(Code.INTERNAL, f"{type(raised).__name__}: {raised}")
        with self._lock:
            self._waiting_rows -= sum(write.rows for write in writes)
        for write in writes:
            # Whoever asked may have gone meanwhile.
            if write.done.set_running_or_notify_cancel():
                if error is None:
                    write.done.set_result(write.told)
                else:
                    write.done.set_exception(error)


@dataclass(frozen=True)
class _Write:
    events: list[Event]
    items: list[Item]
    told: Written
    done: "Future[Written]"

    @property
    def rows(self) -> int:
        return len(self.events) + len(self.items)
