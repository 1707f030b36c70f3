"""The splits and the rows made of them, on data small enough to know the answer."""

import numpy as np
import pyarrow as pa
import pytest

from components.build import labels, rows, splits
from components.build.config import POINT_IN_TIME, SPLITS, BuildConfig, SplitConfig
from components.build.splits import (
    TEST,
    TEST_INPUT,
    TRAIN,
    UNUSED,
    VALID,
    VALID_INPUT,
    Facts,
    gather_facts,
    make_log,
    merge_facts,
    merge_times,
    near_cuts,
    ratio_of_rows,
    refined,
    time_cuts,
)
from models.names.errors import ConfigError, DataError
from models.names.label import WEIGHT, Label

# user, item, time; the row is the position. b's last two events share a time: the row decides.
EVENTS = [
    ("a", "x", 10),
    ("b", "y", 40),
    ("a", "y", 5),
    ("b", "x", 20),
    ("a", "z", 30),
    ("b", "z", 40),
    ("a", "w", 20),
    ("c", "x", 50),
    ("c", "y", 60),
]


def table(events=EVENTS, **extra) -> pa.Table:
    users, items, times = zip(*events)
    return pa.table(
        {
            "user_id": pa.array([one.encode() for one in users], pa.large_binary()),
            "item_id": pa.array([one.encode() for one in items], pa.large_binary()),
            "timestamp": pa.array(times, pa.int64()),
            "row": pa.array(range(len(events)), pa.int64()),
            **extra,
        }
    )


def log_of(events=EVENTS, **config):
    config = SplitConfig.parse(config)
    source = table(events)
    # In two batches, as Beam would bring them.
    facts = merge_facts(
        [gather_facts(source.slice(0, 4), config), gather_facts(source.slice(4), config)]
    )
    return make_log(source, config, facts), config


def random_events(count=600, users=30, items=25, seed=3):
    random = np.random.RandomState(seed)
    return [
        (f"u{random.randint(users)}", f"i{random.randint(items)}", int(random.randint(100)))
        for _ in range(count)
    ]


def parts(log):
    names = {
        TRAIN: "train",
        VALID: "valid",
        TEST: "test",
        VALID_INPUT: "valid_input",
        TEST_INPUT: "test_input",
        UNUSED: "unused",
    }
    found = {}
    for user, item, part in zip(log.column("user_id"), log.column("item_id"), log.split):
        found.setdefault(names[part], []).append(f"{user.decode()}{item.decode()}")
    return found


NO_FEATURES = rows.Side(pa.table({"user_id": pa.array([], pa.large_binary())}), "user_id")


def built(config, **carries):
    return BuildConfig(task="retrieve", kind="event", split=config, **carries)


def queries(log, config, part=TEST):
    found, dropped = rows.query_rows(log, part, NO_FEATURES, rows.count_items(log), built(config))
    return found.to_pylist(), dropped


def test_leave_one_out_takes_the_last_two_events_by_time_then_row():
    log, _ = log_of(name="leave_one_out")
    # a by time: y5 x10 w20 z30; b: x20, then y (row 1) before z (row 5), both at 40; c has two
    # events: all in train.
    assert parts(log) == {
        "train": ["ay", "ax", "bx", "cx", "cy"],
        "valid": ["aw", "by"],
        "test": ["az", "bz"],
    }


def test_leave_one_out_without_validation_gives_that_event_to_train():
    log, _ = log_of(name="leave_one_out", valid_fraction=0)
    assert parts(log)["train"] == ["ay", "ax", "aw", "bx", "by", "cx", "cy"]


def test_temporal_cuts_at_one_time_for_everybody():
    # 9 events; the last third (0.34 of 9: rank 5 of the ascending times 5 10 20 20 30 40 40 50 60)
    # begins at 40.
    log, _ = log_of(name="temporal", valid_fraction=0.2, test_fraction=0.34)
    # Validation from rank floor(9 * 0.46) = 4, time 30.
    assert parts(log) == {
        "train": ["ay", "ax", "aw", "bx"],
        "valid": ["az"],
        "test": ["by", "bz", "cx", "cy"],
    }


