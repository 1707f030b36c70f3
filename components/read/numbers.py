"""Numbers out of columns of text. Light: no Beam, no TFX."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc


def to_numbers(column: pa.Array, decimal: str = ".") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads numbers, of which `decimal` comes before the decimals.

    Returns float64 values, the exact int64 values where they are whole, and which are not finite
    numbers.
    """
    text = utf8(column)
    if decimal != ".":
        text = pc.replace_substring(text, decimal, ".")
    # Whole numbers are exact, whatever gaps there are between them; to Arrow 0x10 is one as well.
    gaps = pc.equal(pc.binary_length(text), 0).fill_null(True)
    try:
        if not any(pc.any(pc.match_substring(text, x)).as_py() for x in "xX"):
            there = text if not pc.any(gaps).as_py() else pc.if_else(gaps, None, text)
            bad, whole = gaps.to_numpy(zero_copy_only=False), pc.cast(there, pa.int64())
            whole = whole.fill_null(0).to_numpy(zero_copy_only=False)
            return np.where(bad, np.nan, whole), whole, bad
    except pa.ArrowInvalid:
        pass
    series = pd.Series(text.to_numpy(zero_copy_only=False), dtype=object)
    numbers = pd.to_numeric(series.str.strip(), errors="coerce").to_numpy(
        np.float64, na_value=np.nan
    )
    bad = ~np.isfinite(numbers) | (np.abs(numbers) >= 2.0**63)
    whole = np.where(bad, 0, numbers)
    return numbers, np.floor(whole).astype(np.int64), bad


def utf8(column: pa.Array) -> pa.Array:
    """Bytes as text; what is none has the mark of that in its place."""
    try:
        return column.cast(pa.large_string())
    except pa.ArrowInvalid:  # bytes that are no text are no number either
        decoded = pd.Series(column.to_numpy(zero_copy_only=False), dtype=object).str.decode(
            "utf-8", "replace"
        )
        return pa.array(decoded, pa.large_string())
