"""The mean of an output over the rows, how many there are, and what the gate requires."""

from collections.abc import Callable

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types, metric_util

from components.gate.config import required
from components.gate.metrics.groups import group_rows, groups_key
from components.gate.metrics.inputs import CHANGE, ERROR, derived, keys_of
from components.gate.metrics.sums import row_sums, sums_key


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
        sums_key(model_name, example_weighted),
        keys_of((name, name + ERROR), model_name, output_name, example_weighted),
    )

    def result(found: metric_types.MetricsDict) -> metric_types.MetricsDict:
        mean, standard_error = found[sums].moments(output_name)
        return {key: mean, error: standard_error}

    return [row_sums(sums), derived([key, error], result)]


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
    sums = sums_key(model_name, example_weighted)
    (key,) = keys_of((name,), model_name, output_name, example_weighted)
    return [row_sums(sums), derived([key], lambda found: {key: float(found[sums].rows)})]


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
    (key,) = keys_of((name,), *place)

    def result(found: metric_types.MetricsDict) -> metric_types.MetricsDict:
        mean, error, counts = moments(found, of)
        return {key: _margin(mean, bound, z, error, counts)}

    return [gathered, derived([key], result)]


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
    keys = keys_of((name, of + CHANGE, of + CHANGE + ERROR), *place)
    if model_name != tfma.CANDIDATE_KEY:
        return [gathered, derived(keys[:1], lambda found: {keys[0]: 0.0})]

    def result(found: metric_types.MetricsDict) -> metric_types.MetricsDict:
        mean, error, counts = moments(found, of, paired=True)
        better = mean if higher_is_better else -mean
        return dict(zip(keys, (_margin(better, bound, z, error, counts), better, error)))

    return [gathered, derived(keys, result)]


def _margin(mean: float, bound: float, z: float, error: float, counts: bool) -> float:
    """By how much a mean is above what is required; 0 where nothing counts and none is asked for.

    Nothing counts in a slice whose rows all weigh 0, or whose groups have no positive: it has no
    fault, as it has no proof. A mean that is NaN though something counts is a fault.
    """
    return 0.0 if bound <= 0 and not counts else mean - required(bound, z, error)


def _moments(
    of_groups: bool, model_name: str, output_name: str, example_weighted: bool
) -> tuple[metric_types.MetricComputation, Callable[..., tuple[float, float, bool]]]:
    """What gathers rows or groups, and what reads a mean of that, its error and if any counts."""
    if not of_groups:
        sums = sums_key(model_name, example_weighted)

        def of_rows(found: metric_types.MetricsDict, of: str, paired: bool = False):
            return *found[sums].moments(of, paired), bool(found[sums].weights[0])

        return row_sums(sums), of_rows
    groups = groups_key(model_name, output_name, example_weighted)

    def of_found(found: metric_types.MetricsDict, of: str, paired: bool = False):
        name = of + CHANGE if paired else of
        return found[groups][name], found[groups][name + ERROR], bool(found[groups]["groups"])

    return group_rows(groups), of_found
