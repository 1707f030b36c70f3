"""RIB: the contract, and what its paper says of it, by hand."""

import numpy as np
import pytest
import tensorflow as tf

from models.contract.query import Query
from models.industry import rib
from models.industry.prefixes import Prefixes, first_events
from models.inputs.event_log import EventLog
from models.inputs.preprocessing import FIRST_TOKEN
from tests.models.contract import RetrieveContract
from tests.models.served import PROTOCOLS, served

TOY = {
    "epochs": 5,
    "batch_size": 32,
    "learning_rate": 3e-3,
    "embedding_dim": 16,
    "units": 24,
    "attention_units": 16,
    "vector_epochs": 10,
    "vector_batch_size": 256,
}


class TestRIB(RetrieveContract):
    name = "rib"
    hyper_parameters = TOY

    def test_attend_says_what_each_event_weighs(self, trained):
        """Padding and unknown items weigh nothing, and change nothing; the rest adds up to 1."""
        attend = trained.signatures["attend"]

        def weights(rows, dwell):
            told = {"event_types": tf.fill(tf.shape(rows), "view"), "dwell": tf.constant(dwell)}
            return attend(history=tf.constant(rows), **told)["weight"].numpy()

        rows = [["item 3 é世", "no such item", "item 20 é世"], ["item 4 é世", "", ""], [""] * 3]
        found = weights(rows, [[5.0, 1.0, 0.0], [0.0] * 3, [0.0] * 3])
        assert (found[0] > 0).tolist() == [True, False, True]
        np.testing.assert_allclose(found.sum(axis=1), [1, 1, 0], rtol=1e-5)
        np.testing.assert_array_equal(found[1:, 1:], 0)
        alone = weights([["item 3 é世", "item 20 é世"]], [[5.0, 0.0]])
        np.testing.assert_allclose(alone[0], found[0, [0, 2]], rtol=1e-5)
        # It is what carried any answer: of an item, what its events have together.
        rows = [["item 3 é世", "item 20 é世", "item 3 é世"]]
        found = weights(rows, [[5.0, 0.0, 1.0]])[0]
        why = trained.retriever.explain(
            user_id=tf.constant(["nobody"]),
            history=tf.constant(rows),
            item_id=tf.constant([["item 1 é世", "item 9 é世"]]),
            reasons=tf.constant([2]),
            event_types=tf.fill([1, 3], "view"),
            dwell=tf.constant([[5.0, 0.0, 1.0]]),
        )
        both = dict(zip(why["reason"][0, 0].numpy(), why["weight"][0, 0].numpy(), strict=True))
        expected = {"item 3 é世": found[0] + found[2], "item 20 é世": found[1]}
        for item, weight in expected.items():
            np.testing.assert_allclose(both[item.encode()], weight, rtol=1e-5)
        np.testing.assert_array_equal(why["weight"][0, 1], why["weight"][0, 0])

    def test_only_the_latest_events_are_read(self, trained):
        length = trained.model.hyper_parameters.history_length
        history = [[f"item {number % 60} é世" for number in range(length + 3)]]
        shape = [1, length + 3]
        found = trained.signatures["attend"](
            history=tf.constant(history), event_types=tf.fill(shape, ""), dwell=tf.zeros(shape)
        )["weight"].numpy()[0]
        assert (found[:3] == 0).all() and (found[3:] > 0).all()

    def test_how_long_an_item_was_looked_at_matters(self, trained):
        def embedding(dwell):
            return trained.signatures["embed_events"](
                user_id=tf.constant(["nobody"]),
                history=tf.constant([["item 3 é世", "item 20 é世"]]),
                event_types=tf.constant([["", ""]]),
                dwell=tf.constant([dwell]),
            )["embedding"].numpy()

        assert not np.allclose(embedding([0.0, 0.0]), embedding([7.0, 0.0]), atol=1e-6)

    def test_a_session_is_answered_over_both_protocols(self, trained):
        """The embedded server and both clients say what the model says, and why."""
        session = ["item 3 é世", "item 3 é世", "no such item", "item 20 é世"]
        told = {"event_types": ["view", "cart", "view", "view"], "dwell": [12.5, 12.5, 3.0, 0.0]}
        asked = {"history": tf.constant([session])}
        asked |= {name: tf.constant([column]) for name, column in told.items()}
        weight = trained.signatures["attend"](**asked)["weight"].numpy()
        more = {"exclude": tf.constant([["item 4 é世"]]), "k": tf.constant([5])}
        answer = trained.signatures["recommend_events"](
            user_id=tf.constant(["nobody"]), **asked, **more
        )
        items = [item.decode() for item in answer["item_id"].numpy()[0]]
        with served(trained.folder, "rib") as server:
            for protocol in PROTOCOLS:
                with server.client(protocol) as client:
                    found = client.recommend("nobody", session, ["item 4 é世"], k=5, **told)
                    plain = client.recommend("nobody", session, k=5)
                    columns = {name: [column] for name, column in told.items()}
                    why = client.predict({"history": [session], **columns}, "attend")
                assert found.strategy == "fold-in"
                assert [item for item, _ in found.items] == items
                scores = [score for _, score in found.items]
                np.testing.assert_allclose(scores, answer["score"][0], rtol=1e-4)
                np.testing.assert_allclose(why["weight"], weight, atol=1e-5)
                # Ids alone are a request; the seconds, at least, made a difference.
                assert [score for _, score in plain.items] != scores
            server.run_examples("attend", "recommend_events")


