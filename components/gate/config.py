"""What a model must reach to be blessed. Light: a run file nests it."""

import math
from collections.abc import Iterable
from typing import ClassVar

import pydantic

from models.names.errors import ConfigError, nearest
from models.names.settings import Names, Settings, Share

SLICES = ("activity", "popularity", "temperature")
"""What every evaluation is sliced by: columns of the test rows."""


class GateConfig(Settings):
    """What a model must reach to be blessed, in its task's metric.

    The metric is NDCG@10 of `retrieve`, log loss of clicks, squared error of ratings. A difference
    within `z` standard errors over the test queries (or rows) shows nothing: it is no lift, and no
    regression.

    Attributes:
        min_lift: it must be better than the reference (popularity, or the train mean) by at least
            this much, and by at least `z` standard errors.
        max_regression: it may be worse than the last blessed model by at most this much, or by
            `z` standard errors of the difference, query by query, where they are more.
        z: standard errors; 2 lets through about one in 40 of the models that have learned nothing;
            0 takes every difference for real.
        slices: parts of the test split where the model may be neither worse than the reference nor,
            by more than `max_regression`, than the last blessed model, beyond `z` standard errors:
            a slice by name (`activity`: all of its values), or one value (`activity:0`).
        min_index_recall: the share of the exact best 100 that the index of a run must find on the
            test queries, where it has one that is not exact.
    """

    SECTION: ClassVar[str] = "gate"

    min_lift: float = 0.0001
    max_regression: float = pydantic.Field(0.005, ge=0)
    z: float = pydantic.Field(2.0, ge=0)
    slices: Names = pydantic.Field((), examples=[("activity", "popularity:tail")])
    min_index_recall: Share = 0.95


def require_known_slices(slices: Iterable[str]) -> None:
    """Refuses slices that test queries do not have.

    Raises:
        ConfigError: a feature that is none of `SLICES`; the nearest is named.
    """
    for name in slices:
        feature = name.partition(":")[0]
        if feature not in SLICES:
            raise ConfigError(
                f"gate.slices: test queries are sliced by {', '.join(SLICES)}; received "
                f"{name!r}{nearest(feature, SLICES)}"
            )


def required(bound: float, z: float, standard_error: float) -> float:
    """What a mean difference must reach at least: `bound`, or `z` standard errors.

    A positive bound asks for a proof: the difference must reach the bound and be beyond noise, so
    the larger one counts. One of zero or below tolerates: what falls short must be beyond noise
    before it counts, so the lower one does.

    Args:
        bound: of the difference, positive where better.
        z: how many standard errors are noise; 0 leaves the bound alone.
        standard_error: of the difference; NaN (of a single row) is unknown: no proof, no fault.
    """
    if not z:
        return bound
    noise = math.inf if math.isnan(standard_error) else z * standard_error
    return max(bound, noise) if bound > 0 else min(bound, -noise)
