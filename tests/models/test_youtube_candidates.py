"""YouTube candidates: the contract, and what its paper says of it, by hand."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from components import standalone
from components.tables.schemas import schema_folder
from models.contract.query import Query
from models.industry import youtube_candidates
from models.inputs import sampling
from models.names import registry
from models.training.loop import TrainingLoop
from tests.models.contract import RetrieveContract
from tests.models.toy import ToyData

TOY = {
    "epochs": 30,
    "batch_size": 64,
    "learning_rate": 5e-3,
    "embedding_dim": 16,
    "feature_dim": 4,
    "width": 16,
    "depth": 1,
    "negatives": 200,
    "history_length": 6,
}


class TestYoutubeCandidates(RetrieveContract):
    name = "youtube_candidates"
    hyper_parameters = TOY


def make(data, **settings):
    module = registry.load("youtube_candidates")
    return module.Model(module.HyperParameters(**{**TOY, **settings}), data)


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("event", 0.0).load_once("youtube_candidates")


@pytest.fixture(scope="module")
def epochs(data):
    """Two epochs of at most four events a user, and the model: its 120 users have seven each."""
    model = make(data, examples_a_user=4)
    batches = model.batches(data, 0, 0)
    rows = [*batches.dataset.take(2 * batches.steps).as_numpy_iterator()]
    halves = rows[: batches.steps], rows[batches.steps :]
    per_row = [name for name in rows[0] if name not in ("negative", "step_seed")]
    first, second = (
        SimpleNamespace(**{name: np.concatenate([b[name] for b in half]) for name in per_row})
        for half in halves
    )
    return SimpleNamespace(model=model, batches=batches, first=first, second=second, rows=rows)


def test_the_label_is_in_the_future_of_what_was_watched(data, epochs):
    """The last six items before the event, oldest first: never it, never anything later."""
    events = data.events
    mine = {user: events.item[events.user == user].tolist() for user in set(events.user)}
    pairs = zip(epochs.first.user, epochs.first.item, epochs.first.watched, strict=True)
    for user, item, watched in pairs:
        place = mine[user].index(item)  # nobody has an item twice
        assert watched[watched > 0].tolist() == mine[user][:place][-6:]
    # First events too, of which nothing but the user's features and the age is known.
    assert 0 < (epochs.first.watched == 0).all(axis=1).sum() < len(epochs.first.item) / 2


def test_a_user_has_a_fixed_number_of_examples_and_others_each_epoch(data, epochs):
    assert epochs.batches.rows == 120 * 4 == len(epochs.first.row) == len(epochs.second.row)
    for epoch in (epochs.first, epochs.second):
        users, counts = np.unique(epoch.user, return_counts=True)
        assert len(users) == 120 and set(counts) == {4}
        assert len(set(epoch.row)) == 480  # none of them twice
    assert set(epochs.first.row) != set(epochs.second.row)
    # A training that goes on with the second epoch has the batches that were its due.
    again = next(epochs.model.batches(data, 0, 1).dataset.as_numpy_iterator())
    np.testing.assert_array_equal(again["row"], epochs.rows[epochs.batches.steps]["row"])
    np.testing.assert_array_equal(again["negative"], epochs.rows[epochs.batches.steps]["negative"])


def test_a_replica_has_all_of_its_negatives_whatever_its_rows(data):
    """Three of them; the last has fewer rows in the epoch's last batch, which has 840 - 832 = 8."""
    model = make(data, batch_size=64, negatives=10)
    model._replicas = 3
    batches = model.batches(data, 0, 0)
    (whole,) = batches.after(batches.steps - 1).dataset.take(1)
    assert whole["negative"].shape == [30]
    for number, rows in enumerate((3, 3, 2)):
        (share,) = batches.make(batches.steps - 1, sampling.Share(number, 3)).take(1)
        assert len(share["item"]) == rows
        own = whole["negative"][10 * number : 10 * number + 10]
        np.testing.assert_array_equal(share["negative"], own)


