"""Two stages in one SavedModel."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from models.contract import tasks
from models.contract.two_stage import WEIGHTS, TwoStage
from models.names import metrics, registry
from models.names.label import Label
from models.training.loop import TrainingLoop
from tests.models import toy
from tests.models.toy import NEW_USER

pytestmark = pytest.mark.usefixtures("loaded_once")

LIKED = Label(column="rating", threshold=4.0)


def exported(name, data, label, folder, **hyper_parameters):
    """Trains a model on a toy and exports it."""
    task, module = tasks.of(name, label), registry.load(name)
    loaded = task.load(module.Model, data.graph, data.schema, data.splits)
    parameters = module.HyperParameters(**hyper_parameters)
    tf.keras.utils.set_random_seed(3)
    model = module.Model(parameters, loaded)
    model.learn(
        TrainingLoop(parameters, loaded, seed=3, evaluation=task.evaluation(loaded, "valid"))
    )
    task.exporter(model, loaded).export(str(folder))
    return str(folder), loaded


@pytest.fixture(scope="module")
def stages(toy_data, tmp_path_factory):
    """Folders of a recall and of a ranker, and the recall's data."""
    folder = tmp_path_factory.mktemp("stages")
    described = toy.write_newcomers(
        toy_data("profile", 0.0, described=True),
        folder / "newcomers",
        user_gender=["M"],
        user_age=[20],
    )
    recall, data = exported("item_knn", described, None, folder / "recall")
    rated = toy.build(
        folder / "rated",
        0.0,
        "event",
        {"name": "leave_one_out"},
        LIKED,
        write=toy.write_log,
        same_rows=toy_data("event", 0.0),
    )
    rank, _ = exported("fm", rated, LIKED, folder / "rank", epochs=3, batch_size=64)
    return recall, rank, data


@pytest.fixture(scope="module")
def apart(stages):
    """The signatures of the recall and of the ranker."""
    return tuple(tf.saved_model.load(folder).signatures for folder in stages[:2])


@pytest.fixture(scope="module")
def bundled(stages, tmp_path_factory):
    """The signatures of an exported bundle whose ranking alone decides."""
    recall, rank, _ = stages
    folder = str(tmp_path_factory.mktemp("bundle") / "1")
    TwoStage(recall, rank, "item_knn", candidates=8).export(folder)
    return tf.saved_model.load(folder).signatures


def ask(signatures, users, k, history=None, exclude=None):
    nothing = tf.zeros([len(users), 0], tf.string)
    answer = signatures["recommend"](
        user_id=tf.constant(users),
        history=nothing if history is None else tf.constant(history),
        exclude=nothing if exclude is None else tf.constant(exclude),
        k=tf.fill([len(users)], k),
    )
    return {name: value.numpy() for name, value in answer.items()}


def ask_rules(signatures, users, k, name="recommend_rules", beside=None, **rules):
    nothing = tf.zeros([len(users), 0], tf.string)
    inputs = {name: nothing for name in ("history", "exclude", "allow", "where", "boost", "pin")}
    inputs |= {
        "exclude_recent": tf.zeros([len(users)], tf.int32),
        "diversity": tf.fill([len(users)], ""),
        "min_score": tf.fill([len(users)], float("nan")),
    }
    lists = {name: tf.constant([value] * len(users)) for name, value in rules.items()}
    answer = signatures[name](
        user_id=tf.constant(users), k=tf.constant(k), **{**inputs, **lists, **(beside or {})}
    )
    return {name: value.numpy() for name, value in answer.items()}


def test_rules_hold_in_either_stage_and_for_whoever_is_answered(bundled, apart, stages):
    """A known user and one with a history, by the models, others by popularity."""
    recall, data = apart[0], stages[2]
    users = [data.users.ids[0], b"nobody knows", NEW_USER, b"nobody knows"]
    history = tf.constant([[""], [data.items.ids[3]], [""], [""]])
    by = [b"model", b"fold-in", b"segment", b"fallback"]
    for stage in (recall, bundled):
        plain = ask(stage, users, 8, history)
        assert plain["strategy"].tolist() == by
        ask_all = functools.partial(ask_rules, stage, users, beside={"history": history})
        ruled = ask_all(k=8)
        for name, value in plain.items():
            np.testing.assert_array_equal(ruled[name], value, name)
        # A toy's item n is of 1980 + n % 20.
        few = ask_all(k=6, where=["year >= 1995"])
        number = np.vectorize(lambda item: int(item.split(b" ")[1]))(few["item_id"])
        assert number.shape == (4, 6) and (number % 20 >= 15).all()
        # What is boosted beyond all others comes first; a pin has its place whatever it scores.
        pin = plain["item_id"][0, 7]
        lifted = ask_rules(stage, users[:1], 4, boost=["year = 1999 => + 1000"], pin=[b"", pin])
        assert lifted["item_id"][0, 1] == pin
        first = lifted["item_id"][0, 0]
        assert int(first.split(b" ")[1]) % 20 == 19 and lifted["score"][0, 0] > 900
        none = ask_all(k=5, allow=[data.items.ids[0]])
        assert (none["item_id"] != b"").sum(1).max() <= 1
        assert none["fewer"][3].startswith(b"1 answered: allow and where take 1 of 60 items")
    with pytest.raises(tf.errors.InvalidArgumentError, match="(?s)yaer.*nearest is.*year"):
        ask_rules(bundled, users, 5, where=["yaer > 1990"])


