"""What TFDV cannot know about the tables: duplicates, the future, unknown ids, too few events.

Each check counts what it finds, shard of users by shard, and keeps a few rows to show. The sums are
then held against the thresholds.
"""

import math
import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2

from components.check.config import Thresholds
from components.check.oddities import SHOWN, odd_values
from components.tables import artifacts, records
from components.tables.columns import BYTES, concatenated
from components.tables.names import REQUIRED, TABLES
from components.tables.shards import ROWS_A_SHARD, ReadBatches, Shard, gather
from models.names.errors import DataError

_WORDS = ("na", "n/a", "nan", "nat", "null", "none", "nil", "<na>", "#n/a", "undefined")
_NO_IDS = pa.array(
    sorted(
        form.encode()
        for form in {
            "NaN",
            "NaT",
            *(form for word in _WORDS for form in (word, word.upper(), word.capitalize())),
        }
    ),
    pa.large_binary(),
)
"""Words that programs write where there is no value. As an id it is one user, or item, of many."""

_NEW_COLUMN = anomalies_pb2.AnomalyInfo.SCHEMA_NEW_COLUMN
_OTHER_TYPE = anomalies_pb2.AnomalyInfo.UNEXPECTED_DATA_TYPE


def check(
    make_pipeline: Callable[[], beam.Pipeline],
    inputs: Mapping[str, str],
    output: str,
    thresholds: Thresholds,
    now: int,
    anomalies: Mapping[str, str] | None = None,
    schemas: Mapping[str, schema_pb2.Schema] | None = None,
    rows_a_shard: int = ROWS_A_SHARD,
) -> dict[str, Any]:
    """Checks the tables and writes `<output>/report.json`, whatever comes out.

    Args:
        make_pipeline: gives the Beam pipeline to run in.
        inputs: table -> folder of its artifact.
        output: folder of the report's artifact.
        thresholds: what is tolerated.
        now: seconds since 1970, for events in the future.
        anomalies: table -> file of TFDV's anomalies.
        schemas: curated schemas, to find rows that show an anomaly.
        rows_a_shard: about how many events one worker holds at a time.

    Returns:
        The report: `failures`, `notes` and every `check` with its count, share and examples.

    Raises:
        DataError: something is beyond its threshold: table, column, rows, the reason, and what
            would allow it.
    """
    columns = {table: artifacts.table_columns(uri) for table, uri in inputs.items()}
    files = {
        table: records.shards(artifacts.split_folder(uri, artifacts.ALL))
        for table, uri in inputs.items()
    }
    reports = {table: _read_report(uri) for table, uri in inputs.items()}
    rows = reports["events"].get("kept", rows_a_shard)
    shards = max(1, math.ceil(rows / rows_a_shard))
    known = (schemas or {}).get("events", schema_pb2.Schema())
    with make_pipeline() as pipeline:
        items = beam.pvalue.AsList(
            pipeline
            | "Items" >> ReadBatches(files["items"], columns["items"])
            | "ItemIds" >> beam.Map(lambda table: table.select(["item_id"]))
        )
        has_users = bool(reports["users"].get("kept"))
        sharded = {
            "events": pipeline
            | "Events" >> ReadBatches(files["events"], columns["events"])
            | "ShardEvents" >> Shard(shards, output),
            "users": pipeline
            | "Users" >> ReadBatches(files["users"], columns["users"])
            | "UserIds" >> beam.Map(lambda table: table.select(["user_id"]))
            | "ShardUsers" >> Shard(shards, output),
        }
        found = (
            sharded
            | "Group" >> beam.CoGroupByKey()
            | "CheckEvents"
            >> beam.Map(
                lambda shard, items: check_events(
                    gather(shard[1]["events"], columns["events"]),
                    items,
                    gather(shard[1]["users"], {"user_id": BYTES}) if has_users else None,
                    thresholds,
                    now,
                    known,
                ),
                items,
            )
        )
        parts = [found]
        for table in ("items", "users"):
            schema = (schemas or {}).get(table, schema_pb2.Schema())
            parts.append(
                pipeline
                | f"Read[{table}]" >> ReadBatches(files[table], columns[table])
                | f"Gather[{table}]" >> beam.combiners.ToList()
                | f"Check[{table}]"
                >> beam.Map(
                    lambda batches, table=table, schema=schema: check_ids(
                        concatenated(batches, columns[table]),
                        table,
                        schema,
                    )
                )
            )
        _ = (
            parts
            | beam.Flatten()
            | beam.combiners.ToList()
            | "Write"
            >> beam.Map(
                lambda all_: records.write_json(posixpath.join(output, "counts.json"), _merge(all_))
            )
        )
    counts = records.read_json(posixpath.join(output, "counts.json"))
    report = _judge(counts, thresholds, reports)
    _judge_anomalies(report, counts, thresholds, anomalies or {}, reports)
    records.write_json(posixpath.join(output, records.REPORT), report)
    records.remove_staging(output)
    if report["failures"]:
        raise DataError("the data check failed:\n  " + "\n  ".join(report["failures"]))
    return report


