"""Walks over the item graph of the train events, as Beam transforms around vectorised NumPy.

An edge joins two items that follow each other in a user's (or session's) train events, and no later
than the run's `within`; its weight is how often they do. Walks are DeepWalk's (Perozzi et al., KDD
2014: first order) or node2vec's (Grover & Leskovec, KDD 2016: second order). A random number is a
hash of the seed, the walk and the step, so neither shards nor batches change a walk.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pandas as pd
import pyarrow as pa

from components.build.config import WalkConfig
from components.build.splits import TRAIN, Log
from components.tables import records
from components.tables.hashing import mix
from models.inputs.graph import WeightedGraph
from models.names.errors import DataError

WALKS_AT_ONCE = 50_000
_ROUNDS = 16  # of rejection sampling; after them the exact probabilities are computed


@dataclass(frozen=True)
class Transitions:
    """Which item follows which, and how often.

    They are merged in any order and grouping, as Beam's combiners need it.

    Attributes:
        items: [N] object array of ids, ascending: every train item, those without an edge included.
        source: [E] int64 positions in `items`; the pairs of source and target are distinct and
            ascending, and no item is paired with itself.
        target: [E] int64 positions in `items`.
        count: [E] int64, how often target follows source.
        repeats: transitions left out since an item followed itself.
    """

    items: np.ndarray
    source: np.ndarray
    target: np.ndarray
    count: np.ndarray
    repeats: int = 0


def count_transitions(log: Log, by_session: bool, within: int | None = None) -> Transitions:
    """The transitions within the train events of each user or session.

    Args:
        log: all events of some users.
        by_session: whether transitions stay within a session.
        within: the most seconds that a transition takes; None: any number.

    Raises:
        DataError: `within` is given and the events have no timestamp.
    """
    if within is not None and "timestamp" not in log.table.column_names:
        raise DataError(
            f"walks.within ({within} seconds) requires events with a timestamp, and these have "
            "none; walks.within: null takes every transition"
        )
    train = np.flatnonzero(log.split == TRAIN)
    codes, items = pd.factorize(log.column("item_id")[train], sort=True)
    owner = log.user[train]
    seconds = np.zeros(len(train)) if within is None else log.column("timestamp")[train]
    if by_session:
        # As in rows.list_rows: brings the events of a session together, in their order, where
        # those of another lie between them.
        session = pd.factorize(log.column("session_id")[train])[0]
        order = np.lexsort((np.arange(len(train)), session, owner))
        codes, owner, session, seconds = (part[order] for part in (codes, owner, session, seconds))
        follows = (owner[1:] == owner[:-1]) & (session[1:] == session[:-1])
    else:
        follows = owner[1:] == owner[:-1]
    if within is not None:
        follows &= np.diff(seconds) <= within
    source, target = codes[:-1][follows], codes[1:][follows]
    moves = source != target
    items = np.asarray(items, object)
    ones = np.ones(int(moves.sum()), np.int64)
    return _together(items, source[moves], target[moves], ones, int((~moves).sum()))


def merge_transitions(parts: Iterable[Transitions]) -> Transitions:
    """The transitions of all users."""
    parts = list(parts)
    if not parts:
        none = np.array([], np.int64)
        return Transitions(np.array([], object), none, none, none)
    codes, items = pd.factorize(np.concatenate([part.items for part in parts]), sort=True)
    firsts = np.cumsum([0] + [len(part.items) for part in parts[:-1]])
    source, target = (
        np.concatenate(
            [codes[first + getattr(part, end)] for first, part in zip(firsts, parts, strict=True)]
        )
        for end in ("source", "target")
    )
    counts = np.concatenate([part.count for part in parts])
    return _together(
        np.asarray(items, object), source, target, counts, sum(part.repeats for part in parts)
    )


def _together(items, source, target, count, repeats) -> Transitions:
    key, inverse = np.unique(source * max(len(items), 1) + target, return_inverse=True)
    total = np.zeros(len(key), np.int64)
    np.add.at(total, inverse, count)
    return Transitions(items, *np.divmod(key, max(len(items), 1)), total, repeats)


class Graph(WeightedGraph):
    """The item graph in compressed rows.

    Args:
        transitions: of the whole train split.
        config: `directed` and `weighted`.
    """

    def __init__(self, transitions: Transitions, config: WalkConfig):
        source, target, count = transitions.source, transitions.target, transitions.count
        if not config.directed:
            source, target = np.r_[source, target], np.r_[target, source]
            count = np.r_[count, count]
        super().__init__(len(transitions.items), source, target, count)
        self.items = transitions.items
        if not config.weighted:
            self.weigh(np.ones(len(self.weight), np.int64))


def walk(graph: Graph, config: WalkConfig, start: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Lets many walkers advance at once.

    Args:
        graph: the item graph.
        config: kind, length, p, q and seed.
        start: [K] positions to start at.
        number: [K] int64, unique to each walk: what its random numbers depend on.

    Returns:
        [K, walk_length] positions, -1 after the end of a walk.
    """
    path = np.full((len(start), config.walk_length), -1, np.int64)
    path[:, 0] = start
    biased = config.kind == "node2vec" and not config.p == config.q == 1
    going = np.arange(len(start))
    for place in range(1, config.walk_length):
        going = going[graph.totals(path[going, place - 1]) > 0]
        if not len(going):
            break
        # One key for each walk and step, of which the draws within the step are hashes.
        key = mix(mix(number[going].astype(np.uint64), config.seed), place)
        node = path[going, place - 1]
        if place == 1 or not biased:
            path[going, place] = graph.step(node, mix(key, 0))
        else:
            path[going, place] = _second_order(graph, config, path[going, place - 2], node, key)
    return path


