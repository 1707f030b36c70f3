"""Events and changes of the catalogue, as clients tell them: JSON checked field by field."""

from __future__ import annotations

import base64
import binascii
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, TypeVar, Union

from serving.wire.errors import ServingError, invalid, nearest

T = TypeVar("T")
Feature = Union[str, float, list[str], list[float]]
# Clocks differ; what is later than this is milliseconds, or would be the newest for years.
_AHEAD_SECONDS = 24 * 3600
_LONGEST_ID = 1 << 10
_LARGEST = 1e30
_MOST_FEATURES, _MOST_VALUES = 1 << 8, 1 << 10
_EVENT = ("user_id", "item_id", "event_type", "dwell", "timestamp")
_ITEM = ("item_id", "features", "left")


@dataclass(frozen=True)
class Event:
    """What a user did with an item.

    Two that are equal are one, so that an event may be sent again.

    Attributes:
        user_id: the user.
        item_id: the item.
        event_type: what was done, "" where nobody says.
        dwell: how many seconds it took, 0 where nobody knows.
        timestamp: when, in whole seconds since 1970.
    """

    user_id: bytes
    item_id: bytes
    event_type: str = ""
    dwell: float = 0.0
    timestamp: int = 0


@dataclass(frozen=True)
class Item:
    """An item that entered the catalogue, came back to it, or left it.

    Attributes:
        item_id: the item.
        features: what the table of items would say of it, by column; where there are none, it
            keeps those that it had.
        left: whether it is answered no more.
    """

    item_id: bytes
    features: Mapping[str, Feature] = field(default_factory=dict)
    left: bool = False


def read_events(document: object, now: float | None = None) -> list[Event]:
    """Reads one event or a list of them out of JSON.

    Args:
        document: an object of `user_id` and `item_id`, strings (or {"b64": ...} where an id is no
            UTF-8), and where they are known `event_type`, a string, `dwell`, seconds, and
            `timestamp`, seconds since 1970; or a list of such objects.
        now: the time of what has no timestamp; left out, the clock's.

    Raises:
        ServingError: INVALID_ARGUMENT that names the position, from 0, and the field.
    """
    now = time.time() if now is None else now

    def read(where: str, row: dict[str, Any]) -> Event:
        return Event(
            _id(where, row, "user_id"),
            _id(where, row, "item_id"),
            _event_type(where, row.get("event_type")),
            _dwell(where, row.get("dwell")),
            _timestamp(where, row.get("timestamp"), now),
        )

    return _read_rows(document, "event", _EVENT, read)


def read_items(document: object) -> list[Item]:
    """Reads one change of the catalogue or a list of them out of JSON.

    Args:
        document: an object of `item_id` and either `"left": true` or, where there are any,
            `features`: an object of strings, numbers, or lists of either, null where missing; or a
            list of such objects.

    Raises:
        ServingError: INVALID_ARGUMENT that names the position, from 0, and the field.
    """

    def read(where: str, row: dict[str, Any]) -> Item:
        left = row.get("left", False)
        if not isinstance(left, bool):
            raise _wrong(where, "left", "true or false", left)
        features = row.get("features")
        if features is not None and not isinstance(features, dict):
            raise _wrong(where, "features", "an object by column", features)
        if features and left:
            raise invalid(f"{where}: features: an item that left has none")
        if len(features or ()) > _MOST_FEATURES:
            raise _wrong(
                where, "features", f"at most {_MOST_FEATURES} columns", len(features or ())
            )
        told = {name: value for name, value in (features or {}).items() if value is not None}
        for name, value in told.items():
            _check_feature(where, name, value)
        return Item(_id(where, row, "item_id"), told, left)

    return _read_rows(document, "item", _ITEM, read)


def _read_rows(
    document: object,
    kind: str,
    names: tuple[str, ...],
    read: Callable[[str, dict[str, Any]], T],
) -> list[T]:
    rows = document if isinstance(document, list) else [document]
    found = []
    for position, row in enumerate(rows):
        where = f"{kind} {position}"
        if not isinstance(row, dict):
            raise invalid(f"{where}: required: an object; received {_shown(row)}")
        for name in row:
            if name not in names:
                said = f"an {kind} has no such field; the nearest is {nearest(str(name), names)}"
                raise invalid(f"{where}: {_shown(name)}: {said}")
        found.append(read(where, row))
    return found


def _id(where: str, row: dict[str, Any], name: str) -> bytes:
    value = row.get(name)
    if isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str):
        text = value["b64"]
        try:
            value = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise _wrong(where, name, "base64", text) from None
    if isinstance(value, str):
        try:
            value = value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise _wrong(where, name, "Unicode without lone surrogates", value) from None
    if not isinstance(value, bytes) or not value:
        raise _wrong(where, name, "a string that is not empty", value)
    if len(value) > _LONGEST_ID:
        raise _wrong(where, name, f"at most {_LONGEST_ID} bytes", value)
    return value


def _event_type(where: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _LONGEST_ID:
        raise _wrong(where, "event_type", f"a string of at most {_LONGEST_ID}", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(where, "event_type", "UTF-8", value) from None
    return value


def _dwell(where: str, value: object) -> float:
    if value is None:
        return 0.0
    seconds = _number(value)
    if seconds is None or not 0 <= seconds < _LARGEST:
        raise _wrong(where, "dwell", "seconds, 0 or more", value)
    return float(seconds)


def _timestamp(where: str, value: object, now: float) -> int:
    seconds = 0 if value is None else _number(value)
    if seconds is None or not 0 <= seconds <= now + _AHEAD_SECONDS:
        raise _wrong(where, "timestamp", "seconds since 1970, a day ahead at most", value)
    return int(seconds or now)


def _check_feature(where: str, name: str, value: object) -> None:
    values = value if isinstance(value, list) else [value]
    if len(values) > _MOST_VALUES:
        raise _wrong(where, f"features.{name}", f"at most {_MOST_VALUES} values", len(values))
    numbers = [_number(each) for each in values]
    if not all(each is not None and abs(each) < _LARGEST for each in numbers) and not all(
        isinstance(each, str) for each in values
    ):
        raise _wrong(where, f"features.{name}", "a string, a number, or a list of either", value)


def _number(value: object) -> int | float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _wrong(where: str, name: str, required: str, received: object) -> ServingError:
    return invalid(f"{where}: {name}: required: {required}; received {_shown(received)}")


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
