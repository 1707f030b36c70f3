"""The gate on real SavedModels of either kind of label, evaluated as the Evaluator does.

It judges a first time, then against a baseline.
"""

import glob
import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma

from components.gate import batches, comparison, evaluation
from components.gate.config import GateConfig, required
from components.gate.metrics.sums import Sums
from components.in_process import in_process_pipeline
from models.contract import tasks
from models.names import metrics, registry
from models.names.index import IndexConfig
from models.names.label import Label
from models.training.loop import TrainingLoop
from tests.models import toy

pytestmark = pytest.mark.usefixtures("loaded_once")

CLICK, RATING = Label(column="rating", threshold=4.0), Label(column="rating")
# A click of a 5 counts as five.
WEIGHTED = Label(column="rating", threshold=4.0, weight="rating")


def evaluate(
    data: toy.ToyData,
    measured,
    model: str,
    baseline: str | None,
    output: Path,
    **gate,
) -> evaluation.Verdict:
    """What the Evaluator does with the test rows."""
    config = evaluation.eval_config(measured, GateConfig(**{"min_lift": 0.01, **gate}))
    files = glob.glob(data.splits["test"])
    batches.evaluate(in_process_pipeline, files, config, model, baseline, str(output))
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
    loaded, paths, inside = data.load_once("fm"), {}, {}
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
    assert [one.against for one in first.thresholds] == [
        "the train mean",
        "the last blessed model",
    ]
    assert first.thresholds[1].value is None  # nothing to compare with, and so met

    users = comparison.read(io.BytesIO(evaluation.read_by_user(str(tmp_path / "first"))))
    assert users.rows.sum() == 216 and len(set(users.users)) == len(users.users) > 10
    values = users.means[measured.lift]
    if not measured.weight:  # users' rows are averaged as they are
        assert users.rows @ values / 216 == pytest.approx(overall[measured.lift], abs=1e-6)

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
    fall = inside["bad"][measured.monitor] - inside["good"][measured.monitor]
    failure = next(one for one in worse.failures if one.against == evaluation.LAST_BLESSED)
    # Errors fall where models get better: what rose is worse.
    assert failure.value == pytest.approx(-fall, abs=1e-5) and 0 < failure.standard_error < fall / 2
    assert failure.bound == -max(0.005, 2 * failure.standard_error)
    assert (
        f"{measured.monitor}: {fall:.4f} worse than the last blessed model's (± "
        f"{failure.standard_error:.4f}); required: at most {-failure.bound:.4f} worse"
        in str(failure)
    )
    assert f"short by {fall + failure.bound:.4f}" in str(failure)

    guarded = evaluate(
        data,
        measured,
        paths["bad"],
        paths["good"],
        tmp_path / "slices",
        min_lift=-1.0,
        max_regression=1.0,
        slices=("activity", "temperature:none"),
    )
    assert not guarded.blessed and guarded.failures[-1].slice == "temperature:none"
    assert "temperature:none: no test row is in this slice" in str(guarded.failures[-1])
    declared = {one.slice for one in guarded.thresholds} - {evaluation.OVERALL}
    assert declared == {name for name in guarded.metrics if name.startswith("activity:")}
    assert all(one.met for one in guarded.thresholds if one.against == evaluation.LAST_BLESSED)


def test_what_a_run_asks_for_is_what_the_exported_model_measures(toy_data, tmp_path):
    """The signature, TFMA and validation agree; a baseline that lacks a metric is no obstacle."""
    data, names = toy_data("event", 0.0), ("recall_50", "auc", "novelty_5", "coverage_5", "gini_5")
    loaded, module = data.load_once("popularity"), registry.load("popularity")
    model = module.Model(module.HyperParameters(), loaded)
    model.learn(TrainingLoop(model.hyper_parameters, loaded, seed=1))
    task = tasks.of("popularity", asked=names)
    task.exporter(model, loaded).export(str(tmp_path / "model"), rules=False)
    older = tasks.of("popularity").exporter(model, loaded)
    older.export(str(tmp_path / "older"), rules=False)
    inside = task.evaluation(loaded, "test").of(model)()
    verdict = evaluate(
        data,
        task.metrics,
        str(tmp_path / "model"),
        str(tmp_path / "older"),
        tmp_path / "verdict",
        min_lift=0.0,
    )
    assert verdict.blessed, verdict.failures  # as good as the older one, and as popularity
    overall = verdict.metrics[evaluation.OVERALL]
    for name in (*task.metrics.means, *names):
        np.testing.assert_allclose(overall[name], inside[name], atol=1e-5, err_msg=name)
    assert 0 < overall["coverage_5"] < 1 and 0 < overall["gini_5"] < 1 and overall["novelty_5"] > 0
    before = verdict.baseline[evaluation.OVERALL]
    assert before["ndcg_10"] == overall["ndcg_10"]
    assert all(not before.get(name, float("nan")) >= 0 for name in names)


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
    error = verdict.errors[evaluation.OVERALL][measured.lift]
    assert str(failure) == (
        f"{measured.monitor}: {lift:.4f} better than the train mean's (± {error:.4f}); required: "
        f"at least {lift + 0.02:.4f} better; short by 0.0200"
    )


