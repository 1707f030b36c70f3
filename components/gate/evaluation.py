"""The gate: what the Evaluator measures, slices and holds to bounds, and how its verdict reads."""

import base64
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.gate.config import SLICES, GateConfig, required
from components.gate.metrics import gathered, groups, means, pooled
from components.gate.metrics.inputs import CHANGE, ERROR
from models.names import metrics
from models.names.metrics import MetricSet

OVERALL = "overall"
LAST_BLESSED = "the last blessed model"
EXACT = "the exact ranking"
_FLOOR, _SLICE_FLOOR, _CHANGE, _USERS = "floor", "slice_floor", "change", "by_user"
_INDEX_FLOOR = "index_floor"


def eval_config(measured: MetricSet, gate: GateConfig) -> config_pb2.EvalConfig:
    """What the Evaluator does with a model.

    Most metrics are values of single rows that the model's own `evaluate` signature returns; TFMA
    averages and slices them. What the gate requires depends on standard errors, so the thresholds
    are of margins, which must not be negative.

    Args:
        measured: the metrics of the run.
        gate: what is required.
    """
    overall = config_pb2.SlicingSpec()
    declared = [_slicing(name) for name in gate.slices]
    floor = {"of": measured.lift, "z": gate.z}
    change = {
        "of": measured.monitor,
        "bound": -gate.max_regression,
        "z": gate.z,
        "higher_is_better": measured.higher_is_better,
    }
    margins = {
        measured.lift: [("FloorMargin", _FLOOR, {**floor, "bound": gate.min_lift}, [overall])],
        measured.monitor: [("ChangeMargin", _CHANGE, change, [overall, *declared])],
    }
    if declared:
        margins[measured.lift].append(
            ("FloorMargin", _SLICE_FLOOR, {**floor, "bound": 0.0}, declared)
        )

    for name in measured.of_index:  # a share, which is wanted whatever the noise
        wanted = {"of": name, "z": 0.0, "bound": gate.min_index_recall}
        margins[name] = [("FloorMargin", _INDEX_FLOOR, wanted, [overall])]

    def with_margins(kind: str, name: str, of_groups: bool) -> list[config_pb2.MetricConfig]:
        """A metric, and what is required of it."""
        configs = [_metric(kind, name)]
        for margin, called, settings, slices in margins.get(name, ()):
            config = _metric(margin, called, of_groups=of_groups, **settings)
            # A threshold that names no slice would be applied to every one of them.
            threshold = config.per_slice_thresholds.add(slicing_specs=slices)
            threshold.threshold.value_threshold.lower_bound.value = 0.0
            configs.append(config)
        return configs

    specs = [
        config_pb2.MetricsSpec(
            output_names=[name], metrics=with_margins("RowMean", name, of_groups=False)
        )
        for name in measured.means
    ]
    if measured.pooled:
        pooled = [
            config
            for name, kind in measured.pooled.items()
            for config in with_margins(kind, name, of_groups=True)
        ]
        specs.append(config_pb2.MetricsSpec(output_names=[metrics.PREDICTION], metrics=pooled))
    if measured.of_lists:
        shown = [_metric("OfLists", name) for name in measured.of_lists]
        specs.append(config_pb2.MetricsSpec(output_names=[metrics.RECOMMENDED], metrics=shown))
    # Rows are counted, and users averaged, as they are, whatever they weigh.
    specs.append(
        config_pb2.MetricsSpec(
            output_names=measured.means[:1],
            metrics=[
                _metric("RowCount", "example_count"),
                _metric("ByUser", _USERS, outputs=list(measured.means)),
            ],
            example_weights=config_pb2.ExampleWeightOptions(unweighted=True),
        )
    )
    outputs = [
        *measured.means,
        *([metrics.PREDICTION] if measured.pooled else []),
        *([metrics.RECOMMENDED] if measured.of_lists else []),
    ]
    names = dict.fromkeys((*SLICES, *(name.partition(":")[0] for name in gate.slices)))
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                signature_name="evaluate",
                # Of no type, TFMA would load the model to see whether it is one of Keras'.
                model_type="tf_generic",
                label_keys=dict.fromkeys(outputs, measured.label),
                example_weight_key=measured.weight or "",
            )
        ],
        slicing_specs=[overall, *(config_pb2.SlicingSpec(feature_keys=[name]) for name in names)],
        metrics_specs=specs,
    )