def bias(graph: Graph, config: WalkConfig, previous: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """node2vec's factor of the step to `nodes` [K] for walks that came from `previous` [K].

    1/p back to `previous`; 1 to a node with an edge to `previous`; 1/q further away. In a directed
    graph the edge is sought from the node to `previous`, as the authors' code does.
    """
    near = np.where(graph.has_edge(nodes, previous), 1.0, 1 / config.q)
    return np.where(nodes == previous, 1 / config.p, near)


def _second_order(graph, config, previous, node, key) -> np.ndarray:
    """The next positions of node2vec, by rejection: proposed by edge weight, accepted by `bias`.

    So no table of probabilities is needed for every pair of edges, as the authors' code has it.
    """
    chosen = np.full(len(node), -1, np.int64)
    most = max(1 / config.p, 1.0, 1 / config.q)
    open_ = np.arange(len(node))
    for round_ in range(_ROUNDS):
        proposed = graph.step(node[open_], mix(key[open_], 2 * round_))
        lottery = (mix(key[open_], 2 * round_ + 1) >> np.uint64(11)) * 2.0**-53
        taken = lottery * most < bias(graph, config, previous[open_], proposed)
        chosen[open_[taken]] = proposed[taken]
        open_ = open_[~taken]
        if not len(open_):
            return chosen
    # Walks whose proposals were all rejected draw from the exact probabilities.
    degree = graph.starts[node[open_] + 1] - graph.starts[node[open_]]
    owner = np.repeat(np.arange(len(open_)), degree)
    ends = np.cumsum(degree)
    edge = np.arange(ends[-1]) - np.repeat(ends - degree, degree)
    edge += np.repeat(graph.starts[node[open_]], degree)
    mass = graph.weight[edge] * bias(graph, config, previous[open_][owner], graph.target[edge])
    # All walks search one cumulative sum, in which the probabilities of walk k fill (k, k + 1).
    share = mass / np.bincount(owner, mass)[owner]
    upto = np.cumsum(share) - np.repeat(np.r_[0, np.cumsum(share)[ends[:-1] - 1]], degree) + owner
    upto[ends - 1] = np.arange(len(open_)) + 1.0
    lottery = (mix(key[open_], 2 * _ROUNDS) >> np.uint64(11)) * 2.0**-53
    place = np.searchsorted(upto, np.arange(len(open_)) + lottery, side="right")
    chosen[open_] = graph.target[edge[np.clip(place, ends - degree, ends - 1)]]
    return chosen


def walk_rows(graph: Graph, path: np.ndarray) -> pa.Table:
    """[K, L] positions -> one row a walk of at least two items: `item_id`, a list."""
    path = path[path[:, 1] >= 0] if path.shape[1] > 1 else path[:0]
    inside = path >= 0
    offsets = np.r_[0, np.cumsum(inside.sum(axis=1))].astype(np.int64)
    ids = pa.array(graph.items, pa.large_binary()).take(pa.array(path[inside]))
    return pa.table({"item_id": pa.LargeListArray.from_arrays(pa.array(offsets), ids)})


class WriteWalks(beam.PTransform):
    """Logs (see `splits.Log`) of all users -> one dict of counts.

    It says how many walks and items were written, and how much was left out, by reason.

    Every worker holds the graph: about 32 bytes an edge, and the ids.

    Args:
        config: kind `deepwalk` or `node2vec`.
        folder: of the files to write.
        by_session: whether transitions stay within a session.
        walks_at_once: walkers that advance together, and walks a file.
    """

    def __init__(
        self, config: WalkConfig, folder: str, by_session: bool, walks_at_once: int = WALKS_AT_ONCE
    ):
        super().__init__()
        self._config, self._folder = config, folder
        self._by_session, self._at_once = by_session, walks_at_once

    def expand(self, logs):
        config, folder, at_once = self._config, self._folder, self._at_once
        transitions = (
            logs
            | "Transitions" >> beam.Map(count_transitions, self._by_session, config.within)
            | "AllTransitions" >> beam.CombineGlobally(merge_transitions)
        )
        graph = beam.pvalue.AsSingleton(transitions | "Graph" >> beam.Map(Graph, config))
        return (
            transitions
            | "Chunks" >> beam.FlatMap(_chunks, config, at_once)
            | "Spread" >> beam.Reshuffle()
            | "Walk" >> beam.Map(_write_chunk, graph, config, folder)
            | "Sum" >> beam.CombineGlobally(_add_up)
            | "Report" >> beam.Map(_report, beam.pvalue.AsSingleton(transitions))
        )


def _chunks(transitions: Transitions, config: WalkConfig, at_once: int) -> Iterator[tuple]:
    """(file number, first walk, end): walk w starts at item w modulo the number of items."""
    total = config.walks_per_node * len(transitions.items)
    for number, first in enumerate(range(0, total, at_once)):
        yield number, first, min(first + at_once, total)


def _write_chunk(chunk, graph: Graph, config: WalkConfig, folder: str) -> dict[str, int]:
    file, first, end = chunk
    number = np.arange(first, end)
    path = walk(graph, config, number % len(graph.items), number)
    table = walk_rows(graph, path)
    records.write_table(table, folder, file)
    return {
        "rows": table.num_rows,
        "items": int((path[path[:, 1] >= 0] >= 0).sum()),
        "alone": len(path) - table.num_rows,
    }


def _add_up(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total = {"rows": 0, "items": 0, "alone": 0}
    for part in parts:
        total = {name: total[name] + part[name] for name in total}
    return total


def _report(counts: dict[str, int], transitions: Transitions) -> dict[str, Any]:
    dropped = {
        "walks of one item": counts["alone"],
        "transitions of an item to itself": transitions.repeats,
    }
    edges = len(transitions.source)
    return {
        "counts": {"rows": counts["rows"], "items": counts["items"], "edges": edges},
        "dropped": {"walks": dropped},
    }
