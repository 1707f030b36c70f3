"""An evaluation by TFMA that is handed batches, where it would take rows one by one.

Beam's own reader of TFRecords calls Python some twenty times a row, TFMA's extractors take a batch
apart, and its evaluator then calls Python for every row, slice and metric. Here files are read as
batches, and a batch becomes one element a slice: labels, predictions and weights stay arrays, which
the metrics of `components.gate.metrics` add up at once. Slices, thresholds and files of results are
TFMA's.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow_model_analysis as tfma
from apache_beam.utils import shared
from tensorflow_model_analysis.proto import config_pb2
from tensorflow_model_analysis.slicer import slicer_lib

from components.gate.metrics.inputs import USER
from components.tables import records
from models.names.label import GROUP

_KEPT = (tfma.LABELS_KEY, tfma.PREDICTIONS_KEY, tfma.EXAMPLE_WEIGHTS_KEY)
_ROWS_AT_ONCE = 1_000  # as many as TFX has in a batch at most: a query has a score for every item


def evaluate(
    make_pipeline: Callable[[], beam.Pipeline],
    files: list[str],
    eval_config: config_pb2.EvalConfig,
    model: str,
    baseline: str | None,
    output: str,
) -> None:
    """Measures a model, and the one before it, and writes what TFMA's readers read.

    Args:
        make_pipeline: makes the pipeline that does it.
        files: gzip TFRecords of the rows.
        eval_config: see `components.gate.evaluation.eval_config`.
        model: folder of its SavedModel.
        baseline: the same of the model that it is compared with; None: there is none, and nothing
            is required of the difference.
        output: folder of the results.
    """
    config = tfma.utils.update_eval_config_with_defaults(
        eval_config, has_baseline=baseline is not None, rubber_stamp=True
    )
    tfma.utils.verify_eval_config(config)
    models = [
        tfma.default_eval_shared_model(
            str(baseline if spec.is_baseline else model), model_name=spec.name, eval_config=config
        )
        for spec in config.model_specs
    ]
    with make_pipeline() as pipeline:
        _ = (
            pipeline
            | beam.Create(files)
            | beam.Reshuffle()
            | "Read" >> beam.FlatMap(_read, _columns(config)).with_output_types(pa.RecordBatch)
            | "ExtractEvaluateAndWriteResults"
            >> tfma.ExtractEvaluateAndWriteResults(
                eval_shared_model=models if baseline else models[0],
                eval_config=config,
                extractors=_extractors(config, models),
                output_path=output,
            )
        )


def _extractors(
    config: config_pb2.EvalConfig, models: list[tfma.types.EvalSharedModel]
) -> list[tfma.extractors.Extractor]:
    return [
        tfma.extractors.FeaturesExtractor(config),
        tfma.extractors.LabelsExtractor(config),
        tfma.extractors.ExampleWeightsExtractor(config),
        _extractor("Predict", beam.ParDo(_Predict(config, models))),
        # By the name of the stage that TFMA's evaluators come after.
        _extractor(
            tfma.extractors.SLICE_KEY_EXTRACTOR_STAGE_NAME,
            beam.FlatMap(by_slice, list(config.slicing_specs)),
        ),
    ]


def _extractor(stage: str, transform: beam.PTransform) -> tfma.extractors.Extractor:
    typed = transform.with_output_types(dict[str, Any])
    return tfma.extractors.Extractor(stage_name=stage, ptransform=typed)


def _columns(config: config_pb2.EvalConfig) -> set[str]:
    """Every column that is read of a row beside the model, which has the whole row."""
    names = {USER, GROUP}
    for model in config.model_specs:
        names |= {model.label_key, model.example_weight_key}
        names |= {*model.label_keys.values(), *model.example_weight_keys.values()}
    return names | _sliced_by(config.slicing_specs)


def _read(path: str, columns: set[str]) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a file as TFMA wants them: some columns, and the whole row as bytes."""
    for batch, rows in records.read_rows(path, columns, _ROWS_AT_ONCE):
        whole = records.as_list(pa.array(rows, pa.large_binary()))
        yield pa.RecordBatch.from_arrays(
            [*batch.columns, whole], [*batch.schema.names, tfma.ARROW_INPUT_COLUMN]
        )


