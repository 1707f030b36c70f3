"""Tables to examples with Beam: the log is sharded by user, and each shard is split, joined and
written in one go.

What a shard must know of the rest of the log (time cuts, item counts, the item table) comes to it
as side inputs.
"""

import math
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from components import records, rows, schemas, tables
from components.columns import columns_of, empty_table
from components.hashing import shard_of
from components.splits import (
    TEST,
    TRAIN,
    VALID,
    Log,
    SplitConfig,
    gather_facts,
    make_log,
    merge_facts,
    read_given,
)
from models.errors import ConfigError, DataError, nearest

EXAMPLE_SPLITS = ("train", "valid", "test", "items", "users")
TASKS = ("retrieve", "score")
KINDS = ("event", "profile", "sequence", "walk")
SCHEMA_FILE = "schema.pbtxt"
ROWS_A_SHARD = 500_000


@dataclass(frozen=True)
class BuildConfig:
    """What to build.

    Attributes:
        task: `retrieve` or `score`.
        kind: of the train rows: `event`, `profile`, `sequence` or `walk`.
        split: see `SplitConfig`.
        label_column: score: the column that the label is made of, or None.
        label_threshold: score: from which value on the label is 1.
    """

    task: str
    kind: str
    split: SplitConfig
    label_column: str | None = None
    label_threshold: float = 0.0

    @classmethod
    def parse(
        cls, task: str, kind: str, split: Mapping[str, Any], label: Mapping[str, Any] | None = None
    ) -> "BuildConfig":
        """Checks and takes over the values of a run's configuration.

        Raises:
            ConfigError: an unknown task, kind, key or value.
        """
        for name, value, allowed in (("task", task, TASKS), ("kind", kind, KINDS)):
            if value not in allowed:
                raise ConfigError(f"unknown {name} {value!r}{nearest(str(value), allowed)}")
        if task == "score" and kind != "event":
            raise ConfigError(
                f"the task 'score' is trained on rows of the kind 'event'; received {kind!r}"
            )
        label = dict(label or {})
        for key in label:
            if key not in ("column", "threshold"):
                raise ConfigError(
                    f"label: unknown key {key!r}{nearest(str(key), ('column', 'threshold'))}"
                )
        if label and set(label) != {"column", "threshold"}:
            raise ConfigError(
                f"label requires column and threshold; received {', '.join(sorted(label))}"
            )
        return cls(
            task,
            kind,
            SplitConfig.parse(split),
            label.get("column"),
            float(label.get("threshold", 0)),
        )


def build(
    make_pipeline: Callable[[], beam.Pipeline],
    inputs: Mapping[str, str],
    examples: str,
    schema: str,
    curated: str,
    config: BuildConfig,
    rows_a_shard: int = ROWS_A_SHARD,
) -> dict[str, Any]:
    """Builds the examples and the schema of the train rows.

    Args:
        make_pipeline: gives the Beam pipeline to run in.
        inputs: table -> folder of its artifact.
        examples: folder of the Examples artifact to write.
        schema: folder of the Schema artifact to write.
        curated: folder of the curated table schemas.
        config: what to build.
        rows_a_shard: about how many events one worker holds at a time.

    Returns:
        The report, which also lies at `<examples>/report.json`: rows and users a split, what was
        dropped and why, and the columns of each split with their kinds.

    Raises:
        DataError: the events lack a column that the split or label needs, or a split comes out
            empty.
    """
    columns = {table: tables.table_columns(uri) for table, uri in inputs.items()}
    _check_columns(columns["events"], config)
    if config.split.file:
        read_given(config.split.file)  # a worker would wrap the error in its own
    files = {
        table: records.shards(tables.split_folder(uri, tables.SPLIT))
        for table, uri in inputs.items()
    }
    shards = max(
        1,
        math.ceil(_row_count(inputs["events"], files["events"], columns["events"]) / rows_a_shard),
    )
    split = config.split

    with make_pipeline() as pipeline:
        events = pipeline | "Events" >> ReadBatches(files["events"], columns["events"])
        users = pipeline | "Users" >> ReadBatches(files["users"], columns["users"])
        items = beam.pvalue.AsList(
            pipeline | "Items" >> ReadBatches(files["items"], columns["items"])
        )
        facts = (
            events
            | "Facts" >> beam.Map(gather_facts, split)
            | "AllFacts" >> beam.CombineGlobally(merge_facts)
        )
        sharded = {
            "events": events | "ShardEvents" >> beam.FlatMap(partition, shards),
            "users": users | "ShardUsers" >> beam.FlatMap(partition, shards),
        } | "Together" >> beam.CoGroupByKey()
        logs = sharded | "Split" >> beam.Map(
            lambda shard, facts: _split(shard, facts, split, columns),
            beam.pvalue.AsSingleton(facts),
        )
        counts = beam.pvalue.AsSingleton(
            logs
            | "CountItems" >> beam.Map(lambda shard: rows.count_items(shard.log))
            | "AllCounts" >> beam.CombineGlobally(rows.merge_counts)
        )
        built = logs | "Build" >> beam.Map(
            lambda shard, items, counts: _build(
                shard, items, counts, columns["items"], config, examples
            ),
            items,
            counts,
        )
        once = pipeline | "Once" >> beam.Create([None])
        written_items = once | "BuildItems" >> beam.Map(
            lambda _, items, counts: _build_items(items, counts, columns["items"], examples),
            items,
            counts,
        )
        _ = once | "Report" >> beam.Map(
            lambda _, built, items: _report(built, items, config, examples),
            beam.pvalue.AsList(built),
            beam.pvalue.AsSingleton(written_items),
        )
    records.remove_staging(examples)
    report = records.read_json(posixpath.join(examples, records.REPORT))
    _check_report(report, config)
    text = schemas.to_text(
        schemas.train_schema(
            report["columns"]["train"], _origins(columns), schemas.read_schemas(curated)
        )
    )
    records.write_text(posixpath.join(schema, SCHEMA_FILE), text)
    records.remove_staging(schema)
    return report


