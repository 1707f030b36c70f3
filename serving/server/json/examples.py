"""The examples of `classify` and `regress` in JSON -> tf.Examples."""

from __future__ import annotations

import math

from serving.server.json.parse import as_float, decode_base64, is_object, signature_name
from serving.server.json.text import format_error, parse_object, type_name
from serving.wire.errors import invalid
from serving.wire.protos import Example


def read_examples(kind: type, body: bytes) -> bytes:
    """Reads the body of a `classify` or `regress` request.

    Args:
        kind: ClassificationRequest or RegressionRequest.
        body: of the request.

    Returns:
        A serialized request of that kind, without the model's name.

    Raises:
        ServingError: as `parse_object` and `parse_examples`.
    """
    document = parse_object(body)
    request = kind()
    request.model_spec.signature_name = signature_name(document)
    examples, context = parse_examples(document)
    if context is None:
        request.input.example_list.examples.extend(examples)
    else:
        request.input.example_list_with_context.context.CopyFrom(context)
        request.input.example_list_with_context.examples.extend(examples)
    return request.SerializeToString()


def parse_examples(document: dict) -> tuple[list[Example], Example | None]:
    """Reads the examples of a `classify` or `regress` request.

    Args:
        document: the parsed body.

    Returns:
        The examples, and the context where there is one.

    Raises:
        ServingError: as TensorFlow Serving words it.
    """
    context = _example(document["context"]) if "context" in document else None
    if "examples" not in document:
        raise format_error(
            document,
            "When method is classify, key 'examples' is expected and was not found",
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise format_error(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise format_error(document, "'examples' value is an empty array")
    return [_example(example) for example in examples], context


def _example(content: object) -> Example:
    if not isinstance(content, dict):
        raise invalid(f"Example must be JSON object but got JSON {type_name(content)}")
    example = Example()
    for name, value in content.items():
        feature = example.features.feature[name]
        for member in value if isinstance(value, list) else [value]:
            _add_to_feature(member, name, feature)
    return example


def _add_to_feature(value: object, name: str, feature) -> None:
    if value is None or isinstance(value, list) or is_object(value):
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")
    if isinstance(value, (str, dict)):
        kind = "bytes_list"
        value = (
            decode_base64(value)
            if isinstance(value, dict)
            else value.encode("utf-8", "surrogateescape")
        )
    elif isinstance(value, float) or (isinstance(value, int) and not -(1 << 63) <= value < 1 << 64):
        kind = "float_list"
        value = as_float(value) if isinstance(value, int) else value
    else:
        kind = "int64_list"
        value = int(value)
    before = feature.WhichOneof("kind")
    if before not in (None, kind):
        raise invalid(
            f"Unexpected element type in feature: {name} expecting type: "
            f"{before.removesuffix('_list')}"
        )
    if kind == "int64_list" and value >= 1 << 63:
        raise invalid(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
    if kind == "float_list" and math.isfinite(value) and abs(value) > 3.4028235677973366e38:
        value = math.copysign(math.inf, value)
    getattr(feature, kind).value.append(value)
