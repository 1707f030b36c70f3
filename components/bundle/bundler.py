"""`Bundler`: puts a blessed recall model and a blessed ranker into one SavedModel."""

import json
import os
import time
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from components.tables import artifacts, records

LOG = os.path.join("assets.extra", "training.json")
"""Beside the SavedModel, where a trained model has its training log."""


class BundlerSpec(component_spec.ComponentSpec):
    """What `Bundler` takes and gives."""

    PARAMETERS = {"config": component_spec.ExecutionParameter(type=str)}
    INPUTS = {
        "recall": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "rank": component_spec.ChannelParameter(type=standard_artifacts.Model, optional=True),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {"model": component_spec.ChannelParameter(type=standard_artifacts.Model)}


class BundlerExecutor(base_executor.BaseExecutor):
    """Loads both models, chooses the weight of the ranking on the validation queries and exports."""

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
        recall_log = os.path.join(folders["recall"], LOG)
        log = {
            **config,
            # What the recall makes of a request's history, the bundle makes of it.
            "history": records.read_json(recall_log).get("history"),
            "weight": round(float(module.weight.numpy()), 6),
            "weights": chosen,
            "seconds": round(time.monotonic() - started, 3),
        }
        records.write_json(os.path.join(folder, LOG), log)
        logging.info("Bundler: weight of the ranking %.1f", log["weight"])


class Bundler(base_component.BaseComponent):
    """Makes the two-stage servable (see `models.contract.two_stage`).

    Args:
        recall: a blessed `retrieve` model.
        rank: a blessed `score` model of the same split of the same data; None for the recall alone.
        examples: of the recall's ExampleBuilder; the weight is chosen on their validation rows.
        config: JSON: `recall` and `rank` (names), `candidates`, `weight` (None: chosen), and
            `fingerprint`, which says of what and with which code the bundle was made.
    """

    SPEC_CLASS = BundlerSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(BundlerExecutor)

    def __init__(
        self,
        *,
        recall: types.BaseChannel,
        rank: types.BaseChannel | None,
        examples: types.BaseChannel,
        config: str,
    ):
        super().__init__(
            BundlerSpec(
                recall=recall,
                examples=examples,
                config=config,
                model=types.Channel(type=standard_artifacts.Model),
                **({"rank": rank} if rank else {}),
            )
        )
