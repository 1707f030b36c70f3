"""Metrics for TFMA: means of the model's outputs, what the gate asks of them, values by user, GAUC.

TFMA calls Python for every row, slice and metric: its own mean of an output looks labels, weights
and model names up each time, so that a dozen of them take most of an evaluation. Here the outputs
of a row are added up once for all of its metrics.
"""

import hashlib
import io
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types, metric_util

from components.gate import comparison
from components.gate.config import required
from models.measures import lists, pointwise
from models.names.metrics import CATALOGUE, RECOMMENDED, split

USER = "user_id"
ERROR = "_standard_error"
CHANGE = "_change"
_BUFFER = 512  # rows that are added up at once


class RowMean(tfma.metrics.Metric):
    """The mean over the rows of one output of the model, a number a row; and its standard error.

    The metrics of a specification name the output. The standard error, of N rows with the standard
    deviation s, is s / sqrt(N); NaN for a single row. It takes the rows as drawn one by one.

    Args:
        name: of the metric; the standard error has the same with `ERROR` behind.
    """

    def __init__(self, name: str):
        super().__init__(metric_util.merge_per_key_computations(_row_mean), name=name)


def _row_mean(
    name: str, model_name: str = "", output_name: str = ""
) -> metric_types.MetricComputations:
    sums, key = _sums(model_name), metric_types.MetricKey(name, model_name, output_name)
    error = metric_types.MetricKey(name + ERROR, model_name, output_name)

    def result(found: metric_types.MetricsDict) -> metric_types.MetricsDict:
        mean, standard_error = found[sums].moments(output_name)
        return {key: mean, error: standard_error}

    return [*_row_sums(model_name), _derived([key, error], result)]


class FloorMargin(tfma.metrics.Metric):
    """By how much the mean of an output is above what is required of it, negative where below.

    Args:
        name: of the metric.
        bound: see `components.gate.config.required`.
        z: the same.
    """

    def __init__(self, name: str, bound: float, z: float):
        super().__init__(
            metric_util.merge_per_key_computations(_floor_margin), name=name, bound=bound, z=z
        )


def _floor_margin(
    name: str, bound: float, z: float, model_name: str = "", output_name: str = ""
) -> metric_types.MetricComputations:
    sums, key = _sums(model_name), metric_types.MetricKey(name, model_name, output_name)

    def result(found: metric_types.MetricsDict) -> metric_types.MetricsDict:
        mean, error = found[sums].moments(output_name)
        return {key: mean - required(bound, z, error)}

    return [*_row_sums(model_name), _derived([key], result)]


class ChangeMargin(tfma.metrics.Metric):
    """The same for how much better an output is than the baseline model's on the same rows.

    Beside the margin come the mean change (`CHANGE` behind the output's name), positive where
    better, and its standard error, over the paired differences of the rows. Without a baseline
    model the margin is 0 and stands alone.

    Args:
        name: of the metric.
        bound: see `components.gate.config.required`.
        z: the same.
        higher_is_better: the direction of the output.
    """

    def __init__(self, name: str, bound: float, z: float, higher_is_better: bool):
        super().__init__(
            metric_util.merge_per_key_computations(_change_margin),
            name=name,
            bound=bound,
            z=z,
            higher_is_better=higher_is_better,
        )


def _change_margin(
    name: str,
    bound: float,
    z: float,
    higher_is_better: bool,
    model_name: str = "",
    output_name: str = "",
) -> metric_types.MetricComputations:
    sums, key = _sums(model_name), metric_types.MetricKey(name, model_name, output_name)
    if model_name != tfma.CANDIDATE_KEY:
        return [*_row_sums(model_name), _derived([key], lambda found: {key: 0.0})]
    change, error = (
        metric_types.MetricKey(output_name + CHANGE + end, model_name, output_name)
        for end in ("", ERROR)
    )

    def result(found: metric_types.MetricsDict) -> metric_types.MetricsDict:
        mean, standard_error = found[sums].moments(output_name, paired=True)
        better = mean if higher_is_better else -mean
        return {
            key: better - required(bound, z, standard_error),
            change: better,
            error: standard_error,
        }

    return [*_row_sums(model_name), _derived([key, change, error], result)]


def _derived(keys: list, result) -> metric_types.DerivedMetricComputation:
    return metric_types.DerivedMetricComputation(keys=keys, result=result)


def _sums(model_name: str) -> metric_types.MetricKey:
    return metric_types.MetricKey("_row_sums", model_name=model_name)


def _row_sums(model_name: str) -> metric_types.MetricComputations:
    # TFMA makes equal computations once, and the sums are the same for every output.
    key = _sums(model_name)
    return [metric_types.MetricComputation(keys=[key], preprocessors=[], combiner=_RowSums(key))]


