"""How time and memory grow with the data, on synthetic events.

Measured are reading, ExampleBuilder, Transform and training.

    python -m benchmarks.scale [--events 100000 1000000 10000000] [--model two_tower]
        [--set lazy_adam=true] [--output FOLDER]

Events are drawn with popularity as of Zipf's law; a user has about 50 of them, an item about 500.
Every stage is a process of its own, so that its peak memory is its own; Beam runs in that one
process, as `recsys run` has it. Training is one epoch, without validation. Prints a Markdown table:
seconds, events a second, peak resident memory; and how much each grew with ten times the data.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import experiment

STAGES = ("read", "build", "transform", "train")
_BATCH = 1_000_000


def write_events(folder: Path, count: int, seed: int = 0) -> None:
    """Writes `events.parquet` of so many events."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random, users, items = np.random.RandomState(seed), max(10, count // 50), max(10, count // 500)
    weight = 1.0 / np.arange(1, items + 1)
    threshold = np.cumsum(weight / weight.sum())
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema(
        [
            ("user_id", pa.string()),
            ("item_id", pa.string()),
            ("rating", pa.float32()),
            ("timestamp", pa.int64()),
        ]
    )
    with pq.ParquetWriter(folder / "events.parquet", schema) as writer:
        for start in range(0, count, _BATCH):
            size = min(_BATCH, count - start)
            user = random.randint(users, size=size)
            item = np.searchsorted(threshold, random.rand(size))
            columns = [
                pa.array([f"user {number}" for number in user]),
                pa.array([f"item {number}" for number in np.minimum(item, items - 1)]),
                pa.array(random.randint(1, 6, size=size).astype(np.float32)),
                pa.array(1_600_000_000 + random.randint(50_000_000, size=size)),
            ]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=100_000)


def stage(name: str, folder: Path, model: str, setting: dict) -> None:
    """Runs one stage on what the stages before it left in `folder`."""
    from components import standalone

    if name == "read":
        standalone.read_tables(str(folder / "source"), output=str(folder / "tables"))
    elif name == "build":
        standalone.build_examples(
            str(folder / "tables"), str(folder), split={"name": "leave_one_out"}, schema="generic"
        )
    elif name == "transform":
        standalone.transform(
            str(folder / "examples"),
            str(folder / "schema" / "schema.pbtxt"),
            str(folder / "graph"),
            {"text": []},
        )
    else:
        from models.names import registry
        from models.training.loop import TrainingLoop

        module, data = registry.load(model), experiment.Prepared(folder).training_data(model)
        parameters = module.HyperParameters(epochs=1, **setting)
        module.Model(parameters, data).learn(TrainingLoop(parameters, data))


def measure(count: int, folder: Path, model: str, setting: dict) -> list[dict]:
    """Rows of the table for one number of events."""
    folder.mkdir(parents=True, exist_ok=True)
    write_events(folder / "source", count)
    rows = []
    for name in STAGES:
        begin = time.monotonic()
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "benchmarks.scale",
            "--stage",
            name,
            str(folder),
            model,
            json.dumps(setting),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{name} of {count:,} events failed")
        row = {
            "events": count,
            "stage": name,
            "seconds": time.monotonic() - begin,
            "cpu": usage.ru_utime + usage.ru_stime,
            "gib": usage.ru_maxrss / 2**20,
        }
        print(
            f"{count:,} events: {name} {row['seconds']:.0f} s, {row['cpu']:.0f} s of processor, "
            f"{row['gib']:.2f} GiB",
            flush=True,
        )
        rows.append(row)
    return rows


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--model", default="two_tower")
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help="hyper-parameters of the training",
    )
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/scale"))
    parser.add_argument("--stage", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        name, folder, model, setting = arguments.stage
        stage(name, Path(folder), model, json.loads(setting))
        return
    setting = experiment.overrides(arguments.set)
    rows = []
    for count in arguments.events:
        rows += measure(count, arguments.output / str(count), arguments.model, setting)
        (arguments.output / "scale.json").write_text(json.dumps(rows, indent=1))
    print(
        "\n| events | stage | seconds | processor s | events/s | peak GiB | seconds over the "
        "smaller | GiB over it |\n|" + "---|" * 8
    )
    before: dict[str, dict] = {}
    for row in rows:
        old = before.get(row["stage"])
        grew = (
            f"{row['seconds'] / old['seconds']:.1f} | {row['gib'] / old['gib']:.2f}"
            if old
            else " | "
        )
        before[row["stage"]] = row
        print(
            f"| {row['events']:,} | {row['stage']} | {row['seconds']:.0f} | {row['cpu']:.0f} | "
            f"{row['events'] / row['seconds']:,.0f} | {row['gib']:.2f} | {grew} |"
        )
    print(
        f"\n{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, model {arguments.model} "
        f"{experiment.described(setting)}"
    )


if __name__ == "__main__":
    main()
