"""What the embedded server costs and what batching brings, in one run on one machine.

    python -m benchmarks.serving [--model-dir FOLDER] [--seconds 2] [--rounds 5] [--output FILE]
    python -m benchmarks.serving --soak 10 [--model-dir FOLDER]
        memory of the server over 10 minutes of load

FOLDER is one version of a pushed model with the signature `recommend`; without it a synthetic one
is written: a look-up of users, a dot product with --items items, masks, the best ten. The server
and the load generator are processes of their own and share the machine with each other. Prints a
Markdown table and, with --output, writes it as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

import serving  # noqa: F401 (sets TensorFlow's environment, and imports nothing)
from benchmarks.usage import cpu_seconds

PATH = "/v1/models/model:predict"
METRICS = "/metrics"
USERS, WIDTH, K = 5_000, 64, 10
BATCHING = """
max_batch_size { value: 64 } batch_timeout_micros { value: 2000 }
num_batch_threads { value: 1 } max_enqueued_batches { value: 100 }
"""


# --- the load generator


async def _client(host: str, port: int, request: bytes, end: float, times: list[float]) -> None:
    """Sends a request over and over on one connection, and notes how long each answer takes."""
    reader, writer = await asyncio.open_connection(host, port)
    while time.perf_counter() < end:
        begin = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"expected 200, got {head[:200]!r}")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        times.append(time.perf_counter() - begin)
    writer.close()


async def _generate(host: str, port: int, body: bytes, clients: int, seconds: float) -> dict:
    request = (
        f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    count, times = 0, []
    for duration in (0.5, seconds):  # the first one warms up
        count, times = count + len(times), []
        begin = time.perf_counter()
        await asyncio.gather(
            *(_client(host, port, request, begin + duration, times) for _ in range(clients))
        )
    took = time.perf_counter() - begin
    count += len(times)
    return {**_summary(times, took), "requests": count}


def _summary(times: list[float], took: float) -> dict:
    times.sort()
    return {
        "requests_per_second": len(times) / took,
        "mean_ms": 1e3 * sum(times) / len(times),
        "p50_ms": 1e3 * times[len(times) // 2],
        "p99_ms": 1e3 * times[int(len(times) * 0.99)],
    }


def generate(port: int, body: bytes, clients: int, seconds: float) -> dict:
    """Runs the generator in a process of its own; returns what it measured."""
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.serving",
            "--generate",
            str(port),
            str(clients),
            str(seconds),
        ],
        input=body,
        capture_output=True,
    )
    if ran.returncode:
        raise SystemExit(f"the load generator failed: {ran.stderr.decode()[-2000:]}")
    return json.loads(ran.stdout)


# --- the model


def write_synthetic(folder: Path, item_count: int = 20_000) -> None:
    """Writes a SavedModel with the signature `recommend` of the real ones."""
    import tensorflow as tf

    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            random = tf.random.Generator.from_seed(7)
            names = [f"i{number}" for number in range(item_count)]
            self.items = tf.Variable(names, trainable=False)
            self.item_vectors = tf.Variable(random.normal([WIDTH, item_count]))
            self.user_vectors = tf.Variable(random.normal([USERS + 1, WIDTH]))
            self.tables = [
                tf.lookup.StaticHashTable(
                    tf.lookup.KeyValueTensorInitializer(
                        [f"{prefix}{number}" for number in range(count)],
                        tf.range(count, dtype=tf.int64),
                    ),
                    default,
                )
                for prefix, count, default in (("u", USERS, USERS), ("i", item_count, -1))
            ]

        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string, "user_id"),
                tf.TensorSpec([None, None], tf.string, "history"),
                tf.TensorSpec([None, None], tf.string, "exclude"),
                tf.TensorSpec([None], tf.int32, "k"),
            ]
        )
        def recommend(self, user_id, history, exclude, k):
            users, items = self.tables
            scores = tf.gather(self.user_vectors, users.lookup(user_id)) @ self.item_vectors
            seen = items.lookup(tf.concat([history, exclude], 1))
            rows = tf.tile(
                tf.range(tf.shape(seen)[0], dtype=tf.int64)[:, None], [1, tf.shape(seen)[1]]
            )
            where = tf.boolean_mask(tf.stack([rows, seen], 2), seen >= 0)
            hidden = tf.fill(tf.shape(where)[:1], float("-inf"))
            best, index = tf.math.top_k(
                tf.tensor_scatter_nd_update(scores, where, hidden), tf.reduce_max(k)
            )
            return {
                "item_id": tf.gather(self.items, index),
                "score": best,
                "strategy": tf.fill(tf.shape(user_id), "model"),
            }

    module = Model()
    tf.saved_model.save(module, str(folder), signatures={"recommend": module.recommend})


def inputs_of(rows: int) -> dict[str, list]:
    """One request of so many rows: eight items seen, one excluded, ten wanted."""
    return {
        "user_id": [f"u{row}" for row in range(rows)],
        "history": [[f"i{row + number}" for number in range(8)] for row in range(rows)],
        "exclude": [[f"i{row + 100}"] for row in range(rows)],
        "k": [K] * rows,
    }


def body_of(rows: int) -> bytes:
    """The same as the body of a REST request."""
    return json.dumps({"signature_name": "recommend", "inputs": inputs_of(rows)}).encode()


class BareCall:
    """A prepared callable of a session, on ready arrays, in this process."""

    def __init__(self, folder: Path, rows: int):
        from serving.server.servable import Servable

        self._servable = Servable("model", 1, str(folder))
        self._arrays = {
            name: np.array(value, np.int32)
            if name == "k"
            else np.array(value).astype("S").astype("O")
            for name, value in inputs_of(rows).items()
        }
        self._outputs = tuple(sorted(self._servable.signatures["recommend"].outputs))
        self.run(0.5)

    def run(self, seconds: float) -> dict:
        """Calls over and over; returns the same measures as a load."""
        times: list[float] = []
        cpu, begin = cpu_seconds(os.getpid()), time.perf_counter()
        while (now := time.perf_counter()) < begin + seconds:
            self._servable.run("recommend", self._arrays, self._outputs)
            times.append(time.perf_counter() - now)
        cpu = cpu_seconds(os.getpid()) - cpu
        return {**_summary(times, seconds), "cpu_ms": 1e3 * cpu / len(times)}


# --- the run


def _request_micros(port: int) -> np.ndarray:
    """What the server says of its requests so far: microseconds, and how many there were."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{METRICS}") as page:
        text = page.read().decode()
    return np.array(
        [
            sum(float(value) for value in re.findall(rf"request_latency_{part}\S* (\S+)", text))
            for part in ("sum", "count")
        ]
    )


