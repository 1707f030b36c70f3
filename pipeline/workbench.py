"""The parts of a run by hand, for notebooks and benchmarks: before a run, and without one.

    log = explore(config, folder)            what a run would read, refuse, check and split
    prepared = prepare(config, folder)       examples and a transform graph, of some of the users
    trained = train(prepared, Model)         as the Trainer trains, with validation alone
    compare(first, second)                   paired differences on validation, intervals by user

Every step is the components' and the Trainer's own code; only TFX's launcher and its store of
metadata are left out, so that nothing stands between a changed cell and what it changes.
"""

import functools
import html
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from components.build.config import BuildConfig
from components.gate.comparison import ByUser, Difference
from components.tables.names import TABLES
from models.names import registry
from models.names.errors import ConfigError, DataError, RecsysError
from models.names.label import Label
from pipeline import compare as runs
from pipeline import examples, local, preflight, report, report_data, rows
from pipeline.config import RunConfig
from pipeline.lineage import RunRecord, Step

_CELLS = 2_000_000  # scores computed at once: bounds memory on any catalogue
_USER = "user_id"
_MARK = "prepared.json"
_PARTS = ("tables", "examples", "schema", "graph")
_PAGE = """{% from "macros.html" import figures, item, change, nothing %}
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Data</title>
<style>{% include "report.css" %}</style></head>
<body><main>{% include "data.html" %}</main></body></html>"""


class Page(str):
    """The text of an HTML page; a notebook shows it in a frame, where its styles stay."""

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self)}" width="100%" height="600"></iframe>'


@dataclass(frozen=True)
class Exploration:
    """What a run would make of a log, up to the split.

    Attributes:
        config: the run.
        reader: the layout that its files have.
        notes: what each column is taken for and what is left out, as a run says it first.
        stops: why a run would end before it trains; empty where nothing stops it.
        record: what `pipeline.lineage` would tell of such a run: `reading`, `checking`, `building`.
        schemas: the curated table schemas: a name, or a folder.
    """

    config: RunConfig
    reader: str
    notes: tuple[str, ...]
    stops: tuple[str, ...]
    record: RunRecord
    schemas: str

    @property
    def left_out(self) -> list[str]:
        """In words, rejected rows by file and line, and values that could not be read."""
        return local.left_out(self.record)

    @functools.cached_property
    def data(self) -> dict[str, Any]:
        """What the data section of the run's report would show."""
        return report_data.describe(self.record)

    def table(self, name: str) -> Any:
        """The rows that were kept of `events`, `items` or `users`, as a DataFrame.

        Texts are decoded; a list stays a list.
        """
        from components.tables import artifacts

        frame = artifacts.read_table(self.record.steps["TableReader"].outputs[name]).to_pandas()
        for column in frame:
            frame[column] = frame[column].map(
                lambda value: examples.text(value) if isinstance(value, bytes) else value
            )
        return frame

    def split_as(self, config: RunConfig) -> dict[str, Any]:
        """The build's report of the same tables under other settings of model, split and selection.

        Raises:
            ConfigError: the run does not fit together.
            DataError: a column is missing, or a split comes out empty.
        """
        folder = self.record.output
        other = _emptied(folder / "other", _PARTS)
        local.quiet()
        with local.readable_errors():
            model_class = registry.load(config.model).Model
            return _build(config, model_class, self.schemas, folder / "tables", other)

    def page(self) -> "Page":
        """The data section of the run's report, a page that needs nothing but itself."""
        template = report.environment().from_string(_PAGE)
        return Page(template.render(data=self.data))


