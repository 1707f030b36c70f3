"""What a GPU makes of training, and what can be said of it without one.

    python -m benchmarks.gpu prepare        # where TFX is: MovieLens-100K's built examples
    python -m benchmarks.gpu                # where the GPU is: then TensorFlow alone is needed
    python -m benchmarks.gpu --without      # no GPU: what feeds one, and whether XLA compiles

Without a GPU the second says so, measures nothing and ends with 0. Rows per second are those of
train steps at growing batches, with and without XLA and mixed precision: the first calls, which
trace and compile, are apart; of five measurements the median is told. `the same batch` repeats one
batch, so what it is faster by is what the input pipeline costs; `batches alone` makes batches that
nobody learns of. Rows are positives, or users of an auto-encoder, and no negatives.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from models.contract import tasks
from models.names import registry
from models.names.label import Label
from models.training.loop import TrainingLoop
from models.training.trainer import resolve

ROUNDS, WARM_UP = 5, 3
SECONDS = 1.0
"""About how long a measurement takes."""
BATCHES = (1024, 8192, 65536)


@dataclass(frozen=True)
class Setting:
    """How a model is measured.

    Attributes:
        kind: of its train rows.
        hyper_parameters: other than the model's own.
        split: of the data.
        label: of a `score` model.
        batches: rows a step.
    """

    kind: str = "event"
    hyper_parameters: dict[str, Any] = field(default_factory=dict)
    split: str = "leave_one_out"
    label: dict[str, Any] | None = None
    batches: tuple[int, ...] = BATCHES

    @property
    def folder(self) -> str:
        """What its data are called: of several models alike."""
        return "-".join([self.kind, self.split, *(["click"] if self.label else [])])


_CLICK: dict[str, Any] = {"split": "ratio", "label": {"column": "rating", "threshold": 4.0}}
SETTINGS = {
    "neumf": Setting(hyper_parameters={"pretrain": False}),
    "bpr_mf": Setting(),
    "two_tower": Setting(),
    "mult_vae": Setting("profile", batches=(128, 512, 943)),
    "gru4rec": Setting("sequence", batches=(64, 256, 512)),
    "deepfm": Setting(**_CLICK),
    "wide_deep": Setting(**_CLICK),
}


def prepare(data: Path) -> None:
    """Builds the examples and transform graphs of all settings."""
    from benchmarks import experiment
    from components.read import datasets

    source = Path(datasets.get("movielens-100k"))
    for setting in SETTINGS.values():
        experiment.prepare(
            source,
            data / setting.folder,
            setting.kind,
            {"name": setting.split},
            label=setting.label,
        )


def load(name: str, data: Path) -> Any:
    """The task and what the model trains on."""
    setting = SETTINGS[name]
    folder = data / setting.folder
    splits = {
        split: str(folder / "examples" / f"Split-{split}" / "*")
        for split in ("train", "valid", "test", "items", "users")
    }
    task = tasks.of(name, Label.parse(setting.label))
    schema = str(folder / "schema" / "schema.pbtxt")
    return task, task.load(registry.load(name).Model, str(folder / "graph"), schema, splits)


class Steps:
    """Train steps of one model at one setting.

    Args:
        name: of the model.
        data: what it trains on.
        settings: hyper-parameters besides those of `SETTINGS`.
    """

    def __init__(self, name: str, data: Any, **settings: Any):
        own = {**SETTINGS[name].hyper_parameters, **settings}
        self.hyper_parameters = resolve(name, own)
        half = self.hyper_parameters.setting("mixed_precision")
        tf.keras.mixed_precision.set_global_policy("mixed_bfloat16" if half else "float32")
        tf.keras.utils.set_random_seed(0)
        self._model = registry.load(name).Model(self.hyper_parameters, data)
        self._batches = self._model.batches(data, 0, 0)
        loop = TrainingLoop(self.hyper_parameters, data)
        loop.build(self._model, self._batches)
        self._model.compile(
            optimizer="adam", jit_compile=self.hyper_parameters.setting("jit_compile")
        )
        self._model.optimizer.build(self._model.trainable_variables)
        self._step = self._model.make_train_function()

    def fresh(self) -> tf.data.Dataset:
        """The batches of a training."""
        return self._batches.dataset.prefetch(tf.data.AUTOTUNE)

    def repeated(self) -> tf.data.Dataset:
        """The first of them, for ever."""
        first = next(iter(self._batches.dataset))
        return tf.data.Dataset.from_tensors(first).repeat().prefetch(tf.data.AUTOTUNE)

    def rows(self, dataset: tf.data.Dataset, learn: bool = True) -> tuple[float, float]:
        """Rows per second, and the seconds of the first calls."""
        iterator = iter(dataset)

        def several(count: int) -> None:
            logs = None
            for _ in range(count):
                logs = self._step(iterator) if learn else next(iterator)
            if learn:
                float(logs["loss"])  # waits for the device

        started = time.perf_counter()
        several(WARM_UP)
        warm = time.perf_counter() - started
        started = time.perf_counter()
        several(2)
        count = max(2, int(SECONDS / (time.perf_counter() - started) * 2))
        seconds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            several(count)
            seconds.append((time.perf_counter() - started) / count)
        # The last batch of an epoch is smaller.
        rows = self._batches.rows / self._batches.steps
        return rows / float(np.median(seconds)), warm


def with_gpu(name: str, data: Path) -> Iterator[dict[str, str]]:
    """Rows of the table of a model on a GPU."""
    _, loaded = load(name, data)
    fields = registry.load(name).Model.HyperParameters.model_fields
    variants = [{}]
    for switch in ("jit_compile", "mixed_precision"):
        if switch in fields:
            variants += [{**each, switch: True} for each in variants]
    for size in SETTINGS[name].batches:
        for variant in variants:
            steps = Steps(name, loaded, batch_size=size, **variant)
            with busy() as shares:
                fresh, warm = steps.rows(steps.fresh())
            same, _ = steps.rows(steps.repeated())
            yield {
                "model": name,
                "batch": f"{size:,}",
                "XLA": "yes" if "jit_compile" in variant else "",
                "bfloat16": "yes" if "mixed_precision" in variant else "",
                "rows/s": f"{fresh:,.0f}",
                "the same batch": f"{same:,.0f}",
                "warm-up, s": f"{warm:.1f}",
                "GPU busy": f"{np.mean(shares):.0f} %" if shares else "?",
            }


def without_gpu(name: str, data: Path, epochs: int) -> dict[str, str]:
    """A row of what can be measured on a processor."""
    task, loaded = load(name, data)
    size = SETTINGS[name].batches[0]
    steps = Steps(name, loaded, batch_size=size)
    fresh, _ = steps.rows(steps.fresh())
    same, _ = steps.rows(steps.repeated())
    alone, _ = steps.rows(steps.fresh(), learn=False)
    row = {
        "model": name,
        "batch": f"{size:,}",
        "rows/s": f"{fresh:,.0f}",
        "the same batch": f"{same:,.0f}",
        "batches alone": f"{alone:,.0f}",
    }
    fields = registry.load(name).Model.HyperParameters.model_fields
    if "jit_compile" in fields:
        compiled = Steps(name, loaded, batch_size=size, jit_compile=True)
        faster, warm = compiled.rows(compiled.fresh())
        row["XLA, rows/s"] = f"{faster:,.0f} (compiled in {warm:.0f} s)"
    else:
        row["XLA, rows/s"] = "refused by name"
    row["float32"] = _validated(name, task, loaded, epochs)
    half = "mixed_precision" in fields
    row["bfloat16"] = _validated(name, task, loaded, epochs, half) if half else "refused by name"
    return row


def _validated(name: str, task: Any, data: Any, epochs: int, half: bool = False) -> str:
    """The validation metric after so many epochs of the seed 0."""
    own = {**SETTINGS[name].hyper_parameters, "epochs": epochs, "patience": epochs}
    hyper_parameters = resolve(name, {**own, **({"mixed_precision": True} if half else {})})
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16" if half else "float32")
    tf.keras.utils.set_random_seed(0)
    model = registry.load(name).Model(hyper_parameters, data)
    loop = TrainingLoop(hyper_parameters, data, evaluation=task.evaluation(data, "valid"))
    model.learn(loop)
    monitor = task.metrics.choosing_by(hyper_parameters.setting("monitor")).monitor
    return f"{monitor} {loop.history[-1][monitor]:.4f}"


@contextmanager
def busy() -> Iterator[list[float]]:
    """Collects meanwhile what share of the time the GPU was busy, in percent, by nvidia-smi."""
    shares: list[float] = []
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        process = subprocess.Popen([*query, "-lms", "200"], stdout=subprocess.PIPE, text=True)
    except OSError:
        yield shares
        return

    def read() -> None:
        for line in process.stdout or ():
            if line.strip().isdigit():
                shares.append(float(line))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield shares
    finally:
        process.kill()
        process.wait()
        reader.join()


def table(rows: list[dict[str, str]]) -> str:
    """Rows as Markdown."""
    heads = list(rows[0])
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row.values()) + " |" for row in rows)])


def main() -> None:
    """Prints the table of the GPU, or that there is none; `--without`: of a processor."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", nargs="?", choices=("measure", "prepare"), default="measure")
    parser.add_argument("--without", action="store_true")
    parser.add_argument("--models", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--data", type=Path, default=Path(".cache/benchmarks/gpu"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=500.0, help="stop after about so many")
    arguments = parser.parse_args()
    if arguments.action == "prepare":
        prepare(arguments.data)
        return
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus and not arguments.without:
        print(
            "TensorFlow sees no GPU: nothing was measured. `make gpu` adds CUDA to the environment;"
            " --without measures what feeds a GPU"
        )
        return
    wanted = {arguments.data / SETTINGS[name].folder for name in arguments.models}
    if not all((folder / "graph").is_dir() for folder in wanted):
        # By itself: Beam has no place in a process that measures.
        command = [sys.executable, "-m", "benchmarks.gpu", "prepare", "--data", arguments.data]
        subprocess.run(command, check=True)
    until = time.monotonic() + arguments.seconds
    rows: list[dict[str, str]] = []
    for name in arguments.models:
        found = (
            iter([without_gpu(name, arguments.data, arguments.epochs)])
            if arguments.without
            else with_gpu(name, arguments.data)
        )
        for row in found:
            rows.append(row)
            print(row, flush=True)
            if time.monotonic() > until:
                break
        if time.monotonic() > until:
            print(f"{arguments.seconds:.0f} s are over: {name} is the last", flush=True)
            break
    device = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    print(f"\n{device.get('device_name', f'{os.cpu_count()} cores')}, TensorFlow {tf.__version__}")
    print(table(rows))


if __name__ == "__main__":
    main()
