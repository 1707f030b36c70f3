"""Messages as JSON, as TensorFlow Serving prints them."""

from __future__ import annotations

from google.protobuf import json_format


def message_to_dict(message) -> dict:
    """A message as JSON's objects, with proto field names and default values."""
    try:
        return json_format.MessageToDict(
            message, including_default_value_fields=True, preserving_proto_field_name=True
        )
    except TypeError:  # protobuf 5 renamed the argument
        return json_format.MessageToDict(
            message, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
        )