def explore(config: RunConfig, folder: str | Path) -> Exploration:
    """Reads, checks, selects and splits a log as a run would, and goes on where a run would stop.

    Args:
        config: the run.
        folder: where the tables, statistics, anomalies, reports and examples go; what an earlier
            call has left there is replaced.

    Raises:
        ConfigError: the run does not fit together.
        DataError: the files are no log at all: none is there, or none of their rows can be read.
    """
    from components import standalone

    notes: list[str] = []
    stops: list[str] = []
    source, schemas, reader = preflight.find_data(config, notes.append)
    columns = _columns(config, schemas)
    preflight.say_how_it_is_read(config, source, schemas, reader, notes.append)
    folder = _emptied(folder, (*_PARTS, "statistics", "anomalies", "check"))
    tables = {table: str(folder / "tables" / table) for table in TABLES}
    record = RunRecord("explored", config.pipeline_name, folder)

    def step(node: str, work: Any, outputs: dict[str, str], **properties: Any) -> None:
        started, state = time.monotonic(), "complete"
        try:
            with local.readable_errors():
                work()
        except ConfigError:
            raise
        except RecsysError as error:  # of which a DataError is one
            stops.append(str(error))
            state = "failed"
        seconds = time.monotonic() - started
        record.steps[node] = Step(node, state, seconds, properties, outputs)

    local.quiet()
    reading = functools.partial(
        standalone.read_tables,
        str(source),
        reader,
        columns,
        str(folder / "tables"),
        config.data.max_rejected_share,
    )
    step("TableReader", reading, tables, source=str(source))
    if not record.reading["events"].get("kept"):
        raise DataError("\n".join(stops))
    thresholds = config.check.model_dump(mode="json")
    step(
        "TableCheck",
        lambda: standalone.check_tables(str(folder / "tables"), str(folder), thresholds, schemas),
        {"report": str(folder / "check")},
    )
    for table in tables:
        place = {"statistics": str(folder / "statistics" / table)}
        record.steps[f"StatisticsGen-{table}"] = Step("", "complete", 0.0, {}, place)
    model_class = registry.load(config.model).Model
    built = {"examples": str(folder / "examples"), "schema": str(folder / "schema")}
    step(
        "ExampleBuilder",
        lambda: _build(config, model_class, schemas, folder / "tables", folder),
        built,
    )
    return Exploration(config, reader, tuple(notes), tuple(stops), record, schemas)


@dataclass(frozen=True)
class Prepared:
    """Built examples and a transform graph under one folder.

    Attributes:
        folder: where they are.
        label: what a `score` model learns; None for `retrieve`.
        metrics: what is measured besides the usual, as a run asks for it.
        splits: the names of the splits that may be looked at.
    """

    folder: Path
    label: Label | None = None
    metrics: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("train", "valid", "items", "users", "walks", "source")

    @property
    def schema(self) -> str:
        """The text-format schema of the train rows."""
        return str(self.folder / "schema" / "schema.pbtxt")

    @property
    def report(self) -> dict[str, Any]:
        """What the build said of itself: rows, events and users a split."""
        return json.loads((self.folder / "examples" / "report.json").read_text("utf-8"))

    def task(self, model: str) -> Any:
        """The task of a registered model; see `models.contract.tasks`."""
        from models.contract import tasks

        return tasks.of(model, self.label, self.metrics)

    def training_data(self, model: str, model_class: Any = None) -> Any:
        """The data as the Trainer would load it.

        Args:
            model: a registered model.
            model_class: a class derived from it; None: its own.
        """
        splits = {
            name: str(self.folder / "examples" / f"Split-{name}" / "*") for name in self.splits
        }
        model_class = model_class or registry.load(model).Model
        return self.task(model).load(model_class, str(self.folder / "graph"), self.schema, splits)