def test_users_weigh_the_same_however_many_examples_they_have():
    """Three users of one, five and two events, two of them at most: one, two and two are drawn.

    The mean of what is drawn is 5 / 3; a user's share of it is 5/3, 5/6 + 5/6 and 5/6 + 5/6.
    """
    starts = np.array([0, 1, 6, 8])
    weights = youtube_candidates.equal_weights(starts, 2)
    np.testing.assert_allclose(weights, [5 / 3] + 7 * [5 / 6])
    some = sampling.SomeOfEach(np.array([0, 0, 1, 2, 3, 4, 0, 1]), 2)
    drawn = np.array([some.draw(tf.constant([0, n], tf.int64)) for n in range(200)])
    assert some.count == 5
    for row in drawn:
        user = np.searchsorted(starts, row, side="right") - 1
        assert len(set(row)) == 5 and user.tolist() == [0, 1, 1, 2, 2]
        assert weights[row].mean() == pytest.approx(1)
    # Each of the five is one of two in five draws: 80 of 200, four standard errors are 28.
    assert np.abs(np.bincount(drawn.ravel())[1:6] - 80).max() < 28


def test_example_age_is_0_at_the_newest_event_and_falls_with_time(data, epochs):
    ages = youtube_candidates.example_age(np.array([100, 300, 150, 0, 300]))
    # The newest is 300 and the oldest 100, 200 before; 0 is no time.
    np.testing.assert_allclose(ages, [1, 0, 0.75, 0, 0])
    assert youtube_candidates.example_age(np.zeros(3, np.int64)).tolist() == [0, 0, 0]
    times = data.events.timestamp[epochs.first.row]
    order = np.argsort(times, kind="stable")
    assert (np.diff(epochs.first.age[order]) <= 0).all()
    assert (epochs.first.age[times < times.max()] > 0).all() and epochs.first.age.max() <= 1


def test_a_query_is_of_age_0(data):
    """A served vector is the one of a train row of age 0, and of no other; without age all are."""
    user, watched = np.array([2, 3]), np.array([[4, 5, 6], [7, 8, 9]])
    query = Query(tf.constant(user), tf.ones(2, tf.bool), tf.RaggedTensor.from_tensor(watched))

    def trained(model, age):
        described = model._described(user, {})
        return model._embed(tf.constant(watched), described, tf.fill([2], age)).numpy()

    told, untold = make(data), make(data, example_age=False)
    np.testing.assert_allclose(told.query_embedding(query), trained(told, 0.0), rtol=1e-5)
    assert np.abs(trained(told, 0.0) - trained(told, 1.0)).max() > 1e-3
    np.testing.assert_allclose(untold.query_embedding(query), trained(untold, 1.0), rtol=1e-5)


def test_the_loss_of_two_rows_by_hand():
    """Queries (1, 0), (0, 2); own (1, 1), (3, .5), q .5, .125; drawn (2, 0), (1, 1), q .25, .5.

    Row 1: own 1 + ln 2, drawn 2 + ln 4 and 1 + ln 2 (its own item, which stays): e^own = 2e,
    e^drawn = 4e^2 and 2e. Row 2: own 1 + ln 8, drawn 0 + ln 4 and 2 + ln 2: 8e; 4 and 2e^2.
    """
    rows = youtube_candidates.corrected_softmax(
        tf.constant([[1.0, 0.0], [0.0, 2.0]]),
        tf.constant([[1.0, 1.0], [3.0, 0.5]]),
        tf.constant([[2.0, 0.0], [1.0, 1.0]]),
        tf.math.log([0.5, 0.125]),
        tf.math.log([0.25, 0.5]),
    )
    e = np.e
    expected = [
        -np.log(2 * e / (4 * e + 4 * e**2)),
        -np.log(8 * e / (8 * e + 4 + 2 * e**2)),
    ]
    np.testing.assert_allclose(rows, expected, rtol=1e-5)


