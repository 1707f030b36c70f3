"""Which items users have together."""

import numpy as np
import scipy.sparse


def similarities(together, neighbours: int, shrink: float) -> scipy.sparse.csr_matrix:
    """[N, N] products x_i . x_j, dense or sparse -> [N, N], the largest `neighbours` of a column.

    Without weighting the products are counts of users who have both items.
    """
    together = scipy.sparse.coo_matrix(together)
    norm = np.sqrt(together.diagonal().astype(np.float64))
    apart = (together.row != together.col) & (together.data > 0)
    row, column = together.row[apart], together.col[apart]
    similarity = together.data[apart] / np.maximum(norm[row] * norm[column] + shrink, 1e-12)
    # Of equal similarities the earlier (more popular) item is kept.
    order = np.lexsort((row, -similarity, column))
    column = column[order]
    rank = np.arange(len(order)) - np.searchsorted(column, column)
    kept = order[rank < neighbours]
    return scipy.sparse.csr_matrix(
        (similarity[kept], (row[kept], column[rank < neighbours])), together.shape
    )
