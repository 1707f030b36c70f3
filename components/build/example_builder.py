"""`ExampleBuilder`: the three tables to the examples that a model trains on and is measured by."""

import json
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_artifacts

from components.build import report as build_report
from components.build.config import BuildConfig
from components.build.examples import build
from components.check.table_check import TableReport
from components.component import BeamComponent, skips
from components.tables.names import TABLES
from components.tables.shards import ROWS_A_SHARD


class ExampleBuilderExecutor(base_beam_executor.BaseBeamExecutor):
    """Runs `examples.build` and records its counts on the artifact."""

    @skips
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
        given = {name: exec_properties.get(name) for name in ("split", "label", "walks")}
        config = BuildConfig.parse(
            {
                "task": exec_properties["task"],
                "kind": exec_properties["kind"],
                **{name: json.loads(text) for name, text in given.items() if text},
                "most_items": exec_properties.get("most_items") or None,
                "min_count": exec_properties.get("min_count") or 1,
                **json.loads(exec_properties.get("carries") or "{}"),
                **json.loads(exec_properties.get("selection") or "{}"),
                "everything": bool(input_dict.get("refit")),
            }
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


class ExampleBuilder(BeamComponent):
    """Splits the log and builds the train rows and query rows of a model.

    The train rows are of the model's example kind; the query rows are what it is measured by.

    Outputs: `examples` with the splits train, valid, test, items, users and, where asked for,
    walks, and a `report.json` of counts; `schema`, of the train rows.

    Args:
        events: Examples artifacts of `TableReader`.
        items: likewise.
        users: likewise.
        task: `retrieve` or `score`.
        kind: of the train rows: `event`, `profile`, `sequence` or `walk`.
        split: JSON of `build.config.SplitConfig`.
        schema_folder: folder of the curated table schemas.
        label: JSON of `models.names.label.Label`, for the task `score`.
        walks: JSON of `build.config.WalkConfig`, for the kind `walk`.
        check: the report of `TableCheck`, so that nothing is built of data that failed it.
        refit: of `components.refit.refit.Refit`: every event that counts trains, and nothing is
            built where nothing is fitted again.
        most_items: how many items the model can be trained on; None for any number.
        min_count: items with fewer train events do not count, since Transform leaves them out.
        carries: JSON of what rows carry for a model that reads it: `history`, `context` and
            `item_features` of `build.config.BuildConfig`.
        selection: JSON of which events count: `positives`, `filters` and `sessions` of
            `build.config.BuildConfig`.
        rows_a_shard: about how many events one worker holds at a time.
        split_file_hash: hash of the file of the split `given`, so that its edits are not served
            from the cache.
        code_hash: hash of the code, so that a change of it is not served from the cache.
    """

    EXECUTOR = ExampleBuilderExecutor
    PARAMETERS = {
        "task": str,
        "kind": str,
        "split": str,
        "schema_folder": str,
        "label": str | None,
        "walks": str | None,
        "most_items": int | None,
        "min_count": int | None,
        "carries": str | None,
        "selection": str | None,
        "rows_a_shard": int | None,
        "split_file_hash": str | None,
        "code_hash": str | None,
    }
    INPUTS = {
        **dict.fromkeys(TABLES, standard_artifacts.Examples),
        "check": TableReport | None,
        "refit": standard_artifacts.HyperParameters | None,
    }
    OUTPUTS = {"examples": standard_artifacts.Examples, "schema": standard_artifacts.Schema}
