"""What events weigh, as `positives.values` says it: from the train rows to each kind of model."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.baseline import item_knn
from models.baseline.bpr_mf import BPRMF
from models.baseline.ials import IALS
from models.embedding.domain_vectors import graded_pairs
from models.gnn.sessions import prefix_batches
from models.industry.prefixes import targets
from models.inputs.data import Entities, TrainingData
from models.inputs.event_log import EventLog
from models.inputs.profiles import shuffled_profiles
from models.inputs.sampling import shuffled_batches
from models.inputs.schema import read_schema
from models.inputs.source_domain import read_source
from models.names.label import WEIGHT
from models.rnn import sessions
from tests.models.contract import loss_and_gradients
from tests.models.toy import ToyData, example

# Two users of four and two events; an item weighs half of its index.
USER, ITEM = np.array([2, 2, 2, 2, 3, 3]), np.array([2, 3, 2, 4, 2, 5])


def log(user=USER, item=ITEM, weight=None):
    zeros, order = np.zeros(len(user)), np.arange(len(user))
    return EventLog(
        user=np.asarray(user),
        item=np.asarray(item),
        timestamp=order,
        rating=zeros,
        row=order,
        session=zeros.astype(np.int64),
        label=zeros,
        weight=None if weight is None else np.asarray(weight, np.float32),
    )


def entities(count):
    return Entities(np.array([b"%d" % n for n in range(count)], object), count, {}, {}, {})


def data_of(events, users=2, items=4):
    return SimpleNamespace(events=events, users=entities(users), items=entities(items))


def test_train_rows_tell_their_weights(toy_data, tmp_path):
    """Of the events of the toy log those of users of even numbers weigh 2."""
    toy = toy_data("sequence", 0.0)
    folder = tmp_path / "examples" / "Split-train"
    folder.mkdir(parents=True)
    for name in ("graph", "schema"):
        (tmp_path / name).symlink_to(toy.folder / name)
    for split in (toy.folder / "examples").glob("Split-*"):
        if split.name != "Split-train":
            (folder.parent / split.name).symlink_to(split)
    for file in (toy.folder / "examples" / "Split-train").iterdir():
        with tf.io.TFRecordWriter(str(folder / file.name), "GZIP") as written:
            for record in tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator():
                row = tf.train.Example.FromString(record)
                number = int(row.features.feature["user_id"].bytes_list.value[0].split()[1])
                events = len(row.features.feature["item_id"].bytes_list.value)
                weights = [1.0 + (number % 2 == 0)] * events
                row.features.feature[WEIGHT].float_list.value.extend(weights)
                written.write(row.SerializeToString())
    heavy = ToyData(tmp_path)
    data = TrainingData(heavy.graph, heavy.schema, heavy.splits)
    # The schema does not say it: the log's own column would be none of the model's.
    assert data.events.weight is None and data.item_weights is data.item_counts
    schema = read_schema(heavy.schema)
    schema.feature.add(name=WEIGHT, type=3).value_count.min = 0
    (tmp_path / "schema.pbtxt").write_text(str(schema))
    data = TrainingData(heavy.graph, str(tmp_path / "schema.pbtxt"), heavy.splits)
    even = np.array([int(one.split()[1]) % 2 == 0 for one in data.users.ids])
    np.testing.assert_array_equal(data.events.weight, 1.0 + even[data.events.user - 2])
    twice = np.repeat(data.events.item, data.events.weight.astype(int))
    np.testing.assert_array_equal(data.item_weights, np.bincount(twice - 2, minlength=60))


def test_columns_of_batches_have_weights_of_mean_one():
    """2, 1 and 1 over 4/3."""
    events = log([2, 2, 3], [2, 3, 2], [2, 1, 1])
    columns = events.columns("user", "item")
    assert list(columns) == ["user", "item", WEIGHT]
    np.testing.assert_allclose(columns[WEIGHT], [1.5, 0.75, 0.75])
    assert list(log().columns("user")) == ["user"] and log().sequence_weight is None
    np.testing.assert_array_equal(log().example_weight, np.ones(6))


def test_of_several_events_with_one_item_the_heaviest_counts():
    events = log(weight=[1, 2, 3, 0.5, 0.25, 1])
    np.testing.assert_array_equal(events.matrix(4).toarray(), [[3, 2, 0.5, 0], [0.25, 0, 0, 1]])
    np.testing.assert_array_equal(log().matrix(4).toarray(), [[1, 1, 1, 0], [1, 0, 0, 1]])


def test_cosines_of_heavy_events_by_hand():
    # x_2 = (2, 1), x_3 = (1, 0), x_4 = (0, 1): 2 / sqrt(5) and 1 / sqrt(5); 1 / sqrt(2) without.
    events = log([2, 2, 3, 3], [2, 3, 2, 4], [2, 1, 1, 1])
    pairs = events.matrix(3)
    near = item_knn.similarities(pairs, 3, 0.0).toarray()
    np.testing.assert_allclose(near[0], [0, 2 / 5**0.5, 1 / 5**0.5], rtol=1e-6)
    # How much users and items have is counted, whatever it weighs.
    of_users, of_items = item_knn.factors_of(pairs, "bm25", 1.2, 0.75)
    plain = item_knn.factors_of(log([2, 2, 3, 3], [2, 3, 2, 4]).matrix(3), "bm25", 1.2, 0.75)
    np.testing.assert_array_equal([*of_users, *of_items], np.concatenate(plain))


def test_for_ials_an_event_that_weighs_two_is_that_event_twice():
    """R = 2 for the first user's item 2: c = 1 + 2 alpha."""
    settings = IALS.HyperParameters(factors=3, alpha=2.0, l2=1.0)
    vectors = []
    for events in (
        log([2, 2, 3], [2, 3, 2], [2, 1, 1]),
        log([2, 2, 2, 3], [2, 2, 3, 2]),
        log([2, 2, 3], [2, 3, 2]),
    ):
        tf.keras.utils.set_random_seed(1)
        model = IALS(settings, data_of(events))
        model.sweep()
        vectors.append(model.item_embeddings().numpy())
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=1e-5)
    assert np.abs(vectors[0] - vectors[2]).max() > 1e-3


