"""Which events count: types of events, sessions by gaps, and enough support; before the split."""

import numpy as np
import pyarrow as pa
import pytest
import yaml

from components import standalone
from components.build import checks, selection, splits
from components.build.config import BuildConfig, Filters, Positives, Sessions, SplitConfig
from components.build.selection import Hashes, core, merge_hashes
from components.build.splits import TARGET, gather_facts, make_log
from components.tables import artifacts
from components.tables.hashing import hash_ids
from models.names.errors import ConfigError, DataError
from models.names.label import WEIGHT
from pipeline import config
from tests.components.test_splits import parts, table

TYPED = [
    # user, item, time, type
    ("a", "x", 1, "view"),
    ("a", "y", 2, "cart"),
    ("a", "x", 3, "purchase"),
    ("a", "z", 4, "purchase"),
    ("a", "y", 5, "view"),
    ("b", "x", 1, "purchase"),
    ("b", "y", 2, "view"),
    ("b", "z", 3, None),
]


def typed(events=TYPED):
    types = [one[3] and one[3].encode() for one in events]
    return table([one[:3] for one in events], event_type=pa.array(types, pa.large_binary()))


def chosen(events=TYPED, **settings):
    found, counts, collapsed = selection.positives(
        typed(events), Positives.parse({"column": "event_type", **settings})
    )
    rows = zip(*(found.column(name).to_pylist() for name in ("user_id", "item_id", "row", TARGET)))
    named = [(f"{user.decode()}{item.decode()}", row, target) for user, item, row, target in rows]
    return named, counts, collapsed


def test_the_values_that_count_are_kept_and_all_are_counted():
    named, counts, _ = chosen(values={"purchase": 1, "cart": 0.5})
    assert named == [("ay", 1, True), ("ax", 2, True), ("az", 3, True), ("bx", 5, True)]
    assert counts == {"view": 3, "cart": 1, "purchase": 3, "no value": 1}
    asked, _, _ = chosen(values=["purchase", "view"], targets="purchase")
    assert [(name, target) for name, _, target in asked] == [
        ("ax", False),
        ("ax", True),
        ("az", True),
        ("ay", False),
        ("bx", True),
        ("by", False),
    ]


def test_an_event_weighs_as_its_value_says():
    settings = {"column": "event_type", "values": {"purchase": 1, "cart": 0.5}}
    found, _, _ = selection.positives(typed(), Positives.parse(settings))
    # a's y was put into the cart; a's x and z and b's x were bought.
    assert found.column(WEIGHT).to_pylist() == [0.5, 1.0, 1.0, 1.0]
    alike, _, _ = selection.positives(typed(), Positives.parse({**settings, "values": "cart"}))
    assert WEIGHT not in alike.column_names


def test_repeats_collapse_into_a_target_then_the_heaviest_then_the_first():
    # a's x: a view, then a purchase; a's y: a cart, then a view.
    named, _, collapsed = chosen(values={"purchase": 1, "cart": 0.5, "view": 0.1}, collapse=True)
    assert [row for _, row, _ in named] == [1, 2, 3, 5, 6] and collapsed == 2
    # The lighter type is the one that is asked for.
    values = {"purchase": 0.1, "view": 1}
    named, _, _ = chosen(values=values, targets=["purchase"], collapse=True)
    assert [row for _, row, _ in named] == [2, 3, 4, 5, 6]
    twice = [("a", "x", 9, "view"), ("a", "x", 3, "view"), ("a", "x", 3, "view")]
    named, _, collapsed = chosen(twice, values="view", collapse=True)
    assert [row for _, row, _ in named] == [1] and collapsed == 2


@pytest.mark.parametrize("kind", [pa.int64(), pa.float32()])
def test_numbers_count_from_a_bound_on_or_by_value(kind):
    source = table([(user, "x", 0) for user in "abcd"], rating=pa.array([3, 4, None, 5], kind))
    found, counts, _ = selection.positives(source, Positives.parse({"column": "rating", "from": 4}))
    assert found.column("row").to_pylist() == [1, 3]
    assert counts == {"from 4 on": 2, "below 4": 1, "no value": 1}
    by_value = Positives.parse({"column": "rating", "values": [3, 5.0]})
    assert selection.positives(source, by_value)[0].column("row").to_pylist() == [0, 3]