def check_events(
    table: pa.Table,
    items: Iterable[pa.Table],
    known_users: pa.Table | None,
    thresholds: Thresholds,
    now: int,
    schema: schema_pb2.Schema,
) -> dict[str, Any]:
    """Counts what is wrong with all events of some users.

    Args:
        table: the events.
        items: the items table, in parts.
        known_users: these users' rows of the users table; None where that is empty.
        thresholds: what is tolerated.
        now: seconds since 1970.
        schema: the curated schema of the events.
    """
    users, catalogue = (
        table.column("user_id").to_numpy(),
        [part.column("item_id").to_numpy() for part in items],
    )
    item_ids = table.column("item_id").to_numpy()
    row = table.column("row").to_numpy()
    user, distinct = pd.factorize(users)
    frame = pd.DataFrame({"user": user, "item": pd.factorize(item_ids)[0], "row": row})
    order = np.argsort(row, kind="stable")
    found: dict[str, Any] = {
        "events": table.num_rows,
        "users": len(distinct),
        "checks": {},
        "odd": {},
    }

    def note(name: str, bad: np.ndarray, describe) -> None:
        where = order[bad[order]]
        shown = [{"row": int(row[one]), "received": describe(one)} for one in where[:SHOWN]]
        found["checks"][name] = {"count": len(where), "examples": shown}

    def pair(one) -> str:
        return f"user {_text(users[one])}, item {_text(item_ids[one])}"

    if "timestamp" in table.column_names:
        seconds = table.column("timestamp").to_numpy()
        frame["time"] = seconds
        note(
            "future",
            seconds > now + thresholds.future_seconds,
            lambda one: f"timestamp {seconds[one]}",
        )
        sorted_ = frame.iloc[order]
        repeated = np.zeros(len(frame), bool)
        repeated[order] = sorted_.duplicated(["user", "item", "time"]).to_numpy()
        note("duplicates", repeated, lambda one: f"{pair(one)}, timestamp {seconds[one]}")
    known = np.concatenate(catalogue) if catalogue else np.array([], object)
    if len(known):
        unknown = ~pd.Series(item_ids, dtype=object).isin(known).to_numpy()
        note("unknown_items", unknown, pair)
    if known_users is not None:
        unknown = ~np.isin(user, _places(distinct, known_users.column("user_id")))
        note("unknown_users", unknown, pair)
    note("no_id", _is_no_id(table.column("user_id")) | _is_no_id(table.column("item_id")), pair)
    sizes = np.bincount(user, minlength=len(distinct))
    few = np.flatnonzero(sizes < thresholds.min_user_events)
    shown = [
        {"id": _text(distinct[one]), "received": f"{sizes[one]} events"} for one in few[:SHOWN]
    ]
    found["checks"]["users_under_minimum"] = {"count": len(few), "examples": shown}
    found["odd"]["events"] = odd_values(table, schema, row)
    return found


def _places(ids: np.ndarray, of: pa.ChunkedArray) -> np.ndarray:
    """Where in distinct ids those of a column stand; -1 for one that does not."""
    return pd.Index(ids, dtype=object).get_indexer(pd.Index(of.to_numpy(), dtype=object))


def _is_no_id(column: pa.ChunkedArray) -> np.ndarray:
    return pc.is_in(column, value_set=_NO_IDS).to_numpy()


def check_ids(table: pa.Table, name: str, schema: schema_pb2.Schema) -> dict[str, Any]:
    """Counts ids that the items or users table has more than once."""
    (key,) = REQUIRED[name]
    ids = pd.Series(table.column(key).to_numpy(), dtype=object)
    again = np.flatnonzero(ids.duplicated().to_numpy())
    shown = [
        {"id": _text(ids[one]), "received": f"{key} {_text(ids[one])} again"}
        for one in again[:SHOWN]
    ]
    check_ = {"count": len(again), "examples": shown}
    none = np.flatnonzero(_is_no_id(table.column(key)))
    shown = [{"id": _text(ids[one]), "received": f"{key} {_text(ids[one])}"} for one in none]
    return {
        "checks": {
            f"duplicate_{name}": check_,
            f"no_id_{name}": {"count": len(none), "examples": shown[:SHOWN]},
        },
        "odd": {name: odd_values(table, schema, ids.to_numpy())},
    }


