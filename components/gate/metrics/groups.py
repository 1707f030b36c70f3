"""Within users and within groups: GAUC, and NDCG of lists."""

import functools
import hashlib
from array import array
from collections.abc import Iterable

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types, metric_util

from components.gate.metrics.inputs import (
    CHANGE,
    ERROR,
    USER,
    column_of,
    derived,
    extend,
    keys_of,
    weight_of,
)
from components.gate.metrics.sums import standard_error
from models.measures import lists, pointwise
from models.names.label import GROUP
from models.names.metrics import GROUP_METRICS


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
    (key,) = keys_of((name,), model_name, output_name, example_weighted)
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
        label = column_of(element.get_labels(*names))
        weight = weight_of(element, self._key)
        ids = zip(*(np.ravel(element.features[key]).tolist() for key in self.KEYS))
        rows[0].extend(_hashed(*one) for one in ids)
        extend(rows[1], column_of(element.get_predictions(*names)))
        extend(rows[2], label if self.LABEL == "f" else label > 0.5)
        extend(rows[3], np.ones(len(label)) if weight is None else weight)
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
        groups_key(model_name, output_name, example_weighted),
        keys_of((name, name + ERROR), model_name, output_name, example_weighted),
    )

    def result(found: metric_types.MetricsDict) -> metric_types.MetricsDict:
        return {key: found[gathered][key.name] for key in keys if key.name in found[gathered]}

    return [group_rows(gathered), derived(keys, result)]


def groups_key(model_name: str, output_name: str, example_weighted: bool) -> metric_types.MetricKey:
    (key,) = keys_of(("_groups",), model_name, output_name, example_weighted)
    return key


def group_rows(key: metric_types.MetricKey) -> metric_types.MetricComputation:
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
            baseline = column_of(element.get_predictions(tfma.BASELINE_KEY, self._key.output_name))
        extend(rows[4], baseline)
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
        if self._key.model_name == tfma.CANDIDATE_KEY:
            before = lists.group_ndcg(label, baseline, group)[0].numpy()
            change, of_change = error(ours - before)
            found["group_ndcg_10" + CHANGE] = change
            found["group_ndcg_10" + CHANGE + ERROR] = of_change
        return {self._key: found}
