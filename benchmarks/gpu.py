"""What a GPU makes of training, and what can be said of it without one.

    python -m benchmarks.gpu prepare        # where TFX is: MovieLens-100K's built examples
    python -m benchmarks.gpu                # where the GPU is: then TensorFlow alone is needed
    python -m benchmarks.gpu --without      # no GPU: what feeds one, and whether XLA compiles

Without a GPU the second says so, measures nothing and ends with 0. It has every model that takes
gradient steps. Rows per second are those of train steps at growing batches, with and without XLA
and mixed precision: the first calls, which trace and compile, are apart; of five measurements the
median is told. `the same batch` repeats one batch, so what it is faster by is what the input
pipeline costs; `batches alone` makes batches that nobody learns of. Rows are positives, or users of
an auto-encoder, and no negatives.

`--without`: `compiled in` are the seconds of the first steps of all stages of a training with XLA,
`loss` is how far, relatively, the first losses with XLA are from those without. Validation is that
of a short training of every seed, mean and deviation.
"""

import argparse
import dataclasses
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf

from models.contract import tasks
from models.inputs.dropout import Dropout
from models.inputs.sampling import Batches
from models.names import declared, registry
from models.names.hyper_parameters import Gradient
from models.names.label import Label
from models.training.loop import TrainingLoop
from models.training.optimizers import Adam
from models.training.trainer import resolve, set_precision

ROUNDS, WARM_UP = 5, 3
SECONDS = 0.3
"""About how long a measurement takes."""
BATCHES = {
    "event": (1024, 8192, 65536),
    "profile": (128, 512, 943),
    "sequence": (64, 256, 512),
    "walk": (16384, 65536, 262144),
}
"""Rows a step, by what a row is; of walks, pairs."""


@dataclass(frozen=True)
class Setting:
    """How a model is measured: what the registry says of it, and what it says otherwise.

    Attributes:
        kind: of its train rows.
        label: of a `score` model.
        split: of the data.
        walks: of the kind `walk`.
        batches: rows a step.
        hyper_parameters: other than the model's own.
        batch_size: the hyper-parameter that says it.
        stage: of several, the one that is measured; left out, the last.
    """

    kind: str
    label: dict[str, Any] | None
    split: dict[str, Any]
    walks: dict[str, Any] | None
    batches: tuple[int, ...]
    hyper_parameters: dict[str, Any] = field(default_factory=dict)
    batch_size: str = "batch_size"
    stage: str | None = None

    @classmethod
    def of(cls, name: str, **changes: Any) -> "Setting":
        """The setting of a registered model."""
        entry = registry.get(name)
        label = {"column": "rating"} if entry.learns else None
        if entry.learns == "click":
            label = {"column": "rating", "threshold": 4.0}
        split = {"name": "ratio" if label else "leave_one_out"}
        if "two_domains" in entry.needs:
            split = {"name": "cross_domain", "source": OLDER, "target": NEWER, "shared": "users"}
        own = {"batches": BATCHES[entry.kind], **changes}
        return cls(entry.kind, label, split, entry.defaults.get("walks"), **own)

    @property
    def folder(self) -> str:
        """What its data are called: of several models alike."""
        threshold = self.label and self.label.get("threshold")
        label = ["click" if threshold else "rating"] if self.label else []
        walks = [self.walks["kind"]] if self.walks else []
        return "-".join([self.kind, self.split["name"], *label, *walks])


OLDER, NEWER = "older", "newer"
"""The domains of EMCDR: films of before 1990, and later ones."""
CHANGES: dict[str, dict[str, Any]] = {
    "neumf": {"hyper_parameters": {"pretrain": False}},
    "tan": {"batches": BATCHES["event"]},
    "sr_gnn": {"batches": BATCHES["event"]},
    "rib": {"batches": BATCHES["event"]},
    "binn": {"batches": BATCHES["event"]},
    "airbnb": {"batches": BATCHES["event"]},
    "yahoo_news": {"batches": BATCHES["sequence"]},
    "deepconn": {
        "batches": (128, 1024, 8192),
        "hyper_parameters": {"word_dimension": 50, "longest": 100},
    },
    "convmf": {
        "batches": (128, 512, 1682),
        "hyper_parameters": {"word_dimension": 50, "length": 100},
    },
    "emcdr": {"stage": "target"},
    "youtube_ranking": {"hyper_parameters": {"negatives": "every"}},
    "airbnb_ranker": {"hyper_parameters": {"list_loss": None}},
}
SETTINGS = {
    name: Setting.of(name, **CHANGES.get(name, {}))
    for name in registry.MODELS
    if issubclass(declared.hyper_parameters(name), Gradient)
}
"""Every model that takes gradient steps."""
CLOSED_FORM = tuple(name for name in registry.MODELS if name not in SETTINGS)