@dataclass
class _Shard:
    number: int
    log: Log
    users: pa.Table


class ReadBatches(beam.PTransform):
    """The rows of a table's files, in batches.

    Args:
        files: gzip TFRecords.
        columns: column -> kind.
    """

    def __init__(self, files: list[str], columns: Mapping[str, str]):
        super().__init__()
        self._files, self._columns = files, dict(columns)

    def expand(self, pipeline):
        columns = self._columns
        return (
            pipeline
            | beam.Create(self._files)
            | beam.Reshuffle()
            | "Decode" >> beam.FlatMap(lambda path: records.read_table(path, columns))
        )


def partition(table: pa.Table, shards: int) -> Iterator[tuple[int, pa.Table]]:
    """Parts a batch by the hash of its users."""
    if shards == 1:
        yield 0, table
        return
    shard = shard_of(table.column("user_id").to_numpy(), shards)
    order = np.argsort(shard, kind="stable")
    bounds = np.searchsorted(shard[order], np.arange(shards + 1))
    table = table.take(pa.array(order))
    for number in np.flatnonzero(np.diff(bounds)):
        # A copy: a slice would take the whole batch along when it is sent to another worker.
        part = table.slice(bounds[number], bounds[number + 1] - bounds[number])
        yield int(number), part.take(pa.array(np.arange(part.num_rows)))


def _split(element, facts, config: SplitConfig, columns: Mapping[str, Mapping[str, str]]) -> _Shard:
    number, grouped = element
    parts = {
        table: pa.concat_tables(list(grouped[table]))
        if grouped[table]
        else empty_table(columns[table])
        for table in ("events", "users")
    }
    # Batches come in any order; sorted, equal input gives equal output.
    users = parts["users"].take(
        pa.array(np.argsort(parts["users"].column("user_id").to_numpy(), kind="stable"))
    )
    return _Shard(number, make_log(parts["events"], config, facts), users)


def _build(
    shard: _Shard,
    items: list[pa.Table],
    counts: rows.Popularity,
    item_columns: Mapping[str, str],
    config: BuildConfig,
    folder: str,
) -> dict[str, Any]:
    log, split = shard.log, config.split
    item_side = rows.Side(_all_items(items, item_columns), "item_id")
    user_side = rows.Side(shard.users, "user_id")
    train = log.split == TRAIN
    dropped: dict[str, dict[str, int]] = {}
    if config.kind == "event":
        made = {"train": rows.event_rows(log, train, item_side, user_side)}
    else:
        by_session = split.sequence_by == "session" and config.kind in ("sequence", "walk")
        made = {"train": rows.list_rows(log, train, user_side, by_session)}
    for name, part in (("valid", VALID), ("test", TEST)):
        if config.task == "score":
            made[name] = rows.score_rows(log, part, item_side, user_side, counts)
        else:
            made[name], dropped[name] = rows.query_rows(log, part, user_side, counts, split)
    if config.task == "score" and config.label_column:
        for name in ("train", "valid", "test"):
            made[name] = rows.add_label(made[name], config.label_column, config.label_threshold)
    made["users"] = rows.user_rows(log, shard.users)
    for name, table in made.items():
        records.write_table(table, tables.split_folder(folder, name), shard.number)
    return {
        "number": shard.number,
        "rows": {name: table.num_rows for name, table in made.items()},
        "users": {
            name: len(np.unique(table.column("user_id").to_numpy())) for name, table in made.items()
        },
        "events": {name: int((log.split == part).sum()) for name, part in _PARTS},
        "columns": {name: columns_of(table) for name, table in made.items()},
        "dropped": dropped,
    }