@pytest.mark.parametrize("corrected", [True, False])
def test_the_true_log_probabilities_are_stationary(corrected):
    """Over all labels (P) and all pairs of draws (q) the gradient at s = log P is 0.

    Without log q it is not.
    """
    p, q = np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.3, 0.1])
    label, first, second = (grid.ravel() for grid in np.meshgrid(*3 * [range(3)], indexing="ij"))
    log_q = tf.constant(np.log(q) if corrected else np.zeros(3), tf.float32)
    score = tf.constant(np.log(p), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(score)
        losses = [
            youtube_candidates.corrected_softmax(
                tf.ones([1, 1]),
                tf.gather(score, [own])[:, tf.newaxis],
                tf.gather(score, drawn)[:, tf.newaxis],
                tf.gather(log_q, [own]),
                tf.gather(log_q, drawn),
            )[0]
            for own, drawn in zip(label, np.stack([first, second], axis=1), strict=True)
        ]
        loss = tf.reduce_sum(tf.stack(losses) * (p[label] * q[first] * q[second]).astype("f"))
    gradient = np.abs(tf.convert_to_tensor(tape.gradient(loss, score))).max()
    assert gradient < 1e-6 if corrected else gradient > 0.05


def test_negatives_are_drawn_as_often_as_items_are_watched(data, epochs):
    drawn = np.concatenate([batch["negative"] for batch in epochs.rows])
    share = data.item_counts / data.item_counts.sum()
    found = np.bincount(drawn - 2, minlength=len(share)) / len(drawn)
    assert np.abs(found - share).max() < 5 * (share.max() / len(drawn)) ** 0.5
    np.testing.assert_allclose(epochs.model._log_share[2:], np.log(share), rtol=1e-5)
    assert all(len(batch["negative"]) == 200 for batch in epochs.rows)


def test_watched_items_and_classes_are_tables_of_their_own(data, epochs):
    model = epochs.model
    with tf.GradientTape() as tape:
        loss = model.compute_loss(epochs.rows[0], training=True)
    tables = model.watched.embeddings, model.classes.embeddings
    gradients = tape.gradient(loss, tables)
    assert tables[0] is not tables[1]
    watched, classes = (set(np.asarray(gradient.indices)) for gradient in gradients)
    batch = epochs.rows[0]
    assert watched == {*batch["watched"].ravel()}
    assert classes == {*batch["item"], *batch["negative"]}


@pytest.mark.parametrize("depth, units", [(0, [8]), (1, [8]), (2, [16, 8]), (3, [32, 16, 8])])
def test_each_layer_is_half_as_wide_as_the_one_below(data, depth, units):
    model = make(data, depth=depth, width=8)
    query = Query(tf.constant([2]), tf.constant([True]), tf.ragged.constant([[4]], tf.int64))
    vector = model.query_embedding(query).numpy()
    dense = [part for part in model.tower.submodules if isinstance(part, tf.keras.layers.Dense)]
    dense = dense or [model.tower]
    assert sorted((layer.units for layer in dense), reverse=True) == units
    # 16 of watched items, 4 of each of the two features of the users, age.
    assert max(dense, key=lambda layer: layer.units).kernel.shape[0] == 16 + 2 * 4 + 1
    # Rectified, but for depth 0.
    assert (vector >= 0).all() == (depth > 0)


def test_a_bag_is_the_mean_of_what_is_known():
    """Rows 2 and 3 hold 2 and 3: (2 + 2 + 3) / 3; missing and unknown values are none."""
    bag = youtube_candidates.Bag([b"a", b"b"], 4, 2, "bag")
    bag.build([None])
    bag.embeddings.assign([[9, 9], [9, 9], [2, 2], [3, 3]])
    found = bag(tf.constant([[0, 2, 2, 1, 3], [0, 0, 1, 0, 0]]))
    np.testing.assert_allclose(found, [[7 / 3, 7 / 3], [0, 0]], rtol=1e-6)


EVENTS = """\
user_id,item_id,timestamp,device,query
u,a,100,phone,red shoes
u,b,200,phone,blue shoes
u,c,300,desk,
u,d,400,desk,red hats
v,b,150,desk,hats
v,d,250,,red
v,c,350,phone,shoes
v,a,450,desk,red red shoes
w,c,460,desk,hats
"""
QUERY = """
feature {
  name: "query"
  type: BYTES
  natural_language_domain {}
}
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The data of a log whose events came of a search, on a device."""
    folder = tmp_path_factory.mktemp("searched")
    shutil.copytree(schema_folder("generic"), folder / "curated")
    with (folder / "curated" / "events.pbtxt").open("a") as schema:
        schema.write(QUERY)
    (folder / "source").mkdir()
    (folder / "source" / "events.csv").write_text(EVENTS)
    carries = registry.load("youtube_candidates").Model.carries(["device", "query"])
    tables, toy = str(folder / "tables"), ToyData(folder)
    standalone.read_tables(str(folder / "source"), output=tables)
    standalone.build_examples(tables, str(folder), schema=str(folder / "curated"), carries=carries)
    standalone.transform(str(folder / "examples"), toy.schema, toy.graph, {"text": ["query"]})
    return toy.load("youtube_candidates")


def test_a_request_tells_its_search(searched):
    data = searched
    assert {field.name: field.kind for field in data.context} == {
        "device": "categorical",
        "query": "text",
    }
    model = make(data, search_length=2)
    batch = next(model.batches(data, 0, 0).dataset.as_numpy_iterator())
    tokens = ["", "", *(token.decode() for token in model.bags["query"].tokens)]
    items = ["", "", *(item.decode() for item in data.items.ids)]
    users = ["", "", *(user.decode() for user in data.users.ids)]
    found = {
        (users[user], items[item]): [tokens[word] for word in words if word]
        for user, item, words in zip(
            batch["user"], batch["item"], batch["context/query"], strict=True
        )
    }
    # Leave-one-out keeps the last but two of u and v, and w's one event; each has its own search.
    assert found == {
        ("u", "a"): ["red", "shoes"],
        ("u", "b"): ["blue", "shoes"],
        ("v", "b"): ["hats"],
        ("v", "d"): ["red"],
        ("w", "c"): ["hats"],
    }
    assert np.isfinite(model.compute_loss(batch))

    def query(words, device=0):
        index = {"query": tf.ragged.constant([words], tf.int64), "device": tf.constant([device])}
        empty = tf.ragged.constant([[]], tf.int64)
        return Query(tf.constant([1], tf.int64), tf.constant([False]), empty, context=index)

    red, shoes = tokens.index("red"), tokens.index("shoes")
    # A bag: order says nothing, and the last two words are read.
    vectors = [
        model.query_embedding(query(words)).numpy()
        for words in ([red, shoes], [shoes, red], [red, red, shoes], [red, red])
    ]
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=1e-5)
    np.testing.assert_allclose(vectors[2], vectors[0], rtol=1e-5)
    assert np.abs(vectors[3] - vectors[0]).max() > 1e-4
    # Who says nothing, or nothing that is known, gets popularity; a search is enough to answer.
    asked = [query([]), query([1]), query([red]), query([], device=2)]
    assert [bool(model.answers(one)[0]) for one in asked] == [False, False, True, True]


