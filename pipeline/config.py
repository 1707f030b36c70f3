"""A run is one YAML file; flags override it, and the resolved run is stored with its outputs.

What a component may be told is declared by the component; a run nests those very classes. Light: no
TensorFlow, TFX or Beam.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pydantic
import yaml

from components.build.config import Filters, Positives, Sessions, SplitConfig, WalkConfig
from components.check.config import Thresholds
from components.engines import Beam
from components.gate.config import GateConfig
from components.read import datasets
from models.names import declared, metrics, registry
from models.names.errors import ConfigError
from models.names.export import ExportConfig
from models.names.index import IndexConfig
from models.names.label import WEIGHT, Label
from models.names.settings import Names, Settings, Share
from pipeline.cluster import ClusterConfig, Memory

# What lies under the output beside the folders that are called as the pipelines are.
_FOLDERS_OF_THE_OUTPUT = ("serving", "reports", "checkpoints", "metadata.sqlite")
_LONGEST_PART = 60
_LIKED = 4.0  # the rating from which on a click model takes it for a click


class DataConfig(Settings):
    """Where the events come from.

    Attributes:
        source: a public data set by name, or a folder: a path, or a URI under s3://, gs:// or
            hdfs://, which is read with the credentials of the environment or the machine.
        reader: the layout of the folder; told by its files when left out.
        columns: how the user's own columns are called and what they hold, and of what form the
            files are; see `components.read.layouts.detection.plan`.
        schema_name: curated table schemas: a name in `schema/` or a folder; in YAML it is called
            `schema`.
        max_rejected_share: share of a table's rows that may be rejected before the run stops.
    """

    source: str = "movielens-100k"
    reader: str | None = pydantic.Field(None, examples=["csv"])
    columns: dict[str, Any] = pydantic.Field(
        {}, examples=[{"user_id": "customer", "timestamp": "bought_at", "timestamp_unit": "ms"}]
    )
    schema_name: str | None = pydantic.Field(None, alias="schema", examples=["generic"])
    max_rejected_share: Share = 0.01


class FeatureConfig(Settings):
    """What Transform makes of the features.

    Attributes:
        min_count: an id or category that train has less often counts as unknown.
        context: columns of the events that a request for recommendations may tell of the moment it
            is made in, such as the device; read by the models that read context.
        point_in_time: columns that the rows of a `score` model get of what the user did before; of
            `components.build.config.POINT_IN_TIME`.
    """

    min_count: int = pydantic.Field(1, ge=1)
    context: tuple[str, ...] = pydantic.Field((), examples=[("device",)])
    point_in_time: tuple[str, ...] = pydantic.Field((), examples=[("user_events_before",)])


class RoomConfig(Settings):
    """What a run may take of this machine; `recsys doctor RUN.yaml` says what it will want.

    Attributes:
        memory: at most; left out, what the machine or its container has.
        disk: at most, where the runs lie, and with them the temporary files of a training (TMPDIR)
            if they are on that disk too; left out, what is free there.
        refuse: whether a run that is estimated to want more is refused before it starts; false:
            that it does is said, and it runs.
    """

    memory: Memory | None = pydantic.Field(None, examples=["16Gi"])
    disk: Memory | None = pydantic.Field(None, examples=["100Gi"])
    refuse: bool = True


class RunConfig(Settings):
    """One run.

    Attributes:
        model: a name of `recsys models`.
        data: where the events come from.
        split: how they are split.
        label: what a `score` run predicts; left out, ratings or clicks (a rating of 4 at least), as
            the model's paper does. A model that learns clicks takes 0 and 1 for them.
        positives: which events count, where the log has several types of them.
        filters: which users, items and sessions have too few events to be learnt from.
        sessions: how a log without sessions is cut into them.
        walks: what a model of the kind `walk` trains on.
        features: what Transform makes of the features.
        hyper_parameters: overrides of the model's own.
        check: thresholds of the table check.
        gate: thresholds of the blessing.
        index: how the nearest items are found, by a model whose score is a dot product.
        export: how what is served stores its tables.
        metrics: what a `retrieve` run measures besides: `hr`, `recall`, `recall_min`, `ndcg`,
            `mrr`, `map` or `precision` with any cut-off, such as recall_50; `auc`; and of what is
            recommended `novelty`, `coverage` and `gini`, such as coverage_10.
        beam: where Beam's part of the work is done.
        seed: of initial weights, batches and negatives.
        warm_start: start from the last blessed model.
        refit: once the model is blessed, train it again on train, validation and test, for the
            epochs that were chosen, and push that; what is measured and compared stays the model
            that has not seen test.
        output: folder of runs, metadata and pushed models.
        push: where the models are pushed instead, each to a folder called as the pipeline is: a
            path, or a URI under s3://, gs:// or hdfs://.
        name: of the pipeline: runs of one name share cache, metadata and the last blessed model;
            left out, it is made of the model, the data, the split and what is learnt.
        room: how much memory and disk it may take of this machine.
        cluster: how many processes train, here or on a cluster; and what `recsys compile` asks of
            a cluster besides.
    """

    model: str = "two_tower"
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    label: Label | None = None
    positives: Positives | None = None
    filters: Filters = Filters()
    sessions: Sessions | None = None
    walks: WalkConfig = WalkConfig()
    features: FeatureConfig = FeatureConfig()
    hyper_parameters: dict[str, Any] = pydantic.Field({}, examples=[{"epochs": 30}])
    check: Thresholds = Thresholds()
    gate: GateConfig = GateConfig()
    index: IndexConfig = IndexConfig()
    export: ExportConfig = ExportConfig()
    metrics: Names = pydantic.Field((), examples=[("recall_50", "ndcg_100", "coverage_10")])
    beam: Beam = Beam()
    seed: int = 0
    warm_start: bool = False
    refit: bool = False
    output: str = "runs"
    push: str | None = pydantic.Field(None, examples=["s3://shop/models"])
    name: str | None = pydantic.Field(None, examples=["shop"])
    room: RoomConfig = RoomConfig()
    cluster: ClusterConfig = ClusterConfig()

    @pydantic.field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str | None) -> str | None:
        if value is not None and (
            value in _FOLDERS_OF_THE_OUTPUT or not re.fullmatch(r"[^./\\\0][^/\\\0]{0,199}", value)
        ):
            raise ValueError(
                "must name a folder of its own under output: 1 to 200 characters, no / and no dot "
                f"first, and none of {', '.join(_FOLDERS_OF_THE_OUTPUT)}"
            )
        return value

    @property
    def pipeline_name(self) -> str:
        """`name`, or one made of the model, the data, the split and the label.

        It is what one model is compared with another by.
        """
        parts = [self.model, _name_of_source(self.data.source), self.split.name]
        if self.label:
            parts.append(_legal(self.label.column))
            parts += [] if self.label.threshold is None else [f"{self.label.threshold:g}"]
            usual = Label(column=self.label.column, threshold=self.label.threshold)
            usual = usual.learnt_by(registry.get(self.model).learns)
            if not self.label.grades and self.label.kind != usual.kind:
                parts.append(str(self.label.kind))
            # What is measured in other lists, or with other weights, is not to be compared.
            parts += [_legal(name) for name in (self.label.group, self.label.weight) if name]
        if self.positives:
            parts.append(_legal(self.positives.title))
        return self.name or "-".join(parts)

    @property
    def selection(self) -> dict[str, Any]:
        """Which events count, as a build takes it and JSON holds it; empty where all do."""
        parts = self.model_dump(
            mode="json", by_alias=True, include={"positives", "filters", "sessions"}
        )
        usual = Filters().model_dump(mode="json")
        return {name: part for name, part in parts.items() if part and part != usual}

    @property
    def serving_dir(self) -> str:
        """Where versions of the model are pushed: an absolute path, or a URI."""
        if self.push and "://" in self.push:
            return f"{self.push.rstrip('/')}/{self.pipeline_name}"
        folder = Path(self.push) if self.push else Path(self.output) / "serving"
        return str(folder.absolute() / self.pipeline_name)

    def to_yaml(self) -> str:
        """The resolved run, as a file that `recsys run --config` reads."""
        return yaml.safe_dump(
            self.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True
        )


class _KeyTwice(Exception):
    """A mapping has a key twice, of which YAML would take the second."""


class _OneOfEachKey(yaml.SafeLoader):
    """Refuses a key that a mapping has twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if name in lines:
                    raise _KeyTwice(
                        f"line {line}: required: each key once; received {key.value!r}, which line "
                        f"{lines[name]} has too"
                    )
                lines[name] = line
        return node


