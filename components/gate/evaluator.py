"""`Evaluator`: TFX's component, whose work is `components.gate.batches`."""

import posixpath
from typing import Any

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2
from tfx import types
from tfx.components import Evaluator as TfxEvaluator
from tfx.components.evaluator import constants
from tfx.dsl.components.base import base_beam_executor, executor_spec
from tfx.types import artifact_utils
from tfx.utils import json_utils, path_utils, proto_utils

from components import servers
from components.gate import batches, ledger
from components.tables import records


class EvaluatorExecutor(base_beam_executor.BaseBeamExecutor):
    """Measures and blesses as TFX's does, with rows by batches.

    The baseline is left out where `LastBlessed` has found none: every output is one artifact.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Evaluates the model, while a server loads it for the Canary where that comes next."""
        model = artifact_utils.get_single_instance(input_dict["model"])
        servers.begin(path_utils.serving_model_path(model.uri))
        (baseline,) = input_dict.get("baseline_model") or (None,)
        if baseline and not ledger.holds_model(path_utils.serving_model_dir(baseline.uri)):
            baseline = None
        output = artifact_utils.get_single_uri(output_dict["evaluation"])
        batches.evaluate(
            self._make_beam_pipeline,
            [
                file
                for split in json_utils.loads(exec_properties["example_splits"])
                for folder in artifact_utils.get_split_uris(input_dict["examples"], split)
                for file in records.shards(folder)
            ],
            proto_utils.json_to_proto(exec_properties["eval_config"], config_pb2.EvalConfig()),
            path_utils.serving_model_path(model.uri),
            path_utils.serving_model_path(baseline.uri) if baseline else None,
            output,
        )
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        _bless(blessing, tfma.load_validation_result(output).validation_ok, model, baseline)
        component = exec_properties.get("current_component_id")
        if component:
            blessing.set_string_custom_property("component_id", component)


def _bless(
    blessing: types.Artifact, good: bool, model: types.Artifact, baseline: types.Artifact | None
) -> None:
    """Marks a model as TFX's resolvers and its Pusher look for it."""
    blessing.set_string_custom_property(
        constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, model.uri
    )
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
    if baseline:
        blessing.set_string_custom_property(
            constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY, baseline.uri
        )
        blessing.set_int_custom_property(
            constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY, baseline.id
        )
    name = constants.BLESSED_FILE_NAME if good else constants.NOT_BLESSED_FILE_NAME
    records.write_text(posixpath.join(blessing.uri, name), "")
    blessing.set_int_custom_property(
        constants.ARTIFACT_PROPERTY_BLESSED_KEY,
        constants.BLESSED_VALUE if good else constants.NOT_BLESSED_VALUE,
    )


class Evaluator(TfxEvaluator):
    """Measures a model, and the last blessed one where there is one; see TFX's Evaluator."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(EvaluatorExecutor)