def test_large_numbers_and_those_with_decimals_are_values_of_their_own():
    campaign = pa.array([1000001, None, 1000002, 1000000])
    source = table([(user, "x", 0) for user in "abcd"], campaign=campaign)
    found, counts, _ = selection.positives(
        source, Positives.parse({"column": "campaign", "values": [1000001]})
    )
    assert found.column("row").to_pylist() == [0] and len(counts) == 4
    source = table([("a", "x", 0), ("b", "x", 0)], price=pa.array([0.1, 1000001], pa.float32()))
    by_value = Positives.parse({"column": "price", "values": [0.1]})
    found, counts, _ = selection.positives(source, by_value)
    assert found.column("row").to_pylist() == [0] and set(counts) == {"0.1", "1000001"}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"column": "t"}, "positives.values or positives.from is required, and not both"),
        ({"column": "t", "values": "a", "from": 1}, "and not both"),
        ({"column": "t", "values": {"a": 0}}, "positives.values.a: .*greater than 0"),
        ({"column": "t", "values": {"buy": 1}, "targets": "bu"}, "targets: .*did you mean 'buy'"),
        ({"column": "t", "values": "a", "colapse": 1}, "'positives.colapse'; did you mean 'coll"),
    ],
)
def test_wrong_positives_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Positives.parse(settings)


def split_of(events, targets, **split):
    settings = SplitConfig.parse(split)
    source = table(events).append_column(TARGET, pa.array(targets))
    return parts(make_log(source, settings, gather_facts(source, settings)))


def test_the_last_target_is_left_out_and_what_follows_it_is_of_no_split():
    # a: v w P x P y; P are targets. Validation is the first, test the second; x lies between: no
    # train, but known to the test query. b has one target only, and stays in train.
    events = [("a", item, time) for time, item in enumerate("vwpxqy")]
    events += [("b", item, time) for time, item in enumerate("vwp")]
    targets = [item in "pq" for _, item, _ in events]
    found = split_of(events, targets, name="leave_one_out")
    assert found["train"] == ["av", "aw", "bv", "bw", "bp"]
    assert found["valid"] == ["ap", "ax"] and found["test"] == ["aq"] and found["unused"] == ["ay"]
    found = split_of(events, targets, name="leave_one_out", valid_fraction=0)
    assert found["train"] == ["av", "aw", "ap", "ax", "bv", "bw"] and found["test"] == ["aq", "bp"]


def test_what_is_no_target_of_a_held_out_user_is_known():
    events = [("a", item, time) for time, item in enumerate("vwxyzpqrst")]
    targets = [item in "pqrst" for _, item, _ in events]
    split = {"name": "user_holdout", "test_fraction": 0.9, "valid_fraction": 0}
    found = split_of(events, targets, **split)
    # Of 5 targets one in five is asked for.
    assert len(found["test"]) == 1 and found["test"][0][1] in "pqrst"
    assert len(found["test_input"]) == 9


def with_sessions(events, gap):
    found, count = selection.with_sessions(table(events), Sessions(gap_minutes=gap))
    ids = found.column("session_id").to_pylist()
    return dict(zip(found.column("row").to_pylist(), ids)), count


def test_sessions_end_at_a_gap():
    # Seconds; a gap of a minute is 60: exactly that is none.
    events = [("b", "x", 100), ("a", "x", 0), ("a", "y", 60), ("a", "z", 121), ("b", "y", 50)]
    found, count = with_sessions(events, 1)
    assert found == {0: b"b.0", 1: b"a.0", 2: b"a.0", 3: b"a.1", 4: b"b.0"} and count == 3
    # A user's names do not depend on who else is in the shard.
    alone, _ = with_sessions([events[0], events[4]], 1)
    assert set(alone.values()) == {b"b.0"}


def core_of(pairs, sessions=None, train=None, **least):
    users, items = (np.array([one.encode() for one in side], object) for side in zip(*pairs))
    count = len(pairs)
    found = Hashes(
        hash_ids(users),
        hash_ids(items),
        np.array(sessions or [], np.uint64),
        np.array(train if train is not None else [True] * count, bool),
    )
    half = count // 2
    halves = [
        Hashes(*(getattr(found, name)[part] for name in ("user", "item", "session", "train")))
        for part in (slice(0, half), slice(half, None))
    ]
    kept = core(merge_hashes(halves), Filters(**least))
    return [
        number
        for number in range(count)
        if not any(
            getattr(found, name)[number] in gone.tolist() for name, gone in kept.gone.items()
        )
    ], kept


