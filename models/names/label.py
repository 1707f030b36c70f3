"""What a `score` run predicts: a property of the run, never of the model.

Light: the gate and the command line read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.names.errors import ConfigError, require_known

LABEL = "label"
"""The column of the built examples that every `score` model learns, whatever it was made of."""

_KEYS = ("column", "threshold")


@dataclass(frozen=True)
class Label:
    """The label of a run.

    `{column: rating}` is a rating (any number); `{column: rating, threshold: 4}` is a click: 1 from
    the threshold on, else 0; the column `label` holds clicks already.

    Attributes:
        column: the column of the events that the label is made of.
        threshold: from which value on it counts as a click; None takes the value as it is.
    """

    column: str
    threshold: float | None = None

    @property
    def is_click(self) -> bool:
        """Whether the model answers a probability (clicks) rather than a number (ratings)."""
        return self.threshold is not None or self.column == LABEL

    @classmethod
    def parse(cls, values: Mapping[str, Any] | None) -> "Label | None":
        """Takes over a mapping of the run's configuration; an empty one is no label.

        Raises:
            ConfigError: an unknown key, no column, or a threshold that is not a number.
        """
        values = dict(values or {})
        if not values:
            return None
        require_known("label", values, _KEYS)
        if not isinstance(values.get("column"), str) or not values["column"]:
            raise ConfigError(
                f"label requires column, the name of a column of the events; received {values}"
            )
        threshold = values.get("threshold")
        if threshold is not None and (
            isinstance(threshold, bool) or not isinstance(threshold, (int, float))
        ):
            raise ConfigError(f"label.threshold must be a number; received {threshold!r}")
        return cls(values["column"], None if threshold is None else float(threshold))
