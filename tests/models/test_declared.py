"""A model's settings out of its file alone: what the module holds, without TensorFlow."""

import inspect
import subprocess
import sys

import pytest

from models.names import declared, registry
from tests.conftest import ROOT


@pytest.mark.parametrize("name", registry.MODELS)
def test_the_settings_are_those_of_the_module(name):
    """Names, types, defaults and bounds; the text of each class, with what it checks."""
    early, late = declared.hyper_parameters(name), registry.load(name).Model.HyperParameters
    assert early is not late
    assert early.model_json_schema() == late.model_json_schema()
    assert early().model_dump() == late().model_dump()
    assert [one.__qualname__ for one in early.__mro__] == [one.__qualname__ for one in late.__mro__]
    texts = [inspect.getsource(one) for one in late.__mro__ if one.__module__.startswith("models.")]
    assert all("model_config" not in text for text in texts[:-1]), "a class of another config"


def test_the_checks_of_a_class_hold():
    for name, settings in {
        "two_tower": {"towers": "user", "loss": "nothing"},
        "popularity": {"session_first": True},
        "xdeepfm": {"connection": "half", "maps": (3, 4)},
        "item2vec": {"history_length": 0},
        "ease": {"max_items": 0},
    }.items():
        with pytest.raises(ValueError):
            declared.hyper_parameters(name)(**settings)


def test_no_settings_import_tensorflow():
    code = (
        "import sys; from models.names import declared, registry\n"
        "for name in registry.MODELS: declared.hyper_parameters(name)()\n"
        "sys.exit(bool({'tensorflow', 'numpy'} & {*sys.modules}))"
    )
    assert not subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT).returncode


@pytest.mark.parametrize("name", registry.MODELS)
def test_what_a_model_needs_is_of_the_list(name):
    entry = registry.get(name)
    assert {*entry.needs} <= {*registry.NEEDS}
    assert registry.load(name).Model.weighs_rows == ("equal_rows" not in entry.needs)


def test_settings_that_name_columns_say_so():
    """Of the nested settings too, by the key that a run file has."""
    early = {name: declared.hyper_parameters(name) for name in ("airbnb", "airbnb_ranker")}
    named = early["airbnb"](market="item_city", user_type=("user_a", "user_b"), segment="user_c")
    assert [*named.named_columns()] == [
        ("segment", "user_c"),
        ("market", "item_city"),
        ("user_type", "user_a"),
        ("user_type", "user_b"),
    ]
    ranker = early["airbnb_ranker"](listings={"market": "item_city"})
    assert [*ranker.named_columns()] == [("listings.market", "item_city")]
    crosses = declared.hyper_parameters("wide_deep")(crosses=[("user_id", "item_x")])
    assert [*crosses.named_columns()] == [("crosses", "user_id"), ("crosses", "item_x")]
