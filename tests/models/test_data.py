"""The train events as a log of arrays, whatever the example kind they were built as.

And what becomes of ids that `features.min_count` leaves out.
"""

import numpy as np
import pytest
import tensorflow as tf

from models.cnn.convmf import ConvMF
from models.inputs.data import TrainingData
from models.rnn import sessions
from tests.models.score_contract import RATING


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


def data_of(toy, folder, rows):
    """The `TrainingData` of train rows, over the toy's users and items."""
    path = str(folder / "Split-train" / "rows.gz")
    tf.io.gfile.makedirs(str(folder / "Split-train"))
    with tf.io.TFRecordWriter(path, tf.io.TFRecordOptions("GZIP")) as writer:
        for row in rows:
            writer.write(row)
    return TrainingData(toy.graph, toy.schema, {**toy.splits, "train": path})


def events_of(toy, folder, rows):
    return data_of(toy, folder, rows).events


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


def test_events_of_unknown_items_are_neither_targets_nor_history(toy, tmp_path):
    """An item below `features.min_count` is not in the vocabulary, like one that nobody knows."""
    items = ["item 0 é世", "rare", "item 1 é世", "rarer", "item 2 é世"]
    data = data_of(
        toy,
        tmp_path,
        [
            example("user 0", items, session_id="a", timestamp=[1, 2, 3, 4, 5], row=[*range(5)]),
            example("user 1", "rare", timestamp=1, row=5),
        ],
    )
    events = data.events
    assert data.unknown_item_events == 3 and set(events.user) == {
        int(data.user_table.lookup(tf.constant("user 0")))
    }
    np.testing.assert_array_equal(events.row, [0, 2, 4])
    # What GRU4Rec reads: 3 events are 2 targets; the unknown one at index 1 has no score.
    batches = sessions.window_batches(*events.sequences(), length=4, batch_size=8, seed=0)
    batch = next(iter(batches.dataset))
    targets = batch["target"][batch["valid"]].numpy()
    assert len(targets) == 2 and targets.min() >= 2


@pytest.fixture(scope="module")
def rare(toy_data):
    """Ratings of which the vocabulary lacks the last 10 users and items, as `min_count` cuts it."""
    whole = TrainingData._vocabulary

    def cut(self, name):
        tokens = whole(self, name)
        return tokens[:-10] if name in ("user_id", "item_id") else tokens

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingData, "_vocabulary", cut)
        return toy_data("event", 0.0, RATING).load("convmf")


def test_reviews_of_rare_partners_are_left_out_for_the_unknown_one(rare):
    """80 of 90 users and 30 of 40 items are known; to rows of train the others are index 1."""
    for entity, owners, partners in (("user", rare.users, 30), ("item", rare.items, 80)):
        documents = rare.documents(entity, 1000)
        assert documents.partners.flat_values.numpy().max() == partners + 1
        # A document has reviews by rare partners, and none is left for a pair with one.
        owner = tf.range(2, owners.embedding_rows)
        assert (documents.partners.flat_values.numpy() == 1).sum() > 0
        left = documents.without(owner, tf.ones_like(owner), 2000).numpy()
        by_rare = tf.reduce_sum(
            tf.cast(tf.gather(documents.partners, owner) == 1, tf.int32), axis=1
        )
        lengths = documents.lengths[2 : owners.embedding_rows]
        np.testing.assert_array_equal((left > 0).sum(axis=1), lengths - by_rare.numpy())
        # Whoever is rare reads the document of nobody.
        assert documents.lengths[1] == 0


def test_convmf_has_no_factors_for_rare_ids(rare):
    model = ConvMF(ConvMF.HyperParameters(factors=4, word_dimension=4, kernels=2, units=4), rare)
    model.update_factors()
    assert model.user_factors.embeddings.shape[0] == 82
    assert np.isfinite(model.item_factors.embeddings.numpy()).all()
    log = rare.events
    both = (log.user < 82) & (log.item >= 2) & (log.item < rare.items.embedding_rows)
    assert model._by_user.counts.sum() == both.sum() < len(log)
