"""What a rule costs a request: the embedded server with and without, turn by turn.

    python -m benchmarks.rules [--items 10000 | --model-dir FOLDER] [--model two_tower]
                               [--where "genres in Comedy | Drama"]
                               [--requests 50] [--seconds 60] [--output FILE]

FOLDER is one version of a pushed `retrieve` model, as `make run` leaves one; without it a model is
trained for an epoch on drawn events of --items items with genres and years (seed 7). Its users are
asked for by the ids in --users. One-row requests over REST at a fixed rate, times from when a
request was due: `recommend`, `recommend_rules` that asks for nothing, and `recommend_rules` with
the condition. Each request is of another way than the one before, so that what else the machine
does meets all of them. The server is a process of its own; the load comes from this one. Prints a
Markdown table and, with --output, writes it as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.live import Load, summary
from serving.server.process import ServerProcess

_GENRES = ("Action", "Comedy", "Crime", "Drama", "Horror", "Romance", "War", "Western")
_PREDICT = "/v1/models/model:predict"
_ASKS_NOTHING: dict[str, list] = {
    "allow": [[]],
    "where": [[]],
    "boost": [[]],
    "pin": [[]],
    "exclude_recent": [0],
    "diversity": [""],
    "min_score": [math.nan],
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


def write_model(folder: Path, items: int, model: str) -> None:
    """Trains for an epoch on drawn events of so many items; writes a version of what is pushed."""
    from benchmarks import experiment
    from models.contract.retriever import Retriever
    from models.names import registry
    from models.training.warm_up import save_requests

    draw, source = random.Random(7), folder.parent.parent / "source"
    source.mkdir(parents=True)
    tables = {
        "events.inter": "user_id:token\titem_id:token\ttimestamp:float",
        "events.item": "item_id:token\trelease_year:token\tclass:token_seq",
    }
    rows: dict[str, list[str]] = {"events.inter": [], "events.item": []}
    for number in range(items):
        genres = " ".join(draw.sample(_GENRES, draw.randint(1, 3)))
        rows["events.item"].append(f"{number}\t{draw.randint(1950, 2020)}\t{genres}")
        # Everybody is asked for, so everybody has a history; everything is in train, most often.
        for _ in range(10):
            rows["events.inter"].append(
                f"{draw.randint(1, 899)}\t{number}\t{draw.randint(1, 10**6)}"
            )
    for name, columns in tables.items():
        (source / name).write_text("\n".join([columns, *rows[name], ""]))
    kind = registry.get(model).kind
    prepared = experiment.prepare(
        source, folder.parent.parent / "data", kind, {"name": "leave_one_out"}
    )
    data, trained, _ = experiment.train(prepared, model, {"epochs": 1}, 7)
    Retriever(trained, data).export(str(folder))
    save_requests(str(folder))


def measure(
    folder: Path, ways: dict[str, Callable[[], dict]], requests: float, seconds: float
) -> dict[str, dict[str, float]]:
    """Way -> p50, p95 and p99, in milliseconds."""
    with ServerProcess("model", str(folder.parent)) as ready:
        loads = {name: Load(ready["rest"], _PREDICT, requests, body) for name, body in ways.items()}

        async def in_turns() -> None:
            step = 1 / requests / len(loads)
            # The first three seconds of a load do not count.
            runs = [
                load.run(3 + seconds, place * step) for place, load in enumerate(loads.values())
            ]
            await asyncio.gather(*runs)

        asyncio.run(in_turns())
    return {name: summary(load.milliseconds) for name, load in loads.items()}


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
    parser.add_argument("--model-dir", type=Path)
    parser.add_argument("--items", type=int, default=10_000, help="of the drawn events")
    parser.add_argument("--model", default="two_tower", help="what learns them")
    parser.add_argument("--where", default="genres in Comedy | Drama", help="a condition")
    parser.add_argument("--users", nargs="+", default=[str(number) for number in range(1, 900)])
    parser.add_argument("--requests", type=float, default=20.0, help="of each way, a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model", "1")
        if given.model_dir is None:
            write_model(folder, given.items, given.model)
        else:
            shutil.copytree(given.model_dir, folder)
        ways = bodies(given.users, given.where)
        found = measure(folder, ways, given.requests, given.seconds)
    print(table(found))
    if given.output is not None:
        given.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