def _slicing(name: str) -> config_pb2.SlicingSpec:
    """The rows of a slice as a run names it: `activity`, or `activity:0`."""
    feature, colon, value = name.partition(":")
    if colon:
        return config_pb2.SlicingSpec(feature_values={feature: value})
    return config_pb2.SlicingSpec(feature_keys=[feature])


def _metric(kind: str, name: str, **settings: Any) -> config_pb2.MetricConfig:
    ours = (each.__name__ for each in (means, gathered, pooled, groups) if hasattr(each, kind))
    return config_pb2.MetricConfig(
        class_name=kind,
        module=next(ours, ""),  # which is TFMA
        config=json.dumps({"name": name, **settings}),
    )


@dataclass
class Threshold:
    """What was required of a slice, and what was measured there.

    Attributes:
        metric: the monitored metric.
        slice: `overall`, or `name:value`.
        against: what it is compared with: the task's reference, `LAST_BLESSED` or, of an index,
            `EXACT`.
        value: by how much the model is better, negative where it is worse; None where there is
            nothing to compare with. Of an index, the share that it finds.
        standard_error: of the value, over the rows.
        bound: the least value that is let through.
        z: the standard errors that count as noise.
    """

    metric: str
    slice: str
    against: str
    value: float | None
    standard_error: float | None
    bound: float
    z: float

    @property
    def met(self) -> bool:
        """Whether the value reaches the bound; true where there is none."""
        return self.value is None or self.value >= self.bound

    def __str__(self) -> str:
        """One sentence: what was measured, what was required, by how much it fell short."""
        if self.value is None:
            return f"{self._what}: no test row is in this slice"
        error = "" if self.standard_error is None else f" (± {self.standard_error:.4f})"
        than = "of" if self._of_index else "than"
        return (
            f"{self._what}: {self._worded(self.value)} {than} {self.against}'s{error}; required: "
            f"{self.requirement}; short by {self.bound - self.value:.4f}"
        )

    @property
    def requirement(self) -> str:
        """The bound in words, and whether it is the noise."""
        side = "least" if self.bound > 0 or self._of_index else "most"
        noise = self.standard_error is not None and math.isclose(
            abs(self.bound), self.z * self.standard_error
        )
        return f"at {side} {self._worded(self.bound)}" + (
            f", {self.z:g} standard errors" if noise and self.bound else ""
        )

    @property
    def _of_index(self) -> bool:
        return self.against == EXACT

    def _worded(self, value: float) -> str:
        return f"{value:.4f}" if self._of_index else _difference(value)

    @property
    def _what(self) -> str:
        return self.metric if self.slice == OVERALL else f"{self.metric} of {self.slice}"


def _difference(value: float) -> str:
    """`0.1424 worse`, never `-0.1424 better`."""
    return f"{abs(value):.4f} {'better' if value > 0 else 'worse'}"


