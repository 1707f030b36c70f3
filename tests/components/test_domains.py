"""The split of two domains, on logs small enough to know the answer."""

import json

import numpy as np
import pyarrow as pa
import pytest

from components import standalone
from components.build.config import SplitConfig
from components.build.splits import (
    SOURCE,
    TEST,
    TRAIN,
    UNUSED,
    VALID,
    gather_facts,
    make_log,
    merge_facts,
)
from components.tables import artifacts
from models.names.errors import ConfigError, DataError
from tests.components.test_splits import table

# Ten users in both shops, u0 to u9, with two films and one book each; one more in each; and a toy.
EVENTS = [
    *[(f"u{n}", f"film{n % 4}", n, "films") for n in range(10)],
    *[(f"u{n}", f"book{n % 3}", 20 + n, "books") for n in range(10)],
    *[(f"u{n}", f"film{4 + n % 4}", 40 + n, "films") for n in range(10)],
    ("only films", "film0", 60, "films"),
    ("only books", "book0", 61, "books"),
    ("u0", "toy", 62, "toys"),
]
FILMS = {"name": "cross_domain", "source": "books", "target": "films"}


def log_of(events, **config):
    config = SplitConfig.parse({**FILMS, **config})
    domain = pa.array([event[3].encode() for event in events], pa.large_binary())
    source = table([event[:3] for event in events], domain=domain)
    facts = merge_facts(
        [gather_facts(source.slice(0, 15), config), gather_facts(source.slice(15), config)]
    )
    return make_log(source, config, facts), facts.domains.counts(config)


def parts(log, of="user_id"):
    """(user or item, domain) -> the parts that its events are in."""
    found = {}
    for one, domain, part in zip(log.column(of), log.column("domain"), log.split, strict=True):
        found.setdefault((one.decode(), domain.decode()), set()).add(int(part))
    return found


def test_all_that_the_target_has_of_a_share_of_the_shared_users_is_held_out():
    log, counts = log_of(EVENTS, test_fraction=0.3, valid_fraction=0.2)
    found = parts(log)
    films = {user: found[user, "films"] for user, domain in found if domain == "films"}
    # A user is whole on one side: 3 of the 10 are test, 2 validation, the other 5 train.
    sides = [films[f"u{n}"] for n in range(10)]
    assert [sides.count({part}) for part in (TRAIN, VALID, TEST)] == [5, 2, 3]
    assert films["only films"] == {TRAIN}
    # The source is learnt from, whoever is held out; a third domain is not.
    books = [parts for (_, domain), parts in found.items() if domain == "books"]
    assert len(books) == 11 and all(part == {SOURCE} for part in books)
    assert found["u0", "toys"] == {UNUSED}
    assert counts == {
        "source": "books",
        "target": "films",
        "shared": "users",
        "in both": 10,
        "held out for valid": 2,
        "held out for test": 3,
    }
    again, _ = log_of(EVENTS, test_fraction=0.3, valid_fraction=0.2, seed=43)
    assert parts(again) != found


def test_all_that_the_target_has_of_a_share_of_the_shared_items_is_held_out():
    # Ten films are lent and sold, each to two people in either; one is sold alone, one lent alone.
    events = [
        (f"{person} {domain}", f"f{n}", n, domain)
        for n in range(10)
        for domain in ("books", "films")
        for person in ("a", "b")
    ]
    events += [("a films", "new", 11, "films"), ("a books", "old", 12, "books")]
    log, counts = log_of(events, shared="items", test_fraction=0.2, valid_fraction=0.1)
    found = parts(log, "item_id")
    sides = [found[f"f{n}", "films"] for n in range(10)]
    assert [sides.count({part}) for part in (TRAIN, VALID, TEST)] == [7, 1, 2]
    assert found["new", "films"] == {TRAIN} and found["old", "books"] == {SOURCE}
    assert counts["in both"] == 10 and counts["held out for test"] == 2


def test_domains_that_are_numbers():
    log, _ = log_of(EVENTS)
    numbers = pa.array(
        [{"books": 1, "films": 2, "toys": None}[event[3]] for event in EVENTS], pa.int64()
    )
    config = SplitConfig.parse({**FILMS, "source": "1", "target": "2"})
    source = table([event[:3] for event in EVENTS], domain=numbers)
    found = make_log(source, config, gather_facts(source, config))
    np.testing.assert_array_equal(found.split, log.split)


def test_a_source_that_is_the_target_is_refused():
    with pytest.raises(ConfigError, match="must be two domains; received 'films'"):
        SplitConfig.parse({**FILMS, "source": "films"})


def write(folder, events, items=None):
    folder.mkdir()
    lines = [f"{user},{item},{time},{domain}" for user, item, time, domain in events]
    (folder / "events.csv").write_text("user_id,item_id,timestamp,domain\n" + "\n".join(lines))
    if items:
        (folder / "items.csv").write_text("item_id,color,domain\n" + "\n".join(items))
    standalone.read_tables(str(folder), output=str(folder / "tables"))
    return folder / "tables"


