"""Status codes, their HTTP equivalents, and the exceptions that carry them."""

from __future__ import annotations

import difflib
import enum
from collections.abc import Collection


class Code(enum.IntEnum):
    """The canonical status codes that TensorFlow and gRPC share."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_HTTP = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}


def nearest(name: str, names: Collection[str]) -> str:
    """The one of some names that is spelt most like another."""
    return difflib.get_close_matches(name, names, 1, 0.0)[0]


def http_status(code: Code) -> int:
    """The HTTP status that TensorFlow Serving answers for a code; 500 where it names none."""
    return _HTTP.get(code, 500)


def code_of_http(status: int) -> Code:
    """The status code nearest to an HTTP status, for the client.

    TensorFlow Serving folds three codes into 400; the first of them stands for all.
    """
    extra = {408: Code.DEADLINE_EXCEEDED, 413: Code.RESOURCE_EXHAUSTED}
    backward = {number: code for code, number in reversed(_HTTP.items())}
    return extra.get(status) or backward.get(status, Code.INTERNAL)


class ServingError(Exception):
    """An error with a status code, as it is sent to clients.

    Attributes:
        code: the status code.
        message: the text, without the code.
    """

    def __init__(self, code: Code, message: str):
        super().__init__(f"{Code(code).name}: {message}")
        self.code = Code(code)
        self.message = message


class StartError(Exception):
    """The server cannot start: a port in use, no model, a bad flag or configuration file."""


def invalid(message: str) -> ServingError:
    """An INVALID_ARGUMENT error."""
    return ServingError(Code.INVALID_ARGUMENT, message)


def from_exception(error: BaseException) -> ServingError:
    """The serving error for whatever running a model raised.

    Args:
        error: a `tf.errors.OpError` (recognised by its `error_code`), a `ServingError`, or any
            other exception, which becomes INTERNAL.
    """
    if isinstance(error, ServingError):
        return error
    code = getattr(error, "error_code", None)
    if isinstance(code, int):
        return ServingError(Code(code), str(getattr(error, "message", error)))
    if isinstance(error, MemoryError):
        return ServingError(Code.RESOURCE_EXHAUSTED, "Out of memory")
    if isinstance(error, RecursionError):
        return invalid("The request is nested too deeply")
    if isinstance(error, (ValueError, TypeError)):
        return invalid(str(error))
    return ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
