"""What a `score` run predicts: a property of the run, never of the model.

Light: the gate and the command line read it.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import pydantic

from models.names.settings import Settings

LABEL = "label"
"""The column of the built examples that every `score` model learns, whatever it was made of."""


class Label(Settings):
    """The label of a run.

    `{column: rating}` is a rating (any number); `{column: rating, threshold: 4}` is a click: 1 from
    the threshold on, else 0; the column `label` holds clicks already.

    Attributes:
        column: the column of the events that the label is made of.
        threshold: from which value on it counts as a click; None takes the value as it is.
    """

    SECTION: ClassVar[str] = "label"

    column: str = pydantic.Field(min_length=1, examples=["rating"])
    threshold: float | None = pydantic.Field(None, examples=[4.0])

    @property
    def is_click(self) -> bool:
        """Whether the model answers a probability (clicks) rather than a number (ratings)."""
        return self.threshold is not None or self.column == LABEL

    @classmethod
    def parse(  # type: ignore[override]  # an empty mapping is no label
        cls, values: Mapping[str, Any] | None, source: str = ""
    ) -> "Label | None":
        """Checks and takes over a mapping, as `Settings.parse` does; an empty one is no label."""
        return super().parse(values, source) if values else None
