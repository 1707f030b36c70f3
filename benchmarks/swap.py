"""A new version under load: what the swap costs the requests beside it, and how much memory.

    python -m benchmarks.swap [--model-dir FOLDER] [--swaps 5] [--requests 200] [--seconds 8]
                              [--output FILE]

FOLDER is one version of a pushed model, with its warm-up requests; without it a synthetic one of
20,000 items is written. One-row requests of `recommend` come over REST at a fixed rate, times from
when a request was due. Every --seconds either nothing happens or the same model is pushed as a new
version, in turns, so that what else the machine does meets both. Memory is the peak of the server's
resident set from a push on over what it was just before. The server is a process of its own; the
load comes from this one, and both share the machine. An answer that is no 200 ends the run. Prints
a Markdown table and, with --output, writes it as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.live import Load, summary
from benchmarks.serving import PATH, USERS, write_synthetic
from benchmarks.usage import begin_peak, memory
from serving.server.process import ServerProcess

QUIET, SWAP = "nothing beside", "while a version is swapped"


def measure(folder: Path, source: Path, swaps: int, requests: float, seconds: float) -> dict:
    """The times of both kinds of windows, and the memory of each swap.

    Args:
        folder: of the model; its version 1 serves.
        source: a version that is pushed again and again.
        swaps: how often.
        requests: a second.
        seconds: of a window.
    """
    draw = random.Random(7)

    def request() -> dict:
        user = f"u{draw.randrange(USERS)}" if draw.random() < 0.5 else str(draw.randrange(1, 900))
        inputs = {"user_id": [user], "history": [[""]], "exclude": [[""]], "k": [10]}
        return {"signature_name": "recommend", "inputs": inputs}

    begun, took, ratios = {QUIET: [], SWAP: []}, [], []
    with ServerProcess(
        "model", str(folder), options=("--file-system-poll-wait-seconds", "0.2")
    ) as ready:
        load = Load(ready["rest"], PATH, requests, request)

        async def push() -> None:
            await asyncio.sleep(4)  # the first seconds of a load do not count
            for number in range(2, 2 + swaps):
                begun[QUIET].append(time.perf_counter())
                await asyncio.sleep(seconds)
                begin_peak(ready["pid"])
                before = memory("VmRSS", ready["pid"])
                begun[SWAP].append(time.perf_counter())
                await asyncio.to_thread(_push, source, folder / str(number))
                while not await asyncio.to_thread(_serves, ready["rest"], number):
                    await asyncio.sleep(0.1)
                took.append(time.perf_counter() - begun[SWAP][-1])
                if took[-1] > seconds:  # the load would end before the swaps do
                    raise SystemExit(f"a swap took {took[-1]:.1f} s: --seconds must be more")
                await asyncio.sleep(seconds - took[-1])
                ratios.append(memory("VmHWM", ready["pid"]) / before)

        async def both() -> None:
            await asyncio.gather(load.run(5 + 2 * seconds * swaps), push())

        asyncio.run(both())
    found = {
        kind: [
            [ms for due, ms in zip(load.due, load.milliseconds) if begin <= due < begin + seconds]
            for begin in begins
        ]
        for kind, begins in begun.items()
    }
    per_swap = [
        summary(busy)["p99"] / summary(quiet)["p99"]
        for quiet, busy in zip(found[QUIET], found[SWAP])
    ]
    return {
        **{kind: summary(sum(windows, [])) for kind, windows in found.items()},
        "p99_ratios": per_swap,
        "memory_ratios": ratios,
        "seconds": took,
        "answered": len(load.answered),
        "load_average": os.getloadavg()[0],
    }


def _push(source: Path, target: Path) -> None:
    """Copies a version beside the others, and gives it its number when it is whole."""
    shutil.copytree(source, target.with_name("incoming"))
    target.with_name("incoming").rename(target)


def _serves(port: int, number: int) -> bool:
    """Whether a version is available and all others have ended."""
    address = f"http://127.0.0.1:{port}{PATH.partition(':')[0]}"
    with urllib.request.urlopen(address) as page:
        states = {
            int(each["version"]): each["state"] for each in json.load(page)["model_version_status"]
        }
    others = {state for version, state in states.items() if version != number}
    return states.get(number) == "AVAILABLE" and others <= {"END"}


def table(found: dict) -> str:
    """The Markdown table."""
    lines = ["| ms | p50 | p95 | p99 |", "|---|---|---|---|"]
    for kind in (QUIET, SWAP):
        lines.append(f"| {kind} | " + " | ".join(f"{ms:.1f}" for ms in found[kind].values()) + " |")
    ratios, peaks = found["p99_ratios"], found["memory_ratios"]
    said = (
        f"{len(ratios)} swaps, {statistics.median(found['seconds']):.1f} s each from the push until"
        f" the old version has ended; p99 {found[SWAP]['p99'] / found[QUIET]['p99']:.2f} times, "
        f"{statistics.median(ratios):.2f} by the median swap ({min(ratios):.2f} to "
        f"{max(ratios):.2f}; at most 1.5); memory {statistics.median(peaks):.2f} times (up to "
        f"{max(peaks):.2f}; at most 2.1); {found['answered']:,} answers, no error; load average "
        f"{found['load_average']:.1f}"
    )
    return "\n".join([*lines, "", said])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model-dir", type=Path)
    parser.add_argument("--swaps", type=int, default=5)
    parser.add_argument("--requests", type=float, default=200.0, help="a second")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a window")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = given.model_dir
        if source is None:
            from models.training.warm_up import save_requests

            source = Path(scratch, "source")
            write_synthetic(source)
            save_requests(str(source))
        folder = Path(scratch, "model")
        shutil.copytree(source, folder / "1")
        found = measure(folder, source, given.swaps, given.requests, given.seconds)
    print(table(found))
    if given.output is not None:
        given.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
