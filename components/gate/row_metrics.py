"""Metrics for TFMA: means of outputs, what the gate asks of them, values by user, AUC, lists.

An element that they are handed is a batch of rows of one slice (see `components.gate.batches`):
every value of it is an array with one row each, and is added up by NumPy. Outputs are added up once
for all of their metrics.
"""

import functools
import hashlib
import io
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types, metric_util

from components.gate import comparison
from components.gate.config import required
from models.measures import lists, pointwise, recommended
from models.names.label import GROUP
from models.names.metrics import CATALOGUE, GROUP_METRICS, RECOMMENDED, split

USER = "user_id"
ERROR = "_standard_error"
CHANGE = "_change"
_BUCKETS = 10_000  # of predictions in [0, 1], as TFMA has them for its AUC
_EPSILON = 1e-7


class RowMean(tfma.metrics.Metric):
    """The mean over the rows of an output of the model, weighted as rows are; its standard error.

    The metrics of a specification name the output. The standard error, of N rows with the standard
    deviation s, is s / sqrt(N), and of weighted rows see `standard_error`; NaN for a single row. It
    takes the rows as drawn one by one.

    Args:
        name: of the metric; the standard error has the same with `ERROR` behind.
    """

    def __init__(self, name: str):
        super().__init__(metric_util.merge_per_key_computations(_row_mean), name=name)


def _row_mean(
    name: str, model_name: str = "", output_name: str = "", example_weighted: bool = False
) -> metric_types.MetricComputations:
    sums, (key, error) = (
        _sums(model_name, example_weighted),
        _keys((name, name + ERROR), model_name, output_name, example_weighted),
    )

    def result(found: metric_types.MetricsDict) -> metric_types.MetricsDict:
        mean, standard_error = found[sums].moments(output_name)
        return {key: mean, error: standard_error}

    return [_row_sums(sums), _derived([key, error], result)]


class FloorMargin(tfma.metrics.Metric):
    """By how much the mean of a metric is above what is required of it, negative where below.

    Args:
        name: of the metric.
        of: the metric: an output, a number a row, or one of groups.
        of_groups: whether it is one of groups; see `GroupNDCG`.
        bound: see `components.gate.config.required`.
        z: the same.
    """

    def __init__(self, name: str, of: str, of_groups: bool, bound: float, z: float):
        super().__init__(
            metric_util.merge_per_key_computations(_floor_margin),
            name=name,
            of=of,
            of_groups=of_groups,
            bound=bound,
            z=z,
        )


def _floor_margin(
    name: str,
    of: str,
    of_groups: bool,
    bound: float,
    z: float,
    model_name: str = "",
    output_name: str = "",
    example_weighted: bool = False,
) -> metric_types.MetricComputations:
    place = model_name, output_name, example_weighted
    gathered, moments = _moments(of_groups, *place)
    (key,) = _keys((name,), *place)

    def result(found: metric_types.MetricsDict) -> metric_types.MetricsDict:
        mean, error = moments(found, of)
        return {key: mean - required(bound, z, error)}

    return [gathered, _derived([key], result)]


class ChangeMargin(tfma.metrics.Metric):
    """The same for how much better a metric is than the baseline model's on the same rows.

    Beside the margin come the mean change (`CHANGE` behind the metric's name), positive where
    better, and its standard error, over the paired differences of the rows, or of the groups.
    Without a baseline model the margin is 0 and stands alone.

    Args:
        name: of the metric.
        of: see `FloorMargin`.
        of_groups: the same.
        bound: see `components.gate.config.required`.
        z: the same.
        higher_is_better: the direction of the metric.
    """

    def __init__(
        self, name: str, of: str, of_groups: bool, bound: float, z: float, higher_is_better: bool
    ):
        super().__init__(
            metric_util.merge_per_key_computations(_change_margin),
            name=name,
            of=of,
            of_groups=of_groups,
            bound=bound,
            z=z,
            higher_is_better=higher_is_better,
        )


