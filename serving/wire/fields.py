"""Fields of serialized protobuf messages, found without reading the messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_VARINT, _FIXED_64, _DELIMITED, _FIXED_32 = 0, 1, 2, 5


def take_out(message: bytes, path: Sequence[int]) -> tuple[bytes, list[bytes]]:
    """A message without some of its fields, and those.

    Reading a message of megabytes holds the interpreter's lock from its beginning to its end; this
    costs a step a field of the messages on the path.

    Args:
        message: serialized.
        path: numbers of fields that are messages, the first one of `message`, each next one of the
            message before; what stands at the last is taken out, wherever it is.

    Returns:
        The message, serialized, and what was taken out, in its order.

    Raises:
        ValueError: this is no message.
    """
    taken: list[bytes] = []
    return bytes(_without(memoryview(message), path, taken)), taken


def _without(message: memoryview, path: Sequence[int], taken: list[bytes]) -> bytearray:
    kept, (wanted, *below) = bytearray(), path
    for begin, number, body, end in _fields(message):
        if number != wanted or body is None:
            kept += message[begin:end]
        elif below:
            inner = _without(body, below, taken)
            kept += _varint(number << 3 | _DELIMITED) + _varint(len(inner)) + inner
        else:
            taken.append(bytes(body))
    return kept


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview | None, int]]:
    """Where each field begins, its number, what it holds where that has a length, where it ends."""
    place = 0
    while place < len(message):
        begin = place
        key, place = _read_varint(message, place)
        kind, body = key & 7, None
        if kind == _VARINT:
            _, place = _read_varint(message, place)
        elif kind == _DELIMITED:
            size, place = _read_varint(message, place)
            body = message[place : place + size]
            place += size
        elif kind in (_FIXED_32, _FIXED_64):
            place += 4 if kind == _FIXED_32 else 8
        else:
            raise ValueError(f"a field of the unknown wire type {kind}")
        if place > len(message):
            raise ValueError("the message ends within a field")
        yield begin, key >> 3, body, place


def _read_varint(message: memoryview, place: int) -> tuple[int, int]:
    """A whole number and where it ends."""
    value = 0
    for shift, byte in enumerate(message[place : place + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, place + shift + 1
    raise ValueError("the message ends within a number")


def _varint(value: int) -> bytes:
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
