"""`TableReader`: a data folder to the three Examples artifacts `events`, `items` and `users`."""

import json
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_artifacts

from components.component import BeamComponent
from components.read.layouts.detection import plan
from components.read.tables import summary, write_tables
from components.tables.artifacts import ALL
from components.tables.names import TABLES


class TableReaderExecutor(base_beam_executor.BaseBeamExecutor):
    """Runs `write_tables` and records its counts on the artifacts."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Reads the folder `source` into the output artifacts.

        Raises:
            DataError: a file is missing, empty, truncated or lacks a column, or too many rows had
                to be rejected.
            ConfigError: an unknown reader or column option.
        """
        artifacts = {
            table: artifact_utils.get_single_instance(output_dict[table]) for table in TABLES
        }
        columns = json.loads(exec_properties.get("columns") or "{}")
        sources = plan(exec_properties["source"], exec_properties.get("reader"), columns)
        reports = write_tables(
            self._make_beam_pipeline,
            sources,
            {table: artifact.uri for table, artifact in artifacts.items()},
            exec_properties["max_rejected_share"],
        )
        for table, artifact in artifacts.items():
            report = reports[table]
            artifact.split_names = artifact_utils.encode_split_names([ALL])
            artifact.set_int_custom_property("read", report["read"])
            artifact.set_int_custom_property("kept", report["kept"])
            artifact.set_int_custom_property("rejected", report["read"] - report["kept"])
            artifact.set_string_custom_property(
                "rejected_by_reason", json.dumps(report["rejected"])
            )
            artifact.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
            artifact.set_string_custom_property("file_format", "tfrecords_gzip")
        logging.info("TableReader: %s", summary(reports))


class TableReader(BeamComponent):
    """Reads a public layout, or the user's own CSV or Parquet folder, into tables of tf.Example.

    Each artifact holds `report.json`: rows read, kept and rejected by reason, and the columns with
    their kinds.

    Args:
        source: the data folder.
        fingerprint: `components.read.tables.fingerprint(source)`, so that the cache notices that
            the files changed.
        reader: one of `layouts.LAYOUTS`; left out, told by the files.
        columns: JSON of `data.columns`, as `detection.plan` describes them.
        max_rejected_share: the share of rejected rows of a table above which the run stops.
        code_hash: hash of the code, so that a change of it is not served from the cache.
    """

    EXECUTOR = TableReaderExecutor
    PARAMETERS = {
        "source": str,
        "fingerprint": str,
        "reader": str | None,
        "columns": str | None,
        "max_rejected_share": float,
        "code_hash": str | None,
    }
    OUTPUTS = dict.fromkeys(TABLES, standard_artifacts.Examples)
