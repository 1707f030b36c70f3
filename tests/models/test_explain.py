"""What carried an answer: each kind by hand, pins and fallbacks, and both protocols."""

from types import SimpleNamespace

import numpy as np
import tensorflow as tf

from models.contract import explain
from models.contract.query import Query
from models.contract.retrieve import RetrieveModel
from models.inputs.fields import FieldRows
from models.inputs.schema import ID, Field
from models.names.features import MULTIVALUED
from tests.models.served import PROTOCOLS, served
from tests.models.test_similar import model  # noqa: F401  exported already


def query(*histories: list[int], **beside) -> Query:
    """Users of indices 2, 3, ... and what they had."""
    user = tf.range(2, 2 + len(histories), dtype=tf.int64)
    ragged = {
        name: tf.ragged.constant(rows, dtype=tf.int64, ragged_rank=1)
        for name, rows in {"history": list(histories), **beside}.items()
    }
    return Query(user=user, known=user > 0, **ragged)


def test_of_a_history_the_newest_items_count_each_once():
    asked = query([5, 6, 5, 7, 8], [9], [])
    found = explain.newest_items(asked.history, 3)
    assert found.numpy().tolist() == [[8, 7, 5], [9, 0, 0], [0, 0, 0]]
    assert explain.times_in(asked.history, found).numpy().tolist() == [
        [1, 1, 2],
        [1, 0, 0],
        [0] * 3,
    ]


def test_an_item_is_left_out_wherever_it_stands_and_so_is_what_stands_beside_it():
    asked = query([9], [5, 6, 5], event_types=[[1], [2, 3, 4]])
    asked = asked._replace(context={"device": tf.constant([7, 8], tf.int64)})
    found = explain.without_each(asked, tf.constant(1), tf.constant([5, 6, 0], tf.int64))
    assert found.history.to_list() == [[5, 6, 5], [6], [5, 5], [5, 6, 5]]
    assert found.event_types.to_list() == [[2, 3, 4], [3], [2, 4], [2, 3, 4]]
    assert found.user.numpy().tolist() == [3] * 4 and found.dwell is None
    assert found.context["device"].numpy().tolist() == [8] * 4


class Squares(RetrieveModel):
    """score(item p) = (the sum of the history + p)^2."""

    def __init__(self):
        tf.Module.__init__(self)

    def score_items(self, query, catalogue):
        total = tf.reduce_sum(query.history, axis=1)[:, tf.newaxis]
        return tf.cast((total + tf.range(4, dtype=tf.int64)) ** 2, tf.float32)


def test_a_difference_is_what_the_score_loses():
    asked, items = query([2, 3], [5]), tf.constant([[3, 2], [5, 0]], tf.int64)
    found = Squares.contributions(
        Squares.__new__(Squares), asked, items, tf.constant([[0, 1], [3, 0]]), ()
    )
    # Of 2 and 3: 5^2 - 2^2 without 3, 5^2 - 3^2 without 2; one more at position 1: 6^2 - 3^2 and
    # 6^2 - 4^2. Of 5: 8^2 - 3^2 at position 3, 5^2 at 0; padding leaves nothing out.
    assert found.numpy().tolist() == [[[21, 16], [27, 20]], [[55, 0], [25, 0]]]


def test_the_heaviest_above_zero_are_told():
    names = tf.constant([["a", "b", "c"], ["d", "", ""]])
    weights = tf.constant([[[0.5, -1.0, 2.0]], [[0.25, 0.0, 0.0]]])
    name, weight = explain.largest(weights, names, tf.constant([1, 4]))
    assert name.numpy().tolist() == [[[b"c", b"", b"", b""]], [[b"d", b"", b"", b""]]]
    assert weight.numpy().tolist() == [[[2.0, 0, 0, 0]], [[0.25, 0, 0, 0]]]
    name, _ = explain.largest(weights, names, tf.constant([0, -2]))
    assert name.shape == (2, 1, 0)


