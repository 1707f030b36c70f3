"""What to build: the task, the kind of the train rows, the split, the label and the walks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.build.splits import (
    SplitConfig,
)
from components.build.walks import WalkConfig
from models.names.errors import ConfigError, nearest
from models.names.label import Label

EXAMPLE_SPLITS = ("train", "valid", "test", "items", "users")


WALKS = "walks"
TASKS = ("retrieve", "score")


KINDS = ("event", "profile", "sequence", "walk")


SCHEMA_FILE = "schema.pbtxt"


@dataclass(frozen=True)
class BuildConfig:
    """What to build.

    Attributes:
        task: `retrieve` or `score`.
        kind: of the train rows: `event`, `profile`, `sequence` or `walk`.
        split: see `SplitConfig`.
        label: score: what the column `label` of the rows is made of; None leaves it out.
        walks: the kind `walk`: see `WalkConfig`.
        most_items: a larger catalogue is refused; None takes any.
        min_count: items with fewer train events are not in the catalogue.
    """

    task: str
    kind: str
    split: SplitConfig
    label: Label | None = None
    walks: WalkConfig = WalkConfig()
    most_items: int | None = None
    min_count: int = 1

    @classmethod
    def parse(
        cls,
        task: str,
        kind: str,
        split: Mapping[str, Any],
        label: Mapping[str, Any] | None = None,
        walks: Mapping[str, Any] | None = None,
        most_items: int | None = None,
        min_count: int = 1,
    ) -> "BuildConfig":
        """Checks and takes over the values of a run's configuration.

        Raises:
            ConfigError: an unknown task, kind, key or value.
        """
        for name, value, allowed in (("task", task, TASKS), ("kind", kind, KINDS)):
            if value not in allowed:
                raise ConfigError(f"unknown {name} {value!r}{nearest(str(value), allowed)}")
        if task == "score" and kind not in ("event", "profile"):
            raise ConfigError(
                "the task 'score' is trained on rows of the kind 'event' or 'profile'; received "
                f"{kind!r}"
            )
        return cls(
            task,
            kind,
            SplitConfig.parse(split),
            Label.parse(label) if task == "score" else None,
            WalkConfig.parse(walks or {}, kind),
            most_items,
            min_count,
        )
