"""Of all rows together: the values by user, and what was recommended."""

import io
from collections.abc import Iterable
from operator import attrgetter

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types, metric_util

from components.gate import comparison
from components.gate.metrics.inputs import USER, column_of, derived
from components.tables.merging import Merging
from models.measures import recommended
from models.names.metrics import CATALOGUE, RECOMMENDED, split

_WAITING = 1 << 16
"""Rows that are added up at once, at least."""


class ByUser(tfma.metrics.Metric):
    """The mean of every output over the rows of each user, as the bytes of a Parquet file.

    Its columns are those of `components.gate.comparison`: by it two runs are compared, user by
    user, without scoring anew. Of a baseline model there is none: its own run has it.

    Args:
        name: of the metric.
        outputs: which outputs.
    """

    def __init__(self, name: str, outputs: list[str]):
        super().__init__(
            metric_util.merge_per_key_computations(_by_user), name=name, outputs=outputs
        )


def _by_user(
    name: str, outputs: list[str], model_name: str = "", output_name: str = ""
) -> metric_types.MetricComputations:
    if model_name == tfma.BASELINE_KEY:
        return []
    key = metric_types.MetricKey(name, model_name=model_name, output_name=output_name)
    user = metric_types.FeaturePreprocessor(feature_keys=[USER])
    combiner = _ByUser(key, outputs)
    return [metric_types.MetricComputation(keys=[key], preprocessors=[user], combiner=combiner)]


class _ByUser(Merging):
    """Adds up by user."""

    def __init__(self, key: metric_types.MetricKey, outputs: list[str]):
        super().__init__(comparison.merged, attrgetter("num_rows"), _WAITING)
        self._key, self._outputs = key, outputs

    def create_accumulator(self) -> list[pa.Table]:
        return [comparison.part([], dict.fromkeys(self._outputs, np.zeros(0)))]

    def add_input(self, parts: list[pa.Table], element: metric_types.StandardMetricInputs):
        outputs = element.get_predictions(self._key.model_name)
        values = {name: column_of(outputs[name]) for name in self._outputs}
        return super().add_input(parts, comparison.part(np.ravel(element.features[USER]), values))

    def extract_output(self, parts: list[pa.Table]) -> metric_types.MetricsDict:
        file = io.BytesIO()
        comparison.write(parts, file)
        return {self._key: file.getvalue()}


class OfLists(tfma.metrics.Metric):
    """A metric of all recommended items together, see `models.measures.recommended`.

    Args:
        name: of the metric, such as `coverage_10`.
    """

    def __init__(self, name: str):
        super().__init__(metric_util.merge_per_key_computations(_of_lists), name=name)


def _of_lists(
    name: str, model_name: str = "", output_name: str = ""
) -> metric_types.MetricComputations:
    kind, k = split(name)
    key = metric_types.MetricKey(name, model_name=model_name, output_name=output_name)
    counts = metric_types.MetricKey(f"_recommended_{k}", model_name=model_name)

    def result(found: metric_types.MetricsDict) -> metric_types.MetricsDict:
        return {key: recommended.OF_LISTS[kind](found[counts])}

    return [
        metric_types.MetricComputation([counts], [], _Recommended(counts, k)),
        derived([key], result),
    ]


class _Recommended(beam.CombineFn):
    """Counts how often each item of the catalogue is among the first k; nothing without lists."""

    def __init__(self, key: metric_types.MetricKey, k: int):
        self._key, self._k = key, k

    def create_accumulator(self) -> np.ndarray:
        return np.zeros(0, np.int64)

    def add_input(self, counts: np.ndarray, element: metric_types.StandardMetricInputs):
        outputs = element.get_predictions(self._key.model_name)
        if RECOMMENDED not in outputs:
            return counts
        if not len(counts):
            counts = np.zeros(int(column_of(outputs[CATALOGUE])[0]), np.int64)
        listed = outputs[RECOMMENDED][:, : self._k]
        return counts + np.bincount(listed[listed >= 0], minlength=len(counts))

    def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
        merged = self.create_accumulator()
        for counts in accumulators:
            merged = (
                merged + counts if len(merged) and len(counts) else max(merged, counts, key=len)
            )
        return merged

    def extract_output(self, counts: np.ndarray) -> metric_types.MetricsDict:
        return {self._key: counts}
