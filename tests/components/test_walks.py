"""Walks: the graph by hand, the probabilities of a step by hand and as walkers take it.

Also what train does not have.
"""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from components import standalone
from components.build import walks
from components.build.config import BuildConfig, WalkConfig
from components.build.splits import TEST, TRAIN, Log
from components.build.walks import Graph, Transitions
from components.in_process import in_process_pipeline
from components.tables import artifacts
from models.names.errors import ConfigError, DataError

A, B, C, D = range(4)


def log_of(events, split=None, sessions=None, seconds=None):
    """[(user, item), ...], sorted by user and time -> a log.

    Every event is in train unless `split` says otherwise; without `seconds` they have no time.
    """
    users, items = (np.array(column, object) for column in zip(*events, strict=True))
    codes, names = pd.factorize(users, sort=True)
    columns = {
        "user_id": pa.array(users, pa.large_binary()),
        "item_id": pa.array(items, pa.large_binary()),
    }
    if sessions:
        columns["session_id"] = pa.array(sessions, pa.large_binary())
    if seconds:
        columns["timestamp"] = pa.array(seconds, pa.int64())
    starts = np.searchsorted(codes, np.arange(len(names) + 1))
    return Log(
        pa.table(columns),
        np.asarray(names, object),
        codes,
        starts,
        np.array(split or [TRAIN] * len(events), np.int8),
        np.ones(len(events), bool),
    )


def edges(transitions):
    names = transitions.items
    return {
        (names[s].decode(), names[t].decode()): int(n)
        for s, t, n in zip(transitions.source, transitions.target, transitions.count, strict=True)
    }


def graph(pairs, size=4, **config):
    """Weighted (source, target): weight -> a graph over the items a, b, c, d."""
    items = np.array([bytes([97 + number]) for number in range(size)], object)
    source, target = np.array(sorted(pairs)).T
    count = np.array([pairs[pair] for pair in sorted(pairs)])
    settings = WalkConfig.parse({"kind": "node2vec", **config})
    return Graph(Transitions(items, source, target, count), settings), settings


# u: a b a c, v: a b b c; w has its second event in test.  a->b twice, b->a once, a->c and b->c
# once; b->b is no edge.
EVENTS = [
    (b"u", b"a"),
    (b"u", b"b"),
    (b"u", b"a"),
    (b"u", b"c"),
    (b"v", b"a"),
    (b"v", b"b"),
    (b"v", b"b"),
    (b"v", b"c"),
    (b"w", b"d"),
    (b"w", b"c"),
]
SPLIT = [TRAIN] * 9 + [TEST]


def test_transitions_are_those_of_train_and_of_one_user():
    found = walks.count_transitions(log_of(EVENTS, SPLIT), by_session=False)
    assert edges(found) == {("a", "b"): 2, ("b", "a"): 1, ("a", "c"): 1, ("b", "c"): 1}
    # d -> c needs w's test event; c -> a would join u and v. d is an item of train all the same.
    assert found.items.tolist() == [b"a", b"b", b"c", b"d"] and found.repeats == 1


def test_transitions_of_sessions_stay_within_them():
    # u's events interleave two sessions: a c in one, b d in the other.
    log = log_of(
        [(b"u", b"a"), (b"u", b"b"), (b"u", b"c"), (b"u", b"d")], sessions=[b"1", b"2", b"1", b"2"]
    )
    assert edges(walks.count_transitions(log, by_session=True)) == {("a", "c"): 1, ("b", "d"): 1}


def test_transitions_within_an_hour():
    # u: a, an hour later b, an hour and a second later c; back to a at once. v's d is much later
    # than u's last a, and another user's anyway; w's c follows d at the same time.
    log = log_of(
        [(b"u", b"a"), (b"u", b"b"), (b"u", b"c"), (b"u", b"a"), (b"w", b"d"), (b"w", b"c")],
        seconds=[0, 3600, 7201, 7201, 50, 50],
    )
    found = walks.count_transitions(log, False, within=3600)
    assert edges(found) == {("a", "b"): 1, ("c", "a"): 1, ("d", "c"): 1}
    assert edges(walks.count_transitions(log, False, within=0)) == {("c", "a"): 1, ("d", "c"): 1}
    assert edges(walks.count_transitions(log, False)) == {**edges(found), ("b", "c"): 1}
    # Items without an edge are items all the same.
    assert found.items.tolist() == [b"a", b"b", b"c", b"d"]


