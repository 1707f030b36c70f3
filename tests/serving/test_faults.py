"""What clients and models do wrong, and that the server goes on."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from benchmarks.usage import begin_peak, memory
from serving.client.client import Client
from serving.server import servable as servable_module
from serving.server import tensorflow_private
from serving.server.inference import Inference, RequestLimits
from serving.server.manager import Manager
from serving.server.metrics import Metrics
from serving.server.servable import Servable
from serving.wire.errors import ServingError
from serving.wire.tensors import to_proto
from tests.serving.support import Target, entry, eventually, expect_error, expect_status
from tests.serving.test_conformance_grpc import predict

HEAD = "POST /v1/models/half:predict HTTP/1.1\r\nHost: h\r\n"
BODY = b'{"instances": [2.0]}'
MEGABYTES_100 = 100 << 20


@pytest.fixture(scope="module")
def server(laboratory):
    """A server with small limits."""
    server = laboratory.start(
        body_timeout_seconds=0.5,
        rest_api_timeout_in_ms=400,
        max_rows=100,
        monitoring_config_file=laboratory.models / "monitoring.config",
    )
    yield server
    laboratory.stop(server)


def connect(server: Target) -> socket.socket:
    """A plain connection to the REST port."""
    return socket.create_connection((server.host, server.rest), timeout=20)


def exchange(server: Target, *parts: bytes, pause: float = 0.0) -> bytes:
    """Sends bytes as they are, and returns what comes until the first answer is complete."""
    with connect(server) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        received = b""
        while b"\r\n\r\n" not in received or not received.endswith(b"}"):
            piece = connection.recv(65536)
            if not piece:
                break
            received += piece
        return received


@contextlib.contextmanager
def at_most(size: int, laboratory):
    """The servers' memory grows by no more, not even for a while."""
    begin_peak(laboratory.pid)
    before = memory("VmRSS", laboratory.pid)
    yield
    assert memory("VmHWM", laboratory.pid) - before < size


# --- bodies


def test_half_a_body(server):
    with connect(server) as connection:
        connection.sendall(f"{HEAD}Content-Length: 100\r\n\r\n".encode() + BODY)
    assert server.half() == 3.0


def test_body_that_stops(server):
    begin = time.monotonic()
    answer = exchange(server, f"{HEAD}Content-Length: 100\r\n\r\n".encode() + BODY)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"The body did not arrive within 0.5 s" in answer
    assert 0.4 < time.monotonic() - begin < 5


def test_slow_clients_hold_up_nobody(server):
    slow = [connect(server) for _ in range(50)]
    for connection in slow:
        connection.sendall(f"{HEAD}Content-Le".encode())
    begin = time.monotonic()
    assert server.half() == 3.0
    assert time.monotonic() - begin < 2
    for connection in slow:
        connection.sendall(f"ngth: {len(BODY)}\r\n\r\n".encode() + BODY)
    for connection in slow:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.close()


def test_body_in_small_pieces(server):
    pieces = [BODY[start : start + 5] for start in range(0, len(BODY), 5)]
    chunked = [f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces]
    head = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()
    answer = exchange(server, head, *chunked, b"0\r\n\r\n", pause=0.02)
    assert answer.startswith(b"HTTP/1.1 200 ") and b'{"predictions": [3.0]}' in answer


def test_too_large_a_body(server):
    reply = server.post("/v1/models/half:predict", b" " * MEGABYTES_100)
    limit = 8 << 20
    expect_error(reply, 413, f"The body has {MEGABYTES_100} bytes; the limit is {limit}")


def test_too_large_without_a_length(server):
    piece = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    with connect(server) as connection:
        connection.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range(80):
                connection.sendall(piece)
        except ConnectionError:
            pass  # it may close before it has read all
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_too_large_when_unpacked(server):
    reply = server.send(
        "POST",
        "/v1/models/half:predict",
        gzip.compress(b" " * MEGABYTES_100),
        {"Content-Encoding": "gzip"},
    )
    expect_error(reply, 413, "The body has more than")


def test_damaged_gzip(server, laboratory):
    before = len(laboratory.log())
    for _ in range(3):
        head = {"Content-Encoding": "gzip"}
        reply = server.send("POST", "/v1/models/half:predict", b"no gzip", head)
        expect_error(reply, 400, "Cannot read the body")
    assert server.half() == 3.0
    said = laboratory.log()[before:]
    assert "Traceback" not in said and said.count("\n") <= 1


