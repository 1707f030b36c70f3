"""What a model must reach to be blessed. Light: a run file nests it."""

from typing import ClassVar

import pydantic

from models.names.settings import Settings


class GateConfig(Settings):
    """What a model must reach to be blessed, in its task's metric.

    The metric is NDCG@10 of `retrieve`, log loss of clicks, squared error of ratings.

    Attributes:
        min_lift: it must be better than the reference (popularity, or the train mean) by at least
            this much.
        max_regression: it may be worse than the last blessed model by at most this much.
    """

    SECTION: ClassVar[str] = "gate"

    min_lift: float = 0.0001
    max_regression: float = pydantic.Field(0.005, ge=0)