def test_on_a_whole_batch_a_row_that_weighs_two_is_that_row_twice():
    """Weights 2 and 1 over their mean: 4/3 and 2/3 of two rows, a third each of three."""
    data = data_of(log())
    model = BPRMF(BPRMF.HyperParameters(factors=3, l2_user=0.1, l2_bias=0.1), data)
    rows = {"user": [2, 3], "items": [[2, 5], [5, 3]]}
    weighed = {name: tf.constant(column) for name, column in rows.items()}
    twice = {name: tf.gather(column, [0, 0, 1]) for name, column in weighed.items()}
    weighed[WEIGHT] = tf.constant([4 / 3, 2 / 3])
    found = [loss_and_gradients(model, batch) for batch in (weighed, twice)]
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_a_map_of_batches_keeps_the_weights():
    columns = log(weight=ITEM / 2).columns("item")
    batches = shuffled_batches(columns, 6, seed=0).map(lambda batch: {"twice": 2 * batch["item"]})
    batch = next(batches.dataset.as_numpy_iterator())
    np.testing.assert_allclose(batch[WEIGHT], batch["twice"] / 2 / ITEM.mean(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["parallel", "windows", "backward", "prefixes"])
def test_a_target_of_a_sequence_weighs_what_its_event_does(kind):
    """Read backward, a step weighs what the later of its events does, which is then read."""
    items, starts = np.arange(2, 12), np.array([0, 4, 5, 10])
    weight = (items / 2).astype(np.float32)
    batches = {
        "parallel": lambda: sessions.parallel_batches(items, starts, 2, None, 0, weight=weight),
        "windows": lambda: sessions.window_batches(items, starts, 3, 2, 0, weight=weight),
        "backward": lambda: sessions.window_batches(items, starts, 3, 2, 0, weight=weight).map(
            sessions.backward
        ),
        "prefixes": lambda: prefix_batches(items, starts, 3, 2, 0, weight=weight),
    }[kind]()
    told = 0
    for batch in batches.dataset.take(batches.steps).as_numpy_iterator():
        valid = batch.get("valid", np.ones_like(batch["target"], bool))
        event = batch["item" if kind == "backward" else "target"]
        np.testing.assert_array_equal(batch[WEIGHT][valid], event[valid] / 2)
        told += valid.sum()
    assert told == 7  # all events but the first of each sequence


def test_first_events_weigh_what_they_do():
    """Items 3 and 4 of the first user, whose item 2 came first, and 5 of the second."""
    found = targets(log(weight=[9, 1, 9, 3, 9, 2]))
    assert found["target"].tolist() == [3, 4, 5]
    np.testing.assert_allclose(found[WEIGHT], np.array([1, 3, 2]) / 5.5, rtol=1e-6)


def test_a_profile_says_what_its_items_weigh():
    """The heavier of the first user's events with item 2 counts. Entries 3, 2, 1, 1, 1: 8 / 5."""
    events = log(weight=[1, 2, 3, 1, 1, 1])
    batch = next(iter(shuffled_profiles(data_of(events), 2, seed=0).dataset.as_numpy_iterator()))
    first = batch["user"].tolist().index(2)
    assert batch["items"][first].tolist() == [2, 3, 4]
    np.testing.assert_allclose(batch[WEIGHT][first], np.array([3, 2, 1]) / 1.6, rtol=1e-6)
    np.testing.assert_allclose(batch[WEIGHT][1 - first], np.array([1, 1, 0]) / 1.6, rtol=1e-6)


def test_pairs_of_graded_items_weigh_as_the_better_one():
    events = log([2, 2, 2], [2, 3, 4], [1, 2, 3])
    events.rating = np.array([5.0, 1.0, 3.0])
    columns, _ = graded_pairs(events)
    told = dict(zip(columns["item"].tolist(), columns[WEIGHT].tolist(), strict=True))
    assert told == {2: 0.5, 4: 1.5}  # 1 and 3 over 2; nothing is rated lower than item 3


@pytest.mark.parametrize("weights, expected", [([1.0, 0.5], [1.0, 0.5]), ([], None)])
def test_events_of_the_other_domain_weigh_too(tmp_path, weights, expected):
    row = {"user_id": ["u"], "item_id": ["x", "y"], "row": [0, 1], "shared": ["users"]}
    with tf.io.TFRecordWriter(str(tmp_path / "rows.gz"), "GZIP") as file:
        file.write(example(**row, **({WEIGHT: weights} if weights else {})))
    data = SimpleNamespace(files=lambda split: str(tmp_path / "*"))
    found = read_source(data, "emcdr").events.weight
    assert (found if found is None else found.tolist()) == expected
