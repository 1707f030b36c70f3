"""Which event belongs to which split.

Pure functions over the whole log of some users, vectorised, without Beam.

A function that needs to know the whole log (a global time cut, the number of rows) takes it as
`Facts`, which are gathered batch by batch and merged.
"""

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from components.build import domains, session_splits
from components.build.config import SPLITS, SplitConfig
from components.build.domains import DomainFacts
from components.read import parsing, quotes
from components.tables.hashing import hash_ids, mix
from models.names.errors import DataError

# The part that an event plays. The last two are what a query knows of a held-out user, who has no
# event in train.
TRAIN, VALID, TEST, VALID_INPUT, TEST_INPUT = 0, 1, 2, 3, 4
# Of another domain, which is learnt from besides.
SOURCE = 5
# Events of no split, such as those without the label that a run learns.
UNUSED = -1
TARGET = "__target__"
"""The column of selected events that says which of them may be asked for."""
_SPANS = 1 << 18
"""Distinct times that are told apart at first."""
LEAST_HELD_OUT = 5
"""Events that a held-out user must have to be asked, in the split user_holdout."""


@dataclass
class Log:
    """All events of some users, sorted by user, time and row.

    Attributes:
        table: [E] the events in that order.
        users: [U] object array of distinct user ids, ascending.
        user: [E] int64 position in `users`.
        starts: [U + 1] int64; the events of user u are those from starts[u] up to starts[u + 1].
        split: [E] int8: TRAIN, VALID, TEST, VALID_INPUT, TEST_INPUT, SOURCE or UNUSED.
        target: [E] bool: whether validation and test may ask for the event; what they may not is
            history.
    """

    table: pa.Table
    users: np.ndarray
    user: np.ndarray
    starts: np.ndarray
    split: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def column(self, name: str) -> np.ndarray:
        """A column as NumPy; ids as an object array of bytes."""
        return self.table.column(name).to_numpy()

    def only(self, mask: np.ndarray) -> "Log":
        """The events that an [E] mask chooses; all users stay, some perhaps without any."""
        user = self.user[mask]
        starts = np.searchsorted(user, np.arange(len(self.users) + 1))
        table = self.table.take(pa.array(np.flatnonzero(mask)))
        return Log(table, self.users, user, starts, self.split[mask], self.target[mask])

    def per_user(self, mask: np.ndarray) -> np.ndarray:
        """[U] how many events of each user the [E] mask selects."""
        return np.bincount(self.user[mask], minlength=len(self.users))


Times = tuple[np.ndarray, np.ndarray]
"""[S] int64, ascending distinct seconds, and [S] int64 how many events each has."""


@dataclass
class Facts:
    """What a split must know about the whole log.

    Attributes:
        rows: highest row number plus one.
        seconds: ascending distinct times, and `counts`, how many events each has (temporal only).
            Of very many they are the beginnings of spans of `width` seconds each, until `refined`
            parts those in which a cut lies.
        hashes: ascending distinct hashes of the users (user_holdout only).
        ends: when every session ends (where sessions are asked for).
        named_valid: whether the source names validation events (predefined, by user).
        domains: who and what is in which domain (cross_domain only).
    """

    rows: int = 0
    seconds: np.ndarray = field(default_factory=lambda: np.array([], np.int64))
    counts: np.ndarray = field(default_factory=lambda: np.array([], np.int64))
    width: int = 1
    hashes: np.ndarray = field(default_factory=lambda: np.array([], np.uint64))
    ends: session_splits.SessionEnds = field(default_factory=session_splits.SessionEnds)
    named_valid: bool = False
    domains: DomainFacts = field(default_factory=DomainFacts)

    @property
    def size(self) -> int:
        """How many values are held."""
        return len(self.seconds) + len(self.hashes) + len(self.ends.sessions) + self.domains.size


def gather_facts(table: pa.Table, config: SplitConfig) -> Facts:
    """The facts of one batch of events."""
    facts = Facts(rows=int(table.column("row").to_numpy().max()) + 1 if table.num_rows else 0)
    if config.name == "temporal":
        facts.seconds, facts.counts = np.unique(
            table.column("timestamp").to_numpy(), return_counts=True
        )
    if config.name == "user_holdout":
        facts.hashes = np.unique(mix(hash_ids(table.column("user_id").to_numpy()), config.seed))
    if config.has_source:
        facts.domains = domains.gather(table, config)
    if config.asks_sessions:
        facts.ends = session_splits.gather(table, by_session=True)
    elif config.name == "predefined":
        facts.named_valid = bool((session_splits.parts_of(table) == VALID).any())
    return facts


