"""One measured training, with the production code and without the pipeline around it.

The data is prepared once a folder by the components' own functions; then each seed trains as the
Trainer does, chooses its epoch on validation, and is measured once on test by the code of the
exported `evaluate` signature.
"""

import argparse
import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from components import standalone
from models.inputs.schema import read_schema
from models.names.features import LOG_SCALE
from models.names.label import Label
from pipeline import workbench
from pipeline.workbench import Prepared

_WITH_TEST = (*Prepared.splits, "test")


def prepare(
    source: Path,
    folder: Path,
    kind: str,
    split: dict[str, Any],
    schema: str = "movielens",
    label: dict[str, Any] | None = None,
    min_count: int = 1,
    walks: dict[str, Any] | None = None,
    carries: dict[str, Any] | None = None,
    quantiles: bool = False,
    types: dict[str, str] | None = None,
) -> Prepared:
    """Reads, splits and transforms `source` into `folder`.

    Nothing is done where that has been done with the same settings.

    Args:
        source: folder of the data.
        folder: where to.
        kind: of the train rows.
        split: see `components.build.splits.SplitConfig`.
        schema: curated table schemas.
        label: for the task `score`: see `models.names.label`; None builds for `retrieve`.
        min_count: an id or category that train has less often counts as unknown.
        walks: the kind `walk`: see `components.build.config.WalkConfig`.
        carries: what a model reads besides: its `carries()`.
        quantiles: whether Transform makes them: a model's `reads_quantiles`.
        types: of columns, as `data.columns.types` of a run; others are told by their values.
    """
    facts = {"source": str(source), "kind": kind, "split": split, "schema": schema}
    if label:
        facts |= {"label": label, "min_count": min_count}
    if walks:
        facts["walks"] = walks
    if carries:
        facts["carries"] = carries
    if quantiles:
        facts["quantiles"] = True
    if types:
        facts["types"] = types
    settings = json.dumps(facts, sort_keys=True)
    task = "score" if label else "retrieve"
    done = folder / "done.json"
    if not done.exists() or done.read_text() != settings:
        shutil.rmtree(
            folder / "graph", ignore_errors=True
        )  # of other settings, or half-written: Transform does not write over it
        standalone.read_tables(
            str(source), columns={"types": types} if types else None, output=str(folder / "tables")
        )
        standalone.build_examples(
            str(folder / "tables"),
            str(folder),
            task,
            kind,
            split,
            schema,
            label,
            walks=walks,
            carries=carries,
        )
        columns = read_schema(str(folder / "schema" / "schema.pbtxt")).feature
        text = [column.name for column in columns if column.HasField("natural_language_domain")]
        log = [column.name for column in columns if LOG_SCALE in column.annotation.tag]
        custom = {"text": text, "log": log, "min_count": min_count, "quantiles": quantiles}
        standalone.transform(
            str(folder / "examples"),
            str(folder / "schema" / "schema.pbtxt"),
            str(folder / "graph"),
            custom,
        )
        done.write_text(settings)
    return Prepared(folder, Label.parse(label), splits=_WITH_TEST)