def test_the_fields_of_a_factorization_machine_by_hand():
    from models.feature_interaction.fm import FactorizationMachine

    fields = [Field("user_id", "user", ID, tf.string, False, (b"u",))]
    fields.append(Field("genres", "item", MULTIVALUED, tf.string, True, (b"x", b"y")))
    rows = FieldRows(fields)
    # Rows: two unused, user_id missing, unknown, u (4), genres missing, unknown, x (7), y (8).
    linear, factors = np.zeros([9, 1], np.float32), np.zeros([9, 2], np.float32)
    linear[[4, 7, 8], 0] = 1.0, 2.0, 4.0
    factors[[4, 7, 8]] = [1, 2], [3, 0], [0, 5]
    machine = SimpleNamespace(rows=rows)
    machine._look_up = lambda inputs: (
        tf.gather(linear, rows(inputs)[0]),
        tf.gather(factors, rows(inputs)[0]),
        rows(inputs)[1][..., tf.newaxis],
    )
    inputs = {"user_id": tf.constant([2]), "genres": tf.constant([[2, 3, 0]])}
    found = FactorizationMachine.contributions(machine, inputs, {})
    # x is 1 for u, 1/2 for x and y. Pairs: u with x 3/2, u with y 10/2, x with y 0.
    # u: 1 + (1.5 + 5) / 2; genres: (2 + 4) / 2 + (1.5 + 5) / 2.
    np.testing.assert_allclose(found["user_id"], [4.25])
    np.testing.assert_allclose(found["genres"], [6.25])


def test_what_is_pinned_popular_or_like_the_history_says_so(model):  # noqa: F811
    """A known user, one of a segment whom train has not seen, and one that nobody knows."""
    ids, user = model.data.items.ids, model.data.users.ids[0].decode()
    history = [ids[index - 2] for index in model.data.user_history[2].numpy()]
    pin = ids[7].decode()
    with served(model.folder, model.name) as server:
        for protocol in PROTOCOLS:
            with server.client(protocol) as client:
                answer = client.recommend(user, k=4, pin=["", pin], explain=2)
                plain = client.recommend(user, k=4)
                stranger = client.recommend("nobody", k=2, explain=True)
            assert answer.items[1][0] == pin and answer.reasons[1] == type(answer.reasons[1])("pin")
            assert plain.reasons == () and len(answer.reasons) == 4
            assert {why.basis for why in stranger.reasons} == {"popularity"}
            assert all(why.parts == () for why in stranger.reasons)
            if model.name == "popularity":
                assert {why.basis for why in answer.reasons} == {"popularity", "pin"}
                continue
            vectors = model.model.item_embeddings().numpy()[:, :-1]
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            place = {item: number for number, item in enumerate(ids)}
            near = vectors @ vectors[[place[item] for item in history]].T
            for (item, _), why in zip(answer.items, answer.reasons, strict=True):
                if item == pin:
                    continue
                wanted = np.sort(near[place[item.encode()]])[::-1][:2]
                wanted = wanted[wanted > 0]
                assert why.basis == "similarity"
                np.testing.assert_allclose([part for _, part in why.parts], wanted, atol=1e-5)
                assert {name.encode() for name, _ in why.parts} <= set(history)
        server.run_examples("recommend_explained", "explain")


def test_what_does_not_ask_pays_nothing(model):  # noqa: F811
    """The graphs of the other signatures name nothing of it."""
    signatures = model.signatures
    for name in ("recommend", "recommend_rules", "similar"):
        assert "reason" not in str(signatures[name].graph.as_graph_def())
        assert not {"reason", "basis"} & set(signatures[name].structured_outputs)
    # And what does is made of what `tf.raw_ops` lists, which is in every TensorFlow.
    explained = signatures["recommend_explained"].graph.as_graph_def()
    nodes = [
        *explained.node,
        *(one for each in explained.library.function for one in each.node_def),
    ]
    assert "reason" in str(explained) and {node.op for node in nodes} <= {*dir(tf.raw_ops)}
