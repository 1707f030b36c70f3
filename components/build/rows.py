"""Rows of examples out of the log of some users.

Pure functions on Arrow tables, vectorised, without Beam.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.build.config import BuildConfig, SplitConfig
from components.build.splits import TEST, TRAIN, VALID, Log, read_given
from components.tables.columns import BYTES, FLOAT, INT, arrow_type, is_list, kind_of
from components.tables.hashing import hash_ids, mix
from components.tables.names import PART
from models.names.features import HISTORY_COLUMNS, REVIEW

NEGATIVES = 99
ACTIVITY = ((0, "0"), (9, "1-9"), (49, "10-49"), (199, "50-199"))
_NAMES = {VALID: "valid", TEST: "test"}


class Side:
    """A table of features, joined by id.

    Args:
        table: `key` and features.
        key: `item_id` or `user_id`.
    """

    def __init__(self, table: pa.Table, key: str):
        ids = pd.Index(table.column(key).to_numpy(), dtype=object)
        first = (
            ~ids.duplicated()
        )  # the table check reports an id that is there twice; here its first row counts
        self._index = ids[first]
        self._table = table.filter(pa.array(first)) if not first.all() else table
        prefix = key.removesuffix("id")
        self._names = {name: prefix + name for name in table.column_names if name != key}

    def join(self, ids: np.ndarray) -> dict[str, pa.Array]:
        """[N] ids -> the prefixed feature columns of N rows.

        They are null where an id is not in the table.
        """
        position = self._index.get_indexer(pd.Index(ids, dtype=object))
        if not len(self._index):
            return {
                new: pa.nulls(len(ids), self._table.schema.field(old).type)
                for old, new in self._names.items()
            }
        indices = pa.array(position, mask=position < 0)
        return {
            new: _flat(self._table.column(old).take(indices)) for old, new in self._names.items()
        }


@dataclass(frozen=True)
class Popularity:
    """How often train has each item.

    Attributes:
        items: [N] object array of ids, the items of train, ascending.
        counts: [N] int64.
    """

    items: np.ndarray
    counts: np.ndarray

    def slices(self, items: np.ndarray) -> np.ndarray:
        """Slices of [M] items by how often train has them.

        Returns:
            [M] `head` (the most frequent items, which together have half of train's events),
            `middle` (the next 30 %), `tail` (the last 20 %) or `cold` (not in train).
        """
        order = np.lexsort((np.arange(len(self.items)), -self.counts))
        before = np.concatenate([[0], np.cumsum(self.counts[order])[:-1]]) / max(
            self.counts.sum(), 1
        )
        named = np.empty(len(self.items), object)
        named[order] = np.where(
            before < 0.5, b"head", np.where(before < 0.8, b"middle", b"tail")
        ).astype(object)
        position = pd.Index(self.items, dtype=object).get_indexer(pd.Index(items, dtype=object))
        result = np.full(len(items), b"cold", object)
        result[position >= 0] = named[position[position >= 0]]
        return result


def count_items(log: Log) -> Popularity:
    """The train counts of these users."""
    items, counts = np.unique(log.column("item_id")[log.split == TRAIN], return_counts=True)
    return Popularity(np.asarray(items, object), counts.astype(np.int64))


def merge_counts(parts) -> Popularity:
    """The train counts of all users."""
    parts = [part for part in parts if len(part.items)]
    if not parts:
        return Popularity(np.array([], object), np.array([], np.int64))
    codes, items = pd.factorize(np.concatenate([part.items for part in parts]), sort=True)
    counts = np.bincount(codes, np.concatenate([part.counts for part in parts]), len(items))
    return Popularity(np.asarray(items, object), counts.astype(np.int64))


def event_rows(log: Log, mask: np.ndarray, items: Side, users: Side) -> pa.Table:
    """One row an event of the mask, with the features of its item and user."""
    table = log.table.take(pa.array(np.flatnonzero(mask)))
    columns = {name: _flat(table.column(name)) for name in table.column_names}
    columns |= users.join(table.column("user_id").to_numpy())
    columns |= items.join(table.column("item_id").to_numpy())
    return pa.table(columns)


def list_rows(
    log: Log, mask: np.ndarray, users: Side, by_session: bool, items: Side | None = None
) -> pa.Table:
    """One row a user (or session): every column of its events as a list, oldest first.

    The user's features stand beside them and, where `items` is given, the features of the items:
    each a list of all values that there are, which is no longer parallel to the items.

    Values that are missing are filled (empty string, 0), so that the lists stay parallel. Columns
    whose values are lists themselves are left out: a tf.Example holds no list of lists.
    """
    chosen = np.flatnonzero(mask)
    owner = log.user[chosen]
    table = log.table.take(pa.array(chosen))
    if by_session:
        session = pd.factorize(table.column("session_id").to_numpy())[0]
        order = np.lexsort((np.arange(len(chosen)), session, owner))
        # Sessions of a user in the order in which they began.
        table, owner, session = table.take(pa.array(order)), owner[order], session[order]
        new = (
            np.r_[True, (owner[1:] != owner[:-1]) | (session[1:] != session[:-1])]
            if len(owner)
            else []
        )
    else:
        new = np.r_[True, owner[1:] != owner[:-1]] if len(owner) else []
    firsts = np.flatnonzero(new)
    offsets = pa.array(np.append(firsts, len(owner)).astype(np.int64))
    heads = table.take(pa.array(firsts))
    columns = {"user_id": _flat(heads.column("user_id"))}
    for name in table.column_names:
        column = _flat(table.column(name))
        if name in ("user_id", PART) or is_list(kind_of(column.type)):
            continue
        if by_session and name == "session_id":
            columns[name] = _flat(heads.column(name))
        else:
            columns[name] = pa.LargeListArray.from_arrays(offsets, _filled(column))
    columns |= users.join(columns["user_id"].to_numpy(zero_copy_only=False))
    if items is not None:
        features = items.join(table.column("item_id").to_numpy())
        columns |= {name: _present(offsets, column) for name, column in features.items()}
    return pa.table(columns)


def score_rows(log: Log, part: int, items: Side, users: Side, popularity: Popularity) -> pa.Table:
    """Rows as `event_rows` of one split, with the slice columns."""
    mask = (log.split == part) & log.target
    table = event_rows(log, mask, items, users)
    if (
        REVIEW in table.column_names
    ):  # it is written after the event that is to be predicted, so no model may be given it
        table = table.drop([REVIEW])
    return with_slices(table, log, log.user[mask], log.column("item_id")[mask], popularity)


def query_rows(
    log: Log, part: int, users: Side, popularity: Popularity, build: BuildConfig
) -> tuple[pa.Table, dict[str, int]]:
    """One row a query: what the model may know, and what it has to find.

    Args:
        log: the users' events, split.
        part: VALID or TEST.
        users: their features.
        popularity: counts of train, for the slices and as the pool of sampled negatives.
        build: the split, and what stands beside the items of a history.

    Returns:
        The queries; and, by reason, how many events are no target and how many users no query.
    """
    config = build.split
    target = (log.split == part) & log.target
    known = log.split == part + 2 if config.name == "user_holdout" else log.split == TRAIN
    exclude = np.zeros(len(log), bool)
    if part == TEST and config.name != "user_holdout":
        exclude = (log.split == VALID) if config.query_history == "train" else exclude
        known = known | (log.split == VALID) & ~exclude
    items = log.column("item_id")
    item, catalogue = pd.factorize(items)
    pair = log.user * max(len(catalogue), 1) + item
    dropped = {"repeated targets": 0, "users with only repeated targets": 0}
    had = log.per_user(target) > 0
    # A target is listed once, even where repeats are wanted: an item is found once.
    wanted = target & ~np.isin(pair, pair[known | exclude]) if config.drop_repeats else target
    where = np.flatnonzero(wanted)
    first = np.zeros(len(log), bool)
    first[where[np.unique(pair[where], return_index=True)[1]]] = True
    dropped["repeated targets"] = int(target.sum() - first.sum())
    target = first
    asked = log.per_user(target) > 0
    dropped["users with only repeated targets"] = int((had & ~asked).sum())
    dropped["users without events in the split"] = int((~had).sum())
    asking = np.flatnonzero(asked)
    ids = log.users[asking]
    first_target = np.flatnonzero(target)[np.unique(log.user[target], return_index=True)[1]]
    columns: dict[str, pa.Array] = {"user_id": pa.array(ids, pa.large_binary())}
    for name, mask in (("history", known), ("exclude", exclude), ("targets", target)):
        mask = mask & asked[log.user]
        columns[name] = to_lists(items[mask], log.per_user(mask)[asking])
    had_before = known & asked[log.user]
    columns |= beside_history(
        log.table, np.flatnonzero(had_before), log.per_user(had_before)[asking], build.history
    )
    if config.candidates == "ncf99":
        columns["candidates"] = _negatives(log, asking, popularity, config.seed)
    elif config.name == "given" and "candidates" in read_given(config.file).columns:
        columns["candidates"] = _given_candidates(ids, items[first_target], config, part)
    columns |= users.join(ids)
    columns |= context_of(log.table, first_target, build.context)
    columns["timestamp"] = pa.array(times(log)[first_target])
    return with_slices(pa.table(columns), log, asking, items[first_target], popularity), dropped


def beside_history(
    events: pa.Table, places: np.ndarray, lengths: np.ndarray, names: Sequence[str]
) -> dict[str, pa.Array]:
    """The lists that are parallel to histories.

    Args:
        events: the events.
        places: which of them the histories are made of, one history after the other.
        lengths: [Q] of the histories.
        names: which lists, of `HISTORY_COLUMNS`; those whose column the events lack are left out.
    """
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    taken = {
        name: _flat(events.column(HISTORY_COLUMNS[name])).take(pa.array(places))
        for name in names
        if HISTORY_COLUMNS[name] in events.column_names
    }
    return {
        name: pa.LargeListArray.from_arrays(offsets, _filled(column))
        for name, column in taken.items()
    }


def with_histories(
    table: pa.Table, log: Log, mask: np.ndarray, build: BuildConfig, firsts: np.ndarray
) -> pa.Table:
    """Adds what the users had done before the rows of the [E] mask: `history`, the items.

    Beside it stands what `build.history` names.

    Args:
        table: one row an event of the mask.
        log: the events.
        mask: which of them the rows are.
        build: says how many events, and what stands beside them.
        firsts: [E] place of the event before which a history ends; see `groups.starts`.
    """
    ends = firsts[mask]
    begins = np.maximum(log.starts[log.user[mask]], ends - build.row_history)
    lengths = ends - begins
    offsets = np.cumsum(lengths) - lengths
    places = np.repeat(begins - offsets, lengths) + np.arange(lengths.sum())
    items = log.column("item_id")[places]
    columns = {"history": to_lists(items, lengths)}
    columns |= beside_history(log.table, places, lengths, build.history)
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def context_of(events: pa.Table, places: np.ndarray, names: Sequence[str]) -> dict[str, pa.Array]:
    """The context columns of some events, one row each."""
    return {name: _flat(events.column(name)).take(pa.array(places)) for name in names}


def user_rows(log: Log, users: pa.Table, history: Sequence[str] = ()) -> pa.Table:
    """One row a user of the log or of the table.

    It holds the id, the features, and every item of the whole log, oldest first, with what
    `history` names beside it.
    """
    ids = users.column("user_id").to_numpy()
    extra = np.setdiff1d(np.unique(ids), log.users) if len(ids) else np.array([], object)
    everybody = np.concatenate([log.users, extra]).astype(object)
    sizes = np.concatenate([np.diff(log.starts), np.zeros(len(extra), np.int64)])
    columns = {"user_id": pa.array(everybody, pa.large_binary())}
    columns |= Side(users, "user_id").join(everybody)
    columns["history"] = to_lists(log.column("item_id"), sizes)
    columns |= beside_history(log.table, np.arange(len(log)), sizes, history)
    return pa.table(columns)


def item_rows(items: pa.Table, popularity: Popularity, others: Sequence = ()) -> pa.Table:
    """One row an item of the table, of train or of the `others`, ascending by id."""
    ids = np.union1d(items.column("item_id").to_numpy(), popularity.items).astype(object)
    ids = np.union1d(ids, np.asarray(others, object)).astype(object)
    return pa.table(
        {"item_id": pa.array(ids, pa.large_binary()), **Side(items, "item_id").join(ids)}
    )


def with_known_targets(
    log: Log, popularity: Popularity, build: BuildConfig
) -> tuple[Log, dict[str, int]]:
    """Makes history of what validation and test could not ask for with `known_targets_only`.

    Returns:
        The log, and how many events of `valid` and `test` that are; none where nothing is asked.
    """
    if not build.filters.known_targets_only:
        return log, {}
    known = popularity.items[popularity.counts >= build.min_count]
    place = pd.Index(known, dtype=object).get_indexer(pd.Index(log.column("item_id"), dtype=object))
    lost = {
        name: int(((log.split == part) & log.target & (place < 0)).sum())
        for part, name in _NAMES.items()
    }
    return replace(log, target=log.target & (place >= 0)), lost


def with_point_in_time(log: Log, names: Sequence[str], firsts: np.ndarray) -> Log:
    """Adds columns of `config.POINT_IN_TIME`: what each event's user had done before it.

    Before is earlier in the order of time and row, in whatever split: a later event never counts.
    Of an event in a list it is what was before the list, at the time of its first event: what came
    of the list must not be told in it.

    Args:
        log: the events.
        names: which columns.
        firsts: [E] place of the event before which an event's past ends; see `groups.starts`.
    """
    place = np.arange(len(log))
    item, catalogue = pd.factorize(log.column("item_id"))
    pair = log.user * max(len(catalogue), 1) + item

    def before(owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[E] how many events its owner had, and the place of the last, -1 where there is none."""
        first_key = pd.factorize(owner)[0].astype(np.int64) * len(log)
        keys = np.sort(first_key + place)
        end = np.searchsorted(keys, first_key + firsts)
        had = end - np.searchsorted(keys, first_key)
        return had, np.where(had > 0, keys[np.maximum(end - 1, 0)] - first_key, -1)

    def count(owner: np.ndarray) -> pa.Array:
        return pa.array(before(owner)[0], pa.int64())

    def seconds(owner: np.ndarray) -> pa.Array:
        last, time = before(owner)[1], times(log)
        return pa.array(time[firsts] - time[last], pa.int64(), mask=last < 0)

    made = {
        "user_events_before": lambda: count(log.user),
        "user_item_events_before": lambda: count(pair),
        "seconds_since_user_event": lambda: seconds(log.user),
        "seconds_since_user_item": lambda: seconds(pair),
    }
    table = log.table
    for name in names:
        table = table.append_column(name, made[name]())
    return replace(log, table=table)


def with_slices(
    table: pa.Table, log: Log, user: np.ndarray, item: np.ndarray, popularity: Popularity
) -> pa.Table:
    """Adds the columns that the evaluation is sliced by, for rows of these users and items."""
    trained = log.per_user(log.split == TRAIN)[user]
    bounds = [bound for bound, _ in ACTIVITY]
    names = np.array([name.encode() for _, name in ACTIVITY] + [b"200+"], object)
    columns = {
        "activity": names[np.searchsorted(bounds, trained)],
        "popularity": popularity.slices(item),
        "temperature": np.where(trained > 0, b"warm", b"cold").astype(object),
    }
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values, pa.large_binary()))
    return table