@pytest.mark.parametrize("spans", [2, 3, 20])
def test_cuts_in_time_are_exact_where_times_are_counted_by_spans(monkeypatch, spans):
    random = np.random.RandomState(1)
    times = np.concatenate([random.randint(-5_000, 90_000, 400), np.repeat(random.randint(50), 60)])
    events = [("u", "i", int(time)) for time in random.permutation(times)]
    config = SplitConfig.parse({"name": "temporal", "valid_fraction": 0.13, "test_fraction": 0.2})
    source = table(events)
    batches = [source.slice(begin, 50) for begin in range(0, len(events), 50)]
    exact = merge_facts([gather_facts(batch, config) for batch in batches])
    assert exact.width == 1 and len(exact.seconds) == len(set(times))
    monkeypatch.setattr(splits, "_SPANS", spans)
    rough = Facts()
    for batch in batches:  # as a combiner adds up
        rough = merge_facts([rough, gather_facts(batch, config)])
    assert rough.width > 1 and len(rough.seconds) <= spans and rough.counts.sum() == len(events)
    near = merge_times([near_cuts(batch, rough, config) for batch in batches])
    found = refined(rough, near)
    assert time_cuts(found, config) == time_cuts(exact, config)
    assert found.counts.sum() == len(events) and len(found.seconds) == len(set(found.seconds))
    assert found.width == 1 and refined(exact, merge_times([])) is exact


def test_ratio_is_the_papers_draw():
    split = ratio_of_rows(10, 42, 0.2, 0.1)
    order = np.random.RandomState(42).permutation(10)
    assert set(order[:7]) == set(np.flatnonzero(split == TRAIN))
    assert set(order[7:9]) == set(np.flatnonzero(split == VALID))
    assert set(order[9:]) == set(np.flatnonzero(split == TEST))


def test_user_holdout_draws_the_asked_number_of_users_and_four_fifths_of_their_events():
    log, config = log_of(
        random_events(), name="user_holdout", valid_fraction=0.1, test_fraction=0.2
    )
    users = {
        part: set(log.column("user_id")[log.split == part])
        for part in (TRAIN, VALID, TEST, VALID_INPUT, TEST_INPUT)
    }
    assert (len(users[VALID]), len(users[TEST])) == (3, 6)
    assert users[VALID] == users[VALID_INPUT] and users[TEST] == users[TEST_INPUT]
    for user in users[TEST]:
        mine = log.split[log.column("user_id") == user]
        assert (mine == TEST).sum() == len(mine) // 5
    other, _ = log_of(
        random_events(), name="user_holdout", valid_fraction=0.1, test_fraction=0.2, seed=43
    )
    assert users[TEST] != set(other.column("user_id")[other.split == TEST])


def test_user_holdout_rounds_the_targets_down_and_asks_nobody_of_fewer_than_five():
    # User a2 has 2 events, ..., a11 has 11; all but the last drawn are held out.
    events = [
        (f"a{count}", f"i{number}", number) for count in range(2, 12) for number in range(count)
    ]
    log, config = log_of(events, name="user_holdout", valid_fraction=0, test_fraction=0.9)
    held_out = log.users[log.per_user(log.split == TRAIN) == 0]
    targets = dict(zip(log.users, log.per_user(log.split == TEST)))
    # A fifth of 5 to 9 is 1 (the known part rounded down left 2 of 6 to 9), of 10 and 11 is 2.
    wanted = {2: 0, 3: 0, 4: 0, 5: 1, 6: 1, 7: 1, 8: 1, 9: 1, 10: 2, 11: 2}
    assert len(held_out) == 9
    assert {user: targets[user] for user in held_out} == {
        user: wanted[int(user[1:])] for user in held_out
    }
    found, _ = queries(log, config)
    assert {one["user_id"] for one in found} == {user for user in held_out if int(user[1:]) >= 5}


def test_given_takes_the_named_events_and_validates_on_the_last_that_remains(tmp_path):
    file = tmp_path / "test.tsv"
    file.write_text("user_id\titem_id\tcandidates\na\tx\tq r\nb\tz\ts\n")
    log, config = log_of(name="given", file=str(file))
    assert parts(log) == {
        "train": ["ay", "aw", "bx", "cx"],
        "valid": ["az", "by", "cy"],
        "test": ["ax", "bz"],
    }
    found, _ = queries(log, config)
    assert [(one["user_id"], one["targets"], one["candidates"]) for one in found] == [
        (b"a", [b"x"], [b"q", b"r"]),
        (b"b", [b"z"], [b"s"]),
    ]