def load(path: str | None = None, overrides: dict[str, Any] | None = None) -> RunConfig:
    """Reads a YAML file and lays overrides over it.

    Args:
        path: the file, or None for the defaults.
        overrides: dotted key -> value; None values are left out.

    Raises:
        ConfigError: no such file, no YAML mapping, an unknown key, model or metric (the nearest is
            named) or a bad value.
    """
    values: dict[str, Any] = {}
    if path:
        try:
            values = yaml.load(Path(path).read_text("utf-8"), _OneOfEachKey)  # noqa: S506
        except OSError as error:
            raise ConfigError(f"cannot read the run file {path}: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is no YAML: {error}") from None
        except _KeyTwice as error:
            raise ConfigError(f"{path}, {error}") from None
        if not isinstance(values, dict):
            raise ConfigError(
                f"{path}: required: a mapping of keys such as 'model'; received "
                f"{'nothing' if values is None else type(values).__name__}"
            )
    for key, value in (overrides or {}).items():
        if value is not None:
            _put(values, key.split("."), value)
    model = values.get("model", RunConfig.model_fields["model"].default)
    if isinstance(model, str):
        _require_known_keys(values, model, path or "")
        values = _with_defaults_of_the_model(values, model)
    config = RunConfig.parse(values, path or "")
    config = _with_recall_of_the_index(config)
    metrics.of(registry.get(config.model).task, asked=config.metrics)  # refused now
    config = _with_defaults_of_sessions(config, values)
    config = _with_defaults_of_the_task(config, values)
    return _with_weights_of_events(config)


