"""What the rows of a run are and what Transform makes of them, as run and model say it.

The pipeline tells its components so, and the workbench the same functions.
"""

from collections.abc import Mapping
from typing import Any

from components.build.config import BuildConfig
from models.names import features, registry
from models.names.errors import ConfigError
from pipeline.config import RunConfig


def to_build(config: RunConfig) -> BuildConfig:
    """Returns what a run builds, but for what its rows `carry` and how large they may be.

    Raises:
        ConfigError: parts that do not fit together, such as walks for a model that takes none.
    """
    entry = registry.get(config.model)
    return BuildConfig.parse(
        {
            "task": entry.task,
            "kind": entry.kind,
            "split": config.split,
            "label": config.label,
            "walks": config.walks,
            "point_in_time": config.features.point_in_time,
            **config.selection,
        }
    )


def carried(config: RunConfig, model_class: Any, list_loss: str | None = None) -> dict[str, Any]:
    """Returns what rows carry for a model that reads it, as `BuildConfig` calls it.

    Args:
        config: the run.
        model_class: the model.
        list_loss: the hyper-parameter of that name of a `score` model that has it.

    Raises:
        ConfigError: context for a model that reads none, or a label that it cannot learn.
    """
    carries: dict[str, Any] = {"point_in_time": list(config.features.point_in_time)}
    if registry.get(config.model).task == "retrieve":
        _require_use_of_context(config, model_class)
        return carries | model_class.carries(config.features.context)
    model_class.check_label(config.label, list_loss)
    return carries | model_class.carries()


def transformed(config: RunConfig, tables: Mapping[str, Any], model_class: Any) -> dict[str, Any]:
    """Returns what Transform is told (`models.inputs.preprocessing`).

    Args:
        config: the run.
        tables: table -> its curated schema.
        model_class: the model.
    """
    hashed = sorted(set(config.hyper_parameters.get("hash_rows", ())) - {"user_id", "item_id"})
    described = [tables[name] for name in ("items", "users", "events")]
    return {
        "text": features.text_columns(*described),
        "log": features.log_columns(*described),
        "min_count": config.features.min_count,
        "quantiles": getattr(model_class, "reads_quantiles", False),
        **({"hashed": hashed} if hashed else {}),
    }


def _require_use_of_context(config: RunConfig, model_class: Any) -> None:
    """Refuses context for a model that would not read it."""
    if config.features.context and not model_class.reads_context:
        raise ConfigError(
            f"features.context: {config.model} reads no context; received "
            f"{', '.join(config.features.context)}"
        )
