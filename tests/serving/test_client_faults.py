"""The clients' retries, deadlines, connections and imports."""

from __future__ import annotations

import asyncio
import http.server
import json
import socket
import subprocess
import sys
import threading
import time

import pytest

from serving.client.asynchronous import AsyncClient
from serving.client.messages import Attempts
from serving.wire.errors import Code, ServingError
from tests.serving.client_kinds import KINDS, error_of, make
from tests.serving.support import ROOT, free_port


class Script(http.server.BaseHTTPRequestHandler):
    """Answers by the script of its server: (status, body) each, or seconds to say nothing for."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):  # noqa: N802 (the name is the base class')
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.count += 1
        step = self.server.script.pop(0)
        if isinstance(step, str):  # a byte each tenth of a second
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(30):
                time.sleep(0.1)
                self.wfile.write(b" ")
                self.wfile.flush()
        if isinstance(step, float):
            time.sleep(step)
            step = (200, {"outputs": {"a": [1], "b": [2]}})
        if step == "cut" or step is None:
            self.close_connection = True
            return
        status, body = step
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def scripted():
    """A function that starts an HTTP server with a script; it counts the requests."""
    servers = []

    def scripted(*script):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Script)
        server.daemon_threads, server.handle_error = True, lambda *_: None
        server.script, server.count = list(script), 0
        server.host, server.rest, server.grpc = "127.0.0.1", server.server_port, None
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        servers.append(server)
        return server

    yield scripted
    for server in servers:
        server.shutdown()
        server.server_close()


REST = ["rest", "rest-async"]
GOOD = (200, {"outputs": {"a": [1], "b": [2]}})
BUSY = (503, {"error": "busy"})


@pytest.mark.parametrize("kind", REST)
def test_busy_is_tried_again(scripted, kind):
    server = scripted(BUSY, BUSY, GOOD)
    with make(kind, server, retries=2) as client:
        assert client.predict({"x": [1]}) == {"a": [1], "b": [2]}
    assert server.count == 3


@pytest.mark.parametrize("kind", REST)
def test_retries_end(scripted, kind):
    server = scripted(BUSY, BUSY, BUSY)
    with make(kind, server, retries=1) as client:
        error = error_of(lambda: client.predict({"x": [1]}))
    assert (error.code, error.message, server.count) == (Code.UNAVAILABLE, "busy", 2)


@pytest.mark.parametrize("kind", REST)
@pytest.mark.parametrize(
    "status,code",
    [
        (400, "INVALID_ARGUMENT"),
        (401, "UNAUTHENTICATED"),
        (404, "NOT_FOUND"),
        (413, "RESOURCE_EXHAUSTED"),
        (500, "INTERNAL"),
        (504, "DEADLINE_EXCEEDED"),
    ],
)
def test_other_errors_are_not(scripted, kind, status, code):
    server = scripted((status, {"error": "no"}))
    with make(kind, server) as client:
        error = error_of(lambda: client.predict({"x": [1]}))
    assert (error.code.name, error.message, server.count) == (code, "no", 1)


@pytest.mark.parametrize("kind", REST)
def test_answer_of_something_else(scripted, kind):
    server = scripted((502, ["a proxy"]))
    with make(kind, server) as client:
        error = error_of(lambda: client.predict({"x": [1]}))
    assert (error.code, error.message) == (Code.INTERNAL, '["a proxy"]')


@pytest.mark.parametrize("kind", REST)
def test_connection_closed_while_idle(scripted, kind):
    server = scripted(GOOD, None, GOOD)
    with make(kind, server, retries=1) as client:
        assert client.predict({"x": [1]}) == client.predict({"x": [1]})


@pytest.mark.parametrize("kind", REST)
@pytest.mark.parametrize("step", [5.0, "trickle"], ids=["silent", "trickle"])
def test_deadline(scripted, kind, step):
    server = scripted(step)
    begin = time.monotonic()
    with make(kind, server, timeout=0.4) as client:
        error = error_of(lambda: client.predict({"x": [1]}))
    assert error.code == Code.DEADLINE_EXCEEDED
    assert error.message.startswith("no answer within 0.4")
    assert 0.3 < time.monotonic() - begin < 2


@pytest.mark.parametrize("kind", KINDS)
def test_deadline_of_a_slow_model(target, kind):
    begin = time.monotonic()
    with make(kind, target, "faulty", timeout=0.1) as client:
        error = error_of(lambda: client.predict({"x": [20_000.0]}, "slow"))
    assert error.code == Code.DEADLINE_EXCEEDED
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_listens(kind):
    class Nowhere:
        host, rest, grpc = "127.0.0.1", free_port(), free_port()

    begin = time.monotonic()
    with make(kind, Nowhere, timeout=1.0, retries=2) as client:
        error = error_of(lambda: client.predict({"x": [1]}))
    assert error.code == Code.UNAVAILABLE
    assert 0.05 < time.monotonic() - begin < 2


@pytest.mark.parametrize("kind", KINDS)
def test_server_that_comes_up_meanwhile(laboratory, kind):
    ports = {"rest_api_port": free_port(), "port": free_port()}

    class Coming:
        host, rest, grpc = "127.0.0.1", ports["rest_api_port"], ports["port"]

    started: list = []
    starter = threading.Timer(0.2, lambda: started.append(laboratory.start(**ports)))
    starter.start()
    with make(kind, Coming, "half", timeout=20, retries=40) as client:
        assert client.predict({"x": [2.0]}) == {"y": [3.0]}
    starter.join()
    laboratory.stop(started[0])


def test_attempts_stay_within_the_timeout():
    attempts = Attempts(timeout=0.02, retries=5)
    busy = ServingError(Code.UNAVAILABLE, "busy")
    assert 0 < attempts.remaining() <= 0.02
    # The pause would end after the deadline: the error is told now.
    assert error_of(lambda: attempts.pause_after(busy)) is busy
    time.sleep(0.03)
    assert error_of(attempts.remaining).code == Code.DEADLINE_EXCEEDED


# --- threads, connections, imports


def test_used_by_several_threads(target):
    with make("rest", target, "half") as client:
        found: dict[int, list] = {}

        def ask(number: int) -> None:
            found[number] = [client.predict({"x": [2.0 * number]})["y"][0] for _ in range(20)]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: [number + 2.0] * 20 for number in range(8)}


def test_one_connection_is_kept(target):
    with make("rest", target, "half") as client:
        client.predict({"x": [1.0]})
        (connection,) = client._transport._connections
        kept: socket.socket = connection.sock
        client.predict({"x": [1.0]})
        assert connection.sock is kept is not None
    assert connection.sock is None


def test_many_at_once_async(target):
    async def ask() -> list:
        async with AsyncClient(f"{target.host}:{target.rest}", "half") as client:
            calls = [client.predict({"x": [2.0 * number]}) for number in range(50)]
            return [answer["y"][0] for answer in await asyncio.gather(*calls)]

    assert asyncio.run(ask()) == [number + 2.0 for number in range(50)]


def test_rest_needs_the_standard_library_only(target):
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from serving.client import Client\n"
        f"client = Client('{target.host}:{target.rest}', 'recommender')\n"
        "print(client.recommend('u1', k=1).items[0][0])"
    )
    command = [sys.executable, "-I", "-S", "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("i0\n", "")


def test_grpc_does_not_import_tensorflow(target):
    program = (
        "import sys\nfrom serving.client import Client\n"
        f"client = Client('{target.host}:{target.grpc}', 'recommender', 'grpc')\n"
        "print(client.recommend('u1', k=1).items[0][0], 'tensorflow' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout == "i0 False\n", ran.stderr