def test_what_one_loses_another_loses_by_it():
    # z has one event, by which c has one, by which y has one, by which b has one; a has x twice,
    # which then has a's two events alone: those are enough.
    pairs = [("a", "x"), ("a", "x"), ("b", "x"), ("b", "y"), ("c", "y"), ("c", "z")]
    left, kept = core_of(pairs, min_item_events=2, min_user_events=2)
    assert left == [0, 1]
    # z and y of the items; c and b of the users. Round 1: z, c. Round 2: y, b. Round 3: nothing.
    assert kept.dropped == {
        "items": {"groups": 2, "events": 2},
        "users": {"groups": 2, "events": 2},
    }
    assert kept.rounds == 3


def test_support_is_counted_in_train_and_a_session_counts_its_own():
    pairs = [("a", "x"), ("a", "x"), ("b", "x"), ("b", "y"), ("b", "y")]
    train = [True, True, False, False, False]
    # y is in no train, so it goes, and b's session with it: x alone is left of it.
    left, _ = core_of(pairs, [1, 1, 2, 2, 2], train, min_item_events=1, min_session_events=2)
    assert left == [0, 1]
    left, _ = core_of(pairs, [1, 1, 2, 2, 2], [True] * 5, min_item_events=1, min_session_events=3)
    assert left == [2, 3, 4]


@pytest.mark.parametrize("seed", range(3))
def test_in_the_core_everything_has_enough(seed):
    random = np.random.RandomState(seed)
    pairs = [(f"u{random.randint(40)}", f"i{random.randint(30)}") for _ in range(250)]
    left, _ = core_of(pairs, min_item_events=5, min_user_events=4)
    for side, least in ((0, 4), (1, 5)):
        counts = {}
        for number in left:
            counts[pairs[number][side]] = counts.get(pairs[number][side], 0) + 1
        assert counts and min(counts.values()) >= least


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """30 users who view five items and buy the sixth, one a minute; half come back after a day."""
    folder = tmp_path_factory.mktemp("shop")
    lines = ["user_id,item_id,event_type,timestamp"]
    for user in range(30):
        for step in range(12 if user % 2 else 6):
            day, place = divmod(step, 6)
            kind = "purchase" if place == 5 else "view"
            item = (user + step) % 10 if user else 99 + step  # the first user's items are rare
            time = 1_600_000_000 + 86_400 * day + 60 * place + user
            lines.append(f"u{user},i{item},{kind},{time}")
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    standalone.read_tables(str(folder), output=str(folder / "tables"))
    return folder / "tables"


def build(shop, output, split, chosen_by, kind="event", **options):
    report = standalone.build_examples(
        str(shop),
        str(output),
        kind=kind,
        split=split,
        schema="generic",
        selection=chosen_by,
        **options,
    )
    read = {
        name: artifacts.read_split(str(output / "examples"), name, report["columns"][name])
        for name in ("train", "test", "users")
    }
    return report, {name: rows.to_pylist() for name, rows in read.items()}


def test_everything_sees_the_same_events(shop, tmp_path):
    chosen_by = {
        "positives": {
            "column": "event_type",
            "values": ["view", "purchase"],
            "targets": "purchase",
        },
        "filters": {"min_item_events": 2},
    }
    split = {"name": "leave_one_out", "valid_fraction": 0, "drop_repeats": False}
    report, rows = build(shop, tmp_path, split, chosen_by, rows_a_shard=100)
    selected = report["selection"]
    # 15 users of 6 events, the first of them with rare items, and 15 of 12.
    assert selected["events"] == 15 * 6 + 15 * 12
    assert selected["positives"]["types"] == [
        {"value": "view", "events": 225, "used": "train and history", "weight": 1.0},
        {"value": "purchase", "events": 45, "used": "train and targets", "weight": 1.0},
    ]
    assert selected["filters"]["dropped"] == {"items": {"groups": 6, "events": 6}}
    # Everybody left is asked for the last purchase.
    assert len(rows["test"]) == 29 and {len(row["targets"]) for row in rows["test"]} == {1}
    assert all(len(row["history"]) in (5, 11) for row in rows["test"])
    assert len(rows["train"]) == 14 * 5 + 15 * 11
    assert TARGET not in report["columns"]["train"]
    # Purchases alone: nothing of a view is left, in histories neither.
    alone = {"positives": {"column": "event_type", "values": "purchase"}}
    split = {"name": "temporal", "valid_fraction": 0, "test_fraction": 0.2}
    report, rows = build(shop, tmp_path / "b", split, alone)
    assert {row["event_type"] for row in rows["train"]} == {b"purchase"}
    assert sum(len(row["history"]) for row in rows["users"]) == 45
    assert report["splits"]["train"]["events"] + report["splits"]["test"]["events"] == 45


