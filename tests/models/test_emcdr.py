"""EMCDR: the contract on two domains, a map that is known, and no look at held-out events."""

import pytest

from tests.models import toy
from tests.models.contract import RetrieveContract

SPLIT = {"name": "cross_domain", "test_fraction": 0.2, "valid_fraction": 0.1, "seed": 1}
TOY = {
    "epochs": 40,
    "batch_size": 64,
    "learning_rate": 2e-2,
    "factors": 8,
    "map_epochs": 30,
    "map_learning_rate": 0.05,
}


@pytest.fixture(scope="module")
def two_domains(tmp_path_factory):
    """Returns a function (randomness) -> ToyData, each built once."""
    built = {}

    def get(randomness):
        if randomness not in built:
            folder = tmp_path_factory.mktemp("two-domains")
            built[randomness] = toy.build(
                folder, randomness, "event", SPLIT, write=toy.write_two_domains
            )
        return built[randomness]

    return get


class TestEMCDR(RetrieveContract):
    name = "emcdr"
    hyper_parameters = TOY

    @pytest.fixture(scope="class")
    def toy_data(self, two_domains):
        return lambda kind, randomness, **_: two_domains(randomness)
