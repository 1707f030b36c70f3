"""Toy data sets, built once an example kind and shared by the workers of a test run."""

import pytest

from tests.conftest import locked, shared_by_workers


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory):
    """Returns a function (kind, randomness, label) -> ToyData; with a label, of ratings to score."""
    from tests.models import toy

    root = shared_by_workers(tmp_path_factory)

    def get(kind: str, randomness: float, label=None) -> "toy.ToyData":
        folder = root / (f"toy-{kind}-{randomness}" + (f"-{label.column}-{label.threshold}" if label else ""))
        with locked(root / f"{folder.name}.lock"):
            if not (folder / "done").exists():
                toy.build(folder, randomness, kind, label=label)
                (folder / "done").touch()
        return toy.ToyData(folder, label)

    return get
