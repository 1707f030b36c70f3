"""Logs of three shapes through the whole of `recsys run`: seconds and memory of each component.

    python -m benchmarks.shapes sessions [--events 1000000]   clicks and purchases in sessions
    python -m benchmarks.shapes events [--events 1000000]     users with about 50 events each
        [--model item_knn]
    python -m benchmarks.shapes wide [--columns 10 30 60]     10,000 rows, numbers and words

The data are drawn from a seed. `sessions` are like Yoochoose's: 3.5 clicks each on the mean, over
30 days, on items of which few have most clicks, one session in twenty with a purchase; item-kNN
learns of clicks alone, filtered as the papers do, and answers for the last day. `events` are learnt
by item-kNN too, `wide` rows by LR in at most 20 epochs. Each run is a process of its own; its
processor time (of all threads, and of the server of the Canary), its peak of resident memory and
that of anonymous memory (so without the pages of libraries and of mapped files) are read where a
component begins and ends. What else is said goes to `recsys run`:

    python -m benchmarks.shapes events --events 100000000 --model bpr_mf --split temporal
        --set epochs=1 --set lazy_adam=true

Prints a Markdown table.
"""

import argparse
import contextlib
import functools
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import scale
from benchmarks.usage import begin_peak, memory

_DAY = 86_400
_MARK = "measured: "


def write_sessions(folder: Path, events: int, seed: int) -> list[str]:
    """Writes sessions; returns the arguments of their run."""
    import pandas as pd

    random = np.random.RandomState(seed)
    lengths = 1 + random.geometric(1 / 2.5, size=max(2, round(events / 3.5)))
    session = np.repeat(np.arange(len(lengths)), lengths)[:events]
    begin = np.sort(random.randint(30 * _DAY, size=len(lengths)))
    step = np.arange(len(session)) - np.searchsorted(session, session)
    items = max(100, events // 30)
    # Clicks of a session lie near one another, so that there is something to learn.
    centre = np.minimum(random.zipf(1.2, size=len(lengths)), items)[session]
    item = (centre + random.randint(-3, 4, size=len(session))) % items
    buys = (random.rand(len(lengths)) < 0.05)[session] & (step > 0) & (random.rand(len(step)) < 0.5)
    pd.DataFrame(
        {
            "user_id": session,
            "session_id": session,
            "item_id": item,
            "timestamp": 1_396_000_000 + begin[session] + 40 * step,
            "event_type": np.where(buys, "purchase", "click"),
            "category": item % 12,
        }
    ).to_csv(folder / "events.csv", index=False)
    return [
        "--split=last_days",
        "--set=positives.column=event_type",
        "--set=positives.values=[click]",
        "--set=filters.min_item_events=5",
        "--set=filters.min_session_events=2",
        "--set=filters.known_targets_only=true",
        "--set=data.max_rejected_share=0",
        "--set=check.max_duplicate_share=1",
    ]


def write_events(folder: Path, events: int, seed: int) -> list[str]:
    """Writes plain events; returns the arguments of their run."""
    scale.write_events(folder, events, seed)
    # Drawn by popularity alone: there is nothing else to learn, and the gate would say so.
    return ["--set=check.max_duplicate_share=1", "--set=gate.min_lift=-1"]


def write_wide(folder: Path, columns: int, seed: int, rows: int = 10_000) -> list[str]:
    """Writes rows of many columns; returns the arguments of their run."""
    import pandas as pd

    random = np.random.RandomState(seed)
    table: dict[str, np.ndarray] = {
        "user_id": random.randint(500, size=rows),
        "item_id": random.randint(300, size=rows),
        "timestamp": 1_600_000_000 + np.arange(rows),
    }
    for number in range(columns):
        if number % 2:
            table[f"number_{number}"] = np.round(random.randn(rows), 3)
        else:
            table[f"word_{number}"] = np.char.add("w", random.randint(50, size=rows).astype(str))
    logit = table["number_1"] + (table["word_0"] < "w3")
    table["label"] = (random.rand(rows) < 1 / (1 + np.exp(-logit))).astype(int)
    pd.DataFrame(table).to_csv(folder / "events.csv", index=False)
    return ["--set=label.column=label", "--set=epochs=20"]


class Meter(logging.Handler):
    """Writes a line of JSON where a component ends: its seconds and its peak of memory."""

    def __init__(self):
        super().__init__(logging.INFO)
        self._begun = 0.0
        self._watch = contextlib.ExitStack()
        self._anonymous = [0]

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage() if len(str(record.msg)) < 100 else ""
        if re.match(r"Component \S+ is running", message):
            self._begun = _processor()
            begin_peak()
            watched = scale.peak(functools.partial(memory, "RssAnon"))
            self._anonymous = self._watch.enter_context(watched)
        elif ended := re.match(r"Component (\S+) is finished", message):
            self._watch.close()
            found = {
                "component": ended.group(1),
                "seconds": round(_processor() - self._begun, 1),
                "gib": round(memory("VmHWM") / 2**30, 2),
                "anonymous": round(self._anonymous[0] / 2**30, 2),
            }
            print(_MARK + json.dumps(found), flush=True)


def _processor() -> float:
    """Seconds of processors that this process and those that it waited for have taken."""
    return sum(os.times()[:4])


def run(arguments: list[str]) -> None:
    """One run in this process, measured."""
    from absl import logging as absl_logging

    from pipeline.cli import main

    absl_logging.get_absl_logger().addHandler(Meter())
    try:
        main(["run", *arguments], standalone_mode=False)
    finally:
        print(_MARK + json.dumps({"component": "in all", "seconds": round(_processor(), 1)}))


def measure(name: str, arguments: list[str], data: Path) -> dict[str, dict]:
    """Component -> what it took."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.shapes", "--run", *arguments]
    command += ["--data", str(data), "--output", str(data.parent / f"{data.name}-runs")]
    found: dict[str, dict] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.startswith(_MARK):
                one = json.loads(line.removeprefix(_MARK))
                found[one["component"]] = one
            else:
                print(f"{name}: {line.rstrip()}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measures and prints."""
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=("sessions", "events", "wide"))
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, nargs="+", default=[10, 30, 60])
    parser.add_argument("--model", help="item_knn; of wide rows lr")
    parser.add_argument("--seed", type=int, default=0)
    given, others = parser.parse_known_args()
    model = given.model or ("lr" if given.shape == "wide" else "item_knn")
    measured: dict[str, dict[str, dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sizes = given.columns if given.shape == "wide" else [given.events]
        write = {"sessions": write_sessions, "events": write_events, "wide": write_wide}
        for size in sizes:
            name = f"{given.shape} {size:,}"
            data = Path(folder) / f"{given.shape}-{size}"
            data.mkdir()
            arguments = [model, *write[given.shape](data, size, given.seed), *others]
            measured[name] = measure(name, arguments, data)
    heads = (f"{name}: s | GiB | anonymous" for name in measured)
    print("| component | " + " | ".join(heads) + " |")
    print("|" + "---|" * (1 + 3 * len(measured)))
    for one in measured.values():
        for peaks in ("gib", "anonymous"):
            one["in all"][peaks] = max(found.get(peaks, 0) for found in one.values())
    for component in next(iter(measured.values())):
        cells = [
            "{seconds:.1f} | {gib:.2f} | {anonymous:.2f}".format(**one[component])
            for one in measured.values()
            if component in one
        ]
        print(f"| {component} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