def test_a_user_without_history_is_answered_by_features(data):
    model = make(data)
    user = data.user_table.lookup(tf.constant(["user 1", "nobody"]))
    empty = tf.ragged.constant([[], []], tf.int64)
    assert model.answers(Query(user, tf.constant([True, False]), empty)).numpy().tolist() == [
        True,
        False,
    ]


def test_xla_and_lazy_adam_step_as_plain_adam_does(data):
    """One step of all rows from equal weights: the first of a lazy Adam is that of Adam."""
    ends = []
    for option in ({}, {"jit_compile": True}, {"lazy_adam": True}):
        settings = {**TOY, **option, "epochs": 1, "batch_size": 10_000}
        tf.keras.utils.set_random_seed(1)
        model = make(data, **settings)
        model.learn(TrainingLoop(model.hyper_parameters, data, seed=1))
        ends.append([variable.numpy() for variable in model.trainable_variables])
    for other in ends[1:]:
        for found, expected in zip(other, ends[0], strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-4)


def test_mixed_precision_computes_the_loss_in_half(data, epochs):
    """Half a per cent is what three digits of bfloat16 leave of a mean over 64 rows."""
    tf.keras.utils.set_random_seed(1)
    whole = make(data).compute_loss(epochs.rows[0])
    try:
        tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
        tf.keras.utils.set_random_seed(1)
        model = make(data)
        half = model.compute_loss(epochs.rows[0])
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    assert half.dtype == tf.float32 and model.watched.compute_dtype == "bfloat16"
    assert float(half) != float(whole) and float(half) == pytest.approx(float(whole), rel=5e-3)