def test_an_hour_within_a_session_is_told_by_the_sessions_own_events():
    # Interleaved: session 1 has a at 0 and c at 4,000, 2 has b at 500 and d at 4,100. Neighbours in
    # the log are 500, 3,500 and 100 seconds apart, those of a session 4,000 and 3,600.
    log = log_of(
        [(b"u", item) for item in (b"a", b"b", b"c", b"d")],
        sessions=[b"1", b"2", b"1", b"2"],
        seconds=[0, 500, 4000, 4100],
    )
    assert edges(walks.count_transitions(log, True, within=3600)) == {("b", "d"): 1}


def test_an_hour_of_events_without_time_is_refused():
    with pytest.raises(DataError, match=r"walks.within \(3600 seconds\) requires .* timestamp"):
        walks.count_transitions(log_of(EVENTS, SPLIT), False, within=3600)


def test_directed_weighted_walks_go_by_the_edges_share():
    """From a: b with 3 of 4, c with 1 of 4; b leads to nothing but c, c ends the walk."""
    made, config = graph(
        {(A, B): 3, (A, C): 1, (B, C): 5}, kind="deepwalk", directed=True, walk_length=4
    )
    path = walks.walk(made, config, np.full(4000, A), np.arange(4000))
    # Four standard errors of a share of 3/4 among 4,000.
    assert (path[:, 1] == B).mean() == pytest.approx(0.75, abs=0.028)
    assert {tuple(row) for row in path} == {(A, B, C, -1), (A, C, -1, -1)}


def test_merged_shards_are_the_whole_in_any_order():
    whole = walks.count_transitions(log_of(EVENTS, SPLIT), by_session=False)
    parts = [
        walks.count_transitions(log_of(EVENTS[a:b], SPLIT[a:b]), by_session=False)
        for a, b in ((0, 4), (4, 8), (8, 10))
    ]
    for merged in (
        walks.merge_transitions(parts[::-1]),
        walks.merge_transitions(
            [walks.merge_transitions(parts[:2]), walks.merge_transitions([]), parts[2]]
        ),
    ):
        assert edges(merged) == edges(whole) and merged.repeats == whole.repeats
        assert merged.items.tolist() == whole.items.tolist()


def test_graph_by_hand():
    pairs = {(A, B): 2, (B, A): 1, (A, C): 1}
    both, _ = graph(pairs)
    # Undirected: a-b weighs 2 + 1, a-c 1; d has no edge.
    assert both.target.tolist() == [B, C, A, A] and both.weight.tolist() == [3, 1, 3, 1]
    assert both.totals(np.arange(4)).tolist() == [4, 3, 1, 0]
    one_way, _ = graph(pairs, directed=True)
    assert one_way.target.tolist() == [B, C, A] and one_way.totals(np.arange(4)).tolist() == [
        3,
        1,
        0,
        0,
    ]
    assert one_way.has_edge(np.array([A, C]), np.array([C, A])).tolist() == [True, False]
    alike, _ = graph(pairs, weighted=False)
    assert alike.totals(np.arange(4)).tolist() == [2, 1, 1, 0]


def test_a_step_has_the_probability_of_its_weight_exactly():
    # From a: b 3/4, c 1/4. The draws 0 .. 7 are two rounds of the four ranks.
    both, _ = graph({(A, B): 2, (B, A): 1, (A, C): 1})
    assert both.step(np.zeros(8, np.int64), np.arange(8, dtype=np.uint64)).tolist() == [
        B,
        B,
        B,
        C,
        B,
        B,
        B,
        C,
    ]


@pytest.mark.parametrize(
    "weighted, expected", [(True, [0, 3 / 4, 1 / 4, 0]), (False, [0, 1 / 2, 1 / 2, 0])]
)
def test_first_order_frequencies(weighted, expected):
    made, config = graph(
        {(A, B): 2, (B, A): 1, (A, C): 1}, kind="deepwalk", weighted=weighted, walk_length=2
    )
    path = walks.walk(made, config, np.zeros(40_000, np.int64), np.arange(40_000))
    # Four standard errors of a share of 1/2 among 40,000: 0.01.
    np.testing.assert_allclose(np.bincount(path[:, 1], minlength=4) / 40_000, expected, atol=0.01)


