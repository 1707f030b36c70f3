"""What a rule costs a request: the embedded server with and without, turn by turn.

    python -m benchmarks.rules --model-dir FOLDER --where "genres in Comedy | Drama"
                               [--requests 100] [--seconds 5] [--rounds 5] [--output FILE]

FOLDER is one version of a pushed `retrieve` model, as `make run` leaves one; its users are asked
for by the ids in --users. One-row requests over REST at a fixed rate, times from when a request was
due: `recommend`, `recommend_rules` that asks for nothing, and `recommend_rules` with the condition,
a few seconds each in turns, so that what else the machine does meets all of them. The server is a
process of its own; the load comes from this one. Prints a Markdown table and, with --output, writes
it as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.live import Load, summary
from serving.server.process import ServerProcess

_PREDICT = "/v1/models/model:predict"
_ASKS_NOTHING: dict[str, list] = {
    "allow": [[]],
    "where": [[]],
    "boost": [[]],
    "pin": [[]],
    "exclude_recent": [0],
    "diversity": [""],
    "min_score": ["NaN"],
}


def bodies(users: list[str], where: str) -> dict[str, Callable[[], dict]]:
    """What is asked in each of the three ways."""
    draw = random.Random(7)

    def asked(signature: str, **rules: list) -> dict:
        inputs = {"user_id": [draw.choice(users)], "history": [[""]], "exclude": [[""]], "k": [10]}
        return {"signature_name": signature, "inputs": {**inputs, **rules}}

    return {
        "recommend": lambda: asked("recommend"),
        "recommend_rules, nothing asked": lambda: asked("recommend_rules", **_ASKS_NOTHING),
        f"recommend_rules, {where}": lambda: asked(
            "recommend_rules", **{**_ASKS_NOTHING, "where": [[where]]}
        ),
    }


def measure(
    folder: Path, ways: dict[str, Callable[[], dict]], requests: float, seconds: float, rounds: int
) -> dict[str, dict[str, float]]:
    """Way -> p50, p95 and p99 of all rounds, in milliseconds."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    with ServerProcess("model", str(folder.parent)) as ready:
        for _ in range(rounds):
            for name, body in ways.items():
                load = Load(ready["rest"], _PREDICT, requests, body)
                # The first three seconds of a load do not count.
                asyncio.run(load.run(3 + seconds))
                found[name] += load.milliseconds
    return {name: summary(milliseconds) for name, milliseconds in found.items()}


def table(found: dict[str, dict[str, float]]) -> str:
    """The Markdown table; ratios are to the first row."""
    lines = ["| ms | p50 | p95 | p99 | times p50 | times p99 |", "|---|---|---|---|---|---|"]
    plain = next(iter(found.values()))
    for name, own in found.items():
        times = [own[share] / plain[share] for share in ("p50", "p99")]
        numbers = [f"{value:.2f}" for value in (*own.values(), *times)]
        lines.append(f"| {name} | " + " | ".join(numbers) + " |")
    return "\n".join([*lines, "", f"load average {os.getloadavg()[0]:.1f}"])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--where", required=True, help="a condition on the items' columns")
    parser.add_argument("--users", nargs="+", default=[str(number) for number in range(1, 900)])
    parser.add_argument("--requests", type=float, default=100.0, help="a second")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each way and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model", "1")
        shutil.copytree(given.model_dir, folder)
        ways = bodies(given.users, given.where)
        found = measure(folder, ways, given.requests, given.seconds, given.rounds)
    print(table(found))
    if given.output is not None:
        given.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
