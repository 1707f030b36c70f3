"""What a `score` run predicts: a property of the run, never of the model.

Light: the gate and the command line read it.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pydantic

from models.names.errors import ConfigError
from models.names.settings import Settings

LABEL = "label"
"""The column of the built examples that every `score` model learns, whatever it was made of."""

WEIGHT = "example_weight"
"""The column of the built examples that says what a row weighs, where the run names one."""

GROUP = "example_group"
"""The column of the built examples that says which list a row is in, where the run names one."""


class Label(Settings):
    """The label of a run.

    `{column: rating}` is a rating (any number); `{column: rating, threshold: 4}` is a click: 1 from
    the threshold on, else 0; the column `label` holds clicks already, and so does any column of a
    run whose model learns clicks, unless `kind` says otherwise.

    Attributes:
        column: the column of the events that the label is made of.
        threshold: from which value on it counts as a click; None takes the value as it is.
        kind: `click` or `rating`; left out, as above.
        weight: a column of the events, numbers of 0 or more: what a row counts for in the loss and
            in every metric. A missing one is 1; only their proportions matter.
        group: a column of the events: the rows of a user with one value of it are a list, such as
            a search or a page. Lists stay whole in the splits, and what is measured first is NDCG
            within them; a row without a value is a list of its own.
        grades: what each value of the column is worth, for a column of names such as `event_type`:
            `{booking: 1, click: 0.01, impression: 0, rejection: -0.4}`. An event of another type
            has no label. Of the events of one item in a list the one whose grade is farthest from 0
            stands, the first of several; the others have no label.
    """

    SECTION: ClassVar[str] = "label"

    column: str = pydantic.Field(min_length=1, examples=["rating"])
    threshold: float | None = pydantic.Field(None, examples=[4.0])
    weight: str | None = pydantic.Field(None, examples=["importance"])
    group: str | None = pydantic.Field(None, examples=["search_id"])
    grades: dict[str, float] | None = pydantic.Field(None, examples=[{"booking": 1, "click": 0.01}])
    kind: Literal["click", "rating"] | None = pydantic.Field(None, examples=["click"])

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> "Label":
        if self.threshold is not None and self.kind == "rating":
            raise ValueError(
                "kind: a label with a threshold is a click; received 'rating' with the threshold "
                f"{self.threshold:g}"
            )
        return self

    def check_lists(self, list_loss: str | None) -> None:
        """Raises ConfigError where a loss of lists has no lists.

        Args:
            list_loss: the hyper-parameter.
        """
        if list_loss and not self.group:
            raise ConfigError(
                f"label.group: required by the hyper-parameter list_loss: {list_loss}, such as a "
                "column of search or page ids; received none"
            )

    def learnt_by(self, learns: str) -> "Label":
        """The same label for a model whose paper predicts clicks, or ratings.

        Args:
            learns: `click` or `rating` (`models.names.registry.Entry`).
        """
        said = self.kind or self.threshold is not None or self.grades or self.column == LABEL
        return self if said or learns != "click" else self.model_copy(update={"kind": "click"})

    @property
    def is_click(self) -> bool:
        """Whether the model answers a probability (clicks) rather than a number (ratings)."""
        if self.threshold is not None or self.kind:
            return self.kind != "rating"
        return self.column == LABEL

    @classmethod
    def parse(  # type: ignore[override]  # an empty mapping is no label
        cls, values: Mapping[str, Any] | None, source: str = ""
    ) -> "Label | None":
        """Checks and takes over a mapping, as `Settings.parse` does; an empty one is no label."""
        return super().parse(values, source) if values else None
