"""What a model is asked with: the query, and what a request's history is to it."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.contract.query import Query
from models.contract.requests import K, signature
from models.contract.retrieve import DotProductModel
from models.contract.retrieve_task import RetrieveTask
from models.contract.retriever import Retriever
from models.names.hyper_parameters import Ranking
from models.rnn.gru4rec import GRU4Rec
from tests.models.contract import strings

LENGTH = 24


class Witness(DotProductModel[Ranking]):
    """A query's vector is the history that the model got to read; an item's score is its place."""

    uses_history = True

    def query_embedding(self, query):
        return tf.cast(query.history.to_tensor(shape=[None, LENGTH]), tf.float32)

    def item_embeddings(self):
        # Item r scores r x (the sum of the history's indices).
        return tf.tile(tf.range(1.0, 61.0)[:, tf.newaxis], [1, LENGTH])


class SessionWitness(Witness):
    """The same, of sessions."""

    session_based = True


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("profile", 0.0).load_once("item_knn")


@pytest.fixture(scope="module", params=[Witness, SessionWitness])
def served(request, data):
    model = request.param(Ranking(), data)
    return SimpleNamespace(model=model, retriever=Retriever(model, data))


def test_a_history_is_added_or_is_the_session(served, data):
    """A known user with a history, the same with none, a stranger with a history and with none."""
    stored = data.user_history[2].numpy().tolist()
    user, ids = data.users.ids[0], data.items.ids
    # The newest stored item once more, one that the user has not had, and one that nobody knows.
    new = next(index for index in range(2, 62) if index not in stored)
    requested = [stored[-1], new]
    asked = [*(ids[index - 2] for index in requested), b"no such item"]
    users, histories = tf.constant([user, user, b"nobody", b"nobody"]), [asked, [], asked, []]
    read = served.retriever.embed(users, strings(histories))["embedding"].numpy()
    with_both = requested if served.model.session_based else stored + requested
    for row, expected in zip(read, (with_both, stored, requested, []), strict=True):
        assert row[row > 0].tolist() == expected
    # `recommend`, and `recommend_examples` (which batches ask), answer from the same history: the
    # best is the last item of the catalogue that was not seen, its score by the witness's rule.
    answer = served.retriever.recommend(
        users, strings(histories), strings([[]] * 4), tf.constant([60] * 4)
    )
    for row, (history, seen) in enumerate(
        [(with_both, {*stored, *requested}), (stored, {*stored}), (requested, {*requested})]
    ):
        best = max(set(range(2, 62)) - seen)
        assert answer["item_id"][row, 0] == ids[best - 2]
        np.testing.assert_allclose(answer["score"][row, 0], (best - 1) * sum(history))
        returned = {item for item in answer["item_id"][row].numpy() if item}
        assert returned == {ids[index - 2] for index in set(range(2, 62)) - seen}
    assert answer["strategy"].numpy().tolist() == [b"model", b"model", b"fold-in", b"fallback"]
    examples = [
        tf.train.Example(
            features=tf.train.Features(
                feature={
                    "user_id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[name])),
                    "history": tf.train.Feature(bytes_list=tf.train.BytesList(value=history)),
                    "k": tf.train.Feature(int64_list=tf.train.Int64List(value=[60])),
                }
            )
        ).SerializeToString()
        for name, history in zip(users.numpy(), histories, strict=True)
    ]
    of_examples = served.retriever.recommend_examples(tf.constant(examples))
    for name, value in answer.items():
        np.testing.assert_array_equal(of_examples[name], value)


def test_the_choice_is_noted_and_a_recurrent_network_reads_sessions():
    assert GRU4Rec.session_based and not Witness.session_based
    notes = [RetrieveTask().notes(SimpleNamespace(session_based=each)) for each in (False, True)]
    assert notes == [{"history": "added"}, {"history": "session"}]


def test_a_query_passes_through_functions_and_maps():
    query = Query(
        tf.constant([3, 1], tf.int64),
        tf.constant([True, False]),
        tf.ragged.constant([[2, 5], []], dtype=tf.int64),
    )

    @tf.function
    def twice(query):
        return tf.nest.map_structure(lambda part: part, query)._replace(user=2 * query.user)

    answer = twice(query)
    assert isinstance(answer, Query) and answer.user.numpy().tolist() == [6, 2]
    assert answer.history.to_list() == [[2, 5], []]


LISTS = {
    "user_id": tf.TensorSpec([None], tf.string, name="user_id"),
    "history": tf.TensorSpec([None, None], tf.string, name="history"),
}


@pytest.fixture(scope="module")
def asked():
    """Answers with the k of each row, whatever the history."""
    return signature(lambda user_id, history, k: {"k": k}, **LISTS, k=K)


def test_one_k_is_for_all_rows(asked):
    users, history = tf.constant(["a", "b", "c"]), tf.zeros([3, 1], tf.string)
    for k, expected in ((5, [5, 5, 5]), ([5], [5, 5, 5]), ([1, 2, 3], [1, 2, 3])):
        answer = asked(user_id=users, history=history, k=tf.constant(k))
        assert answer["k"].numpy().tolist() == expected
    assert asked(user_id=users[:0], history=history[:0], k=tf.constant(5))["k"].shape == [0]


@pytest.mark.parametrize(
    "rows, ks, said",
    [(1, 3, r"\[history\] \[1\] \[user_id\] \[3\]"), (3, 2, r"\[user_id\] \[3\] \[k\] \[2\]")],
)
def test_rows_that_disagree_are_named(asked, rows, ks, said):
    with pytest.raises(tf.errors.InvalidArgumentError, match=said):
        asked(
            user_id=tf.constant(["a", "b", "c"]),
            history=tf.zeros([rows, 1], tf.string),
            k=tf.fill([ks], 5),
        )
