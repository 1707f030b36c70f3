"""Which events are split and learnt from: sessions by gaps, positives, and enough support.

The log is gone through once more for them, before it is split: by shards of users, and for the
support by one worker that holds two hashes of each event (32 bytes with the session's), since what
one item loses another loses by it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.build import checks
from components.build.config import BuildConfig, Filters, Positives, Sessions, SplitConfig
from components.build.session_splits import hashes
from components.build.splits import TARGET, Facts, in_train
from components.build.whole_log import facts_of_kept
from components.tables import records
from components.tables.columns import kind_of, words_of
from components.tables.hashing import hash_ids
from components.tables.shards import Kept, ReadBatches, Shard, gather, keep
from models.names.errors import DataError
from models.names.label import WEIGHT

_SHOWN = 50
_NO_VALUE = "no value"


@dataclass(frozen=True)
class Selection:
    """The events that count.

    Attributes:
        before: number of a shard of users and where its events lie, before the support is counted.
        after: the same of those that have enough.
        report: what was left out, and why.
    """

    before: list[tuple[int, Kept]]
    after: list[tuple[int, Kept]]
    report: dict[str, Any]


def select(
    make_pipeline: Callable[[], beam.Pipeline],
    files: list[str],
    columns: Mapping[str, str],
    config: BuildConfig,
    shards: int,
    folder: str,
) -> Selection:
    """Goes through the log for the events that count.

    Args:
        make_pipeline: gives the Beam pipelines to run in.
        files: of the events.
        columns: column -> kind of them.
        config: what to build: positives, sessions, filters and the split.
        shards: how many shards of users there are.
        folder: of the artifact that is being written.

    Raises:
        DataError: the positives' column holds none of the values that count, or nothing is left.
    """
    report: dict[str, Any] = {}
    with make_pipeline() as pipeline:
        found = (
            pipeline
            | "Events" >> ReadBatches(files, columns)
            | "Shard" >> Shard(shards, folder)
            | "Group" >> beam.GroupByKey()
            | "Select" >> beam.FlatMap(lambda shard: _select(shard, columns, config, folder))
        )
        _write(found, folder, "selected")
    before, counts = _read(folder, "selected")
    report["events"] = sum(one["events"] for one in counts)
    if config.sessions:
        sessions = sum(one["sessions"] for one in counts)
        report["sessions"] = {"gap_minutes": config.sessions.gap_minutes, "sessions": sessions}
    if config.positives:
        report["positives"] = _types(counts, config.positives)
    if not config.filters.support:
        return Selection(before, before, report)
    with make_pipeline() as pipeline:
        events = pipeline | "Selected" >> beam.Create(before)
        facts = facts_of_kept(events, config.split)
        support = (
            events
            | "Hashes"
            >> beam.Map(
                lambda shard, facts: Hashes.of(
                    shard[1].read(), config.split, None if config.everything else facts
                ),
                beam.pvalue.AsSingleton(facts),
            )
            | "AllHashes" >> beam.CombineGlobally(merge_hashes)
            | "Core" >> beam.Map(core, config.filters)
        )
        kept = events | "Filter" >> beam.FlatMap(
            lambda shard, core: _filter(shard, core, folder), beam.pvalue.AsSingleton(support)
        )
        _write(kept, folder, "filtered")
    after, counts = _read(folder, "filtered")
    report["filters"] = {
        **config.filters.model_dump(),
        "rounds": counts[0]["rounds"],
        "dropped": counts[0]["dropped"],
    }
    if not sum(one["events"] for one in counts):
        lost = ", ".join(
            f"{one['events']:,} events of {one['groups']:,} {what}"
            for what, one in counts[0]["dropped"].items()
        )
        raise DataError(
            f"filters: nothing is left; required: an event of which user, item and session have "
            f"enough; dropped: {lost}. Lower filters.min_*_events"
        )
    return Selection(before, after, report)


def _select(
    shard: tuple[int, Iterable[Kept]], columns: Mapping[str, str], config: BuildConfig, folder: str
):
    number, parts = shard
    table = gather(parts, columns)
    counts: dict[str, Any] = {"events": table.num_rows}
    if config.sessions:
        table, counts["sessions"] = with_sessions(table, config.sessions)
    if config.positives:
        table, counts["types"], counts["collapsed"] = positives(table, config.positives)
    for _, kept in keep([(number, table)], folder):
        yield number, kept, counts


def _write(found: Any, folder: str, name: str) -> None:
    """Leaves where the shards lie, and their counts, for the driver to read."""
    path = records.staging_path(folder, f"{name}.json")
    _ = (
        found
        | "ToOne" >> beam.combiners.ToList()
        | "Write"
        >> beam.Map(
            lambda all_: records.write_json(
                path,
                [[number, asdict(kept), counts] for number, kept, counts in all_],
            )
        )
    )


def _read(folder: str, name: str) -> tuple[list[tuple[int, Kept]], list[dict[str, Any]]]:
    path = records.staging_path(folder, f"{name}.json")
    found = sorted(records.read_json(path), key=lambda one: one[0])
    return [(number, Kept(**kept)) for number, kept, _ in found], [one for _, _, one in found]


def with_sessions(table: pa.Table, config: Sessions) -> tuple[pa.Table, int]:
    """Adds the column `session_id`, whose values no two users share.

    Args:
        table: all events of some users.
        config: the gap.

    Returns:
        The events in the order of user, time and row; and how many sessions they are.
    """
    user = pd.factorize(table.column("user_id").to_numpy())[0]
    seconds = table.column("timestamp").to_numpy()
    order = np.lexsort((table.column("row").to_numpy(), seconds, user))
    table, user, seconds = table.take(pa.array(order)), user[order], seconds[order]
    first = np.ones(len(order), bool)
    first[1:] = user[1:] != user[:-1]
    new = first.copy()
    new[1:] |= np.diff(seconds) > config.gap_minutes * 60
    number = np.cumsum(new)
    # Counted from each user's own first session, so that a name does not depend on the shard.
    own = number - np.maximum.accumulate(np.where(first, number, 0))
    names = pc.binary_join_element_wise(
        table.column("user_id").combine_chunks().cast(pa.large_binary()),
        pa.array(own).cast(pa.large_string()).cast(pa.large_binary()),
        pa.scalar(b".", pa.large_binary()),
    )
    return table.append_column("session_id", names), int(new.sum())


def positives(table: pa.Table, config: Positives) -> tuple[pa.Table, dict[str, int], int]:
    """The events that count, and which of them may be asked for, as the column `TARGET`.

    Where they weigh differently, what each weighs is the column WEIGHT.

    Args:
        table: all events of some users.
        config: what counts.

    Returns:
        The events; how many there were of each value, and how many were collapsed into another.
    """
    column = table.column(config.column)
    if config.from_value is not None:
        checks.check_is_number(config.column, kind_of(column.type))
        numbers = column.cast(pa.float64()).to_numpy()
        there, high = ~np.isnan(numbers), numbers >= config.from_value
        weight, target = np.where(high, 1.0, 0.0), high
        bound = f"{config.from_value:g}"
        counts = {
            f"from {bound} on": int(high.sum()),
            f"below {bound}": int((there & ~high).sum()),
            _NO_VALUE: int((~there).sum()),
        }
    else:
        codes, words = _words(column)
        values = config.values or {}
        # The last of each is for the code -1, of what has no value.
        weight = np.array([*(values.get(word, 0.0) for word in words), 0.0])[codes]
        asked = set(config.targets or values)
        target = np.array([*(word in asked for word in words), False])[codes]
        sizes = np.bincount(codes + 1, minlength=len(words) + 1)
        counts = dict(zip((_NO_VALUE, *words), sizes.tolist()))
    kept = weight > 0
    chosen = np.flatnonzero(kept)
    if config.collapse:
        chosen = _one_a_pair(table, chosen, target, weight)
    collapsed = int(kept.sum()) - len(chosen)
    table = table.take(pa.array(chosen)).append_column(TARGET, pa.array(target[chosen]))
    if config.weighted:
        table = table.append_column(WEIGHT, pa.array(weight[chosen].astype(np.float32)))
    return table, {value: count for value, count in counts.items() if count}, collapsed


def _words(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """[E] codes, -1 for nothing; and the values, as a run file would say them."""
    found = column.combine_chunks().dictionary_encode()
    return found.indices.fill_null(-1).to_numpy(), words_of(
        found.dictionary.to_pylist(), column.type
    )


def _one_a_pair(
    table: pa.Table, chosen: np.ndarray, target: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """The place of one event of each user and item, of the chosen ones."""
    users, items = (
        pd.factorize(table.column(name).to_numpy()[chosen])[0] for name in ("user_id", "item_id")
    )
    row = table.column("row").to_numpy()[chosen]
    time = (
        table.column("timestamp").to_numpy()[chosen] if "timestamp" in table.schema.names else row
    )
    order = np.lexsort((row, time, -weight[chosen], ~target[chosen], items, users))
    pair = users[order] * (items.max(initial=0) + 1) + items[order]
    first = np.ones(len(order), bool)
    first[1:] = pair[1:] != pair[:-1]
    return np.sort(chosen[order[first]])


def _types(counts: list[dict[str, Any]], config: Positives) -> dict[str, Any]:
    """What the events of each value were used for.

    Raises:
        DataError: no event has one of the values that count.
    """
    sums: dict[str, int] = {}
    for one in counts:
        for value, count in one["types"].items():
            sums[value] = sums.get(value, 0) + count
    values = config.values or {}
    checks.check_values(config, sorted(sums, key=lambda one: -sums[one]))
    if config.from_value is not None and f"from {config.from_value:g} on" not in sums:
        raise DataError(
            f"positives.from: no event has {config.column!r} from {config.from_value:g} on; "
            f"received: {', '.join(f'{count:,} {value}' for value, count in sums.items())}"
        )

    def used(value: str) -> str:
        if config.from_value is not None:
            return "train and targets" if value.startswith("from ") else "left out"
        if value not in values:
            return "left out"
        return "train and targets" if value in (config.targets or values) else "train and history"

    ordered = sorted(sums, key=lambda value: (used(value) == "left out", -sums[value], value))
    return {
        "column": config.column,
        "types": [
            {
                "value": value,
                "events": sums[value],
                "used": used(value),
                "weight": values.get(value, 1.0) if used(value) != "left out" else None,
            }
            for value in ordered[:_SHOWN]
        ],
        "others": sum(sums[value] for value in ordered[_SHOWN:]),
        "collapsed": sum(one["collapsed"] for one in counts),
    }


@dataclass
class Hashes:
    """What support is counted of: a hash of each event's user, item and session.

    Attributes:
        user: [E] uint64.
        item: [E] uint64.
        session: [E] uint64; [0] where the log has none.
        train: [E] bool: whether the event counts for its user and item.
    """

    user: np.ndarray = field(default_factory=lambda: np.array([], np.uint64))
    item: np.ndarray = field(default_factory=lambda: np.array([], np.uint64))
    session: np.ndarray = field(default_factory=lambda: np.array([], np.uint64))
    train: np.ndarray = field(default_factory=lambda: np.array([], bool))

    @classmethod
    def of(cls, table: pa.Table, split: SplitConfig, facts: Facts | None = None) -> "Hashes":
        """Those of some events; without facts, all of them count."""
        user, item = (hash_ids(table.column(name).to_numpy()) for name in ("user_id", "item_id"))
        has_sessions = "session_id" in table.column_names
        session = hashes(table, by_session=True) if has_sessions else np.array([], np.uint64)
        train = in_train(table, split, facts) if facts else np.ones(table.num_rows, bool)
        return cls(user, item, session, train)


def merge_hashes(parts: Iterable[Hashes]) -> Hashes:
    """The hashes of all events together."""
    parts = [Hashes(), *parts]
    names = ("user", "item", "session", "train")
    return Hashes(*(np.concatenate([getattr(one, name) for one in parts]) for name in names))


@dataclass
class Core:
    """What has too few events.

    Attributes:
        gone: `user`, `item` and `session` -> [N] uint64, ascending hashes.
        dropped: `users`, `items` and `sessions` -> how many of these (`groups`), and `events`.
        rounds: how often the support was counted until nothing more was dropped.
    """

    gone: dict[str, np.ndarray]
    dropped: dict[str, dict[str, int]]
    rounds: int


def core(found: Hashes, filters: Filters) -> Core:
    """Drops what has too few events until all that is left has enough.

    Args:
        found: of the whole log.
        filters: how many events are enough.
    """
    least = {
        "item": filters.min_item_events,
        "user": filters.min_user_events,
        "session": filters.min_session_events,
    }
    distinct, code = {}, {}
    for name in [name for name, number in least.items() if number]:
        distinct[name], code[name] = np.unique(getattr(found, name), return_inverse=True)
    alive = np.ones(len(found.user), bool)
    bad = {name: np.zeros(len(values), bool) for name, values in distinct.items()}
    events = dict.fromkeys(distinct, 0)
    rounds, before = 0, -1
    while before != alive.sum():
        rounds, before = rounds + 1, alive.sum()
        for name in distinct:
            counted = alive if name == "session" else alive & found.train
            support = np.bincount(code[name][counted], minlength=len(distinct[name]))
            bad[name] |= support < least[name]
            lost = alive & bad[name][code[name]]
            events[name] += int(lost.sum())
            alive &= ~lost
    return Core(
        {name: distinct[name][bad[name]] for name in distinct},
        {f"{name}s": {"groups": int(bad[name].sum()), "events": events[name]} for name in distinct},
        rounds,
    )


def _filter(shard: tuple[int, Kept], core: Core, folder: str):
    number, kept = shard
    table = kept.read()
    found = Hashes.of(table, SplitConfig())
    good = np.ones(table.num_rows, bool)
    for name, gone in core.gone.items():
        good &= ~np.isin(getattr(found, name), gone)
    counts = {"events": int(good.sum()), "rounds": core.rounds, "dropped": core.dropped}
    for _, left in keep([(number, table.filter(pa.array(good)))], folder):
        yield number, left, counts
