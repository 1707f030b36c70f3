"""`ExampleBuilder`: the three tables to the examples that a model trains on and is measured by."""

import hashlib
import json
from pathlib import Path
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.types import artifact_utils, component_spec, standard_artifacts

from components.build import report as build_report
from components.build.config import BuildConfig
from components.build.examples import build
from components.check.table_check import TableReport
from components.tables.names import TABLES
from components.tables.shards import ROWS_A_SHARD


class ExampleBuilderSpec(component_spec.ComponentSpec):
    """What `ExampleBuilder` takes and gives."""

    PARAMETERS = {
        "task": component_spec.ExecutionParameter(type=str),
        "kind": component_spec.ExecutionParameter(type=str),
        "split": component_spec.ExecutionParameter(type=str),
        "schema_folder": component_spec.ExecutionParameter(type=str),
        "label": component_spec.ExecutionParameter(type=str, optional=True),
        "walks": component_spec.ExecutionParameter(type=str, optional=True),
        "most_items": component_spec.ExecutionParameter(type=int, optional=True),
        "min_count": component_spec.ExecutionParameter(type=int, optional=True),
        "rows_a_shard": component_spec.ExecutionParameter(type=int, optional=True),
        "code_hash": component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {
        **{
            table: component_spec.ChannelParameter(type=standard_artifacts.Examples)
            for table in TABLES
        },
        "check": component_spec.ChannelParameter(type=TableReport, optional=True),
    }
    OUTPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "schema": component_spec.ChannelParameter(type=standard_artifacts.Schema),
    }


class ExampleBuilderExecutor(base_beam_executor.BaseBeamExecutor):
    """Runs `examples.build` and records its counts on the artifact."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Builds the examples.

        Raises:
            DataError: the events lack a column that the split or label needs, there are more items
                than the model can take, or a split comes out empty.
            ConfigError: an unknown split, task, kind or option.
        """
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        schema = artifact_utils.get_single_instance(output_dict["schema"])
        config = BuildConfig.parse(
            exec_properties["task"],
            exec_properties["kind"],
            json.loads(exec_properties["split"]),
            json.loads(exec_properties.get("label") or "{}"),
            json.loads(exec_properties.get("walks") or "{}"),
            exec_properties.get("most_items") or None,
            exec_properties.get("min_count") or 1,
        )
        report = build(
            self._make_beam_pipeline,
            {table: artifact_utils.get_single_instance(input_dict[table]).uri for table in TABLES},
            examples.uri,
            schema.uri,
            exec_properties["schema_folder"],
            config,
            exec_properties.get("rows_a_shard") or ROWS_A_SHARD,
        )
        examples.split_names = artifact_utils.encode_split_names(build_report.split_names(report))
        for name, counts in report["splits"].items():
            for what, count in counts.items():
                examples.set_int_custom_property(f"{name}_{what}", count)
        examples.set_string_custom_property("dropped", json.dumps(report["dropped"]))
        examples.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
        examples.set_string_custom_property("file_format", "tfrecords_gzip")
        logging.info("ExampleBuilder: %s", build_report.summary(report))


class ExampleBuilder(base_beam_component.BaseBeamComponent):
    """Splits the log, builds the train rows of a model's example kind and the query rows it is
    measured by.

    Outputs: `examples` with the splits train, valid, test, items, users and, where asked for,
    walks, and a `report.json` of counts; `schema`, of the train rows.

    Args:
        events: Examples artifacts of `TableReader`.
        items: likewise.
        users: likewise.
        task: `retrieve` or `score`.
        kind: of the train rows: `event`, `profile`, `sequence` or `walk`.
        split: JSON of `splits.SplitConfig`.
        schema_folder: folder of the curated table schemas.
        label: JSON of {column, threshold}, for the score task (see `models.names.label`).
        walks: JSON of `walks.WalkConfig`, for the kind `walk`.
        check: the report of `TableCheck`, so that nothing is built of data that failed it.
        most_items: how many items the model can be trained on; None for any number.
        min_count: items with fewer train events do not count, since Transform leaves them out.
        rows_a_shard: about how many events one worker holds at a time.
        code_hash: hash of the code, so that a change of it is not served from the cache.
    """

    SPEC_CLASS = ExampleBuilderSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(ExampleBuilderExecutor)

    def __init__(
        self,
        *,
        events: types.BaseChannel,
        items: types.BaseChannel,
        users: types.BaseChannel,
        task: str,
        kind: str,
        split: str,
        schema_folder: str,
        label: str | None = None,
        walks: str | None = None,
        check: types.BaseChannel | None = None,
        most_items: int | None = None,
        min_count: int = 1,
        rows_a_shard: int = ROWS_A_SHARD,
        code_hash: str = "",
    ):
        super().__init__(
            ExampleBuilderSpec(
                events=events,
                items=items,
                users=users,
                check=check,
                task=task,
                kind=kind,
                split=_with_fingerprint(split),
                schema_folder=schema_folder,
                label=label or "",
                walks=walks or "",
                most_items=most_items or 0,
                min_count=min_count,
                rows_a_shard=rows_a_shard,
                code_hash=code_hash,
                examples=types.Channel(type=standard_artifacts.Examples),
                schema=types.Channel(type=standard_artifacts.Schema),
            )
        )


def _with_fingerprint(split: str) -> str:
    """The cache goes by these values, so a given split's file is named with its contents."""
    values = json.loads(split)
    file = values.get("file")
    if file and Path(file).is_file():
        values["file_fingerprint"] = hashlib.sha256(Path(file).read_bytes()).hexdigest()[:32]
    return json.dumps(values, sort_keys=True)
