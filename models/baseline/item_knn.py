"""Item-based nearest neighbours with shrunk cosine similarity.

Cite: Sarwar, Karypis, Konstan, Riedl: Item-Based Collaborative Filtering Recommendation Algorithms, WWW 2001; shrinkage and
settings as in Ferrari Dacrema, Boglio, Cremonesi, Jannach, TOIS 2021.

    s_ij = x_i . x_j / (|x_i| |x_j| + shrink),   s_ii = 0,   the `neighbours` largest of a column are kept,   score = x_u S

Deviations: implicit data only, without row weighting.
"""

import time

import numpy as np
import pydantic

from models.baseline.item_based import ItemBased
from models.hyper_parameters import HyperParameters as BaseHyperParameters


class HyperParameters(BaseHyperParameters):
    """Item-kNN's own."""

    neighbours: int = pydantic.Field(100, ge=1)
    shrink: float = pydantic.Field(10.0, ge=0)


class ItemKNN(ItemBased):
    """Every item votes for the items most like it."""

    HyperParameters = HyperParameters

    def learn(self, session):
        started = time.monotonic()
        pairs = session.data.events.matrix(len(session.data.items))
        together = (pairs.T @ pairs).toarray().astype(np.float64)
        self.weights_matrix.assign(similarities(together, self.hyper_parameters.neighbours, self.hyper_parameters.shrink))
        session.record(self, seconds=time.monotonic() - started)


def similarities(together: np.ndarray, neighbours: int, shrink: float) -> np.ndarray:
    """[N, N] counts of users who have both items -> [N, N] similarities, the largest `neighbours` of each column kept."""
    norm = np.sqrt(np.diag(together))
    similarity = together / np.maximum(np.outer(norm, norm) + shrink, 1e-12)
    np.fill_diagonal(similarity, 0.0)
    if neighbours < len(similarity):
        # Stable, so that of equal similarities the earlier (more popular) item is kept.
        ranks = np.argsort(np.argsort(-similarity, axis=0, kind="stable"), axis=0)
        similarity[ranks >= neighbours] = 0.0
    return similarity


Model = ItemKNN
