"""The configuration of served models: TensorFlow Serving's own text protos, checked."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from serving.server.text_proto import read_text_proto
from serving.wire import protos
from serving.wire.errors import Code, ServingError, StartError, invalid


@dataclass(frozen=True)
class RequestLogConfig:
    """Where sampled requests of one model go.

    Attributes:
        filename_prefix: absolute path that the names of its files begin with.
        sampling_rate: share of requests to log, in [0, 1].
    """

    filename_prefix: str
    sampling_rate: float


@dataclass(frozen=True)
class ModelConfig:
    """One model.

    Attributes:
        name: the name it is asked for by.
        base_path: absolute folder of the version folders.
        policy: "latest", "all" or "specific".
        latest: how many versions `latest` keeps.
        specific: the version numbers of `specific`.
        labels: version number by label.
        request_log: where sampled requests go; None: nowhere.
    """

    name: str
    base_path: str
    policy: str = "latest"
    latest: int = 1
    specific: tuple[int, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)
    request_log: RequestLogConfig | None = None

    def choose(self, present: list[int]) -> list[int]:
        """The versions that the policy wants, largest first, out of those present."""
        ordered = sorted(present, reverse=True)
        if self.policy == "all":
            return ordered
        if self.policy == "specific":
            return [version for version in ordered if version in self.specific]
        return ordered[: self.latest]


def from_proto(config: "protos.server_config.ModelServerConfig") -> list[ModelConfig]:
    """Checks a configuration and reads it.

    Raises:
        ServingError: INVALID_ARGUMENT, with TensorFlow Serving's texts.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise invalid(
            "ServerModelConfig type not supported by HandleReloadConfigRequest."
            " Only ModelConfigList is currently supported"
        )
    models: dict[str, ModelConfig] = {}
    for entry in config.model_config_list.config:
        if entry.name in models:
            raise invalid(f"Illegal to list model {entry.name} multiple times in config list")
        if not entry.model_type and not entry.model_platform:
            raise invalid(
                "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
                f"ModelServerConfig::model_platform for model {entry.name}"
            )
        if entry.model_type and entry.model_platform:
            raise invalid(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and "
                f"ModelServerConfig::model_platform for model {entry.name}"
            )
        if entry.model_platform not in ("", "tensorflow"):
            raise ServingError(
                Code.UNIMPLEMENTED,
                f"Model {entry.name} has platform {entry.model_platform}; "
                "this server runs platform tensorflow only",
            )
        if "://" not in entry.base_path and not os.path.isabs(entry.base_path):
            raise invalid(
                f"Expected model {entry.name} to have an absolute path or URI; "
                f"got base_path()={entry.base_path}"
            )
        models[entry.name] = _model(entry)
    prefixes = [model.request_log.filename_prefix for model in models.values() if model.request_log]
    for prefix in prefixes:
        if prefixes.count(prefix) > 1:
            # The logs of two models in one file could not be told from one another's.
            raise invalid(f"Duplicate LogCollectorConfig::filename_prefix(): {prefix}")
    return list(models.values())


def _model(entry: "protos.server_config.ModelConfig") -> ModelConfig:
    chosen = entry.model_version_policy.WhichOneof("policy_choice") or "latest"
    latest = entry.model_version_policy.latest.num_versions if chosen == "latest" else 1
    return ModelConfig(
        name=entry.name,
        base_path=entry.base_path,
        policy=chosen,
        latest=latest or 1,
        specific=tuple(entry.model_version_policy.specific.versions),
        labels=dict(entry.version_labels),
        request_log=_request_log(entry) if entry.HasField("logging_config") else None,
    )


def _request_log(entry: "protos.server_config.ModelConfig") -> RequestLogConfig:
    collector = entry.logging_config.log_collector_config
    rate = entry.logging_config.sampling_config.sampling_rate
    if collector.type != "file":
        raise ServingError(
            Code.NOT_FOUND,
            f"Cannot find LogCollector::Factory for type: {collector.type} "
            f'(model {entry.name}); this server has "file" only',
        )
    prefix = collector.filename_prefix
    if not os.path.isabs(prefix) or not os.path.basename(prefix):
        raise invalid(
            f"Expected log_collector_config of model {entry.name} to have an absolute "
            f"filename_prefix that ends in a name; got filename_prefix()={prefix}"
        )
    if not 0 <= rate <= 1:
        raise invalid(f"Expected sampling_rate of model {entry.name} to be in [0, 1]; got {rate:g}")
    return RequestLogConfig(prefix, rate)


def read_model_config_file(path: str) -> list[ModelConfig]:
    """Reads a `model_config_list` file.

    Raises:
        StartError: unreadable, not a ModelServerConfig, or refused by `from_proto`.
    """
    try:
        return from_proto(read_text_proto(path, protos.server_config.ModelServerConfig()))
    except ServingError as error:
        raise StartError(f"{path}: {error.message}") from error