def test_expect_continue(server):
    """Clients such as curl wait with a large body until they are told to go on."""
    with connect(server) as connection:
        connection.sendall(
            f"{HEAD}Content-Length: {len(BODY)}\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(BODY)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"\x00" * 100,
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=["tls", "no-path", "zeros", "long-path"],
)
def test_no_http(server, junk):
    answer = exchange(server, junk + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ") or answer.startswith(b"HTTP/1.0 400 ")
    assert server.half() == 3.0


@pytest.mark.parametrize(
    "head, text",
    [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
        (f"GET /{'a' * 9000} HTTP/1.1\r\nHost: h\r\n\r\n", ""),
        (f"{HEAD}Content-Encoding: br\r\nContent-Length: 3\r\n\r\nabc", "gzip or deflate"),
        (f"{HEAD}Content-Encoding: zstd\r\nContent-Length: 3\r\n\r\nabc", "gzip or deflate"),
    ],
    ids=["http2", "long-url", "brotli", "zstd"],
)
def test_what_is_no_request_is_one_line_of_json(server, laboratory, head, text):
    before = len(laboratory.log())
    for _ in range(3):
        answer = exchange(server, head.encode())
        assert answer.split(b" ")[1] in (b"400", b"505"), answer
        body = answer.split(b"\r\n\r\n", 1)[1]
        assert list(json.loads(body)) == ["error"] and text in json.loads(body)["error"]
        assert b"Content-Type: application/json" in answer
    said = laboratory.log()[before:]
    assert "Traceback" not in said and said.count("\n") <= 1 and "aaaa" not in said


def test_connections_that_ask_nothing_are_closed(start, laboratory):
    """Half a header held one for ever, and 400 of them the server."""
    server = start(header_timeout_seconds=0.4, max_connections=20)
    silent = [connect(server) for _ in range(10)]
    for connection in silent:
        connection.sendall(f"{HEAD}Content-Le".encode())
    assert server.half() == 3.0
    for connection in silent:
        assert connection.recv(100) == b""
        connection.close()
    before = len(laboratory.log())
    crowd = [connect(server) for _ in range(60)]
    eventually(lambda: "20 are open" in laboratory.log()[before:])
    for connection in crowd:
        connection.close()

    def answers() -> bool:
        try:
            return server.half() == 3.0
        except ConnectionError:
            return False

    eventually(answers)
    assert laboratory.log()[before:].count("\n") == 1


# --- JSON


def test_invalid_utf8_comes_back(server):
    reply = server.post(
        "/v1/models/bytes:predict", b'{"signature_name": "one", "instances": ["\xff\xfe"]}'
    )
    assert (reply.status, reply.body) == (200, b'{"predictions": ["\xff\xfe"]}')


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": ["\xff"]}',
        b'{"\xff": 1}',
        b'\xff{"instances": [1]}',
        b'{"signature_name": "\xff", "instances": [1]}',
        b'{"instances": ["\\ud800"]}',
    ],
    ids=["value", "key", "outside", "signature", "lone-surrogate"],
)
def test_invalid_utf8_refused(server, body):
    reply = server.post("/v1/models/half:predict", body)
    assert reply.status == 400
    assert reply.body.startswith(b'{"error": "')


@pytest.mark.parametrize("method", ["predict", "regress"])
def test_invalid_utf8_in_a_name(server, method):
    body = b'{"signature_name": "\xff", "examples": [{"\xff": 1}], "instances": [1]}'
    assert server.post(f"/v1/models/half:{method}", body).status == 400
    assert server.post(f"/v1/models/%FF:{method}", body).status in (400, 404)


@pytest.mark.parametrize("depth", [10, 300, 900, 930, 960, 990, 1000, 100_000])
@pytest.mark.parametrize(
    "start,end",
    [
        ('{"instances": ', "}"),
        ('{"inputs": ', "}"),
        ('{"examples": ', "}"),
        ('{"signature_name": ', ', "instances": [1]}'),
    ],
    ids=["instances", "inputs", "examples", "signature"],
)
def test_deep_json(server, depth, start, end):
    method = "classify" if "examples" in start else "predict"
    for opening, closing in ("[]", ('{"a":', "}")):
        body = start + opening * depth + "1" + closing * depth + end
        reply = server.post(f"/v1/models/types:{method}", body)
        assert reply.status == 400, reply.body[:200]
    assert server.half() == 3.0