def _load(server: dict, body: bytes, clients: int, seconds: float) -> dict:
    cpu, told = cpu_seconds(server["pid"]), _request_micros(server["rest"])
    found = generate(server["rest"], body, clients, seconds)
    cpu, told = cpu_seconds(server["pid"]) - cpu, _request_micros(server["rest"]) - told
    return {
        **found,
        "cpu_ms": 1e3 * cpu / found.pop("requests"),
        "server_ms": told[0] / told[1] / 1e3,
    }


def measure(folder: Path, seconds: float, rounds: int) -> dict:
    """All measurements: in every round each load once.

    The loads run one after the other, so that whatever else the machine does meets all of them.

    Args:
      folder: one version of a model.
      seconds: the length of each load.
      rounds: how often.

    Returns:
      The median over the rounds of what each load gave, and of the ratios that have targets.
    """
    from serving.server.process import ServerProcess

    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as stack:
        shutil.copytree(folder, Path(root) / "1")
        parameters = Path(root) / "batching.txt"
        parameters.write_text(BATCHING)
        monitoring = Path(root) / "monitoring.txt"
        monitoring.write_text(f'prometheus_config {{ enable: true path: "{METRICS}" }}')
        watched = ("--monitoring-config-file", str(monitoring))
        options = ("--enable-batching", "--batching-parameters-file", str(parameters), *watched)
        plain = stack.enter_context(ServerProcess("model", root, options=watched))
        batched = stack.enter_context(ServerProcess("model", root, options=options))
        bare = BareCall(Path(root) / "1", 32)
        results = []
        for _ in range(rounds):
            results.append(
                {
                    "unbatched_64": _load(plain, body_of(1), 64, seconds),
                    "batched_64": _load(batched, body_of(1), 64, seconds),
                    "unbatched_16": _load(plain, body_of(1), 16, seconds),
                    "batched_16": _load(batched, body_of(1), 16, seconds),
                    "rows_32": _load(plain, body_of(32), 1, seconds),
                    "bare_32": bare.run(seconds),
                }
            )
    found = {
        name: {key: statistics.median(result[name][key] for result in results) for key in value}
        for name, value in results[0].items()
    }
    found["ratios"] = {
        name: [ratio(result) for result in results] for name, (_, ratio, _, _) in RATIOS.items()
    }
    return found


