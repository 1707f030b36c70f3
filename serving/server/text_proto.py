"""Configuration files in protobuf's text format."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from serving.wire.errors import StartError

M = TypeVar("M", bound=Message)


def read_text_proto(path: str, message: M) -> M:
    """Parses a file into `message` and returns it.

    Raises:
        StartError: the file cannot be read, or does not parse; with the file, line and reason.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return text_format.Parse(file.read(), message)
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StartError(f"{path}: {error}") from error
    except text_format.ParseError as error:
        # The reason begins with the line and column, where the parser knows them.
        raise StartError(f"{path}:{error}") from error
