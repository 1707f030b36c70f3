"""The server as a process: killed, stopped, refused its ports."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import grpc
import psutil
import pytest

from serving.server.options import ServerOptions, parse_arguments
from serving.server.server import Server
from serving.wire import protos
from tests.serving.support import ROOT, Process, Target, eventually, free_port
from tests.serving.test_conformance_grpc import X, predict


@pytest.fixture(scope="module")
def launch(laboratory, tmp_path_factory):
    """A function that gives a running `python -m serving.server` and its ready line.

    It has the same two ports each time.
    """
    processes: list[tuple[Process, dict]] = []
    rest, grpc_port = free_port(), free_port()
    errors = tmp_path_factory.mktemp("process") / "server.log"

    def launch() -> tuple[Process, dict]:
        if not processes or processes[-1][0].popen.poll() is not None:
            process = Process(
                "-m",
                "serving.server",
                "--rest-api-port",
                str(rest),
                "--port",
                str(grpc_port),
                "--model-config-file",
                str(laboratory.models / "models.config"),
                "--drain-seconds=2",
                errors=errors,
            )
            processes.append((process, process.line()))
        return processes[-1]

    launch.target = Target("127.0.0.1", rest, grpc_port, laboratory.models)
    yield launch
    launch.target.channel.close()
    for process, _ in processes:
        process.end()


def test_killed_and_restarted(launch):
    process, ready = launch()
    assert ready["ready"] is True
    assert (ready["rest"], ready["grpc"]) == (launch.target.rest, launch.target.grpc)
    assert "half/124" in ready["models"]
    assert launch.target.half() == 3.0
    big = b" " * (1 << 20) + b'{"instances": [2.0]}'
    assert launch.target.post("/v1/models/half:predict", big).status == 200
    (reader,) = psutil.Process(process.popen.pid).children()
    process.popen.send_signal(signal.SIGKILL)
    assert process.popen.wait(10) == -signal.SIGKILL
    eventually(lambda: not reader.is_running() or reader.status() == psutil.STATUS_ZOMBIE)
    with pytest.raises(ConnectionError):
        launch.target.half()
    launch()
    assert launch.target.half() == 3.0


def ask_slowly(target: Target, steps: float) -> tuple[threading.Thread, list]:
    """A request under way, of so many steps, and the list that its outcome comes into."""
    outcome: list = []

    def ask() -> None:
        body = {"signature_name": "slow", "instances": [steps]}
        try:
            outcome.append(target.post("/v1/models/faulty:predict", body).status)
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, outcome


def test_sigterm_drains(launch):
    process, _ = launch()
    idle = socket.create_connection(("127.0.0.1", launch.target.rest))
    short, answered = ask_slowly(launch.target, 30_000.0)
    long, cut = ask_slowly(launch.target, 1e9)
    time.sleep(0.3)
    begin = time.monotonic()
    process.popen.send_signal(signal.SIGTERM)
    eventually(lambda: not listens(launch.target.rest))
    assert process.popen.poll() is None
    assert process.popen.wait(15) == 0
    took = time.monotonic() - begin
    short.join()
    long.join()
    idle.close()
    assert answered == [200]
    assert cut and cut != [200]
    assert 1.5 < took < 8
    assert "Traceback" not in process.errors()


def test_clients_that_keep_asking_are_told(launch):
    """REST: no connection is reset without a word. gRPC: no call ends as CANCELLED."""
    process, _ = launch()
    target, outcomes, stop = launch.target, [], threading.Event()

    def ask_rest() -> None:
        body = b'{"instances": [2.0]}'
        connection = http.client.HTTPConnection(target.host, target.rest, timeout=20)
        while not stop.is_set():
            try:
                connection.request("POST", "/v1/models/half:predict", body)
                answer = connection.getresponse()
                answer.read()
                outcomes.append(answer.status)
                if answer.will_close:
                    connection.close()
            except ConnectionRefusedError:
                return
            except OSError as error:
                outcomes.append(repr(error))
                return

    def ask_grpc() -> None:
        with grpc.insecure_channel(f"{target.host}:{target.grpc}") as channel:
            stub = protos.PredictionServiceStub(channel)
            while not stop.is_set():
                try:
                    stub.Predict(predict(x=X), timeout=20)
                    outcomes.append("OK")
                except grpc.RpcError as error:
                    outcomes.append(error.code().name)

    threads = [threading.Thread(target=ask) for ask in [ask_rest] * 4 + [ask_grpc] * 8]
    for thread in threads:
        thread.start()
    eventually(lambda: outcomes.count(200) > 20 and outcomes.count("OK") > 20)
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(15) == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert {*outcomes} <= {200, 503, "OK", "UNAVAILABLE"}, {*outcomes}
    assert "Traceback" not in process.errors()


def listens(port: int) -> bool:
    """Whether a connection is accepted."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def run(*flags: str) -> subprocess.CompletedProcess:
    """Runs a server that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "serving.server", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("flag", ["--port", "--rest-api-port"])
def test_port_in_use(tmp_path, flag):
    """Told before TensorFlow is imported."""
    other = "--port" if flag == "--rest-api-port" else "--rest-api-port"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        begin = time.monotonic()
        ended = run(flag, str(port), other, "0", "--model-base-path", str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr == f"error: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    assert ended.stdout == ""
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("option", ["port", "rest_api_port"])
def test_port_in_use_in_process(laboratory, option):
    """The ports are let go when one of them is in use."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = free_port()
        options = {"port": other, "rest_api_port": other, option: port}
        with pytest.raises(RuntimeError, match=f"cannot listen on 127.0.0.1:{port}"):
            laboratory.start(**options)
    assert not listens(other)


