"""What all lists of recommendations together say of a model: how much of the catalogue they show.

Of the first k items of every test query; counted are the items of the catalogue, N of them.
"""

import numpy as np
import numpy.typing as npt


def coverage(counts: npt.NDArray[np.int64]) -> float:
    """Share of the catalogue that is recommended at least once (Ge et al., RecSys 2010).

    Args:
        counts: [N] how often each item is recommended.
    """
    return float(np.mean(counts > 0)) if len(counts) else float("nan")


def gini(counts: npt.NDArray[np.int64]) -> float:
    """How unevenly the recommendations fall on the items (Shani and Gunawardana, 2011, eq. 20).

        G = sum_i (2 i - N - 1) c_(i) / ((N - 1) sum_i c_(i)),    c_(1) <= ... <= c_(N)

    It is 0 where all items are recommended alike, 1 where one item is all that is recommended.

    Args:
        counts: [N] how often each item is recommended; NaN where none is, or N is 1.
    """
    items, total = len(counts), counts.sum()
    if items < 2 or not total:
        return float("nan")
    place = 2 * np.arange(1, items + 1) - items - 1
    return float(place @ np.sort(counts) / ((items - 1) * total))


OF_LISTS = {"coverage": coverage, "gini": gini}
"""Metric of all lists -> its function."""
