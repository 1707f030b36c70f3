"""Rows and different values of a table: exactly where few, within the stated error otherwise."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.read import counts
from components.read.counts import Distinct
from components.read.layouts import detection

KEPT = 1024


def column(*values):
    return pa.array(values, pa.large_binary())


def plan(folder, table="events"):
    return next(one for one in detection.plan(str(folder)) if one.table == table)


def write(folder, rows, header="user_id,item_id"):
    (folder / "events.csv").write_text("\n".join([header, *rows]) + "\n")
    return plan(folder)


def test_few_values_are_counted_exactly_and_by_how_often_they_are_there():
    distinct = Distinct(KEPT)
    distinct.add(column(b"a", b"b", b"a", None, b""))
    distinct.add(column(b"c", b"b"))
    # a twice, b twice, c once; nothing is no value.
    assert [distinct.count(least) for least in (1, 2, 3)] == [3, 2, 0]
    distinct.add(column(b"a longer one", b"a"))
    assert distinct.length == (1 + 1 + 1 + 12) / 4  # of what is different, however often


def test_many_values_are_told_within_the_error_of_their_smallest_hashes():
    distinct, number = Distinct(KEPT), 50_000
    for start in range(0, number, 7_000):
        names = [b"item %d" % one for one in range(start, min(start + 7_000, number))]
        distinct.add(column(*names))
    distinct.add(column(*(b"item %d" % one for one in range(0, number, 2))))  # every second again
    # Standard errors: 1 / sqrt(1022) = 3.1 % of all; of a half that is itself counted among 1,024
    # hashes, 1 / sqrt(1024) = 3.1 % more. Three of them.
    assert distinct.count() == pytest.approx(number, rel=0.094)
    assert distinct.count(2) == pytest.approx(number / 2, rel=0.133)
    assert pytest.approx(1 / 65_534**0.5) == counts.ERROR  # .4 % of what is kept by default


def test_rows_are_known_without_reading(tmp_path):
    rows = [f"user {number:06},item {number % 10}" for number in range(100_000)]  # 19 bytes each
    # 1.9 MB, of which 1 MiB is looked at: off by the header alone.
    assert counts.rows_of(write(tmp_path, rows)) == pytest.approx(100_000, abs=5)
    assert counts.rows_of(plan(tmp_path, "users")) == 0
    (tmp_path / "events.csv").unlink()
    table = pa.table({"user_id": ["a", "b", "a"], "item_id": ["x", "y", "z"]})
    pq.write_table(table, tmp_path / "events.parquet")
    assert counts.rows_of(plan(tmp_path)) == 3


def test_a_whole_log_is_counted_by_those_rows_that_count(tmp_path):
    rows = ["a,x,view", "a,y,buy", "b,x,buy", "b,,buy"]  # the last has no item: it is rejected
    source = write(tmp_path, rows, "user_id,item_id,event_type")

    def bought(table):
        return table.filter(pa.compute.equal(table.column("event_type"), b"buy"))

    wanted = {"user_id": 1, "item_id": 1}
    everything = counts.count(source, wanted)
    assert (everything.rows, everything.read) == (3, 1.0)
    assert everything.distinct == {"user_id": 2, "item_id": 2}
    often = counts.count(source, {"user_id": 2, "item_id": 2})
    # a has two events that are read, b one.
    assert often.distinct == {"user_id": 1, "item_id": 1}
    assert often.every == {"user_id": 2, "item_id": 2}
    assert often.length == {"user_id": 1, "item_id": 1}
    chosen = counts.count(source, wanted, bought)
    assert (chosen.rows, chosen.distinct) == (2, {"user_id": 2, "item_id": 2})


def test_the_rest_of_a_log_too_large_to_read_is_taken_to_be_like_its_second_half(tmp_path):
    # 20 bytes a row, every event of a user of its own, ten items: of 2 MB a fifth is read.
    rows = [f"user {number:07},item {number % 10}" for number in range(100_000)]
    found = counts.count(
        write(tmp_path, rows), {"user_id": 1, "item_id": 1}, most_bytes=400_000, block_bytes=50_000
    )
    assert found.read == pytest.approx(0.2, abs=0.03)
    assert found.rows == pytest.approx(100_000, rel=0.001)
    # Users grow as the rows do (power 1), items not at all (power 0).
    assert found.distinct["user_id"] == pytest.approx(100_000, rel=0.01)
    assert found.distinct["item_id"] == 10
    assert found.every == found.distinct
    # "user 0012345", and "item 3"; of the sample that is kept each has its own length.
    assert found.length == {"user_id": 12, "item_id": 6}


def test_the_rest_of_a_large_parquet_file_is_taken_to_be_like_its_second_half(tmp_path):
    rows = 1_000
    table = {"user_id": [f"u{row}" for row in range(rows)], "item_id": ["a", "b"] * (rows // 2)}
    pq.write_table(pa.table(table), tmp_path / "events.parquet", row_group_size=100)
    found = counts.count(plan(tmp_path), {"user_id": 1, "item_id": 1}, most_rows=400)
    # Four row groups of ten: 400 users of 400 rows, 200 of the first 200, so 1,000 of 1,000.
    assert (found.read, found.rows) == (0.4, 1_000)
    assert found.distinct == {"user_id": 1_000, "item_id": 2}


def test_words_and_members_of_lists_are_values(tmp_path):
    (tmp_path / "toy.inter").write_text("user_id:token\titem_id:token\na\tx\n")
    (tmp_path / "toy.item").write_text(
        "item_id:token\tmovie_title:token_seq\tclass:token_seq\n"
        "x\tThe Red one!\tDrama Comedy\ny\tthe blue one\tDrama\n"
    )
    items = detection.plan(str(tmp_path), "recbole", {"schema": {"items": {"title": "text"}}})[1]
    found = counts.count(items, {"title": 1, "genres": 1})
    # the, red, one, blue; Drama, Comedy.
    assert found.distinct == {"title": 4, "genres": 2}