@dataclass
class Verdict:
    """What the Evaluator found.

    Attributes:
        metrics: slice (`overall` or `name:value`) -> metric -> mean over its rows.
        errors: slice -> metric -> standard error of that mean.
        baseline: the means of the last blessed model; empty when there was none.
        counts: slice -> number of rows.
        blessed: whether every threshold held.
        thresholds: all of them.
        failures: those that did not hold.
    """

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    errors: dict[str, dict[str, float]] = field(default_factory=dict)
    baseline: dict[str, dict[str, float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    blessed: bool = False
    thresholds: list[Threshold] = field(default_factory=list)
    failures: list[Threshold] = field(default_factory=list)


def read_verdict(evaluation_uri: str, blessed: bool) -> Verdict:
    """Reads the Evaluator's output folder."""
    verdict, has_baseline = Verdict(blessed=blessed), _has_baseline(evaluation_uri)
    result = _load(evaluation_uri, tfma.CANDIDATE_KEY if has_baseline else None)
    values = _numbers(result)
    verdict.metrics, verdict.errors = _means(values), _errors(values)
    verdict.counts = {
        name: int(row["example_count"]) for name, row in values.items() if "example_count" in row
    }
    if has_baseline:
        verdict.baseline = _means(_numbers(_load(evaluation_uri, tfma.BASELINE_KEY)))
    verdict.thresholds = list(_thresholds(result.config, values, has_baseline))
    verdict.failures = [threshold for threshold in verdict.thresholds if not threshold.met]
    for missing in tfma.load_validation_result(evaluation_uri).missing_slices:
        name = ",".join((*missing.feature_keys, *map(":".join, missing.feature_values.items())))
        first = verdict.thresholds[0]
        verdict.failures.append(Threshold(first.metric, name, first.against, None, None, 0.0, 0.0))
    return verdict


def read_by_user(evaluation_uri: str) -> bytes:
    """What the model reached for each test user, as `components.gate.comparison.read` takes it."""
    result = _load(evaluation_uri, tfma.CANDIDATE_KEY if _has_baseline(evaluation_uri) else None)
    (found,) = (
        values[_USERS]["bytesValue"]
        for key, outputs in result.slicing_metrics
        if not key
        for sub_keys in outputs.values()
        for values in sub_keys.values()
        if _USERS in values
    )
    return base64.b64decode(found)


def _load(uri: str, model_name: str | None) -> Any:
    return tfma.load_eval_result(uri, model_name=model_name)


def _has_baseline(uri: str) -> bool:
    config = json.loads((Path(uri) / "eval_config.json").read_text())
    return any(spec.get("isBaseline") for spec in config["evalConfig"]["modelSpecs"])


def _slice_name(key: Any) -> str:
    return OVERALL if not key else ",".join(f"{name}:{value}" for name, value in key)


def _numbers(result: Any) -> dict[str, dict[str, float]]:
    """Slice -> every number that TFMA wrote for it, by name."""
    slices: dict[str, dict[str, float]] = {}
    for key, outputs in result.slicing_metrics:
        row = slices.setdefault(_slice_name(key), {})
        for sub_keys in outputs.values():
            for values in sub_keys.values():
                # float(), since TFMA writes the text NaN for a metric that has no value in a slice.
                row.update(
                    {
                        name: float(value["doubleValue"])
                        for name, value in values.items()
                        if "doubleValue" in value
                    }
                )
    return slices


def _means(values: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The metrics alone.

    TFMA's differences from the baseline model are left out: `Verdict.baseline` has its values.
    """
    beside = ("example_count", "_diff", ERROR, CHANGE)
    margins = (_FLOOR, _SLICE_FLOOR, _CHANGE, _INDEX_FLOOR)
    return {
        name: metrics.with_roots(
            {
                metric: value
                for metric, value in row.items()
                if not metric.endswith(beside) and metric not in margins
            }
        )
        for name, row in values.items()
    }


def _errors(values: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {
            metric.removesuffix(ERROR): value
            for metric, value in row.items()
            if metric.endswith(ERROR) and not metric.endswith(CHANGE + ERROR)
        }
        for name, row in values.items()
    }


def _thresholds(
    config: config_pb2.EvalConfig, values: dict[str, dict[str, float]], has_baseline: bool
):
    """Every threshold of a configuration, held against what was measured; overall comes first."""
    found = []
    for spec in config.metrics_specs:
        for metric in spec.metrics:
            for bounds in metric.per_slice_thresholds:
                settings = json.loads(metric.config)
                output, change = settings["of"], settings["name"] == _CHANGE
                measured = output + CHANGE if change else output
                if settings["name"] == _INDEX_FLOOR:
                    named, against = output, EXACT
                else:
                    of_set = metrics.named(output)
                    named, against = of_set.monitor, LAST_BLESSED if change else of_set.reference
                for name, row in values.items():
                    if not any(_is_in(name, slicing) for slicing in bounds.slicing_specs):
                        continue
                    # Nothing counts in a slice that has a margin and no mean.
                    none = (change and not has_baseline) or (
                        math.isnan(row[measured]) and not math.isnan(row[settings["name"]])
                    )
                    error = float("nan") if none else row[measured + ERROR]
                    found.append(
                        Threshold(
                            metric=named,
                            slice=name,
                            against=against,
                            value=None if none else row[measured],
                            standard_error=None if math.isnan(error) else error,
                            bound=settings["bound"]
                            if none
                            else required(settings["bound"], settings["z"], error),
                            z=settings["z"],
                        )
                    )
    return sorted(
        found,
        key=lambda one: (
            one.slice != OVERALL,
            one.against == EXACT,
            one.against == LAST_BLESSED,
            one.slice,
        ),
    )


def _is_in(name: str, slicing: config_pb2.SlicingSpec) -> bool:
    """Whether a slice, by its name in a verdict, is one of those that a specification asks for."""
    keys, pairs = list(slicing.feature_keys), slicing.feature_values.items()
    if not keys and not pairs:
        return name == OVERALL
    return name.partition(":")[0] in keys or name in [":".join(pair) for pair in pairs]
