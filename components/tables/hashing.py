"""Seeded hashes of whole arrays.

They make random choices that do not depend on the order or the sharding of the rows.
"""

import numpy as np
import pandas as pd

_KEY = "recsys-tfx-hashs"  # pandas wants exactly 16 characters


def hash_ids(ids: np.ndarray) -> np.ndarray:
    """[N] object array of bytes -> [N] uint64, the same on every machine."""
    return pd.util.hash_array(np.asarray(ids, dtype=object), hash_key=_KEY, categorize=False)


def mix(values: np.ndarray, seed: int) -> np.ndarray:
    """SplitMix64: [..] uint64 -> [..] uint64, a different permutation for each seed."""
    with np.errstate(over="ignore"):
        z = np.asarray(values, np.uint64) + np.uint64(0x9E3779B97F4A7C15) * np.uint64(
            (seed + 1) % 2**63
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def shard_of(ids: np.ndarray, shards: int) -> np.ndarray:
    """[N] object array of ids -> [N] int64 shard numbers."""
    return (hash_ids(ids) % np.uint64(shards)).astype(np.int64)
