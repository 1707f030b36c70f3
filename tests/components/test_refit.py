"""Fitting again on everything: what everything is, who decides, and that nothing costs nothing."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from tfx.types import standard_artifacts

from components import standalone
from components.build.config import SPLITS, SplitConfig
from components.build.example_builder import ExampleBuilderExecutor
from components.build.splits import SOURCE, TARGET, TRAIN, UNUSED, gather_facts, make_log
from components.canary.canary import CanaryExecutor
from components.component import SKIPPED
from components.refit.refit import RefitExecutor
from components.refit.steps import TrainerExecutor
from components.tables import artifacts
from components.transform.transform import TransformExecutor
from tests.components.test_splits import EVENTS, table

DAY = 86_400


def words(values) -> pa.Array:
    return pa.array([value.encode() for value in values], pa.large_binary())


@pytest.mark.parametrize("name", SPLITS)
def test_of_every_split_everything_is_train(name, tmp_path):
    (tmp_path / "given.tsv").write_text("user_id\titem_id\na\tz\nc\ty\n")
    own = {
        "file": str(tmp_path / "given.tsv"),
        "days": 1 / DAY * 20,
        "source": "old",
        "target": "new",
    }
    own = {key: value for key, value in own.items() if name in SplitConfig.READ_BY[key]}
    config = SplitConfig(name=name, valid_fraction=0.3, test_fraction=0.3, **own)
    # The parts of the files, and the domains: c has one event in each, a and b are in one.
    source = table(
        session_id=words("112123345"),
        split=words(["train", "train", "train", "train", "test", "test", "train", "valid", "test"]),
        domain=words(["new", "new", "new", "new", "new", "new", "toy", "old", "new"]),
    )
    facts = gather_facts(source, config)
    held_out = make_log(source, config, facts).split
    log = make_log(source, config, facts, everything=True)
    # Every event is there once, as without it: the nine rows of `EVENTS`.
    assert sorted(log.column("row")) == list(range(len(EVENTS)))
    if name == "cross_domain":  # seven events of the target; c's old one and a's toy are none of it
        by_row = dict(zip(log.column("row").tolist(), log.split.tolist()))
        assert by_row == dict.fromkeys((0, 1, 2, 3, 4, 5, 8), TRAIN) | {6: UNUSED, 7: SOURCE}
    else:
        assert (log.split == TRAIN).all()
        assert (held_out != TRAIN).any()


def test_what_follows_the_last_target_trains_too():
    # a: three views and a purchase, then a view, which leave-one-out leaves to no split.
    source = table([("a", item, time) for time, item in enumerate("vwxpy")])
    source = source.append_column(TARGET, pa.array([False, True, True, True, False]))
    config = SplitConfig()
    facts = gather_facts(source, config)
    assert UNUSED in make_log(source, config, facts).split
    assert (make_log(source, config, facts, everything=True).split == TRAIN).all()


def write(folder: Path, lines: list[str]) -> Path:
    folder.mkdir()
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    standalone.read_tables(str(folder), output=str(folder / "tables"))
    return folder / "tables"


def build(tables, output, **options):
    report = standalone.build_examples(
        str(tables), str(output), schema="generic", everything=True, **options
    )
    read = {
        name: artifacts.read_split(str(output / "examples"), name, report["columns"][name])
        for name in ("train", "valid", "test", "items", "users")
    }
    return report, {name: rows.to_pylist() for name, rows in read.items()}


def histories(rows) -> dict[bytes, list[bytes]]:
    return {row["user_id"]: row["history"] for row in rows["users"]}


def test_the_newest_items_are_learnt_and_nothing_is_asked(tmp_path):
    """By time, with filters: the support of what is new is counted, for all of it is train."""
    # z is new, and had by two; w had by one. At 8 test begins, the newest 3 of 9 events.
    events = ["a,x,1", "b,x,1", "c,x,1", "a,y,2", "b,y,2", "c,w,2", "a,z,8", "b,z,9", "c,y,9"]
    tables = write(tmp_path / "shop", ["user_id,item_id,timestamp", *events])
    split = {"name": "temporal", "valid_fraction": 0, "test_fraction": 0.3}
    selection = {"filters": {"min_item_events": 2}}
    report, rows = build(tables, tmp_path / "a", split=split, selection=selection)
    # w has one event, which is too few.
    assert report["selection"]["filters"]["dropped"] == {"items": {"groups": 1, "events": 1}}
    assert report["splits"]["train"] == {"rows": 8, "users": 3, "events": 8, "items": 3}
    assert sorted((row["user_id"] + row["item_id"]).decode() for row in rows["train"]) == sorted(
        ["ax", "ay", "az", "bx", "by", "bz", "cx", "cy"]
    )
    assert {row["item_id"] for row in rows["items"]} == {b"x", b"y", b"z"}
    xyz = [b"x", b"y", b"z"]
    assert histories(rows) == {b"a": xyz, b"b": xyz, b"c": xyz[:2]}
    assert rows["valid"] == rows["test"] == [] and report["everything"]
    assert not report["dropped"].get("test") and not report["dropped"].get("valid")
    measured = standalone.build_examples(
        str(tables), str(tmp_path / "b"), split=split, schema="generic", selection=selection
    )
    # Of the model that is measured z is not: none of its events lies in train.
    assert measured["splits"]["items"]["rows"] == 2 and not measured["everything"]
    assert [measured["splits"][name]["events"] for name in ("train", "test")] == [5, 1]


def test_sessions_of_the_last_days_are_train_rows(tmp_path):
    # Three sessions a day apart, of two, three and one events.
    lines = ["user_id,item_id,session_id,timestamp"]
    for day, items in enumerate(("xy", "yzx", "w")):
        lines += [
            f"u{day % 2},{item},s{day},{1_600_000_000 + DAY * day + n}"
            for n, item in enumerate(items)
        ]
    split = {"name": "last_days", "days": 0.5, "valid_fraction": 0.1, "drop_repeats": False}
    report, rows = build(
        write(tmp_path / "shop", lines), tmp_path / "a", kind="sequence", split=split
    )
    assert sorted((row["session_id"], b"".join(row["item_id"])) for row in rows["train"]) == [
        (b"s0", b"xy"),
        (b"s1", b"yzx"),
        (b"s2", b"w"),
    ]
    assert report["splits"]["train"]["events"] == 6 and rows["valid"] == rows["test"] == []
    assert histories(rows) == {b"u0": [b"x", b"y", b"w"], b"u1": [b"y", b"z", b"x"]}


def test_rows_of_held_out_users_are_scored_rows_of_train(tmp_path):
    """Users held out come back with what a query knew of them; a row without a label stays out."""
    lines = ["user_id,item_id,rating,timestamp"]
    lines += [
        f"u{user},i{n},{'' if (user, n) == (3, 2) else 1 + n % 5},{10 * user + n}"
        for user in range(8)
        for n in range(6)
    ]
    split = {"name": "user_holdout", "valid_fraction": 0.25, "test_fraction": 0.25}
    report, rows = build(
        write(tmp_path / "shop", lines),
        tmp_path / "a",
        task="score",
        split=split,
        label={"column": "rating"},
    )
    assert len(rows["train"]) == report["splits"]["train"]["events"] == 8 * 6 - 1
    assert len({(row["user_id"], row["item_id"]) for row in rows["train"]}) == 47
    assert report["dropped"]["train"] == {"events without a label": 1}
    assert rows["valid"] == rows["test"] == []


def test_of_two_domains_the_held_out_users_of_the_target_train(tmp_path):
    # u0 to u9 are in both shops, with a film and a book each; "f" has a film alone, and "t" a toy.
    lines = ["user_id,item_id,timestamp,domain"]
    lines += [f"u{n},film{n % 4},{n},films" for n in range(10)]
    lines += [f"u{n},book{n % 3},{20 + n},books" for n in range(10)]
    lines += ["f,film9,40,films", "t,toy,41,toys"]
    split = {
        "name": "cross_domain",
        "source": "books",
        "target": "films",
        "test_fraction": 0.3,
        "valid_fraction": 0.2,
    }
    report, rows = build(write(tmp_path / "shops", lines), tmp_path / "a", split=split)
    assert report["splits"]["train"] == {"rows": 11, "users": 11, "events": 11, "items": 5}
    assert report["splits"]["source"]["events"] == 10
    assert report["dropped"]["source"] == {"events of other domains": 1}
    assert all(row["item_id"].startswith(b"film") for row in rows["train"])
    assert histories(rows)[b"u3"] == [b"film3"]


def artifact(kind, folder: Path, **properties):
    made = kind()
    made.uri = str(folder)
    for name, value in properties.items():
        made.set_int_custom_property(name, value)
    return [made]


def decide(folder: Path, blessed=1, answered=1):
    """What `Refit` makes of a model whose stages were best after 7 and 2 epochs."""
    log = folder / "model" / "Format-Serving" / "assets.extra" / "training.json"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({"best_epochs": {"gmf": 7, "neumf": 2}, "fingerprint": "f00d"}))
    (folder / "chosen").mkdir()
    chosen = artifact(standard_artifacts.HyperParameters, folder / "chosen")
    RefitExecutor().Do(
        {
            "model": artifact(standard_artifacts.Model, folder / "model"),
            "model_blessing": artifact(standard_artifacts.ModelBlessing, folder, blessed=blessed),
            "infra_blessing": artifact(standard_artifacts.InfraBlessing, folder, blessed=answered),
        },
        {"hyperparameters": chosen},
        {},
    )
    return chosen


def test_the_epochs_are_those_that_the_measured_training_chose(tmp_path):
    chosen = decide(tmp_path)
    (file,) = (tmp_path / "chosen").iterdir()  # TFX's Trainer takes the only file
    assert json.loads(file.read_text()) == {
        "stage_epochs": {"gmf": 7, "neumf": 2},
        "of": "f00d",
        "model": str(tmp_path / "model"),
    }
    assert not chosen[0].get_string_custom_property(SKIPPED)


@pytest.mark.parametrize(
    "outcome, reason",
    [
        ({"blessed": 0, "answered": 0}, "the gate did not bless the model"),
        ({"answered": 0}, "no server could answer from the measured model"),
    ],
)
def test_what_was_not_blessed_costs_no_training(outcome, reason, tmp_path):
    """No step reads anything: none of the files that they are told of is there."""
    chosen = decide(tmp_path, **outcome)
    assert (tmp_path / "chosen" / SKIPPED).read_text() == reason
    nowhere = tmp_path / "nowhere"
    examples, schema = standard_artifacts.Examples, standard_artifacts.Schema
    built = {"examples": artifact(examples, nowhere), "schema": artifact(schema, nowhere)}
    ExampleBuilderExecutor().Do({"events": [], "refit": chosen}, built, {})
    graph = {"transform_graph": artifact(standard_artifacts.TransformGraph, nowhere)}
    TransformExecutor().Do(built, graph, {})
    trained = {"model": artifact(standard_artifacts.Model, nowhere)}
    TrainerExecutor().Do({**built, **graph, "hyperparameters": chosen}, trained, {})
    blessing = artifact(standard_artifacts.InfraBlessing, tmp_path / "blessing")
    gate = artifact(standard_artifacts.ModelBlessing, nowhere, blessed=1)
    CanaryExecutor().Do(
        {**trained, "model_blessing": gate, "examples": built["examples"]},
        {"blessing": blessing},
        {},
    )
    assert [file.name for file in nowhere.iterdir()] == [SKIPPED]
    assert blessing[0].get_int_custom_property("blessed") == 0
    assert blessing[0].get_string_custom_property("reason") == reason