def write_log(folder: Path, target: Path) -> Path:
    """Writes MovieLens-100K with what some models need besides.

    That is a `domain`, OLDER or NEWER, and a `review`: the title and the genres of the film stand
    in for what its viewers might have written.
    """
    target.mkdir(parents=True, exist_ok=True)
    told, domain = {}, {}
    for line in (folder / "ml-100k.item").read_text("utf-8").splitlines()[1:]:
        item, title, year, genres = line.split("\t")
        told[item] = f"{title} {genres}"
        domain[item] = OLDER if year.isdigit() and int(year) < 1990 else NEWER
    header, *events = (folder / "ml-100k.inter").read_text("utf-8").splitlines()
    lines = [f"{header}\tdomain:token\treview:token_seq"]
    for event in events:
        item = event.split("\t")[1]
        lines.append(f"{event}\t{domain[item]}\t{told[item]}")
    (target / "ml-100k.inter").write_text("\n".join([*lines, ""]), "utf-8")
    for table in ("ml-100k.item", "ml-100k.user"):
        shutil.copy(folder / table, target / table)
    return target


def prepare(data: Path, models: Sequence[str]) -> None:
    """Builds the examples and transform graphs that models train on."""
    from benchmarks import experiment
    from components.read import datasets

    whole = Path(datasets.get("movielens-100k"))
    told = write_log(whole, data / "source")
    for setting in {SETTINGS[name].folder: SETTINGS[name] for name in models}.values():
        needs_more = setting.split["name"] == "cross_domain" or setting.folder == _REVIEWED
        experiment.prepare(
            told if needs_more else whole,
            data / setting.folder,
            setting.kind,
            setting.split,
            label=setting.label,
            walks=setting.walks,
            carries={"item_features": True} if setting.kind in ("sequence", "walk") else None,
            quantiles=bool(setting.label),
        )


_REVIEWED = SETTINGS["deepconn"].folder


def load(name: str, data: Path) -> Any:
    """The task and what the model trains on."""
    setting = SETTINGS[name]
    folder = data / setting.folder
    splits = {
        split: str(folder / "examples" / f"Split-{split}" / "*")
        for split in ("train", "valid", "test", "items", "users", "walks", "source")
    }
    task = tasks.of(name, Label.parse(setting.label))
    schema = str(folder / "schema" / "schema.pbtxt")
    return task, task.load(registry.load(name).Model, str(folder / "graph"), schema, splits)


class Steps:
    """Train steps of one stage of a model, as the training loop would take them.

    Args:
        model: of the stage, whose variables exist.
        batches: of it.
        optimizer: of it.
    """

    def __init__(self, model: Any, batches: Batches, optimizer: Any):
        self._model, self._batches, self._optimizer = model, batches, optimizer
        own = getattr(optimizer, "optimizers", [])
        self._variables = [*model.variables]
        for each in (optimizer, *own):
            self._variables += each.variables

    def step(self, jit: bool) -> Callable[[Iterator[Any]], dict[str, tf.Tensor]]:
        """A function that takes a step with the next batch of an iterator."""
        self._model.compile(optimizer=self._optimizer, jit_compile=jit)
        step: Callable[[Iterator[Any]], dict[str, tf.Tensor]] = self._model.make_train_function()
        return step

    def take(self, count: int) -> None:
        """Takes so many steps."""
        step, iterator = self.step(jit=False), iter(self.fresh())
        for _ in range(count):
            step(iterator)

    def fresh(self, jit: bool = False) -> tf.data.Dataset:
        """The batches of a training."""
        batches = self._batches.in_few_shapes() if jit else self._batches
        return batches.dataset.prefetch(tf.data.AUTOTUNE)

    def repeated(self, jit: bool = False) -> tf.data.Dataset:
        """The first of them, for ever."""
        first = next(iter(self.fresh(jit)))
        return tf.data.Dataset.from_tensors(first).repeat().prefetch(tf.data.AUTOTUNE)

    def rows(self, dataset: tf.data.Dataset, step: Callable | None) -> tuple[float, float]:
        """Rows per second, and the seconds of the first calls; without a step nobody learns."""
        iterator = iter(dataset)

        def several(count: int) -> None:
            logs = None
            for _ in range(count):
                logs = step(iterator) if step else next(iterator)
            if step:
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

    def first(self, jit: bool, count: int = 3) -> tuple[np.ndarray, float]:
        """The mean loss so far after each of the first steps, and the seconds of the first call.

        The later ones are of what the first has learnt; without dropout, whose masks XLA draws
        otherwise. All is as it was afterwards.
        """
        before = [variable.numpy() for variable in self._variables]
        self._model.reset_metrics()
        step, iterator, losses = self.step(jit), iter(self.fresh(jit)), []
        started = time.perf_counter()
        seconds = 0.0
        with mock.patch.object(Dropout, "call", lambda _, inputs, training=False: inputs):
            for number in range(count):
                losses.append(float(step(iterator)["loss"]))
                seconds = seconds if number else time.perf_counter() - started
        for variable, value in zip(self._variables, before, strict=True):
            variable.assign(value)
        return np.array(losses), seconds


