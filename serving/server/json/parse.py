"""The inputs of `predict` in JSON -> arrays, in both formats of its body: by row and by column.

The values of an input are converted all at once. Only where that fails are they looked at one by
one, in TensorFlow Serving's order, to find the error that it would report.
"""

from __future__ import annotations

import base64
import binascii
import math
from itertools import chain

import numpy as np

from serving.server.json.text import echo, format_error, parse_object, type_name
from serving.wire.errors import Code, ServingError, invalid
from serving.wire.tensors import DTYPES, STRING, dtype_name

_FLOATS = {1, 2}
_INTEGERS = {  # DataType -> range that the JSON value must be in
    3: (-(1 << 31), 1 << 31),
    4: (-(1 << 31), 1 << 31),
    5: (-(1 << 31), 1 << 31),
    6: (-(1 << 31), 1 << 31),
    9: (-(1 << 63), 1 << 63),
    22: (0, 1 << 32),
    23: (0, 1 << 64),
}
_BOOL = 10
_SUPPORTED = _FLOATS | set(_INTEGERS) | {_BOOL, STRING}


def signature_name(document: dict) -> str:
    """The request's signature name, empty where it names none.

    Raises:
        ServingError: the name is not a string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise format_error(
            document, "not formatted correctly. 'signature_name' key must be a string value."
        )
    return name


def parse_predict(document: dict, inputs: dict[str, int]) -> tuple[dict[str, np.ndarray], bool]:
    """Reads the tensors of a `predict` request.

    Args:
        document: the parsed body.
        inputs: TensorFlow's number of the data type by input name, from the signature.

    Returns:
        The arrays by name, and whether the request was by row (`instances`).

    Raises:
        ServingError: as TensorFlow Serving words it.
    """
    if "instances" in document and "inputs" in document:
        raise format_error(
            document,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        )
    if "instances" in document:
        rows = document["instances"]
        if not isinstance(rows, list):
            raise format_error(document, "Expecting 'instances' to be an list/array")
        if not rows:
            raise format_error(document, "No values in 'instances' array")
        return _rows(rows, inputs), True
    if "inputs" in document:
        return _columns(document["inputs"], inputs), False
    raise invalid("Missing 'inputs' or 'instances' key")


def read_predict(
    body: bytes, types: dict[str, dict[str, int]]
) -> tuple[str, dict[str, np.ndarray], bool] | tuple[str, None, bool]:
    """Reads the body of a `predict` request.

    Args:
        body: of the request.
        types: TensorFlow's number of the data type by input name, by signature, of which "" is the
            one that serves where none is named.

    Returns:
        The name of the signature, and what `parse_predict` returns; None in place of arrays where
        there is no such signature, or it has no inputs.

    Raises:
        ServingError: as `parse_object` and `parse_predict`.
    """
    document = parse_object(body)
    name = signature_name(document)
    if not types.get(name):
        return name, None, False
    return name, *parse_predict(document, types[name])


def _rows(rows: list, inputs: dict[str, int]) -> dict[str, np.ndarray]:
    if not isinstance(rows[0], dict) and len(inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    try:
        fast = _rows_fast(rows, inputs)
    except (_Slow, KeyError, TypeError, OverflowError):
        fast = None
    return fast if fast is not None else _rows_slow(rows, inputs)


def _rows_fast(rows: list, inputs: dict[str, int]) -> dict[str, np.ndarray]:
    if isinstance(rows[0], dict) and not _is_base64(rows[0]):
        if set(map(type, rows)) != {dict} or set(map(len, rows)) != {len(inputs)}:
            raise _Slow
        return {name: _dense([row[name] for row in rows], dtype) for name, dtype in inputs.items()}
    ((name, dtype),) = inputs.items()
    if dtype != STRING and dict in set(map(type, rows)):
        raise _Slow
    return {name: _dense(rows, dtype)}


def _rows_slow(rows: list, inputs: dict[str, int]) -> dict[str, np.ndarray]:
    as_objects = is_object(rows[0])
    values: dict[str, list] = {}
    shapes: dict[str, list[int]] = {}

    def add(name: str, value: object) -> None:
        if name not in inputs:
            raise invalid(f"JSON object: does not have named input: {name}")
        shape = _shape(value)
        flat: list = []
        _fill(value, 0, shape, inputs[name], flat)
        before = shapes.setdefault(name, shape)
        if math.prod(before) != len(flat):
            raise invalid(f"Expecting tensor size: {math.prod(before)} but got: {len(flat)}")
        if before != shape:
            raise invalid(
                f"Expecting shape [{','.join(map(str, before))}] "
                f"but got: [{','.join(map(str, shape))}]"
            )
        values.setdefault(name, []).extend(flat)

    for number, row in enumerate(rows):
        if as_objects:
            if not is_object(row):
                raise invalid(f"Expecting object but got list at item {number} of input list")
            for name, value in row.items():
                try:
                    add(name, value)
                except ServingError as error:
                    raise invalid(
                        f"Failed to process element: {number} key: {name} of 'instances' list. "
                        f"Error: {error}"
                    ) from None
            if set(row) != set(inputs):
                raise invalid(
                    f"Failed to process element: {number} of 'instances' list. JSON object: "
                    f"{echo(row)} keys must be equal to: {','.join(sorted(inputs))}"
                )
        else:
            if is_object(row):
                raise invalid(f"Expecting value/list but got object at item {number} of input list")
            try:
                add(next(iter(inputs)), row)
            except ServingError as error:
                raise invalid(
                    f"Failed to process element: {number} of 'instances' list. Error: {error}"
                ) from None
    return {
        name: _array(flat, inputs[name]).reshape([len(rows), *shapes[name]])
        for name, flat in values.items()
    }


def _columns(columns: object, inputs: dict[str, int]) -> dict[str, np.ndarray]:
    if not is_object(columns):
        if len(inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        ((name, dtype),) = inputs.items()
        return {name: _tensor(columns, dtype)}
    arrays = {}
    for name, dtype in inputs.items():
        if name not in columns:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        arrays[name] = _tensor(columns[name], dtype)
    return arrays


def _tensor(value: object, dtype: int) -> np.ndarray:
    if isinstance(value, list):
        try:
            return _dense(value, dtype)
        except (_Slow, TypeError, OverflowError):
            pass
    shape = _shape(value)
    flat: list = []
    _fill(value, 0, shape, dtype, flat)
    return _array(flat, dtype).reshape(shape)


class _Slow(Exception):
    """The values are not what the fast path expects."""


def _dense(value: list, dtype: int) -> np.ndarray:
    """A nested list as an array, one level at a time; raises `_Slow` for anything unusual."""
    if dtype not in _SUPPORTED:
        raise _Slow
    shape = [len(value)]
    flat = value
    while flat and type(flat[0]) is list:
        if set(map(type, flat)) != {list}:
            raise _Slow
        sizes = set(map(len, flat))
        if len(sizes) != 1:
            raise _Slow
        shape.append(sizes.pop())
        flat = list(chain.from_iterable(flat))
    kinds = set(map(type, flat))
    if dtype == STRING:
        if not kinds <= {str}:
            raise _Slow
    elif dtype == _BOOL:
        if not kinds <= {bool}:
            raise _Slow
    elif dtype in _FLOATS:
        if not kinds <= {int, float}:
            raise _Slow
    else:
        if not kinds <= {int}:
            raise _Slow
        low, high = _INTEGERS[dtype]
        if flat and (min(flat) < low or max(flat) >= high):
            raise _Slow
    return _array(flat, dtype).reshape(shape)


def _array(flat: list, dtype: int) -> np.ndarray:
    """Checked values -> an array of one dimension."""
    if dtype == STRING:
        array = np.empty(len(flat), object)
        array[:] = [
            value if type(value) is bytes else value.encode("utf-8", "surrogateescape")
            for value in flat
        ]
        return array
    numpy_dtype = DTYPES[dtype][0]
    if numpy_dtype.kind in "iu" and numpy_dtype.itemsize < 4:
        # TensorFlow narrows a 32 bit value silently.
        return np.array(flat, np.int32).astype(numpy_dtype)
    if dtype != 1:
        return np.array(flat, numpy_dtype)
    with np.errstate(over="ignore"):  # a double may be infinite as a float
        return np.array(flat, numpy_dtype)


def _shape(value: object) -> list[int]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _fill(value: object, level: int, shape: list[int], dtype: int, flat: list) -> None:
    """Appends the values of a nested list, checking each one."""
    rank = len(shape)
    if not isinstance(value, list):
        if level != rank:
            raise invalid(
                f"JSON Value: {echo(value)} found at incorrect level: {level + 1} "
                f"in the JSON DOM. Expected at level: {rank}"
            )
        flat.append(_value(value, dtype))
        return
    if level >= rank:
        raise invalid(f"Encountered list at unexpected level: {level} expected < {rank}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {shape[level]}"
        )
    for member in value:
        _fill(member, level + 1, shape, dtype, flat)


def _value(value: object, dtype: int) -> object:
    if isinstance(value, dict):
        if dtype == STRING:
            return decode_base64(value)
        raise _type_error(value, dtype)
    kind = type(value)
    if dtype == STRING:
        fits = kind is str
    elif dtype == _BOOL:
        fits = kind is bool
    elif dtype in _FLOATS:
        fits = kind in (int, float)
        if kind is int:
            value = as_float(value)
    elif dtype in _INTEGERS:
        low, high = _INTEGERS[dtype]
        fits = kind is int and low <= value < high
    else:
        raise ServingError(
            Code.UNIMPLEMENTED,
            f"Conversion of JSON Value: {echo(value)} to type: {dtype_name(dtype)}",
        )
    if not fits:
        raise _type_error(value, dtype)
    return value


def as_float(value: int) -> float:
    """An integer as a double; raises ServingError for one that is too large."""
    try:
        return float(value)
    except OverflowError:
        raise invalid("JSON Parse error: Number too big to be stored in double.") from None


def _type_error(value: object, dtype: int) -> ServingError:
    return invalid(
        f"JSON Value: {echo(value)} Type: {type_name(value)} "
        f"is not of expected type: {dtype_name(dtype)}"
    )


def _is_base64(value: object) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def is_object(value: object) -> bool:
    """Whether a value is an object, and not the one that stands for bytes."""
    return isinstance(value, dict) and not _is_base64(value)


def decode_base64(value: dict) -> bytes:
    """The bytes of `{"b64": ...}`; raises ServingError for another object or bad base64."""
    if not _is_base64(value):
        raise invalid(f"JSON Value: {echo(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split())
    try:
        return base64.b64decode(
            text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True
        )
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None