# Those that part sessions are in test_session_splits.py, that of two domains in test_domains.py.
@pytest.mark.parametrize(
    "name", [name for name in SPLITS if name not in ("last_days", "predefined", "cross_domain")]
)
def test_nothing_after_the_split_point_reaches_train(name, tmp_path):
    events = random_events()
    config = {"name": name}
    if name == "given":
        # The last event of every user, as NCF's file names them.
        last = {}
        for row, (user, item, time) in enumerate(events):
            last[user] = max(last.get(user, (-1, -1, "")), (time, row, item))
        file = tmp_path / "given.tsv"
        file.write_text(
            "user_id\titem_id\n"
            + "".join(f"{user}\t{item}\n" for user, (_, _, item) in last.items())
        )
        config["file"] = str(file)
    log, config = log_of(events, **config)
    train, known = rows.event_rows(log, log.split == TRAIN, _items(), NO_FEATURES), {}
    train_rows = set(train.column("row").to_pylist())
    by_row = {
        row: (user.encode(), item.encode(), time) for row, (user, item, time) in enumerate(events)
    }
    held_out = {int(row) for row, part in zip(log.column("row"), log.split) if part != TRAIN}
    assert train_rows and held_out and train_rows.isdisjoint(held_out)
    assert train_rows | held_out == set(by_row)
    listed = rows.list_rows(log, log.split == TRAIN, NO_FEATURES, by_session=False)
    assert {row for one in listed.column("row").to_pylist() for row in one} == train_rows
    # What the counts are fitted on is train, too.
    assert rows.count_items(log).counts.sum() == len(train_rows)

    user, time, row = log.column("user_id"), log.column("timestamp"), log.column("row")
    for part in (VALID, TEST):
        mine = log.split == part
        if name == "temporal":
            assert time[log.split < part].max() < time[mine].min()
        elif name == "leave_one_out":
            for one in np.unique(user[mine]):
                held = max(zip(time[mine & (user == one)], row[mine & (user == one)]))
                earlier = (user == one) & (log.split == TRAIN)
                assert max(zip(time[earlier], row[earlier])) < held
        elif name == "user_holdout":
            assert not set(user[mine]) & set(user[log.split == TRAIN])
        elif name == "given" and part == TEST:
            pairs = set(zip(user[mine], log.column("item_id")[mine]))
            assert not pairs & set(
                zip(train.column("user_id").to_pylist(), train.column("item_id").to_pylist())
            )
        # Targets are never in what the query may see, and come from their own part of the log.
        found, _ = queries(log, config, part)
        assert found
        of_part = set(zip(user[mine], log.column("item_id")[mine]))
        for query in found:
            assert not set(query["targets"]) & set(query["history"] + query["exclude"])
            assert {(query["user_id"], item) for item in query["targets"]} <= of_part
            known[query["user_id"]] = query
        if name == "temporal":
            for query in found:
                assert query["timestamp"] >= time[mine].min()


def test_query_history_of_all_and_of_train():
    log, config = log_of(name="leave_one_out")
    (a, b), dropped = queries(log, config)
    assert (a["history"], a["exclude"], a["targets"]) == ([b"y", b"x", b"w"], [], [b"z"])
    assert (b["history"], b["timestamp"]) == ([b"x", b"y"], 40)
    assert dropped == {
        "repeated targets": 0,
        "users with only repeated targets": 0,
        "users without events in the split": 1,
    }
    log, config = log_of(name="leave_one_out", query_history="train")
    (a, b), _ = queries(log, config)
    assert (a["history"], a["exclude"], a["targets"]) == ([b"y", b"x"], [b"w"], [b"z"])
    (a, b), _ = queries(log, config, VALID)
    assert (a["history"], a["exclude"], a["targets"]) == ([b"y", b"x"], [], [b"w"])


def test_a_repeated_target_is_dropped_and_counted_unless_asked_for():
    events = [
        ("a", "x", 1),
        ("a", "y", 2),
        ("a", "x", 3),
        ("b", "x", 1),
        ("b", "y", 2),
        ("b", "z", 3),
    ]
    log, config = log_of(events, name="leave_one_out")
    found, dropped = queries(log, config)
    assert [one["user_id"] for one in found] == [b"b"]
    assert dropped["repeated targets"] == 1 and dropped["users with only repeated targets"] == 1
    log, config = log_of(events, name="leave_one_out", drop_repeats=False)
    found, _ = queries(log, config)
    assert [one["targets"] for one in found] == [[b"x"], [b"z"]]
    # Both of a's last events, on x, are for test: one target, since it is found once.
    again = [("a", "x", 1), ("b", "y", 2), ("b", "z", 3), ("a", "x", 8), ("a", "x", 9)]
    log, config = log_of(
        again, name="temporal", valid_fraction=0, test_fraction=0.4, drop_repeats=False
    )
    found, dropped = queries(log, config)
    assert [one["targets"] for one in found] == [[b"x"]] and dropped["repeated targets"] == 1


