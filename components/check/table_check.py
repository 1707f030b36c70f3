"""`TableCheck`: stops a run whose tables are not what they should be, and says where."""

import json
import posixpath
import time
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact, artifact_utils, standard_artifacts

from components.check import rules
from components.check.config import Thresholds
from components.component import BeamComponent
from components.tables.names import TABLES
from components.tables.schemas import read_schemas


class TableReport(artifact.Artifact):
    """What the check found: a folder with `report.json`."""

    # Kubeflow Pipelines imports the class by this name, which may hold one dot only.
    TYPE_NAME = "components.TableReport"


class TableCheckExecutor(base_beam_executor.BaseBeamExecutor):
    """Runs `rules.check`."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Checks the tables.

        Raises:
            DataError: an anomaly is beyond its threshold.
            ConfigError: an unknown threshold.
        """
        output = artifact_utils.get_single_instance(output_dict["report"])
        anomalies = {}
        for table in TABLES:
            if input_dict.get(f"{table}_anomalies"):
                found = artifact_utils.get_single_instance(input_dict[f"{table}_anomalies"])
                anomalies[table] = posixpath.join(found.uri, "Split-all", "SchemaDiff.pb")
        folder = exec_properties.get("schema_folder")
        report = rules.check(
            self._make_beam_pipeline,
            {table: artifact_utils.get_single_instance(input_dict[table]).uri for table in TABLES},
            output.uri,
            Thresholds.parse(json.loads(exec_properties["thresholds"])),
            int(time.time()),
            anomalies,
            read_schemas(folder) if folder else None,
        )
        for name, one in report["checks"].items():
            output.set_int_custom_property(name, one["count"])
        output.set_int_custom_property("notes", len(report["notes"]))
        for note in report["notes"]:
            logging.info("TableCheck: %s", note)


class TableCheck(BeamComponent):
    """Holds the tables against TFDV's anomalies and against what TFDV cannot know.

    Args:
        events: Examples artifacts of `TableReader`.
        items: likewise.
        users: likewise.
        events_anomalies: ExampleAnomalies of an ExampleValidator on that table, or None.
        items_anomalies: likewise.
        users_anomalies: likewise.
        thresholds: JSON of `check.config.Thresholds`.
        schema_folder: folder of the curated schemas, to show rows that break them.
        code_hash: hash of the code, so that a change of it is not served from the cache.
    """

    EXECUTOR = TableCheckExecutor
    PARAMETERS = {"thresholds": str, "schema_folder": str | None, "code_hash": str | None}
    INPUTS = {
        **dict.fromkeys(TABLES, standard_artifacts.Examples),
        **{f"{table}_anomalies": standard_artifacts.ExampleAnomalies | None for table in TABLES},
    }
    OUTPUTS = {"report": TableReport}