def test_both_stages_say_what_carried_an_item(bundled, apart, stages):
    """The recall its parts of the history, the ranker its fields; neither for a stranger."""
    recall, rank = apart
    data, users = stages[2], [stages[2].users.ids[0], b"nobody knows"]
    pin = ask(bundled, users, 5)["item_id"][0, 4]
    why = ask_rules(
        bundled, users, 4, "recommend_explained", {"reasons": tf.constant([9, 9])}, pin=[pin]
    )
    ruled = ask_rules(bundled, users, 4, pin=[pin])
    for name, value in ruled.items():
        np.testing.assert_array_equal(why[name], value, name)
    assert why["basis"].tolist() == [[b"pin"] + [b"sum"] * 3, [b"pin"] + [b"popularity"] * 3]
    assert not why["weight"][:, 0].any() and not why["weight"][1].any()
    # All nine of the toy's items: the recall's scores.
    scores = ask_rules(recall, users[:1], 60)
    of = dict(zip(scores["item_id"][0], scores["score"][0], strict=True))
    for item, weights in zip(why["item_id"][0, 1:], why["weight"][0, 1:], strict=True):
        np.testing.assert_allclose(weights.sum(), of[item], rtol=1e-4)
    fields = rank["explain"](user_id=tf.constant(users), item_id=tf.constant(why["item_id"]))
    np.testing.assert_array_equal(why["field"][0], fields["reason"][0])
    np.testing.assert_allclose(why["field_weight"][0], fields["weight"][0], rtol=1e-5)
    assert (why["field"][0] != b"").all() and (why["field"][1] == b"").all()
    history = {data.items.ids[index - 2] for index in data.user_history[2].numpy()}
    assert {*why["reason"].ravel()} - {b""} <= history


def test_the_ranker_orders_what_the_recall_found(bundled, apart, stages):
    recall, rank = apart
    user = stages[2].users.ids[:4]
    found, answer = ask(recall, user, 8), ask(bundled, user, 8)
    expected = rank["rank"](user_id=tf.constant(user), item_id=tf.constant(found["item_id"]))
    assert expected["known"].numpy().all()
    for row in range(len(user)):
        there = found["item_id"][row] != b""
        order = np.argsort(-expected["score"].numpy()[row][there], kind="stable")
        np.testing.assert_array_equal(
            answer["item_id"][row][: there.sum()], found["item_id"][row][there][order]
        )
    assert set(answer["source"].ravel()) <= {b"item_knn", b""} and set(answer["strategy"]) == {
        b"model"
    }


def test_what_is_excluded_or_seen_never_comes_and_more_than_the_candidates_can_be_had(
    bundled, stages
):
    data = stages[2]
    user = data.users.ids[:1]
    first = ask(bundled, user, 3)["item_id"]
    assert not set(first[0]) & set(ask(bundled, user, 5, exclude=first)["item_id"][0])
    everything = ask(bundled, user, 10_000)["item_id"][0]
    seen = {data.items.ids[index - 2] for index in data.user_history[2].numpy()}
    there = [item for item in everything if item]
    assert (
        len(there) == len(set(there)) > 8
        and set(there) | seen == set(data.items.ids)
        and not set(there) & seen
    )


def test_strangers_are_answered_in_the_order_of_the_fallbacks(bundled, apart, stages):
    item = stages[2].items.ids[0]
    answer = ask(bundled, ["nobody", "nobody"], 3, history=[[item], [""]])
    assert answer["strategy"].tolist() == [b"fold-in", b"fallback"]
    assert set(answer["source"][0]) == {b"item_knn"} and set(answer["source"][1]) == {b"popularity"}
    # The ranker does not know them, so the recall's order stays.
    np.testing.assert_array_equal(
        answer["item_id"],
        ask(apart[0], ["nobody", "nobody"], 3, history=[[item], [""]])["item_id"],
    )


def test_a_history_is_what_it_is_to_the_recall(bundled, apart, stages):
    """Item-kNN adds it: an item that a user has had already changes nothing, a new one does."""
    recall, data = apart[0], stages[2]
    user, stored = data.users.ids[:1], data.user_history[2].numpy()
    own = [[data.items.ids[stored[-1] - 2]]]
    new = [[next(data.items.ids[i - 2] for i in range(2, 62) if i not in stored)]]
    without = ask(recall, user, 8)
    for name, value in ask(recall, user, 8, history=own).items():
        np.testing.assert_array_equal(value, without[name])
    assert not np.array_equal(ask(recall, user, 8, history=new)["score"], without["score"])
    for history in (own, new):
        found, answer = ask(recall, user, 8, history), ask(bundled, user, 8, history)
        assert set(answer["item_id"][0]) == set(found["item_id"][0])


