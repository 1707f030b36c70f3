"""Airbnb's ranker: what the embeddings tell it, and the order that it learns."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.airbnb_searches import LABEL, SPLIT, write_log
from models.contract import tasks
from models.contract.scorer import Scorer
from models.contract.two_stage import TwoStage
from models.industry.airbnb_ranker import AirbnbRanker, HyperParameters, market_similarities
from models.names.errors import ConfigError
from models.names.label import GROUP, Label
from models.training.loop import TrainingLoop
from tests.models import toy
from tests.models.score_contract import ScoreContract, raw_columns
from tests.models.served import PROTOCOLS, served


class TestAirbnbRanker(ScoreContract):
    """Without lists, each row by itself; all that users had is clicked."""

    name = "airbnb_ranker"
    hyper_parameters = {
        "list_loss": None,
        "epochs": 12,
        "batch_size": 128,
        "learning_rate": 5e-3,
        "listings": {"epochs": 2, "embedding_dim": 8},
    }


HALF = 2**-0.5


def similar(candidate, vectors, chosen, market):
    """One row, one set."""
    chosen = np.array(chosen, bool)
    return float(
        market_similarities(
            tf.constant([candidate], tf.float32),
            tf.constant([vectors], tf.float32),
            tf.constant(chosen[np.newaxis, :, np.newaxis]),
            tf.constant([market], tf.int64),
        )[0, 0]
    )


def test_similarity_is_that_of_the_nearest_market():
    """Market 1 has (1, 0) and (0, 1), whose sum is at 45 degrees of (1, 0); market 2 (-1, 0).

    The mean over markets, or one sum of all, would say otherwise: 0 of (1, 0).
    """
    vectors, market = [[1, 0], [0, 1], [-1, 0]], [1, 1, 2]
    assert similar([1, 0], vectors, [1, 1, 1], market) == pytest.approx(HALF)
    assert similar([-3, 0], vectors, [1, 1, 1], market) == pytest.approx(1)
    assert similar([1, 0], vectors, [1, 0, 1], market) == pytest.approx(1)
    assert similar([1, 0], vectors, [0, 0, 1], market) == pytest.approx(-1)
    assert similar([1, 0], vectors, [0, 0, 0], market) == 0
    # All in one market: (0, 1) is left of the three.
    assert similar([1, 0], vectors, [1, 1, 1], [1, 1, 1]) == pytest.approx(0, abs=1e-6)


def test_similarity_knows_no_lengths_and_is_one_for_the_same_listing():
    assert similar([2, 5], [[2, 5]], [1], [3]) == pytest.approx(1)
    vectors, market = np.array([[1, 2], [3, 1], [-2, 1]]), [1, 2, 1]
    whole = similar([1, 1], vectors, [1, 1, 1], market)
    assert similar([4, 4], 3 * vectors, [1, 1, 1], market) == pytest.approx(whole, rel=1e-6)
    twice = similar([1, 1], [*vectors, *vectors], [1] * 6, market * 2)
    assert twice == pytest.approx(whole, rel=1e-6)


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    """A small log of searches, and the ranker trained on it and exported."""
    folder = tmp_path_factory.mktemp("searches")

    def write(place, randomness, described):
        write_log(place / "log", guests=150, listings=40, markets=2, styles=2, trips=1)
        return place / "log"

    label = Label.parse(LABEL)
    built = toy.build(
        folder, 0.0, "event", SPLIT, label, write=write, carries=AirbnbRanker.carries()
    )
    data = built.load("airbnb_ranker")
    tf.keras.utils.set_random_seed(1)
    settings = {
        "epochs": 3,
        "batch_size": 256,
        "learning_rate": 5e-3,
        "listings": {"epochs": 6, "embedding_dim": 8, "batch_size": 64, "market": "item_market"},
    }
    model = AirbnbRanker(HyperParameters(**settings), data)
    evaluation = tasks.of("airbnb_ranker", label).evaluation(data, "valid")
    loop = TrainingLoop(model.hyper_parameters, data, seed=1, evaluation=evaluation)
    before = model.embeddings.listings.embeddings.numpy()
    model.learn(loop)
    Scorer(model, data).export(str(folder / "1"))
    return SimpleNamespace(
        folder=folder,
        data=data,
        model=model,
        loop=loop,
        before=before,
        signatures=tf.saved_model.load(str(folder / "1")).signatures,
        test=tf.constant(data.queries("test"), tf.string),
        values=tasks.of("airbnb_ranker", label).evaluation(data, "test").of(model)(),
    )


def test_it_learns_in_stages_and_the_embeddings_stand_still_in_the_last(searches):
    stages = [row["stage"] for row in searches.loop.history]
    assert list(dict.fromkeys(stages)) == ["listings", "types", "model"]
    assert searches.loop.history[-1]["loss"] > 0
    tables = {id(variable) for variable in searches.model.embeddings.weights}
    assert not tables & {id(variable) for variable in searches.model.trainable_variables}
    moved = searches.model.embeddings.listings.embeddings.numpy() != searches.before
    assert moved[2:].any(axis=1).all()


def test_searches_are_whole_and_ordered_better_than_by_chance(searches):
    assert searches.values["lift_group_ndcg_10"] > 0.03, searches.values
    for split in ("train", "test"):
        examples = tf.constant(searches.data.queries(split), tf.string)
        _, size = np.unique(searches.data.beside(examples)[GROUP], return_counts=True)
        assert set(size) == {10}, split
    batch = next(iter(searches.model.batches(searches.data, 1, 0).dataset))
    assert batch[GROUP].shape == (260,)  # 26 searches of ten are about 256 rows
    assert np.bincount(batch[GROUP]).tolist() == [10] * 26


def test_what_a_guest_did_not_do_is_missing_and_not_0(searches):
    """Kinds in order: click, long click, skip, wish, inquiry, booking, last long click, types."""
    inputs, _, _ = searches.data.parse(searches.test)
    value, there = searches.model.similarities(inputs)
    # Nobody clicks long or wishes here.
    assert not there.numpy()[:, [1, 3, 6]].any() and not value.numpy()[there == 0].any()
    types = {name: 2 + n for n, name in enumerate(searches.data.event_types)}
    of = inputs["event_types"].numpy()
    clicked = (of == types[b"click"]).any(axis=1)
    np.testing.assert_array_equal(there[:, 0] == 1, clicked)
    np.testing.assert_array_equal(there[:, 2] == 1, (of == types[b"skip"]).any(axis=1))
    assert clicked.any() and not clicked.all()
    nothing = {**inputs, **dict.fromkeys(("history", "event_types"), tf.zeros_like(of)[:, :1])}
    assert not searches.model.similarities(nothing)[1].numpy()[:, :7].any()


def test_a_ranking_is_asked_with_what_the_guest_did(searches):
    """The same scores over `rank_told`, `score` and `score_examples`, whatever the padding."""
    ids = {name: tf.io.FixedLenFeature([], tf.string) for name in ("user_id", "item_id")}
    rows = tf.io.parse_example(searches.test[-10:], ids | searches.data.histories.parsing())
    told = {name: rows[name][:1].to_tensor() for name in searches.data.history_names}
    assert told["history"].shape[1] > 10
    item_id = rows["item_id"][tf.newaxis]
    recalled = {"recall_score": tf.zeros([1, 10]), "recall_source": tf.fill([1, 10], "")}

    def rank(**history):
        answer = searches.signatures["rank_told"](
            user_id=rows["user_id"][:1], item_id=item_id, **recalled, **history
        )
        return answer["score"].numpy()[0]

    by_row = searches.signatures["score_examples"](examples=searches.test[-10:])["score"]
    np.testing.assert_allclose(rank(**told), by_row, atol=1e-5)
    padded = {name: tf.pad(column, [[0, 0], [0, 3]]) for name, column in told.items()}
    np.testing.assert_allclose(rank(**padded), by_row, atol=1e-5)
    untold = {name: column[:, :0] for name, column in told.items()}
    plain = searches.signatures["rank"](user_id=rows["user_id"][:1], item_id=item_id)
    np.testing.assert_allclose(rank(**untold), plain["score"][0], atol=1e-5)
    assert np.abs(rank(**untold) - by_row).max() > 1e-3


def test_a_search_with_context_is_answered_over_both_protocols(searches):
    """Its rows, each with the search's context and what the guest did; and its listings by id."""
    rows = searches.test[-10:]
    raw = raw_columns(searches.data, rows.numpy())
    expected = searches.signatures["score"](**raw)["score"].numpy()
    ids = {name: raw[name].numpy().astype(str).tolist() for name in ("user_id", "item_id")}
    told = {
        name: raw[name].numpy()[:1].astype(str).tolist() for name in searches.data.history_names
    }
    asked = {"user_id": ids["user_id"][:1], "item_id": [ids["item_id"]], **told}
    asked |= {"recall_score": [[0.0] * 10], "recall_source": [[""] * 10]}
    with served(searches.folder / "1", "airbnb_ranker") as server:
        for protocol in PROTOCOLS:
            with server.client(protocol) as client:
                found = client.predict(
                    {name: value.numpy() for name, value in raw.items()}, "score"
                )
                ranked = client.predict(asked, "rank_told")
            np.testing.assert_allclose(found["score"], expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(ranked["score"], [expected], rtol=1e-4, atol=1e-5)
        server.run_examples("score", "rank_told")


class Recall(tf.Module):
    """Finds the same five listings for everybody, the first one first."""

    def __init__(self, items):
        super().__init__()
        self._items = tf.constant([items])

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="user_id"),
            *(tf.TensorSpec([None, None], tf.string, name=name) for name in ("history", "exclude")),
            tf.TensorSpec([None], tf.int32, name="k"),
        ]
    )
    def recommend(self, user_id, history, exclude, k):
        found = tf.repeat(self._items, tf.size(user_id), axis=0)
        score = tf.cast(tf.zeros_like(found, tf.int32) - tf.range(5), tf.float32)
        return {"item_id": found, "score": score, "strategy": tf.fill(tf.shape(user_id), "model")}