# The triangle a b c and d hanging on c; a walk that came from a to c may go on to a, b or d,
# weights 1, 2, 4:
#   a = the previous one: 1 * 1/p;  b has an edge to a: 2;  d has none: 4 * 1/q.
# p = 0.25, q = 4: 4, 2, 1 of 7.   p = 4, q = 0.5: 0.25, 2, 8 of 10.25.   p = 1e-9: back, all but
# always.
SQUARE = {(A, B): 1, (A, C): 1, (B, C): 2, (C, D): 4}
STEPS = [
    (0.25, 4.0, [4 / 7, 2 / 7, 0, 1 / 7]),
    (4.0, 0.5, [0.25 / 10.25, 2 / 10.25, 0, 8 / 10.25]),
    (1e-9, 1.0, [1, 0, 0, 0]),
    (1e9, 1.0, [0, 1 / 3, 0, 2 / 3]),
    (1.0, 1.0, [1 / 7, 2 / 7, 0, 4 / 7]),
]


@pytest.mark.parametrize("rounds", [16, 0])
@pytest.mark.parametrize("p, q, expected", STEPS)
def test_second_order_frequencies(monkeypatch, p, q, expected, rounds):
    """By rejection, and with no round of it from the written-out probabilities."""
    monkeypatch.setattr(walks, "_ROUNDS", rounds)
    made, config = graph(SQUARE, p=p, q=q)
    count = 40_000
    key = walks.mix(np.arange(count, dtype=np.uint64), 1)
    step = walks._second_order(made, config, np.full(count, A), np.full(count, C), key)
    np.testing.assert_allclose(np.bincount(step, minlength=4) / count, expected, atol=0.01)


def test_bias_by_hand():
    made, config = graph(SQUARE, p=0.25, q=4.0)
    assert walks.bias(made, config, np.full(3, A), np.array([A, B, D])).tolist() == [4.0, 1.0, 0.25]
    # Directed, the edge must lead from the next item to the previous one: b -> a is missing, d -> a
    # is there.
    made, config = graph(
        {(A, B): 1, (A, C): 1, (C, B): 1, (C, D): 1, (D, A): 1}, p=0.25, q=4.0, directed=True
    )
    assert walks.bias(made, config, np.full(2, A), np.array([B, D])).tolist() == [0.25, 1.0]


def test_walks_use_the_second_order_from_the_second_step_on():
    # b - a - c - d, p tiny: a walk from b to a goes back to b at once, for ever.
    made, config = graph({(A, B): 1, (A, C): 1, (C, D): 1}, p=1e-9, walk_length=6)
    path = walks.walk(made, config, np.full(50, B), np.arange(50))
    assert (path == [B, A, B, A, B, A]).all()


def test_walks_end_at_a_dead_end_and_one_item_is_no_walk():
    made, config = graph({(A, B): 1, (B, C): 1}, kind="deepwalk", directed=True, walk_length=5)
    path = walks.walk(made, config, np.arange(4), np.arange(4))
    assert path.tolist() == [
        [A, B, C, -1, -1],
        [B, C, -1, -1, -1],
        [C, -1, -1, -1, -1],
        [D, -1, -1, -1, -1],
    ]
    assert walks.walk_rows(made, path).column("item_id").to_pylist() == [
        [b"a", b"b", b"c"],
        [b"b", b"c"],
    ]


def test_a_walk_depends_on_its_number_and_the_seed_alone():
    made, config = graph(SQUARE, p=0.5, q=2.0, walk_length=20)
    start, number = np.arange(40) % 4, np.arange(40)
    whole = walks.walk(made, config, start, number)
    backwards = walks.walk(made, config, start[::-1], number[::-1])[::-1]
    np.testing.assert_array_equal(whole, backwards)
    np.testing.assert_array_equal(whole[7:9], walks.walk(made, config, start[7:9], number[7:9]))
    other = walks.walk(made, WalkConfig(**{**vars(config), "seed": 7}), start, number)
    assert (whole != other).any() and len(np.unique(whole, axis=0)) > 30


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"kind": "deepwlk"},
            "walks.kind: unknown value; received 'deepwlk'; did you mean 'deepwalk'",
        ),
        ({"walk_lenght": 3}, "unknown key 'walks.walk_lenght'; did you mean 'walk_length'"),
        (
            {"kind": "node2vec", "walk_length": 1},
            "walks.walk_length: must be greater than or equal to 2; received 1",
        ),
        ({"kind": "node2vec", "walks_per_node": 2.5}, "walks.walks_per_node: .* received 2.5"),
        ({"kind": "deepwalk", "within": -1}, "walks.within: must be .* 0; received -1"),
        ({"kind": "node2vec", "p": 0}, "walks.p: must be greater than 0; received 0"),
        (
            {"kind": "deepwalk", "q": 2.0},
            "walks.q belongs to walks.kind 'node2vec'; received 2.0 with 'deepwalk'",
        ),
    ],
)
def test_bad_values_are_refused_with_the_reason(values, message):
    with pytest.raises(ConfigError, match=message):
        WalkConfig.parse(values)


