"""Fills a request with what is known of its users now, so that a SavedModel stays as it is."""

from __future__ import annotations

from typing import Any, Mapping, Sequence, Union

from serving.state.events import Event
from serving.state.store import Live

Rows = list[list[Any]]
_NOTHING = (b"", "")
# The inputs of a request of ids alone.
IDS = {"user_id", "history", "exclude", "k"}
# What may stand beside the items of a history, and of an event, by what stands for nothing.
BESIDE: dict[str, Any] = {"event_types": b"", "dwell": 0.0, "timestamps": 0}


def fill(taken: Mapping[str, Union[Rows, Sequence[Any]]], live: Live) -> dict[str, Rows]:
    """The inputs of a request that change by what is known of its users.

    A row without a history of its own gets the user's events for one, oldest first; one that has
    any is left as it is: whoever told it knows what was done, and would else have it twice. Items
    that left are excluded of every row.

    Args:
        taken: the request's inputs by name: `history` and, where the signature takes them,
            `exclude`, `event_types`, `dwell` and `timestamps`, each rows padded with "" or 0. What
            is of no user, such as similar items, has no `history`.
        live: of the request's users, row by row.

    Returns:
        New rows by name, padded to a common length that is a power of two; only of inputs that
        change.
    """
    filled: dict[str, Rows] = {}
    new = [
        events if events and all(item in _NOTHING for item in row) else None
        for events, row in zip(live.histories, taken.get("history", ()), strict=True)
    ]
    if any(new):
        for name in ("history", *BESIDE):
            if name in taken:
                rows = [
                    list(row) if events is None else [_of(event, name) for event in events]
                    for row, events in zip(taken[name], new, strict=True)
                ]
                filled[name] = rows
        width = _power_of_two(max(len(row) for rows in filled.values() for row in rows))
        for name, rows in filled.items():
            nothing = b"" if name == "history" else BESIDE[name]
            filled[name] = [row + [nothing] * (width - len(row)) for row in rows]
    if live.left and "exclude" in taken:
        rows = [
            [item for item in row if item not in _NOTHING] + list(live.left)
            for row in taken["exclude"]
        ]
        width = _power_of_two(max(map(len, rows), default=1))
        filled["exclude"] = [row + [b""] * (width - len(row)) for row in rows]
    return filled


def _of(event: Event, name: str) -> Any:
    if name == "history":
        return event.item_id
    if name == "event_types":
        return event.event_type.encode("utf-8", "surrogateescape")
    return event.dwell if name == "dwell" else event.timestamp


def _power_of_two(length: int) -> int:
    """Few widths, so that requests fit into one batch, and the model sees few shapes."""
    return 1 << max(length - 1, 0).bit_length()
