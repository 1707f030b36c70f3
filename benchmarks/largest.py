"""How long the largest requests that a server takes hold all others up.

    python -m benchmarks.largest [--rounds 3] [--output FILE]

A server of a model that answers rows with their halves gets, one at a time, a request as large as
the limits let it be, of each of these kinds; beside it a client asks for one row again and again.
What is told of a kind is the longest that this client waited while such a request was answered, and
what the memory of the server and of its own processes grew by meanwhile at its peak and had grown
by half a second later. Prints a Markdown table and, with --output, writes it as JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import psutil
import tensorflow as tf

from benchmarks.usage import begin_peak, memory
from serving.server.process import ServerProcess
from serving.wire import protos
from serving.wire.tensors import to_proto

PATH = "/v1/models/halves:predict"
SMALL = b'{"instances": [[2.0]]}'
_ROW = b"[" + b",".join([b"0.5"] * 20) + b"]"
_MANY = b",".join([_ROW] * 95_000)
# Bodies of about 8 MB and 2 million values; those that are refused are read first.
BODIES = {
    "nothing": SMALL,
    "95,000 rows of 20 floats": b'{"instances": [' + _MANY + b"]}",
    "the same as a column": b'{"inputs": [' + _MANY + b"]}",
    "a million empty rows": b'{"instances": [' + b"[]," * 1_040_000 + b"[]]}",
    "rows of which the last differs": b'{"instances": [' + b"[0.5]," * 900_000 + b"0.5]}",
    "floats behind a number of 22 digits": b'{"inputs": ['
    + b"1" * 22
    + b",0.5" * 1_900_000
    + b"]}",
}
GRPC = "95,000 rows of 20 floats over gRPC"


def save_halves(folder: Path) -> None:
    """Writes a model of one signature: x [B, D] -> y, its half."""
    module = tf.Module()
    half = tf.function(lambda x: {"y": x / 2}).get_concrete_function(
        tf.TensorSpec([None, None], name="x")
    )
    tf.saved_model.save(module, str(folder), signatures={"serving_default": half})


class Client:
    """Asks for one row after the other from a thread of its own."""

    def __init__(self, port: int):
        self._port = port
        self._waited: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()

    def longest(self, beside: Callable[[], object]) -> float:
        """Seconds, at most, that an answer took while something else was done."""
        self._waited.clear()
        beside()
        time.sleep(0.5)
        return max(self._waited)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        while not self._stop.is_set():
            begin = time.perf_counter()
            connection.request("POST", PATH, SMALL)
            connection.getresponse().read()
            self._waited.append(time.perf_counter() - begin)
            time.sleep(0.002)


def measure(folder: Path, rounds: int) -> dict[str, list[dict[str, float]]]:
    """By kind of request, what each round gave: milliseconds and bytes."""
    request = protos.predict.PredictRequest()
    request.model_spec.name = "halves"
    to_proto(np.full((95_000, 20), 0.5, np.float32), request.inputs["x"])
    found: dict[str, list[dict[str, float]]] = {}
    with ServerProcess("halves", str(folder)) as ready, Client(ready["rest"]) as client:
        unlimited = [("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{ready['grpc']}", unlimited) as channel:
            stub = protos.PredictionServiceStub(channel)
            asking: dict[str, Callable[[], object]] = {
                kind: lambda body=body: _post(ready["rest"], body) for kind, body in BODIES.items()
            }
            asking[GRPC] = lambda: stub.Predict(request)
            for number in range(rounds + 1):
                for kind, ask in asking.items():
                    before = _held("VmRSS", ready["pid"], anew=True)
                    waited = client.longest(ask)
                    peak, after = (_held(name, ready["pid"]) for name in ("VmHWM", "VmRSS"))
                    if number:  # the first of a kind does not count
                        found.setdefault(kind, []).append(
                            {"ms": 1e3 * waited, "peak": peak - before, "after": after - before}
                        )
    return found


def _held(name: str, server: int, anew: bool = False) -> int:
    """Memory of a server and of its own processes, see `memory`; their peaks may begin anew."""
    pids = [server, *(child.pid for child in psutil.Process(server).children())]
    for pid in pids if anew else ():
        begin_peak(pid)
    return sum(memory(name, pid) for pid in pids)


def _post(port: int, body: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", PATH, body)
    connection.getresponse().read()
    connection.close()


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """The medians of the rounds as Markdown."""
    lines = ["| one request | others waited, ms | most | MB at the peak | MB after |"]
    lines.append("|---|---|---|---|---|")
    for kind, rounds in found.items():
        waited = [one["ms"] for one in rounds]
        peak, after = (
            statistics.median(one[name] for one in rounds) / 1e6 for name in ("peak", "after")
        )
        lines.append(
            f"| {kind} | {statistics.median(waited):.0f} | {max(waited):.0f} "
            f"| {peak:.0f} | {after:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        save_halves(Path(folder, "1"))
        found = measure(Path(folder), given.rounds)
    print(table(found))
    if given.output is not None:
        given.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