def _change_margin(
    name: str,
    of: str,
    of_groups: bool,
    bound: float,
    z: float,
    higher_is_better: bool,
    model_name: str = "",
    output_name: str = "",
    example_weighted: bool = False,
) -> metric_types.MetricComputations:
    place = model_name, output_name, example_weighted
    gathered, moments = _moments(of_groups, *place)
    keys = _keys((name, of + CHANGE, of + CHANGE + ERROR), *place)
    if model_name != tfma.CANDIDATE_KEY:
        return [gathered, _derived(keys[:1], lambda found: {keys[0]: 0.0})]

    def result(found: metric_types.MetricsDict) -> metric_types.MetricsDict:
        mean, error = moments(found, of, paired=True)
        better = mean if higher_is_better else -mean
        return dict(zip(keys, (better - required(bound, z, error), better, error)))

    return [gathered, _derived(keys, result)]


def _moments(
    of_groups: bool, model_name: str, output_name: str, example_weighted: bool
) -> tuple[metric_types.MetricComputation, Callable[..., tuple[float, float]]]:
    """What gathers rows or groups, and what reads a mean and its standard error from that."""
    if not of_groups:
        sums = _sums(model_name, example_weighted)
        return _row_sums(sums), lambda found, of, paired=False: found[sums].moments(of, paired)
    groups = _groups(model_name, output_name, example_weighted)

    def of_found(found: metric_types.MetricsDict, of: str, paired: bool = False):
        name = of + CHANGE if paired else of
        return found[groups][name], found[groups][name + ERROR]

    return _group_rows(groups), of_found


def _derived(keys: list, result) -> metric_types.DerivedMetricComputation:
    return metric_types.DerivedMetricComputation(keys=keys, result=result)


def _keys(
    names: Iterable[str], model_name: str, output_name: str, example_weighted: bool
) -> list[metric_types.MetricKey]:
    return [
        metric_types.MetricKey(name, model_name, output_name, example_weighted=example_weighted)
        for name in names
    ]


def _sums(model_name: str, example_weighted: bool) -> metric_types.MetricKey:
    (key,) = _keys(("_row_sums",), model_name, "", example_weighted)
    return key


def _row_sums(key: metric_types.MetricKey) -> metric_types.MetricComputation:
    # TFMA makes equal computations once, and the sums are the same for every output.
    return metric_types.MetricComputation(keys=[key], preprocessors=[], combiner=_RowSums(key))


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
        weight = np.ones((len(values), 1)) if weight is None else weight[:, np.newaxis]
        differences = 0.0 * values if baseline is None else values - baseline
        sums = [
            part.sum(axis=0)
            for of in (values, differences)
            for part in (weight * of, weight**2 * of, (weight * of) ** 2)
        ]
        self.totals = (self.totals if self.rows else 0.0) + np.array(sums)
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
        values = np.stack([_column(outputs[name]) for name in names], axis=1)
        if self._model == tfma.CANDIDATE_KEY:
            # A baseline of an older run may lack an output that is new.
            baseline = element.get_predictions(tfma.BASELINE_KEY)
            nothing = np.full(len(values), np.nan)
            before = np.stack(
                [_column(baseline[name]) if name in baseline else nothing for name in names],
                axis=1,
            )
        return accumulator.add(values, before, _weight(element, self._key))

    def merge_accumulators(self, accumulators: Iterable[Sums]) -> Sums:
        merged = self.create_accumulator()
        for more in accumulators:
            merged = merged.merged(more)
        return merged

    def extract_output(self, accumulator: Sums) -> metric_types.MetricsDict:
        return {self._key: accumulator}


def _weight(
    element: metric_types.StandardMetricInputs, key: metric_types.MetricKey
) -> np.ndarray | None:
    """[N] what the rows count for; None: all of them 1, where the run names no weights."""
    if not key.example_weighted:
        return None
    return _column(element.get_example_weights(key.model_name, key.output_name))


def _column(value: np.ndarray) -> np.ndarray:
    """[N] float64: an output, a label or a weight has one number a row, in any shape."""
    return np.asarray(value, np.float64).ravel()