def measure(
    prepared: Prepared,
    model_name: str,
    hyper_parameters: dict[str, Any],
    seed: int,
    refit: Prepared | None = None,
    test: bool = True,
    parts: Callable[[Any, str], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Trains once and measures on test.

    Args:
        prepared: what to train on; the epoch is chosen on its validation split.
        model_name: the model.
        hyper_parameters: overrides of the model's own.
        seed: of initial weights and batches.
        refit: the same data without a validation split: trained on again, for as many epochs as
            were chosen, and measured there.
        test: false while settings are chosen: test is not looked at.
        parts: (training data, split) -> serialized queries by name, to be measured besides.

    Returns:
        The test metrics, validation's, those of `parts` by split and name, seconds (of both
        trainings), the chosen epochs and the train rows per second.
    """
    from models.contract.retrieve_task import Evaluation

    data, model, loop, seconds = _train(prepared, model_name, hyper_parameters, seed)
    task = prepared.task(model_name)

    def apart(split: str) -> dict[str, dict[str, float]]:
        rows = parts(data, split) if parts else {}
        return {name: Evaluation(data, some).of(model)() for name, some in rows.items()}

    valid, apart_valid = loop.evaluation.of(model)(), apart("valid")
    if refit:
        data, model, _, more = _train(refit, model_name, hyper_parameters, seed, loop.best_epochs)
        seconds += more
    speeds = [row["examples_per_second"] for row in loop.history if row["examples_per_second"]]
    return {
        "model": model_name,
        "seed": seed,
        "test": task.evaluation(data, "test").of(model)() if test else {},
        "valid": valid,
        "parts": {"valid": apart_valid, "test": apart("test") if test else {}} if parts else {},
        "seconds": round(seconds, 1),
        "rows_per_second": float(np.median(speeds)) if speeds else None,
        "best_epochs": loop.best_epochs,
        "hyper_parameters": model.hyper_parameters.model_dump(),
    }


def train(
    prepared: Prepared, model_name: str, hyper_parameters: dict[str, Any], seed: int
) -> tuple[Any, Any, float]:
    """Trains once, for measures of a benchmark's own: the data, the model and the seconds."""
    data, model, _, seconds = _train(prepared, model_name, hyper_parameters, seed)
    return data, model, seconds


def train_again(
    prepared: Prepared,
    model_name: str,
    hyper_parameters: dict[str, Any],
    seed: int,
    epochs: dict[str, int],
) -> dict[str, Any]:
    """Trains for epochs that were chosen before, by stage, and measures on test as `measure`."""
    data, model, loop, seconds = _train(prepared, model_name, hyper_parameters, seed, epochs)
    return {
        "model": model_name,
        "seed": seed,
        "test": prepared.task(model_name).evaluation(data, "test").of(model)(),
        "seconds": round(seconds, 1),
        "best_epochs": loop.best_epochs,
        "hyper_parameters": model.hyper_parameters.model_dump(),
    }


def add_setting(
    parser: argparse.ArgumentParser, said: str = "hyper-parameters, for every model named"
) -> None:
    """Adds `--set NAME=VALUE ..`, which `overrides` reads."""
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help=said)


def overrides(pairs: list[str]) -> dict[str, Any]:
    """What `--set NAME=VALUE ...` says; values are JSON."""
    return {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in pairs)}


def described(setting: dict[str, Any]) -> str:
    """A setting as a cell of the table.

    What chooses the epoch is the same in all rows and is left out.
    """
    return (
        ", ".join(f"{name}={value}" for name, value in setting.items() if name != "monitor")
        or "defaults"
    )


def choose(
    prepared: Prepared,
    model_name: str,
    grid: list[dict[str, Any]],
    seed: int,
    metric: str,
    sign: int,
) -> dict[str, Any]:
    """The setting of the grid whose validation metric is the best.

    The best is the largest with a sign of 1, the smallest with one of -1.
    """
    return (
        max(
            grid,
            key=lambda setting: (
                sign * measure(prepared, model_name, setting, seed, test=False)["valid"][metric]
            ),
        )
        if len(grid) > 1
        else grid[0]
    )


def _train(
    prepared: Prepared,
    model_name: str,
    hyper_parameters: dict[str, Any],
    seed: int,
    stage_epochs: dict[str, int] | None = None,
):
    """Trains as the Trainer does: (data, model, loop, seconds)."""
    found = workbench.train(prepared, model_name, hyper_parameters, seed, stage_epochs)
    return found.data, found.model, found.loop, found.seconds


def summary(runs: list[dict[str, Any]], metrics: tuple[str, ...]) -> dict[str, str]:
    """Mean and deviation over seeds of the test metrics, as text."""
    values = {name: np.array([run["test"][name] for run in runs]) for name in metrics}
    row = {
        name: f"{value.mean():.4f} ± {value.std(ddof=1) if len(value) > 1 else 0:.4f}"
        for name, value in values.items()
    }
    row["seconds"] = f"{np.mean([run['seconds'] for run in runs]):.0f}"
    return row


def table(rows: list[dict[str, str]]) -> str:
    """A Markdown table of equal dicts."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join(
        lines + ["| " + " | ".join(row[name] for name in names) + " |" for row in rows]
    )


def machine() -> str:
    """What it ran on, in a few words."""
    import os

    import tensorflow as tf

    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"TensorFlow {tf.__version__}"
    )
