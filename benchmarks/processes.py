"""What a second process of the embedded server brings on two cores.

    python -m benchmarks.processes [--model-dir FOLDER] [--clients 32] [--seconds 5] [--rounds 5]
                                   [--output FILE]

FOLDER is one version of a pushed model with the signature `recommend`; without it a synthetic one
is written, of --items items. One-row requests over REST, each client's next as soon as the last is
answered, of a server with `--processes 1` and of one with `--processes 2`, in turns, so that what
else the machine does meets both. The load generator is a process of its own and takes a share of
the same cores, which is told: requests/s by the clock are of server and generator together. Beside
them stand requests a second of the servers' processor time, which no other work moves, and how many
cores the servers had; both together say what they bring on cores of their own. Prints a Markdown
table and, with --output, writes it as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import tempfile
from pathlib import Path

from benchmarks.serving import body_of, generate, write_synthetic
from benchmarks.usage import cpu_seconds
from serving.server.process import ServerProcess

COUNTS = (1, 2)


def measure(root: str, clients: int, seconds: float, rounds: int) -> dict[int, list[dict]]:
    """Number of processes -> what each round gave."""
    found: dict[int, list[dict]] = {count: [] for count in COUNTS}
    with contextlib.ExitStack() as stack:
        servers = {
            count: stack.enter_context(
                ServerProcess("model", root, options=(f"--processes={count}",))
            )
            for count in COUNTS
        }
        for _ in range(rounds):
            for count, server in servers.items():
                found[count].append(_load(server, clients, seconds))
    return found


def _load(server: dict, clients: int, seconds: float) -> dict:
    pids = server.get("processes") or [server["pid"]]
    before, own = sum(map(cpu_seconds, pids)), _generator_seconds()
    told = generate(server["rest"], body_of(1), clients, seconds)
    took, own = sum(map(cpu_seconds, pids)) - before, _generator_seconds() - own
    wall = told["requests"] / told["requests_per_second"]
    return {
        "requests_per_second": told["requests_per_second"],
        "p50_ms": told["p50_ms"],
        "p99_ms": told["p99_ms"],
        "requests_per_processor_second": told["requests"] / took,
        "server_cores": took / wall,
        "generator_cores": own / wall,
    }


def _generator_seconds() -> float:
    """What the generators have had of the processors so far; their start is a part of it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(found: dict[int, list[dict]]) -> str:
    """The medians of the rounds as Markdown, and the ratios of each round's pair."""
    names = list(found[1][0])
    lines = ["| processes | " + " | ".join(name.replace("_", " ") for name in names) + " |"]
    lines.append("|---|" + "---|" * len(names))
    for count, rounds in found.items():
        values = (statistics.median(one[name] for one in rounds) for name in names)
        lines.append(f"| {count} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    lines.append("")
    for name in ("requests_per_second", "requests_per_processor_second"):
        ratios = [two[name] / one[name] for one, two in zip(found[1], found[2], strict=True)]
        lines.append(
            f"{name.replace('_', ' ')}, two over one: {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    return "\n".join([*lines, f"load average {os.getloadavg()[0]:.1f}"])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model-dir", type=Path)
    parser.add_argument("--items", type=int, default=2_000, help="of the synthetic model")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root, "1")
        if given.model_dir is None:
            write_synthetic(folder, given.items)
        else:
            shutil.copytree(given.model_dir, folder)
        found = measure(root, given.clients, given.seconds, given.rounds)
    print(table(found))
    if given.output is not None:
        given.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
