"""The state by itself: what is read, what is kept, and what a request is filled with."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from serving.state import Event, Item, Live, open_state, read_events, read_items
from serving.state.requests import fill
from serving.wire.errors import Code, ServingError, StartError
from tests.serving.support import ROOT, free_port

NOW = int(time.time())


def event(user: str, item: str, ago: int = 0, **more) -> Event:
    return Event(user.encode(), item.encode(), timestamp=NOW - ago, **more)


def items_of(live: Live, row: int = 0) -> list[str]:
    return [each.item_id.decode() for each in live.histories[row]]


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    """A Redis of this module's own; its tests are skipped where there is no redis-server."""
    server = shutil.which("redis-server") or os.environ.get("REDIS_SERVER")
    if not server:
        pytest.skip("needs redis-server on the path, or named by REDIS_SERVER")
    pytest.importorskip("redis")
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([server, *arguments], stdout=subprocess.DEVNULL)
    for _ in range(200):
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.05)
    yield f"redis://127.0.0.1:{port}/0"
    process.kill()
    process.wait()


@pytest.fixture(params=["file", "redis"])
def address(request, tmp_path):
    """Where a state is that nobody has used."""
    if request.param == "file":
        return str(tmp_path / "state.db")
    url = request.getfixturevalue("redis_url")
    import redis

    redis.Redis.from_url(url).flushdb()
    return url


def test_the_newest_events_of_a_user_come_oldest_first(address):
    with open_state(address, events_per_user=3) as state:
        # Told out of order; b and c are of the same second, so their order of arrival holds.
        state.write([event("u", "d", 5), event("u", "b", 10), event("u", "c", 10)])
        state.write([event("u", "a", 20), event("v", "x"), event("u", "e", 1)])
        # The newest three of a, b, c, d, e.
        live = state.look_up([b"u", b"nobody", b"v", b"u"])
        assert items_of(live) == ["c", "d", "e"] == items_of(live, 3)
        assert items_of(live, 1) == [] and items_of(live, 2) == ["x"]
    with open_state(address) as state:
        # What is beyond the bound is gone, not hidden.
        assert items_of(state.look_up([b"u"])) == ["c", "d", "e"]


def test_an_event_keeps_all_that_is_told_and_counts_once_however_often_it_is_sent(address):
    told = Event(b"u \xff\xfe", b"i \xff", "buy \u00e9", 2.5, NOW)
    with open_state(address) as state:
        state.write([told])
        state.write([event("a", "b"), told])
        assert state.look_up([told.user_id]).histories == [[told]]
        # Another type is another event.
        state.write([Event(told.user_id, told.item_id, "view", 2.5, NOW)])
        assert len(state.look_up([told.user_id]).histories[0]) == 2


def test_what_is_too_old_is_neither_kept_nor_read(address):
    with open_state(address, ttl_seconds=10_000) as state:
        told = state.write([event("u", "old", 20_000), event("u", "young", 5_000)])
        assert (told.written, told.expired) == (1, 1)
        assert items_of(state.look_up([b"u"])) == ["young"]
    with open_state(address, ttl_seconds=1_000) as state:
        assert items_of(state.look_up([b"u"])) == []
    with open_state(address, ttl_seconds=0) as state:
        assert state.write([event("w", "ancient", NOW - 1)]).written == 1
        assert items_of(state.look_up([b"w"])) == ["ancient"]


def test_items_leave_come_back_and_enter_with_features(address):
    features = {"genres": ["Drama", "War"], "year": 1999, "title": "é"}
    with open_state(address) as state, open_state(address) as other:
        assert other.look_up([]).left == () and other.items() == {}
        state.write(items=[Item(b"gone", left=True), Item(b"b", left=True), Item(b"new", features)])
        # The other store, of another process say, knows it too.
        assert other.look_up([]).left == (b"b", b"gone")
        assert other.items() == {b"new": Item(b"new", features)}
        state.write(items=[Item(b"gone"), Item(b"new", left=True)])
        assert other.look_up([]).left == (b"b", b"new") and other.items() == {}
        # It comes back with what was known of it.
        state.write(items=[Item(b"new")])
        assert other.items() == {b"new": Item(b"new", features)}


def test_many_writers_wait_for_few_commits_together(tmp_path, monkeypatch):
    state = open_state(str(tmp_path / "state.db"))
    commits, commit = [], state._commit

    def slow(events, items):
        time.sleep(0.05)
        commits.append(len(events))
        commit(events, items)

    monkeypatch.setattr(state, "_commit", slow)
    writers = [
        threading.Thread(target=state.write, args=([event(f"u{n}", "i")],)) for n in range(40)
    ]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    # One a writer would be 40, of .05 s each: the first takes those that have come, the next the
    # rest, or nearly.
    assert sum(commits) == 40 and len(commits) < 8
    state.close()
    with pytest.raises(ServingError, match="closed"):
        state.write([event("u", "i")])