def _negatives(log: Log, asking: np.ndarray, popularity: Popularity, seed: int) -> pa.Array:
    """99 items of train a user, uniform, distinct, none of which the user has in the whole log.

    A draw is a hash of the user's id and a counter, so it does not depend on who else is in the
    shard. A draw is skipped when it is an item of the user's own or was drawn before.
    """
    size = len(popularity.items)
    if not size or not len(asking):
        return to_lists(np.array([], object), np.zeros(len(asking), np.int64))
    own = pd.Index(popularity.items, dtype=object).get_indexer(
        pd.Index(log.column("item_id"), dtype=object)
    )
    touched = np.unique((log.user * size + own)[own >= 0])
    free = size - np.bincount(touched // size, minlength=len(log.users))[asking]
    wanted = np.minimum(NEGATIVES, free)
    chosen = np.zeros((len(asking), NEGATIVES), np.int64)
    have = np.zeros(len(asking), np.int64)
    hashes = hash_ids(log.users[asking])
    open_ = np.flatnonzero(wanted > 0)
    width = 2 * NEGATIVES
    while len(open_):
        # The few users for whom too many draws were skipped begin again with twice as many.
        counter = np.arange(width, dtype=np.uint64)
        with np.errstate(over="ignore"):
            draws = (
                mix(mix(hashes[open_], seed)[:, None] + counter[None, :], seed) % np.uint64(size)
            ).astype(np.int64)
        keys = asking[open_][:, None] * size + draws
        usable = ~np.isin(keys, touched, assume_unique=False)
        order = np.argsort(draws, axis=1, kind="stable")
        ordered = np.take_along_axis(draws, order, 1)
        again = np.zeros_like(usable)
        np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], 1)
        usable &= ~again
        rank = np.cumsum(usable, axis=1)
        enough = rank[:, -1] >= wanted[open_]
        row, column = np.nonzero(usable & (rank <= wanted[open_][:, None]) & enough[:, None])
        chosen[open_[row], rank[row, column] - 1] = draws[row, column]
        have[open_[enough]] = wanted[open_[enough]]
        open_ = open_[~enough]
        width *= 2
        if (
            width > 64 * size + 1024 * NEGATIVES
        ):  # nearly all items are their own: take the rest in order
            for position in open_:
                first = asking[position] * size
                mine = (
                    touched[
                        np.searchsorted(touched, first) : np.searchsorted(touched, first + size)
                    ]
                    - first
                )
                left = np.setdiff1d(np.arange(size), mine)[: wanted[position]]
                chosen[position, : len(left)], have[position] = left, len(left)
            break
    mask = np.arange(NEGATIVES)[None, :] < have[:, None]
    return to_lists(popularity.items[chosen[mask]], have)