def test_numbers_of_thousands_of_digits(server):
    reply = server.post("/v1/models/half:predict", '{"instances": [' + "9" * 5000 + "]}")
    expect_error(reply, 400, "Number too big to be stored in double.")
    reply = server.post("/v1/models/half:predict", '{"instances": [' + "9" * 400 + "]}")
    expect_error(reply, 400, "Number too big to be stored in double.")


def test_nan_goes_through_the_model(server):
    reply = server.post("/v1/models/half:predict", '{"instances": [NaN, 2.0]}')
    assert reply.body == b'{"predictions": [NaN, 3.0]}'
    expect_error(
        server.post("/v1/models/types:predict", '{"signature_name": "int32", "instances": [NaN]}'),
        400,
        "is not of expected type: int32",
    )


def test_too_many_rows(server):
    expect_error(
        server.post("/v1/models/half:predict", {"instances": [0] * 101}),
        400,
        "The request has 101 rows; the limit is 100",
    )


# --- gRPC


def test_too_large_a_message(server):
    request = predict()
    to_proto(np.zeros(MEGABYTES_100 // 4, np.float32), request.inputs["x"], as_content=True)
    with expect_status("RESOURCE_EXHAUSTED"):
        server.prediction.Predict(request)
    assert server.prediction.Predict(predict(x=np.zeros(1, np.float32))).outputs["y"]


@pytest.mark.parametrize(
    "shape,text",
    [
        ([1 << 40], f"has {1 << 40} values; the limit is"),
        ([1 << 40, 1 << 40], f"has {1 << 80} values; the limit is"),
        ([1, 1 << 24], f"has {1 << 24} values; the limit is"),
        ([1 << 20], "are made up by repeating the last"),
        ([-1], "no complete shape"),
    ],
)
def test_shape_without_values(server, laboratory, shape, text):
    request = predict()
    tensor = request.inputs["x"]
    tensor.dtype = 1
    tensor.float_val.append(1.0)
    for size in shape:
        tensor.tensor_shape.dim.add().size = size
    with at_most(50 << 20, laboratory), expect_status("INVALID_ARGUMENT", text):
        server.prediction.Predict(request)


def test_names_are_looked_at_before_tensors(server, laboratory):
    """365 bytes of shapes stand for gigabytes, and none of them is an input."""
    request = predict()
    for number in range(16):
        tensor = request.inputs[f"unknown {number}"]
        tensor.dtype = 1
        tensor.tensor_shape.dim.add().size = 1 << 24
    with at_most(50 << 20, laboratory):
        with expect_status("INVALID_ARGUMENT", "input size does not match signature"):
            server.prediction.Predict(request)


def test_too_many_values(server, laboratory):
    """Two bytes of JSON each, and 56 in memory."""
    body = b'{"instances": [' + b"[]," * (1 << 21) + b"[]]}"
    begin = time.monotonic()
    with at_most(100 << 20, laboratory):
        reply = server.post("/v1/models/half:predict", body)
    # As many commas, and as many brackets with the one around them, and one brace.
    expect_error(reply, 400, f"The request has {2 * (1 << 21) + 3} values; the limit is {1 << 21}")
    assert time.monotonic() - begin < 5


def test_a_filter_prepares_nothing_of_its_own(laboratory):
    """Every order of outputs took 3 MB for ever."""
    servable = Servable("multi", 1, str(laboratory.models / "multi" / "1"))
    inference = Inference(Manager(lambda *_: servable), Metrics(), RequestLimits(), threads=1)
    inputs = {
        "tag": np.array([b"a"], object),
        "signal": np.ones((1, 5), np.float32),
        "sensor": np.ones((1, 2, 2), np.float32),
    }
    expected = {"name": [b"a"], "total": [9.0]}
    for wanted in (("name",), ("total",), ("name", "total"), ("total", "name"), ()):
        found = asyncio.run(inference.predict(servable, "", inputs, wanted))
        assert list(found) == list(wanted or ("name", "total"))
        assert all(value.tolist() == expected[name] for name, value in found.items())
    assert len(servable._callables) == 1
    inference.close()
    servable.close()


def test_what_is_prepared_is_prepared_once(laboratory, monkeypatch):
    """Eight threads ask a new version at the same time."""
    path, prepared, inputs = laboratory.models / "half" / "123", [], {"x": np.ones(1, np.float32)}

    def counted(session, options):
        prepared.append(list(options.fetch))
        time.sleep(0.1)  # the others come meanwhile
        return tensorflow_private.make_callable(session, options)

    monkeypatch.setattr(servable_module, "make_callable", counted)
    servable = Servable("half", 123, str(path))
    tensors = servable.tensors("serving_default", ["y"])
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(servable.run, "serving_default", inputs, tensors) for _ in range(8)]
        assert [run.result()[0].tolist() for run in runs] == [[2.5]] * 8
    assert prepared == [list(tensors)]
    servable.close()


def test_wrong_content(server):
    request = predict()
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add().size = 2
    request.inputs["x"].tensor_content = b"123"
    with expect_status("INVALID_ARGUMENT", "tensor_content holds 3 bytes"):
        server.prediction.Predict(request)
    request.inputs["x"].dtype = 20  # a resource
    with expect_status("INVALID_ARGUMENT", "unsupported type"):
        server.prediction.Predict(request)


def test_bytes_that_are_no_message(server, laboratory):
    before = len(laboratory.log())
    call = server.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    for _ in range(3):
        with expect_status("UNKNOWN", "Error parsing message"):
            call(b"\xff\xff\xff", timeout=10)
    assert server.half() == 3.0
    said = laboratory.log()[before:]
    assert said.count("a client of the gRPC port sent no message (said once a minute)") == 1
    assert "DecodeError" not in said


def test_other_shapes_than_the_signature(server):
    inputs = {
        "tag": np.array(["a"]),
        "signal": np.ones((3,), np.float32),
        "sensor": np.ones((1, 2, 2), np.float32),
    }
    with expect_status("INVALID_ARGUMENT", r"signal: required shape [B, 5]; received [3]"):
        server.prediction.Predict(predict("multi", **inputs))
    columns = {"tag": ["a"], "signal": [[1.0] * 5], "sensor": [[1.0, 2.0]]}
    reply = server.post("/v1/models/multi:predict", {"inputs": columns})
    expect_error(reply, 400, "sensor: required shape [B, 2, 2]; received [1, 2]")
    # What the model can answer is answered, as by TensorFlow Serving, which looks at no shape.
    columns |= {"signal": [[1.0] * 4], "sensor": [[[1.0, 2.0]]]}
    reply = server.post("/v1/models/multi:predict", {"inputs": columns})
    assert reply.json() == {"outputs": {"name": ["a"], "total": [7.0]}}
    assert server.half() == 3.0


def test_a_message_that_quotes_bytes(server):
    body = {"signature_name": "regress_of_tf2", "inputs": [{"b64": "/////w=="}]}
    message = expect_error(server.post("/v1/models/half:predict", body), 400, "Could not parse")
    assert "codec" not in message


# --- models


def test_model_that_raises(server):
    body = {"instances": [-1.0]}
    expect_error(server.post("/v1/models/faulty:predict", body), 400, "value is negative")
    with expect_status("INVALID_ARGUMENT", "value is negative"):
        server.prediction.Predict(predict("faulty", x=np.array([-1], np.float32)))
    reply = server.post("/v1/models/faulty:predict", {"instances": [1.0]})
    assert reply.json() == {"predictions": [1.0]}


def test_run_that_takes_too_long(server):
    slow = {"signature_name": "slow", "instances": [1e9]}
    begin = time.monotonic()
    expect_error(server.post("/v1/models/faulty:predict", slow), 504)
    with expect_status("DEADLINE_EXCEEDED"):
        server.prediction.Predict(
            predict("faulty", signature="slow", x=np.array([1e9], np.float32))
        )
    assert time.monotonic() - begin < 5
    # The runs have ended: they keep no thread.
    assert server.half() == 3.0


@pytest.mark.parametrize("batched", [False, True], ids=["alone", "batched"])
def test_a_slow_model_starves_no_other(start, batched):
    """Four requests that take seconds, on a server of one thread a model."""
    server = start(threads=1, enable_batching=batched, rest_api_timeout_in_ms=4000)
    slow = {"signature_name": "slow", "instances": [1e9]}
    with ThreadPoolExecutor(4) as pool:
        busy = [pool.submit(server.post, "/v1/models/faulty:predict", slow) for _ in range(4)]
        time.sleep(0.5)
        begin = time.monotonic()
        assert server.half() == 3.0
        assert time.monotonic() - begin < 3 and not any(one.done() for one in busy)


def test_too_many_requests_at_once(start):
    server = start(max_concurrent_requests=2)
    slow = {"signature_name": "slow", "instances": [40_000.0]}
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: server.post("/v1/models/faulty:predict", slow), range(8)))
    assert {reply.status for reply in replies} == {200, 503}
    refused = next(reply for reply in replies if reply.status == 503)
    expect_error(refused, 503, "Too many requests are under way; the limit is 2")
    assert server.half() == 3.0


