"""One measured training, with the production code and without the pipeline around it.

The data is prepared once a folder by the components' own functions; then each seed trains as the Trainer does, chooses its epoch
on validation, and is measured once on test by the code of the exported `evaluate` signature.
"""

import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components import local
from models import registry
from models.features import read_schema


@dataclass
class Prepared:
    """Built examples and transform graph under one folder."""

    folder: Path

    @property
    def schema(self) -> str:
        return str(self.folder / "schema" / "schema.pbtxt")

    def training_data(self, model: str):
        """The data as the Trainer would load it for `model`."""
        from models.data import TrainingData

        names = ("train", "valid", "test", "items", "users")
        splits = {name: str(self.folder / "examples" / f"Split-{name}" / "*") for name in names}
        return TrainingData(str(self.folder / "graph"), self.schema, splits, registry.load(model).Model.cold_items)


def prepare(source: Path, folder: Path, kind: str, split: dict[str, Any], schema: str = "movielens") -> Prepared:
    """Reads, splits and transforms `source` into `folder`, unless that has been done with the same settings."""
    settings = json.dumps({"source": str(source), "kind": kind, "split": split, "schema": schema}, sort_keys=True)
    done = folder / "done.json"
    if not done.exists() or done.read_text() != settings:
        local.read_tables(str(source), output=str(folder / "tables"))
        local.build_examples(str(folder / "tables"), str(folder), "retrieve", kind, split, schema)
        columns = read_schema(str(folder / "schema" / "schema.pbtxt")).feature
        text = [column.name for column in columns if column.HasField("natural_language_domain")]
        local.transform(str(folder / "examples"), str(folder / "schema" / "schema.pbtxt"), str(folder / "graph"), {"text": text})
        done.write_text(settings)
    return Prepared(folder)


def measure(prepared: Prepared, model_name: str, hyper_parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """Trains once; returns the test metrics, validation's, seconds, the chosen epochs and the train rows per second."""
    import tensorflow as tf

    from models.retrieve import Evaluation
    from models.trainer import resolve
    from models.training import TrainingSession

    data = prepared.training_data(model_name)
    parameters = resolve(model_name, hyper_parameters)
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(seed)
    started = time.monotonic()
    model = registry.load(model_name).Model(parameters, data)
    validation = Evaluation(data, data.queries("valid"))
    session = TrainingSession(parameters, data, seed=seed, evaluation=validation)
    model.learn(session)
    seconds = time.monotonic() - started
    return {
        "model": model_name,
        "seed": seed,
        "test": Evaluation(data, data.queries("test")).of(model)(),
        "valid": validation.of(model)(),
        "seconds": round(seconds, 1),
        "best_epochs": session.best_epochs,
        "hyper_parameters": parameters.model_dump(),
    }


def summary(runs: list[dict[str, Any]], metrics: tuple[str, ...]) -> dict[str, str]:
    """Mean and deviation over seeds of the test metrics, as text."""
    values = {name: np.array([run["test"][name] for run in runs]) for name in metrics}
    row = {name: f"{value.mean():.4f} ± {value.std(ddof=1) if len(value) > 1 else 0:.4f}" for name, value in values.items()}
    row["seconds"] = f"{np.mean([run['seconds'] for run in runs]):.0f}"
    return row


def table(rows: list[dict[str, str]]) -> str:
    """A Markdown table of equal dicts."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join(lines + ["| " + " | ".join(row[name] for name in names) + " |" for row in rows])


def machine() -> str:
    """What it ran on, in a few words."""
    import os

    import tensorflow as tf

    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, TensorFlow {tf.__version__}"