def test_a_bundle_tells_its_ranker_what_the_guest_did(searches):
    data, folder = searches.data, searches.folder
    items, user = data.items.ids[:5].tolist(), data.users.ids[:1]
    recall = Recall(items)
    tf.saved_model.save(recall, str(folder / "recall"), {"recommend": recall.recommend})
    bundle = TwoStage(str(folder / "recall"), str(folder / "1"), "all", candidates=5)
    nothing = tf.zeros([1, 0], tf.string)
    asked = {"user_id": tf.constant(user), "exclude": nothing, "k": tf.constant([5])}
    history, kinds = tf.constant([[items[4]] * 3]), tf.constant([["click"] * 3])
    found = bundle.recommend(**asked, history=history, event_types=kinds)["item_id"][0]
    recalled = {"recall_score": tf.zeros([1, 5]), "recall_source": tf.fill([1, 5], "")}
    score = searches.signatures["rank_told"](
        user_id=asked["user_id"],
        item_id=tf.constant([items]),
        history=history,
        event_types=kinds,
        **recalled,
    )["score"][0]
    assert found.numpy().tolist() == [items[place] for place in np.argsort(-score.numpy())]
    # A request of ids alone tells the ranker nothing.
    plain = searches.signatures["rank"](user_id=asked["user_id"], item_id=tf.constant([items]))[
        "score"
    ][0]
    untold = bundle.recommend(**asked, history=history)["item_id"][0]
    assert untold.numpy().tolist() == [items[place] for place in np.argsort(-plain.numpy())]


def test_lists_are_required_by_their_loss(searches):
    alone = SimpleNamespace(label=Label(column="rating"))
    with pytest.raises(ConfigError, match="label.group: required by .* lambda_rank"):
        AirbnbRanker(HyperParameters(), alone)
