"""Two metrics for TFMA: the mean over the rows of an output of the model, and GAUC.

TFMA calls Python for every row, slice and metric: its own mean of an output looks labels, weights
and model names up each time, so that a dozen of them take most of an evaluation. Here the outputs
of a row are added up once for all of its metrics.
"""

import hashlib
from array import array
from collections.abc import Iterable

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types, metric_util

from models.measures import pointwise

USER = "user_id"


class RowMean(tfma.metrics.Metric):
    """The mean over the rows of one output of the model, a number a row.

    The metrics of a specification name the output.

    Args:
        name: of the metric.
    """

    def __init__(self, name: str):
        super().__init__(metric_util.merge_per_key_computations(_row_mean), name=name)


def _row_mean(
    name: str, model_name: str = "", output_name: str = ""
) -> metric_types.MetricComputations:
    sums = metric_types.MetricKey("_row_sums", model_name=model_name)
    key = metric_types.MetricKey(name, model_name=model_name, output_name=output_name)

    def result(found: metric_types.MetricsDict) -> metric_types.MetricsDict:
        rows, totals = found[sums]
        return {key: totals[output_name] / rows if rows else float("nan")}

    # TFMA makes equal computations once, and the sums are the same for every output.
    return [
        metric_types.MetricComputation(keys=[sums], preprocessors=[], combiner=_RowSums(sums)),
        metric_types.DerivedMetricComputation(keys=[key], result=result),
    ]


class _RowSums(beam.CombineFn):
    """How many rows there are, and the sum of each output."""

    def __init__(self, key: metric_types.MetricKey):
        self._key = key

    def create_accumulator(self) -> tuple[int, dict[str, float]]:
        return 0, {}

    def add_input(self, accumulator, element: metric_types.StandardMetricInputs):
        rows, totals = accumulator
        for name, value in element.get_predictions(self._key.model_name).items():
            totals[name] = totals.get(name, 0.0) + float(np.ravel(value)[0])
        return rows + 1, totals

    def merge_accumulators(self, accumulators: Iterable):
        rows, totals = self.create_accumulator()
        for more, sums in accumulators:
            rows += more
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value
        return rows, totals

    def extract_output(self, accumulator) -> metric_types.MetricsDict:
        return {self._key: accumulator}


class GroupAUC(tfma.metrics.Metric):
    """GAUC: the AUC within each user, averaged with the user's rows as weights.

    Users of one class are left out; NaN where nobody is left (Zhu et al., Optimized Cost per Click
    in Taobao Display Advertising, KDD 2017).

    Rows are grouped here and not by TFMA's query key, which would take all of a user's rows into
    every slice that one of them is in.

    Args:
        name: of the metric.
    """

    def __init__(self, name: str = "gauc"):
        super().__init__(metric_util.merge_per_key_computations(_group_auc), name=name)


def _group_auc(
    name: str, model_name: str = "", output_name: str = ""
) -> metric_types.MetricComputations:
    key = metric_types.MetricKey(name, model_name=model_name, output_name=output_name)
    user = metric_types.FeaturePreprocessor(feature_keys=[USER])
    return [
        metric_types.MetricComputation(keys=[key], preprocessors=[user], combiner=_UserRows(key))
    ]


class _UserRows(beam.CombineFn):
    """Gathers 13 bytes a row: a 64-bit hash of the user, the prediction, whether it is positive."""

    def __init__(self, key: metric_types.MetricKey):
        self._key = key

    def create_accumulator(self) -> tuple[array, array, array]:
        return array("Q"), array("f"), array("B")

    def add_input(self, rows, element: metric_types.StandardMetricInputs):
        names = self._key.model_name, self._key.output_name
        user = hashlib.blake2b(np.ravel(element.features[USER])[0], digest_size=8).digest()
        rows[0].append(int.from_bytes(user, "little"))
        rows[1].append(float(np.ravel(element.get_predictions(*names))[0]))
        rows[2].append(bool(np.ravel(element.get_labels(*names))[0] > 0.5))
        return rows

    def merge_accumulators(self, accumulators: Iterable):
        merged = self.create_accumulator()
        for rows in accumulators:
            for column, values in zip(merged, rows, strict=True):
                column.extend(values)
        return merged

    def extract_output(self, rows) -> metric_types.MetricsDict:
        return {self._key: group_auc(*(np.frombuffer(column, column.typecode) for column in rows))}


def group_auc(user: np.ndarray, prediction: np.ndarray, positive: np.ndarray) -> float:
    """GAUC of N rows, NaN where nobody has rows of both classes; see `pointwise.gauc`.

    Args:
        user: [N] whose row it is.
        prediction: [N] float.
        positive: [N] 0 or 1.
    """
    value, users, _ = pointwise.gauc(positive.astype(np.float32), prediction, user.astype(np.int64))
    return float(value) if users > 0 else float("nan")
