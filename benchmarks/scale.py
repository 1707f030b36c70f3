"""How time and memory grow with the data, on synthetic events.

Measured are reading, ExampleBuilder, Transform and training.

    python -m benchmarks.scale [--events 100000 1000000 10000000] [--models two_tower]
        [--set lazy_adam=true] [--steps N] [--whole] [--output FOLDER]
    python -m benchmarks.scale --events 10000000 --models bpr_mf two_tower gru4rec deepfm --steps 50

Events are drawn with popularity as of Zipf's law; a user has about 50 of them, an item about 500.
The tables are read once, and built once for the models of one kind of rows. Every stage is a
process of its own, so that its peak memory is its own; Beam runs in that one process, as `recsys
run` has it. Training is one epoch, without validation, or its first N steps, after which everything
is there that takes memory; `--whole` validates and exports too, as the Trainer does. Prints a
Markdown table: seconds, events a second, peak resident memory; and how much each grew with ten
times the data. Of a training also what memory of its own (anonymous, so without the pages of mapped
columns and libraries) it has at its peak beside the model's variables and the optimiser's, and how
many bytes of columns lie in files.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import experiment
from benchmarks.usage import memory

_BATCH = 1_000_000
_TRAINED = "trained.json"
_CLICK = {"column": "rating", "threshold": 4.0}


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


def nameless() -> dict[int, int]:
    """The files without a name that this process holds open, and their bytes: columns, paged."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            status = link.stat()
            if stat.S_ISREG(status.st_mode) and not status.st_nlink:
                found[status.st_ino] = status.st_size
    return found


@contextlib.contextmanager
def peak(looks_at: Callable[[], int]) -> Iterator[list[int]]:
    """Yields a list whose one number becomes the peak of what is looked at."""
    found, ends = [0], threading.Event()

    def look() -> None:
        while not ends.wait(0.05):
            found[0] = max(found[0], looks_at())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ends.set()
        watcher.join()