def test_a_commit_that_fails_is_told_to_those_who_wait_and_the_next_is_made(tmp_path):
    path = str(tmp_path / "state.db")
    state = open_state(path)
    state._writer.execute("PRAGMA busy_timeout = 10")
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(ServingError, match="locked") as caught:
        state.write([event("u", "lost")])
    assert caught.value.code == Code.UNAVAILABLE
    # Readers wait for no writer.
    assert items_of(state.look_up([b"u"])) == []
    blocker.execute("ROLLBACK")
    blocker.close()
    state.write([event("u", "kept")])
    assert items_of(state.look_up([b"u"])) == ["kept"]
    state.close()


def test_more_than_may_wait_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("serving.state.store.MOST_WAITING", 3)
    state, release = open_state(str(tmp_path / "state.db")), threading.Event()
    commit = state._commit
    monkeypatch.setattr(state, "_commit", lambda *rows: (release.wait(20), commit(*rows)))
    first = state.submit([event("u", "a"), event("u", "b")])
    with pytest.raises(ServingError, match="wait to be written") as caught:
        state.submit([event("u", "c"), event("u", "d")])
    assert caught.value.code == Code.UNAVAILABLE
    release.set()
    assert first.result(20).written == 2
    state.write([event("u", "c"), event("u", "d")])
    state.close()


