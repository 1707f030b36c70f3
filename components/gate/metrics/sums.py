"""Sums over rows of all outputs of a model: means, and their standard errors."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types

from components.gate.metrics.inputs import column_of, keys_of, weight_of
from models.names.metrics import RECOMMENDED


def standard_error(weight: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """The weighted mean of N values and its standard error, NaN where N is too small.

        m = sum_i w_i x_i / sum_i w_i
        error^2 = N / (N - 1) sum_i w_i^2 (x_i - m)^2 / (sum_i w_i)^2

    With equal weights that is s / sqrt(N) (Cochran, Sampling Techniques, 1977, 6.4).

    Args:
        weight: [N].
        values: [N].
    """
    return Sums(names=("it",)).add(values[:, np.newaxis], weight=weight).moments("it")


@dataclass
class Sums:
    """Sums over rows, float64: of outputs, of their squares, and of differences from a baseline.

    Attributes:
        rows: how many rows are in the sums.
        weights: [2] what they weigh together, and the sum of the squares of that.
        names: of the outputs, in the order of the columns.
        totals: [6, outputs]: of values, then of differences: w x, w^2 x, w^2 x^2.
    """

    rows: int = 0
    names: tuple[str, ...] = ()
    weights: np.ndarray = field(default_factory=lambda: np.zeros(2))
    totals: np.ndarray = field(default_factory=lambda: np.zeros((6, 0)))

    def add(
        self,
        values: np.ndarray,
        baseline: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ) -> "Sums":
        """Adds rows, and returns the sums.

        Args:
            values: [N, outputs] float64, in the order of `names`.
            baseline: the same of the baseline model; None without one.
            weight: [N] float64 what the rows count for; None: all of them 1.
        """
        weight = np.ones(len(values)) if weight is None else weight
        sums = np.zeros((6, values.shape[1]))
        for place, of in enumerate((values,) if baseline is None else (values, values - baseline)):
            sums[3 * place : 3 * place + 3] = weight @ of, weight**2 @ of, weight**2 @ of**2
        self.totals = (self.totals if self.rows else 0.0) + sums
        self.weights = self.weights + np.array([weight.sum(), (weight**2).sum()])
        self.rows += len(values)
        return self

    def merged(self, other: "Sums") -> "Sums":
        """Both together."""
        if not self.rows or not other.rows:
            return self if self.rows else other
        return Sums(
            self.rows + other.rows,
            self.names,
            self.weights + other.weights,
            self.totals + other.totals,
        )

    def moments(self, name: str, paired: bool = False) -> tuple[float, float]:
        """The mean of an output and its standard error; NaN where the rows are too few for it."""
        # A baseline may be older than a metric.
        if not self.weights[0] or name not in self.names:
            return float("nan"), float("nan")
        whole, squares = self.weights
        total, twice, square = self.totals[3 * paired : 3 * paired + 3, self.names.index(name)]
        mean = total / whole
        if self.rows < 2:
            return float(mean), float("nan")
        deviations = max(square - 2 * mean * twice + mean**2 * squares, 0.0)
        return float(mean), float((deviations * self.rows / (self.rows - 1)) ** 0.5 / whole)


def sums_key(model_name: str, example_weighted: bool) -> metric_types.MetricKey:
    (key,) = keys_of(("_row_sums",), model_name, "", example_weighted)
    return key


def row_sums(key: metric_types.MetricKey) -> metric_types.MetricComputation:
    # TFMA makes equal computations once, and the sums are the same for every output.
    return metric_types.MetricComputation(keys=[key], preprocessors=[], combiner=_RowSums(key))


class _RowSums(beam.CombineFn):
    """Adds up all outputs of a model, and their differences from the baseline's."""

    def __init__(self, key: metric_types.MetricKey):
        self._model = key.model_name
        self._key = key

    def create_accumulator(self) -> Sums:
        return Sums()

    def add_input(self, accumulator: Sums, element: metric_types.StandardMetricInputs) -> Sums:
        outputs = element.get_predictions(self._model)
        if not accumulator.names:
            accumulator.names = tuple(name for name in outputs if name != RECOMMENDED)
        names, before = accumulator.names, None
        values = np.stack([column_of(outputs[name]) for name in names], axis=1)
        if self._model == tfma.CANDIDATE_KEY:
            # A baseline of an older run may lack an output that is new.
            baseline = element.get_predictions(tfma.BASELINE_KEY)
            nothing = np.full(len(values), np.nan)
            before = np.stack(
                [column_of(baseline[name]) if name in baseline else nothing for name in names],
                axis=1,
            )
        return accumulator.add(values, before, weight_of(element, self._key))

    def merge_accumulators(self, accumulators: Iterable[Sums]) -> Sums:
        merged = self.create_accumulator()
        for more in accumulators:
            merged = merged.merged(more)
        return merged

    def extract_output(self, accumulator: Sums) -> metric_types.MetricsDict:
        return {self._key: accumulator}