def test_slices_follow_train_alone():
    # Train counts: x 5, y 3, z 1, w 1 of 10. Before x: 0 % -> head; y: 50 % -> middle; w: 80 % ->
    # tail (id order); z: 90 %.
    items = np.array([b"w", b"x", b"y", b"z"], object)
    popularity = rows.Popularity(items, np.array([1, 5, 3, 1]))
    assert list(popularity.slices(np.array([b"x", b"y", b"z", b"w", b"new"], object))) == [
        b"head",
        b"middle",
        b"tail",
        b"tail",
        b"cold",
    ]
    # Every c event is in the test part of a temporal split: c is cold, with no history.
    log, config = log_of(name="temporal", valid_fraction=0, test_fraction=0.34)
    found, _ = queries(log, config)
    cold = next(one for one in found if one["user_id"] == b"c")
    assert (cold["history"], cold["activity"], cold["temperature"]) == ([], b"0", b"cold")
    warm = next(one for one in found if one["user_id"] == b"b")
    assert (warm["activity"], warm["temperature"]) == (b"1-9", b"warm")


def test_sampled_negatives_are_99_distinct_items_of_train_that_the_user_never_touched():
    events = random_events(4000, users=20, items=400)
    log, config = log_of(events, name="leave_one_out", candidates="ncf99")
    found, _ = queries(log, config)
    train = set(rows.count_items(log).items)
    for query in found:
        touched = {item.encode() for user, item, _ in events if user.encode() == query["user_id"]}
        assert len(query["candidates"]) == len(set(query["candidates"])) == 99
        assert set(query["candidates"]) <= train - touched
    again, _ = queries(log, config)
    assert again == found
    # The draw of a user does not depend on who else is in the shard.
    mine = [event for event in events if event[0] == "u3"]
    popularity = rows.count_items(log)
    alone = make_log(table(mine), config, gather_facts(table(mine), config))
    (query,), _ = (lambda pair: (pair[0].to_pylist(), pair[1]))(
        rows.query_rows(alone, TEST, NO_FEATURES, popularity, built(config))
    )
    assert (
        query["candidates"] == next(one for one in found if one["user_id"] == b"u3")["candidates"]
    )
    few, _ = queries(*log_of(random_events(), name="leave_one_out", candidates="ncf99"))
    for query in few:  # 25 items in all: whatever is left, and no endless search
        assert set(query["candidates"]).isdisjoint(query["history"])


def _items():
    return rows.Side(
        pa.table(
            {
                "item_id": pa.array([b"x", b"y"], pa.large_binary()),
                "year": pa.array([1990, None], pa.int64()),
            }
        ),
        "item_id",
    )


def test_event_rows_join_features_and_leave_what_is_unknown_missing():
    log, _ = log_of(name="leave_one_out")
    users = rows.Side(
        pa.table(
            {"user_id": pa.array([b"b"], pa.large_binary()), "age": pa.array([30], pa.int64())}
        ),
        "user_id",
    )
    found = rows.event_rows(log, np.ones(len(log), bool), _items(), users).to_pylist()
    assert {one["item_id"]: one["item_year"] for one in found} == {
        b"x": 1990,
        b"y": None,
        b"z": None,
        b"w": None,
    }
    assert {one["user_id"]: one["user_age"] for one in found} == {b"a": None, b"b": 30, b"c": None}


def test_list_rows_are_parallel_lists_in_time_order_by_user_or_session():
    extra = {
        "session_id": pa.array(
            [b"s", b"t", b"s", b"t", b"r", b"t", b"s", b"s", b"s"], pa.large_binary()
        ),
        "dwell": pa.array([1.0, None, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], pa.float32()),
    }
    config = SplitConfig.parse({"name": "leave_one_out"})
    source = table(**extra)
    log = make_log(source, config, gather_facts(source, config))
    everything = np.ones(len(log), bool)
    found = rows.list_rows(log, everything, NO_FEATURES, by_session=False).to_pylist()
    assert (found[0]["item_id"], found[0]["dwell"]) == (
        [b"y", b"x", b"w", b"z"],
        [3.0, 1.0, 7.0, 5.0],
    )
    assert found[1]["dwell"] == [4.0, 0.0, 6.0]  # missing, filled: the lists stay parallel
    sessions = rows.list_rows(log, everything, NO_FEATURES, by_session=True).to_pylist()
    assert [(one["user_id"], one["session_id"], one["item_id"]) for one in sessions] == [
        (b"a", b"s", [b"y", b"x", b"w"]),
        (b"a", b"r", [b"z"]),
        (b"b", b"t", [b"x", b"y", b"z"]),
        (b"c", b"s", [b"x", b"y"]),
    ]


