"""How the nearest items of a query are found. Light: a run file nests it."""

from typing import Literal

import pydantic

from models.names.settings import Settings, Share


class IndexConfig(Settings):
    """How the nearest items of a query are found, by a model whose score is a dot product.

    Attributes:
        kind: `exact` compares a query with every item; `ivf`, an inverted file in the SavedModel,
            with the items of the lists whose centres are nearest alone, in a byte a number, and
            with the best of these exactly. It pays from some 100,000 items on; where an answer
            would be short of items, and under rules, all items are compared.
        lists: into how many k-means parts the items; left out, four times the square root of their
            number.
        probes: how many lists a query looks into; left out, the fewest that hold `recall` of the
            exact best 100 of the run's own queries.
        recall: that share; what is reached in the end is measured, see `gate.min_index_recall`.
    """

    SECTION = "index"
    CHOICE = "kind"
    READ_BY = dict.fromkeys(("lists", "probes", "recall"), ("ivf",))

    kind: Literal["exact", "ivf"] = "exact"
    lists: int | None = pydantic.Field(None, ge=1, examples=[4096])
    probes: int | None = pydantic.Field(None, ge=1, examples=[64])
    recall: Share = 0.98

    @pydantic.model_validator(mode="after")
    def _probes_of_the_lists(self) -> "IndexConfig":
        if self.lists and self.probes and self.probes > self.lists:
            raise ValueError(
                f"probes must be at most the number of lists, {self.lists}; received {self.probes}"
            )
        return self


EXACT = IndexConfig()
"""Without an index."""
