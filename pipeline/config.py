"""A run is one YAML file; flags override it, and the resolved run is stored with its outputs. Light: no TensorFlow, no TFX."""

import re
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml

from models import registry
from models.errors import ConfigError, nearest


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Part):
    """Where the events come from.

    Attributes:
        source: a public data set by name, or a folder.
        reader: the layout of the folder; told by its files when left out.
        columns: column mapping of the user's own CSV or Parquet files.
        schema_name: curated table schemas: a name in `schema/` or a folder; in YAML it is called `schema`.
        max_rejected_share: share of a table's rows that may be rejected before the run stops.
    """

    source: str = "movielens-100k"
    reader: str | None = None
    columns: dict[str, Any] = {}
    schema_name: str | None = pydantic.Field(None, alias="schema")
    max_rejected_share: float = pydantic.Field(0.01, ge=0, le=1)


class SplitConfig(_Part):
    """How train, validation and test part; checked in full by `components.splits`."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    name: Literal["leave_one_out", "temporal", "ratio", "user_holdout", "given"] = "leave_one_out"
    seed: int = 42
    valid_fraction: float = 0.1
    test_fraction: float = 0.1
    query_history: Literal["all", "train"] = "all"
    drop_repeats: bool = True
    candidates: Literal["ncf99"] | None = None
    input_share: float = 0.8
    sequence_by: Literal["user", "session"] = "user"
    file: str | None = None


class GateConfig(_Part):
    """What a model must reach to be blessed.

    Attributes:
        min_lift: its NDCG@10 must exceed popularity's on the same queries by at least this much.
        max_regression: its NDCG@10 may fall short of the last blessed model's by at most this much.
    """

    min_lift: float = 0.0001
    max_regression: float = pydantic.Field(0.005, ge=0)


class RunConfig(_Part):
    """One run.

    Attributes:
        model: a name of `recsys models`.
        data: where the events come from.
        split: how they are split.
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
    hyper_parameters: dict[str, Any] = {}
    check: dict[str, Any] = {}
    gate: GateConfig = GateConfig()
    seed: int = 0
    warm_start: bool = False
    output: str = "runs"
    name: str | None = None

    @property
    def pipeline_name(self) -> str:
        """`name`, or one made of the model, the data and the split."""
        source = re.sub(r"[^A-Za-z0-9._]+", "-", Path(self.data.source).name).strip("-")
        return self.name or f"{self.model}-{source}-{self.split.name}"

    @property
    def serving_dir(self) -> Path:
        """Where versions of the model are pushed."""
        return Path(self.output).absolute() / "serving" / self.pipeline_name

    def to_yaml(self) -> str:
        """The resolved run, as a file that `recsys run --config` reads."""
        return yaml.safe_dump(self.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True)


def load(path: str | None = None, overrides: dict[str, Any] | None = None) -> RunConfig:
    """Reads a YAML file and lays overrides over it.

    Args:
        path: the file, or None for the defaults.
        overrides: dotted key -> value; None values are left out.

    Raises:
        ConfigError: no such file, no YAML mapping, an unknown key or model (the nearest is named) or a bad value.
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
            raise ConfigError(f"{path}: required: a mapping of keys such as 'model'; received {type(values).__name__}")
    for key, value in (overrides or {}).items():
        if value is not None:
            _put(values, key.split("."), value)
    try:
        config = RunConfig.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(_explain(error, path)) from None
    registry.get(config.model)
    return config


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """`NAME=VALUE` flags -> dotted overrides; a name without a dot that is no key of a run is a hyper-parameter.

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
        overrides[key] = _number(yaml.safe_load(text) if text else "")
    return overrides


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


def _explain(error: pydantic.ValidationError, path: str | None) -> str:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    where = f"{path}: " if path else ""
    if first["type"] != "extra_forbidden":
        return f"{where}{'.'.join(location)}: {first['msg']}; received {first['input']!r}"
    model: Any = RunConfig
    for part in location[:-1]:
        model = model.model_fields[part].annotation
    keys = [field.alias or name for name, field in model.model_fields.items()]
    return f"{where}unknown key {'.'.join(location)!r}{nearest(location[-1], keys)}"
