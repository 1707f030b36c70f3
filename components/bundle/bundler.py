"""`Bundler`: puts a blessed recall model and a blessed ranker into one SavedModel."""

import json
import os
import time
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import path_utils

from components.component import Component
from components.tables import artifacts, records
from models.training import warm_up

LOG = os.path.join("assets.extra", "training.json")
"""The log of the bundling, in the SavedModel's folder, where a trained model keeps its own."""


class BundlerExecutor(base_executor.BaseExecutor):
    """Loads both models, chooses the ranking's weight on the validation queries and exports."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the SavedModel and a log of how it was made."""
        import numpy as np

        from models.contract.two_stage import TwoStage

        started = time.monotonic()
        config = json.loads(exec_properties["config"])
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        folders = {
            stage: path_utils.serving_model_path(
                artifact_utils.get_single_instance(input_dict[stage]).uri
            )
            for stage in ("recall", "rank")
            if input_dict.get(stage)
        }
        weight = config["weight"]
        module = TwoStage(
            folders["recall"],
            folders.get("rank"),
            config["recall"],
            config["candidates"],
            1.0 if weight is None else weight,
        )
        chosen = []
        if weight is None:
            files = records.shards(artifacts.split_folder(examples.uri, "valid"))
            queries = np.array(
                [record for path in files for record in records.read_records(path)], object
            )
            chosen = module.choose_weight(queries)
        folder = path_utils.serving_model_dir(
            artifact_utils.get_single_instance(output_dict["model"]).uri
        )
        module.export(folder)
        warm_up.save_requests(folder)
        recall_log = records.read_json(os.path.join(folders["recall"], LOG))
        log = {
            **config,
            # What the recall makes of a request's history, the bundle makes of it.
            "history": recall_log.get("history"),
            "history_until": recall_log.get("history_until", 0),
            "weight": round(float(module.weight.numpy()), 6),
            "weights": chosen,
            "seconds": round(time.monotonic() - started, 3),
        }
        records.write_json(os.path.join(folder, LOG), log)
        logging.info("Bundler: weight of the ranking %.1f", log["weight"])


class Bundler(Component):
    """Makes the two-stage servable (see `models.contract.two_stage`).

    Args:
        recall: a blessed `retrieve` model.
        rank: a blessed `score` model of the same split of the same data; None for the recall alone.
        examples: of the recall's ExampleBuilder; the weight is chosen on their validation rows.
        config: JSON: `recall` and `rank` (names), `candidates`, `weight` (None: chosen), and
            `fingerprint`, which says of what and with which code the bundle was made.
    """

    EXECUTOR = BundlerExecutor
    PARAMETERS = {"config": str}
    INPUTS = {
        "recall": standard_artifacts.Model,
        "rank": standard_artifacts.Model | None,
        "examples": standard_artifacts.Examples,
    }
    OUTPUTS = {"model": standard_artifacts.Model}
