"""What TFMA is handed: the rows of a slice by batches, where it would take them one by one.

TFMA's own extractors take a batch apart, and its evaluator then calls Python for every row, slice
and metric. Here a batch becomes one element a slice: labels, predictions and weights stay arrays,
which the metrics of `components.gate.metrics` add up at once. Slices, thresholds and files of
results are TFMA's.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import tensorflow_model_analysis as tfma
from apache_beam.utils import shared
from tensorflow_model_analysis.proto import config_pb2
from tensorflow_model_analysis.slicer import slicer_lib

from components.gate.metrics.inputs import USER
from models.names.label import GROUP

_KEPT = (tfma.LABELS_KEY, tfma.PREDICTIONS_KEY, tfma.EXAMPLE_WEIGHTS_KEY)


def custom_extractors(
    eval_shared_model: Any, eval_config: config_pb2.EvalConfig, tensor_adapter_config: Any = None
) -> list[tfma.extractors.Extractor]:
    """The extractors of an evaluation; TFX's Evaluator asks for them by this name.

    Args:
        eval_shared_model: the model, or a list of it and its baseline.
        eval_config: with defaults filled in, as TFX does.
        tensor_adapter_config: how rows become tensors; of no use here, where models parse rows.
    """
    return [
        _extractor("SelectColumns", beam.Map(_select, _columns(eval_config))),
        tfma.extractors.FeaturesExtractor(eval_config),
        tfma.extractors.LabelsExtractor(eval_config),
        tfma.extractors.ExampleWeightsExtractor(eval_config),
        _extractor("Predict", beam.ParDo(_Predict(eval_config, eval_shared_model))),
        # By the name of the stage that TFMA's evaluators come after.
        _extractor(
            tfma.extractors.SLICE_KEY_EXTRACTOR_STAGE_NAME,
            beam.FlatMap(by_slice, list(eval_config.slicing_specs)),
        ),
    ]


def _extractor(stage: str, transform: beam.PTransform) -> tfma.extractors.Extractor:
    typed = transform.with_output_types(dict[str, Any])
    return tfma.extractors.Extractor(stage_name=stage, ptransform=typed)


def _columns(config: config_pb2.EvalConfig) -> set[str]:
    """Every column that is read of a row beside the model, which has the whole row."""
    names = {USER, GROUP, tfma.ARROW_INPUT_COLUMN}
    for model in config.model_specs:
        names |= {model.label_key, model.example_weight_key}
        names |= {*model.label_keys.values(), *model.example_weight_keys.values()}
    return names | _sliced_by(config.slicing_specs)


def _select(extracts: dict[str, Any], columns: set[str]) -> dict[str, Any]:
    """Leaves columns that nobody reads out before they become Python's objects."""
    batch = extracts[tfma.ARROW_RECORD_BATCH_KEY]
    names = [name for name in batch.schema.names if name in columns]
    kept = pa.RecordBatch.from_arrays(
        [batch.column(batch.schema.get_field_index(name)) for name in names], names
    )
    return {**extracts, tfma.ARROW_RECORD_BATCH_KEY: kept}


class _Predict(beam.DoFn):
    """Asks the models' signatures, by the name of their argument.

    TFMA's extractor passes it by its place, which TensorFlow refuses with a message that holds the
    text of all rows, and takes all the same: four times the seconds of the answer.
    """

    def __init__(self, config: config_pb2.EvalConfig, shared_models: Any):
        super().__init__()
        models = shared_models if isinstance(shared_models, list) else [shared_models]
        paths = {model.model_name: model.model_path for model in models}
        self._models = [
            (spec.name, paths[spec.name], spec.signature_name) for spec in config.model_specs
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
