"""What a build says of itself: rows and events a split, what was left out and why, the columns."""

import posixpath
from collections.abc import Mapping
from typing import Any

import numpy as np

from components.build import labels
from components.build.config import EXAMPLE_SPLITS, SOURCE, WALKS, BuildConfig, SplitConfig
from components.build.domains import DomainFacts
from components.build.splits import read_given
from components.tables import records
from components.tables.columns import BYTES_LIST

_SHOWN = 5


def write_report(
    built: list,
    items: list,
    walked: tuple,
    config: BuildConfig,
    examples: str,
    selected: Mapping[str, Any],
    domains: DomainFacts | None = None,
) -> None:
    """Adds up what the shards tell, and writes it to `<examples>/report.json`.

    Args:
        built: of each shard of users: number, newest, rows, users, events, columns and
            dropped.
        items: of each shard of items: number, rows, columns, in_train and dropped.
        walked: of the walks, where there are any: counts and dropped.
        config: what was built.
        examples: folder of the Examples artifact.
        selected: which events were left out before they were split, and why.
        domains: who is in which domain, where there are two.
    """
    built, items = (sorted(part, key=lambda one: one["number"]) for part in (built, items))
    splits: dict[str, dict[str, int]] = {}
    second = [SOURCE] if config.split.has_source else []
    for name in ("train", "valid", "test", "users", *second):
        splits[name] = {key: sum(one[key][name] for one in built) for key in ("rows", "users")}
        if name != "users":
            splits[name]["events"] = sum(one["events"][name] for one in built)
    splits["train"]["items"] = sum(one["in_train"] for one in items)
    splits["items"] = {"rows": sum(one["rows"] for one in items)}
    for one in walked:
        splits[WALKS] = one["counts"]
    dropped: dict[str, dict[str, int]] = {}
    for one in (*built, *items, *walked):
        for name, reasons in one["dropped"].items():
            for reason, count in reasons.items():
                counts = dropped.setdefault(name, {})
                counts[reason] = counts.get(reason, 0) + count
    report = {
        "task": config.task,
        "kind": config.kind,
        "split": config.split.model_dump(mode="json"),
        "everything": config.everything,
        "splits": splits,
        "dropped": dropped,
        "columns": {
            **built[0]["columns"],
            "items": items[0]["columns"],
            **({WALKS: {"item_id": BYTES_LIST}} if walked else {}),
        },
        "walks": config.walks.model_dump(mode="json"),
        "context": list(config.context),
        "shards": len(built),
        # Seconds since 1970, 0 where nobody says: the histories of `users` end there.
        "newest_event": max(one["newest"] for one in built),
        "selection": dict(selected),
    }
    if second:
        report["domains"] = domains.counts(config.split)
    if config.label:
        report["labels"] = labels.merge(one["labels"] for one in built)
    if config.split.name == "given":
        report["given"] = _given([one["given"] for one in built], config.split)
    records.write_json(posixpath.join(examples, records.REPORT), report)


def _given(found: list[np.ndarray], split: SplitConfig) -> dict[str, Any]:
    """How many events the file names, how many of them no shard has, and the first of these."""
    named = read_given(split.file).index
    lacking = np.unpackbits(np.bitwise_or.reduce(found), count=len(named)) == 0
    shown = [
        tuple(part.decode("utf-8", "backslashreplace") for part in pair)
        for pair in named[lacking][:_SHOWN]
    ]
    return {"named": len(named), "missing": int(lacking.sum()), "first": shown}


def split_names(report: Mapping[str, Any]) -> list[str]:
    """The splits that a report tells of."""
    return [name for name in (*EXAMPLE_SPLITS, WALKS, SOURCE) if name in report["splits"]]


def summary(report: Mapping[str, Any]) -> str:
    """One line: what each split holds, and what was dropped."""
    splits = report["splits"]
    text = " · ".join(f"{name} {splits[name]['rows']:,}" for name in split_names(report))
    dropped = [
        f"{name}: {count:,} {reason}"
        for name, reasons in report["dropped"].items()
        for reason, count in reasons.items()
        if count
    ]
    text += f" (dropped: {', '.join(dropped)})" if dropped else ""
    chosen = report.get("selection") or {}
    types = chosen.get("positives", {}).get("types", ())
    text += "".join(f" · {one['value']}: {one['events']:,} {one['used']}" for one in types)
    for what, one in chosen.get("filters", {}).get("dropped", {}).items():
        text += f" · filters: {one['groups']:,} {what}, {one['events']:,} events"
    return text