@pytest.fixture(scope="module")
def make(toy_data):
    data = toy_data("sequence", 0.0).load_once("rib")

    def make(**hyper_parameters):
        tf.keras.utils.set_random_seed(1)
        model = rib.RIB(rib.HyperParameters(**{**TOY, **hyper_parameters}), data)
        batch = next(iter(model.batches(data, 0, 0).dataset))
        model.compute_loss(batch)
        return model, batch

    return make


def test_the_attention_by_hand(make):
    # e_1 = tanh 1 + tanh 0 = .7616, e_2 = tanh 0 + tanh 2 = .9640; the third step is padding.
    # weight_2 = 1 / (1 + e^(.7616 - .9640)) = .5504
    model, _ = make(units=2, attention_units=2)
    model.attention.set_weights([np.array([[1.0, 0.0], [0.0, 2.0]]), np.zeros(2)])
    model.attention_score.set_weights([np.ones([2, 1])])
    hidden = tf.constant([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]] * 2)
    there = tf.constant([[True, True, False], [False] * 3])
    np.testing.assert_allclose(
        model.weigh(hidden, there), [[0.4496, 0.5504, 0], [0, 0, 0]], atol=1e-4
    )


def test_padding_changes_nothing_and_the_prediction_is_the_weighted_states(make):
    model, _ = make()
    items = np.array([[7, 9, 7]])
    types, dwell = np.zeros_like(items), np.array([[3.0, 0.0, 1.0]], np.float32)
    predicted, weights = model.read(tf.constant(items), tf.constant(types), tf.constant(dwell))
    wide, _ = model.read(
        *(tf.pad(tf.constant(part), [[0, 0], [0, 4]]) for part in (items, types, dwell))
    )
    np.testing.assert_allclose(wide, predicted, atol=1e-6)
    assert weights.shape == (1, 3)


def test_bins_are_quantiles_of_what_train_knows():
    # Known are 1 .. 8, whose quartiles are 2.75, 4.5 and 6.25; an edge begins a bin.
    dwell = np.array([np.nan, 0, 8, 7, 6, 5, 4, 3, 2, 1], np.float32)
    edges = rib.dwell_edges(dwell, 4)
    assert edges == [2.75, 4.5, 6.25]
    seconds = tf.constant([[0.0, np.nan, 2.0], [2.75, 4.4, 100.0]])
    assert rib.dwell_bins(seconds, edges).numpy().tolist() == [[0, 0, 1], [2, 2, 4]]
    # Nothing known: there is one bin.
    assert rib.dwell_edges(dwell[:2], 4) == []
    assert rib.dwell_bins(seconds, []).numpy().tolist() == [[0, 0, 1], [1, 1, 1]]


def log_of(sessions):
    """One user's sessions, lists of items."""
    item = np.concatenate(sessions)
    session = np.repeat(np.arange(len(sessions)), [len(one) for one in sessions])
    zeros = np.zeros(len(item))
    return EventLog(
        user=np.full(len(item), 2),
        item=item,
        timestamp=np.arange(len(item)),
        rating=zeros,
        row=np.arange(len(item)),
        session=session,
        label=zeros,
        event_type=10 * item,
    )