def test_sessions_by_a_gap_are_asked_position_by_position(shop, tmp_path):
    chosen_by = {
        "sessions": {"gap_minutes": 30},
        "filters": {"min_item_events": 5, "min_session_events": 2, "known_targets_only": True},
    }
    split = {"name": "last_days", "days": 0.5, "valid_fraction": 0, "drop_repeats": False}
    report, rows = build(shop, tmp_path, split, chosen_by, kind="sequence", rows_a_shard=100)
    # 30 sessions of the first day and 15 of the second; the first user's items are too rare.
    assert report["selection"]["sessions"] == {"gap_minutes": 30, "sessions": 45}
    assert report["selection"]["filters"]["dropped"]["items"] == {"groups": 6, "events": 6}
    assert len(rows["train"]) == 29 and {len(row["item_id"]) for row in rows["train"]} == {6}
    assert len(rows["test"]) == 15 * 5
    assert report["dropped"]["test"]["targets that train does not have"] == 0


def test_targets_that_train_does_not_have_are_history(shop, tmp_path, monkeypatch):
    # In test from the 91st second of the first day on: the rare items of the first user among them.
    split = {"name": "temporal", "valid_fraction": 0, "test_fraction": 0.9}
    report, rows = build(shop, tmp_path, split, {"filters": {"known_targets_only": True}})
    asked = {item for row in rows["test"] for item in row["targets"]}
    assert asked <= {row["item_id"] for row in rows["train"]}
    # 99 .. 104 are the first user's; train has those of the first 10 %.
    assert report["dropped"]["test"]["targets that train does not have"] > 0
    everything, _ = build(shop, tmp_path / "b", split, {})
    lost = everything["splits"]["test"]["rows"] - report["splits"]["test"]["rows"]
    monkeypatch.setattr(splits, "_SPANS", 3)  # times are counted by spans
    again, _ = build(shop, tmp_path / "c", split, {"filters": {"known_targets_only": True}})
    assert again["splits"] == report["splits"] and again["dropped"] == report["dropped"]
    assert lost >= 0 and "targets that train does not have" not in everything["dropped"]["test"]


@pytest.mark.parametrize(
    "chosen_by, message",
    [
        ({"positives": {"column": "event_tpye", "values": "x"}}, "'event_tpye', .*'event_type'"),
        ({"positives": {"column": "event_type", "values": "buy"}}, "has no 'buy'"),
        ({"positives": {"column": "event_type", "values": "purchas"}}, "mean 'purchase'"),
        (
            {"positives": {"column": "event_type", "from": 4}},
            "positives.from: 'event_type' holds t",
        ),
        ({"positives": {"column": "timestamp", "from": 1e12}}, "no event has 'timestamp' from"),
        ({"filters": {"min_session_events": 2}}, "'session_id', required by filters.min_session"),
        ({"filters": {"min_user_events": 99}}, "nothing is left.*270 events of 30 users"),
    ],
)
def test_what_cannot_be_chosen_is_said(shop, tmp_path, chosen_by, message):
    with pytest.raises(DataError, match=message):
        build(shop, tmp_path, {}, chosen_by)


def test_a_log_with_sessions_keeps_them():
    columns = {"timestamp": "int", "session_id": "bytes"}
    wanted = BuildConfig.parse(
        {"task": "retrieve", "kind": "event", "sessions": {"gap_minutes": 1}}
    )
    with pytest.raises(DataError, match="sessions of its own, in the column 'session_id'"):
        checks.selected_columns(columns, wanted)