def train(
    folder: Path, name: str, setting: dict, steps: int = 0, whole: bool = False
) -> dict[str, int]:
    """Trains an epoch, or so many steps of it; the `whole` of it validates and exports.

    Returns:
        How many `steps` were taken, and bytes: the peak of `anonymous` memory, of which `variables`
        are the model's and the optimiser's, and that of `paged` columns.
    """
    from models.names import registry
    from models.names.export import FLOAT32
    from models.training.export import export
    from models.training.loop import TrainingLoop
    from models.training.trainer import set_precision

    module, label = registry.load(name), _label(name)

    class Some(module.Model):
        """The model, whose epoch is so long."""

        def batches(self, data: Any, seed: int, first_epoch: int) -> Any:
            every = super().batches(data, seed, first_epoch)
            own = min(steps or every.steps, every.steps)
            return dataclasses.replace(every, steps=own, rows=every.rows * own // every.steps)

    others = nameless().keys()  # such as what is printed, where somebody keeps it

    def in_files() -> int:
        return sum(size for file, size in nameless().items() if file not in others)

    anonymous = functools.partial(memory, "RssAnon")
    with peak(anonymous) as most, peak(in_files) as paged:
        prepared = experiment.Prepared(folder, label)
        data, task = prepared.training_data(name), prepared.task(name)
        parameters = module.HyperParameters(epochs=1, **setting)
        set_precision(parameters)
        evaluation = task.evaluation(data, "valid") if whole else None
        model = Some(parameters, data)
        model.learn(TrainingLoop(parameters, data, evaluation=evaluation))
        if whole:
            export(task.exporter(model, data), model, evaluation, str(folder / "model"), FLOAT32)
    optimizer = getattr(model, "optimizer", None)  # a closed form has none
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    numbers = sum(each.dtype.size * each.shape.num_elements() for each in variables)
    taken = int(optimizer.iterations) if optimizer else 0
    return {"steps": taken, "anonymous": most[0], "variables": numbers, "paged": paged[0]}


def _label(model: str) -> Any:
    from models.names import registry
    from models.names.label import Label

    return Label.parse(_CLICK) if registry.get(model).task == "score" else None


def stage(
    name: str, folder: Path, model: str, setting: dict, steps: int, whole: bool = False
) -> None:
    """Runs one stage on what the stages before it left in `folder`."""
    from components import standalone
    from models.names import registry

    tables = str(folder.parent / "tables")
    if name == "read":
        standalone.read_tables(str(folder.parent / "source"), output=tables)
    elif name == "build":
        entry = registry.get(model)
        standalone.build_examples(
            tables,
            str(folder),
            entry.task,
            entry.kind,
            {"name": "leave_one_out"},
            "generic",
            _CLICK if entry.task == "score" else None,
        )
    elif name == "transform":
        standalone.transform(
            str(folder / "examples"),
            str(folder / "schema" / "schema.pbtxt"),
            str(folder / "graph"),
            {"text": []},
        )
    else:
        found = train(folder, model, setting, steps, whole)
        (folder / _TRAINED).write_text(json.dumps(found))


def stages(models: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yields each stage, the folder of its kind of rows, and the model that it is for."""
    from models.names import registry

    kinds: dict[str, list[str]] = {}
    for model in models:
        entry = registry.get(model)
        kinds.setdefault(f"{entry.task}-{entry.kind}", []).append(model)
    yield "read", next(iter(kinds)), models[0]
    for kind, alike in kinds.items():
        yield "build", kind, alike[0]
        yield "transform", kind, alike[0]
        for model in alike:
            yield "train", kind, model


def measure(
    count: int, output: Path, models: list[str], setting: dict, steps: int, whole: bool
) -> list[dict]:
    """Rows of the table for one number of events."""
    write_events(output / "source", count)
    rows = []
    for name, kind, model in stages(models):
        folder = output / kind
        folder.mkdir(parents=True, exist_ok=True)
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
            str(steps),
            str(int(whole)),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{name} of {count:,} events failed")
        row = {
            "events": count,
            "stage": " ".join((name, {"read": "", "train": model}.get(name, kind))).strip(),
            "seconds": time.monotonic() - begin,
            "cpu": usage.ru_utime + usage.ru_stime,
            "gib": usage.ru_maxrss / 2**20,
        }
        said = ""
        if name == "train":
            found = json.loads((folder / _TRAINED).read_text())
            row["variables"] = found["variables"] / 2**30
            row["beside"] = found["anonymous"] / 2**30 - row["variables"]
            row["paged"] = found["paged"] / 2**30
            said = (
                f", {row['variables']:.2f} of them tables and optimiser, and "
                f"{row['beside']:.2f} anonymous beside them; {row['paged']:.2f} in files"
            )
        print(
            f"{count:,} events: {row['stage']} {row['seconds']:.0f} s, {row['cpu']:.0f} s of "
            f"processor, {row['gib']:.2f} GiB{said}",
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
    parser.add_argument("--models", nargs="+", default=["two_tower"])
    experiment.add_setting(parser, "hyper-parameters of the training")
    parser.add_argument("--steps", type=int, default=0, help="of the training; 0: an epoch")
    parser.add_argument(
        "--whole", action="store_true", help="the training validates and exports too"
    )
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/scale"))
    parser.add_argument("--stage", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        name, folder, model, setting, steps, whole = arguments.stage
        stage(name, Path(folder), model, json.loads(setting), int(steps), bool(int(whole)))
        return
    setting = experiment.overrides(arguments.set)
    rows = []
    for count in arguments.events:
        rows += measure(
            count,
            arguments.output / str(count),
            arguments.models,
            setting,
            arguments.steps,
            arguments.whole,
        )
        (arguments.output / "scale.json").write_text(json.dumps(rows, indent=1))
    print(
        "\n| events | stage | seconds | processor s | events/s | peak GiB | beside tables and "
        "optimiser | in files | seconds over the smaller | GiB over it |\n|" + "---|" * 10
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
        beside = f"{row['beside']:.2f}" if "beside" in row else ""
        paged = f"{row['paged']:.2f}" if "paged" in row else ""
        print(
            f"| {row['events']:,} | {row['stage']} | {row['seconds']:.0f} | {row['cpu']:.0f} | "
            f"{row['events'] / row['seconds']:,.0f} | {row['gib']:.2f} | {beside} | {paged} | "
            f"{grew} |"
        )
    print(
        f"\n{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}, "
        f"{experiment.described(setting)}"
        + (f", {arguments.steps} steps" if arguments.steps else "")
        + (", validated and exported" if arguments.whole else "")
    )


if __name__ == "__main__":
    main()
