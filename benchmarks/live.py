"""Live state under load: events and recommendations at once, then kill -9 and what was lost.

    python -m benchmarks.live [--model-dir FOLDER] [--seconds 30] [--events 500] [--requests 50]
                              [--state FILE|URL] [--output FILE]

Sends one event a request at a fixed rate beside one-row requests of `recommend` for the same users,
whose histories so grow. Times count from when a request was due, not from when a connection was
free, so what waits counts. FOLDER is one version of a pushed model; without it a synthetic one of
20,000 items is written. The server is a process of its own; the load comes from this one, and both
share the machine. At the end the server is killed, and every event that it acknowledged is looked
for in the state. Prints a Markdown table and, with --output, writes it as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

from benchmarks.serving import USERS, write_synthetic
from benchmarks.usage import cpu_seconds
from serving.server.process import ServerProcess
from serving.state import open_state

_CONNECTIONS = 64
_WARM_SECONDS = 3.0


class Load:
    """Requests at a fixed rate over connections that are kept open.

    Args:
        port: of the server's REST interface.
        path: where to.
        per_second: the rate.
        body: makes the body of a request.

    Attributes:
        milliseconds: how long each answer took from when it was due.
        due: when that was, in seconds of `time.perf_counter`.
        answered: what was asked.
    """

    def __init__(self, port: int, path: str, per_second: float, body):
        self._port, self._path, self._rate, self._body = port, path, per_second, body
        self._free: asyncio.LifoQueue = asyncio.LifoQueue()
        self.milliseconds: list[float] = []
        self.due: list[float] = []
        self.answered: list[dict] = []

    async def run(self, seconds: float, delay: float = 0.0) -> None:
        """Sends for so long, `delay` seconds later, and returns when all is answered."""
        for _ in range(_CONNECTIONS):
            self._free.put_nowait(await asyncio.open_connection("127.0.0.1", self._port))
        begin, sent = time.perf_counter() + 0.1 + delay, []
        for number in range(int(seconds * self._rate)):
            due = begin + number / self._rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent.append(asyncio.create_task(self._send(due, due - begin >= _WARM_SECONDS)))
        await asyncio.gather(*sent)
        while not self._free.empty():
            self._free.get_nowait()[1].close()

    async def _send(self, due: float, counts: bool) -> None:
        reader, writer = connection = await self._free.get()
        if reader.at_eof():  # it was idle, and the server has closed it
            reader, writer = connection = await asyncio.open_connection("127.0.0.1", self._port)
        document = self._body()
        body = json.dumps(document).encode()
        head = f"POST {self._path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        said = await reader.readexactly(length)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"expected 200, got {answer[:12]!r}: {said[:200]!r}")
        self._free.put_nowait(connection)
        self.answered.append(document)
        if counts:
            self.milliseconds.append(1e3 * (time.perf_counter() - due))
            self.due.append(due)


def measure(folder: Path, state: str, seconds: float, events: float, requests: float) -> dict:
    """The load with events and without, and what was lost when the server was killed."""
    draw, now = random.Random(7), int(time.time())

    def user() -> str:
        return f"u{draw.randrange(USERS)}"

    def event() -> dict:
        return {
            "user_id": user(),
            "item_id": f"i{draw.randrange(20_000)}",
            "timestamp": now + draw.randrange(3600),
        }

    def request() -> dict:
        inputs = {"user_id": [user()], "history": [[""]], "exclude": [[""]], "k": [10]}
        return {"signature_name": "recommend", "inputs": inputs}

    async def together(*loads: Load) -> None:
        await asyncio.gather(*(load.run(seconds) for load in loads))

    with ServerProcess("model", str(folder.parent), options=("--state", state)) as ready:
        port, predict = ready["rest"], "/v1/models/model:predict"
        alone = Load(port, predict, requests, request)
        begun = cpu_seconds(ready["pid"])
        asyncio.run(together(alone))
        before = cpu_seconds(ready["pid"])
        told, asked = (
            Load(port, "/v1/events", events, event),
            Load(port, predict, requests, request),
        )
        asyncio.run(together(told, asked))
        took = cpu_seconds(ready["pid"]) - before
        os.kill(ready["pid"], signal.SIGKILL)
    with open_state(state) as store:
        users = sorted({one["user_id"] for one in told.answered})
        kept = {
            (each.user_id.decode(), each.item_id.decode(), each.timestamp)
            for history in store.look_up([one.encode() for one in users]).histories
            for each in history
        }
    lost = {(one["user_id"], one["item_id"], one["timestamp"]) for one in told.answered} - kept
    return {
        "seconds": seconds,
        "load_average": os.getloadavg()[0],
        "recommend alone": summary(alone.milliseconds),
        "recommend beside events": summary(asked.milliseconds),
        "event, acknowledged": summary(told.milliseconds),
        "server_cores": took / seconds,
        "server_cores_alone": (before - begun) / seconds,
        "acknowledged": len(told.answered),
        "lost": len(lost),
    }


def summary(milliseconds: list[float]) -> dict[str, float]:
    """p50, p95 and p99."""
    ordered = sorted(milliseconds)
    return {
        f"p{share}": ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))]
        for share in (50, 95, 99)
    }


def table(found: dict) -> str:
    """The Markdown table."""
    lines = ["| ms | p50 | p95 | p99 |", "|---|---|---|---|"]
    for name, value in found.items():
        if isinstance(value, dict):
            lines.append(f"| {name} | " + " | ".join(f"{ms:.1f}" for ms in value.values()) + " |")
    said = (
        f"{found['acknowledged']:,} events acknowledged in {found['seconds']:g} s, "
        f"{found['lost']} lost by kill -9; the server used {found['server_cores']:.2f} cores, "
        f"{found['server_cores_alone']:.2f} of the requests alone; "
        f"load average {found['load_average']:.1f}"
    )
    return "\n".join([*lines, "", said])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model-dir", type=Path)
    parser.add_argument("--state", help="left out, a file that is removed afterwards")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--events", type=float, default=500.0, help="a second")
    parser.add_argument("--requests", type=float, default=50.0, help="a second")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with contextlib.ExitStack() as closing:
        scratch = Path(closing.enter_context(tempfile.TemporaryDirectory()))
        folder = scratch / "model" / "1"
        if options.model_dir is None:
            write_synthetic(folder)
        else:
            shutil.copytree(options.model_dir, folder)
        state = options.state or str(scratch / "state.db")
        found = measure(folder, state, options.seconds, options.events, options.requests)
    print(table(found))
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