def test_what_is_within_the_noise_is_no_lift_and_no_fall():
    """Four rows: their lifts are 0, 0, 0 and .4, their changes the same with the other sign.

    The mean is .1; the deviation is sqrt((3 * .1^2 + .3^2) / 3) = .2, the standard error .1. So two
    standard errors are .2: more than the lift, and more than the fall.
    """
    lifts = np.array([0.0, 0.0, 0.0, 0.4])
    ours, theirs = np.stack([lifts, np.ones(4)], 1), np.stack([np.zeros(4), 1.0 + lifts], 1)
    sums = Sums(names=("lift", "loss")).add(ours, theirs)
    assert sums.moments("lift") == pytest.approx((0.1, 0.1))
    # What is paired is the difference: a loss of 1 against 1 and 1.4.
    assert sums.moments("loss") == pytest.approx((1.0, 0.0))
    assert sums.moments("loss", paired=True) == pytest.approx((-0.1, 0.1))
    halves = [Sums(names=("lift", "loss")).add(ours[n::2], theirs[n::2]) for n in range(2)]
    assert halves[0].merged(halves[1]).moments("lift") == pytest.approx((0.1, 0.1))
    assert required(0.01, 2, 0.1) == required(0.01, 2, sums.moments("lift")[1]) == 0.2

    lift = evaluation.Threshold("ndcg_10", "overall", "popularity", 0.1, 0.1, 0.2, 2.0)
    assert str(lift) == (
        "ndcg_10: 0.1000 better than popularity's (± 0.1000); required: at least 0.2000 better, "
        "2 standard errors; short by 0.1000"
    )
    fall = evaluation.Threshold(
        "log_loss", "activity:0", evaluation.LAST_BLESSED, -0.1424, 0.001, -0.005, 2.0
    )
    assert str(fall) == (
        "log_loss of activity:0: 0.1424 worse than the last blessed model's (± 0.0010); required: "
        "at most 0.0050 worse; short by 0.1374"
    )
    share = evaluation.Threshold(
        "index_recall_100", "overall", evaluation.EXACT, 0.93, 0.01, 0.95, 0.0
    )
    assert not share.met and str(share) == (
        "index_recall_100: 0.9300 of the exact ranking's (± 0.0100); required: at least 0.9500; "
        "short by 0.0200"
    )


def test_an_index_is_held_to_its_floor(toy_data, tmp_path):
    """One that misses a part of the exact ranking is not blessed, whatever its metrics."""
    data = toy_data("event", 0.0)
    loaded, module = data.load_once("bpr_mf"), registry.load("bpr_mf")
    model = module.Model(module.HyperParameters(filter_seen=False), loaded)
    index = IndexConfig(kind="ivf", lists=6, probes=1)
    task = tasks.of("bpr_mf", asked=["index_recall_5"], index=index)
    task.exporter(model, loaded).export(str(tmp_path / "model"), rules=False)
    verdict = evaluate(
        data, task.metrics, str(tmp_path / "model"), None, tmp_path / "verdict", min_lift=-1.0
    )
    (failure,) = verdict.failures
    assert failure.metric == "index_recall_5" and failure.against == evaluation.EXACT
    assert failure.bound == 0.95 and failure.requirement == "at least 0.9500"
    assert failure.value == verdict.metrics[evaluation.OVERALL]["index_recall_5"]
    assert 0 < failure.value < 0.95 and not verdict.blessed


def test_noise_does_not_pass_the_floor():
    """Models that have learned nothing are better than the reference by chance, every second one.

    Their lifts are draws around 0; of 400 models about 2.3 % are beyond two standard errors.
    """
    random, passed, before = np.random.default_rng(5), 0, 0
    for _ in range(400):
        lifts = random.normal(0, 0.1, size=(200, 1))
        mean, error = Sums(names=("lift",)).add(lifts).moments("lift")
        passed += mean >= required(0.0001, 2.0, error)
        before += mean >= required(0.0001, 0.0, error)
    assert before > 160 and passed <= 20


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
    gate = GateConfig(min_lift=0.25, max_regression=0.5, z=3, slices="activity")
    config = evaluation.eval_config(metrics.of(task, label), gate)
    found = {
        (
            settings["of"],
            metric.class_name,
            settings["of_groups"],
            settings["bound"],
            settings["z"],
        ): sum(len(bounds.slicing_specs) for bounds in metric.per_slice_thresholds)
        for spec in config.metrics_specs
        for metric in spec.metrics
        if metric.per_slice_thresholds
        for settings in [json.loads(metric.config)]
    }
    of = name.startswith("group")
    assert found == {
        (name, "ChangeMargin", of, -0.5, 3.0): 2,  # overall and the slice
        (f"lift_{name}", "FloorMargin", of, 0.25, 3.0): 1,
        (f"lift_{name}", "FloorMargin", of, 0.0, 3.0): 1,
    }
