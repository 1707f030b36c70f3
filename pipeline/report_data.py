"""What the report says of the data: rows, splits, distributions and the columns of each table.

Distributions are counted from the events themselves up to `_ROWS` of them; beyond that TFDV's
statistics, which the run has computed anyway, stand in: they know the thousand most frequent ids
and ten classes a number.
"""

import datetime
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.build.config import SPLITS, SplitConfig
from components.tables.names import NO_TEXT
from pipeline import charts, examples
from pipeline.lineage import RunRecord

TABLES = ("events", "items", "users")
_ROWS = 200_000
_CLASSES, _TIME_CLASSES = 10, 40
_FEW = 12  # distinct values that get a bar each
_FEATURES = 3  # columns of the events that get a picture, beyond ids and time
_IDS = ("user_id", "item_id", "row", "timestamp", "session_id")


def describe(record: RunRecord) -> dict[str, Any]:
    """Everything that the data section shows.

    Keys whose part of the run did not happen are empty.
    """
    statistics = {table: _statistics(record, table) for table in TABLES}
    return {
        "tables": [report for report in record.reading.values() if report],
        "splits": record.building.get("splits", {}),
        "split": record.building.get("split", {}),
        "timed": record.timed,
        "leakage": _leakage(record),
        "dropped": [
            (split, reason, count)
            for split, reasons in record.building.get("dropped", {}).items()
            for reason, count in reasons.items()
            if count
        ],
        "selection": record.building.get("selection", {}),
        "labels": record.building.get("labels", {}).get("splits", {}),
        "check": record.checking,
        "figures": list(_figures(record, statistics["events"])),
        "columns": {
            table: _columns(found) for table, found in statistics.items() if found is not None
        },
    }


def _leakage(record: RunRecord) -> str:
    """What the split makes of time; of a split that this version does not know, nothing."""
    name = record.building.get("split", {}).get("name")
    return SplitConfig.model_construct(name=name).caveat(record.timed) if name in SPLITS else ""


def _statistics(record: RunRecord, table: str) -> Any:
    """TFDV's DatasetFeatureStatistics of a table, or None."""
    step = record.steps.get(f"StatisticsGen-{table}")
    path = (
        Path(step.outputs.get("statistics", "")) / "Split-all" / "FeatureStats.pb" if step else None
    )
    if path is None or not path.is_file():
        return None
    from tensorflow_metadata.proto.v0 import statistics_pb2

    found = statistics_pb2.DatasetFeatureStatisticsList.FromString(path.read_bytes())
    return found.datasets[0] if found.datasets else None


def _figures(record: RunRecord, statistics: Any) -> Iterator[dict[str, Any]]:
    """Title, note and chart of every distribution of the events."""
    report = record.reading["events"]
    if not report or not report["kept"]:
        return
    folder = Path(record.steps["TableReader"].outputs["events"]) / "Split-all"
    if report["kept"] <= _ROWS and folder.is_dir():
        yield from _counted(folder, report["columns"])
    elif statistics is not None:
        yield from _estimated(statistics)


def _counted(folder: Path, columns: dict[str, str]) -> Iterator[dict[str, Any]]:
    from components.tables import artifacts

    wanted = {
        name: kind
        for name, kind in columns.items()
        if not kind.endswith("_list") and name not in ("row", "session_id", "review")
    }
    events = artifacts.read_split(str(folder.parent), "all", wanted).to_pandas()
    for column, one in (("user_id", "user"), ("item_id", "item")):
        counts = events[column].value_counts()
        yield _long_tail(one, [int(count) for count in counts], len(counts), len(events))
    if "timestamp" in events:
        seconds = events["timestamp"].dropna()
        if len(seconds):
            yield _over_time(_histogram(seconds, _TIME_CLASSES), seconds.min(), seconds.max())
    for name in [name for name in wanted if name not in _IDS][:_FEATURES]:
        values = events[name].dropna()
        counts = values.value_counts()
        if not len(counts) or (
            wanted[name] == "bytes" and len(counts) > 50 and counts.iloc[0] * 50 < len(values)
        ):
            continue  # free text and ids: nothing to see in classes
        if wanted[name] == "bytes":
            bars = [
                (examples.text(value), int(count)) for value, count in counts.iloc[:_FEW].items()
            ]
        elif len(counts) <= _FEW:
            bars = [(f"{value:g}", int(count)) for value, count in counts.sort_index().items()]
        else:
            bars = [
                (f"{low:.4g} to {high:.4g}", count)
                for low, high, count in _histogram(values, _CLASSES)
            ]
        yield _feature(
            name, bars, wanted[name] != "bytes" and len(counts) > _FEW, len(events) - len(values)
        )