@dataclass
class Measuring(TrainingLoop):
    """A training loop that hands over the steps of every stage where it would take them.

    Attributes:
        measure: what is done with them, by the stage's name.
    """

    measure: Callable[[str, Steps], None] = lambda stage, steps: None

    def fit(
        self, model, stage="model", optimizer=None, epochs=None, before_epoch=None, validate=True
    ) -> None:
        own = self.hyper_parameters
        model.dropout_seed = self.seed
        optimizer = optimizer or Adam(own.learning_rate, lazy=own.setting("lazy_adam"))
        model.compile(optimizer=optimizer)
        batches = model.batches(self.data, self.seed, 0)
        self.build(model, batches)
        if before_epoch:
            before_epoch()
        steps = Steps(model, batches, optimizer)
        steps.take(WARM_UP)  # where a stage begins, tables may be 0 and learn of nothing
        self.measure(stage, steps)
        self.history.append({"stage": stage, "epoch": 1})
        self.best_epochs[stage] = 1


@dataclass
class Short(TrainingLoop):
    """A training loop whose epochs end early.

    Attributes:
        steps: of an epoch at most.
    """

    steps: int = 60

    def fit(self, model, *arguments, **named) -> None:
        whole = model.batches

        def some(data: Any, seed: int, first_epoch: int) -> Batches:
            batches = whole(data, seed, first_epoch)
            return dataclasses.replace(batches, steps=min(self.steps, batches.steps))

        model.batches = some
        super().fit(model, *arguments, **named)
        model.batches = whole


def stages(name: str, data: Any, measure: Callable[[str, Steps], None], **settings: Any) -> None:
    """Calls `measure` with every stage of a model's training, in their order.

    Args:
        name: of the model.
        data: what it trains on.
        measure: takes the name of a stage and its steps.
        settings: hyper-parameters besides those of `SETTINGS`.
    """
    hyper_parameters = resolve(name, {**SETTINGS[name].hyper_parameters, **settings})
    set_precision(hyper_parameters)
    tf.keras.utils.set_random_seed(0)
    model = registry.load(name).Model(hyper_parameters, data)
    model.learn(Measuring(hyper_parameters, data, measure=measure))


def with_gpu(name: str, data: Path) -> Iterator[dict[str, str]]:
    """Rows of the table of a model on a GPU."""
    _, loaded = load(name, data)
    setting, fields = SETTINGS[name], declared.hyper_parameters(name).model_fields
    variants: list[dict[str, bool]] = [{}]
    for switch in ("jit_compile", "mixed_precision"):
        if switch in fields:
            variants += [{**each, switch: True} for each in variants]
    for size in setting.batches:
        for variant in variants:
            jit, found = "jit_compile" in variant, {}

            def measure(stage: str, steps: Steps, jit: bool = jit, found: dict = found) -> None:
                if stage != (setting.stage or stage):
                    return
                step = steps.step(jit)
                with busy() as shares:
                    fresh, warm = steps.rows(steps.fresh(jit), step)
                same, _ = steps.rows(steps.repeated(jit), step)
                found |= {
                    "rows/s": f"{fresh:,.0f}",
                    "the same batch": f"{same:,.0f}",
                    "warm-up, s": f"{warm:.1f}",
                    "GPU busy": f"{np.mean(shares):.0f} %" if shares else "?",
                }

            stages(name, loaded, measure, **{setting.batch_size: size}, **variant)
            yield {
                "model": name,
                "batch": f"{size:,}",
                "XLA": "yes" if jit else "",
                "bfloat16": "yes" if "mixed_precision" in variant else "",
                **found,
            }


