"""The gate: what the Evaluator measures, slices and holds to bounds, and how its verdict reads."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.gate import row_metrics
from models.names import metrics
from models.names.metrics import MetricSet

SLICES = ("activity", "popularity", "temperature")
OVERALL = "overall"


def eval_config(
    measured: MetricSet, min_lift: float, max_regression: float
) -> config_pb2.EvalConfig:
    """What the Evaluator does with a model.

    Most metrics are values of single rows that the model's own `evaluate` signature returns; TFMA
    averages and slices them.

    Args:
        measured: the metrics of the run.
        min_lift: lower bound of how much better than the reference the model is.
        max_regression: how much worse than the baseline model's its monitored metric may be.
    """

    def bounded(kind: str, name: str) -> config_pb2.MetricConfig:
        config = _metric(kind, name)
        # The empty slice is all rows. A threshold that names no slice would be applied to every one
        # of them, however few its rows.
        if name in (measured.lift, measured.monitor):
            overall = config.per_slice_thresholds.add(slicing_specs=[config_pb2.SlicingSpec()])
            if name == measured.lift:
                overall.threshold.value_threshold.lower_bound.value = min_lift
            else:
                change, better = overall.threshold.change_threshold, config_pb2.MetricDirection
                change.direction = (
                    better.HIGHER_IS_BETTER if measured.higher_is_better else better.LOWER_IS_BETTER
                )
                change.absolute.value = (
                    -max_regression if measured.higher_is_better else max_regression
                )
        return config

    specs = [
        config_pb2.MetricsSpec(output_names=[name], metrics=[bounded("RowMean", name)])
        for name in measured.means
    ]
    if measured.pooled:
        pooled = [bounded(kind, name) for name, kind in measured.pooled.items()]
        specs.append(config_pb2.MetricsSpec(output_names=[metrics.PREDICTION], metrics=pooled))
    # Rows are counted as they are, whatever they weigh.
    specs.append(
        config_pb2.MetricsSpec(
            output_names=measured.means[:1],
            metrics=[config_pb2.MetricConfig(class_name="ExampleCount")],
            example_weights=config_pb2.ExampleWeightOptions(unweighted=True),
        )
    )
    outputs = [*measured.means, *([metrics.PREDICTION] if measured.pooled else [])]
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                signature_name="evaluate",
                label_keys=dict.fromkeys(outputs, measured.label),
                example_weight_key=measured.weight or "",
            )
        ],
        slicing_specs=[
            config_pb2.SlicingSpec(),
            *(config_pb2.SlicingSpec(feature_keys=[name]) for name in SLICES),
        ],
        metrics_specs=specs,
    )


def _metric(kind: str, name: str) -> config_pb2.MetricConfig:
    module = row_metrics.__name__ if hasattr(row_metrics, kind) else ""  # "" for TFMA's own
    return config_pb2.MetricConfig(
        class_name=kind, module=module, config=json.dumps({"name": name})
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
        measured = metrics.named(self.metric)
        if self.kind == "value":
            what = f"better than {measured.reference}'s"
        else:
            what = "against the last blessed model"
        if self.kind == "change" and not measured.higher_is_better:
            bound, short = f"at most {self.bound:+.4f}", f"over by {self.value - self.bound:.4f}"
        else:
            bound, short = f"at least {self.bound:+.4f}", f"short by {self.bound - self.value:.4f}"
        return f"{measured.monitor}: {self.value:+.4f} {what}; required: {bound}; {short}"


@dataclass
class Verdict:
    """What the Evaluator found.

    Attributes:
        metrics: slice (`overall` or `name:value`) -> metric -> mean over its rows.
        baseline: the same of the last blessed model; empty when there was none.
        counts: slice -> number of rows.
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
    result = tfma.load_eval_result(
        evaluation_uri, model_name=tfma.CANDIDATE_KEY if _has_baseline(evaluation_uri) else None
    )
    verdict.metrics = _means(result)
    verdict.counts = _counts(result)
    if _has_baseline(evaluation_uri):
        verdict.baseline = _means(
            tfma.load_eval_result(evaluation_uri, model_name=tfma.BASELINE_KEY)
        )
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
        for sub_keys in outputs.values():
            for values in sub_keys.values():
                # Left out are counts and TFMA's differences from the baseline model, whose own
                # values `Verdict.baseline` has. float(), since TFMA writes the text NaN for a
                # metric that has no value in a slice.
                means = {
                    name: float(value["doubleValue"])
                    for name, value in values.items()
                    if "doubleValue" in value
                }
                row.update(
                    {
                        name: value
                        for name, value in means.items()
                        if not name.endswith(("example_count", "_diff"))
                    }
                )
    return {name: metrics.with_roots(row) for name, row in slices.items()}


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
