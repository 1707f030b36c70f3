"""Lists in the build: their names, whole in the splits, graded labels."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from components.build import groups, labels, rows
from components.build.config import POINT_IN_TIME, BuildConfig
from components.build.splits import TEST, TRAIN, UNUSED, VALID
from models.names.errors import DataError
from models.names.label import GROUP, LABEL, Label
from tests.components.test_splits import log_of

# Of two users: who, what, when, in which search, what came of it.
EVENTS = [
    ("a", "x", 1, "s1", "impression"),
    ("a", "y", 1, "s1", "impression"),
    ("a", "y", 2, "s1", "click"),
    ("a", "y", 3, "s1", "booking"),
    ("a", "x", 9, "s2", "contact"),
    ("a", "x", 10, "s2", "rejection"),
    ("b", "x", 4, "s1", "click"),
    ("b", "z", 5, None, "wishlist"),
    ("b", "z", 6, None, "click"),
]
GRADES = {"booking": 1, "contact": 0.25, "click": 0.01, "impression": 0, "rejection": -0.4}
LABEL_OF = Label(column="event_type", grades=GRADES, group="search")


def searches():
    """The log, every event in train."""
    log, _ = log_of([event[:3] for event in EVENTS], name="ratio")
    for name, place in {"search": 3, "event_type": 4}.items():
        values = [event[place] and event[place].encode() for event in EVENTS]
        log = replace(log, table=log.table.append_column(name, pa.array(values, pa.large_binary())))
    return replace(log, split=np.zeros(9, np.int8))


def test_groups_are_a_users_and_who_has_none_is_alone():
    log = searches()
    numbered = groups.numbered(log, "search")
    same = numbered[:, np.newaxis] == numbered
    expected = np.zeros((9, 9), bool)
    for group in ([0, 1, 2, 3], [4, 5], [6], [7], [8]):
        expected[np.ix_(group, group)] = True
    np.testing.assert_array_equal(same, expected)
    assert groups.starts(log, "search").tolist() == [0, 0, 0, 0, 4, 4, 6, 7, 8]
    assert groups.starts(log, None).tolist() == list(range(9))
    with pytest.raises(DataError, match="label.group: 'price' holds float; required: ids"):
        price = log.table.append_column("price", pa.array([1.0] * 9, pa.float32()))
        groups.names(replace(log, table=price), "price")
    number = log.table.append_column("page", pa.array([12] * 8 + [None], pa.int64()))
    named = groups.names(replace(log, table=number), "page")
    assert named.tolist() == [b"12"] * 8 + [b"\0row 8"]


def test_a_list_is_in_the_split_of_its_last_event():
    log = searches()
    log.split = np.array([TEST, TRAIN, TRAIN, VALID, TRAIN, TEST, TRAIN, VALID, TRAIN], np.int8)
    whole = groups.whole(log, "search").split.tolist()
    assert whole == [VALID] * 4 + [TEST] * 2 + [TRAIN, VALID, TRAIN]
    assert groups.whole(log, None).split is log.split


def test_the_grade_farthest_from_nothing_stands_for_an_item_of_a_list():
    """In s1 y was booked, in s2 x refused; a wish has no grade, and so no label."""
    log, counts = labels.with_label(searches(), LABEL_OF)
    made = log.table.column(LABEL).to_pylist()
    expected = [0, None, None, 1, None, -0.4, 0.01, None, 0.01]
    assert made == [None if one is None else pytest.approx(one) for one in expected]
    unlabelled = [number for number, one in enumerate(expected) if one is None]
    assert np.flatnonzero(log.split == UNUSED).tolist() == unlabelled
    assert counts["splits"]["train"]["missing"] == 4
    assert log.table.column(GROUP).to_pylist()[:4] == [b"s1"] * 4
    assert "search" not in log.table.column_names and "event_type" in log.table.column_names
    every, _ = labels.with_label(searches(), Label(column="event_type", grades=GRADES))
    assert every.table.column(LABEL).null_count == 1
    with pytest.raises(DataError, match="'timestamp' holds int; required with label.grades: names"):
        labels.with_label(searches(), Label(column="timestamp", grades=GRADES))


def test_a_row_carries_what_its_user_did_before_its_list():
    """Nothing of s1 is known in s1, whatever came of it there; and b knows nothing of a."""
    log = searches()
    build = BuildConfig(task="score", kind="event", history=("event_types",), row_history=2)
    mask = np.array([0, 0, 0, 1, 1, 1, 1, 0, 1], bool)
    table = log.table.filter(pa.array(mask)).select(["item_id"])
    made = rows.with_histories(table, log, mask, build, groups.starts(log, "search")).to_pydict()
    s2 = [b"y", b"y"]  # the last two of four events
    assert made["history"] == [[], s2, s2, [], [b"x", b"z"]]
    kinds = [b"click", b"booking"]
    assert made["event_types"] == [[], kinds, kinds, [], [b"click", b"wishlist"]]
    # Without lists, before the event itself.
    alone = rows.with_histories(table, log, mask, build, groups.starts(log, None)).to_pydict()
    assert alone["history"][:2] == [[b"y", b"y"], [b"y", b"y"]]
    assert alone["event_types"][:2] == [[b"impression", b"click"], [b"click", b"booking"]]


def test_what_came_of_a_list_is_not_told_in_it():
    """The booking of y in s1 came after its click there; in s2, from 9 on, s1 has passed."""
    log = searches()
    told = rows.with_point_in_time(log, [*POINT_IN_TIME], groups.starts(log, "search"))
    found = [tuple(row[name] for name in POINT_IN_TIME) for row in told.table.to_pylist()]
    assert found[:4] == [(0, 0, None, None)] * 4
    # x at 9 and 10, both of s2: four events before, the last at 3; one of them with x, at 1.
    assert found[4:6] == [(4, 1, 6, 8)] * 2
    assert found[6:] == [(0, 0, None, None), (1, 0, 1, None), (2, 1, 1, 1)]