def _require_known_keys(values: dict[str, Any], model: str, source: str) -> None:
    """Refuses a hyper-parameter that stands at the top of a run file, and says where it belongs."""
    for key in set(values) - set(RunConfig.model_fields):
        if key in declared.hyper_parameters(model).model_fields:
            where = f"{source}: " if source else ""
            raise ConfigError(f"{where}unknown key {key!r}; did you mean hyper_parameters.{key}?")


def _with_defaults_of_the_model(values: dict[str, Any], model: str) -> dict[str, Any]:
    """What the run does not say is as the model's paper has it (`models.names.registry.Entry`)."""
    parts = {
        name: {**part, **(values.get(name) or {})}
        for name, part in registry.get(model).defaults.items()
        if isinstance(values.get(name) or {}, dict)  # what is no mapping is refused as such
    }
    return {**values, **parts}


def _with_recall_of_the_index(config: RunConfig) -> RunConfig:
    """An index is measured against the exact ranking; the gate asks for it.

    Raises:
        ConfigError: an index for a model that ranks no catalogue.
    """
    if config.index.kind == "exact":
        return config
    if registry.get(config.model).task != "retrieve":
        raise ConfigError(
            f"index.kind: {config.model} scores single rows and finds no items; required: exact, "
            f"or none; received {config.index.kind}"
        )
    asked = dict.fromkeys((*config.metrics, f"{metrics.INDEX_RECALL}_100"))
    return config.model_copy(update={"metrics": tuple(asked)})


def _with_defaults_of_sessions(config: RunConfig, values: dict[str, Any]) -> RunConfig:
    """A run that is asked position by position takes repeats, as the papers on sessions do.

    A session returns to what it had: that is a target, and no reason to leave the item out of the
    ranking. Where the run says one of the two, the other follows.
    """
    if registry.get(config.model).task != "retrieve" or not config.split.asks_sessions:
        return config
    split = values.get("split") or {}
    keeps = config.hyper_parameters.get("filter_seen")
    if "drop_repeats" not in split and keeps is not True:
        repeats = config.split.model_copy(update={"drop_repeats": False})
        config = config.model_copy(update={"split": repeats})
    if not config.split.drop_repeats and keeps is None:
        ranking = {**config.hyper_parameters, "filter_seen": False}
        config = config.model_copy(update={"hyper_parameters": ranking})
    return config


