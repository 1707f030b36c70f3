"""The train events as a log of arrays, whatever the example kind they were built as."""

import numpy as np
import pytest
import tensorflow as tf

from models.inputs.data import TrainingData


@pytest.fixture(scope="module")
def toy(toy_data):
    return toy_data("event", 0.0)


def example(user, items, **columns):
    """A serialized train row; a column that is None is missing in it."""

    def feature(value):
        values = value if isinstance(value, list) else [value]
        if isinstance(values[0], str):
            encoded = [text.encode() for text in values]
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))
        if isinstance(values[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    given = {"user_id": user, "item_id": items, **columns}
    features = {name: feature(value) for name, value in given.items() if value is not None}
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def events_of(toy, folder, rows):
    """The log that `TrainingData` makes of train rows, over the toy's users and items."""
    path = str(folder / "Split-train" / "rows.gz")
    tf.io.gfile.makedirs(str(folder / "Split-train"))
    with tf.io.TFRecordWriter(path, tf.io.TFRecordOptions("GZIP")) as writer:
        for row in rows:
            writer.write(row)
    return TrainingData(toy.graph, toy.schema, {**toy.splits, "train": path}).events


def lengths(events):
    return sorted(np.diff(events.sequences()[1]).tolist())


def test_an_event_without_a_session_leaves_the_sessions_of_all_others(toy, tmp_path):
    """4 users x 3 sessions of 4 events, one row each; two events of one session have no id.

    That is 11 sessions of 4, what is left of the twelfth, and the two together.
    """
    rows = [
        example(
            f"user {user}",
            f"item {4 * session + place} é世",
            session_id=None if (user, session, place) in {(1, 1, 0), (1, 1, 2)} else f"s{session}",
            timestamp=100 * session + place,
            row=12 * user + 4 * session + place,
        )
        for user in range(4)
        for session in range(3)
        for place in range(4)
    ]
    assert lengths(events_of(toy, tmp_path, rows)) == [2, 2] + 11 * [4]


def test_rows_that_are_sessions_and_one_without_an_id(toy, tmp_path):
    """Two sessions of user 0 and the events of user 1 that have no session: 3 sequences."""
    items = [f"item {number} é世" for number in range(3)]
    rows = [
        example("user 0", items, session_id="a", timestamp=[1, 2, 3], row=[0, 1, 2]),
        example("user 0", items[:2], session_id="b", timestamp=[4, 5], row=[3, 4]),
        example("user 1", items, timestamp=[1, 2, 3], row=[5, 6, 7]),
    ]
    assert lengths(events_of(toy, tmp_path, rows)) == [2, 3, 3]


def test_rows_of_whole_users_are_no_sessions(toy, tmp_path):
    """A user's row has a list of session ids, which parts nothing, though another has one event."""
    items = [f"item {number} é世" for number in range(3)]
    rows = [
        example("user 0", items, session_id=["a", "a", "b"], timestamp=[1, 2, 3], row=[0, 1, 2]),
        example("user 1", items[:1], session_id=["c"], timestamp=[1], row=[3]),
    ]
    events = events_of(toy, tmp_path, rows)
    assert lengths(events) == [1, 3]


def test_an_event_without_a_value_leaves_the_values_of_all_others(toy, tmp_path):
    rows = [
        example("user 0", "item 0 é世", timestamp=30, row=0, rating=2.0, label=1.0),
        example("user 0", "item 1 é世", timestamp=20, row=1, label=0.0),
        example("user 0", "item 2 é世", row=2, rating=4.0),
    ]
    events = events_of(toy, tmp_path, rows)
    # In the order of time, and the one without a time first.
    np.testing.assert_array_equal(events.row, [2, 1, 0])
    np.testing.assert_array_equal(events.timestamp, [0, 20, 30])
    np.testing.assert_array_equal(events.rating, [4.0, np.nan, 2.0])
    np.testing.assert_array_equal(events.label, [np.nan, 0.0, 1.0])