def soak(folder: Path, minutes: float) -> list[tuple[float, float, int]]:
    """Loads a batching server with requests of changing sizes.

    Returns (minutes so far, resident MiB, requests so far) at every look.
    """
    from serving.server.process import ServerProcess

    with tempfile.TemporaryDirectory() as root:
        shutil.copytree(folder, Path(root) / "1")
        parameters = Path(root) / "batching.txt"
        parameters.write_text(BATCHING)
        options = ("--enable-batching", "--batching-parameters-file", str(parameters))
        with ServerProcess("model", root, options=options) as server:
            begin, requests, seen = time.monotonic(), 0, []
            while not seen or seen[-1][0] < minutes:
                for rows, clients in ((1, 16), (7, 8), (32, 2)):
                    requests += generate(server["rest"], body_of(rows), clients, 4)["requests"]
                pages = int(Path(f"/proc/{server['pid']}/statm").read_text().split()[1])
                seen.append(
                    (
                        (time.monotonic() - begin) / 60,
                        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
                        requests,
                    )
                )
                print(
                    f"{seen[-1][0]:5.1f} min  {seen[-1][1]:7.1f} MiB  {requests:,} requests",
                    flush=True,
                )
    return seen


# Name -> (title, how it comes of one round, comparison, target).
RATIOS = {
    "batching_64": (
        "batched over unbatched requests/s, 64 clients",
        lambda r: r["batched_64"]["requests_per_second"] / r["unbatched_64"]["requests_per_second"],
        ">=",
        3.0,
    ),
    "tail_16": (
        "p99 over p50, 16 clients, batched",
        lambda r: r["batched_16"]["p99_ms"] / r["batched_16"]["p50_ms"],
        "<=",
        4.0,
    ),
    "overhead_32": (
        "server over bare call, p50, 32 rows",
        lambda r: r["rows_32"]["p50_ms"] / r["bare_32"]["p50_ms"],
        "<=",
        2.0,
    ),
    "overhead_server": (
        "the server's own time of a request over bare call, means, 32 rows",
        lambda r: r["rows_32"]["server_ms"] / r["bare_32"]["mean_ms"],
        "<=",
        2.0,
    ),
    "batching_cpu": (
        "processor time of a request, unbatched over batched, 64 clients",
        lambda r: r["unbatched_64"]["cpu_ms"] / r["batched_64"]["cpu_ms"],
        "",
        0.0,
    ),
    "overhead_cpu": (
        "processor time of 32 rows, server over bare call",
        lambda r: r["rows_32"]["cpu_ms"] / r["bare_32"]["cpu_ms"],
        "",
        0.0,
    ),
}
LOADS = {
    "unbatched_64": "64 clients, one row each, unbatched",
    "batched_64": "the same, batched",
    "unbatched_16": "16 clients, one row each, unbatched",
    "batched_16": "the same, batched",
    "rows_32": "1 client, 32 rows each, unbatched",
    "bare_32": "the bare call, 32 rows",
}


def table(found: dict) -> str:
    """The measurements as Markdown."""
    lines = [
        "| load | requests/s | p50 ms | p99 ms | processor ms a request |",
        "|---|---|---|---|---|",
    ]
    for name, title in LOADS.items():
        row = found[name]
        lines.append(
            f"| {title} | {row['requests_per_second']:.0f} | {row['p50_ms']:.2f} | "
            f"{row['p99_ms']:.2f} | {row['cpu_ms']:.2f} |"
        )
    lines += [
        "",
        "| ratio | median | lowest to highest round | target | |",
        "|---|---|---|---|---|",
    ]
    for name, (title, _, comparison, target) in RATIOS.items():
        values = found["ratios"][name]
        median = statistics.median(values)
        verdict = goal = ""
        if comparison:
            reached = median >= target if comparison == ">=" else median <= target
            verdict, goal = "reached" if reached else "missed", f"{comparison} {target:g}"
        lines.append(
            f"| {title} | {median:.2f} | {min(values):.2f} to {max(values):.2f} | "
            f"{goal} | {verdict} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model-dir", type=Path)
    parser.add_argument("--items", type=int, default=20_000, help="of the synthetic model")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="measure memory instead")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--generate", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.generate:
        port, clients, seconds = given.generate
        body = sys.stdin.buffer.read()
        print(
            json.dumps(
                asyncio.run(_generate("127.0.0.1", int(port), body, int(clients), float(seconds)))
            )
        )
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.model_dir or Path(scratch) / "synthetic"
        if given.model_dir is None:
            write_synthetic(folder, given.items)
        if given.soak:
            seen = soak(folder, given.soak)
            early = next(memory for minute, memory, _ in seen if minute >= min(1.0, given.soak / 2))
            print(
                f"\n{early:.0f} MiB after a minute, {seen[-1][1]:.0f} MiB after {seen[-1][0]:.0f} "
                f"minutes and {seen[-1][2]:,} requests"
            )
            return
        found = measure(folder, given.seconds, given.rounds)
    found["model"] = str(given.model_dir or f"synthetic, {given.items} items")
    found["cores"], found["load_average"] = os.cpu_count(), os.getloadavg()[0]
    print(table(found))
    print(
        f"\n{found['cores']} cores, load average {found['load_average']:.1f}, "
        f"model: {found['model']}"
    )
    if given.output:
        given.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
