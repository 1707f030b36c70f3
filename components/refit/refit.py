"""`Refit`: whether the model is fitted again on everything before the push, and how long.

Test is for measuring, and once a model has been measured and blessed, its events are the newest
there are to learn from. So the pipeline goes on with a build, a Transform and a training of their
own, of every event that counts, and what is pushed is that model. Nothing is left to choose its
epochs by: they are those that the measured training chose, of each of its stages. All else is as
it was: the model, its hyper-parameters (and with them every schedule that reckons with their
`epochs`), the seed, the averages of the weights, and what a warm start begins with.

What is known of the refitted model is what was measured of the other one; the refitted one has
learnt test by heart, and no gate ever sees it. Therefore it has no blessing of its own:

- the last blessed model, which the next run's gate compares with and a warm start begins with, is
  the *measured* model of the run before. A refitted one would be better in the comparison by the
  test rows it was trained on, and would carry them into the next training;
- the measured model is what reports, `recsys show` and `recsys compare` tell the metrics of;
- the log of the refitted model, which is pushed with it, names the measured one (`refit` in
  `assets.extra/training.json`): its fingerprint as `of`, and its artifact as `model`.

A model that was not blessed, or that no server could answer from, is not fitted again: the steps
after this one end at once (see `components.component`).
"""

import json
import os
import posixpath
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import path_utils

from components.component import Component, skip
from components.tables import records

# As TFX's Tuner calls the file; the Trainer takes the only one in the folder.
_FILE = "best_hyperparameters.txt"
_LOG = os.path.join("assets.extra", "training.json")


class RefitExecutor(base_executor.BaseExecutor):
    """Reads what the measured training chose, where its model was blessed."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the epochs of each stage, or skips."""

        def blessed(name: str) -> bool:
            artifact = artifact_utils.get_single_instance(input_dict[name])
            return artifact.get_int_custom_property("blessed") == 1

        if not blessed("model_blessing"):
            return skip(output_dict, "the gate did not bless the model")
        if not blessed("infra_blessing"):
            return skip(output_dict, "no server could answer from the measured model")
        model = artifact_utils.get_single_instance(input_dict["model"])
        log = records.read_json(posixpath.join(path_utils.serving_model_path(model.uri), _LOG))
        chosen = {
            "stage_epochs": log["best_epochs"],
            "of": log["fingerprint"],
            "model": model.uri,
        }
        folder = artifact_utils.get_single_instance(output_dict["hyperparameters"]).uri
        records.write_text(posixpath.join(folder, _FILE), json.dumps(chosen))
        records.remove_staging(folder)  # or the Trainer would find two files


class Refit(Component):
    """Says for how many epochs the blessed model is fitted again on everything.

    Args:
        model: the measured model.
        model_blessing: of the Evaluator.
        infra_blessing: of the Canary that tried the measured model.
        code_hash: hash of the code, so that a change of it is not served from the cache.
    """

    EXECUTOR = RefitExecutor
    PARAMETERS = {"code_hash": str | None}
    INPUTS = {
        "model": standard_artifacts.Model,
        "model_blessing": standard_artifacts.ModelBlessing,
        "infra_blessing": standard_artifacts.InfraBlessing,
    }
    OUTPUTS = {"hyperparameters": standard_artifacts.HyperParameters}
