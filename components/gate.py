"""The gate: what the Evaluator measures, slices and holds to thresholds, and how its verdict reads."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow_model_analysis as tfma

from models import metrics

SLICES = ("activity", "popularity", "temperature")
OVERALL = "overall"


def eval_config(min_lift: float, max_regression: float) -> tfma.EvalConfig:
    """What the Evaluator does with a `retrieve` model.

    Every metric is a per-query value that the model's own `evaluate` signature returns; TFMA averages and slices it.

    Args:
        min_lift: lower bound of NDCG@10 minus popularity's.
        max_regression: how much NDCG@10 may fall short of the baseline model's.
    """
    specs = []
    for name in metrics.RETRIEVE_METRICS:
        config = tfma.MetricConfig(class_name="MeanPrediction", config=json.dumps({"name": name}))
        # Thresholds hold overall; a threshold without slices would be applied to every slice, however small.
        if name in (metrics.LIFT, metrics.MONITOR):
            overall = config.per_slice_thresholds.add(slicing_specs=[tfma.SlicingSpec()])
            if name == metrics.LIFT:
                overall.threshold.value_threshold.lower_bound.value = min_lift
            else:
                overall.threshold.change_threshold.direction = tfma.MetricDirection.HIGHER_IS_BETTER
                overall.threshold.change_threshold.absolute.value = -max_regression
        configs = [config, tfma.MetricConfig(class_name="ExampleCount")] if name == metrics.MONITOR else [config]
        specs.append(tfma.MetricsSpec(output_names=[name], metrics=configs))
    # The signature scores by itself; TFMA wants a label all the same and gets a number that every query has.
    labels = dict.fromkeys(metrics.RETRIEVE_METRICS, "timestamp")
    return tfma.EvalConfig(
        model_specs=[tfma.ModelSpec(signature_name="evaluate", label_keys=labels)],
        slicing_specs=[tfma.SlicingSpec(), *(tfma.SlicingSpec(feature_keys=[name]) for name in SLICES)],
        metrics_specs=specs,
    )


@dataclass
class Failure:
    """A threshold that was not met."""

    metric: str
    value: float
    bound: float
    kind: str

    def __str__(self) -> str:
        """One sentence: what was measured, what was required, by how much it fell short."""
        what = "more than popularity's" if self.kind == "value" else "against the last blessed model"
        name = "ndcg_10" if self.metric == metrics.LIFT else self.metric
        return (
            f"{name}: {self.value:+.4f} {what}; required: at least {self.bound:+.4f}; "
            f"short by {self.bound - self.value:.4f}"
        )


@dataclass
class Verdict:
    """What the Evaluator found.

    Attributes:
        metrics: slice (`overall` or `name:value`) -> metric -> mean over its queries.
        baseline: the same of the last blessed model; empty when there was none.
        counts: slice -> number of queries.
        blessed: whether every threshold held.
        failures: those that did not.
    """

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    baseline: dict[str, dict[str, float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    blessed: bool = False
    failures: list[Failure] = field(default_factory=list)


def read_verdict(evaluation_uri: str, blessed: bool) -> Verdict:
    """Reads the Evaluator's output folder."""
    verdict = Verdict(blessed=blessed)
    result = tfma.load_eval_result(evaluation_uri, model_name=tfma.CANDIDATE_KEY if _has_baseline(evaluation_uri) else None)
    verdict.metrics = _means(result)
    verdict.counts = _counts(result)
    if _has_baseline(evaluation_uri):
        verdict.baseline = _means(tfma.load_eval_result(evaluation_uri, model_name=tfma.BASELINE_KEY))
    for result in tfma.load_validation_result(evaluation_uri).metric_validations_per_slice:
        for failure in result.failures:
            verdict.failures.append(_failure(failure, verdict))
    return verdict


def _has_baseline(uri: str) -> bool:
    config = json.loads((Path(uri) / "eval_config.json").read_text())
    return any(spec.get("isBaseline") for spec in config["evalConfig"]["modelSpecs"])


def _slice_name(key: Any) -> str:
    return OVERALL if not key else ",".join(f"{name}:{value}" for name, value in key)


def _means(result: Any) -> dict[str, dict[str, float]]:
    slices: dict[str, dict[str, float]] = {}
    for key, outputs in result.slicing_metrics:
        row = slices.setdefault(_slice_name(key), {})
        for output, sub_keys in outputs.items():
            for values in sub_keys.values():
                if output in values and "doubleValue" in values[output]:
                    row[output] = values[output]["doubleValue"]
    return slices


def _counts(result: Any) -> dict[str, int]:
    counts = {}
    for key, outputs in result.slicing_metrics:
        for sub_keys in outputs.values():
            for values in sub_keys.values():
                if "example_count" in values:
                    counts[_slice_name(key)] = int(values["example_count"]["doubleValue"])
    return counts


def _failure(failure: Any, verdict: Verdict) -> Failure:
    name = failure.metric_key.name
    if failure.metric_threshold.HasField("change_threshold"):
        bound = failure.metric_threshold.change_threshold.absolute.value
        return Failure(name, failure.metric_value.double_value.value, bound, "change")
    bound = failure.metric_threshold.value_threshold.lower_bound.value
    return Failure(name, failure.metric_value.double_value.value, bound, "value")
