"""Decimal numbers printed as TensorFlow Serving prints them.

Six significant digits where they read back as the same number, else as many as always do (9 for
float, 17 for double), with `.0` on whole numbers and bare NaN, Infinity, -Infinity.
"""

from __future__ import annotations

import numpy as np

_PIECE = 1 << 13


def decimal_text(value: float, digits: int = 17) -> str:
    """One number as text.

    Args:
        value: any float.
        digits: 17 for double; 9 for a float, which `value` must then hold exactly.
    """
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    text = f"{value:.6g}"
    back = float(text) if digits == 17 else float(np.float32(text))
    if back != value:
        text = f"{value:.{digits}g}"
    return text if "." in text or "e" in text else text + ".0"


def decimal_texts(array: np.ndarray) -> list[str]:
    """All numbers of an array as texts, in order.

    Args:
        array: float16, float32 or float64, of any shape.
    """
    narrow = array.dtype != np.float64
    flat = array.reshape(-1)
    if narrow:
        flat = flat.astype(np.float32, copy=False)
    # Piece by piece, for each call of C holds the interpreter from its begin to its end.
    pieces = range(0, len(flat), _PIECE)
    return [text for begin in pieces for text in _texts(flat[begin : begin + _PIECE], narrow)]


def _texts(flat: np.ndarray, narrow: bool) -> list[str]:
    values = flat.tolist()
    if len(values) < 8 or not np.isfinite(flat).all():
        digits = 9 if narrow else 17
        return [decimal_text(value, digits) for value in values]
    # One formatting call for all, and one comparison for which of them six digits lose.
    short = (("%.6g\n" * len(values)) % tuple(values)).split("\n")
    short.pop()
    back = np.fromiter(map(float, short), np.float64, len(short))
    if narrow:
        back = back.astype(np.float32)  # six digits of the largest float32 are no larger than it
    long_format = "%.9g" if narrow else "%.17g"
    for index in np.flatnonzero(back != flat).tolist():
        short[index] = long_format % values[index]
    return [text if "." in text or "e" in text else text + ".0" for text in short]
