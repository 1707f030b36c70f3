"""Toy data sets, built once a session and an example kind."""

import pytest


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory):
    """Returns a function (kind, randomness) -> ToyData."""
    from tests.models import toy

    built = {}

    def get(kind: str, randomness: float) -> "toy.ToyData":
        key = (kind, randomness)
        if key not in built:
            built[key] = toy.build(tmp_path_factory.mktemp(f"toy-{kind}-{randomness}"), randomness, kind)
        return built[key]

    return get