def prepare(
    config: RunConfig, folder: str | Path, share: float = 1.0, model_class: Any = None
) -> Prepared:
    """Reads, samples, splits and transforms a log.

    Nothing is done where that has been done with the same settings and files.

    Args:
        config: the run.
        folder: where to.
        share: of the users, each with all of her events, drawn by their ids: the same ones in
            every call. Training on a sample says less of a model than on all, and sooner.
        model_class: a class derived from the run's model that reads other columns; None: its own.

    Raises:
        ConfigError: the run does not fit together, or the share is not within 0 and 1.
        DataError: the log cannot be read, or a split comes out empty.
    """
    from components import standalone
    from components.read.tables import fingerprint
    from components.tables.schemas import read_schemas, schema_folder

    if not 0 < share <= 1:
        raise ConfigError(f"share: required: more than 0 and at most 1; received {share}")
    folder = Path(folder)
    model_class = model_class or registry.load(config.model).Model
    source, schemas, reader = preflight.find_data(config, print)
    tables = read_schemas(schema_folder(schemas))
    transformed = rows.transformed(config, tables, model_class)
    facts = {
        "files": fingerprint(str(source)),
        "schemas": {name: str(schema) for name, schema in tables.items()},
        "data": config.data.model_dump(mode="json"),
        "build": _to_build(config, model_class).model_dump(mode="json"),
        "transform": transformed,
        "share": share,
    }
    settings = json.dumps(facts, sort_keys=True)
    prepared = Prepared(folder, config.label, config.metrics)
    mark = folder / _MARK
    if mark.is_file() and mark.read_text("utf-8") == settings:
        return prepared
    _emptied(folder, (_MARK, *_PARTS))
    local.quiet()
    with local.readable_errors():
        standalone.read_tables(
            str(source),
            reader,
            _columns(config, schemas),
            str(folder / "tables"),
            config.data.max_rejected_share,
        )
        if share < 1:
            _sample(folder / "tables", share)
        _build(config, model_class, schemas, folder / "tables", folder)
        built, graph = str(folder / "examples"), str(folder / "graph")
        standalone.transform(built, prepared.schema, graph, transformed)
    mark.write_text(settings, "utf-8")
    return prepared


