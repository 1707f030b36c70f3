"""Which items users have together."""

import numpy as np
import scipy.sparse

_AT_ONCE = 1 << 23
"""Products of numbers that are formed at once; what a block of items holds is some 50 times as \
many bytes."""


def similarities(
    pairs: scipy.sparse.csr_matrix, neighbours: int, shrink: float
) -> scipy.sparse.csr_matrix:
    """Shrunk cosines x_i . x_j / (|x_i| |x_j| + shrink) of what users have, some items at a time.

    Args:
        pairs: [P, N]: x_ui, what user u has of item i; without weighting 1 or nothing.
        neighbours: so many of the largest of a column are kept, of equal ones the earlier (more
            popular) items.
        shrink: how much what few users support is weakened.

    Returns:
        [N, N]: the similarities that are kept, none to an item itself.
    """
    of_items, users = pairs.T.tocsr(), pairs.getnnz(axis=1)
    norm = np.sqrt(np.asarray(of_items.multiply(of_items).sum(axis=1), np.float64).ravel())
    products = np.r_[0, np.cumsum(users[of_items.indices])][of_items.indptr]
    similarity, row, counts = [], [], []
    start, count = 0, pairs.shape[1]
    while start < count:
        stop = max(start + 1, np.searchsorted(products, products[start] + _AT_ONCE, "right") - 1)
        # A similarity is one both ways, so the items of a block are columns.
        block = (of_items[start:stop] @ pairs).tocoo()
        column, other = block.row, block.col
        apart = (column + start != other) & (block.data > 0)
        column, other = column[apart], other[apart]
        own = block.data[apart] / np.maximum(norm[column + start] * norm[other] + shrink, 1e-12)
        kept = _largest(own, column, other, neighbours)
        similarity.append(own[kept])
        row.append(other[kept])
        counts.append(np.bincount(column[kept], minlength=stop - start))
        start = stop
    splits = np.r_[0, np.cumsum(np.concatenate(counts))]
    kept = scipy.sparse.csc_matrix(
        (np.concatenate(similarity), np.concatenate(row), splits), (count, count)
    )
    return kept.tocsr()


def _largest(value: np.ndarray, column: np.ndarray, row: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` largest values of every column (ascending); of equal ones the first."""
    splits = np.r_[np.flatnonzero(np.diff(column, prepend=-1)), len(column)]
    # Few are kept, so that few are sorted: those that are no less than the last that is kept.
    least = np.full(len(splits) - 1, -np.inf)
    for place in np.flatnonzero(np.diff(splits) > count):
        of_column = value[splits[place] : splits[place + 1]]
        least[place] = np.partition(of_column, -count)[-count]
    candidates = np.flatnonzero(value >= np.repeat(least, np.diff(splits)))
    column = column[candidates]
    order = np.lexsort((row[candidates], -value[candidates], column))
    rank = np.arange(len(order)) - np.searchsorted(column, column)
    return candidates[order[rank < count]]