def _merge(parts: list[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {
        "events": 0,
        "users": 0,
        "checks": {},
        "odd": {table: {} for table in TABLES},
    }
    for part in parts:
        merged["events"] += part.get("events", 0)
        merged["users"] += part.get("users", 0)
        for name, one in part["checks"].items():
            into = merged["checks"].setdefault(name, {"count": 0, "examples": []})
            into["count"] += one["count"]
            into["examples"] += one["examples"]
        for table, odd in part["odd"].items():
            for column, shown in odd.items():
                merged["odd"][table].setdefault(column, []).extend(shown)
    for one in merged["checks"].values():
        one["examples"] = _first(one["examples"])
    return merged


def _first(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(examples, key=lambda one: (one.get("row", 0), str(one.get("id", ""))))[:SHOWN]


# check -> (table, column, what it is, of how many, threshold)
_RULES = {
    "future": ("events", "timestamp", "events in the future", "events", "max_future_share"),
    "duplicates": (
        "events",
        "user_id, item_id, timestamp",
        "duplicate events",
        "events",
        "max_duplicate_share",
    ),
    "unknown_items": (
        "events",
        "item_id",
        "events on items that the items table does not have",
        "events",
        "max_unknown_item_share",
    ),
    "unknown_users": (
        "events",
        "user_id",
        "events of users whom the users table does not have",
        "events",
        "max_unknown_user_share",
    ),
    "no_id": (
        "events",
        "user_id, item_id",
        "events with an id that stands for none",
        "events",
        "max_no_id_share",
    ),
    "no_id_items": (
        "items",
        "item_id",
        "rows with an id that stands for none",
        "items",
        "max_no_id_share",
    ),
    "no_id_users": (
        "users",
        "user_id",
        "rows with an id that stands for none",
        "users",
        "max_no_id_share",
    ),
    "users_under_minimum": (
        "events",
        "user_id",
        "users with fewer events than check.min_user_events",
        "users",
        "max_users_under_minimum_share",
    ),
    "duplicate_items": (
        "items",
        "item_id",
        "rows with an id that came before",
        "items",
        "max_duplicate_id_share",
    ),
    "duplicate_users": (
        "users",
        "user_id",
        "rows with an id that came before",
        "users",
        "max_duplicate_id_share",
    ),
}


def _judge(
    counts: Mapping[str, Any], thresholds: Thresholds, reports: Mapping[str, Mapping]
) -> dict[str, Any]:
    report: dict[str, Any] = {
        "failures": [],
        "notes": [],
        "checks": {},
        "thresholds": thresholds.model_dump(mode="json"),
    }
    for name, one in counts["checks"].items():
        table, column, what, of, key = _RULES[name]
        total = counts[of] if table == "events" else reports[table].get("kept", 0)
        share = one["count"] / total if total else 0.0
        report["checks"][name] = {
            **one,
            "of": total,
            "share": share,
            "table": table,
            "column": column,
        }
        if not one["count"]:
            continue
        shown = _shown(one["examples"], reports[table])
        text = f"{table}.{column}: {one['count']} {what} of {total} ({share:.2%}); {shown}"
        if share > getattr(thresholds, key):
            report["failures"].append(
                f"{text}; at most {getattr(thresholds, key):.2%} is allowed (check.{key})"
            )
        else:
            report["notes"].append(text)
    return report


def _judge_anomalies(
    report, counts, thresholds: Thresholds, anomalies: Mapping[str, str], reports
) -> None:
    report["anomalies"] = []
    for table, path in anomalies.items():
        found = anomalies_pb2.Anomalies()
        with _open(path) as file:
            found.ParseFromString(file.read())
        for column, anomaly in sorted(found.anomaly_info.items()):
            new = all(reason.type == _NEW_COLUMN for reason in anomaly.reason)
            empty = not reports[table].get("kept", 1)
            text = f"{table}.{column}: {anomaly.short_description}: {anomaly.description}"
            examples = _first(counts["odd"].get(table, {}).get(column, []))
            if examples and not new:
                text += f"; {_shown(examples, reports[table])}"
            report["anomalies"].append(
                {"table": table, "column": column, "text": text, "new_column": new}
            )
            if any(reason.type == _OTHER_TYPE for reason in anomaly.reason):
                text += f"; data.columns.types.{column} says what it is read as, such as float"
            if new or empty or f"{table}.{column}" in thresholds.allowed_anomalies:
                report["notes"].append(text)
            else:
                report["failures"].append(
                    f"{text}; to let it pass: check.allowed_anomalies: [{table}.{column}]"
                )


def _open(path: str):
    from apache_beam.io.filesystems import FileSystems

    return FileSystems.open(path, compression_type="uncompressed")


def _shown(examples: list[Mapping[str, Any]], report: Mapping[str, Any]) -> str:
    """`rows 3 (line 5 of x.inter): ..`: where to look."""
    parts = []
    for one in examples:
        where = f"row {one['row']}" if "row" in one else f"id {one.get('id')}"
        if "row" in one and len(report.get("files", ())) == 1 and "lines_ahead" in report:
            where += f" (line {one['row'] + report['lines_ahead']} of {report['files'][0]})"
        parts.append(f"{where}: {one['received']}")
    return "for example " + "; ".join(parts) if parts else "no example row"


def _read_report(uri: str) -> dict[str, Any]:
    path = posixpath.join(uri, records.REPORT)
    return records.read_json(path) if records.exists(path) else {}


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
