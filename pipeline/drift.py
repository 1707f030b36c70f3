"""`recsys drift`: what the pushed model is asked, held against what it was trained on.

It is held against an earlier period as well.
"""

import dataclasses
import datetime
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from models.names.errors import DataError, RecsysError
from pipeline import charts, lineage
from pipeline.lineage import RunRecord

FINDINGS, PAGE = "findings.json", "report.html"
_TABLES = ("events", "items", "users")
_FEW_FIGURES = 6
_LABEL = 16  # characters of a label that a dot plot has place for


class Drifted(RecsysError):
    """Something is beyond its bound."""


def run(
    logs: str,
    output: str,
    run_id: str = "latest",
    baseline_logs: str | None = None,
    since: datetime.datetime | None = None,
    model: str | None = None,
    schema: str | None = None,
    limits: Mapping[str, Any] | None = None,
    report: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Compares, and writes `findings.json` and `report.html`.

    Args:
        logs: folder, file or prefix of the request logs.
        output: folder of runs.
        run_id: the run to compare with; `latest`: the newest that pushed.
        baseline_logs: logs of an earlier period.
        since: UTC; only requests from then on are judged. Without `baseline_logs` those before it
            are the earlier period.
        model: name of the served model, where the logs are of several.
        schema: name or folder of the curated schemas; those that the run was checked with where
            None.
        limits: of `skew.Bounds`.
        report: the folder to write to; a new one under `<output>/drift` where None.
        say: takes lines of progress.

    Returns:
        The findings, as the JSON file has them; `broken` lists what is beyond its bound, in words.

    Raises:
        RecsysError: no logs, no such run, an artifact that is gone, an unknown limit.
    """
    record = lineage.last_pushed(output) if run_id == "latest" else lineage.load_run(output, run_id)
    from pipeline.local import quiet, readable_errors

    with readable_errors():
        quiet()
        from components.in_process import in_process_pipeline
        from components.monitor import request_logs, skew
        from components.monitor.statistics import measure

        bounds = skew.Bounds.parse(limits, "--set")
        files = request_logs.find_logs(logs)
        earlier_files = request_logs.find_logs(baseline_logs) if baseline_logs else []
        folder = (
            Path(report)
            if report
            else Path(output)
            / "drift"
            / f"{datetime.datetime.now(datetime.timezone.utc):%Y%m%dT%H%M%SZ}"
        )
        count = f"{len(files)} log file{'s' if len(files) > 1 else ''}"
        say(
            f"{count} against run {record.run_id} of {record.pipeline} (TensorFlow takes a while "
            "to load)"
        )
        training = read_training(record.data_run, schema, str(folder / "training"))
        quiet()
        start = since.replace(tzinfo=datetime.timezone.utc).timestamp() if since else None
        reading = request_logs.LogReading(training.task, training.columns, model, start)
        now = measure(in_process_pipeline, files, reading, str(folder / "now"))
        earlier = None
        if baseline_logs or since:
            before = dataclasses.replace(
                reading, since=None, until=None if baseline_logs else start
            )
            try:
                earlier = measure(
                    in_process_pipeline, earlier_files or files, before, str(folder / "earlier")
                )
            except DataError as error:
                raise DataError(f"the earlier period: {error}") from error
        findings = skew.compare(now, training, earlier, bounds)
        found = _report(record, training, now, earlier, findings, bounds)
        from components.tables import records

        records.write_json(str(folder / FINDINGS), found)
        records.remove_staging(str(folder))
        page = write_page(found, now, earlier, folder / PAGE)
    states = [finding.state for finding in findings]
    counted = ", ".join(
        f"{states.count(state)} {state}"
        for state in ("broken", "met", "too few", "unbounded")
        if state in states
    )
    say(
        f"{now.summary.counts['rows']:,} rows of {now.summary.counts['requests']:,} requests; "
        f"comparisons: {counted}"
    )
    for note in found["notes"]:
        say(f"  note: {note}")
    say(f"report: {page}")
    return found


def require_met(found: Mapping[str, Any]) -> None:
    """Raises Drifted where something is beyond its bound."""
    if found["broken"]:
        count = len(found["broken"])
        raise Drifted(
            f"{count} bound{'s are' if count > 1 else ' is'} broken:\n  "
            + "\n  ".join(found["broken"])
        )


def read_training(record: RunRecord, schema: str | None, folder: str):
    """What the model of a run was trained on (`monitor_statistics.TrainedOn`).

    Of a bundle that is the run of its recall; of a model that was fitted again on everything it is
    that: what is served knows all of it.

    Raises:
        RecsysError: the run did not get as far as a model, or its artifacts are gone.
    """
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    from components.in_process import in_process_pipeline
    from components.monitor import statistics as monitor_statistics
    from components.tables import artifacts, schemas, statistics

    builder = record.served("ExampleBuilder")
    examples = _artifact(record, builder, "examples")
    curated_in = {table: _artifact(record, f"Schema-{table}", "schema") for table in _TABLES}
    if schema:
        curated = schemas.read_schemas(schemas.schema_folder(schema))
    else:
        texts = {
            table: (Path(uri) / "schema.pbtxt").read_text("utf-8")
            for table, uri in curated_in.items()
        }
        curated = {
            table: text_format.Parse(text, schema_pb2.Schema()) for table, text in texts.items()
        }
    task, train_columns = record.building["task"], record.building["columns"]["train"]
    text = (Path(_artifact(record, builder, "schema")) / "schema.pbtxt").read_text("utf-8")
    train = text_format.Parse(text, schema_pb2.Schema())
    if task == "retrieve":
        columns = {"user_id": "bytes", "item_id": "bytes_list"}
        path = (
            Path(_artifact(record, "StatisticsGen-events", "statistics"))
            / "Split-all"
            / statistics.FILE
        )
        trained = statistics.Statistics.FromString(path.read_bytes())
    else:
        inputs = _inputs(record, "score")
        columns = {name: kind for name, kind in train_columns.items() if name in inputs}
        trained = statistics.split_statistics(
            in_process_pipeline, examples, "train", columns, folder, empty_is_missing=True
        )
    origins = schemas.origins(
        {
            table: artifacts.table_columns(_artifact(record, "TableReader", table))
            for table in _TABLES
        }
    )
    return monitor_statistics.TrainedOn(
        task,
        columns,
        monitor_statistics.serving_schema(task, columns, curated, origins, train),
        trained,
        monitor_statistics.known_ids(examples, "users", "user_id"),
        monitor_statistics.known_ids(examples, "items", "item_id"),
    )


def _artifact(record: RunRecord, node: str, key: str) -> str:
    step = record.steps.get(node)
    if step is None or key not in step.outputs:
        raise RecsysError(
            f"run {record.run_id} did not get as far as {node}; required: a run that pushed a model"
        )
    if not os.path.isdir(step.outputs[key]):
        raise DataError(f"run {record.run_id}: {key} of {node} is gone: {step.outputs[key]}")
    return step.outputs[key]


def _inputs(record: RunRecord, signature: str) -> set[str]:
    """What a signature of the run's model takes."""
    from tensorflow.core.protobuf import saved_model_pb2

    folder = _artifact(record, record.served("Trainer"), "model")
    path = Path(folder) / "Format-Serving" / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    return set(model.meta_graphs[0].signature_def[signature].inputs)


def _report(record: RunRecord, training, now, earlier, findings, limits) -> dict[str, Any]:
    version = Path(record.pushed_path).name if record.pushed_path else None
    served = {name.rpartition("/")[2] for name in now.summary.models}
    notes = []
    for words, period in (("", now), ("the earlier period: ", earlier)):
        if period is None:
            continue
        summary = period.summary
        notes += [
            f"{words}{path} was read up to its damage: {why}"
            for path, why in sorted(summary.damaged.items())
        ]
        if unreadable := summary.counts.get("unreadable"):
            notes.append(
                f"{words}{unreadable:,} records are no requests: the first: {summary.unreadable}"
            )
        notes += [
            f"{words}{count:,} requests of {name} say nothing about skew"
            for name, count in sorted(summary.other.items())
        ]
        notes += [
            f"{words}{summary.counts[key]:,} requests {what}"
            for key, what in _LEFT_OUT.items()
            if summary.counts.get(key)
        ]
    if version and served - {version}:
        notes.append(
            f"the logs were answered by version {', '.join(sorted(served))}; the run pushed "
            f"version {version}"
        )
    if training.task == "retrieve" and not any(
        feature.HasField("skew_comparator") for feature in training.schema.feature
    ):
        notes.append(
            "the curated schema has no skew_comparator on user_id or item_id: their skew is not "
            "bounded"
        )
    return {
        "run": record.run_id,
        "pipeline": record.pipeline,
        "task": training.task,
        "version": version,
        "logs": _period(now),
        "earlier": _period(earlier) if earlier else None,
        "limits": limits.model_dump(mode="json"),
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "broken": [finding.text for finding in findings if finding.state == "broken"],
        "notes": notes,
    }


_LEFT_OUT = {"other_models": "are of other models", "outside": "are of another time"}


def _period(period) -> dict[str, Any]:
    summary = period.summary
    return {
        "files": period.files,
        **{
            name: summary.counts.get(name, 0)
            for name in ("records", "requests", "rows", "unreadable", "other_models", "outside")
        },
        "models": summary.models,
        "damaged": summary.damaged,
        "other": summary.other,
        "first": _time(summary.first),
        "last": _time(summary.last),
    }


def _time(seconds: int | None) -> str | None:
    return (
        None
        if seconds is None
        else f"{datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc):%Y-%m-%d %H:%M:%S}"
        " UTC"
    )


def write_page(found: Mapping[str, Any], now, earlier, path: Path) -> Path:
    """Writes the findings as a page that needs nothing but itself."""
    from components.monitor.request_logs import RECOMMENDED
    from pipeline import report

    series = ("now", "earlier period")
    figures = list(_distances(found)) + list(_shares(found))
    counts = list(now.summary.of(RECOMMENDED).values())
    if counts:
        top = sum(counts[: max(1, round(0.1 * len(counts)))]) / sum(counts)
        note = (
            f"{len(counts):,} items were recommended {sum(counts):,} times; the first tenth of "
            f"them {top:.0%} of the time."
        )
        chart = charts.rank_curve(
            "Recommended items", counts, "items, the most often recommended first"
        )
        figures.append({"title": "Recommended items", "note": note, "chart": chart})
    details = [_detail(finding) for finding in found["findings"] if finding["differences"]][
        :_FEW_FIGURES
    ]
    groups = [
        ("skew", "Skew against training"),
        ("schema", "Anomalies against the schema"),
        ("drift", "Drift against the earlier period"),
        ("share", "Who asks, and who answers"),
    ]
    return report.write_page(
        report.environment()
        .get_template("drift.html")
        .render(
            found=found,
            groups=[
                (key, title, [one for one in found["findings"] if one["kind"] == key])
                for key, title in groups
            ],
            periods=[
                (name, one)
                for name, one in zip(series, (found["logs"], found["earlier"]), strict=True)
                if one
            ],
            figures=figures,
            details=details,
            legend=charts.legend(series[: 2 if earlier else 1]),
        ),
        path,
    )


def _distances(found: Mapping[str, Any]):
    """Every distance as a multiple of its bound: what is right of 1 is broken."""
    rows: dict[str, dict[str, float]] = {}
    for finding in found["findings"]:
        if (
            finding["kind"] in ("skew", "drift")
            and finding["bound"]
            and "share" not in finding["metric"]
            and "without" not in finding["metric"]
        ):
            rows.setdefault(finding["name"], {})[finding["kind"]] = (
                finding["value"] / finding["bound"]
            )
    if rows:
        used = [one for one in ("skew", "drift") if any(one in values for values in rows.values())]
        chart = charts.dot_plot(
            "Distances", [(name[:_LABEL], values) for name, values in rows.items()], used
        )
        note = f"As multiples of their bounds: beyond 1 a bound is broken. Circles: {used[0]}"
        note += "; diamonds: drift." if len(used) > 1 else "."
        yield {"title": "Distances", "note": note, "chart": chart}


def _shares(found: Mapping[str, Any]):
    rows = {
        finding["name"]: {"now": finding["value"]}
        for finding in found["findings"]
        if finding["kind"] == "share"
    }
    for finding in found["findings"]:
        if (
            finding["kind"] == "drift"
            and finding["name"] in rows
            and finding.get("before") is not None
        ):
            rows[finding["name"]]["earlier period"] = finding["before"]
    if rows:
        used = [
            one
            for one in ("now", "earlier period")
            if any(one in values for values in rows.values())
        ]
        labels = [
            (name.replace("answered by ", "by ")[:_LABEL], values) for name, values in rows.items()
        ]
        yield {
            "title": "Shares",
            "note": "Of the rows, items or answers.",
            "chart": charts.dot_plot("Shares", labels, used),
        }


def _detail(finding: Mapping[str, Any]) -> dict[str, Any]:
    before = "training" if finding["kind"] == "skew" else "earlier period"
    rows = [
        (value[:_LABEL], {"now": share, before: old})
        for value, share, old in finding["differences"]
    ]
    title = f"{finding['name']}: {finding['kind']}"
    return {
        "title": title,
        "note": f"Shares of the values that differ most: circles now, diamonds {before}.",
        "chart": charts.dot_plot(title, rows, ("now", before)),
    }
