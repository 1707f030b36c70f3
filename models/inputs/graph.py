"""A weighted graph in compressed rows, made for many walkers that step at once.

NumPy alone, so that the walks of `components.build` and those of models step alike.
"""

import numpy as np


class WeightedGraph:
    """Directed edges, sorted by where they begin; an undirected graph has each of them both ways.

    Args:
        size: number of nodes; they are positions 0 .. size - 1.
        source: [E] int64 positions; edges may be repeated, their weights add up.
        target: [E] int64 positions.
        weight: [E] int64, at least 1.

    Attributes:
        key: [D] int64: source times size plus target of the distinct edges, ascending.
        target: [D] int64 positions.
        weight: [D] int64.
        starts: [size + 1] int64: where the edges of each node begin, and the end.
        before: [D + 1] int64: the weight of all edges before each one.
    """

    def __init__(self, size: int, source: np.ndarray, target: np.ndarray, weight: np.ndarray):
        size = max(size, 1)
        self.key, inverse = np.unique(source * size + target, return_inverse=True)
        total = np.zeros(len(self.key), np.int64)
        np.add.at(total, inverse, weight)
        self.size = size
        self.target = self.key % size
        self.starts = np.searchsorted(self.key, np.arange(size + 1) * size)
        self.weigh(total)

    def weigh(self, weight: np.ndarray) -> None:
        """Sets the weights of the distinct edges, [D] int64."""
        self.weight = weight
        # Sums of whole numbers, so that no probability is rounded.
        self.before = np.r_[0, np.cumsum(weight)]

    def has_edge(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """[K] and [K] positions -> [K] bool."""
        if not len(self.key):
            return np.zeros(len(source), bool)
        wanted = source * self.size + target
        place = np.minimum(np.searchsorted(self.key, wanted), len(self.key) - 1)
        return self.key[place] == wanted

    def totals(self, node: np.ndarray) -> np.ndarray:
        """[K] positions -> [K] int64 weight of all edges that lead on; 0 at a dead end."""
        return self.before[self.starts[node + 1]] - self.before[self.starts[node]]

    def step(self, node: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """[K] positions, none of them a dead end, and [K] uint64 draws -> [K] next positions."""
        base = self.before[self.starts[node]]
        rank = (draw % self.totals(node).astype(np.uint64)).astype(np.int64)
        return self.target[np.searchsorted(self.before, base + rank, side="right") - 1]
