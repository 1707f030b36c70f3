"""Metrics for TFMA: the mean over the rows of an output of the model, GAUC, NDCG within groups.

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

from models.measures import lists, pointwise
from models.names import metrics
from models.names.label import GROUP

USER = "user_id"


class RowMean(tfma.metrics.Metric):
    """The mean over the rows of one output of the model, a number a row, weighted as rows are.

    The metrics of a specification name the output.

    Args:
        name: of the metric.
    """

    def __init__(self, name: str):
        super().__init__(metric_util.merge_per_key_computations(_row_mean), name=name)


def _row_mean(
    name: str, model_name: str = "", output_name: str = "", example_weighted: bool = False
) -> metric_types.MetricComputations:
    sums = metric_types.MetricKey(
        "_row_sums", model_name=model_name, example_weighted=example_weighted
    )
    key = metric_types.MetricKey(
        name, model_name=model_name, output_name=output_name, example_weighted=example_weighted
    )

    def result(found: metric_types.MetricsDict) -> metric_types.MetricsDict:
        rows, totals = found[sums]
        return {key: totals[output_name] / rows if rows else float("nan")}

    # TFMA makes equal computations once, and the sums are the same for every output.
    return [
        metric_types.MetricComputation(keys=[sums], preprocessors=[], combiner=_RowSums(sums)),
        metric_types.DerivedMetricComputation(keys=[key], result=result),
    ]


class _RowSums(beam.CombineFn):
    """What the rows weigh together, and the weighted sum of each output."""

    def __init__(self, key: metric_types.MetricKey):
        self._key = key

    def create_accumulator(self) -> tuple[float, dict[str, float]]:
        return 0.0, {}

    def add_input(self, accumulator, element: metric_types.StandardMetricInputs):
        rows, totals = accumulator
        weight = _weight(element, self._key)
        for name, value in element.get_predictions(self._key.model_name).items():
            totals[name] = totals.get(name, 0.0) + weight * float(np.ravel(value)[0])
        return rows + weight, totals

    def merge_accumulators(self, accumulators: Iterable):
        rows, totals = self.create_accumulator()
        for more, sums in accumulators:
            rows += more
            for name, value in sums.items():
                totals[name] = totals.get(name, 0.0) + value
        return rows, totals

    def extract_output(self, accumulator) -> metric_types.MetricsDict:
        return {self._key: accumulator}


def _weight(element: metric_types.StandardMetricInputs, key: metric_types.MetricKey) -> float:
    """What a row counts for: 1 where the run names no weights."""
    if not key.example_weighted:
        return 1.0
    return float(np.ravel(element.get_example_weights(key.model_name, key.output_name))[0])


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
    """One of `metrics.GROUP_METRICS`, of the rows of groups (`label.group`).

    Rows are gathered once for all of them. In a slice a group is those of its rows that the slice
    has.

    Args:
        name: which.
    """

    def __init__(self, name: str):
        super().__init__(metric_util.merge_per_key_computations(_group_ndcg), name=name)


def _group_ndcg(
    name: str, model_name: str = "", output_name: str = "", example_weighted: bool = False
) -> metric_types.MetricComputations:
    place = {
        "model_name": model_name,
        "output_name": output_name,
        "example_weighted": example_weighted,
    }
    gathered, key = (
        metric_types.MetricKey("_groups", **place),
        metric_types.MetricKey(name, **place),
    )
    features = metric_types.FeaturePreprocessor(feature_keys=[USER, GROUP])

    def result(found: metric_types.MetricsDict) -> metric_types.MetricsDict:
        return {key: found[gathered][name]}

    return [
        metric_types.MetricComputation(
            keys=[gathered], preprocessors=[features], combiner=_GroupRows(gathered)
        ),
        metric_types.DerivedMetricComputation(keys=[key], result=result),
    ]


class _GroupRows(_UserRows):
    """Gathers 20 bytes a row: a hash of user and group, prediction, label and weight."""

    KEYS, LABEL = (USER, GROUP), "f"

    def extract_output(self, rows) -> metric_types.MetricsDict:
        group, prediction, label, weight = (
            np.frombuffer(column, column.typecode) for column in rows
        )
        values = lists.group_metrics(label, prediction, group.astype(np.int64), weight)
        found = {name: float(value) for name, value in values.items()}
        if not found["groups"]:
            found |= dict.fromkeys(metrics.GROUP_METRICS[:3], float("nan"))
        return {self._key: found}