class _Predict(beam.DoFn):
    """Asks the models' signatures, by the name of their argument.

    TFMA's extractor passes it by its place, which TensorFlow refuses with a message that holds the
    text of all rows, and takes all the same: four times the seconds of the answer.
    """

    def __init__(self, config: config_pb2.EvalConfig, models: list[tfma.types.EvalSharedModel]):
        super().__init__()
        self._models = [
            (spec.name, model.model_path, spec.signature_name)
            for spec, model in zip(config.model_specs, models, strict=True)
        ]
        self._handle = shared.Shared()
        self._signatures: dict[str, Any] = {}

    def setup(self) -> None:
        self._signatures = self._handle.acquire(self._load)

    def _load(self) -> "_Signatures":
        import tensorflow as tf

        return _Signatures(
            (name, tf.saved_model.load(path).signatures[signature])
            for name, path, signature in self._models
        )

    def process(self, extracts: dict[str, Any]) -> Iterator[dict[str, Any]]:
        import tensorflow as tf

        rows = tf.constant(extracts[tfma.INPUT_KEY], tf.string)
        found = {}
        for name, signature in self._signatures.items():
            (argument,) = signature.structured_input_signature[1]
            outputs = signature(**{argument: rows})
            found[name] = {output: value.numpy() for output, value in outputs.items()}
        single = found[self._models[0][0]] if len(found) == 1 else found
        yield {**extracts, tfma.PREDICTIONS_KEY: single}


class _Signatures(dict):
    """Name of a model -> signature; a dictionary that Beam may hold weakly."""


def by_slice(
    extracts: dict[str, Any], slicings: Sequence[config_pb2.SlicingSpec]
) -> Iterator[dict[str, Any]]:
    """One element a slice: the rows of a batch that are in it, in their order.

    TFMA is asked for the slices of a row once for all rows with the same values.

    Args:
        extracts: of a batch of B rows; labels, predictions and weights are arrays [B, ...], or
            dictionaries of them by output, or by model and output.
        slicings: what the evaluation is sliced by.
    """
    features, count = extracts[tfma.FEATURES_KEY], len(extracts[tfma.INPUT_KEY])
    kept = {key: extracts[key] for key in _KEPT if key in extracts}
    kept[tfma.FEATURES_KEY] = {name: features[name] for name in (USER, GROUP) if name in features}
    names = sorted(_sliced_by(slicings) & features.keys())
    values = zip(*(_values(features[name], count) for name in names)) if names else [()] * count
    alike: dict[tuple, list[int]] = {}
    for row, value in enumerate(values):
        alike.setdefault(value, []).append(row)
    specs = [tfma.slicer.SingleSliceSpec(spec=spec) for spec in slicings]
    members: dict[tuple, list[int]] = {}
    for value, rows in alike.items():
        present = {name: np.array(one) for name, one in zip(names, value) if one}
        for key in set(slicer_lib.get_slices_for_features_dicts([], present, specs)):
            members.setdefault(key, []).extend(rows)
    for key, rows in members.items():
        taken = kept if len(rows) == count else _take(kept, np.sort(rows))
        yield {**taken, tfma.SLICE_KEY_TYPES_KEY: slicer_lib.slice_keys_to_numpy_array([key])}


def _sliced_by(slicings: Iterable[config_pb2.SlicingSpec]) -> set[str]:
    return {name for one in slicings for name in (*one.feature_keys, *one.feature_values)}


def _values(feature: Any, count: int) -> Iterable[tuple]:
    """The values of each of `count` rows; TFMA has three forms for a feature."""
    if not isinstance(feature, np.ndarray):  # rows differ in how many they have
        lengths = np.bincount(feature.indices[:, 0], minlength=count)
        return map(tuple, np.split(feature.values, np.cumsum(lengths)[:-1]))
    if feature.ndim == 1:  # some rows do not have the column
        return (() if row is None else tuple(row) for row in feature)
    return map(tuple, feature.tolist())


def _take(values: Any, rows: np.ndarray) -> Any:
    if isinstance(values, dict):
        return {name: _take(value, rows) for name, value in values.items()}
    return None if values is None else values[rows]
