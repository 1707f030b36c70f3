"""Skew and drift of what a served model is asked.

The statistics of request logs are held against training's, and against an earlier period's.

TFDV compares the columns, with the comparators of the curated schemas in the environment SERVING.
What TFDV cannot know is counted beside it: users and items that the run has never seen, empty
histories, who answered, what is recommended.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pydantic
from tensorflow_metadata.proto.v0 import anomalies_pb2

from components.monitor.request_logs import ITEM, RECOMMENDED, STRATEGY, USER
from components.monitor.statistics import SERVING, Period, Statistics, TrainedOn
from components.tables.names import NO_TEXT
from models.names.settings import Names, Settings, Share

_METRICS = {
    "L_INFTY": "L-infinity distance",
    "JENSEN_SHANNON_DIVERGENCE": "Jensen-Shannon divergence",
    "NORMALIZED_ABSOLUTE_DIFFERENCE": "normalized absolute difference",
}
_FALLBACK = {"retrieve": b"fallback", "score": b"cold"}
_SHOWN = 8  # of the values that differ most


class Bounds(Settings):
    """How much of what is tolerated, beside the comparators of the schemas.

    Attributes:
        max_unknown_user_share: of the rows, asked for users whom the run's data do not have.
        max_unknown_item_share: of the items in histories (of those scored), that the run's data do
            not have.
        max_empty_history_share: of the rows, without a history; ordinary where the model knows its
            users' own.
        max_fallback_share: of the answers, from popularity (`fallback`) or with unknown ids
            (`cold`).
        max_share_change: of any of these shares and of each strategy, from the earlier period.
        max_missing_change: of the share of rows that lack a column, from training and from the
            earlier period.
        max_popularity_drift: L-infinity distance between the items recommended now and in the
            earlier period.
        min_rows: with fewer rows or values on either side nothing is held against its bound.
        allowed_anomalies: columns whose anomalies against the schema may pass.
    """

    max_unknown_user_share: Share = 0.2
    max_unknown_item_share: Share = 0.05
    max_empty_history_share: Share = 1.0
    max_fallback_share: Share = 0.2
    max_share_change: Share = 0.1
    max_missing_change: Share = 0.1
    max_popularity_drift: Share = 0.05
    min_rows: int = pydantic.Field(200, ge=1)
    allowed_anomalies: Names = ()


@dataclass
class Finding:
    """One comparison.

    Attributes:
        kind: `skew` (against training), `drift` (against the earlier period), `share` or `schema`.
        name: the column or what was counted.
        metric: how it was measured, in words.
        value: what was measured; None for an anomaly.
        bound: the most that is allowed; None where nothing bounds it.
        state: `met`, `broken`, `too few` rows to tell, or `unbounded`.
        text: all of it in words.
        differences: of a column: (value, share now, share before), the most different first.
        before: of a share that is compared: what it was.
    """

    kind: str
    name: str
    metric: str
    value: float | None
    bound: float | None
    state: str
    text: str
    differences: list[tuple[str, float, float]] = field(default_factory=list)
    before: float | None = None


def compare(
    now: Period, training: TrainedOn, earlier: Period | None, limits: Bounds
) -> list[Finding]:
    """Everything that can be compared, what is broken first."""
    findings = [
        *_columns(now, training, earlier, limits),
        *_missing(now, training, earlier, limits),
        *_shares(now, training, earlier, limits),
    ]
    if earlier is not None and training.task == "retrieve":
        findings.append(_popularity(now, earlier, limits))
    order = ("broken", "too few", "met", "unbounded")
    return sorted(findings, key=lambda finding: order.index(finding.state))


def _columns(
    now: Period, training: TrainedOn, earlier: Period | None, limits: Bounds
) -> list[Finding]:
    """TFDV's findings.

    They are distances by the schema's comparators, and anomalies of the requests against the
    schema.
    """
    import tensorflow_data_validation as tfdv  # imports TensorFlow, which nothing else here needs

    skew = tfdv.validate_statistics(
        training.statistics, training.schema, environment=SERVING, serving_statistics=now.statistics
    )
    drift = tfdv.validate_statistics(
        now.statistics,
        training.schema,
        environment=SERVING,
        previous_statistics=earlier.statistics if earlier else None,
    )
    findings = []
    for kind, anomalies, before, words in (
        ("skew", skew, training.statistics, "training"),
        ("drift", drift, earlier.statistics if earlier else None, "the earlier period"),
    ):
        for info in anomalies.drift_skew_info:
            (name,) = info.path.step
            for measured in info.skew_measurements if kind == "skew" else info.drift_measurements:
                findings.append(
                    _distance(
                        kind,
                        name,
                        measured,
                        _feature(now.statistics, name),
                        _feature(before, name),
                        words,
                        limits,
                    )
                )
    for column, anomaly in sorted(drift.anomaly_info.items()):
        types = [anomalies_pb2.AnomalyInfo.Type.Name(reason.type) for reason in anomaly.reason]
        reasons = [
            reason.description
            for reason, name in zip(anomaly.reason, types, strict=True)
            if not name.startswith("COMPARATOR")
        ]
        if reasons:
            state = "unbounded" if column in limits.allowed_anomalies else "broken"
            text = f"{column}: the requests break the schema: {' '.join(reasons)}"
            if state == "broken":
                text += f" To let it pass: --set allowed_anomalies={column}"
            findings.append(Finding("schema", column, "anomaly", None, None, state, text))
    return findings


def _distance(
    kind: str, name: str, measured: Any, now: Any, before: Any, words: str, limits: Bounds
) -> Finding:
    metric = _METRICS[type(measured).Type.Name(measured.type)]
    value, bound = measured.value, measured.threshold
    count, count_before = _values(now), _values(before)
    text = (
        f"{kind} of {name}: the {metric} from {words} is {value:.4f}; at most {bound:g} is allowed"
    )
    text += f" ({kind}_comparator of the schema)"
    state = "met" if value <= bound else "broken"
    if min(count, count_before) < limits.min_rows:
        state = "too few"
        text += f"; not judged: {count} values now, {count_before} in {words}, "
        text += f"at least {limits.min_rows} are needed (min_rows)"
    differences = _differences(now, before)
    if differences:
        value_, share, share_before = differences[0]
        text += (
            f"; most different: {value_!r}, {share:.1%} of the values now, {share_before:.1%} in "
            f"{words}"
        )
    elif (
        now is not None
        and before is not None
        and now.WhichOneof("stats") == before.WhichOneof("stats") == "num_stats"
    ):
        text += f"; median {now.num_stats.median:g} now, {before.num_stats.median:g} in {words}"
    return Finding(kind, name, metric, value, bound, state, text, differences)


def _missing(
    now: Period, training: TrainedOn, earlier: Period | None, limits: Bounds
) -> list[Finding]:
    """A column that requests lack more often.

    This is the skew that TFDV's comparators do not see. A history may be empty.
    """
    findings = []
    for kind, before, words in (
        ("skew", training.statistics, "training"),
        ("drift", earlier.statistics if earlier else None, "the earlier period"),
    ):
        if before is None or training.task == "retrieve":
            continue
        for name in training.columns:
            shares = [_missing_share(statistics, name) for statistics in (now.statistics, before)]
            change = shares[0] - shares[1]
            text = (
                f"{name} is missing in {shares[0]:.1%} of the rows now, {shares[1]:.1%} in {words}"
            )
            rows = min(
                int(now.statistics.datasets[0].num_examples), int(before.datasets[0].num_examples)
            )
            findings.append(
                _bounded(
                    kind,
                    name,
                    "more rows without a value",
                    change,
                    limits.max_missing_change,
                    rows,
                    text,
                    "max_missing_change",
                    limits,
                )
            )
    return findings


def shares(period: Period, training: TrainedOn) -> dict[str, tuple[int, int]]:
    """What was counted: name -> (count, of how many)."""
    summary, found = period.summary, {}
    rows = summary.counts.get("rows", 0)
    for name, what, known in (
        ("unknown users", USER, training.users),
        ("unknown items", ITEM, training.items),
    ):
        if {USER: "user_id", ITEM: "item_id"}[what] not in training.columns:
            continue
        values = summary.values.filter(pc.equal(summary.values["of"], what))
        total = pc.sum(values["count"]).as_py() or 0
        seen = (
            pc.sum(values.filter(pc.is_in(values["value"], value_set=known))["count"]).as_py() or 0
        )
        # A row without a user counts as one of an unknown user; a history without items adds no
        # item, known or not.
        of = rows if what == USER or training.task == "score" else total
        found[name] = (of - seen, of)
    if training.task == "retrieve":
        found["empty histories"] = (summary.counts.get("empty_histories", 0), rows)
    strategies = summary.of(STRATEGY)
    answered = sum(strategies.values())
    if answered:
        for strategy in sorted({*strategies, b"model", _FALLBACK[training.task]}):
            found[f"answered by {strategy.decode('utf-8', 'replace')}"] = (
                strategies.get(strategy, 0),
                answered,
            )
    return found


def _shares(
    now: Period, training: TrainedOn, earlier: Period | None, limits: Bounds
) -> list[Finding]:
    fallback = f"answered by {_FALLBACK[training.task].decode()}"
    bounds = {
        "unknown users": "max_unknown_user_share",
        "unknown items": "max_unknown_item_share",
        "empty histories": "max_empty_history_share",
        fallback: "max_fallback_share",
    }
    items = (
        "items in histories are ones" if training.task == "retrieve" else "items to score are ones"
    )
    what = {
        "unknown users": "rows are for users that the run's data do not have",
        "unknown items": f"{items} that the run's data do not have",
        "empty histories": "rows have no history",
    }
    findings: list[Finding] = []
    found, before = shares(now, training), shares(earlier, training) if earlier else {}
    # A strategy that only one of the periods has counts as 0 of all answers in the other.
    answered, answered_before = (
        counts.get("answered by model", (0, 0))[1] for counts in (found, before)
    )
    for name in [*found, *(name for name in before if name not in found)]:
        count, of = found.get(name, (0, answered))
        share = count / of if of else 0.0
        key = bounds.get(name)
        text = f"{share:.1%}: {count:,} of {of:,} {what.get(name, f'rows are {name}')}"
        findings.append(
            _bounded(
                "share",
                name,
                "share",
                share,
                getattr(limits, key) if key else None,
                of,
                text,
                key or "",
                limits,
            )
        )
        if earlier is not None:
            count_before, of_before = before.get(name, (0, answered_before))
            old = count_before / of_before if of_before else 0.0
            text, change = (
                f"{name}: {share:.1%} now, {old:.1%} in the earlier period",
                abs(share - old),
            )
            rows = min(of, of_before)
            findings.append(
                _bounded(
                    "drift",
                    name,
                    "change of the share",
                    change,
                    limits.max_share_change,
                    rows,
                    text,
                    "max_share_change",
                    limits,
                )
            )
            findings[-1].before = old
    return findings


def _popularity(now: Period, earlier: Period, limits: Bounds) -> Finding:
    found, before = now.summary.of(RECOMMENDED), earlier.summary.of(RECOMMENDED)
    distance, divergence, differences = distribution_distance(found, before)
    text = (
        "the L-infinity distance of the recommended items from the earlier period's is "
        f"{distance:.4f} "
    )
    text += f"(Jensen-Shannon divergence {divergence:.4f})"
    if differences:
        item, share, share_before = differences[0]
        text += (
            f"; most different: {item!r}, {share:.1%} of what is recommended now, "
            f"{share_before:.1%} before"
        )
    rows = min(sum(found.values()), sum(before.values()))
    finding = _bounded(
        "drift",
        "recommended items",
        "L-infinity distance",
        distance,
        limits.max_popularity_drift,
        rows,
        text,
        "max_popularity_drift",
        limits,
    )
    finding.differences = differences
    return finding


def distribution_distance(
    now: Mapping[bytes, int], before: Mapping[bytes, int]
) -> tuple[float, float, list[tuple[str, float, float]]]:
    """Two distances of two counted distributions, and the values that differ most.

    The distances are L-infinity and the Jensen-Shannon divergence (base 2, so in [0, 1]).
    Where only one of the two is empty the divergence is 1; where both are, the distances are 0.
    """
    values = sorted({*now, *before})
    totals = [sum(now.values()), sum(before.values())]
    if not any(totals):
        return 0.0, 0.0, []
    shares_ = [
        np.array([counts.get(value, 0) for value in values]) / (total or 1)
        for counts, total in zip((now, before), totals, strict=True)
    ]
    if not all(totals):
        return float(max(shares_[0].max(), shares_[1].max())), 1.0, []
    middle = (shares_[0] + shares_[1]) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [
            np.where(share > 0, share * np.log2(share / middle), 0.0).sum() for share in shares_
        ]
    apart = np.abs(shares_[0] - shares_[1])
    order = np.argsort(-apart, kind="stable")[:_SHOWN]
    differences = [
        (
            values[one].decode("utf-8", "backslashreplace"),
            float(shares_[0][one]),
            float(shares_[1][one]),
        )
        for one in order
    ]
    return float(apart.max()), float(sum(terms) / 2), differences


def _bounded(
    kind: str,
    name: str,
    metric: str,
    value: float,
    bound: float | None,
    rows: int,
    text: str,
    key: str,
    limits: Bounds,
) -> Finding:
    if bound is None:
        return Finding(kind, name, metric, value, bound, "unbounded", text)
    state = "met" if value <= bound else "broken"
    text += (
        f"; at most {bound:.2%} is allowed ({key})"
        if metric != "L-infinity distance"
        else f"; at most {bound:g} is allowed ({key})"
    )
    if rows < limits.min_rows:
        state = "too few"
        text += f"; not judged: {rows} rows, at least {limits.min_rows} are needed (min_rows)"
    return Finding(kind, name, metric, value, bound, state, text)


def _feature(statistics: Statistics | None, name: str) -> Any:
    features = statistics.datasets[0].features if statistics and statistics.datasets else ()
    return next((feature for feature in features if list(feature.path.step) == [name]), None)


def _common(feature: Any) -> Any:
    return getattr(feature, feature.WhichOneof("stats")).common_stats


def _values(feature: Any) -> int:
    return int(_common(feature).tot_num_values) if feature is not None else 0


def _missing_share(statistics: Statistics, name: str) -> float:
    rows, feature = statistics.datasets[0].num_examples, _feature(statistics, name)
    return 1.0 - (_common(feature).num_non_missing / rows if feature is not None and rows else 0.0)


def _differences(now: Any, before: Any) -> list[tuple[str, float, float]]:
    """The most different values of a column of strings.

    They are among the thousand most frequent ones that TFDV keeps.
    """
    if (
        now is None
        or before is None
        or {now.WhichOneof("stats"), before.WhichOneof("stats")} != {"string_stats"}
    ):
        return []
    counted = []
    for feature in (now, before):
        total = _values(feature) or math.inf
        counted.append(
            {
                bucket.label: bucket.sample_count / total
                for bucket in feature.string_stats.rank_histogram.buckets
            }
        )
    values = {*counted[0], *counted[1]} - {NO_TEXT}
    order = sorted(
        values, key=lambda value: (-abs(counted[0].get(value, 0) - counted[1].get(value, 0)), value)
    )[:_SHOWN]
    return [(value, counted[0].get(value, 0.0), counted[1].get(value, 0.0)) for value in order]