def merge_facts(parts: Iterable[Facts]) -> Facts:
    """The facts of all batches together."""
    parts = list(parts)
    if not parts:
        return Facts()
    seconds = np.concatenate([part.seconds for part in parts])
    counts = np.concatenate([part.counts for part in parts])
    width = max(part.width for part in parts)
    seconds, counts = _added(seconds, counts, width)
    while len(seconds) > _SPANS:
        width *= 2
        seconds, counts = _added(seconds, counts, width)
    hashes = np.unique(np.concatenate([part.hashes for part in parts]))
    ends = session_splits.merge([part.ends for part in parts])
    rows = max(part.rows for part in parts)
    named_valid = any(part.named_valid for part in parts)
    known = domains.merge(part.domains for part in parts)
    return Facts(rows, seconds, counts, width, hashes, ends, named_valid, known)


def _added(seconds: np.ndarray, counts: np.ndarray, width: int) -> Times:
    """Ascending distinct beginnings of spans of so many seconds, and the counts of each."""
    distinct, inverse = np.unique(seconds // width * width, return_inverse=True)
    return distinct, np.bincount(inverse, counts, len(distinct)).astype(np.int64)


def near_cuts(table: pa.Table, facts: Facts, config: SplitConfig) -> Times:
    """The times of one batch of events that lie in a span with a cut."""
    if facts.width == 1:
        return merge_times([])
    seconds = table.column("timestamp").to_numpy()
    near = np.isin(seconds // facts.width * facts.width, time_cuts(facts, config))
    return np.unique(seconds[near], return_counts=True)


def merge_times(parts: Iterable[Times]) -> Times:
    """The times of all batches together."""
    seconds, counts = zip(*parts) if (parts := list(parts)) else ([], [])
    none = [np.array([], np.int64)]
    return _added(np.concatenate([*seconds, *none]), np.concatenate([*counts, *none]), 1)


def refined(facts: Facts, near: Times) -> Facts:
    """The facts with every second of the spans with a cut, so that cuts are exact.

    Args:
        facts: of the whole log.
        near: of all its events.
    """
    if facts.width == 1:
        return facts
    others = ~np.isin(facts.seconds, near[0] // facts.width * facts.width)
    seconds = np.concatenate([facts.seconds[others], near[0]])
    counts = np.concatenate([facts.counts[others], near[1]])
    order = np.argsort(seconds)
    return dataclasses.replace(facts, seconds=seconds[order], counts=counts[order], width=1)


def make_log(table: pa.Table, config: SplitConfig, facts: Facts, everything: bool = False) -> Log:
    """Sorts the events of some users and assigns every one of them to its split.

    Args:
        table: all events of these users, in any order.
        config: the split.
        facts: of the whole log, these users' events included.
        everything: all train, but for those of other domains.
    """
    codes, users = pd.factorize(table.column("user_id").to_numpy(), sort=True)
    rows = table.column("row").to_numpy()
    keys = (
        (rows, table.column("timestamp").to_numpy(), codes)
        if "timestamp" in table.column_names
        else (rows, codes)
    )
    order = np.lexsort(keys)
    user = codes[order].astype(np.int64)
    starts = np.searchsorted(user, np.arange(len(users) + 1))
    table, target = table.take(pa.array(order)), np.ones(len(order), bool)
    if TARGET in table.column_names:
        target = table.column(TARGET).to_numpy()
        table = table.drop([TARGET])
    split = np.zeros(len(user), np.int8)
    log = Log(table, np.asarray(users, object), user, starts, split, target)
    log.split = _ASSIGN[config.name](log, config, facts)
    if everything:
        others = (log.split == SOURCE) | (log.split == UNUSED)
        log.split[~others if config.has_source else slice(None)] = TRAIN
    return log


def leave_one_out(log: Log, config: SplitConfig, facts: Facts) -> np.ndarray:
    """Each user's last event is test, and the one before it validation.

    Users with fewer than three events stay in train. Where some events are no targets, the last two
    targets are meant: what lies between them is known to the test query alone, what follows the
    last belongs to no split.
    """
    split = np.zeros(len(log), np.int8)
    held_out = 2 if config.valid_fraction else 1
    targets = np.flatnonzero(log.target)
    ends = np.searchsorted(log.user[targets], np.arange(len(log.users)), side="right")
    enough = (np.diff(log.starts) >= 3) & (log.per_user(log.target) >= held_out)
    last, before = targets[ends[enough] - 1], targets[ends[enough] - held_out]
    # A target that nothing comes before would leave its user nothing to be known by.
    good = before > log.starts[:-1][enough]
    last, before = last[good], before[good]
    place = np.arange(len(log))
    test, valid = np.full((2, len(log.users)), len(log))
    test[log.user[last]], valid[log.user[last]] = last, before
    if config.valid_fraction:
        split[place >= valid[log.user]] = VALID
    split[place > test[log.user]] = UNUSED
    split[last] = TEST
    return split


def time_cuts(facts: Facts, config: SplitConfig) -> tuple[int, int]:
    """The times at which validation and test begin; events of the same time stay together."""
    total = facts.counts.sum()
    before = np.concatenate([[0], np.cumsum(facts.counts)])

    def cut(share: float) -> int:
        # The event of this rank, in the order of time, is the first after the cut. Rounding keeps
        # 0.1 + 0.2 from being a little more than 0.3.
        rank = min(int(np.floor(round(total * (1 - share), 6))), int(total) - 1)
        return int(facts.seconds[np.searchsorted(before, rank, side="right") - 1])

    return cut(config.valid_fraction + config.test_fraction), cut(config.test_fraction)


def in_train(table: pa.Table, config: SplitConfig, facts: Facts) -> np.ndarray:
    """[E] bool: which events lie on train's side of the border of a split that has one.

    All do, where it has none.

    Args:
        table: some events, in any order.
        config: the split.
        facts: of the whole log.
    """
    if not SPLITS[config.name].has_border:
        return np.ones(table.num_rows, bool)
    if config.name == "temporal":
        valid_from, test_from = time_cuts(facts, config)
        border = valid_from if config.valid_fraction else test_from
        return table.column("timestamp").to_numpy() < border
    if not config.asks_sessions:
        return session_splits.parts_of(table) == TRAIN
    side = _side_of_sessions(config, facts, "timestamp" in table.column_names)
    return side[np.searchsorted(facts.ends.sessions, session_splits.hashes(table, True))] == TRAIN


def _side_of_sessions(config: SplitConfig, facts: Facts, has_times: bool) -> np.ndarray:
    """[S] int8: the split of each session of the facts, for a split that parts whole sessions."""
    if config.name == "last_days":
        return session_splits.last_days(facts.ends, config.days, bool(config.valid_fraction))
    return session_splits.predefined(facts.ends, config.days, config.valid_fraction, has_times)


def temporal(log: Log, config: SplitConfig, facts: Facts) -> np.ndarray:
    """Cuts at the same times for all users: train, then validation, then test."""
    valid_from, test_from = time_cuts(facts, config)
    seconds = log.column("timestamp")
    split = np.where(seconds >= test_from, TEST, TRAIN).astype(np.int8)
    if config.valid_fraction:
        split[(seconds >= valid_from) & (seconds < test_from)] = VALID
    return split


@functools.lru_cache(maxsize=2)
def ratio_of_rows(rows: int, seed: int, valid_fraction: float, test_fraction: float) -> np.ndarray:
    """Draws the split of every row of the source, as scikit-learn and the papers draw it.

    Returns:
        [rows] int8: the last rows of one seeded permutation are test, those before them validation.
    """
    order = np.random.RandomState(seed).permutation(rows)
    test = round(rows * test_fraction)
    valid = round(rows * valid_fraction)
    split = np.zeros(rows, np.int8)
    split[order[rows - test - valid : rows - test]] = VALID
    split[order[rows - test :]] = TEST
    return split


def ratio(log: Log, config: SplitConfig, facts: Facts) -> np.ndarray:
    """Events drawn at random over the whole log."""
    split = ratio_of_rows(facts.rows, config.seed, config.valid_fraction, config.test_fraction)
    return split[log.column("row")]


def user_holdout(log: Log, config: SplitConfig, facts: Facts) -> np.ndarray:
    """Users drawn at random are in no part of train; a query knows a seeded share of their events.

    As Liang et al. (WWW 2018) have it, the targets of a user are rounded down and the rest is
    known; a user of fewer than `LEAST_HELD_OUT` events has no targets and so is not asked.
    """
    hashes = mix(hash_ids(log.users), config.seed)
    test = round(len(facts.hashes) * config.test_fraction)
    valid = round(len(facts.hashes) * config.valid_fraction)
    rank = np.searchsorted(facts.hashes, hashes)
    role = np.where(rank < test, TEST, np.where(rank < test + valid, VALID, TRAIN)).astype(np.int8)
    split = role[log.user]
    # Each target's place among its user's targets when these are ordered by a hash of their rows: a
    # seeded shuffle. What is no target is known.
    lottery = mix(log.column("row").astype(np.uint64), config.seed)
    order = np.lexsort((lottery, ~log.target, log.user))
    position = np.empty(len(log), np.int64)
    position[order] = np.arange(len(log)) - log.starts[log.user[order]]
    sizes = log.per_user(log.target)
    # Rounding first forgives 5 * (1 - 0.8) = 0.9999999999999998.
    targets = np.floor(np.round(sizes * (1 - config.input_share), 6))
    targets[sizes < LEAST_HELD_OUT] = 0
    is_input = (position < (sizes - targets)[log.user]) | ~log.target
    split[is_input & (split == VALID)] = VALID_INPUT
    split[is_input & (split == TEST)] = TEST_INPUT
    return split


def given(log: Log, config: SplitConfig, facts: Facts) -> np.ndarray:
    """The events that a file names are test; each user's last remaining one is validation."""
    named = read_given(config.file)
    pairs = pd.MultiIndex.from_arrays([log.column("user_id"), log.column("item_id")])
    split = np.zeros(len(log), np.int8)
    split[pairs.isin(named.index) & log.target] = TEST
    return _with_last_valid(log, split) if config.valid_fraction else split


def given_in(log: Log, config: SplitConfig) -> np.ndarray:
    """[N] bool: which of the events that the file of the split `given` names are in the log."""
    named = read_given(config.file).index
    pairs = pd.MultiIndex.from_arrays([log.column("user_id"), log.column("item_id")])
    return named.isin(pairs)


def _with_last_valid(log: Log, split: np.ndarray) -> np.ndarray:
    """Moves each user's last train event to validation, unless it is the user's only one.

    Where some events are no targets, the last that is one, and what train has after it.
    """
    remaining = split == TRAIN
    counts = log.per_user(remaining)
    last = np.full(len(log.users), len(log), np.int64)
    # Every train event writes its position to its user's place; the last one to do so stays.
    last[log.user[remaining & log.target]] = np.flatnonzero(remaining & log.target)
    last[counts < 2] = len(log)
    split[remaining & (np.arange(len(log)) >= last[log.user])] = VALID
    return split


def last_days(log: Log, config: SplitConfig, facts: Facts) -> np.ndarray:
    """Sessions that end in the last days; see `session_splits`."""
    side = _side_of_sessions(config, facts, True)
    return side[np.searchsorted(facts.ends.sessions, session_splits.hashes(log.table, True))]


def predefined(log: Log, config: SplitConfig, facts: Facts) -> np.ndarray:
    """The split that the data themselves name, in the events' column `split`.

    Readers of session data fill that column from the names of the files. Where it names no
    validation, the last sessions of train are taken for it, or each user's last train event.
    """
    parts = session_splits.parts_of(log.table)
    if not config.by_session:
        missing = config.valid_fraction and not facts.named_valid
        return _with_last_valid(log, parts) if missing else parts
    side = _side_of_sessions(config, facts, "timestamp" in log.table.column_names)
    return side[np.searchsorted(facts.ends.sessions, session_splits.hashes(log.table, True))]


def cross_domain(log: Log, config: SplitConfig, facts: Facts) -> np.ndarray:
    """All that the target has of some of the shared users, or items, is held out; see `domains`."""
    name = domains.names_of(log.table)
    if config.shared == "users":
        held_out = facts.domains.held_out(log.users, config)[log.user]
    else:
        item, ids = pd.factorize(log.column("item_id"))
        held_out = facts.domains.held_out(np.asarray(ids, object), config)[item]
    other = np.where(name == config.source.encode(), SOURCE, UNUSED)
    return np.where(name == config.target.encode(), held_out, other).astype(np.int8)


def read_given(file: str) -> pd.DataFrame:
    """Reads the test events that a TSV file names; again, where it was changed.

    Returns:
        Rows indexed by (user_id, item_id); the column `candidates` (space separated ids, bytes)
        where the file has it.

    Raises:
        DataError: the file is missing, empty, or lacks a column.
    """
    path = Path(file)
    if not path.is_file():
        raise DataError(
            f"split.file: {file} is missing; required: a TSV file with user_id and item_id"
        )
    status = path.stat()
    return _read_given(file, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=2)
def _read_given(file: str, changed: int, size: int) -> pd.DataFrame:
    data = Path(file).read_bytes()
    header, _, body = data.partition(b"\n")
    names = header.decode("utf-8-sig").rstrip("\r").split("\t")
    missing = [name for name in ("user_id", "item_id") if name not in names]
    if missing:
        raise DataError(
            f"{file}, line 1: the column {missing[0]!r} is missing; received: {', '.join(names)}"
        )
    rejects = parsing.Rejects()
    lines = 2 + quotes.cut(body, last=True).lines
    values, _ = (
        parsing.split_fields(body, "\t", len(names), lines, rejects)
        if body
        else ([[]] * len(names), [])
    )
    for reason, (_, line, received) in rejects.reasons.items():
        raise DataError(f"{file}, line {line}: {reason}: {received}")
    columns = {name: np.asarray(column, dtype=object) for name, column in zip(names, values)}
    if not len(columns["user_id"]):
        raise DataError(f"{file} names no test event; required: at least one line below the header")
    index = pd.MultiIndex.from_arrays([columns["user_id"], columns["item_id"]])
    frame = pd.DataFrame(
        {"candidates": columns["candidates"]} if "candidates" in columns else {}, index=index
    )
    return frame[~frame.index.duplicated()]


_ASSIGN = {name: globals()[name] for name in SPLITS}
