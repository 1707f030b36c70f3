"""Rows that show what a schema's anomaly is about."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import schema_pb2

SHOWN = 5


def odd_values(
    table: pa.Table, schema: schema_pb2.Schema, where: np.ndarray
) -> dict[str, list[dict[str, Any]]]:
    """Column -> a few rows whose value is missing or outside the domain that the schema names."""
    domains = {domain.name: list(domain.value) for domain in schema.string_domain}
    odd = {}
    for feature in schema.feature:
        if feature.name not in table.column_names:
            continue
        column = table.column(feature.name)
        bad = column.is_null().to_numpy()
        lists = pa.types.is_large_list(column.type)
        if not lists:
            bad |= _outside(column, feature, domains)
        chosen = np.flatnonzero(bad)[:SHOWN]
        odd[feature.name] = [
            {
                "row" if isinstance(where[one], np.integer) else "id": _plain(where[one]),
                "received": _plain(column[int(one)].as_py()),
            }
            for one in chosen
        ]
    return {name: shown for name, shown in odd.items() if shown}


def _outside(
    column: pa.ChunkedArray, feature: schema_pb2.Feature, domains: Mapping[str, list[str]]
) -> np.ndarray:
    if feature.domain in domains:
        values = pa.array([value.encode() for value in domains[feature.domain]], pa.large_binary())
        return ~pc.is_in(column, value_set=values).to_numpy()
    for domain in (feature.int_domain, feature.float_domain):
        has_least, has_most = domain.HasField("min"), domain.HasField("max")
        if (has_least or has_most) and not pa.types.is_large_binary(column.type):
            numbers = column.to_numpy()
            low = numbers < domain.min if has_least else np.zeros(len(numbers), bool)
            return low | (numbers > domain.max if has_most else np.zeros(len(numbers), bool))
    return np.zeros(len(column), bool)


def _plain(value: Any) -> Any:
    if value is None:
        return "nothing"
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value.item() if hasattr(value, "item") else value
