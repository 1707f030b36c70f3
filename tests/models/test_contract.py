"""Every model of the registry is held to the contract, by a test file that adds something to it."""

import importlib
import inspect

import pytest

from models.names import registry
from tests.models.contract import RetrieveContract, first_of_each, kind_of, stand_for_their_kind
from tests.models.score_contract import ScoreContract

CONTRACTS = {"retrieve": RetrieveContract, "score": ScoreContract}


def contract_tests(contract: type) -> set[str]:
    return {name for name in dir(contract) if name.startswith("test_")}


@pytest.mark.parametrize("name", registry.MODELS)
def test_a_model_is_held_to_the_contract(name):
    entry, where = registry.get(name), f"tests/models/test_{name}.py"
    try:
        module = importlib.import_module(f"tests.models.test_{name}")
    except ModuleNotFoundError:
        pytest.fail(f"{where} is missing; required: the contract and a test of the paper's own")
    contract = CONTRACTS[entry.task]
    held = [
        member
        for member_name, member in vars(module).items()
        if inspect.isclass(member)
        and issubclass(member, contract)
        and member.__module__ == module.__name__
        and member_name.startswith("Test")
        and getattr(member, "name", None) == name
    ]
    assert held, f"{where}: required: a class Test... of {contract.__name__} with name = {name!r}"
    for member in held:
        changed = contract_tests(contract) & vars(member).keys()
        assert not changed, f"{where}: {member.__name__} puts tests of its own over {changed}"
        marks = [mark.name for mark in getattr(member, "pytestmark", [])]
        assert not {"skip", "skipif", "xfail"} & {*marks}, (
            f"{where}: the contract is marked {marks}"
        )
        # A model that learns nothing needs no settings.
        assert member.hyper_parameters or entry.baseline, f"{where}: no hyper_parameters"
    own = [test for test in vars(module) if test.startswith("test_")] + [
        test for member in held for test in vars(member) if test.startswith("test_")
    ]
    assert own, f"{where}: required: a golden vector or an invariant of the paper; found none"


@pytest.mark.parametrize("name", registry.MODELS)
def test_the_registry_says_what_a_request_may_hold(name):
    model = registry.load(name).Model
    context = ("context",) if getattr(model, "reads_context", False) else ()
    assert registry.get(name).reads == (*model.reads_history, *context)


@pytest.mark.parametrize("name", registry.MODELS)
def test_the_registry_says_how_a_model_explains(name):
    explains = registry.get(name).explains
    assert explains == registry.load(name).Model.explains and explains in registry.EXPLANATIONS


def test_one_model_stands_for_every_kind():
    assert first_of_each({"a": 1, "b": 2, "c": 1, "d": 3}) == {"a", "b", "d"}
    kinds = [kind_of(name) for name in stand_for_their_kind()]
    assert len(kinds) == len(set(kinds))
    assert set(kinds) == {kind_of(name) for name in registry.MODELS}


def test_what_make_test_leaves_out_ci_runs(pytestconfig):
    assert "make test-all" in (pytestconfig.rootpath / ".ci" / "run").read_text()
    marked = {
        test
        for contract in CONTRACTS.values()
        for test in contract_tests(contract)
        for mark in getattr(getattr(contract, test), "pytestmark", [])
        if mark.name in ("one_of_a_kind", "thorough")
    }
    # Anything else of the contract holds for every model in `make test` too.
    assert marked == {
        "test_does_not_beat_popularity_on_noise",
        "test_does_not_beat_the_mean_on_noise",
        "test_empty_places_change_nothing",
        "test_steps_with_and_without_are_alike",  # XLA takes seconds a model
    }
