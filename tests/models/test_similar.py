"""Items like an item: by vectors and by co-occurrence, against NumPy and over both protocols."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.contract.retriever import Retriever
from models.inputs.preprocessing import FIRST_TOKEN
from models.names import registry
from models.names.hyper_parameters import Gradient
from models.training.loop import TrainingLoop
from serving.wire.errors import ServingError
from tests.conftest import locked, shared_by_workers
from tests.models.contract import strings
from tests.models.served import PROTOCOLS, served


@pytest.fixture(scope="module", params=["bpr_mf", "popularity"])
def model(request, toy_data, tmp_path_factory):
    """A model with vectors (and biases), and one without, both untrained, exported.

    It is exported once for all workers, each of which has made the same one.
    """
    data = toy_data("event", 0.0).load_once(request.param)
    module = registry.load(request.param)
    tf.keras.utils.set_random_seed(3)
    model = module.Model(module.HyperParameters(), data)
    if isinstance(model.hyper_parameters, Gradient):
        TrainingLoop(model.hyper_parameters, data).build(model)
    root = shared_by_workers(tmp_path_factory) / f"untrained-{request.param}"
    with locked(root.with_suffix(".lock")):
        if not root.exists():
            Retriever(model, data).export(str(root / "1"))
    folder = str(root / "1")
    signatures = tf.saved_model.load(folder).signatures
    return SimpleNamespace(
        name=request.param, data=data, model=model, folder=folder, signatures=signatures
    )


def expected(model) -> np.ndarray:
    """[N, N] similarities, -inf where there is none."""
    size = len(model.data.items)
    if model.name == "bpr_mf":
        # Without the last number, which is the bias.
        vectors = model.model.item_embeddings().numpy()[:, :-1]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        near = vectors @ vectors.T
    else:
        # A user has nine items, so all of them count: n_ij / (sqrt(n_i n_j) + 10).
        events, has = model.data.events, np.zeros([model.data.users.index_count, size])
        has[events.user, events.item - FIRST_TOKEN] = 1
        both, count = has.T @ has, has.sum(axis=0)
        near = np.where(both > 0, both / (np.sqrt(np.outer(count, count)) + 10), -np.inf)
    np.fill_diagonal(near, -np.inf)
    return near


def ask(model, items, k, allow=(), where=(), exclude=()):
    answer = model.signatures["similar"](
        item_id=tf.constant(items),
        exclude=strings([list(exclude)] * len(items)),
        k=tf.constant(k),
        allow=strings([list(allow)] * len(items)),
        where=strings([list(where)] * len(items)),
    )
    return {name: value.numpy() for name, value in answer.items()}


def test_similar_is_sort_by_cosine_or_by_co_occurrence(model):
    ids, near = model.data.items.ids, expected(model)
    answer = ask(model, ids[:7], 60)
    strategy = b"vectors" if model.name == "bpr_mf" else b"co-occurrence"
    assert set(answer["strategy"]) == {strategy}
    for row in range(7):
        order = np.argsort(-near[row], kind="stable")
        order = order[np.isfinite(near[row, order])]
        found = [item for item in answer["item_id"][row] if item]
        # Equal ones may change places: what is compared are the similarities.
        place = {item: number for number, item in enumerate(ids)}
        np.testing.assert_allclose(
            near[row, [place[item] for item in found]], near[row, order], rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(
            answer["score"][row, : len(order)], near[row, order], rtol=1e-4, atol=1e-6
        )
        assert set(found) == {ids[number] for number in order} - {ids[row]}


def test_rules_hold_and_k_is_one_for_all_or_one_each(model):
    ids, near = model.data.items.ids, expected(model)
    allowed = [ids[number] for number in range(10, 40)]
    answer = ask(model, ids[:2], [2, 5], allowed, ["not title = no such title"])
    inside = np.isin(np.arange(60), range(10, 40)) & np.isfinite(near[1])
    best = np.argsort(-np.where(inside, near[1], -np.inf), kind="stable")
    count = min(5, inside.sum())
    np.testing.assert_allclose(answer["score"][1, :count], near[1, best[:count]], rtol=1e-4)
    assert (answer["item_id"][0] != b"").sum() == 2 and not answer["item_id"][0, 2]
    assert set(answer["item_id"].ravel()) - {b""} <= set(allowed)
    best = answer["item_id"][1, 0]
    without = ask(model, ids[:2], [2, 5], allowed, exclude=[best, "no such item"])["item_id"]
    assert best not in without[1] and set(answer["item_id"][1, 1:count]) <= set(without[1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="received.*genre.*nearest.*genres"):
        ask(model, ids[:1], 5, where=["genre = Drama"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="k must be at least 1"):
        ask(model, ids[:1], 0)


def test_an_item_that_nobody_knows_has_nothing_like_it(model):
    answer = ask(model, ["no such item", ""], 5)
    assert answer["strategy"].tolist() == [b"unknown"] * 2
    assert not answer["item_id"].any() and not answer["score"].any()


def test_both_protocols_and_the_examples_answer_the_same(model):
    item = model.data.items.ids[3].decode()
    wanted = ask(model, [item], 4)
    with served(model.folder, model.name) as server:
        for protocol in PROTOCOLS:
            with server.client(protocol) as client:
                answer, unknown = client.similar_many([item, "no such item"], k=4)
                assert [found for found, _ in answer.items] == [
                    found.decode() for found in wanted["item_id"][0]
                ]
                assert answer.strategy == wanted["strategy"][0].decode()
                assert unknown.items == [] and unknown.strategy == "unknown"
                only = client.similar(item, allow=[answer.items[2][0]])
                # A product of one row may differ from that of two in its last bit.
                ((found, score),) = only.items
                assert found == answer.items[2][0]
                np.testing.assert_allclose(score, answer.items[2][1], rtol=1e-5)
                with pytest.raises(ServingError, match="nearest"):
                    client.similar(item, where=["genre = Drama"])
        server.run_examples("similar")


def test_of_a_long_log_the_newest_events_count(toy_data):
    events = toy_data("event", 0.0).load_once("popularity").events
    pairs = events.matrix(60, 2)
    assert pairs.sum(axis=1).max() == 2 and (pairs <= events.matrix(60)).toarray().all()
    newest = events.item[events.starts[1:] - 1] - FIRST_TOKEN
    assert all(pairs[row, item] == 1 for row, item in enumerate(newest))