def _estimated(statistics: Any) -> Iterator[dict[str, Any]]:
    features = {
        feature.path.step[0]: feature for feature in statistics.features if feature.path.step
    }
    for column, one in (("user_id", "user"), ("item_id", "item")):
        if column in features:
            found = features[column].string_stats
            counts = sorted(
                (int(bucket.sample_count) for bucket in found.rank_histogram.buckets), reverse=True
            )
            if counts:
                yield _long_tail(one, counts, int(found.unique), int(statistics.num_examples))
    if "timestamp" in features and features["timestamp"].num_stats.histograms:
        found = features["timestamp"].num_stats
        yield _over_time(_buckets(found), found.min, found.max)
    for name in [name for name in features if name not in _IDS][:_FEATURES]:
        found, missing = features[name], int(_common(features[name]).num_missing)
        if found.WhichOneof("stats") == "num_stats" and found.num_stats.histograms:
            yield _feature(
                name,
                [
                    (f"{low:.4g} to {high:.4g}", count)
                    for low, high, count in _buckets(found.num_stats)
                ],
                True,
                missing,
            )
        elif 1 < found.string_stats.unique <= 50:
            bars = [
                (value.value, value.frequency) for value in found.string_stats.top_values[:_FEW]
            ]
            yield _feature(name, bars, False, missing)


def _long_tail(one: str, counts: Sequence[int], distinct: int, events: int) -> dict[str, Any]:
    """The rank curve of users or items.

    Beyond the counts that are known, only their number and sum are.
    """
    shown, marks = sum(counts), {}
    if len(counts) == distinct:
        middle = counts[len(counts) // 2]
        top = max(1, round(0.1 * distinct))
        note = (
            f"{distinct:,} {one}s: half of them have {middle:,} events or fewer, the first "
            f"{counts[0]:,}."
        )
        note += f" The first tenth has {sum(counts[:top]) / events:.0%} of all events."
    else:
        rest = distinct - len(counts)
        note = (
            f"{distinct:,} {one}s; shown are the first {len(counts):,}, with {shown / events:.0%} "
            "of all events."
        )
        note += f" The other {rest:,} have {(events - shown) / rest:.1f} events each on average."
    if one == "item":
        before = itertools.accumulate(counts, initial=0)
        covered = [total / events for total in before][:-1]
        # As the gate slices them: items that cover half, the next 30 %, the last 20 % of the
        # events.
        marks = {
            name: sum(share < bound for share in covered)
            for name, bound in (("head", 0.5), ("middle", 0.8))
        }
        marks = {name: rank for name, rank in marks.items() if rank < len(counts)}
    title = "Item popularity" if one == "item" else "Events a user"
    x_title = "items, the most popular first" if one == "item" else "users, the busiest first"
    return {"title": title, "note": note, "chart": charts.rank_curve(title, counts, x_title, marks)}


def _over_time(
    classes: list[tuple[float, float, float]], first: float, last: float
) -> dict[str, Any]:
    ends = (_day(first), _day(last))
    bars = [(_day(low), count) for low, _, count in classes]
    note = f"From {ends[0]} to {ends[1]}, in {len(bars)} equal parts."
    return {
        "title": "Events over time",
        "note": note,
        "chart": charts.bar_chart("Events over time", bars, "time", ends=ends),
    }


def _feature(
    name: str, bars: list[tuple[str, float]], is_range: bool, missing: int
) -> dict[str, Any]:
    ends = (bars[0][0].split(" to ")[0], bars[-1][0].split(" to ")[-1]) if is_range else None
    title = name.replace("_", " ").capitalize()
    note = f"Missing in {missing:,} events." if missing else "No event lacks it."
    return {
        "title": title,
        "note": note,
        "chart": charts.bar_chart(title, bars, name.replace("_", " "), ends=ends),
    }


def _histogram(values: Any, classes: int) -> list[tuple[float, float, float]]:
    import numpy as np

    counts, edges = np.histogram(values, bins=classes)
    return [
        (float(low), float(high), int(count))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def _buckets(numbers: Any) -> list[tuple[float, float, float]]:
    return [
        (bucket.low_value, bucket.high_value, bucket.sample_count)
        for bucket in numbers.histograms[0].buckets
    ]


def _day(seconds: float) -> str:
    try:
        return (
            datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=float(seconds))
        ).strftime("%Y-%m-%d")
    except (OverflowError, ValueError):
        return f"{seconds:g} s"


def _columns(statistics: Any) -> list[dict[str, Any]]:
    """A line a column: kind, share of rows that have it, and its range or most frequent values."""
    lines = []
    for feature in sorted(statistics.features, key=lambda feature: list(feature.path.step)):
        name = ".".join(feature.path.step)
        if name == "row":
            continue
        present = (
            _common(feature).num_non_missing / statistics.num_examples
            if statistics.num_examples
            else 0.0
        )
        line = {
            "name": name,
            "present": present,
            "kind": type(feature).Type.Name(feature.type).lower(),
            "distinct": None,
            "values": "",
        }
        if feature.WhichOneof("stats") == "num_stats":
            numbers = feature.num_stats
            ends = [numbers.min, numbers.median, numbers.max]
            line["values"] = (
                " · ".join(_day(end) if name == "timestamp" else f"{end:g}" for end in ends)
                if present
                else ""
            )
        elif feature.WhichOneof("stats") == "string_stats":
            line["distinct"] = int(feature.string_stats.unique)
            top = [
                value.value for value in feature.string_stats.top_values if value.value != NO_TEXT
            ][:4]
            line["values"] = ", ".join(
                value if len(value) <= 40 else value[:39] + "…" for value in top
            )
        lines.append(line)
    return lines


def _common(feature: Any) -> Any:
    return getattr(feature, feature.WhichOneof("stats")).common_stats