@pytest.mark.parametrize(
    "flags,code,text",
    [
        (["--model-base-path", "/no/such"], 1, "error: model base path /no/such is not a folder\n"),
        ([], 1, "error: exactly one of --model-base-path and --model-config-file is required\n"),
        (
            ["--model-config-file", "/m", "--port", "-1", "--rest_api_port=-1"],
            1,
            "error: both ports are switched off\n",
        ),
        (["--colour", "red"], 2, "unrecognized arguments: --colour red"),
    ],
    ids=["folder", "no-model", "no-port", "unknown-flag"],
)
def test_flags_refused(flags, code, text):
    ended = run(*flags)
    assert ended.returncode == code
    assert text in ended.stderr


def test_in_process_as_the_manual_has_it(laboratory):
    """Nothing is printed when Python ends: a thread of gRPC's outlived it."""
    manual = (ROOT / "serving" / "README.md").read_text("utf-8")
    example = manual.split("In process:\n\n")[1].split("\n\nFlags are")[0]
    folder = laboratory.models / "recommender"
    program = textwrap.dedent(example).replace("/path/to/two_tower", str(folder))
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0 and len(ended.stdout.split()) == 2
    assert "excepthook" not in ended.stderr


def test_flags_of_tensorflow_serving_that_mean_nothing_here(capsys):
    flags = ["--tensorflow_session_parallelism", "0", "--flush_filesystem_caches=true"]
    flags += ["--enable_profiler", "--model_name=m", "--grpc_max_threads", "8"]
    assert parse_arguments(flags) == ServerOptions(model_name="m")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4 and said[1] == (
        "warning: --flush-filesystem-caches of TensorFlow Serving means nothing here"
    )
    # Encryption that was asked for and is not there would be no small thing.
    with pytest.raises(SystemExit):
        parse_arguments(["--enable_profiler", "--ssl_config_file=f"])
    assert "unrecognized arguments: --ssl-config-file=f" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        {"port": 70_000},
        {"tls_key_file": "k"},
        {"threads": -1},
        {"max_body_bytes": 0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_refused(tmp_path, options):
    from serving.wire.errors import StartError

    with pytest.raises(StartError, match=next(iter(options)).replace("_", "[-_]")):
        Server(model_base_path=str(tmp_path), **options)


def listening_addresses(port: int) -> set[str]:
    """The addresses on which something listens at a port, as /proc/net writes them."""
    found = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/net/{table}") as file:
            for line in list(file)[1:]:
                address, state = line.split()[1], line.split()[3]
                if state == "0A" and int(address.rsplit(":", 1)[1], 16) == port:
                    found.add(address.rsplit(":", 1)[0])
    return found


def test_loopback_only(start):
    server = start()
    for port in (server.rest, server.grpc):
        addresses = listening_addresses(port)
        # 127.0.0.1, plainly or as an IPv6 socket writes it.
        assert addresses and addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}


def test_all_addresses_on_request(start):
    server = start(host="0.0.0.0")
    for port in (server.rest, server.grpc):
        addresses = listening_addresses(port)
        assert addresses and addresses <= {"00000000", "0" * 32}