def without_gpu(name: str, data: Path, seeds: Sequence[int], **length: int) -> dict[str, str]:
    """A row of what can be measured on a processor; `length` as `validated` has it."""
    task, loaded = load(name, data)
    setting, fields = SETTINGS[name], declared.hyper_parameters(name).model_fields
    size, xla = setting.batches[0], "jit_compile" in fields
    row = {"model": name, "batch": f"{size:,}"}
    compiled = {"XLA": "refused", "compiled in, s": "", "loss": ""}
    seconds, difference = 0.0, 0.0

    def plain(stage: str, steps: Steps) -> None:
        if stage == (setting.stage or stage):
            row["batches alone"] = f"{steps.rows(steps.fresh(), None)[0]:,.0f}"
            row["rows/s"] = f"{steps.rows(steps.fresh(), steps.step(False))[0]:,.0f}"

    def with_xla(stage: str, steps: Steps) -> None:
        nonlocal seconds, difference
        losses, (same, first) = steps.first(jit=False)[0], steps.first(jit=True)
        seconds += first
        difference = max(difference, float(np.max(np.abs(same / losses - 1))))
        compiled["compiled in, s"], compiled["loss"] = f"{seconds:.0f}", f"{difference:.0e}"
        if stage == (setting.stage or stage):
            compiled["XLA"] = f"{steps.rows(steps.fresh(True), steps.step(True))[0]:,.0f}"

    stages(name, loaded, plain, **{setting.batch_size: size})
    if xla:
        stages(name, loaded, with_xla, **{setting.batch_size: size}, jit_compile=True)
    row |= compiled
    halves = (False, True) if "mixed_precision" in fields else ()
    found = [validated(name, task, loaded, seeds, half, **length) for half in halves]
    return row | dict(zip(("float32", "bfloat16"), found or ["", "refused"], strict=True))


def refusals(models: Sequence[str]) -> str:
    """Why models refuse XLA or mixed precision, a line each."""
    lines = []
    for name in models:
        own = declared.hyper_parameters(name)
        for setting in ("jit_compile", "mixed_precision"):
            if setting not in own.model_fields:
                lines.append(f"{name} refuses {setting}: {own.refusal(setting)}")
    return "\n".join(lines)


def validated(
    name: str, task: Any, data: Any, seeds: Sequence[int], half: bool, epochs: int, steps: int
) -> str:
    """The validation metric after a short training: mean and deviation over the seeds.

    Args:
        name: of the model.
        task: its own.
        data: what it trains on.
        seeds: of the trainings.
        half: by mixed precision.
        epochs: of every stage, at most.
        steps: of an epoch, at most.
    """
    own = {**SETTINGS[name].hyper_parameters, "epochs": epochs, "patience": epochs}
    hyper_parameters = resolve(name, {**own, **({"mixed_precision": True} if half else {})})
    monitor = task.metrics.choosing_by(hyper_parameters.setting("monitor")).monitor
    values = []
    for seed in seeds:
        set_precision(hyper_parameters)
        tf.keras.utils.set_random_seed(seed)
        model = registry.load(name).Model(hyper_parameters, data)
        evaluation = task.evaluation(data, "valid")
        loop = Short(hyper_parameters, data, seed=seed, evaluation=evaluation, steps=steps)
        model.learn(loop)
        values.append(loop.history[-1][monitor])
    return f"{monitor} {np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


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
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60, help="of an epoch at most")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after about so many")
    arguments = parser.parse_args()
    if arguments.action == "prepare":
        prepare(arguments.data, arguments.models)
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
        subprocess.run([*command, "--models", *arguments.models], check=True)
    length = {"epochs": arguments.epochs, "steps": arguments.steps}
    until = time.monotonic() + arguments.seconds
    rows: list[dict[str, str]] = []
    for name in arguments.models:
        found = (
            iter([without_gpu(name, arguments.data, arguments.seeds, **length)])
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
    print(refusals(arguments.models))
    print(f"In closed form, without steps to take: {', '.join(CLOSED_FORM)}")


if __name__ == "__main__":
    main()
