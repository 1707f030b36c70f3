"""Blocks of JSON lines to columns of bytes.

The counterpart of `parsing` for a layout of one JSON object a line.

Python's own parser takes one line at a time, so a line that is no JSON costs that line and nothing
else.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from components.read.parsing import Rejects, show


def split_json(
    data: bytes, names: Sequence[str], lines: np.ndarray, rejects: Rejects
) -> tuple[list[pa.Array], np.ndarray]:
    """Takes named values out of JSON objects, one a line; a value that is not there is empty.

    Args:
        data: whole lines, with or without a line feed at the end.
        names: the keys to take.
        lines: 1-based line number of every line.
        rejects: takes the lines that are no JSON objects; blank lines are passed over.

    Returns:
        A column (large_binary) for every name, and the index within the block of every row kept.
    """
    columns: list[list[bytes]] = [[] for _ in names]
    kept: list[int] = []
    refused: dict[str, list[int]] = {"not JSON": [], "not a JSON object": []}
    texts = data.split(b"\n")[: len(lines)]
    for number, text in enumerate(texts):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            refused["not JSON"].append(number)
            continue
        if not isinstance(row, dict):
            refused["not a JSON object"].append(number)
            continue
        kept.append(number)
        for column, name in zip(columns, names, strict=True):
            column.append(to_bytes(row.get(name)))
    for reason, numbers in refused.items():
        if numbers:
            rejects.add(reason, lines[numbers], [show(texts[numbers[0]])])
    return [pa.array(column, pa.large_binary()) for column in columns], np.array(kept, np.int64)


def to_bytes(value: Any) -> bytes:
    """A JSON value as text.

    That of a string, a number or a truth value is its own, that of a list its values' with blanks
    between them; any other value is empty.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    if isinstance(value, list):
        return b" ".join(filter(None, map(to_bytes, value)))
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, (int, float)):
        return repr(value).encode()
    return b""
