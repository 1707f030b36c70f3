"""Live state before a real SavedModel: its answers are those of a model made with the state."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from models.contract.retriever import Retriever
from models.names import registry
from models.training.loop import TrainingLoop
from pipeline.cli import main
from serving.client.client import Client
from serving.client.messages import Reasons
from serving.server import Server
from serving.state import Item, open_state
from serving.wire.errors import Code, ServingError
from tests.models.contract import strings
from tests.models.served import PROTOCOLS, served
from tests.models.test_two_tower import TOY
from tests.models.test_yahoo_news import TOY as YAHOO
from tests.models.toy import ToyData, example

USERS = ("user 0", "stranger")
NOW = int(time.time())


def with_events(toy: ToyData, folder, users, events) -> ToyData:
    """The same data, where these users had these items after all that they had."""
    (folder / "examples").mkdir(parents=True)
    for name in ("graph", "schema"):
        (folder / name).symlink_to(toy.folder / name)
    for split in (toy.folder / "examples").glob("Split-*"):
        if split.name != "Split-users":
            (folder / "examples" / split.name).symlink_to(split)
    new = folder / "examples" / "Split-users"
    new.mkdir()
    left = set(users)
    with tf.io.TFRecordWriter(str(new / "data.gz"), "GZIP") as file:
        files = [str(path) for path in (toy.folder / "examples" / "Split-users").iterdir()]
        for record in tf.data.TFRecordDataset(sorted(files), "GZIP").as_numpy_iterator():
            row = tf.train.Example.FromString(record)
            user = row.features.feature["user_id"].bytes_list.value[0].decode()
            if user in left:
                left.remove(user)
                history = row.features.feature["history"].bytes_list.value
                history.extend(item.encode() for item in events)
            file.write(row.SerializeToString())
        for user in sorted(left):
            file.write(example(user_id=[user], history=events))
    return ToyData(folder)


@pytest.fixture(scope="module")
def live(toy_data, tmp_path_factory):
    """An untrained two-tower, served as it is exported; and made with three events more."""
    place, toy = tmp_path_factory.mktemp("live"), toy_data("event", 0.0)
    # The stranger stands in the table of users, with nothing that they have had.
    toy = with_events(toy, place / "first", [USERS[1]], [])
    data = toy.load("two_tower")
    module = registry.load("two_tower")
    tf.keras.utils.set_random_seed(5)
    model = module.Model(module.HyperParameters(**TOY), data)
    TrainingLoop(model.hyper_parameters, data).build(model)
    Retriever(model, data).export(str(place / "two_tower" / "1"))
    had = set(data.user_history[list(data.users.ids).index(USERS[0].encode()) + 2].numpy())
    ids = [item.decode() for index, item in enumerate(data.items.ids, 2) if index not in had]
    events = [ids[40], ids[3], ids[17]]
    later = with_events(toy, place / "data", USERS, events).load("two_tower")
    # What answers holds the transform graph of its own data; both are the same one.
    model._data = later
    with served(place / "two_tower" / "1", "two_tower", state=str(place / "state.db")) as server:
        yield SimpleNamespace(
            server=server,
            events=events,
            folder=place / "two_tower" / "1",
            ids=[item.decode() for item in data.items.ids],
            before=tf.saved_model.load(str(place / "two_tower" / "1")).signatures,
            later={"recommend": Retriever(model, later).recommend},
        )


def ask(signatures, user: str, k: int = 60):
    """Item ids, scores and strategy, without a history."""
    answer = signatures["recommend"](
        user_id=tf.constant([user]),
        history=strings([[]]),
        exclude=strings([[]]),
        k=tf.constant([k]),
    )
    ids = [item.decode() for item in answer["item_id"].numpy()[0] if item]
    return ids, answer["score"].numpy()[0, : len(ids)], answer["strategy"].numpy()[0].decode()


@pytest.mark.parametrize("user", USERS)
def test_streamed_events_answer_as_a_model_made_with_them(live, user):
    ids, scores, strategy = ask(live.later, user)
    assert strategy == {"user 0": "model", "stranger": "fold-in"}[user]
    with live.server.client("rest") as client:
        before = client.recommend(user, k=60)
        for number, item in enumerate(live.events):
            event = {"user_id": user, "item_id": item, "timestamp": NOW + number}
            assert client.write_events([event]).written == 1
    for protocol in PROTOCOLS:
        with live.server.client(protocol) as client:
            answer = client.recommend(user, k=60)
        assert [item for item, _ in answer.items] == ids and answer.strategy == strategy
        np.testing.assert_allclose([score for _, score in answer.items], scores, atol=1e-5)
    # It is another answer than before, and what the user did is left out of it.
    assert not set(live.events) & set(ids)
    assert [item for item, _ in before.items] != ids


def test_an_item_that_enters_is_answered_by_its_features(live):
    features = {"title": "The red one", "year": 1985, "genres": ["Drama", "Comedy"]}
    items = [
        {"item_id": "new", "features": features},
        # What the model knows already stays what it is, and what nobody can tell apart is none.
        {"item_id": live.events[0], "features": features},
        {"item_id": "vague", "features": {"title": "unheard of"}},
    ]
    vector = live.before["embed_items"](
        item_title=tf.constant(["The red one"]),
        item_year=tf.constant([1985.0]),
        item_genres=tf.constant([["Drama", "Comedy"]]),
    )["embedding"].numpy()[0]
    user = "user 1"
    who = {"user_id": tf.constant([user]), "history": strings([[]])}
    score = float(live.before["embed"](**who)["embedding"].numpy()[0] @ vector)
    ids, scores, _ = ask(live.before, user)
    # Behind all that score as much or more.
    place = int((scores >= score).sum())
    expected = [*ids[:place], "new", *ids[place:]]
    for protocol in PROTOCOLS:
        with live.server.client(protocol) as client:
            told = client.write_items(items)
            assert told.answered_now == ("two_tower",) and told.answered_after_export == ()
            assert told.unknown == ("vague",)
            answer = client.recommend(user, k=100)
            assert [item for item, _ in answer.items] == expected
            np.testing.assert_allclose(dict(answer.items)["new"], score, atol=1e-5)
            assert [item for item, _ in client.recommend(user, k=place + 1).items] == [
                *expected[: place + 1]
            ]
            # Excluded, or had already: told in the request, or known of the user.
            for more in ({"exclude": ["new"]}, {"history": ["new"]}):
                assert "new" not in dict(client.recommend(user, k=100, **more).items)
            client.write_events([{"user_id": f"user 2{protocol}", "item_id": "new"}])
            assert "new" not in dict(client.recommend(f"user 2{protocol}", k=100).items)
            # Popularity has nothing to say of it: it stands behind what anybody had.
            nobody = client.recommend("nobody at all", k=100)
            assert nobody.strategy != "model" and nobody.items[-1] == ("new", 0.0)
            assert len(nobody.items) == 61 == len({*dict(nobody.items)})
            client.write_items([{"item_id": "new", "left": True}])
            assert "new" not in dict(client.recommend(user, k=100).items)


NOTHING = {"user_id": ["u"], "history": [["a"]], "exclude": [[]], "k": [2]}
LIKE = {"item_id": ["a"], "exclude": [[]], "k": [2], "allow": [[]], "where": [[]]}


@pytest.mark.parametrize(
    "signature, inputs, said",
    [
        (
            "recommend",
            {**NOTHING, "user_id": [["u"]]},
            "user_id: required shape [B]; received [1, ",
        ),
        (
            "recommend",
            {**NOTHING, "history": ["a b"]},
            "history: required shape [B, L]; received [1",
        ),
        (
            "recommend",
            {**NOTHING, "exclude": ["a"]},
            "exclude: required shape [B, L]; received [1]",
        ),
        (
            "recommend",
            {**NOTHING, "history": [[["a"]]]},
            "history: required shape [B, L]; received",
        ),
        ("recommend", dict.fromkeys(NOTHING, []), "exclude: required shape [B, L]; received [0]"),
        ("similar", {**LIKE, "item_id": [["a"]]}, "item_id: required shape [B]; received [1, 1]"),
        ("retrieve", {"embedding": [[1.0, 2.0]], "k": 2}, "embedding: required shape [B, "),
    ],
)
def test_an_input_of_another_rank_is_refused_by_name(live, signature, inputs, said):
    with live.server.client("rest") as client, pytest.raises(ServingError) as refusal:
        client.predict(inputs, signature)
    assert refusal.value.code == Code.INVALID_ARGUMENT and refusal.value.message.startswith(said)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_server_says_which_items_that_enter_it_does_not_answer(live, protocol):
    good = {"title": "The red one", "year": 1985, "genres": ["Drama"]}
    with live.server.client(protocol) as client:

        def refused(features):
            rows = [{"item_id": "good"}, {"item_id": "bad", "features": features}]
            with pytest.raises(ServingError) as refusal:
                client.write_items(rows)
            assert refusal.value.code == Code.INVALID_ARGUMENT
            return refusal.value.message

        missing = "no model has such a column; the nearest is"
        assert refused({"genre": ["Drama"]}) == f"item 1: features.genre: {missing} genres"
        assert refused({**good, "colour": "red"}).startswith(f"item 1: features.colour: {missing}")
        for year in ("abc", [1985, 1986]):
            expected = "item 1: features.year: required: a number; received"
            assert refused({"year": year}).startswith(expected)
        answer = client.write_items(
            [
                {"item_id": "good", "features": good},
                {"item_id": "vague", "features": {"genres": ["Nope"]}},
                {"item_id": "cut", "features": {"genres": "Drama|War"}},
                # The model's own is answered, whatever is told of it.
                {"item_id": live.ids[0], "features": {"genres": ["Nope"]}},
            ]
        )
        assert answer.answered_now == ("two_tower",) and answer.unknown == ("vague", "cut")
        answered = dict(client.recommend("nobody at all", k=100).items)
        assert "good" in answered and not {"vague", "cut", "bad"} & set(answered)
        # One of which nothing is known is not answered any more.
        answer = client.write_items([{"item_id": "good", "features": {"genres": ["Nope"]}}])
        assert (answer.answered_now, answer.answered_after_export) == ((), ("two_tower",))
        assert answer.unknown == ("good",)


def test_recsys_ingest_leaves_out_items_that_the_server_refuses(live):
    lines = [
        {"item_id": "fine", "features": {"genres": ["Drama"]}},
        {"item_id": "bad", "features": {"genre": ["Drama"]}},
        {"item_id": "vague", "features": {"genres": ["Nope"]}},
    ]
    text = "\n".join(map(json.dumps, lines))
    address = live.server.addresses["rest"]
    done = CliRunner().invoke(main, ["ingest", "-", "--address", address], input=text)
    assert done.exit_code == 1
    assert "rejected: line 2: features.genre: no model has such a column" in done.output
    assert (
        f"2 written to {address}, 0 older than it keeps, 1 rejected; 1 not answered" in done.output
    )
    assert done.output.rstrip().endswith("knows none of their values: vague")
    with live.server.client("rest") as client:
        client.write_items([{"item_id": "fine", "left": True}])


RED = {"title": "The red one", "year": 1985, "genres": ["Drama", "Comedy"]}
GREY = {"title": "The grey one", "year": 1999.0, "genres": ["Drama"]}


def vectors_of(live, *told: dict) -> np.ndarray:
    """[E, D] vectors of items by what is told of them."""
    return live.before["embed_items"](
        item_title=tf.constant([each["title"] for each in told]),
        item_year=tf.constant([float(each["year"]) for each in told]),
        item_genres=tf.constant([(each["genres"] + [""])[:2] for each in told]),
    )["embedding"].numpy()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_items_that_enter_are_similar_to_others_and_others_to_them(live, protocol, tmp_path):
    names = [*live.ids, "red", "grey"]
    known = live.before["item_vectors"](item_id=tf.constant(live.ids))["embedding"].numpy()
    vectors = np.concatenate([known, vectors_of(live, RED, GREY)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near = {name: dict(zip(names, vectors @ own)) for name, own in zip(names, vectors)}

    def check(answer, item, without=()):
        wanted = {name for name in names if name not in (item, *without)}
        assert {name for name, _ in answer.items} == wanted and len(answer.items) == len(wanted)
        scores = [score for _, score in answer.items]
        assert scores == sorted(scores, reverse=True)
        np.testing.assert_allclose(scores, [near[item][n] for n, _ in answer.items], atol=1e-5)

    item, other = live.ids[5], live.ids[9]
    with live.server.client(protocol) as client:
        entered = [{"item_id": "red", "features": RED}, {"item_id": "grey", "features": GREY}]
        client.write_items(entered)
        try:
            of_item, of_red, unknown = client.similar_many([item, "red", "nobody"], k=100)
            check(of_item, item)
            check(of_red, "red")
            assert (of_item.strategy, of_red.strategy) == ("vectors", "features")
            assert unknown.items == [] and unknown.strategy == "unknown"
            first = client.similar(item, k=2).items
            assert [name for name, _ in first] == [name for name, _ in of_item.items[:2]]
            # Rules and what is excluded hold of them too.
            (only,) = client.similar(item, where=["year > 1998"], allow=["red", "grey"]).items
            assert only[0] == "grey"
            only = client.similar("red", allow=["red", "grey", other], exclude=["grey"]).items
            assert [name for name, _ in only] == [other]
            told = {
                "item_title": [RED["title"]],
                "item_year": [float(RED["year"])],
                "item_genres": [RED["genres"]],
                "exclude": [[""]],
                "k": [1],
                "allow": [["red", "grey", other]],
                "where": [[""]],
            }
            answer = client.predict(told, "similar_features")
            assert answer["item_id"] == [["red"]]
            np.testing.assert_allclose(answer["score"], 1.0, atol=1e-5)
            # Nobody is told of an item that left, whether the model knows it or not.
            client.write_items([{"item_id": name, "left": True} for name in ("grey", other)])
            check(client.similar(item, k=100), item, ["grey", other])
            check(client.similar("red", k=100), "red", ["grey", other])
        finally:
            client.write_items([{"item_id": "red", "left": True}, {"item_id": other}])
            client.write_items([{"item_id": "grey", "left": True}])
    # A client does so itself, before a server that knows no state.
    address = live.server.addresses[protocol]
    with open_state(str(tmp_path / "state.db")) as state:
        state.write(items=[Item(other.encode(), left=True)])
        with Client(address, live.server.name, protocol, timeout=60, state=state) as client:
            answer = client.similar(item, k=100)
    assert {name for name, _ in answer.items} == {*live.ids} - {item, other}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_items_that_enter_are_answered_under_rules_with_their_reasons(live, protocol):
    """Of who is known by a history alone, each item of it weighs what the score loses."""
    vector = vectors_of(live, RED)[0]
    history = [live.ids[20], live.ids[33], live.ids[48]]

    def score(items) -> float:
        who = {"user_id": tf.constant(["somebody"]), "history": strings([items])}
        return float(live.before["embed"](**who)["embedding"].numpy()[0] @ vector)

    whole = score(history)
    lost = {item: whole - score([each for each in history if each != item]) for item in history}
    lost = {item: weight for item, weight in lost.items() if weight > 0}
    assert lost
    asked = {"history": history, "explain": 3}

    def check(reasons: Reasons):
        assert reasons.basis == "difference"
        assert [item for item, _ in reasons.parts] == sorted(lost, key=lost.get, reverse=True)
        weights = [lost[item] for item, _ in reasons.parts]
        np.testing.assert_allclose([part for _, part in reasons.parts], weights, atol=1e-5)

    with live.server.client(protocol) as client:
        plain = client.recommend("somebody", k=100, **asked)
        assert len(plain.items) == 57 and len(plain.reasons) == 57
        client.write_items([{"item_id": "red", "features": RED}])
        try:
            answer = client.recommend("somebody", k=100, **asked)
            place = [item for item, _ in answer.items].index("red")
            np.testing.assert_allclose(answer.items[place][1], whole, atol=1e-5)
            check(answer.reasons[place])
            # It stands by its score; the others and their reasons are what they were.
            others = [pair for number, pair in enumerate(answer.items) if number != place]
            assert [item for item, _ in others] == [item for item, _ in plain.items]
            others = [each for number, each in enumerate(answer.reasons) if number != place]
            assert others == list(plain.reasons)
            scores = [score for _, score in answer.items]
            assert scores == sorted(scores, reverse=True)
            # Rules hold of it.
            raised = client.recommend(
                "somebody", k=100, boost=["year = 1985 => + 9"], where=["year = 1985"], **asked
            )
            np.testing.assert_allclose(dict(raised.items)["red"], whole + 9, atol=1e-5)
            check(raised.reasons[[item for item, _ in raised.items].index("red")])
            for rules in (
                {"where": ["year > 1985"]},
                {"allow": [live.ids[1]]},
                {"min_score": whole + 0.01},
                {"exclude": ["red"]},
                {"diversity": "genres <= 100"},
            ):
                found = client.recommend("somebody", k=100, **asked, **rules)
                assert "red" not in dict(found.items)
            alone = client.recommend("somebody", k=1, allow=["red"], **asked)
            assert alone.fewer == "" and len(alone.items) == 1
            check(alone.reasons[0])
            fewer = client.recommend("somebody", k=2, allow=["red"]).fewer
            assert fewer.startswith("0 answered") and fewer.endswith("; beside them 1 that entered")
            pinned = client.recommend("somebody", k=3, pin=["", "red"], **asked)
            assert [item for item, _ in pinned.items] == [
                plain.items[0][0],
                "red",
                plain.items[1][0],
            ]
            assert pinned.reasons[1] == Reasons("pin") and pinned.reasons[0] == plain.reasons[0]
            # Who gets popularity hears nothing of it but that.
            nobody = client.recommend("nobody at all", k=100, explain=3)
            assert nobody.items[-1] == ("red", 0.0) and nobody.reasons[-1].parts == ()
            assert nobody.reasons[-1].basis in ("popularity", "segment")
            # And where an item is named.
            told = {"user_id": ["somebody"], "history": [history], "reasons": [3]}
            found = client.predict({**told, "item_id": [["red", live.ids[1], ""]]}, "explain")
            without = client.predict({**told, "item_id": [["", live.ids[1], ""]]}, "explain")
            parts = zip(found["reason"][0][0], found["weight"][0][0])
            parts = tuple((item, weight) for item, weight in parts if item)
            check(Reasons(found["basis"][0][0], parts))
            for name in ("reason", "weight", "basis"):
                assert list(found[name][0][1:]) == list(without[name][0][1:])
        finally:
            client.write_items([{"item_id": "red", "left": True}])


def test_more_items_than_a_batch_has_rows_may_enter(live, tmp_path):
    parameters = tmp_path / "batching.txt"
    parameters.write_text("max_batch_size { value: 2 } max_enqueued_batches { value: 9 }")
    options = {"enable_batching": True, "batching_parameters_file": str(parameters)}
    names = {f"red {number}" for number in range(3)}
    with (
        served(live.folder, "two_tower", state=str(tmp_path / "state.db"), **options) as server,
        server.client("rest") as client,
    ):
        client.write_items([{"item_id": name, "features": RED} for name in names])
        answer = client.recommend("somebody", history=[live.ids[20]], allow=[*names], explain=1)
        assert {name for name, _ in answer.items} == names
        assert {reasons.basis for reasons in answer.reasons} == {"difference"}


@pytest.mark.thorough
def test_items_that_one_model_reads_and_another_has_rules_for(live, toy_data, tmp_path):
    """yahoo_news reads titles alone; its rules know the other columns of the items' table."""
    data = toy_data("event", 0.0).load("yahoo_news")
    module = registry.load("yahoo_news")
    tf.keras.utils.set_random_seed(5)
    model = module.Model(module.HyperParameters(**YAHOO), data)
    TrainingLoop(model.hyper_parameters, data).build(model)
    folder = tmp_path / "yahoo_news" / "1"
    Retriever(model, data).export(str(folder))
    drama = {"item_id": "drama", "features": {"title": "unheard of", "genres": ["Drama"]}}
    with served(folder, "yahoo_news", state=str(tmp_path / "one.db")) as server:
        with server.client("rest") as client:
            assert client.write_items([drama]).unknown == ("drama",)
            with pytest.raises(ServingError, match="features.genre: no model has such a column"):
                client.write_items([{"item_id": "drama", "features": {"genre": ["Drama"]}}])
    several = tmp_path / "models.config"
    each = 'config {{ name: "{0.name}" base_path: "{0}" model_platform: "tensorflow" }}'
    models = [each.format(one.parent) for one in (folder, live.folder)]
    several.write_text(f"model_config_list {{ {' '.join(models)} }}")
    state = str(tmp_path / "two.db")
    server = Server(model_config_file=str(several), port=0, rest_api_port=0, state=state)
    server.start()
    try:
        with Client(f"127.0.0.1:{server.rest_port}", "two_tower", timeout=60) as client:
            told = client.write_items([drama])
        assert (told.answered_now, told.answered_after_export) == (("two_tower",), ("yahoo_news",))
        assert told.unknown == ()
    finally:
        server.stop()