def build(tables, output, **config):
    split = {**FILMS, "test_fraction": 0.3, "valid_fraction": 0.2, **config}
    rows_a_shard = split.pop("rows_a_shard", 1000)
    return standalone.build_examples(
        str(tables), str(output), split=split, schema="generic", rows_a_shard=rows_a_shard
    )


def rows_of(output, split):
    report = json.loads((output / "examples" / "report.json").read_text())
    table = artifacts.read_split(str(output / "examples"), split, report["columns"][split])
    return sorted(table.to_pylist(), key=str)


def test_what_is_built_is_the_target_and_the_source_stands_beside_it(tmp_path):
    tables = write(tmp_path / "films", EVENTS)
    report = build(tables, tmp_path / "one")
    assert report["domains"]["in both"] == 10
    assert report["dropped"]["source"] == {"events of other domains": 1}
    # 21 films, of which 3 users' two are test and 2 users' two validation; 11 books.
    assert [report["splits"][name]["events"] for name in ("train", "valid", "test", "source")] == [
        11,
        4,
        6,
        11,
    ]
    assert [report["splits"][name]["rows"] for name in ("train", "valid", "test", "source")] == [
        11,
        2,
        3,
        11,
    ]
    train, test = rows_of(tmp_path / "one", "train"), rows_of(tmp_path / "one", "test")
    assert "domain" not in train[0]
    # Nothing of those held out is in train, and a query knows nothing that the target has of them.
    held_out = {row["user_id"] for row in test}
    assert not held_out & {row["user_id"] for row in train}
    assert all(not row["history"] and len(row["targets"]) == 2 for row in test)
    source = {row["user_id"]: row for row in rows_of(tmp_path / "one", "source")}
    assert held_out < set(source) and source[b"only books"]["item_id"] == [b"book0"]
    assert {row["shared"] for row in source.values()} == {b"users"}
    # No book belongs to the catalogue or to what a user has seen in it; everybody is a user.
    assert {row["item_id"][:4] for row in rows_of(tmp_path / "one", "items")} == {b"film"}
    users = {row["user_id"]: row["history"] for row in rows_of(tmp_path / "one", "users")}
    assert len(users) == 12 and users[b"only books"] == []
    assert users[b"u1"] == [b"film1", b"film5"]
    build(tables, tmp_path / "many", rows_a_shard=4)
    for split in ("train", "valid", "test", "items", "users", "source"):
        assert rows_of(tmp_path / "one", split) == rows_of(tmp_path / "many", split), split


def test_the_catalogue_where_items_are_shared(tmp_path):
    events = [
        (f"{person}{domain}", f"f{n}", n, domain)
        for n in range(10)
        for domain in ("books", "films")
        for person in "ab"
    ]
    events += [("afilms", "new", 11, "films"), ("abooks", "old", 12, "books")]
    tables = write(tmp_path / "no table", events)
    build(tables, tmp_path / "without", shared="items")
    # Those held out belong to it though train has no event of them.
    own = {f"f{n}".encode() for n in range(10)} | {b"new"}
    train = {row["item_id"] for row in rows_of(tmp_path / "without", "train")}
    items = {row["item_id"] for row in rows_of(tmp_path / "without", "items")}
    assert items == own and len(own - train) == 5
    # A table adds what it describes, but for what only the source has had events of.
    described = ["f0,red,", "old,red,", "rare,blue,"]
    tables = write(tmp_path / "a table", events, described)
    build(tables, tmp_path / "with", shared="items")
    assert {row["item_id"] for row in rows_of(tmp_path / "with", "items")} == own | {b"rare"}
    # And its own column `domain` says which of them the target offers.
    named = ["f0,red,films", "old,red,films", "rare,blue,books"]
    tables = write(tmp_path / "named", events, named)
    build(tables, tmp_path / "says", shared="items")
    assert {row["item_id"] for row in rows_of(tmp_path / "says", "items")} == own | {b"old"}


@pytest.mark.parametrize(
    "config, message",
    [
        (
            {"source": "records"},
            r"split.source: .*received 'records', and the column has books, films, toys",
        ),
        ({"target": "records"}, r"split.target: .*received 'records'"),
        ({"shared": "items"}, r"items that have the same id .*say split.shared: users"),
    ],
)
def test_a_log_that_has_not_what_the_split_wants(tmp_path, config, message):
    tables = write(tmp_path / "films", EVENTS)
    with pytest.raises(DataError, match=message):
        build(tables, tmp_path / "built", **config)


def test_a_log_without_domains(tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "events.csv").write_text("user_id,item_id,timestamp\na,b,1\n")
    standalone.read_tables(str(folder), output=str(folder / "tables"))
    with pytest.raises(DataError, match="lacks the column 'domain', required by the split 'cross_"):
        build(folder / "tables", tmp_path / "built")