@dataclass
class Trained:
    """A trained model and how it came about.

    Attributes:
        name: of its class.
        model: with the weights of the epoch that validation chose.
        data: what it was trained on.
        task: what it is measured by.
        loop: `history`, a dict an epoch with loss and validation metrics; `best_epochs`.
        seconds: that training took.
    """

    name: str
    model: Any = field(repr=False)
    data: Any = field(repr=False)
    task: Any = field(repr=False)
    loop: Any = field(repr=False)
    seconds: float

    @functools.cached_property
    def by_user(self) -> ByUser:
        """What each user got on validation, by the code of the exported `evaluate` signature."""
        import tensorflow as tf

        queries = self.data.queries("valid")
        if not len(queries):
            raise DataError("there is no validation split; required: split.valid_fraction above 0")
        served = self.task.exporter(self.model, self.data)
        size = max(1, _CELLS // max(1, len(self.data.items)))
        values: dict[str, list[Any]] = {name: [] for name in self.task.metrics.means}
        for start in range(0, len(queries), size):
            measured = served.evaluate(tf.constant(queries[start : start + size], tf.string))
            for name, parts in values.items():
                parts.append(measured[name].numpy()[:, 0])
        spec = {_USER: tf.io.FixedLenFeature([], tf.string)}
        users = tf.io.parse_example(tf.constant(queries, tf.string), spec)[_USER].numpy()
        measured = {name: np.concatenate(parts) for name, parts in values.items()}
        return runs.by_user(list(users), measured)


def train(
    prepared: Prepared,
    model: Any,
    hyper_parameters: Mapping[str, Any] | None = None,
    seed: int = 0,
    stage_epochs: Mapping[str, int] | None = None,
) -> Trained:
    """Trains as the Trainer does: the same task, data, loop, choice of the epoch and weights.

    Args:
        prepared: what to train on; its validation split chooses the epoch.
        model: a registered model by name, or a class that derives from one, such as a notebook's.
        hyper_parameters: overrides of the model's own.
        seed: of initial weights, batches and negatives: two models of one seed that draw alike see
            the same.
        stage_epochs: stage -> epochs, where they were chosen before.

    Raises:
        ConfigError: the class derives from no registered model, or a hyper-parameter is unknown.
    """
    import tensorflow as tf

    from models.training import trainer
    from models.training.loop import TrainingLoop

    model_class = registry.load(model).Model if isinstance(model, str) else model
    name = model if isinstance(model, str) else registered(model_class)
    settings = trainer.resolve(name, dict(hyper_parameters or {}), model_class.HyperParameters)
    task, data = prepared.task(name), prepared.training_data(name, model_class)
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(seed)
    trainer.set_precision(settings)
    started = time.monotonic()
    loop = TrainingLoop(
        settings,
        data,
        seed=seed,
        evaluation=task.evaluation(data, "valid"),
        stage_epochs=dict(stage_epochs or {}),
    )
    made = model_class(settings, data)
    made.learn(loop)
    return Trained(model_class.__name__, made, data, task, loop, time.monotonic() - started)


def compare(first: Trained, second: Trained) -> list[Difference]:
    """How validation differs, second less first: see `components.gate.comparison.compare`.

    Raises:
        DataError: they were not trained on the same prepared data.
    """
    return runs.between(first.by_user, second.by_user)


def registered(model_class: Any) -> str:
    """The name of the registered model that a class is or derives from.

    Raises:
        ConfigError: it derives from none.
    """
    names = {entry.module: name for name, entry in registry.MODELS.items()}
    for base in model_class.__mro__:
        name = names.get(base.__module__)
        if name and registry.load(name).Model is base:
            return name
    raise ConfigError(
        f"{model_class.__name__}: required: a class that derives from a registered model, such as "
        "models.baseline.bpr_mf.Model, whose task and rows it has; received one that derives from "
        "none"
    )


def _columns(config: RunConfig, schemas: str) -> dict[str, Any]:
    from components.tables.schemas import read_columns, read_schemas, schema_folder

    return read_columns(config.data.columns, read_schemas(schema_folder(schemas)))


def _to_build(config: RunConfig, model_class: Any) -> BuildConfig:
    from models.training import trainer

    settings = trainer.resolve(config.model, config.hyper_parameters, model_class.HyperParameters)
    limits = {"most_items": settings.most_items()}
    if limits["most_items"]:
        limits["min_count"] = config.features.min_count
    usual = rows.to_build(config).model_dump(by_alias=True)
    carries = rows.carried(config, model_class, settings.setting("list_loss"))
    return BuildConfig.parse({**usual, **carries, **limits})


def _build(
    config: RunConfig, model_class: Any, schemas: str, tables: Path, folder: Path
) -> dict[str, Any]:
    from components.build import examples as build
    from components.in_process import in_process_pipeline
    from components.tables.schemas import schema_folder

    return build.build(
        in_process_pipeline,
        {table: str(tables / table) for table in TABLES},
        str(folder / "examples"),
        str(folder / "schema"),
        schema_folder(schemas),
        _to_build(config, model_class),
    )


def _sample(folder: Path, share: float) -> None:
    """Leaves a share of the users in the tables `events` and `users`, file by file."""
    import pyarrow as pa

    from components.tables import artifacts, records
    from components.tables.columns import concatenated
    from components.tables.hashing import hash_ids

    for table in ("events", "users"):
        uri = str(folder / table)
        columns, kept = artifacts.table_columns(uri), 0
        place = artifacts.split_folder(uri, artifacts.ALL)
        for number, path in enumerate(records.shards(place)):
            whole = concatenated(list(records.read_batches(path, columns)), columns)
            drawn = hash_ids(whole.column(_USER).to_numpy()) < np.float64(share) * 2.0**64
            Path(path).unlink()
            kept += records.write_table(whole.filter(pa.array(drawn)), place, number)
        path = str(folder / table / records.REPORT)
        records.write_json(path, {**records.read_json(path), "kept": kept})
        records.remove_staging(uri)
        if table == "events" and not kept:
            raise DataError(f"share: {share} of the users are none; required: a larger one")


def _emptied(folder: str | Path, names: tuple[str, ...]) -> Path:
    """The folder without what was written there under these names."""
    folder = Path(folder).absolute()
    local.require_plain(folder, "folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        place = folder / name
        place.unlink() if place.is_file() else shutil.rmtree(place, ignore_errors=True)
    return folder