def test_requests_share_a_budget_of_bytes(start):
    """Bodies that have come in part hold what has come, and give it back."""
    size = 1 << 20
    server = start(max_body_bytes=size, max_bytes_under_way=2 * size)
    body = b'{"instances": [2.0]' + b" " * (size - 120) + b"}"
    request = predict(x=np.zeros((10, size // 50), np.float32))
    slow = [connect(server) for _ in range(2)]
    for connection in slow:
        connection.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-1])
    time.sleep(0.5)  # they come, and leave 200 bytes
    small = b'{"instances": [2.0]' + b" " * 300 + b"}"
    eventually(lambda: server.post("/v1/models/half:predict", small).status == 503)
    reply = server.post("/v1/models/half:predict", body)
    expect_error(reply, 503, f"more came; the limit is {2 * size}")
    assert reply.headers["retry-after"] == "1"
    with expect_status("UNAVAILABLE", f"more came; the limit is {2 * size}"):
        server.prediction.Predict(request)
    assert server.half() == 3.0
    slow[0].sendall(body[-1:])
    assert slow[0].recv(65536).startswith(b"HTTP/1.1 200 ")
    for connection in slow:
        connection.close()
    eventually(lambda: server.post("/v1/models/half:predict", body).status == 200)
    assert server.prediction.Predict(request).outputs["y"]


def test_damaged_versions_beside_a_good_one(start, tmp_path, copy_model):
    copy_model("half/123", tmp_path / "1")
    copy_model("half3/123", tmp_path / "2")
    variables = tmp_path / "2" / "variables" / "variables.data-00000-of-00001"
    content = variables.read_bytes()
    variables.unlink()
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "saved_model.pb").write_bytes(b"\x0a\xffcut")
    server = start(
        model_base_path=tmp_path, file_system_poll_wait_seconds=0.05, max_num_load_retries=0
    )
    assert server.half("default") == 3.0
    assert server.states("default") == {1: "AVAILABLE", 2: "END", 3: "END"}
    (tmp_path / "4").mkdir()
    eventually(lambda: server.states("default").get(4) == "END")
    assert server.half("default") == 3.0
    # Mended, it is loaded without a restart.
    variables.write_bytes(content)
    eventually(lambda: server.half("default") == 4.0)


