"""The components' own work without TFX's launcher: the same functions, on Beam's in-process runner.

For tests, benchmarks and notebooks. Folders are laid out as the artifacts of a pipeline run are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import tables
from components.beam_runner import in_process_pipeline
from components.layouts import TABLES, plan


def read_tables(
    source: str,
    reader: str | None = None,
    columns: Mapping[str, Any] | None = None,
    output: str = "tables",
    max_rejected_share: float = 0.01,
) -> dict[str, dict[str, Any]]:
    """Reads a folder into `<output>/{events,items,users}`; returns the reports (see `tables.write_tables`)."""
    uris = {table: str(Path(output) / table) for table in TABLES}
    return tables.write_tables(in_process_pipeline, plan(source, reader, columns), uris, max_rejected_share)
