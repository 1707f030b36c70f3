"""Rows by batches against TFMA's own way, which takes them one by one: the same numbers."""

import io

import apache_beam as beam
import numpy as np
import pytest
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.gate import batches, comparison, evaluation
from components.gate.config import GateConfig
from components.gate.metrics.pooled import PooledAUC
from components.in_process import in_process_pipeline
from models.names import metrics
from models.names.label import GROUP, Label

# What TFMA's own classes are called that ours stand for.
OWN = {"PooledAUC": "AUC", "PooledCalibration": "Calibration", "RowCount": "ExampleCount"}


def rows(count: int, measured: metrics.MetricSet, seed: int) -> dict:
    """A batch as TFMA's extractors hand it on, of a model and its baseline.

    Of three rows the first has one `popularity`, the second none, the third two. Predictions lie
    on, between and outside of AUC's thresholds.
    """
    random = np.random.default_rng(seed)
    places = [[row, place] for row in range(count) for place in range([1, 0, 2][row % 3])]
    popularity = tfma.types.VarLenTensorValue(
        values=np.array([[b"head", b"tail"][place] for _, place in places], object),
        indices=np.array(places),
        dense_shape=np.array([count, 2]),
    )
    label = random.integers(2, size=(count, 1)).astype(np.float32)
    outputs = {}
    for model in (tfma.CANDIDATE_KEY, tfma.BASELINE_KEY):
        outputs[model] = {
            name: random.random((count, 1)).astype(np.float32) for name in measured.means
        }
        score = (label + random.normal(0, 0.7, label.shape)).astype(np.float32)
        score[::2] = np.round(score[::2], 1)
        outputs[model][metrics.PREDICTION] = score
    return {
        tfma.INPUT_KEY: np.array([b""] * count, object),
        tfma.FEATURES_KEY: {
            "user_id": np.array([[b"u%d" % n] for n in random.integers(9, size=count)], object),
            GROUP: np.array([[b"g%d" % n] for n in random.integers(3, size=count)], object),
            "activity": np.array([[b"1-9"], [b"10-49"]], object)[random.integers(2, size=count)],
            "popularity": popularity,
        },
        tfma.LABELS_KEY: label,
        tfma.EXAMPLE_WEIGHTS_KEY: random.integers(4, size=(count, 1)).astype(np.float32),
        tfma.PREDICTIONS_KEY: outputs,
    }


FOUND: dict = {}  # of the pipeline that runs: Beam copies what a function closes over


def gather(pair: tuple) -> None:
    FOUND.update([pair])


def measure(extracts: list[dict], config: config_pb2.EvalConfig, one_by_one: bool) -> dict:
    """Slice -> metric -> value."""
    FOUND.clear()
    with in_process_pipeline() as pipeline:
        elements = pipeline | beam.Create(extracts, reshuffle=False)
        if one_by_one:
            stages = [
                tfma.extractors.UnbatchExtractor(),
                tfma.extractors.SliceKeyExtractor(eval_config=config),
            ]
            for stage in stages:
                elements = elements | stage.stage_name >> stage.ptransform
        else:
            elements = elements | beam.FlatMap(batches.by_slice, list(config.slicing_specs))
        evaluator = tfma.evaluators.MetricsPlotsAndValidationsEvaluator(config)
        results = elements | evaluator.ptransform
        _ = results[tfma.METRICS_KEY] | beam.Map(gather)
    return dict(FOUND)


def test_sums_of_batches_are_those_of_rows_in_every_slice_and_for_both_models():
    measured = metrics.of(
        "score", Label(column="rating", threshold=4.0, weight="rating", group="session_id")
    )
    config = tfma.utils.update_eval_config_with_defaults(
        evaluation.eval_config(measured, GateConfig(slices=("activity",))), has_baseline=True
    )
    own = config_pb2.EvalConfig()
    own.CopyFrom(config)
    for spec in own.metrics_specs:
        for metric in spec.metrics:
            if metric.class_name in OWN:
                metric.class_name, metric.module = OWN[metric.class_name], ""
    parts = [rows(count, measured, seed) for seed, count in enumerate((3, 49, 70))]
    expected = measure(parts, own, one_by_one=True)
    found = measure(parts, config, one_by_one=False)
    # Overall, two of activity, two of popularity; nobody has a temperature.
    assert set(found) == set(expected) and len(found) == 5
    compared = 0
    for name, values in expected.items():
        assert set(found[name]) == set(values)
        for key, value in values.items():
            ours = found[name][key]
            if isinstance(value, bytes):
                users, same = (comparison.read(io.BytesIO(one)) for one in (ours, value))
                assert list(users.users) == list(same.users)
                for output in measured.means:
                    np.testing.assert_allclose(users.means[output], same.means[output], rtol=1e-6)
                continue
            np.testing.assert_allclose(ours, value, rtol=1e-12, atol=1e-15, err_msg=str(key))
            compared += 1
    # Of each slice and model: 3 means with errors, AUC, GAUC, calibration, rows, 5 of groups ...
    assert compared > 5 * 2 * 15


def test_an_auc_by_hand():
    """Of the pairs .2 < .6 and .8 > .6 of a negative (.6) one is right; a tie counts half."""
    (computation,) = PooledAUC().computations()
    combiner = computation.combiner

    def of(label, prediction):
        sums = combiner.add(
            combiner.create_accumulator(),
            np.array(label, float),
            np.array(prediction, float),
            np.ones(len(label)),
        )
        return combiner.result(sums)

    assert of([1, 1, 0], [0.2, 0.8, 0.6]) == 0.5
    assert of([1, 0], [0.8, 0.6]) == 1.0
    assert of([1, 0], [0.6, 0.6]) == 0.5
    assert of([1, 1], [0.2, 0.8]) == 0.0  # TFMA's answer where there is one class
    assert np.isnan(of([1, 0], [0.2, np.nan]))


def test_rows_that_differ_in_how_many_values_they_have():
    """The form of TFMA's for it: values of rows 0, 2 and 2; row 1 has none."""
    feature = tfma.types.VarLenTensorValue(
        values=np.array([b"a", b"b", b"c"], object),
        indices=np.array([[0, 0], [2, 0], [2, 1]]),
        dense_shape=np.array([3, 2]),
    )
    assert list(batches._values(feature, 3)) == [(b"a",), (), (b"b", b"c")]


@pytest.mark.parametrize("value", [b"head", b"tail"])
def test_a_batch_of_one_slice_is_handed_on_whole(value):
    labels = np.ones((2, 1), np.float32)
    extracts = {
        tfma.INPUT_KEY: np.array([b"", b""], object),
        tfma.FEATURES_KEY: {"popularity": np.array([[value], [value]], object)},
        tfma.LABELS_KEY: labels,
    }
    slicings = [config_pb2.SlicingSpec(), config_pb2.SlicingSpec(feature_keys=["popularity"])]
    made = list(batches.by_slice(extracts, slicings))
    keys = [tuple(one[tfma.SLICE_KEY_TYPES_KEY]) for one in made]
    assert sorted(keys) == [((),), ((("popularity", value.decode()),),)]
    assert all(one[tfma.LABELS_KEY] is labels for one in made)
