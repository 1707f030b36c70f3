"""`LastBlessed`: the model that the gate compares with and a warm start begins with."""

import json
import posixpath
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import path_utils

from components.component import Component
from components.gate import ledger
from components.tables import records

ENTRY = "last_blessed.json"
"""The entry of the ledger, or null: the file in the artifact that says whose model it holds."""


class LastBlessedExecutor(base_executor.BaseExecutor):
    """Copies the last blessed model out of the ledger."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the model; where there is none, the artifact holds none."""
        model = artifact_utils.get_single_instance(output_dict["model"])
        destination = exec_properties["destination"]
        entry = ledger.last_blessed(destination, exec_properties.get("other_than"))
        if entry:
            ledger.copy_measured(entry, destination, path_utils.serving_model_dir(model.uri))
            model.set_int_custom_property("version", entry.version)
            if entry.model:
                model.set_string_custom_property("model", entry.model)
        records.write_json(posixpath.join(model.uri, ENTRY), ledger.describe(entry))
        logging.info("LastBlessed: %s", f"version {entry.version}" if entry else "there is none")


class LastBlessed(Component):
    """Finds the last blessed model in the ledger of the push destination, on every runner alike.

    TFX's resolver asks ML Metadata: the backend of Kubeflow Pipelines has none. What the file of a
    cluster may name is what its steps have written, so the model is copied.

    Args:
        destination: where versions are pushed (see `components.gate.ledger`).
        other_than: fingerprint of a training whose model is passed over.
        compared: JSON of the entry that will be found, so that the cache notices another one; None
            where only the step can know, whose cache must then be off.
        code_hash: hash of the code, so that a change of it is not served from the cache.
    """

    EXECUTOR = LastBlessedExecutor
    PARAMETERS = {
        "destination": str,
        "other_than": str | None,
        "compared": str | None,
        "code_hash": str | None,
    }
    OUTPUTS = {"model": standard_artifacts.Model}


def compared(entry: ledger.Entry | None) -> str:
    """What the cache is told of an entry."""
    return json.dumps(ledger.describe(entry), sort_keys=True)
