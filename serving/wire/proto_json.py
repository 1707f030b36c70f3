"""Messages as JSON, as TensorFlow Serving prints them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

# protobuf 5 renamed an argument, and its stubs hold one of the two names.
_to_dict: Callable[..., dict[str, Any]] = json_format.MessageToDict


def message_to_dict(message: Message) -> dict[str, Any]:
    """A message as JSON's objects, with proto field names and default values."""
    try:
        return _to_dict(
            message, including_default_value_fields=True, preserving_proto_field_name=True
        )
    except TypeError:  # protobuf 5
        return _to_dict(
            message, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
        )
