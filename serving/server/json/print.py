"""Arrays -> the JSON of responses.

Values are printed as TensorFlow Serving prints them; blanks and line breaks between them, which
carry no meaning, are left out.
"""

from __future__ import annotations

import base64
import json

import numpy as np

from serving.server.json.numbers import decimal_text, decimal_texts
from serving.wire.errors import invalid

_quote = json.encoder.encode_basestring


def quote(value: bytes) -> str:
    """A string tensor's value as a JSON string; bytes that are not UTF-8 stay as they are."""
    return _quote(value.decode("utf-8", "surrogateescape"))


def encode(text: str) -> bytes:
    """The response's body."""
    return text.encode("utf-8", "surrogateescape")


def predict_response(outputs: dict[str, np.ndarray], by_row: bool) -> bytes:
    """The body of a `predict` response, in the format of the request.

    Args:
        outputs: the arrays by output name.
        by_row: `predictions`, one entry a row; else `outputs`, one entry a tensor.

    Raises:
        ServingError: a type that JSON has no value for; rows that cannot be told apart.
    """
    names = sorted(outputs)
    if not names:
        raise invalid("Cannot convert empty tensor map to JSON")
    if not by_row:
        texts = [_nested(_texts(name, outputs[name]), outputs[name].shape) for name in names]
        if len(names) == 1:
            return encode(f'{{"outputs": {texts[0]}}}')
        pairs = zip(map(_quote, names), texts, strict=True)
        members = ", ".join(f"{name}: {text}" for name, text in pairs)
        return encode(f'{{"outputs": {{{members}}}}}')
    batch = None
    for name in names:
        shape = outputs[name].shape
        if not shape:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if batch is not None and shape[0] != batch:
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {shape[0]} expecting: {batch}"
            )
        batch = shape[0]
    columns = [_row_texts(name, outputs[name]) for name in names]
    if len(names) == 1:
        rows = columns[0]
    else:
        keys = [_quote(name) + ": " for name in names]
        rows = [
            "{" + ", ".join(key + text for key, text in zip(keys, row, strict=True)) + "}"
            for row in zip(*columns, strict=True)
        ]
    return encode('{"predictions": [' + ", ".join(rows) + "]}")


def _row_texts(name: str, array: np.ndarray) -> list[str]:
    texts = _texts(name, array)
    if array.ndim == 1:
        return texts
    width = int(np.prod(array.shape[1:]))
    return [
        _nested(texts[row * width : (row + 1) * width], array.shape[1:])
        for row in range(array.shape[0])
    ]


def _texts(name: str, array: np.ndarray) -> list[str]:
    kind = array.dtype.kind
    if kind == "f":
        return decimal_texts(array)
    if kind in "iu":
        return [str(value) for value in array.reshape(-1).tolist()]
    if kind == "b":
        return ["true" if value else "false" for value in array.reshape(-1).tolist()]
    if kind == "O":
        values = array.reshape(-1).tolist()
        if name.endswith("_bytes"):
            return [f'{{"b64": "{base64.b64encode(value).decode()}"}}' for value in values]
        return [quote(value) for value in values]
    raise invalid(f"Failed to write JSON value for tensor type: {array.dtype}")


def _nested(texts: list[str], shape: tuple[int, ...]) -> str:
    if not shape:
        return texts[0]
    if len(shape) == 1:
        return "[" + ", ".join(texts) + "]"
    width = len(texts) // shape[0] if shape[0] else 0
    parts = [
        _nested(texts[part * width : (part + 1) * width], shape[1:]) for part in range(shape[0])
    ]
    return "[" + ", ".join(parts) + "]"


def classify_response(result) -> bytes:
    """The body of a `classify` response from a ClassificationResult."""
    if not result.classifications:
        raise invalid("Cannot convert empty ClassificationResults to JSON")
    rows = [
        "["
        + ", ".join(
            f"[{_quote(entry.label)}, {decimal_text(entry.score, 9)}]" for entry in row.classes
        )
        + "]"
        for row in result.classifications
    ]
    return encode('{"results": [' + ", ".join(rows) + "]}")


def regress_response(result) -> bytes:
    """The body of a `regress` response from a RegressionResult."""
    if not result.regressions:
        raise invalid("Cannot convert empty RegressionResults to JSON")
    values = np.array([entry.value for entry in result.regressions], np.float32)
    return encode('{"results": [' + ", ".join(decimal_texts(values)) + "]}")


def error_response(message: str) -> bytes:
    """The body of every failure."""
    return encode('{"error": ' + _quote(message) + "}")