def test_a_run_says_which_events_count(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "positives: {column: event_type, values: {purchase: 1, 3: 1}}\n"
        "filters: {min_item_events: 5}\nsessions: {gap_minutes: 30}\n"
    )
    run = config.load(str(path))
    assert run.positives.values == {"purchase": 1, "3": 1}
    assert run.selection == {
        "positives": {
            "column": "event_type",
            "values": {"purchase": 1, "3": 1},
            "from": None,
            "targets": [],
            "collapse": False,
        },
        "filters": {**Filters().model_dump(), "min_item_events": 5},
        "sessions": {"gap_minutes": 30},
    }
    assert run.pipeline_name.endswith("-leave_one_out-event_type-purchase-3")
    path.write_text(run.to_yaml())
    assert config.load(str(path)) == run and config.load().selection == {}
    rated = config.load(
        None, config.parse_settings(("positives.column=rating", "positives.from=4"))
    )
    assert rated.positives.from_value == 4 and rated.pipeline_name.endswith("-rating-from-4")


def test_a_run_on_sessions_takes_repeats_unless_it_says_otherwise():
    def run(*settings, model="gru4rec"):
        found = config.load(None, {"model": model, **config.parse_settings(settings)})
        return found.split.drop_repeats, found.hyper_parameters.get("filter_seen")

    assert run("split.name=last_days") == (False, False)
    assert run("split.name=predefined", "split.sequence_by=session") == (False, False)
    # Where one is said, the other goes with it.
    assert run("split.name=last_days", "filter_seen=true") == (True, True)
    assert run("split.name=last_days", "filter_seen=false") == (False, False)
    assert run("split.name=last_days", "split.drop_repeats=true") == (True, None)
    # A run that is asked once a user is as it was.
    assert run("split.sequence_by=session") == (True, None)
    assert run("split.name=predefined") == (True, None) and run() == (True, None)
    assert run("split.name=last_days", model="lr") == (True, None)


def test_the_rows_of_a_score_run_weigh_as_their_events_do():
    settings = {"positives.column": "event_type", "positives.values": {"buy": 1, "cart": 0.5}}
    assert config.load(None, settings).label is None
    of_rows = {"model": "lr", "label.column": "click", **settings}
    run = config.load(None, of_rows)
    assert run.label.weight == WEIGHT
    again = config.load(None, yaml.safe_load(run.to_yaml()))
    assert again.label == run.label
    with pytest.raises(ConfigError, match="label.weight and weights in pos.*one of them; .*'imp'"):
        config.load(None, {**of_rows, "label.weight": "imp"})
    alike = config.load(None, {**of_rows, "positives.values": {"buy": 1, "cart": 1}})
    assert alike.label.weight is None


def test_an_event_carries_its_weight_to_the_train_rows(shop, tmp_path):
    values = {"purchase": 1, "view": 0.25}
    by_type = {b"purchase": 1.0, b"view": 0.25}
    chosen_by = {"positives": {"column": "event_type", "values": values}}
    split = {"name": "leave_one_out", "valid_fraction": 0, "drop_repeats": False}
    report, rows = build(shop, tmp_path, split, chosen_by)
    assert report["columns"]["train"][WEIGHT] == "float"
    assert all(row[WEIGHT] == by_type[row["event_type"]] for row in rows["train"])
    # A target is a target, whatever it weighs: queries have no weights.
    assert WEIGHT not in report["columns"]["test"] and WEIGHT not in report["columns"]["users"]
    used = [
        (one["value"], one["events"], one["weight"])
        for one in report["selection"]["positives"]["types"]
    ]
    assert used == [("view", 225, 0.25), ("purchase", 45, 1.0)]
    report, rows = build(shop, tmp_path / "lists", split, chosen_by, kind="sequence")
    for row in rows["train"]:
        assert row[WEIGHT] == [by_type[one] for one in row["event_type"]]
    # Nobody asks for weights: a column of that name is the log's own, and no weight.
    own = tmp_path / "own"
    own.mkdir()
    lines = ["user_id,item_id,timestamp,example_weight,event_type"]
    lines += [f"u{row % 3},i{row},{row},7,{'ab'[row % 2]}" for row in range(12)]
    (own / "events.csv").write_text("\n".join(lines) + "\n")
    standalone.read_tables(str(own), output=str(own / "tables"))
    report, _ = build(own / "tables", tmp_path / "own-built", split, None)
    assert WEIGHT not in report["columns"]["train"]
    asked = {"positives": {"column": "event_type", "values": {"a": 2, "b": 1}}}
    with pytest.raises(DataError, match="positives.values: .* column 'example_weight' of its own"):
        build(own / "tables", tmp_path / "clash", split, asked)