def test_user_rows_hold_the_whole_log_and_users_without_events():
    log, _ = log_of(name="leave_one_out")
    users = pa.table(
        {"user_id": pa.array([b"z", b"a"], pa.large_binary()), "age": pa.array([9, 8], pa.int64())}
    )
    assert rows.user_rows(log, users).to_pylist() == [
        {"user_id": b"a", "user_age": 8, "history": [b"y", b"x", b"w", b"z"]},
        {"user_id": b"b", "user_age": None, "history": [b"x", b"y", b"z"]},
        {"user_id": b"c", "user_age": None, "history": [b"x", b"y"]},
        {"user_id": b"z", "user_age": 9, "history": []},
    ]


def test_wrong_configurations_are_named():
    for values, message in (
        ({"name": "leave_one"}, "did you mean 'leave_one_out'"),
        ({"nam": "ratio"}, "did you mean 'name'"),
        ({"name": "ratio", "test_fraction": 1.5}, "test_fraction"),
        (
            {"name": "ratio", "test_fraction": 0.6, "valid_fraction": 0.4},
            "leave something to train on",
        ),
        ({"name": "given"}, "split.file"),
    ):
        with pytest.raises(ConfigError, match=message):
            SplitConfig.parse(values)
    with pytest.raises(DataError, match="missing"):
        log_of(name="given", file="/nowhere/test.tsv")


def test_what_a_user_did_before_is_counted_up_to_the_event_and_not_beyond():
    """By hand: a has y at 5, x at 10, w at 20, z at 30 and x again at 70."""
    log, _ = log_of([*EVENTS, ("a", "x", 70)])
    found = rows.with_point_in_time(
        log, tuple(POINT_IN_TIME), np.arange(len(log))
    ).table.to_pylist()
    names = ("user_id", "item_id", *POINT_IN_TIME)
    assert [tuple(row[name] for name in names) for row in found] == [
        (b"a", b"y", 0, 0, None, None),
        (b"a", b"x", 1, 0, 5, None),
        (b"a", b"w", 2, 0, 10, None),
        (b"a", b"z", 3, 0, 10, None),
        (b"a", b"x", 4, 1, 40, 60),
        (b"b", b"x", 0, 0, None, None),
        (b"b", b"y", 1, 0, 20, None),
        (b"b", b"z", 2, 0, 0, None),
        (b"c", b"x", 0, 0, None, None),
        (b"c", b"y", 1, 0, 10, None),
    ]


def test_what_happens_later_changes_nothing_before():
    events = random_events()
    later = [(user, item, time + 1000) for user, item, time in events[400:]]
    logs = [log_of(all_)[0] for all_ in (events[:400], events[:400] + later)]
    early, whole = (
        {
            row["row"]: row
            for row in rows.with_point_in_time(
                log, [*POINT_IN_TIME], np.arange(len(log))
            ).table.to_pylist()
        }
        for log in logs
    )
    assert len(early) == 400 and all(whole[number] == row for number, row in early.items())


def test_only_splits_by_time_keep_later_events_out_of_train():
    silent = {name for name in SPLITS if not SplitConfig.model_construct(name=name).leakage}
    assert silent == {"temporal", "last_days"}
    assert SplitConfig(name="ratio").leakage.startswith("split ratio: events are parted at random")


def test_weights_stand_beside_labels_and_are_not_learnt_from():
    """Missing is 1; `dwell`, never a feature, may stay though it weighs; `worth` goes."""
    worth = pa.array([2.0, None, 0.0, 1.5, 1, 1, 1, 1, 1], pa.float32())
    config = SplitConfig.parse({"name": "ratio"})
    source = table(worth=worth, dwell=worth, likes=pa.array([1.0] * 9, pa.float32()))
    log = make_log(source, config, gather_facts(source, config))
    for name, stays in (("worth", False), ("dwell", True)):
        made, _ = labels.with_label(log, Label(column="likes", weight=name))
        by_row = dict(zip(made.column("row"), made.column(WEIGHT)))
        assert [by_row[row] for row in range(4)] == [2.0, 1.0, 0.0, 1.5]
        assert (name in made.table.column_names) == stays
        assert "likes" not in made.table.column_names
    for wrong in (-0.5, float("inf")):
        bad = table(
            worth=pa.array([1.0] * 8 + [wrong], pa.float32()),
            likes=pa.array([1.0] * 9, pa.float32()),
        )
        log = make_log(bad, config, gather_facts(bad, config))
        with pytest.raises(DataError, match=f"label.weight: 'worth': .* received {wrong:g} .*'c'"):
            labels.with_label(log, Label(column="likes", weight="worth"))
    with pytest.raises(DataError, match="label.weight: 'item_id' holds bytes; required: numbers"):
        labels.with_label(log, Label(column="likes", weight="item_id"))
