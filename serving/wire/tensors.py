"""TensorProto <-> NumPy, without TensorFlow: the client uses it too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from serving.wire.errors import invalid
from serving.wire.protos import TensorProto

# DataType number -> (NumPy dtype, field of the typed encoding, name in error messages)
DTYPES: dict[int, tuple[np.dtype[Any], str, str]] = {
    1: (np.dtype("float32"), "float_val", "float"),
    2: (np.dtype("float64"), "double_val", "double"),
    3: (np.dtype("int32"), "int_val", "int32"),
    4: (np.dtype("uint8"), "int_val", "uint8"),
    5: (np.dtype("int16"), "int_val", "int16"),
    6: (np.dtype("int8"), "int_val", "int8"),
    7: (np.dtype("O"), "string_val", "string"),
    8: (np.dtype("complex64"), "scomplex_val", "complex64"),
    9: (np.dtype("int64"), "int64_val", "int64"),
    10: (np.dtype("bool"), "bool_val", "bool"),
    14: (np.dtype(ml_dtypes.bfloat16), "half_val", "bfloat16"),
    17: (np.dtype("uint16"), "int_val", "uint16"),
    18: (np.dtype("complex128"), "dcomplex_val", "complex128"),
    19: (np.dtype("float16"), "half_val", "half"),
    22: (np.dtype("uint32"), "uint32_val", "uint32"),
    23: (np.dtype("uint64"), "uint64_val", "uint64"),
}
STRING = 7
# A message of a few bytes must not fill the memory.
MAX_REPEATED = 1 << 18
# The interpreter's lock is held while so many values are copied, and given back in between.
_AT_ONCE = 1 << 14
_NUMBERS = {dtype: number for number, (dtype, _, _) in DTYPES.items()}


def dtype_name(number: int) -> str:
    """TensorFlow's name of a data type, as it prints it: `float`, `int32`, ..."""
    if number in DTYPES:
        return DTYPES[number][2]
    return f"type {number}"


def element_count(proto: TensorProto) -> int:
    """How many values a tensor's shape stands for, whatever it holds; 0 for no complete shape."""
    sizes = [dim.size for dim in proto.tensor_shape.dim]
    return 0 if any(size < 0 for size in sizes) else math.prod(sizes)


def to_array(proto: TensorProto) -> npt.NDArray[Any]:
    """Decodes a tensor, sent as bytes or as typed values.

    Args:
        proto: a tensor; one value for many elements stands for all of them, as in TensorFlow.

    Returns:
        An array; strings as an object array of `bytes`.

    Raises:
        ServingError: INVALID_ARGUMENT for an unknown data type or a wrong number of values.
    """
    if proto.dtype not in DTYPES:
        raise invalid(f"Tensor of unsupported type: {dtype_name(proto.dtype)}")
    dtype, field, _ = DTYPES[proto.dtype]
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise invalid("Tensor proto has no complete shape")
    size = math.prod(shape)
    content = proto.tensor_content
    if content:
        if proto.dtype == STRING:
            raise invalid("String tensors are sent as string_val, not as tensor_content")
        if len(content) != size * dtype.itemsize:
            raise invalid(
                f"tensor_content holds {len(content)} bytes, shape {list(shape)} of "
                f"{dtype_name(proto.dtype)} needs {size * dtype.itemsize}"
            )
        return np.frombuffer(content, dtype).reshape(shape)
    values = getattr(proto, field)
    if proto.dtype == STRING:
        flat = np.empty(len(values), object)
        flat[:] = values
    elif field == "half_val":
        flat = _copied(values, np.uint16).view(dtype)
    elif dtype.kind == "c":
        flat = _copied(values, np.float32 if dtype.itemsize == 8 else np.float64).view(dtype)
    elif field == "int_val":
        flat = _copied(values, np.int32).astype(dtype)
    else:
        flat = _copied(values, dtype)
    if len(flat) == size:
        return flat.reshape(shape)
    if len(flat) == 0:
        flat = np.array([b""], object) if proto.dtype == STRING else np.zeros(1, dtype)
    if len(flat) > size:
        raise invalid(f"Tensor holds {len(flat)} values, its shape {list(shape)} needs {size}")
    if size > MAX_REPEATED:
        raise invalid(
            f"Tensor holds {len(flat)} values, its shape {list(shape)} needs {size}; at most "
            f"{MAX_REPEATED} are made up by repeating the last"
        )
    # TensorFlow repeats the last value.
    filled = np.empty(size, dtype)
    filled[: len(flat)] = flat
    filled[len(flat) :] = flat[-1]
    return filled.reshape(shape)


def _copied(values: Sequence[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """The values of a field as an array."""
    flat = np.empty(len(values), dtype)
    for start in range(0, len(values), _AT_ONCE):
        flat[start : start + _AT_ONCE] = values[start : start + _AT_ONCE]
    return flat


def to_proto(array: npt.NDArray[Any], proto: TensorProto, as_content: bool = False) -> TensorProto:
    """Encodes an array into `proto`.

    Args:
        array: any array of a type TensorFlow has; object arrays hold `bytes`.
        proto: an empty message, filled and returned.
        as_content: send raw bytes where the type allows it, in place of typed values.
    """
    number = _NUMBERS.get(array.dtype)
    if number is None:
        if array.dtype.kind not in "SU":
            raise invalid(f"Cannot send an array of {array.dtype}")
        array, number = to_bytes(array), STRING
    proto.dtype = number
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    dtype, field, _ = DTYPES[number]
    if as_content and number != STRING:
        proto.tensor_content = np.ascontiguousarray(array).tobytes()
        return proto
    flat = array.reshape(-1)
    if field == "half_val":
        flat = flat.view(np.uint16)
    elif dtype.kind == "c":
        flat = flat.view(np.float32 if dtype.itemsize == 8 else np.float64)
    values = getattr(proto, field)
    for start in range(0, flat.size, _AT_ONCE):
        values.extend(flat[start : start + _AT_ONCE].tolist())
    return proto


def to_bytes(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An object array of `bytes` from an array of `str` or fixed-width bytes (UTF-8)."""
    flat = np.empty(array.size, object)
    flat[:] = [
        value.encode("utf-8") if isinstance(value, str) else value
        for value in array.reshape(-1).tolist()
    ]
    return flat.reshape(array.shape)