def test_walks_are_for_the_kind_walk():
    with pytest.raises(
        ConfigError, match="for models that train on rows of the kind 'walk'.*'event'"
    ):
        BuildConfig.parse({"task": "retrieve", "kind": "event", "walks": {"kind": "deepwalk"}})
    assert not BuildConfig.parse({"task": "retrieve", "kind": "event"}).walks.on_graph


@pytest.fixture(scope="module")
def built(toy_source, tmp_path_factory):
    """The toy log with node2vec walks, in one shard and in many; and as baskets."""
    folder = tmp_path_factory.mktemp("walks")
    standalone.read_tables(str(toy_source), output=str(folder / "tables"))
    settings = {
        "kind": "node2vec",
        "p": 0.5,
        "walks_per_node": 3,
        "walk_length": 7,
        "directed": True,
    }
    for name, size, made in (
        ("one", 10**6, settings),
        ("many", 100, settings),
        ("baskets", 10**6, None),
    ):
        standalone.build_examples(
            str(folder / "tables"), str(folder / name), kind="walk", rows_a_shard=size, walks=made
        )
    return folder


def rows_of(folder, split):
    report = json.loads((folder / "examples" / "report.json").read_text())
    return artifacts.read_split(
        str(folder / "examples"), split, report["columns"][split]
    ).to_pylist()


def test_walks_through_beam_do_not_depend_on_shards_and_leave_train_alone(built):
    one, many = (rows_of(built / name, "walks") for name in ("one", "many"))
    assert one == many and len(one) == 3 * 40
    train, baskets = (
        sorted(rows_of(built / name, "train"), key=repr) for name in ("one", "baskets")
    )
    assert train == baskets and len(train) == 60
    report = json.loads((built / "one" / "examples" / "report.json").read_text())
    assert report["splits"]["walks"] == {
        "rows": 120,
        "items": sum(len(row["item_id"]) for row in one),
        "edges": 40,
    }
    assert (
        "walks"
        not in json.loads((built / "baskets" / "examples" / "report.json").read_text())["splits"]
    )


def test_no_step_of_a_walk_is_one_that_only_validation_or_test_has(built):
    follows = {
        pair
        for row in rows_of(built / "one", "train")
        for pair in zip(row["item_id"], row["item_id"][1:], strict=False)
    }
    steps = {
        pair
        for row in rows_of(built / "one", "walks")
        for pair in zip(row["item_id"], row["item_id"][1:], strict=False)
    }
    assert steps and steps <= follows


def test_files_hold_so_many_walks_and_change_none(built, tmp_path):
    import apache_beam as beam

    log = log_of(EVENTS, SPLIT)
    config = WalkConfig.parse({"kind": "deepwalk", "walks_per_node": 5, "walk_length": 4})
    written = {}
    for size in (3, 1000):
        folder = tmp_path / str(size) / "Split-walks"
        with in_process_pipeline() as pipeline:
            _ = (
                pipeline
                | beam.Create([log])
                | walks.WriteWalks(config, str(folder), False, walks_at_once=size)
            )
        files = sorted(folder.glob("*.gz"))
        assert len(files) == {3: 7, 1000: 1}[size]  # 5 walks from each of 4 items
        written[size] = artifacts.read_split(
            str(tmp_path / str(size)), "walks", {"item_id": "bytes_list"}
        ).to_pylist()
    # d has no edge: its 5 walks are left out.
    assert written[3] == written[1000] and len(written[3]) == 15