def _given_candidates(
    users: np.ndarray, items: np.ndarray, config: SplitConfig, part: int
) -> pa.Array:
    if part != TEST:
        return to_lists(np.array([], object), np.zeros(len(users), np.int64))
    named = read_given(config.file)
    position = named.index.get_indexer(pd.MultiIndex.from_arrays([users, items]))
    text = pa.array(named["candidates"].to_numpy()[position], pa.large_binary())
    parts = pc.split_pattern(pc.fill_null(text, b""), " ")
    values = parts.flatten()
    owner = np.repeat(np.arange(len(users)), parts.value_lengths().to_numpy(zero_copy_only=False))
    full = pc.greater(pc.binary_length(values), 0).to_numpy(zero_copy_only=False)
    return to_lists(
        values.to_numpy(zero_copy_only=False)[full], np.bincount(owner[full], minlength=len(users))
    )


def times(log: Log) -> np.ndarray:
    """[E] int64 seconds; zeros where the log has no times, since TFMA wants a number a query."""
    if "timestamp" in log.table.column_names:
        return log.column("timestamp")
    return np.zeros(len(log), np.int64)


def to_lists(values: np.ndarray, lengths: np.ndarray) -> pa.Array:
    """Values one after the other, and how many each row has -> lists of ids."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    return pa.LargeListArray.from_arrays(offsets, pa.array(values, pa.large_binary()))


def _flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.Array):
        return column
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _filled(column: pa.Array) -> pa.Array:
    return column.fill_null({BYTES: b"", INT: 0, FLOAT: 0.0}[kind_of(column.type)]).cast(
        arrow_type(kind_of(column.type))
    )


def _present(offsets: pa.Array, column: pa.Array) -> pa.Array:
    """The values that there are of [E] events, or of their lists, as lists of the rows."""
    if is_list(kind_of(column.type)):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        values = column.flatten()  # which leaves out what is null
    else:
        lengths = pc.is_valid(column).to_numpy(zero_copy_only=False).astype(np.int64)
        values = column.drop_null()
    ends = np.concatenate([[0], np.cumsum(lengths)])[offsets.to_numpy()].astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(ends), values)