class RowCount(tfma.metrics.Metric):
    """How many rows there are, as TFMA's metric of this name counts them one by one.

    Args:
        name: of the metric.
    """

    def __init__(self, name: str = "example_count"):
        super().__init__(metric_util.merge_per_key_computations(_example_count), name=name)


def _example_count(
    name: str, model_name: str = "", output_name: str = "", example_weighted: bool = False
) -> metric_types.MetricComputations:
    sums = _sums(model_name, example_weighted)
    (key,) = _keys((name,), model_name, output_name, example_weighted)
    return [_row_sums(sums), _derived([key], lambda found: {key: float(found[sums].rows)})]


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
        outputs = element.get_predictions(self._key.model_name)
        values = np.stack([_column(outputs[name]) for name in self._outputs], axis=1)
        rows[0].extend(np.ravel(element.features[USER]).tolist())
        _extend(rows[1], values)
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


def _extend(column: array, values: np.ndarray) -> None:
    column.frombytes(np.ascontiguousarray(values, column.typecode).tobytes())


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
            counts = np.zeros(int(_column(outputs[CATALOGUE])[0]), np.int64)
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
    (key,) = _keys((name,), model_name, output_name, example_weighted)
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
            _column(of) for of in (element.get_labels(*names), element.get_predictions(*names))
        )
        weight = _weight(element, self._key)
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
    (key,) = _keys((name,), model_name, output_name, example_weighted)
    return [metric_types.MetricComputation([key], [], _Ratio(key))]


class _Ratio(_Pooled):
    """[2]: of predictions, and of labels."""

    SHAPE = (2,)

    def add(self, sums, label, prediction, weight):
        return sums + np.array([(weight * prediction).sum(), (weight * label).sum()])

    def result(self, sums: np.ndarray) -> float:
        return float("nan") if np.isclose(sums[1], 0.0) else float(sums[0] / sums[1])


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
    name: str, model_name: str = "", output_name: str = "", example_weighted: bool = False
) -> metric_types.MetricComputations:
    (key,) = _keys((name,), model_name, output_name, example_weighted)
    user = metric_types.FeaturePreprocessor(feature_keys=[USER])
    return [
        metric_types.MetricComputation(keys=[key], preprocessors=[user], combiner=_UserRows(key))
    ]


class _UserRows(beam.CombineFn):
    """Gathers 17 bytes a row: a 64-bit hash of the user, prediction, whether positive, weight."""

    KEYS: tuple[str, ...] = (USER,)
    LABEL = "B"

    def __init__(self, key: metric_types.MetricKey):
        self._key = key

    def create_accumulator(self) -> tuple[array, array, array, array]:
        return array("Q"), array("f"), array(self.LABEL), array("f")

    def add_input(self, rows, element: metric_types.StandardMetricInputs):
        names = self._key.model_name, self._key.output_name
        label = _column(element.get_labels(*names))
        weight = _weight(element, self._key)
        ids = zip(*(np.ravel(element.features[key]).tolist() for key in self.KEYS))
        rows[0].extend(_hashed(*one) for one in ids)
        _extend(rows[1], _column(element.get_predictions(*names)))
        _extend(rows[2], label if self.LABEL == "f" else label > 0.5)
        _extend(rows[3], np.ones(len(label)) if weight is None else weight)
        return rows

    def merge_accumulators(self, accumulators: Iterable):
        merged = self.create_accumulator()
        for rows in accumulators:
            for column, values in zip(merged, rows, strict=True):
                column.extend(values)
        return merged

    def extract_output(self, rows) -> metric_types.MetricsDict:
        return {self._key: group_auc(*(np.frombuffer(column, column.typecode) for column in rows))}


@functools.lru_cache(1 << 16)
def _hashed(*ids: bytes) -> int:
    """64 bits of the ids together; rows of a user stand together, and every slice asks again."""
    return int.from_bytes(hashlib.blake2b(b"\0".join(ids), digest_size=8).digest(), "little")


