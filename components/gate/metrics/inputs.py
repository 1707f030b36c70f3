"""What the metrics read of a batch of rows, and the keys by which TFMA knows what they are."""

from array import array
from collections.abc import Iterable

import numpy as np
from tensorflow_model_analysis.metrics import metric_types

USER = "user_id"
ERROR = "_standard_error"
CHANGE = "_change"


def derived(keys: list, result) -> metric_types.DerivedMetricComputation:
    return metric_types.DerivedMetricComputation(keys=keys, result=result)


def keys_of(
    names: Iterable[str], model_name: str, output_name: str, example_weighted: bool
) -> list[metric_types.MetricKey]:
    return [
        metric_types.MetricKey(name, model_name, output_name, example_weighted=example_weighted)
        for name in names
    ]


def weight_of(
    element: metric_types.StandardMetricInputs, key: metric_types.MetricKey
) -> np.ndarray | None:
    """[N] what the rows count for; None: all of them 1, where the run names no weights."""
    if not key.example_weighted:
        return None
    return column_of(element.get_example_weights(key.model_name, key.output_name))


def column_of(value: np.ndarray) -> np.ndarray:
    """[N] float64: an output, a label or a weight has one number a row, in any shape."""
    return np.asarray(value, np.float64).ravel()


def extend(column: array, values: np.ndarray) -> None:
    column.frombytes(np.ascontiguousarray(values, column.typecode).tobytes())
