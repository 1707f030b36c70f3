"""The components' own work without TFX's launcher: the same functions, on Beam's in-process runner.

For tests, benchmarks and notebooks. Folders are laid out as the artifacts of a pipeline run are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.build import examples
from components.build.config import BuildConfig
from components.check import rules
from components.check.config import Thresholds
from components.in_process import in_process_pipeline
from components.read.layouts.detection import plan
from components.read.tables import write_tables
from components.tables import artifacts
from components.tables.names import TABLES
from components.tables.schemas import read_schemas, schema_folder
from components.tables.shards import ROWS_A_SHARD
from components.tables.statistics import split_statistics


def read_tables(
    source: str,
    reader: str | None = None,
    columns: Mapping[str, Any] | None = None,
    output: str = "tables",
    max_rejected_share: float = 0.01,
) -> dict[str, dict[str, Any]]:
    """Reads a folder into `<output>/{events,items,users}` and returns the reports.

    See `components.read.tables.write_tables`.
    """
    uris = {table: str(Path(output) / table) for table in TABLES}
    return write_tables(
        in_process_pipeline, plan(source, reader, columns), uris, max_rejected_share
    )


def check_tables(
    tables_dir: str,
    output: str,
    thresholds: Mapping[str, Any] | None = None,
    schema: str = "movielens",
    now: int | None = None,
) -> dict[str, Any]:
    """Measures and checks the tables in `tables_dir` and returns the report of the check.

    Writes `<output>/statistics/<table>` and `<output>/anomalies/<table>`, as StatisticsGen and
    ExampleValidator do, and `<output>/check/report.json`, whatever comes out.

    Args:
        tables_dir: what `read_tables` wrote.
        output: where to.
        thresholds: see `check.config.Thresholds`.
        schema: curated table schemas: a name in schema/, or a folder.
        now: seconds since 1970; None: the clock's.

    Raises:
        DataError: something is beyond its threshold.
    """
    import time

    import tensorflow_data_validation as tfdv

    tables = {table: str(Path(tables_dir) / table) for table in TABLES}
    schemas, anomalies = read_schemas(schema_folder(schema)), {}
    for table, uri in tables.items():
        folder = artifacts.split_folder(str(Path(output) / "statistics" / table), artifacts.ALL)
        columns = artifacts.table_columns(uri)
        measured = split_statistics(in_process_pipeline, uri, artifacts.ALL, columns, folder)
        found = tfdv.validate_statistics(measured, schemas[table])
        path = Path(output) / "anomalies" / table / "Split-all" / "SchemaDiff.pb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found.SerializeToString())
        anomalies[table] = str(path)
    return rules.check(
        in_process_pipeline,
        tables,
        str(Path(output) / "check"),
        Thresholds.parse(dict(thresholds or {})),
        int(time.time()) if now is None else now,
        anomalies,
        schemas,
    )


def build_examples(
    tables_dir: str,
    output: str,
    task: str = "retrieve",
    kind: str = "event",
    split: Mapping[str, Any] | None = None,
    schema: str = "movielens",
    label: Mapping[str, Any] | None = None,
    rows_a_shard: int = ROWS_A_SHARD,
    walks: Mapping[str, Any] | None = None,
    most_items: int | None = None,
    carries: Mapping[str, Any] | None = None,
    selection: Mapping[str, Any] | None = None,
    everything: bool = False,
) -> dict[str, Any]:
    """Builds the examples of the tables in `tables_dir` and returns the report.

    Writes `<output>/examples` and `<output>/schema/schema.pbtxt`.

    Args:
        tables_dir: what `read_tables` wrote.
        output: where to.
        task: `retrieve` or `score`.
        kind: of the train rows: event, profile, sequence or walk.
        split: see `build.config.SplitConfig`.
        schema: curated table schemas: a name in schema/, or a folder.
        label: score: `{"column": "rating"}`, or `{"column": "rating", "threshold": 4}` for clicks.
        rows_a_shard: about how many events one worker holds at a time.
        walks: the kind `walk`: see `build.config.WalkConfig`.
        most_items: a larger catalogue is refused.
        carries: what rows carry for a model that reads it: `history`, `context` and
            `item_features` of `build.config.BuildConfig`; `models.contract.retrieve` says of a
            model which.
        selection: which events count: `positives`, `filters` and `sessions` of
            `build.config.BuildConfig`.
        everything: every event that counts trains; nothing is held out.
    """
    return examples.build(
        in_process_pipeline,
        {table: str(Path(tables_dir) / table) for table in TABLES},
        str(Path(output) / "examples"),
        str(Path(output) / "schema"),
        schema_folder(schema),
        BuildConfig.parse(
            {
                "task": task,
                "kind": kind,
                "split": split or {},
                "label": label or None,
                "walks": walks or {},
                "most_items": most_items,
                "everything": everything,
                **(carries or {}),
                **(selection or {}),
            }
        ),
        rows_a_shard,
    )


def transform(examples_dir: str, schema_path: str, output: str, settings: Mapping[str, Any]) -> str:
    """Fits the preprocessing on the train rows and writes the transform graph to `output`.

    Args:
        examples_dir: the Examples artifact (`<output of build_examples>/examples`).
        schema_path: `schema.pbtxt` of the train rows.
        output: folder that `tft.TFTransformOutput` will read.
        settings: as the Transform component is given them (`models.inputs.preprocessing`).

    Returns:
        `output`.
    """
    # It imports TensorFlow.
    from components.transform.fitting import fit_preprocessing

    fit_preprocessing(in_process_pipeline, examples_dir, schema_path, output, settings)
    return output
