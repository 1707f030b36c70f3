"""EMCDR: the contract on two domains, a map that is known, and no look at held-out events."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.contract.query import Query
from models.embedding.domain_vectors import graded_pairs
from models.inputs.data import Entities
from models.inputs.event_log import EventLog
from models.names import registry
from models.names.errors import DataError
from models.training.loop import TrainingLoop
from tests.models import toy
from tests.models.contract import RetrieveContract
from tests.models.served import PROTOCOLS, served

SPLIT = {"name": "cross_domain", "test_fraction": 0.2, "valid_fraction": 0.1, "seed": 1}
TOY = {
    "epochs": 40,
    "batch_size": 64,
    "learning_rate": 2e-2,
    "factors": 8,
    "map_epochs": 30,
    "map_learning_rate": 0.05,
}


@pytest.fixture(scope="module")
def two_domains(tmp_path_factory):
    """Returns a function (randomness) -> ToyData, each built once."""
    built = {}

    def get(randomness):
        if randomness not in built:
            folder = tmp_path_factory.mktemp("two-domains")
            built[randomness] = toy.build(
                folder, randomness, "event", SPLIT, write=toy.write_two_domains
            )
        return built[randomness]

    return get


class TestEMCDR(RetrieveContract):
    name = "emcdr"
    hyper_parameters = TOY

    def learner(self, trained, data):
        """The vectors are learnt of events, the map is not."""
        return type(trained.model)(trained.model.hyper_parameters, data).target

    @pytest.fixture(scope="class")
    def toy_data(self, two_domains):
        return lambda kind, randomness, **_: two_domains(randomness)

    def test_who_is_answered_by_what(self, trained):
        """Known to the target, held out of it, of the source alone, of nobody."""
        held_out = tf.io.parse_single_example(
            trained.data.queries("test")[0], {"user_id": tf.io.FixedLenFeature([], tf.string)}
        )["user_id"].numpy()
        users = ["user 0", held_out.decode(), "source user 2", "nobody"]
        answer = self.ask(trained, users, k=4)
        assert answer["strategy"].tolist() == [b"model", b"fold-in", b"fold-in", b"fallback"]
        # User n is of block n % 4, whose items are the fifteen from 15 (n % 4) on.
        for row, number in ((1, int(held_out.split()[1])), (2, 2)):
            block = {f"item {15 * (number % 4) + n} é世".encode() for n in range(15)}
            assert set(answer["item_id"][row]) <= block

    def test_a_user_of_the_other_domain_is_answered_over_both_protocols(self, trained):
        """Whom the source alone knows: by the embedded server as by the exported model."""
        expected = self.ask(trained, ["source user 2"], k=4)
        items = [item.decode() for item in expected["item_id"][0]]
        with served(trained.folder, "emcdr") as server:
            for protocol in PROTOCOLS:
                with server.client(protocol) as client:
                    found = client.recommend("source user 2", k=4)
                    nobody = client.recommend("nobody", k=4)
                assert (found.strategy, nobody.strategy) == ("fold-in", "fallback")
                assert [item for item, _ in found.items] == items
                scores = [score for _, score in found.items]
                np.testing.assert_allclose(scores, expected["score"][0], rtol=1e-4)
                assert [item for item, _ in nobody.items] != items
            server.run_examples("recommend")

    def test_nothing_of_the_held_out_in_the_target_is_read(self, trained):
        data, model = trained.data, trained.model
        spec = {"user_id": tf.io.FixedLenFeature([], tf.string)}
        queries = np.concatenate([data.queries("valid"), data.queries("test")])
        held_out = data.user_table.lookup(tf.io.parse_example(queries, spec)["user_id"]).numpy()
        # A tenth and a fifth of the 119 users whom both domains have.
        assert len(held_out) == 12 + 24
        assert not np.isin(held_out, data.events.user).any()
        assert not np.isin(held_out, model._shared).any()
        assert (held_out >= data.users.embedding_rows).all()  # they have no row in the target
        assert (model._in_source[held_out] > 0).all()
        # The map is fitted on all who are left, and reads the source's events, all of them.
        assert len(model._shared) == 119 - 36
        assert len(model.source._events) == 6 * (119 + 5)

    def test_one_version_holds_source_target_and_map(self, trained):
        stored = tf.train.load_checkpoint(f"{trained.folder}/variables/variables")
        names = " ".join(stored.get_variable_to_shape_map())
        for part in (
            *("source/users", "source/items", "source/item_bias"),
            *("target/users", "target/items", "target/item_bias"),
        ):
            assert f"_model/{part}/embeddings/" in names
        assert "_model/hidden/kernel/" in names and "_model/output_map/bias/" in names


M = np.array([[1.0, 2.0], [-1.0, 0.5]], np.float32)
SOURCE_IDS = [b"a", b"b", b"c", b"d"]
SOURCE_VECTORS = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [3.0, -1.0]], np.float32)


def entities(*ids, train_count=None):
    ids = np.array([one.encode() for one in ids], object)
    return Entities(ids, len(ids) if train_count is None else train_count, {}, {}, {})


def log(user, item, rating=None):
    zeros = np.zeros(len(user), np.int64)
    rating = np.full(len(user), np.nan) if rating is None else rating
    return EventLog(
        *(np.array(user), np.array(item), zeros, np.asarray(rating, np.float32)),
        *(np.arange(len(user)), zeros, np.full(len(user), np.nan, np.float32)),
    )


def by_hand(tmp_path, shared, **changes):
    """EMCDR where both domains have a, b, c and d, and the train of the target all but d.

    The target has e besides, in its train as little as d, and z, in it. Vectors are as above in the
    source and, where it has one, that times M in the target.
    """
    own, other = entities("a", "b", "c", "z", "d", "e", train_count=4), entities("v", "w")
    # a, b, c and z have 3, 2, 1 and 1 events there; a, b, c and d have 4, 3, 2 and 1 in the source.
    mine, others = np.array([2, 2, 2, 3, 3, 4, 5]), np.array([2, 3, 2, 2, 3, 2, 3])
    by_users = shared == "users"
    folder = tmp_path / "source"
    folder.mkdir(parents=True)
    pairs = [(one, count) for one, count in zip("abcd", (4, 3, 2, 1))]
    rows = (
        [(user, ["x"] * count) for user, count in pairs]
        if by_users
        else [("x", [item for item, count in pairs for _ in range(count)])]
    )
    with tf.io.TFRecordWriter(str(folder / "rows.gz"), "GZIP") as file:
        for user, items in rows:
            file.write(
                toy.example(
                    user_id=[user], item_id=items, row=list(range(len(items))), shared=[shared]
                )
            )
    data = SimpleNamespace(
        users=own if by_users else other,
        items=other if by_users else own,
        events=log(mine, others) if by_users else log(others, mine),
        files=lambda split: str(folder / "*"),
    )
    module = registry.load("emcdr")
    settings = {"factors": 2, "item_biases": False, "map": "linear", "map_l2": 0.0, **changes}
    model = module.Model(module.HyperParameters(**settings), data)
    side = "users" if by_users else "items"
    here, there = getattr(model.source, side), getattr(model.target, side)
    assert here.tokens.tolist() == SOURCE_IDS  # most events first
    here.set_weights([np.r_[np.full([2, 2], 9.0), SOURCE_VECTORS]])
    own_vectors = np.r_[SOURCE_VECTORS[:3] @ M, [[5.0, 5.0]]]
    there.set_weights([np.r_[np.full([2, 2], 9.0), own_vectors]])
    loop = TrainingLoop(model.hyper_parameters, data)
    model.source.trainable = model.target.trainable = False
    return model, loop


def ask(user, known):
    empty = tf.RaggedTensor.from_row_lengths(tf.constant([], tf.int64), [0] * len(user))
    return Query(tf.constant(user, tf.int64), tf.constant(known), empty)


def test_a_known_map_between_users_is_recovered(tmp_path):
    model, loop = by_hand(tmp_path, "users")
    model.learn_map(loop)
    # Three points in a plane fix M; d, who is held out, comes through it: (3, -1) M = (4, 5.5).
    np.testing.assert_allclose(model.output_map.kernel, M, atol=1e-5)
    # a (index 2) and z (5) are known to the target, d (6) to the source alone, e (7) and the
    # unknown user to neither.
    query = ask([2, 5, 6, 7, 1], [True, True, False, False, False])
    found = model.query_embedding(query).numpy()
    np.testing.assert_allclose(found[:3], [[1, 2, 1], [5, 5, 1], [4, 5.5, 1]], atol=1e-4)
    assert model.answers(query).numpy().tolist() == [True, True, True, False, False]
    assert loop.history[-1]["stage"] == "map"


def test_a_known_map_between_items_is_recovered(tmp_path):
    model, loop = by_hand(tmp_path, "items", item_biases=True)
    model.learn_map(loop)
    model.target.item_bias.set_weights([np.array([[9.0], [9.0], [0.1], [0.2], [0.3], [0.4]])])
    catalogue = model.catalogue()
    # In catalogue order a, b, c, z, the mapped d, whose bias nobody knows, and e without a vector.
    expected = np.c_[SOURCE_VECTORS[:3] @ M, [0.1, 0.2, 0.3]].tolist()
    expected += [[5, 5, 0.4], [4, 5.5, 0], [0, 0, 0]]
    np.testing.assert_allclose(catalogue, expected, atol=1e-4)
    vectors, positions = model.index(catalogue)
    assert positions.numpy().tolist() == [0, 1, 2, 3, 4] and vectors.shape == [5, 3]
    model.target.users.set_weights([np.array([[9, 9], [9, 9], [2, 0], [0, 1]], np.float32)])
    scores = model.score_items(ask([2], [True]), catalogue).numpy()[0]
    np.testing.assert_allclose(scores[3:5], [10.4, 8.0], atol=1e-4)
    assert scores[5] == -np.inf
    # Users are not mapped: one whom the target does not know gets popularity.
    assert model.answers(ask([2, 1], [True, False])).numpy().tolist() == [True, False]


def test_the_map_is_fitted_on_the_most_active(tmp_path):
    # Of a, b and c the lesser counts are 3, 2 and 1; two thirds of three are two.
    model, _ = by_hand(tmp_path, "users", active_share=0.67)
    assert model._shared.tolist() == [2, 3]


def test_the_mlp_by_hand_and_that_it_moves_no_vector(tmp_path):
    model, loop = by_hand(tmp_path, "users", map="mlp", map_epochs=40, map_learning_rate=0.1)
    loop.build(model)
    # K = 2, so 4 hidden units: x = (1, 2), W and b such that they are tanh(1), tanh(2 + .5), 0, 0.
    model.hidden.set_weights([np.eye(2, 4), np.array([0, 0.5, 0, 0])])
    model.output_map.set_weights([np.eye(4, 2) * [2.0, 3.0], np.array([0.1, -1.0])])
    found = model.mapped(tf.constant([[1.0, 2.0]]))
    # No squashing of the output: vectors are unbounded.
    np.testing.assert_allclose(found, [[2 * np.tanh(1) + 0.1, 3 * np.tanh(2.5) - 1]], rtol=1e-5)
    batch = next(iter(model.batches(None, 0, 0).dataset))
    before = float(model.compute_loss(batch))
    tables = [table.numpy() for table in model.source.weights + model.target.weights]
    model.learn_map(loop)
    assert float(model.compute_loss(batch)) < 0.1 * before
    # One step an epoch: what is told of the first is the loss before it, not a domain's.
    np.testing.assert_allclose(loop.history[0]["loss"], before, rtol=1e-4)
    after = [table.numpy() for table in model.source.weights + model.target.weights]
    for table, moved in zip(tables, after, strict=True):
        np.testing.assert_array_equal(table, moved)


@pytest.mark.parametrize(
    "changes, expected",
    [
        # u = (1, 2); x_2 = .5 + 2 = 2.5, x_3 = 1 - 2 = -1; |u|^2 = 5, |v|^2 = 1.25 and 2; l2 = .1.
        ({"objective": "bpr"}, np.log1p(np.exp(-3.5)) + 0.1 * 8.25),
        ({"objective": "bpr", "item_biases": True}, np.log1p(np.exp(-3.3)) + 0.1 * 8.25),
        ({"objective": "mf"}, (1 - 2.5) ** 2 + 1 + 0.1 * 8.25),
        # A rating of 4, and nothing else.
        ({"objective": "ratings"}, (4 - 2.5) ** 2 + 0.1 * 6.25),
    ],
)
def test_loss_by_hand(tmp_path, changes, expected):
    model, _ = by_hand(tmp_path, "users", l2=0.1, **changes)
    domain = model.target
    domain.users.set_weights([np.full(domain.users.embeddings.shape, [1.0, 2.0])])
    domain.items.set_weights([np.array([[9.0, 9.0], [9.0, 9.0], [0.5, 1.0], [1.0, -1.0]])])
    if changes.get("item_biases"):
        domain.item_bias.set_weights([np.array([[9.0], [9.0], [0.1], [0.3]])])
    items = [[2]] if changes["objective"] == "ratings" else [[2, 3]]
    inputs = {"user": tf.constant([2]), "items": tf.constant(items)}
    if changes["objective"] == "ratings":
        inputs["rating"] = tf.constant([4.0])
    np.testing.assert_allclose(domain.compute_loss(inputs), expected, rtol=1e-5)


def test_graded_pairs_are_of_two_rated_items():
    """User 2 rates items 2 to 5 with 3, 1, 3, 5; user 3 rates one, user 4 two alike."""
    events = log([2, 2, 2, 2, 3, 4, 4], [2, 3, 4, 5, 2, 2, 3], [3, 1, 3, 5, 2, 4, 4])
    columns, draw = graded_pairs(events)
    assert sorted(zip(columns["user"], columns["item"])) == [(2, 2), (2, 4), (2, 5)]
    batch = {name: tf.constant(np.repeat(column, 50)) for name, column in columns.items()}
    lesser = draw({**batch, "step_seed": tf.constant([1, 2])}).numpy()[:, 0]
    of = {item: set(lesser[np.repeat(columns["item"], 50) == item]) for item in (2, 4, 5)}
    assert of == {2: {3}, 4: {3}, 5: {2, 3, 4}}
    with pytest.raises(DataError, match="pairs: graded: required: events with ratings"):
        graded_pairs(log([2, 2], [2, 3]))


def test_data_that_cannot_be_mapped_is_refused(tmp_path):
    with pytest.raises(DataError, match="objective: ratings: required: events with a rating each"):
        by_hand(tmp_path, "users", objective="ratings")[0].target.batches(None, 0, 0)
    module = registry.load("emcdr")
    data = SimpleNamespace(files=lambda split: "")
    with pytest.raises(DataError, match="emcdr learns from two domains; .*split 'cross_domain'"):
        module.Model(module.HyperParameters(), data)
    # Nobody is left whom both trains have.
    alone = by_hand(tmp_path / "alone", "users")[0]._to_fit_on
    with pytest.raises(DataError, match="emcdr fits its map on users that train has seen in both"):
        alone(entities("a", train_count=1), log([3], [2]), log([2], [2]))