_WRITER = """
import sys
from serving.state import Event, open_state
state = open_state(sys.argv[1])
number = 0
while True:
    futures = [state.submit([Event(b"u%d" % (number + n), b"i", timestamp=int(sys.argv[2]))])
               for n in range(20)]
    for future in futures:
        future.result()
    number += 20
    print(number, flush=True)
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path):
    path = str(tmp_path / "state.db")
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, path, str(NOW)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    acknowledged = 0
    for line in process.stdout:
        acknowledged = int(line)
        if acknowledged >= 200:
            process.send_signal(signal.SIGKILL)
            break
    for line in process.stdout:  # what it said before it was dead
        acknowledged = int(line)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    with open_state(path) as state:
        users = [b"u%d" % number for number in range(acknowledged)]
        assert all(state.look_up(users).histories)


@pytest.mark.parametrize(
    "address, said",
    [
        ("http://h/state", "redis://, rediss:// or unix://; got http://h/state"),
        pytest.param(
            "redis://:secret@127.0.0.1:1/0",
            "cannot keep the state in redis://127.0.0.1:1/0",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("redis") is None, reason="needs the package redis"
            ),
        ),
        ("/nowhere/at/all", "cannot keep the state in /nowhere/at/all"),
    ],
)
def test_what_is_no_state_is_said_so(address, said):
    with pytest.raises(StartError) as caught:
        open_state(address)
    assert said in str(caught.value) and "secret" not in str(caught.value)


def test_without_the_package_its_name_is_said_and_no_password(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(StartError, match="state redis://127.0.0.1:1/0 needs the package redis"):
        open_state("redis://:secret@127.0.0.1:1/0")


def test_a_file_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes").write_text("these are my notes, and no database at all\n" * 100)
    with pytest.raises(StartError, match="not a database"):
        open_state(str(tmp_path / "notes"))
    later = sqlite3.connect(tmp_path / "later")
    later.execute("PRAGMA user_version = 2")
    later.close()
    with pytest.raises(StartError, match="of version 2, not 1"):
        open_state(str(tmp_path / "later"))


# --- what clients tell


def test_events_are_read_one_or_many():
    one = {"user_id": "u", "item_id": "i"}
    assert read_events(one, now=1000.7) == [Event(b"u", b"i", "", 0.0, 1000)]
    full = {**one, "event_type": "buy", "dwell": 3, "timestamp": 999.9, "user_id": {"b64": "/w=="}}
    # Whole seconds: what they were in, not what they were near.
    assert read_events([one, full], now=1000) == [
        Event(b"u", b"i", "", 0.0, 1000),
        Event(b"\xff", b"i", "buy", 3.0, 999),
    ]
    nothing = {**one, "event_type": None, "dwell": None, "timestamp": None}
    assert read_events([nothing], now=1000) == read_events([one], now=1000)
    assert read_events([]) == []


@pytest.mark.parametrize(
    "wrong, said",
    [
        (7, "event 1: required: an object; received 7"),
        ({"item_id": "i"}, "event 1: user_id: required: a string that is not empty; received noth"),
        ({"user_id": 7, "item_id": "i"}, "event 1: user_id: required: a string that is not empty"),
        ({"user_id": "u", "item_id": ""}, "event 1: item_id: required: a string that is not empty"),
        ({"user_id": "u", "item_id": {"b64": "?"}}, "event 1: item_id: required: base64"),
        ({"user_id": "\ud800", "item_id": "i"}, "event 1: user_id: required: Unicode"),
        ({"user_id": "u" * 2000, "item_id": "i"}, "event 1: user_id: required: at most 1024 bytes"),
        ({"user_id": "u", "item": "i"}, "event 1: 'item': an event has no such field; the nearest"),
        ({"event_type": 5}, "event 1: event_type: required: a string"),
        ({"event_type": "\udcff"}, "event 1: event_type: required: UTF-8"),
        ({"dwell": -1}, "event 1: dwell: required: seconds, 0 or more; received -1"),
        ({"dwell": float("nan")}, "event 1: dwell: required: seconds, 0 or more; received nan"),
        ({"dwell": True}, "event 1: dwell: required: seconds, 0 or more; received True"),
        ({"timestamp": "now"}, "event 1: timestamp: required: seconds since 1970"),
        # Milliseconds.
        ({"timestamp": NOW * 1000}, "event 1: timestamp: required: seconds since 1970, a day ahea"),
        ({"timestamp": 10**400}, "event 1: timestamp: required: seconds since 1970, a day ahead"),
        ({"timestamp": -1}, "event 1: timestamp: required: seconds since 1970"),
    ],
)
def test_a_wrong_event_is_refused_by_position_and_field(wrong, said):
    good = {"user_id": "u", "item_id": "i"}
    if isinstance(wrong, dict) and not {"user_id", "item_id", "item"} & set(wrong):
        wrong = {**good, **wrong}
    with pytest.raises(ServingError) as caught:
        read_events([good, wrong])
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert caught.value.message.startswith(said), caught.value.message


def test_items_are_read_and_refused_likewise():
    features = {"genres": ["Drama"], "year": 1999, "none": None}
    assert read_items({"item_id": "i", "features": features}) == [
        Item(b"i", {"genres": ["Drama"], "year": 1999})
    ]
    assert read_items([{"item_id": "i", "left": True}]) == [Item(b"i", left=True)]
    for wrong, said in (
        ({"left": 1}, "item 0: left: required: true or false; received 1"),
        ({"features": [1]}, "item 0: features: required: an object by column; received [1]"),
        ({"features": {"a": 1}, "left": True}, "item 0: features: an item that left has none"),
        ({"features": {"a": {}}}, "item 0: features.a: required: a string, a number, or a list"),
        ({"features": {"a": [1, "b"]}}, "item 0: features.a: required: a string, a number, or"),
        ({"features": {"a": float("inf")}}, "item 0: features.a: required: a string, a number"),
        ({"feature": {}}, "item 0: 'feature': an item has no such field; the nearest is features"),
    ):
        with pytest.raises(ServingError) as caught:
            read_items({"item_id": "i", **wrong})
        assert caught.value.message.startswith(said), caught.value.message


# --- what a request is filled with


def test_a_row_without_a_history_gets_the_users_and_one_that_has_any_stays():
    events = [event("u", "a", 9, event_type="view", dwell=2.0), event("u", "b", 8)]
    events.append(event("u", "c", 7))
    taken = {
        "user_id": ["u", "v", "w"],
        "history": [["", ""], ["own", ""], ["", ""]],
        "exclude": [["x"], [""], [""]],
        "event_types": [["", ""], ["buy", ""], ["", ""]],
        "timestamps": [[0, 0], [5, 0], [0, 0]],
        "k": [1, 2, 3],
    }
    live = Live([events, [event("v", "not told")], []], (b"gone", b"lost"))
    assert fill(taken, live) == {
        # Three items: a width of four. The dwell is not among what the signature takes.
        "history": [[b"a", b"b", b"c", b""], ["own", "", b"", b""], ["", "", b"", b""]],
        "event_types": [[b"view", b"", b"", b""], ["buy", "", b"", b""], ["", "", b"", b""]],
        "timestamps": [[NOW - 9, NOW - 8, NOW - 7, 0], [5, 0, 0, 0], [0, 0, 0, 0]],
        # One excluded already and the two that left: four too.
        "exclude": [
            ["x", b"gone", b"lost", b""],
            [b"gone", b"lost", b"", b""],
            [b"gone", b"lost", b"", b""],
        ],
    }


def test_what_nothing_is_known_of_stays_as_it_is():
    taken = {"user_id": ["u"], "history": [[]], "exclude": [[]]}
    assert fill(taken, Live([[]])) == {}
    assert fill({"user_id": ["u"], "history": [["a"]]}, Live([[event("u", "b")]], (b"c",))) == {}
    assert fill(taken, Live([[event("u", "b")]])) == {"history": [[b"b"]]}


def test_what_is_of_no_user_gets_the_items_that_left_alone():
    live = Live([], (b"gone",))
    assert fill({"exclude": [["x"], [""]]}, live) == {"exclude": [["x", b"gone"], [b"gone", b""]]}


def test_the_state_needs_neither_tensorflow_nor_the_server():
    code = (
        "import sys, json, serving.state.sqlite, serving.state.redis, serving.state.requests\n"
        "print(json.dumps([name for name in sys.modules if name in "
        "('tensorflow', 'serving.server', 'numpy', 'redis')]))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, text=True)
    assert json.loads(ran.stdout) == []