@dataclass
class Sums:
    """Sums over rows, float64: of outputs, of their squares, and of differences from a baseline.

    Attributes:
        rows: how many rows are in the sums.
        names: of the outputs, in the order of the columns.
        totals: [4, outputs]: values, squares, differences, squares of differences.
        buffer: values of rows that are not in the sums yet.
        baseline: the same of the baseline model; empty without one.
    """

    rows: int = 0
    names: tuple[str, ...] = ()
    totals: np.ndarray = field(default_factory=lambda: np.zeros((4, 0)))
    buffer: list[list[float]] = field(default_factory=list)
    baseline: list[list[float]] = field(default_factory=list)

    def add(self, values: list[float], baseline: list[float] | None) -> None:
        """Adds one row."""
        self.buffer.append(values)
        if baseline is not None:
            self.baseline.append(baseline)
        if len(self.buffer) >= _BUFFER:
            self.flush()

    def flush(self) -> "Sums":
        """Takes the buffered rows into the sums."""
        if self.buffer:
            values = np.array(self.buffer)
            differences = values - np.array(self.baseline) if self.baseline else np.zeros((1, 1))
            parts = (values, values**2, differences, differences**2)
            sums = [np.broadcast_to(part.sum(axis=0), len(self.names)) for part in parts]
            self.totals = (self.totals if self.rows else 0.0) + np.array(sums)
            self.rows += len(values)
            self.buffer, self.baseline = [], []
        return self

    def merged(self, other: "Sums") -> "Sums":
        """Both together."""
        first, second = self.flush(), other.flush()
        if not first.rows or not second.rows:
            return first if first.rows else second
        return Sums(first.rows + second.rows, first.names, first.totals + second.totals)

    def moments(self, name: str, paired: bool = False) -> tuple[float, float]:
        """The mean of an output and its standard error; NaN where the rows are too few for it."""
        if not self.rows:
            return float("nan"), float("nan")
        if name not in self.names:  # a baseline may be older than a metric
            return float("nan"), float("nan")
        total, square = self.totals[2 * paired : 2 * paired + 2, self.names.index(name)]
        mean = total / self.rows
        if self.rows < 2:
            return float(mean), float("nan")
        variance = max(square - total * mean, 0.0) / (self.rows - 1)
        return float(mean), float((variance / self.rows) ** 0.5)


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
        if self._model == tfma.CANDIDATE_KEY:
            # A baseline of an older run may lack an output that is new.
            baseline = element.get_predictions(tfma.BASELINE_KEY)
            before = [_number(baseline[name]) if name in baseline else np.nan for name in names]
        accumulator.add([_number(outputs[name]) for name in names], before)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Sums]) -> Sums:
        merged = self.create_accumulator()
        for more in accumulators:
            merged = merged.merged(more)
        return merged

    def extract_output(self, accumulator: Sums) -> metric_types.MetricsDict:
        return {self._key: accumulator.flush()}


def _number(value: np.ndarray) -> float:
    """The number of a row: an output has one a row."""
    return float(np.asarray(value).item())


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


class _ByUser(beam.CombineFn):
    """Gathers the id of a row's user, and four bytes an output."""

    def __init__(self, key: metric_types.MetricKey, outputs: list[str]):
        self._key, self._outputs = key, outputs

    def create_accumulator(self) -> tuple[list[bytes], array]:
        return [], array("f")

    def add_input(self, rows, element: metric_types.StandardMetricInputs):
        values = element.get_predictions(self._key.model_name)
        rows[0].append(bytes(np.ravel(element.features[USER])[0]))
        rows[1].extend(_number(values[name]) for name in self._outputs)
        return rows

    def merge_accumulators(self, accumulators: Iterable):
        merged = self.create_accumulator()
        for users, values in accumulators:
            merged[0].extend(users)
            merged[1].extend(values)
        return merged

    def extract_output(self, rows) -> metric_types.MetricsDict:
        users, values = rows
        columns = np.frombuffer(values, "f").reshape(len(users), len(self._outputs)).T
        file = io.BytesIO()
        comparison.write(users, dict(zip(self._outputs, columns, strict=True)), file)
        return {self._key: file.getvalue()}


class OfLists(tfma.metrics.Metric):
    """A metric of all recommended items together, see `models.measures.lists`.

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
        return {key: lists.OF_LISTS[kind](found[counts])}

    return [
        metric_types.MetricComputation([counts], [], _Recommended(counts, k)),
        _derived([key], result),
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
            counts = np.zeros(int(_number(outputs[CATALOGUE])), np.int64)
        listed = np.ravel(outputs[RECOMMENDED])[: self._k]
        counts[listed[listed >= 0]] += 1  # an item stands once in a list
        return counts

    def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
        merged = self.create_accumulator()
        for counts in accumulators:
            merged = (
                merged + counts if len(merged) and len(counts) else max(merged, counts, key=len)
            )
        return merged

    def extract_output(self, counts: np.ndarray) -> metric_types.MetricsDict:
        return {self._key: counts}


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
