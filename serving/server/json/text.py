"""JSON text as RapidJSON reads it: NaN and Infinity, trailing bytes, its error messages."""

from __future__ import annotations

import json
import re

import orjson

from serving.server.json.numbers import decimal_text
from serving.wire.errors import ServingError, invalid

_decoder = json.JSONDecoder()
_BLANKS = re.compile(r"[ \t\n\r]*")
_MESSAGES = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
    "Illegal trailing comma before end of array": "Invalid value.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
}
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
# Numbers to RapidJSON, but not to Python.
_FOREIGN_NUMBER = re.compile(r"-?Inf\b|-NaN\b")
_STRING_OR_FOREIGN_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|-?\bInf\b|-NaN\b', re.DOTALL)
_OWN = {"Inf": "Infinity", "-Inf": "-Infinity", "-NaN": "NaN"}
_LONG_NUMBER = re.compile(rb"\d{19}")
_ECHO_LIMIT = 256
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def parse_object(body: bytes) -> dict:
    """Parses the body of a request, which must be a JSON object; see `parse_value`.

    Args:
        body: the request's body.

    Returns:
        The object. Integers are `int` and decimals are `float`, as written.

    Raises:
        ServingError: INVALID_ARGUMENT, worded as RapidJSON and TensorFlow Serving word it.
    """
    document = parse_value(body)
    if not isinstance(document, dict):
        raise format_error(document, "Is not object")
    return document


def parse_value(body: bytes) -> object:
    """Parses the body of a request, any JSON value.

    Bytes after the first complete value are ignored. Bytes that are not UTF-8 are kept, as
    surrogate escapes, and come out again as the bytes they were.

    Raises:
        ServingError: as `parse_object`.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    document = _parse_fast(body)
    return _parse_slow(body) if document is None else document


def _parse_fast(body: bytes) -> object:
    """The value where orjson reads it, and reads it as it is read here; else None."""
    if _LONG_NUMBER.search(body):  # which would be a decimal
        return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _parse_slow(body: bytes) -> object:
    if body.startswith(b"\xef\xbb\xbf"):
        body = body[3:]
    text = body.decode("utf-8", "surrogateescape")
    start = _BLANKS.match(text).end()
    if start == len(text):
        raise _parse_error("The document is empty.", start)
    try:
        try:
            document, _ = _decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            if not _FOREIGN_NUMBER.match(text, error.pos):
                raise
            document, _ = _decoder.raw_decode(_STRING_OR_FOREIGN_NUMBER.sub(_own, text), start)
    except json.JSONDecodeError as error:
        raise _translate(text, error) from None
    except RecursionError:
        raise _parse_error("Nesting is too deep.", 0) from None
    except ValueError as error:  # an integer of thousands of digits
        raise _parse_error(f"Number too big to be stored in double. {error}", 0) from None
    if b"\\u" in body and _has_lone_escape(body):
        raise _parse_error("The surrogate pair in string is invalid.", 0)
    return document


def _own(token: re.Match) -> str:
    return _OWN.get(token[0], token[0])


def _parse_error(message: str, offset: int) -> ServingError:
    return invalid(f"JSON Parse error: {message} at offset: {offset}")


def _translate(text: str, error: json.JSONDecodeError) -> ServingError:
    message = _MESSAGES.get(error.msg)
    if message is None:
        inside_array = (
            error.msg == "Expecting ',' delimiter" and _open_bracket(text[: error.pos]) == "["
        )
        message = (
            "Missing a comma or ] after an array element."
            if inside_array
            else "Missing a comma or } after an object member."
        )
    return _parse_error(message, len(text[: error.pos].encode("utf-8", "surrogateescape")))


def _open_bracket(text: str) -> str:
    """The bracket that is still open at the end of `text`."""
    stack = []
    for token in _TOKEN.findall(text):
        if token in "[{":
            stack.append(token)
        elif token in "]}" and stack:
            stack.pop()
    return stack[-1] if stack else ""


def _has_lone_escape(body: bytes) -> bool:
    r"""Whether a \uD800 to \uDFFF escape stands without its other half."""
    units = re.findall(rb"(?<!\\)(?:\\\\)*((?:\\u[0-9a-fA-F]{4})+)", body)
    for run in units:
        decoded = "".join(chr(int(unit, 16)) for unit in run.split(b"\\u")[1:])
        if any("\ud800" <= unit <= "\udfff" for unit in _SURROGATES.sub("", decoded)):
            return True
    return False


def type_name(value: object) -> str:
    """RapidJSON's name of a value's type."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return "True" if value else "False"
    kinds = {dict: "Object", list: "Array", str: "String"}
    return kinds.get(type(value), "Number")


def echo(value: object) -> str:
    """A value as it is repeated in an error message, cut at 256 characters."""
    pieces: list[str] = []
    _write(value, pieces, [_ECHO_LIMIT + 1])
    text = "".join(pieces)
    return text if len(text) <= _ECHO_LIMIT else text[:_ECHO_LIMIT] + "..."


def _write(value: object, pieces: list[str], room: list[int]) -> None:
    # Only as much is written as will be shown: the value may be a whole request of megabytes.
    if room[0] <= 0:
        return
    if isinstance(value, dict):
        _add("{", pieces, room)
        for number, (key, member) in enumerate(value.items()):
            if room[0] <= 0:
                return
            _add(
                (", " if number else "") + json.dumps(key, ensure_ascii=False) + ": ", pieces, room
            )
            _write(member, pieces, room)
        _add("}", pieces, room)
    elif isinstance(value, list):
        _add("[", pieces, room)
        for number, member in enumerate(value):
            if room[0] <= 0:
                return
            if number:
                _add(", ", pieces, room)
            _write(member, pieces, room)
        _add("]", pieces, room)
    elif isinstance(value, float):
        _add(decimal_text(value), pieces, room)
    elif isinstance(value, str):
        _add(json.dumps(value[: _ECHO_LIMIT + 1], ensure_ascii=False), pieces, room)
    else:
        _add(json.dumps(value), pieces, room)


def _add(text: str, pieces: list[str], room: list[int]) -> None:
    pieces.append(text)
    room[0] -= len(text)


def format_error(value: object, message: str) -> ServingError:
    """`JSON Value: <value> <message>`."""
    return invalid(f"JSON Value: {echo(value)} {message}")
