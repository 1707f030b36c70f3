"""What the tests of the server share: requests, and the servers they go to."""

from __future__ import annotations

import http.client
import json
import queue
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.protobuf import text_format

from serving.wire import protos, records

# Ids that must come through both protocols as they are, the last of them no UTF-8.
AWKWARD_IDS = [
    "é ü",
    "日本\"語'",
    "🎬 item",
    "e\u0301",
    "a\\b/c",
    "line\nbreak",
    "nul\0byte",
    "\u202eright to left",
    "{}[]:,",
    b"\xff\xfe raw",
]
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def compact(self) -> str:
        """The body's text without blanks: how values are written, whatever the layout."""
        return "".join(self.body.decode().split())


class Target:
    """A server under test.

    Attributes:
        host, rest, grpc: where it listens.
        models: the folder of the fixture models, as the server sees it.
        channel: a gRPC channel to it.
    """

    def __init__(self, host: str, rest: int | None, grpc_port: int | None, models: Path):
        self.host, self.rest, self.grpc, self.models = host, rest, grpc_port, models
        self.channel = grpc.insecure_channel(f"{host}:{grpc_port}") if grpc_port else None
        if self.channel:
            self.prediction = protos.PredictionServiceStub(self.channel)
            self.model = protos.ModelServiceStub(self.channel)

    def send(self, method: str, path: str, body: bytes | None = None, headers=None) -> Reply:
        """Sends one request on a connection of its own."""
        connection = http.client.HTTPConnection(self.host, self.rest, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, names, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        """GET."""
        return self.send("GET", path, headers=headers)

    def post(self, path: str, body) -> Reply:
        """POST of bytes as they are, text as UTF-8, or anything else as JSON."""
        if isinstance(body, str):
            body = body.encode()
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        return self.send("POST", path, body)

    def states(self, model: str) -> dict[int, str]:
        """The state by version of a model; empty where it is not known."""
        reply = self.get(f"/v1/models/{model}")
        if reply.status != 200:
            return {}
        return {
            int(entry["version"]): entry["state"] for entry in reply.json()["model_version_status"]
        }

    def half(self, model: str = "half", version: str = "") -> float:
        """What a model that halves answers for 2: 1 + its offset."""
        reply = self.post(f"/v1/models/{model}{version}:predict", {"instances": [2.0]})
        assert reply.status == 200, reply.body
        return reply.json()["predictions"][0]

    def reload(self, *entries: str, metric_names=()):
        """Sends the fixtures' configuration and further `config` entries; returns the response."""
        request = protos.management.ReloadConfigRequest(metric_names=metric_names)
        text_format.Parse((self.models / "models.config").read_text(), request.config)
        for entry in request.config.model_config_list.config:
            if entry.name == "half":
                entry.version_labels["stable"] = 123
                entry.version_labels["canary"] = 124
        for entry in entries:
            text_format.Parse(entry, request.config.model_config_list.config.add())
        return self.model.HandleReloadConfigRequest(request, timeout=60)


def entry(name: str, path: Path, rest: str = "") -> str:
    """One `config` of a model_config_list."""
    return f'name: "{name}" base_path: "{path}" model_platform: "tensorflow" {rest}'


def expect_error(reply: Reply, status: int, *texts: str) -> str:
    """Asserts an answer that is an error; returns its message."""
    assert reply.status == status, reply.body
    assert reply.headers["content-type"].startswith("application/json")
    document = reply.json()
    assert list(document) == ["error"]
    for text in texts:
        assert text in document["error"]
    return document["error"]


def expect_status(code: str, *texts: str):
    """A context that expects a gRPC error with this code and these texts in its message."""
    return _ExpectStatus(code, texts)


class _ExpectStatus:
    def __init__(self, code: str, texts: tuple[str, ...]):
        self._code, self._texts = code, texts

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        assert isinstance(error, grpc.RpcError), f"expected {self._code}, got {error!r}"
        assert error.code().name == self._code, error.details()
        for text in self._texts:
            assert text in error.details()
        return True


def eventually(check, seconds: float = 15.0, what: str = "") -> None:
    """Waits until `check()` is true."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            pytest.fail(f"did not happen within {seconds:g} s: {what or check}")
        time.sleep(0.03)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A child process whose standard output is lines of JSON."""

    def __init__(self, *arguments: str, errors: Path):
        """Starts `python ARGUMENTS`; its standard error goes to the file `errors`."""
        self._errors = errors
        with open(errors, "ab") as file:
            self.popen = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.popen.stdout:
            self._lines.put(line)
        self._lines.put("")

    def line(self, seconds: float = 90) -> dict:
        """The next line; fails with the process' errors where it ends before."""
        try:
            text = self._lines.get(timeout=seconds)
        except queue.Empty:
            text = ""
        if not text:
            pytest.fail(f"the process said nothing: {self.errors()[-3000:]}")
        return json.loads(text)

    def errors(self) -> str:
        """What it wrote to standard error."""
        return self._errors.read_text(errors="replace")

    def end(self) -> None:
        """Ends it, if it still runs."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self.popen.stdin.close()


class Laboratory:
    """A process that starts embedded servers on demand, with one import of TensorFlow for all."""

    def __init__(self, folder: Path):
        self.models = folder / "models"
        self._process = Process(
            "-m", "tests.serving.laboratory", str(self.models), errors=folder / "laboratory.log"
        )
        self._process.line()

    def start(self, **options) -> Target:
        """Starts a server on free ports.

        Args:
            **options: `ServerOptions`; without a model, that of the fixtures' models.config.
        """
        options = {"port": 0, "rest_api_port": 0, **options}
        if "model_base_path" not in options:
            options.setdefault("model_config_file", str(self.models / "models.config"))
        answer = self._ask(
            {
                "start": {
                    name: str(value) if isinstance(value, Path) else value
                    for name, value in options.items()
                }
            }
        )
        target = Target(
            options.get("host", "127.0.0.1"), answer["rest"], answer["grpc"], self.models
        )
        target.number = answer["number"]
        return target

    def stop(self, target: Target) -> None:
        """Stops a server that `start` returned."""
        if target.channel:
            target.channel.close()
        self._ask({"stop": target.number})

    @property
    def pid(self) -> int:
        """The process' number."""
        return self._process.popen.pid

    def log(self) -> str:
        """What the servers logged."""
        return self._process.errors()

    def close(self) -> None:
        """Ends the process."""
        self._process.end()

    def _ask(self, request: dict) -> dict:
        self._process.popen.stdin.write(json.dumps(request) + "\n")
        self._process.popen.stdin.flush()
        answer = self._process.line()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def write_records(path: Path, logs: list[bytes]) -> None:
    """Writes a TFRecord file: the warm-up requests of a version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        records.write_records(logs, file)