def group_auc(
    user: np.ndarray,
    prediction: np.ndarray,
    positive: np.ndarray,
    weight: np.ndarray | None = None,
) -> float:
    """GAUC of N rows, NaN where nobody has rows of both classes; see `pointwise.gauc`.

    Args:
        user: [N] whose row it is.
        prediction: [N] float.
        positive: [N] 0 or 1.
        weight: [N] float, what the rows count for; None: all of them 1.
    """
    value, users, _ = pointwise.gauc(
        positive.astype(np.float32), prediction, user.astype(np.int64), weight
    )
    return float(value) if users > 0 else float("nan")


class GroupNDCG(tfma.metrics.Metric):
    """One of `metrics.GROUP_METRICS`, of the rows of groups (`label.group`); its standard error.

    Rows are gathered once for all of them. In a slice a group is those of its rows that the slice
    has. The standard error takes the groups as drawn one by one.

    Args:
        name: which.
    """

    def __init__(self, name: str):
        super().__init__(metric_util.merge_per_key_computations(_group_ndcg), name=name)


def _group_ndcg(
    name: str, model_name: str = "", output_name: str = "", example_weighted: bool = False
) -> metric_types.MetricComputations:
    gathered, keys = (
        _groups(model_name, output_name, example_weighted),
        _keys((name, name + ERROR), model_name, output_name, example_weighted),
    )

    def result(found: metric_types.MetricsDict) -> metric_types.MetricsDict:
        return {key: found[gathered][key.name] for key in keys if key.name in found[gathered]}

    return [_group_rows(gathered), _derived(keys, result)]


def _groups(model_name: str, output_name: str, example_weighted: bool) -> metric_types.MetricKey:
    (key,) = _keys(("_groups",), model_name, output_name, example_weighted)
    return key


def _group_rows(key: metric_types.MetricKey) -> metric_types.MetricComputation:
    features = metric_types.FeaturePreprocessor(feature_keys=[USER, GROUP])
    return metric_types.MetricComputation([key], [features], _GroupRows(key))


class _GroupRows(_UserRows):
    """Gathers 24 bytes a row: a hash of user and group, prediction, label, weight, baseline."""

    KEYS, LABEL = (USER, GROUP), "f"

    def create_accumulator(self):
        return *super().create_accumulator(), array("f")

    def add_input(self, rows, element: metric_types.StandardMetricInputs):
        before = len(rows[0])
        super().add_input(rows, element)
        baseline = np.full(len(rows[0]) - before, np.nan)
        if self._key.model_name == tfma.CANDIDATE_KEY:
            baseline = _column(element.get_predictions(tfma.BASELINE_KEY, self._key.output_name))
        _extend(rows[4], baseline)
        return rows

    def extract_output(self, rows) -> metric_types.MetricsDict:
        owner, prediction, label, weight, baseline = (
            np.frombuffer(column, column.typecode) for column in rows
        )
        group = owner.astype(np.int64)
        ours, random, counted, of_group = (
            part.numpy() for part in lists.weighted_groups(label, prediction, group, weight)
        )
        values = lists.group_means(ours, random, counted, of_group)
        found = {name: float(value) for name, value in values.items()}
        if not found["groups"]:
            found |= dict.fromkeys(GROUP_METRICS[:3], float("nan"))

        def error(of: np.ndarray) -> tuple[float, float]:
            return standard_error(of_group[counted], of[counted])

        found["group_ndcg_10" + ERROR] = error(ours)[1]
        found["random_group_ndcg_10" + ERROR] = error(random)[1]
        found["lift_group_ndcg_10" + ERROR] = error(ours - random)[1]
        if not np.isnan(baseline).any():
            before = lists.group_ndcg(label, baseline, group)[0].numpy()
            change, of_change = error(ours - before)
            found["group_ndcg_10" + CHANGE] = change
            found["group_ndcg_10" + CHANGE + ERROR] = of_change
        return {self._key: found}