def test_the_targets_own_events_are_cut_off():
    # a a b b a c: b and c are targets; a came first, and when it returns it is none.
    log = log_of([[2, 2, 3, 3, 2, 4], [3], [4, 3, 3]])
    assert first_events(log).tolist() == [2, 5, 8]
    read = Prefixes(log, {"item": log.item, "event_type": log.event_type}, 3).read(
        tf.constant(first_events(log))
    )
    assert read["item"].numpy().tolist() == [[2, 2, 0], [3, 3, 2], [4, 0, 0]]
    assert (read["event_type"] == 10 * read["item"]).numpy().all()
    # Of chosen events: no b.
    some = Prefixes(log, {"item": log.item}, 3, log.item != 3).read(tf.constant([2, 5, 8]))
    assert some["item"].numpy().tolist() == [[2, 2, 0], [2, 2, 2], [4, 0, 0]]


def test_no_row_has_its_target_in_its_input():
    random = np.random.RandomState(0)
    log = log_of([random.randint(2, 9, random.randint(1, 12)) for _ in range(60)])
    position = first_events(log)
    read = Prefixes(log, {"item": log.item}, 40).read(tf.constant(position))["item"].numpy()
    items, starts = log.sequences()
    assert len(position) and not (read == items[position][:, None]).any()
    assert (read[:, 0] > 0).all() and not set(position) & set(starts)


def test_how_near_neighbours_are_by_hand():
    # At 0, 10, 30 and 90 degrees; the nearest of each is 10, 10, 20 and 60 degrees away.
    angle = np.radians([0, 10, 30, 90])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    vectors = np.append(vectors, np.zeros([1, 2], np.float32), axis=0)
    expected = [*np.cos(np.radians([10, 10, 20, 60])), 2]
    np.testing.assert_allclose(rib.reach(vectors, 1), expected, atol=1e-5)
    # There are three others.
    assert rib.reach(vectors, 3).tolist() == rib.reach(vectors, 99).tolist() == [-2] * 4 + [2]


def test_candidates_are_the_neighbours_of_the_session_but_its_last_item(make):
    # A degree from item to item: one is near its two neighbours and itself.
    model, _ = make(neighbours=1, embedding_dim=2)
    angle = np.radians(np.arange(62))
    table = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    table[[0, 1, 40]] = 0
    model.vectors.set_weights([table])
    model.reach.assign(np.append([0, 0], rib.reach(model.item_embeddings().numpy(), 1)))
    history = tf.ragged.constant([[10, 20], [40]], dtype=tf.int64)
    query = Query(tf.constant([1, 1]), tf.constant([False, False]), history)
    scores = model.score_items(query, model.catalogue()).numpy()
    found = [(np.flatnonzero(np.isfinite(row)) + FIRST_TOKEN).tolist() for row in scores]
    assert found == [[9, 10, 11, 19, 21], []]
    assert model.answers(query).numpy().tolist() == [True, False]


def test_the_item_vectors_stand_still_and_all_else_learns(make):
    model, batch = make()
    model.vectors.set_weights([np.random.RandomState(0).normal(size=(62, 16))])
    frozen = {id(model.vectors.embeddings), id(model.contexts.embeddings), id(model.reach)}
    assert not frozen & {id(variable) for variable in model.trainable_variables}
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch, training=True)
    told = {id(model.activities.embeddings), id(model.dwells.embeddings)}  # the toy log has neither
    for gradient, variable in zip(
        tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True
    ):
        moved = float(tf.reduce_max(tf.abs(tf.convert_to_tensor(gradient)))) > 0
        assert moved == (id(variable) not in told), variable.name


def test_a_target_without_a_vector_does_not_count(make):
    model, batch = make()
    table = np.random.RandomState(0).normal(size=(62, 16))
    table[int(batch["target"][0])] = 0
    model.vectors.set_weights([table])
    rest = {name: column[batch["target"] != batch["target"][0]] for name, column in batch.items()}
    np.testing.assert_allclose(model.compute_loss(batch), model.compute_loss(rest), rtol=1e-5)
