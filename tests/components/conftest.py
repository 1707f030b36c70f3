"""Real data for the tests of the data components."""

import os
from pathlib import Path

import pytest

from components.read import datasets
from models.names.errors import DataError


@pytest.fixture(scope="session")
def movielens_100k() -> Path:
    """MovieLens 100K from the cache or the network; the test is skipped without either."""
    try:
        return datasets.get(
            "movielens-100k", None if os.environ.get("RECSYS_CACHE") else str(_CACHE)
        )
    except DataError as error:
        pytest.skip(f"needs MovieLens 100K: {error}")


_CACHE = Path(__file__).resolve().parents[2] / ".cache" / "datasets"