def _with_weights_of_events(config: RunConfig) -> RunConfig:
    """The rows of a `score` run weigh as `positives` says of their events."""
    if not config.label or not config.positives or not config.positives.weighted:
        return config
    if config.label.weight not in (None, WEIGHT):
        raise ConfigError(
            "label.weight and weights in positives.values both say what a row weighs; required: "
            f"one of them; received {config.label.weight!r} and {config.positives.values}"
        )
    return config.model_copy(update={"label": config.label.model_copy(update={"weight": WEIGHT})})


def _with_defaults_of_the_task(config: RunConfig, values: dict[str, Any]) -> RunConfig:
    """A `score` run has a label, and its rows are drawn at random.

    That is unless it or the layout of its data says otherwise.
    """
    entry = registry.get(config.model)
    if entry.task != "score":
        return config
    from components.read.layouts import (
        detection,  # with PyArrow, which most commands can do without
    )
    from components.tables.places import place

    source = config.data.source
    usual: dict[str, Any] = {}
    updates: dict[str, Any] = {}
    if place(source).is_dir():
        columns = config.data.columns
        reader = config.data.reader or detection.detect(source, columns)
        usual = detection.conventions(source, reader)
        updates["data"] = config.data.model_copy(update={"reader": reader})
    if config.label is None:
        rating = {"column": "rating", "threshold": _LIKED if entry.learns == "click" else None}
        updates["label"] = Label(**usual.get("label", rating))
    else:
        updates["label"] = config.label.learnt_by(entry.learns)
    if "name" not in (values.get("split") or {}):
        updates["split"] = SplitConfig.parse(
            {**config.split.model_dump(), "name": usual.get("split", "ratio")}
        )
    return config.model_copy(update=updates)


def parse_beam(text: str | None) -> dict[str, Any]:
    """`--beam` -> dotted overrides: an engine's name, or a mapping of what is to be changed.

    Raises:
        ConfigError: it is neither.
    """
    value = None if text is None else _value(text)
    if isinstance(value, str):
        value = {"runner": value}
    if not isinstance(value, dict | None):
        raise ConfigError(
            "--beam requires a runner's name, such as processes, or a mapping, such as "
            f"'{{runner: portable, options: {{job_endpoint: localhost:8099}}}}'; received {text!r}"
        )
    return {f"beam.{key}": one for key, one in (value or {}).items()}


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """`NAME=VALUE` flags -> dotted overrides.

    A name without a dot that is no key of a run is a hyper-parameter.

    Raises:
        ConfigError: a flag without `=`.
    """
    overrides = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set requires NAME=VALUE, such as epochs=20; received {setting!r}")
        top = name.split(".")[0]
        key = name if top in RunConfig.model_fields else f"hyper_parameters.{name}"
        overrides[key] = _number(_value(text))
    return overrides


def _name_of_source(source: str) -> str:
    """What the data are called in the name of the pipeline, so that no others are called alike.

    A public data set is called by its name; a folder by its own and a hash of its whole path.
    """
    if source in datasets.DATASETS:
        return source
    path = source if "://" in source else os.path.abspath(source)
    return _legal(Path(path).name, path)


def _legal(text: str, identity: str | None = None) -> str:
    """A part of the name of a folder that nothing of another identity has.

    Args:
        text: what to call it.
        identity: what it is; None where the text says it, unless it has to be changed.
    """
    legal = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:_LONGEST_PART].strip("-.")
    if identity is None and legal == text:
        return legal
    mark = hashlib.sha256((identity or text).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{legal}-{mark}".strip("-")


def _value(text: str) -> Any:
    """What YAML takes the text for; marks that mean something to it alone are text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if value in ("", None) and text in ("|", ">", "") else value


def _number(value: Any) -> Any:
    """YAML 1.1 takes 1e-3 for a string; nobody who types it means one."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{'.'.join(path)}: {part!r} holds a value, not a mapping")
    values[path[-1]] = value
