"""Live state before a real SavedModel: its answers are those of one exported with the state."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.contract.retriever import Retriever
from models.names import registry
from models.training.loop import TrainingLoop
from tests.models.contract import strings
from tests.models.served import PROTOCOLS, served
from tests.models.test_two_tower import TOY
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
    """An untrained two-tower, exported without and with three events, the former one served."""
    place, toy = tmp_path_factory.mktemp("live"), toy_data("event", 0.0)
    # The stranger stands in the table of users, with nothing that they have had.
    toy = with_events(toy, place / "first", [USERS[1]], [])
    data = toy.load("two_tower")
    module = registry.load("two_tower")
    tf.keras.utils.set_random_seed(5)
    model = module.Model(module.HyperParameters(**TOY), data)
    TrainingLoop(model.hyper_parameters, data).build(model)
    Retriever(model, data).export(str(place / "two_tower" / "1"), rules=False)
    had = set(data.user_history[list(data.users.ids).index(USERS[0].encode()) + 2].numpy())
    ids = [item.decode() for index, item in enumerate(data.items.ids, 2) if index not in had]
    events = [ids[40], ids[3], ids[17]]
    later = with_events(toy, place / "data", USERS, events).load("two_tower")
    # What is exported holds the transform graph of its own data; both are the same one.
    model._data = later
    Retriever(model, later).export(str(place / "later"), rules=False)
    with served(place / "two_tower" / "1", "two_tower", state=str(place / "state.db")) as server:
        yield SimpleNamespace(
            server=server,
            events=events,
            before=tf.saved_model.load(str(place / "two_tower" / "1")).signatures,
            later=tf.saved_model.load(str(place / "later")).signatures,
        )


def ask(signatures, user: str, k: int = 60):
    """Item ids, scores and strategy of an exported model, without a history."""
    answer = signatures["recommend"](
        user_id=tf.constant([user]),
        history=strings([[]]),
        exclude=strings([[]]),
        k=tf.constant([k]),
    )
    ids = [item.decode() for item in answer["item_id"].numpy()[0] if item]
    return ids, answer["score"].numpy()[0, : len(ids)], answer["strategy"].numpy()[0].decode()


@pytest.mark.parametrize("user", USERS)
def test_streamed_events_answer_as_a_model_exported_with_them(live, user):
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
