"""A run is one YAML file; flags override it, and the resolved run is stored with its outputs.

What a component may be told is declared by the component; a run nests those very classes. Light: no
TensorFlow, TFX or Beam.
"""

import re
from pathlib import Path
from typing import Any

import pydantic
import yaml

from components.build.config import SplitConfig, WalkConfig
from components.check.config import Thresholds
from components.gate.config import GateConfig
from models.names import registry
from models.names.errors import ConfigError
from models.names.label import Label
from models.names.settings import Settings, Share

_LIKED = 4.0  # the rating from which on a click model takes it for a click


class DataConfig(Settings):
    """Where the events come from.

    Attributes:
        source: a public data set by name, or a folder.
        reader: the layout of the folder; told by its files when left out.
        columns: how the user's own columns are called and what they hold, and of what form the
            files are; see `components.read.layouts.detection.plan`.
        schema_name: curated table schemas: a name in `schema/` or a folder; in YAML it is called
            `schema`.
        max_rejected_share: share of a table's rows that may be rejected before the run stops.
    """

    source: str = "movielens-100k"
    reader: str | None = None
    columns: dict[str, Any] = {}
    schema_name: str | None = pydantic.Field(None, alias="schema")
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
    context: tuple[str, ...] = ()
    point_in_time: tuple[str, ...] = ()


class RunConfig(Settings):
    """One run.

    Attributes:
        model: a name of `recsys models`.
        data: where the events come from.
        split: how they are split.
        label: what a `score` run predicts; left out, ratings or clicks (a rating of 4 at least), as
            the model's paper does.
        walks: what a model of the kind `walk` trains on.
        features: what Transform makes of the features.
        hyper_parameters: overrides of the model's own.
        check: thresholds of the table check.
        gate: thresholds of the blessing.
        seed: of initial weights, batches and negatives.
        warm_start: start from the last blessed model.
        output: folder of runs, metadata and pushed models.
        name: of the pipeline: runs of one name share cache, metadata and the last blessed model.
    """

    model: str = "two_tower"
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    label: Label | None = None
    walks: WalkConfig = WalkConfig()
    features: FeatureConfig = FeatureConfig()
    hyper_parameters: dict[str, Any] = {}
    check: Thresholds = Thresholds()
    gate: GateConfig = GateConfig()
    seed: int = 0
    warm_start: bool = False
    output: str = "runs"
    name: str | None = None

    @property
    def pipeline_name(self) -> str:
        """`name`, or one made of the model, the data, the split and the label.

        It is what one model is compared with another by.
        """
        source = re.sub(r"[^A-Za-z0-9._]+", "-", Path(self.data.source).name).strip("-")
        label = ""
        if self.label:
            label = f"-{self.label.column}" + (
                "" if self.label.threshold is None else f"-{self.label.threshold:g}"
            )
        return self.name or f"{self.model}-{source}-{self.split.name}{label}"

    @property
    def serving_dir(self) -> Path:
        """Where versions of the model are pushed."""
        return Path(self.output).absolute() / "serving" / self.pipeline_name

    def to_yaml(self) -> str:
        """The resolved run, as a file that `recsys run --config` reads."""
        return yaml.safe_dump(
            self.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True
        )


def load(path: str | None = None, overrides: dict[str, Any] | None = None) -> RunConfig:
    """Reads a YAML file and lays overrides over it.

    Args:
        path: the file, or None for the defaults.
        overrides: dotted key -> value; None values are left out.

    Raises:
        ConfigError: no such file, no YAML mapping, an unknown key or model (the nearest is named)
            or a bad value.
    """
    values: dict[str, Any] = {}
    if path:
        try:
            values = yaml.safe_load(Path(path).read_text("utf-8")) or {}
        except OSError as error:
            raise ConfigError(f"cannot read the run file {path}: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is no YAML: {error}") from None
        if not isinstance(values, dict):
            raise ConfigError(
                f"{path}: required: a mapping of keys such as 'model'; received "
                f"{type(values).__name__}"
            )
    for key, value in (overrides or {}).items():
        if value is not None:
            _put(values, key.split("."), value)
    config = RunConfig.parse(values, path or "")
    config = _with_defaults_of_the_model(config, values, path)
    return _with_defaults_of_the_task(config, values)


def _with_defaults_of_the_model(
    config: RunConfig, values: dict[str, Any], path: str | None
) -> RunConfig:
    """What the run does not say is as the model's paper has it (`models.names.registry.Entry`)."""
    defaults = registry.get(config.model).defaults
    if not defaults:
        return config
    together = dict(values)
    for part, settings in defaults.items():
        together[part] = {**settings, **(values.get(part) or {})}
    return RunConfig.parse(together, path or "")


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

    source = config.data.source
    usual: dict[str, Any] = {}
    updates: dict[str, Any] = {}
    if Path(source).is_dir():
        columns = config.data.columns
        reader = config.data.reader or detection.detect(source, columns)
        usual = detection.conventions(source, reader)
        updates["data"] = config.data.model_copy(update={"reader": reader})
    if config.label is None:
        rating = {"column": "rating", "threshold": _LIKED if entry.learns == "click" else None}
        updates["label"] = Label(**usual.get("label", rating))
    said = {**entry.defaults.get("split", {}), **(values.get("split") or {})}
    if "name" not in said:
        updates["split"] = SplitConfig.parse(
            {**config.split.model_dump(), "name": usual.get("split", "ratio")}
        )
    return config.model_copy(update=updates)


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
