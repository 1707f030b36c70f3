"""`TableCheck`: stops a run whose tables are not what they should be, and says where."""

import json
import posixpath
import time
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.types import artifact, artifact_utils, component_spec, standard_artifacts

from components.check import rules
from components.check.config import Thresholds
from components.tables.names import TABLES
from components.tables.schemas import read_schemas


class TableReport(artifact.Artifact):
    """What the check found: a folder with `report.json`."""

    # Kubeflow Pipelines imports the class by this name, which may hold one dot only.
    TYPE_NAME = "components.TableReport"


class TableCheckSpec(component_spec.ComponentSpec):
    """What `TableCheck` takes and gives."""

    PARAMETERS = {
        "thresholds": component_spec.ExecutionParameter(type=str),
        "schema_folder": component_spec.ExecutionParameter(type=str, optional=True),
        "code_hash": component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {
        **{
            table: component_spec.ChannelParameter(type=standard_artifacts.Examples)
            for table in TABLES
        },
        **{
            f"{table}_anomalies": component_spec.ChannelParameter(
                type=standard_artifacts.ExampleAnomalies, optional=True
            )
            for table in TABLES
        },
    }
    OUTPUTS = {"report": component_spec.ChannelParameter(type=TableReport)}


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
            Thresholds.parse(json.loads(exec_properties["thresholds"] or "{}")),
            int(time.time()),
            anomalies,
            read_schemas(folder) if folder else None,
        )
        for name, one in report["checks"].items():
            output.set_int_custom_property(name, one["count"])
        output.set_int_custom_property("notes", len(report["notes"]))
        for note in report["notes"]:
            logging.info("TableCheck: %s", note)


class TableCheck(base_beam_component.BaseBeamComponent):
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

    SPEC_CLASS = TableCheckSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(TableCheckExecutor)

    def __init__(
        self,
        *,
        events: types.BaseChannel,
        items: types.BaseChannel,
        users: types.BaseChannel,
        events_anomalies: types.BaseChannel | None = None,
        items_anomalies: types.BaseChannel | None = None,
        users_anomalies: types.BaseChannel | None = None,
        thresholds: str = "{}",
        schema_folder: str | None = None,
        code_hash: str = "",
    ):
        super().__init__(
            TableCheckSpec(
                events=events,
                items=items,
                users=users,
                events_anomalies=events_anomalies,
                items_anomalies=items_anomalies,
                users_anomalies=users_anomalies,
                thresholds=thresholds,
                schema_folder=schema_folder or "",
                code_hash=code_hash,
                report=types.Channel(type=TableReport),
            )
        )