def test_no_version_at_all(laboratory, tmp_path):
    with pytest.raises(RuntimeError, match="No versions of servable default found under base path"):
        laboratory.start(model_base_path=tmp_path)


def test_versions_swapped_under_load(start, tmp_path, copy_model):
    """Eight clients, both protocols, batching on, three versions, no second attempts."""
    copy_model("half/123", tmp_path / "1")
    server = start(
        model_base_path=tmp_path,
        file_system_poll_wait_seconds=0.05,
        enable_batching=True,
        batch_separate_shapes=True,
    )
    stop, answers, failures = threading.Event(), [], []

    def ask(protocol: str) -> None:
        port = server.rest if protocol == "rest" else server.grpc
        with Client(f"127.0.0.1:{port}", protocol=protocol, retries=0) as client:
            while not stop.is_set():
                try:
                    answers.append(client.predict({"x": np.array([2], np.float32)})["y"][0])
                except ServingError as error:
                    failures.append(error)

    threads = [
        threading.Thread(target=ask, args=(protocol,))
        for protocol in ("rest", "grpc")
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for version, source, answer in (
        (2, "half3/123", 4.0),
        (3, "half/123", 3.0),
        (4, "half3/123", 4.0),
    ):
        copy_model(source, tmp_path / str(version))
        eventually(lambda version=version: server.states("default").get(version) == "AVAILABLE")
        eventually(lambda answer=answer: answers[-8:] == [answer] * 8)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(answers) == {3.0, 4.0} and len(answers) > 100
    eventually(lambda: sorted(server.states("default").values()) == ["AVAILABLE"] + ["END"] * 3)


def test_model_of_the_configuration_is_missing(target, scratch):
    folder = scratch("missing")
    with expect_status("UNKNOWN", f"No versions of servable {folder.name} found"):
        target.reload(entry(folder.name, folder))
    assert target.half() == 3.0
