"""`Canary`: a server process loads the blessed model and answers real requests.

Nothing is pushed before that.
"""

import posixpath
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import path_utils

from components.canary import probes
from components.canary.probes import CanaryFailure
from components.component import Component, why_skipped
from components.tables import records

REASON = "reason"


class CanaryExecutor(base_executor.BaseExecutor):
    """Runs the task's probe on a blessed model and records the outcome as the Pusher reads it."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Tries the model; a failure is an outcome, not an error."""
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        model = artifact_utils.get_single_instance(input_dict["model"])
        gate = artifact_utils.get_single_instance(input_dict["model_blessing"])
        blessed = gate.get_int_custom_property("blessed") == 1
        reason = why_skipped(input_dict) or ("" if blessed else "the gate did not bless the model")
        if not reason:
            examples = artifact_utils.get_single_instance(input_dict["examples"])
            try:
                answered = probes.try_model(path_utils.serving_model_path(model.uri), examples.uri)
                blessing.set_int_custom_property("answered", answered)
            except CanaryFailure as failure:
                reason = str(failure)
        # The Pusher reads the property; the file is what TFX's own validator leaves as well.
        name = "INFRA_NOT_BLESSED" if reason else "INFRA_BLESSED"
        blessing.set_string_custom_property("blessing_status", name)
        blessing.set_int_custom_property("blessed", 0 if reason else 1)
        blessing.set_string_custom_property(REASON, reason)
        records.write_text(posixpath.join(blessing.uri, name), reason)
        logging.info("Canary: %s", reason or "the server answered")


class Canary(Component):
    """Loads the SavedModel in a server process of its own and asks it over REST and gRPC.

    TFX's InfraValidator does this with Docker or Kubernetes only, and is marked as successful where
    there is neither.

    Args:
        model: the trained model; one that was skipped is not tried.
        model_blessing: of the Evaluator; a model that is not blessed is not tried.
        examples: of the ExampleBuilder; their test rows are what the server is asked.
        code_hash: hash of the server's code, so that a change of it is not served from the cache.
    """

    EXECUTOR = CanaryExecutor
    PARAMETERS = {"code_hash": str | None}
    INPUTS = {
        "model": standard_artifacts.Model,
        "model_blessing": standard_artifacts.ModelBlessing,
        "examples": standard_artifacts.Examples,
    }
    OUTPUTS = {"blessing": standard_artifacts.InfraBlessing}