def test_one_answer_does_not_depend_on_the_batch_or_on_the_form_of_the_request(bundled, stages):
    users = stages[2].users.ids[:3]
    together = ask(bundled, users, 5)
    example = tf.train.Example()
    example.features.feature["user_id"].bytes_list.value.append(users[1])
    example.features.feature["k"].int64_list.value.append(5)
    for alone in (
        ask(bundled, users[1:2], 5),
        bundled["recommend_examples"](tf.constant([example.SerializeToString()])),
    ):
        np.testing.assert_array_equal(np.asarray(alone["item_id"])[0], together["item_id"][1])
        np.testing.assert_allclose(np.asarray(alone["score"])[0], together["score"][1], rtol=1e-5)


def test_metrics_are_those_of_the_list_and_the_recall_alone_stands_beside(apart, stages):
    recall, rank, data = stages
    queries = tf.constant(data.queries("test"))
    everything = len(data.items)
    alone = apart[0]["evaluate"](queries)
    module = TwoStage(recall, rank, "item_knn", candidates=everything, weight=0.0)
    values = module.evaluate(queries)
    assert set(values) == set(metrics.TWO_STAGE.means)
    # Weight 0 over all items is the recall itself, but for ties that rounding breaks.
    for name in ("hr_10", "ndcg_10", "mrr_20"):
        np.testing.assert_allclose(np.mean(values[name]), np.mean(alone[name]), atol=0.02)
    np.testing.assert_allclose(values["alone_ndcg_10"], alone["ndcg_10"], rtol=1e-5)
    np.testing.assert_allclose(
        values["lift_alone_ndcg_10"], values["ndcg_10"] - values["alone_ndcg_10"], atol=1e-6
    )
    # A target that is not recalled is not found, whatever the ranker says.
    one = TwoStage(recall, rank, "item_knn", candidates=1, weight=1.0).evaluate(queries)
    assert np.mean(one["hr_10"]) == pytest.approx(
        np.mean(np.asarray(alone["mrr_10"]) == 1.0), abs=1e-6
    )


def test_the_recall_stage_is_measured_beyond_the_candidates(apart, stages, monkeypatch):
    recall, rank, data = stages
    queries = tf.constant(data.queries("test"))
    module = TwoStage(recall, rank, "item_knn", candidates=1)
    values = module.evaluate(queries)
    # The toy catalogue has 40 items: within 50 there is every target that it has at all.
    assert np.mean(values["recall_stage_50"]) == np.mean(values["recall_stage_500"]) > 0.9
    monkeypatch.setattr(metrics, "RECALL_STAGE", (10, 20))
    alone = apart[0]["evaluate"](queries)
    reference = module._queries(queries)["reference"]
    for cutoff in (10, 20):  # but for ties, which the list has broken
        np.testing.assert_allclose(
            np.mean(reference[f"recall_stage_{cutoff}"]),
            np.mean(alone[f"recall_{cutoff}"]),
            atol=0.02,
        )


def test_a_target_that_stands_twice_gains_once(stages):
    recall, rank, data = stages
    once = data.queries("test")[:16]
    twice = []
    for record in once:
        example = tf.train.Example.FromString(record)
        targets = example.features.feature["targets"].bytes_list.value
        targets.extend(list(targets))
        twice.append(example.SerializeToString())
    module = TwoStage(recall, rank, "item_knn", candidates=20)
    left, right = module.evaluate(tf.constant(once)), module.evaluate(tf.constant(twice))
    assert np.mean(left["ndcg_10"]) > 0
    for name in metrics.TWO_STAGE.means:
        np.testing.assert_allclose(left[name], right[name], rtol=1e-6)


def test_the_weight_is_the_best_on_validation(stages):
    recall, rank, data = stages
    module = TwoStage(recall, rank, "item_knn", candidates=10)
    queries = data.queries("valid")
    rows = module.choose_weight(queries)
    assert [row["weight"] for row in rows] == list(WEIGHTS)
    best = max(rows, key=lambda row: (row["ndcg_10"], -row["weight"]))
    assert module.weight.numpy() == pytest.approx(best["weight"])
    assert np.mean(module.evaluate(tf.constant(queries))["ndcg_10"]) == pytest.approx(
        best["ndcg_10"], abs=1e-6
    )


def test_without_a_ranker_the_order_is_the_recalls(apart, stages):
    recall, _, data = stages
    module = TwoStage(recall, None, "item_knn", candidates=5)
    assert module.choose_weight(data.queries("valid")) == []
    users = tf.constant(data.users.ids[:3])
    nothing = tf.zeros([3, 0], tf.string)
    answer = module.recommend(users, nothing, nothing, tf.fill([3], 4))
    np.testing.assert_array_equal(answer["item_id"], ask(apart[0], users.numpy(), 4)["item_id"])


def test_a_k_of_zero_is_refused(bundled):
    with pytest.raises(tf.errors.InvalidArgumentError, match="k must be at least 1"):
        ask(bundled, ["u1"], 0)


def test_the_rankers_score_is_still_asked_by_name(bundled, apart):
    inputs = apart[1]["score"].structured_input_signature[1]
    assert set(bundled["score"].structured_input_signature[1]) == set(inputs)
