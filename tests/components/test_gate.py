"""The gate on real SavedModels of either kind of label, evaluated as the Evaluator does.

It judges a first time, then against a baseline.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tfx_bsl.public import tfxio

from components.gate import evaluation
from components.in_process import in_process_pipeline
from models.contract import tasks
from models.names import metrics, registry
from models.names.label import Label
from models.training.loop import TrainingLoop
from tests.models import toy

CLICK, RATING = Label(column="rating", threshold=4.0), Label(column="rating")
# A click of a 5 counts as five.
WEIGHTED = Label(column="rating", threshold=4.0, weight="rating")


def evaluate(
    data: toy.ToyData,
    measured,
    model: str,
    baseline: str | None,
    output: Path,
    min_lift: float = 0.01,
) -> evaluation.Verdict:
    """What TFX's Evaluator does with the test rows."""
    config = evaluation.eval_config(measured, min_lift=min_lift, max_regression=0.005)
    config = tfma.utils.update_eval_config_with_defaults(
        config, has_baseline=bool(baseline), rubber_stamp=True
    )
    paths = {True: baseline, False: model}
    shared = [
        tfma.default_eval_shared_model(
            eval_saved_model_path=paths[spec.is_baseline], model_name=spec.name, eval_config=config
        )
        for spec in config.model_specs
    ]
    source = tfxio.TFExampleRecord(
        data.splits["test"],
        raw_record_column_name=tfma.ARROW_INPUT_COLUMN,
        telemetry_descriptors=["test"],
    )
    with in_process_pipeline() as pipeline:
        _ = (
            pipeline
            | source.BeamSource()
            | tfma.ExtractEvaluateAndWriteResults(
                eval_shared_model=shared if baseline else shared[0],
                eval_config=config,
                output_path=str(output),
            )
        )
    blessed = tfma.load_validation_result(str(output)).validation_ok
    return evaluation.read_verdict(str(output), blessed)


@pytest.fixture(scope="module", params=[WEIGHTED, RATING], ids=["clicks", "ratings"])
def exported(request, toy_data, tmp_path_factory):
    """Toy data, and a good and a bad model on it, exported.

    With them comes what the good one's own evaluation says.
    """
    folder = tmp_path_factory.mktemp("gate")
    data = toy_data("event", 0.0, request.param)
    task, module = tasks.of("fm", request.param), registry.load("fm")
    loaded, paths, inside = data.load("fm"), {}, {}
    for name, epochs in (("good", 12), ("bad", 1)):
        tf.keras.utils.set_random_seed(1)
        model = module.Model(
            module.HyperParameters(epochs=epochs, batch_size=128, learning_rate=0.01, stddev=0.1),
            loaded,
        )
        model.learn(TrainingLoop(model.hyper_parameters, loaded, seed=1))
        paths[name] = str(folder / name)
        task.exporter(model, loaded).export(paths[name])
        inside[name] = task.evaluation(loaded, "test").of(model)()
    return data, task.metrics, paths, inside


def test_evaluated_twice(exported, tmp_path):
    data, measured, paths, inside = exported
    first = evaluate(data, measured, paths["good"], None, tmp_path / "first")
    assert first.blessed and not first.baseline and not first.failures
    overall = first.metrics[evaluation.OVERALL]
    for name in (*measured.means, *measured.shown):
        # AUC is TFMA's, interpolated between thresholds; the others are the same sums.
        np.testing.assert_allclose(
            overall[name], inside["good"][name], atol=2e-3 if name == "auc" else 1e-5, err_msg=name
        )
    assert first.counts[evaluation.OVERALL] == 216 and any(
        name.startswith("activity:") for name in first.metrics
    )

    second = evaluate(data, measured, paths["good"], paths["bad"], tmp_path / "second")
    assert second.blessed and set(second.baseline[evaluation.OVERALL]) >= set(measured.shown)
    np.testing.assert_allclose(
        second.baseline[evaluation.OVERALL][measured.monitor],
        inside["bad"][measured.monitor],
        atol=1e-5,
    )
    assert json.dumps(asdict(second))

    worse = evaluate(data, measured, paths["bad"], paths["good"], tmp_path / "worse")
    assert not worse.blessed
    by_metric = {failure.metric: failure for failure in worse.failures}
    fall = inside["bad"][measured.monitor] - inside["good"][measured.monitor]
    failure = by_metric[measured.monitor]
    assert failure.kind == "change" and abs(failure.value - fall) < 1e-5
    assert (
        f"{measured.monitor}: {fall:+.4f} against the last blessed model; required: at most "
        "+0.0050; over by" in str(failure)
    )


def test_the_floor_is_the_train_mean(exported, tmp_path):
    """A lift that nobody reaches.

    The verdict names the metric, the reference and by how much it fell short.
    """
    data, measured, paths, inside = exported
    lift = inside["good"][measured.lift]
    verdict = evaluate(
        data, measured, paths["good"], None, tmp_path / "floor", min_lift=lift + 0.02
    )
    assert not verdict.blessed
    (failure,) = verdict.failures
    assert str(failure) == (
        f"{measured.monitor}: {lift:+.4f} better than the train mean's; required: at least "
        f"{lift + 0.02:+.4f}; short by 0.0200"
    )


@pytest.mark.parametrize(
    "task, label, name",
    [
        ("retrieve", None, "ndcg_10"),
        ("score", CLICK, "log_loss"),
        ("score", RATING, "mse"),
        ("score", Label(column="rating", group="session_id"), "group_ndcg_10"),
    ],
)
def test_the_monitored_metric_has_the_change_threshold_and_the_lift_the_floor(task, label, name):
    config = evaluation.eval_config(metrics.of(task, label), 0.25, 0.5)
    bounds = {}
    for spec in config.metrics_specs:
        for metric in spec.metrics:
            for threshold in metric.per_slice_thresholds:
                bounds[json.loads(metric.config)["name"]] = threshold.threshold
    assert set(bounds) == {name, f"lift_{name}"}
    assert bounds[f"lift_{name}"].value_threshold.lower_bound.value == 0.25
    assert bounds[name].change_threshold.absolute.value == (-0.5 if "ndcg" in name else 0.5)