_PARTS = (("train", TRAIN), ("valid", VALID), ("test", TEST))


def _all_items(items: list[pa.Table], columns: Mapping[str, str]) -> pa.Table:
    return pa.concat_tables(items) if items else empty_table(columns)


def _build_items(
    items: list[pa.Table], counts: rows.Popularity, columns: Mapping[str, str], folder: str
) -> dict[str, Any]:
    table = rows.item_rows(_all_items(items, columns), counts)
    records.write_table(table, tables.split_folder(folder, "items"), 0)
    return {"rows": table.num_rows, "columns": columns_of(table), "in_train": len(counts.items)}


def _report(
    built: list[dict[str, Any]], items: Mapping[str, Any], config: BuildConfig, examples: str
) -> None:
    built = sorted(built, key=lambda one: one["number"])
    splits: dict[str, dict[str, int]] = {}
    for name in ("train", "valid", "test", "users"):
        splits[name] = {key: sum(one[key][name] for one in built) for key in ("rows", "users")}
        if name != "users":
            splits[name]["events"] = sum(one["events"][name] for one in built)
    splits["train"]["items"] = items["in_train"]
    splits["items"] = {"rows": items["rows"]}
    dropped: dict[str, dict[str, int]] = {}
    for one in built:
        for name, reasons in one["dropped"].items():
            for reason, count in reasons.items():
                counts = dropped.setdefault(name, {})
                counts[reason] = counts.get(reason, 0) + count
    report = {
        "task": config.task,
        "kind": config.kind,
        "split": asdict(config.split),
        "splits": splits,
        "dropped": dropped,
        "columns": {**built[0]["columns"], "items": items["columns"]},
        "shards": len(built),
    }
    records.write_json(posixpath.join(examples, records.REPORT), report)


def _row_count(uri: str, files: list[str], columns: Mapping[str, str]) -> int:
    report = posixpath.join(uri, records.REPORT)
    if records.exists(report):
        return records.read_json(report)["kept"]
    return sum(1 for path in files for _ in records.read_records(path))


def _check_columns(columns: Mapping[str, str], config: BuildConfig) -> None:
    needed = [(name, "every split") for name in ("user_id", "item_id", "row")]
    if config.split.name == "temporal":
        needed.append(("timestamp", "the split 'temporal'"))
    if config.split.sequence_by == "session":
        needed.append(("session_id", "split.sequence_by: session"))
    if config.label_column:
        needed.append((config.label_column, "label.column"))
    for name, by in needed:
        if name not in columns:
            raise DataError(
                f"the table events lacks the column {name!r}, required by {by}; received: "
                f"{', '.join(columns)}"
            )


def _check_report(report: Mapping[str, Any], config: BuildConfig) -> None:
    wanted = [("train", "rows"), ("test", "queries")] + (
        [("valid", "queries")] if config.split.valid_fraction else []
    )
    for name, what in wanted:
        if not report["splits"][name]["rows"]:
            reasons = ", ".join(
                f"{count} {reason}" for reason, count in report["dropped"].get(name, {}).items()
            )
            raise DataError(
                f"the split {config.split.name!r} leaves {name} without {what}; required: at "
                "least one; "
                f"received: {report['splits']['train']['events']} train, "
                f"{report['splits']['valid']['events']} "
                f"validation and {report['splits']['test']['events']} test events"
                + (f" ({reasons})" if reasons else "")
                + ". Choose another split.name or fractions"
            )


def _origins(columns: Mapping[str, Mapping[str, str]]) -> dict[str, tuple[str, str]]:
    origins = {}
    for table in ("events", "users", "items"):
        key = {"items": "item_id", "users": "user_id"}.get(table)
        for name in columns[table]:
            if name != key:
                origins[schemas.PREFIX[table] + name] = (table, name)
    return origins


def summary(report: Mapping[str, Any]) -> str:
    """One line: what each split holds, and what was dropped."""
    splits = report["splits"]
    text = " · ".join(f"{name} {splits[name]['rows']:,}" for name in EXAMPLE_SPLITS)
    dropped = [
        f"{name}: {count:,} {reason}"
        for name, reasons in report["dropped"].items()
        for reason, count in reasons.items()
        if count
    ]
    return text + (f" (dropped: {', '.join(dropped)})" if dropped else "")
