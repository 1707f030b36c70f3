"""What a build needs of its tables, and what its report must show.

Each check raises with what was required and received. Light: what the header alone tells is checked
before a run begins.
"""

from collections.abc import Collection, Mapping
from typing import Any

from components.build import domains
from components.build.config import SPLITS, BuildConfig, Positives, SplitConfig
from components.build.rows import Popularity
from components.build.splits import Facts
from components.tables.columns import BYTES, FLOAT, INT, is_list
from models.names.errors import DataError, nearest
from models.names.features import NOT_FEATURES, REQUEST_INPUTS, document_columns
from models.names.label import WEIGHT

_SHOWN = 50


def selected_columns(columns: Mapping[str, str], config: BuildConfig) -> dict[str, str]:
    """Column -> kind of the events that count, out of those of all events.

    Raises:
        DataError: a column is missing, the positives' holds lists, or the log has sessions or
            weights of its own.
    """
    needed = {}
    if config.positives:
        needed[config.positives.column] = "positives.column"
    if config.sessions:
        needed["timestamp"] = "sessions.gap_minutes"
        if "session_id" in columns:
            raise DataError(
                "sessions.gap_minutes: the table events has sessions of its own, in the column "
                "'session_id'; required: none. Leave sessions out, or rename the column under "
                "data.columns"
            )
    if config.filters.min_session_events and not config.sessions:
        needed["session_id"] = "filters.min_session_events"
    for name, by in needed.items():
        if name not in columns:
            raise DataError(
                f"the table events lacks the column {name!r}, required by {by}"
                f"{nearest(name, columns)}"
            )
    if config.positives and config.positives.from_value is not None:
        check_is_number(config.positives.column, columns[config.positives.column])
    if config.positives and columns[config.positives.column] not in (BYTES, INT, FLOAT):
        raise DataError(
            f"positives.column: {config.positives.column!r} holds "
            f"{columns[config.positives.column]}; required: one value an event"
        )
    made = {"session_id": BYTES} if config.sessions else {}
    if config.positives and config.positives.weighted:
        if WEIGHT in columns:
            raise DataError(
                f"positives.values: the table events has a column {WEIGHT!r} of its own, which is "
                "what the weights are called; required: none. Rename it under data.columns"
            )
        made[WEIGHT] = FLOAT
    return {**columns, **made}


def check_is_number(column: str, kind: str) -> None:
    """Raises DataError where positives.from names a column of text."""
    if kind == BYTES:
        raise DataError(
            f"positives.from: {column!r} holds text; required: numbers. Say so with "
            f"data.columns.types.{column}, or name positives.values"
        )


def check_values(positives: Positives, there: Collection[str]) -> None:
    """Raises DataError where no event has one of the values that count.

    Args:
        positives: which do.
        there: values that the log has.
    """
    for value in positives.values or {}:
        if value not in there:
            raise DataError(
                f"positives.values: events.{positives.column} has no {value!r}"
                f"{nearest(value, list(there)[:_SHOWN])}"
            )


def check_columns(columns: Mapping[str, str], config: BuildConfig) -> None:
    """Raises DataError where the events lack a column that the split or the label needs."""
    needed = [(name, "every split") for name in ("user_id", "item_id", "row")]
    by_name = f"the split {config.split.name!r}"
    needed += [(name, by_name) for name in SPLITS[config.split.name].columns]
    if config.split.by_session:
        needed.append(("session_id", "split.sequence_by: session"))
    if config.label:
        needed.append((config.label.column, "label.column"))
        beside = {"label.weight": config.label.weight, "label.group": config.label.group}
        needed += [(name, by) for by, name in beside.items() if name]
    needed += [(name, "features.context") for name in config.context]
    if config.timed:
        needed.append(("timestamp", "features.point_in_time"))
    for name, by in needed:
        if name not in columns:
            raise DataError(
                f"the table events lacks the column {name!r}, required by {by}; received: "
                f"{', '.join(columns)}"
            )
    for name in config.point_in_time:
        if name in columns:
            raise DataError(
                f"features.point_in_time: the table events has a column {name!r} of its own; "
                "rename it under data.columns"
            )
    for name in config.context:
        if config.split.has_source and name == domains.DOMAIN:
            raise DataError(
                f"features.context: {name!r} tells the events of the target, which are all that "
                "rows are built of, from those of the source; required: other columns"
            )
        if is_list(columns[name]) or name in NOT_FEATURES or name in REQUEST_INPUTS:
            raise DataError(
                "features.context: required: columns of the events with one value each, none of "
                f"{', '.join(sorted(NOT_FEATURES | REQUEST_INPUTS))}; received {name!r}, which "
                f"holds {columns[name]}"
            )


def check_document_columns(columns: Mapping[str, Mapping[str, str]]) -> None:
    """Raises DataError where a table has a column of the name that documents are given."""
    for table, entity in (("users", "user"), ("items", "item")):
        for name in document_columns(entity):
            own = name.removeprefix(f"{entity}_")
            if own in columns[table]:
                raise DataError(
                    f"the table {table} has a column {own!r}, which is what the documents made of "
                    "the "
                    f"reviews are called; rename it with data.columns.{table}"
                )


def check_items(counts: Popularity, config: BuildConfig) -> Popularity:
    """Returns the counts of train; raises DataError where the model cannot take so many items."""
    items = int((counts.counts >= config.min_count).sum())
    if config.most_items and items > config.most_items:
        raise DataError(
            f"the catalogue{' of everything' if config.everything else ''} has {items:,} items "
            f"with at least {config.min_count} train events; "
            f"required: at most {config.most_items:,}, which is what the model can hold in the "
            "memory of this machine or is set to. Raise features.min_count, or choose another model"
        )
    return counts


def check_facts(facts: Facts, config: SplitConfig) -> Facts:
    """Returns the facts of the log; raises DataError where the split cannot be made of them."""
    if config.has_source:
        domains.check(facts.domains, config)
    return facts


def check_report(report: Mapping[str, Any], config: BuildConfig) -> None:
    """Raises DataError where train or a split with queries came out empty.

    And where the split `given` names too many events that the log lacks.
    """
    given = report.get("given", {"named": 0, "missing": 0})
    if given["missing"] > config.split.max_missing_share * given["named"]:
        shown = "; ".join(f"user {user}, item {item}" for user, item in given["first"])
        raise DataError(
            f"split.file: {given['missing']:,} of the {given['named']:,} events that "
            f"{config.split.file} names are not in the log, for example {shown}; at most "
            f"{config.split.max_missing_share:.2%} is allowed (split.max_missing_share)"
        )
    wanted = [("train", "rows")]
    if not config.everything:
        wanted += [("test", "queries")]
        wanted += [("valid", "queries")] if config.split.valid_fraction else []
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
