"""`Pusher`: what is blessed becomes a version that servers load, and an entry of the ledger."""

import posixpath
from typing import Any

from absl import logging
from tfx import types
from tfx.components.pusher import executor
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import path_utils

from components.component import Component
from components.gate import ledger
from components.tables import records

ENTRY = "pushed.json"


class PusherExecutor(executor.Executor):
    """TFX's check of the blessings, and our push."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Pushes the model if it was blessed and answered; says so in `pushed`, 1 or 0."""
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        entry = None
        if self.CheckBlessing(input_dict):
            destination = exec_properties["destination"]
            entry = self._push(input_dict, destination)
            version = str(entry.version)
            pushed.set_string_custom_property(
                "pushed_destination", posixpath.join(destination, version)
            )
            pushed.set_string_custom_property("pushed_version", version)
        pushed.set_int_custom_property("pushed", 1 if entry else 0)
        records.write_json(posixpath.join(pushed.uri, ENTRY), ledger.describe(entry))
        logging.info("Pusher: %s", f"version {entry.version}" if entry else "not blessed")

    def _push(self, input_dict: dict[str, list[types.Artifact]], destination: str) -> ledger.Entry:
        from components.gate import evaluation  # with TFMA

        measured = artifact_utils.get_single_instance(
            input_dict.get("measured_model") or input_dict["model"]
        )
        folder = path_utils.serving_model_path(measured.uri)
        model = self.GetModelPath(input_dict)
        found = artifact_utils.get_single_instance(input_dict["evaluation"])
        return ledger.push(
            model,
            destination,
            measured=None if folder == model else folder,
            artifact=measured.uri,
            metrics=evaluation.read_verdict(found.uri, True).metrics[evaluation.OVERALL],
        )


class Pusher(Component):
    """Pushes a model that the Evaluator and the Canary have blessed.

    Args:
        model: what is pushed.
        measured_model: what the Evaluator has measured, where that is another model; the next run
            is compared with it.
        evaluation: of the Evaluator; its overall metrics stand in the ledger.
        model_blessing: of the Evaluator.
        infra_blessing: of the Canary.
        destination: where versions are pushed: an absolute path, or a URI (s3://, gs://).
    """

    EXECUTOR = PusherExecutor
    PARAMETERS = {"destination": str}
    INPUTS = {
        "model": standard_artifacts.Model,
        "measured_model": standard_artifacts.Model | None,
        "evaluation": standard_artifacts.ModelEvaluation,
        "model_blessing": standard_artifacts.ModelBlessing,
        "infra_blessing": standard_artifacts.InfraBlessing,
    }
    OUTPUTS = {"pushed_model": standard_artifacts.PushedModel}
