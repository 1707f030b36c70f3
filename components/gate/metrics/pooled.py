"""AUC and calibration over all rows: TFMA's, of sums that are formed in batches."""

from collections.abc import Iterable

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types, metric_util

from components.gate.metrics.inputs import column_of, keys_of, weight_of

_BUCKETS = 10_000  # of predictions in [0, 1], as TFMA has them for its AUC
_EPSILON = 1e-7


class PooledAUC(tfma.metrics.Metric):
    """TFMA's AUC to the digit: between 10,000 thresholds in [0, 1], interpolated.

    Predictions fall into as many buckets, whose labels and weights are added up; what is between
    the thresholds of a bucket counts as of its middle. 0 where there is one class alone.

    Args:
        name: of the metric.
    """

    def __init__(self, name: str = "auc"):
        super().__init__(metric_util.merge_per_key_computations(_auc), name=name)


def _auc(
    name: str, model_name: str = "", output_name: str = "", example_weighted: bool = False
) -> metric_types.MetricComputations:
    (key,) = keys_of((name,), model_name, output_name, example_weighted)
    return [metric_types.MetricComputation([key], [], _Buckets(key))]


class _Pooled(beam.CombineFn):
    """Adds up float64 sums of labels, predictions and weights.

    Args:
        key: of the metric, which names the output.
    """

    SHAPE: tuple[int, ...]

    def __init__(self, key: metric_types.MetricKey):
        self._key = key

    def create_accumulator(self) -> np.ndarray:
        return np.zeros(self.SHAPE)

    def add_input(self, sums: np.ndarray, element: metric_types.StandardMetricInputs) -> np.ndarray:
        names = self._key.model_name, self._key.output_name
        label, prediction = (
            column_of(of) for of in (element.get_labels(*names), element.get_predictions(*names))
        )
        weight = weight_of(element, self._key)
        return self.add(sums, label, prediction, np.ones(len(label)) if weight is None else weight)

    def add(
        self, sums: np.ndarray, label: np.ndarray, prediction: np.ndarray, weight: np.ndarray
    ) -> np.ndarray:
        """The sums with [N] rows more."""
        raise NotImplementedError

    def result(self, sums: np.ndarray) -> float:
        """The metric."""
        raise NotImplementedError

    def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
        return sum(accumulators, start=self.create_accumulator())

    def extract_output(self, sums: np.ndarray) -> metric_types.MetricsDict:
        return {self._key: self.result(sums)}


class _Buckets(_Pooled):
    """[2, buckets]: weights of positives, and of all rows."""

    SHAPE = (2, _BUCKETS + 2)  # one bucket is below 0, one from 1 on

    def add(self, sums, label, prediction, weight):
        if np.isnan(prediction).any():
            return np.full(self.SHAPE, np.nan)
        bucket = np.clip(prediction * _BUCKETS + 1, 0, _BUCKETS + 1).astype(np.int64)
        np.add.at(sums[0], bucket, weight * label)
        np.add.at(sums[1], bucket, weight)
        return sums

    def result(self, sums: np.ndarray) -> float:
        return auc_of_buckets(*sums)


def auc_of_buckets(positive: np.ndarray, every: np.ndarray) -> float:
    """The interpolated AUC of [buckets] weights: of positives, and of all rows; NaN of NaN."""
    if np.isnan(every).any():
        return float("nan")
    thresholds = np.append(np.arange(1, _BUCKETS - 1) / (_BUCKETS - 1), 1 + _EPSILON) + _EPSILON
    start = np.r_[-np.inf, np.arange(_BUCKETS) / _BUCKETS, np.inf]
    place = np.searchsorted(thresholds, start, side="right")
    rates = []
    for weights in (every - positive, positive):
        between = np.bincount(place, weights, minlength=_BUCKETS)
        above = np.cumsum(between[::-1])[::-1].copy()
        below = np.append(0.0, np.cumsum(between)[:-1])
        above[-1], below[-1] = 0.0, above[0]
        rates.append(
            np.divide(above, above + below, out=np.full(_BUCKETS, np.nan), where=above + below != 0)
        )
    false, true = rates
    return float(np.nansum((false[:-1] - false[1:]) * (true[:-1] + true[1:]) / 2))


class PooledCalibration(tfma.metrics.Metric):
    """TFMA's: the sum of predictions over the sum of labels, both weighted; NaN without positives.

    Args:
        name: of the metric.
    """

    def __init__(self, name: str = "calibration"):
        super().__init__(metric_util.merge_per_key_computations(_calibration), name=name)


def _calibration(
    name: str, model_name: str = "", output_name: str = "", example_weighted: bool = False
) -> metric_types.MetricComputations:
    (key,) = keys_of((name,), model_name, output_name, example_weighted)
    return [metric_types.MetricComputation([key], [], _Ratio(key))]


class _Ratio(_Pooled):
    """[2]: of predictions, and of labels."""

    SHAPE = (2,)

    def add(self, sums, label, prediction, weight):
        return sums + np.array([(weight * prediction).sum(), (weight * label).sum()])

    def result(self, sums: np.ndarray) -> float:
        return float("nan") if np.isclose(sums[1], 0.0) else float(sums[0] / sums[1])
