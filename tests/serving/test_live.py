"""Live state behind the embedded server, and before any server: the answers change at once."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import threading
import time

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from serving.client.client import Client
from serving.client.messages import Query
from serving.state import Event, Item, open_state
from serving.wire import protos
from serving.wire.errors import Code, ServingError
from tests.serving.client_kinds import KINDS, error_of, make
from tests.serving.support import Process, Target, eventually, expect_error, expect_status
from tests.serving.test_request_log import read_all

# The fixture `recommender` answers i0, i1, ... but for what stands in history and exclude; `told`
# tells besides what it was asked with.
NOW = int(time.time())


def items(answer) -> list[str]:
    return [item for item, _ in answer.items]


@pytest.fixture(scope="module")
def server(laboratory, tmp_path_factory):
    """A server of all fixture models with a state; each test has users of its own."""
    folder = tmp_path_factory.mktemp("state")
    target = laboratory.start(
        state=folder / "state.db",
        state_events_per_user=5,
        state_ttl_days=1,
        monitoring_config_file=laboratory.models / "monitoring.config",
    )
    target.state = folder / "state.db"
    yield target
    laboratory.stop(target)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_user_does_changes_the_next_answer(server, kind):
    user = f"u-{kind}"
    with make(kind, server) as client:
        assert items(client.recommend(user, k=3)) == ["i0", "i1", "i2"]
        told = client.write_events(
            [
                {"user_id": user, "item_id": "i1", "event_type": "view", "dwell": 1.5},
                {"user_id": user.encode(), "item_id": "i0", "timestamp": NOW},
                {"user_id": user, "item_id": "i9", "timestamp": NOW - 2 * 86400},
            ]
        )
        # The last is older than a day.
        assert (told.written, told.expired) == (2, 1)
        assert items(client.recommend(user, k=3)) == ["i2", "i3", "i4"]
        # Each row has its own user's; one that tells a history is left as it is.
        own = Query(user, history=["i5"])
        first, second, third = client.recommend_many([Query(user), Query("u-x"), own], k=3)
        assert items(first) == ["i2", "i3", "i4"]
        assert items(second) == ["i0", "i1", "i2"] == items(third)


def test_the_answers_are_those_to_the_history_told(server):
    """The same SavedModel, asked with the events explicitly by users whom the state has not."""
    history = ["i3", "i0", "i7", "i1"]
    client = Client(f"127.0.0.1:{server.rest}", "recommender")
    with client:
        for number, item in enumerate(history):
            client.write_events([{"user_id": "u-stream", "item_id": item, "timestamp": NOW}])
            explicit = client.recommend("u-explicit", history=history[: number + 1])
            assert client.recommend("u-stream") == explicit


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moment", [{}, {"hour": 2.0, "device": "oven"}])
def test_what_stands_beside_the_items_is_filled_where_the_model_reads_it(server, kind, moment):
    """A request of ids alone, and one that tells the context."""
    user = f"u-told-{kind}"
    with make(kind, server, "told") as client:
        client.write_events(
            [
                {"user_id": user, "item_id": "i2", "event_type": "buy", "timestamp": NOW},
                {"user_id": user, "item_id": "i4", "dwell": 2.5, "timestamp": NOW - 9},
            ]
        )
        explicit = {"event_types": ["", "buy"], "dwell": [2.5, 0.0], "timestamps": [NOW - 9, NOW]}
        told = client.recommend("u-other", history=["i4", "i2"], context=moment, k=4, **explicit)
        assert items(told) == ["i0", "i1", "i3", "i5"]
        assert client.recommend(user, context=moment, k=4) == told
        # Another type, another score: the answers above do depend on it.
        explicit["event_types"] = ["buy", "buy"]
        other = client.recommend("u-other", history=["i4", "i2"], context=moment, k=4, **explicit)
        assert other.items[0][1] != told.items[0][1]


@pytest.mark.parametrize("kind", KINDS)
def test_items_that_left_are_answered_to_nobody_until_they_come_back(server, kind):
    with make(kind, server) as client:
        left = [{"item_id": "i0", "left": True}, {"item_id": "i2", "left": True}]
        assert client.write_items(left).written == 2
        try:
            # Whether the user is known, tells a history or excludes items.
            for query in (Query("u-nobody"), Query("u-nobody", exclude=["i9"])):
                assert items(client.recommend_many([query], 3)[0]) == ["i1", "i3", "i4"]
            told = client.recommend("u-nobody", history=["i1"], exclude=["i4"], k=3)
            assert items(told) == ["i3", "i5", "i6"]
        finally:
            client.write_items([{"item_id": "i0"}, {"item_id": "i2", "features": {"a": ["b"]}}])
        assert items(client.recommend("u-nobody", k=3)) == ["i0", "i1", "i2"]


def test_rest_refuses_by_position_and_field_and_writes_nothing(server):
    good = {"user_id": "u-refused", "item_id": "i0"}
    for body, said in (
        ([good, {"user_id": "u-refused"}], "event 1: item_id: required: a string that is not emp"),
        ([good, 7], "event 1: required: an object; received 7"),
        ({"user_id": 1, "item_id": "i"}, "event 0: user_id: required: a string that is not empty"),
        ("[", "JSON Parse error"),
        ("", "JSON Parse error: The document is empty"),
    ):
        expect_error(server.post("/v1/events", body), 400, said)
    expect_error(server.post("/v1/items", {"id": "i"}), 400, "the nearest is item_id")
    expect_error(server.get("/v1/events"), 400, "Malformed request: GET /v1/events")
    with Client(f"127.0.0.1:{server.rest}", "recommender") as client:
        assert items(client.recommend("u-refused", k=1)) == ["i0"]
    # One event alone, bytes that are no UTF-8 as they are and as base64.
    assert server.post("/v1/events", good).json() == {"written": 1, "expired": 0}
    assert server.post("/v1/events", b'{"user_id": "u-\xff", "item_id": "i0"}').status == 200
    coded = {"user_id": {"b64": "dS3/"}, "item_id": "i1"}
    assert server.post("/v1/events", coded).status == 200
    assert server.post("/v1/events", []).json() == {"written": 0, "expired": 0}
    with open_state(str(server.state)) as state:
        found = state.look_up([b"u-\xff"]).histories[0]
        assert [each.item_id for each in found] == [b"i0", b"i1"]


def test_grpc_refuses_likewise_and_the_client_what_no_message_holds(server):
    stub = protos.LiveStateStub(server.channel)
    request = protos.EventsRequest()
    request.events.add(user_id=b"u-g", item_id=b"i0")
    request.events.add(user_id=b"u-g")
    with expect_status("INVALID_ARGUMENT", "event 1: item_id: required: a string that is not em"):
        stub.WriteEvents(request)
    items_request = protos.ItemsRequest()
    feature = items_request.items.add(item_id=b"i").features.add(name="mixed")
    feature.texts.append("a")
    feature.numbers.append(1)
    with expect_status("INVALID_ARGUMENT", "item 0: features.mixed: required: a string, a number"):
        stub.WriteItems(items_request)
    with make("grpc", server) as client:
        for row, said in (
            ({"user": "u", "item_id": "i"}, "event 1: "),
            ({"user_id": 7, "item_id": "i"}, "event 1: "),
        ):
            error = error_of(lambda row=row: client.write_events([{"item_id": "i"}, row]))
            assert error.code == Code.INVALID_ARGUMENT and error.message.startswith(said)


def test_features_come_through_both_protocols(server):
    features = {"genres": ["Drama", "War"], "year": 1999.0, "title": "\u00e9", "none": None}
    for kind in ("rest", "grpc"):
        with make(kind, server) as client:
            client.write_items([{"item_id": f"new-{kind}", "features": features}])
    with open_state(str(server.state)) as state:
        for kind in ("rest", "grpc"):
            found = state.items()[f"new-{kind}".encode()].features
            assert found == {"genres": ["Drama", "War"], "year": 1999.0, "title": "\u00e9"}


@pytest.mark.parametrize("kind", ["rest", "grpc"])
def test_recsys_ingest_tells_a_server(server, kind):
    user, flags = f"u-ingest-{kind}", {"rest": [], "grpc": ["--grpc"]}[kind]
    address = f"127.0.0.1:{server.rest if kind == 'rest' else server.grpc}"
    lines = [{"user_id": user, "item_id": "i0"}, {"item_id": "i2", "features": {"a": [1.5, 2.5]}}]
    text = "\n".join(map(json.dumps, lines))
    done = CliRunner().invoke(main, ["ingest", "-", *flags, "--address", address], input=text)
    assert done.exit_code == 0, done.output
    assert f"2 written to {address}, 0 older than it keeps, 0 rejected" in done.output
    with make(kind, server) as client:
        assert items(client.recommend(user, k=2)) == ["i1", "i2"]


def test_what_was_asked_of_the_state_is_counted(server):
    server.post("/v1/events", {"user_id": "u-count", "item_id": "i0"})
    with Client(f"127.0.0.1:{server.rest}", "recommender") as client:
        client.recommend("u-count")
    page = server.get("/monitoring/prometheus/metrics").body.decode()
    for operation in ("write_events", "look_up"):
        count = f'recsys_serving_state_operations_total{{operation="{operation}",status="OK"}}'
        assert count in page


def test_a_request_whose_shapes_are_wrong_is_the_models_to_answer(server, target):
    inputs = {"user_id": ["u", "v"], "history": [[""]] * 2, "exclude": [[""]] * 2, "k": [1, 1]}
    for wrong in ({"user_id": [["u"]]}, {"history": ["", ""]}, {"exclude": [[""]] * 3}):
        body = {"inputs": {**inputs, **wrong}}
        found, without = (s.post("/v1/models/recommender:predict", body) for s in (server, target))
        assert (found.status, found.body) == (without.status, without.body)
    # A model of no users is none of the state's business.
    assert server.half() == 3.0


def test_without_a_state_it_is_said(target):
    expect_error(target.post("/v1/events", []), 400)
    request = protos.EventsRequest()
    with expect_status("UNIMPLEMENTED"):
        protos.LiveStateStub(target.channel).WriteEvents(request)


def test_too_many_that_left_for_a_request_are_told(start, tmp_path):
    server = start(state=tmp_path / "state.db", max_elements=100)
    left = [{"item_id": f"gone {n}", "left": True} for n in range(20)]
    # 20 rows of 20, padded to 32: more than 100 values.
    assert server.post("/v1/items", left).status == 200
    with Client(f"127.0.0.1:{server.rest}", "recommender") as client:
        assert len(client.recommend("u").items) == 10
        error = error_of(lambda: client.recommend_many([Query("u")] * 20))
    assert (error.code, "values; the limit is 100" in error.message) == (3, True)


def test_a_state_that_cannot_be_read_costs_a_request_its_knowledge_alone(start, tmp_path):
    path = tmp_path / "state.db"
    server = start(state=path)
    with Client(f"127.0.0.1:{server.rest}", "recommender", retries=0) as client:
        client.write_items([{"item_id": "i1", "left": True}])
        client.write_events([{"user_id": "u", "item_id": "i0"}])
        assert items(client.recommend("u", k=2)) == ["i2", "i3"]
        # Another program takes the table away.
        other = sqlite3.connect(path)
        other.execute("DROP TABLE events")
        other.close()
        # The history is not known any more; what left was known before.
        assert items(client.recommend("u", k=2)) == ["i0", "i2"]
        error = error_of(lambda: client.write_events([{"user_id": "u", "item_id": "i0"}]))
        assert error.code == Code.UNAVAILABLE
        assert "cannot write the state" in error.message and "no such table" in error.message


def test_two_servers_of_one_state_know_the_same_at_once(server, start):
    other = start(state=server.state)
    with make("rest", server) as first, make("grpc", other) as second:
        first.write_events([{"user_id": "u-both", "item_id": "i0"}])
        assert items(second.recommend("u-both", k=1)) == ["i1"]
        second.write_items([{"item_id": "i1", "left": True}])
        assert items(first.recommend("u-both", k=1)) == ["i2"]
        first.write_items([{"item_id": "i1"}])
        assert items(second.recommend("u-both", k=1)) == ["i1"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["recommender", "told"])
def test_a_client_does_the_same_before_a_server_that_cannot(server, target, kind, model, tmp_path):
    """`target` has no state: it answers as TensorFlow Serving would."""
    user = f"u-client-{kind}-{model}"
    events = [
        Event(user.encode(), b"i3", "buy", 2.0, NOW - 5),
        Event(user.encode(), b"i0", "", 0.5, NOW),
    ]
    path = str(tmp_path / "state.db")
    with open_state(path) as state:
        state.write(events, [Item(b"i1", left=True)])
    with make(kind, server, model) as client:
        rows = [{name: value for name, value in vars(event).items() if value} for event in events]
        client.write_events(rows)
        client.write_items([{"item_id": "i1", "left": True}])
        try:
            queries = [Query(user), Query(user, ["i5"]), Query("u-nobody", exclude=["i2"])]
            by_server = client.recommend_many(queries, k=3)
        finally:
            client.write_items([{"item_id": "i1"}])
    assert items(by_server[0]) == ["i2", "i4", "i5"]
    with make(kind, target, model, state=path) as client:
        assert client.recommend_many(queries, k=3) == by_server
    with open_state(path) as state, make(kind, target, model, state=state) as client:
        assert client.recommend(user, k=3) == by_server[0]
    with make(kind, target, model) as client:
        assert items(client.recommend(user, k=3)) == ["i0", "i1", "i2"]


def test_what_the_model_knows_already_is_not_told_again(laboratory, start, target, tmp_path):
    """After an export with the events of the state: its training log says how far they go."""
    folder = tmp_path / "recommender"
    shutil.copytree(laboratory.models / "recommender" / "1", folder / "1")
    (folder / "1" / "assets.extra").mkdir(exist_ok=True)
    log = folder / "1" / "assets.extra" / "training.json"
    log.write_text(json.dumps({"history_until": NOW - 10}))
    state = tmp_path / "state.db"
    server = start(model_name="recommender", model_base_path=folder, state=state)
    with make("rest", server) as client:
        client.write_events(
            [
                {"user_id": "u", "item_id": "i0", "timestamp": NOW - 10},
                {"user_id": "u", "item_id": "i1", "timestamp": NOW - 9},
            ]
        )
        assert items(client.recommend("u", k=2)) == ["i0", "i2"]
    # Before a server that cannot read it, the client is told.
    for kind in ("grpc", "rest-async"):
        with make(kind, target, state=str(state), state_since=NOW - 10) as client:
            assert items(client.recommend("u", k=2)) == ["i0", "i2"]


def test_a_client_whose_state_cannot_be_read_asks_without(target, tmp_path):
    path = tmp_path / "state.db"
    with open_state(str(path)) as state:
        state.write([Event(b"u", b"i0", timestamp=NOW)])
        with make("rest", target, state=state) as client:
            assert items(client.recommend("u", k=1)) == ["i1"]
            state._reader.execute("DROP TABLE events")
            assert items(client.recommend("u", k=1)) == ["i0"]


def test_what_is_logged_is_what_the_model_was_asked(laboratory, start, tmp_path):
    server = start(
        model_name="told",
        model_base_path=laboratory.models / "told",
        state=tmp_path / "state.db",
        request_log_prefix=tmp_path / "log",
        request_log_sampling_rate=1,
        request_log_max_file_bytes=1,
    )
    with make("rest", server, "told") as client:
        client.write_events([{"user_id": "u", "item_id": "i0", "event_type": "buy"}])
        client.recommend("u")
    eventually(lambda: len(list(tmp_path.glob("log-*.tfrecord"))) == 1, what="one file")
    (record,) = read_all(tmp_path, "log-*")
    asked = record.predict_log.request
    assert asked.model_spec.signature_name == "recommend_events"
    assert list(asked.inputs["history"].string_val) == [b"i0"]
    assert list(asked.inputs["event_types"].string_val) == [b"buy"]


def test_kill_9_of_a_server_loses_nothing_that_it_acknowledged(laboratory, tmp_path):
    path, acknowledged = tmp_path / "state.db", []
    flags = ["--port=0", "--rest-api-port=0", f"--state={path}", "--model-name=half"]
    flags += [f"--model-base-path={laboratory.models / 'half'}"]
    process = Process("-m", "serving.server", *flags, errors=tmp_path / "log")
    try:
        ready = process.line()
        target = Target("127.0.0.1", ready["rest"], ready["grpc"], laboratory.models)

        def tell(client, name: str) -> None:
            with client:
                for number in range(1000):
                    user = f"{name} {number}"
                    try:
                        client.write_events([{"user_id": user, "item_id": "i"}])
                    except ServingError:
                        return
                    acknowledged.append(user.encode())

        tellers = [
            threading.Thread(target=tell, args=(make(kind, target, retries=0), f"{kind} {n}"))
            for n in range(4)
            for kind in ("rest", "grpc")
        ]
        for each in tellers:
            each.start()
        eventually(lambda: len(acknowledged) > 100, what="100 events")
        process.popen.send_signal(signal.SIGKILL)
        for each in tellers:
            each.join()
        target.channel.close()
    finally:
        process.end()
    with open_state(str(path)) as state:
        assert all(state.look_up(acknowledged).histories)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"state_events_per_user": 0}, "--state-events-per-user must be at least 1"),
        ({"state_ttl_days": -1}, "--state-ttl-days 0 or more"),
        ({"state": "http://h"}, "redis://, rediss:// or unix://; got http://h"),
        ({"state": "/nowhere/state.db"}, "cannot keep the state in /nowhere/state.db"),
    ],
)
def test_wrong_options_stop_the_start(start, options, said):
    with pytest.raises(RuntimeError, match=said):
        start(**options)
