"""Metrics for TFMA: means of outputs, what the gate asks of them, values by user, GAUC, lists.

TFMA calls Python for every row, slice and metric: its own mean of an output looks labels, weights
and model names up each time, so that a dozen of them take most of an evaluation. Here the outputs
of a row are added up once for all of its metrics.
"""

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
_BUFFER = 512  # rows that are added up at once


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
    sums = Sums(names=("it",))
    for one, value in zip(weight.tolist(), values.tolist(), strict=True):
        sums.add([value], None, one)
    return sums.flush().moments("it")


@dataclass
class Sums:
    """Sums over rows, float64: of outputs, of their squares, and of differences from a baseline.

    Attributes:
        rows: how many rows are in the sums.
        weights: [2] what they weigh together, and the sum of the squares of that.
        names: of the outputs, in the order of the columns.
        totals: [6, outputs]: of values, then of differences: w x, w^2 x, w^2 x^2.
        buffer: weights and values of rows that are not in the sums yet.
        baseline: the values of the baseline model; empty without one.
    """

    rows: int = 0
    names: tuple[str, ...] = ()
    weights: np.ndarray = field(default_factory=lambda: np.zeros(2))
    totals: np.ndarray = field(default_factory=lambda: np.zeros((6, 0)))
    buffer: list[list[float]] = field(default_factory=list)
    baseline: list[list[float]] = field(default_factory=list)

    def add(self, values: list[float], baseline: list[float] | None, weight: float = 1.0) -> None:
        """Adds one row."""
        self.buffer.append([weight, *values])
        if baseline is not None:
            self.baseline.append(baseline)
        if len(self.buffer) >= _BUFFER:
            self.flush()

    def flush(self) -> "Sums":
        """Takes the buffered rows into the sums."""
        if self.buffer:
            weight, values = np.split(np.array(self.buffer), [1], axis=1)
            differences = values - np.array(self.baseline) if self.baseline else 0.0 * values
            sums = [
                part.sum(axis=0)
                for of in (values, differences)
                for part in (weight * of, weight**2 * of, (weight * of) ** 2)
            ]
            self.totals = (self.totals if self.rows else 0.0) + np.array(sums)
            self.weights = self.weights + np.array([weight.sum(), (weight**2).sum()])
            self.rows += len(values)
            self.buffer, self.baseline = [], []
        return self

    def merged(self, other: "Sums") -> "Sums":
        """Both together."""
        first, second = self.flush(), other.flush()
        if not first.rows or not second.rows:
            return first if first.rows else second
        return Sums(
            first.rows + second.rows,
            first.names,
            first.weights + second.weights,
            first.totals + second.totals,
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
        if self._model == tfma.CANDIDATE_KEY:
            # A baseline of an older run may lack an output that is new.
            baseline = element.get_predictions(tfma.BASELINE_KEY)
            before = [_number(baseline[name]) if name in baseline else np.nan for name in names]
        accumulator.add(
            [_number(outputs[name]) for name in names], before, _weight(element, self._key)
        )
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Sums]) -> Sums:
        merged = self.create_accumulator()
        for more in accumulators:
            merged = merged.merged(more)
        return merged

    def extract_output(self, accumulator: Sums) -> metric_types.MetricsDict:
        return {self._key: accumulator.flush()}


def _weight(element: metric_types.StandardMetricInputs, key: metric_types.MetricKey) -> float:
    """What a row counts for: 1 where the run names no weights."""
    if not key.example_weighted:
        return 1.0
    return _number(element.get_example_weights(key.model_name, key.output_name))


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
    name: str, model_name: str = "", output_name: str = "", example_weighted: bool = False
) -> metric_types.MetricComputations:
    key = metric_types.MetricKey(
        name, model_name=model_name, output_name=output_name, example_weighted=example_weighted
    )
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
        ids = b"\0".join(np.ravel(element.features[key])[0] for key in self.KEYS)
        owner = hashlib.blake2b(ids, digest_size=8).digest()
        rows[0].append(int.from_bytes(owner, "little"))
        rows[1].append(float(np.ravel(element.get_predictions(*names))[0]))
        label = float(np.ravel(element.get_labels(*names))[0])
        rows[2].append(label if self.LABEL == "f" else label > 0.5)
        rows[3].append(_weight(element, self._key))
        return rows

    def merge_accumulators(self, accumulators: Iterable):
        merged = self.create_accumulator()
        for rows in accumulators:
            for column, values in zip(merged, rows, strict=True):
                column.extend(values)
        return merged

    def extract_output(self, rows) -> metric_types.MetricsDict:
        return {self._key: group_auc(*(np.frombuffer(column, column.typecode) for column in rows))}


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
        super().add_input(rows, element)
        baseline = float("nan")
        if self._key.model_name == tfma.CANDIDATE_KEY:
            baseline = _number(element.get_predictions(tfma.BASELINE_KEY, self._key.output_name))
        rows[4].append(baseline)
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
