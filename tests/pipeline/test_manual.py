"""The manual: every key of a run file, told by the classes themselves."""

import re

import pydantic
import pytest
import yaml
from click.testing import CliRunner

from models.names.features import REQUEST_INPUTS
from models.names.settings import Share
from pipeline import manual
from pipeline.cli import main
from pipeline.config import RunConfig
from tests.conftest import ROOT

KEYS = {key.name: key for key in manual.keys()}


class Inner(pydantic.BaseModel):
    """Nested.

    Attributes:
        share: how much,
            on two lines.
        mode: which.
    """

    share: Share = 0.5
    mode: str | None = pydantic.Field(None, examples=["fast: yes"])


class Outer(pydantic.BaseModel):
    """The run.

    Attributes:
        count: how many.
    """

    inner: Inner | None = None
    count: int = pydantic.Field(3, ge=1, alias="number")


def test_a_key_is_told_by_its_class():
    share, mode, count = manual.of(Outer)
    assert share == manual.Key(
        "inner.share", "number", "0.5", "How much, on two lines", "inner: {share: 0.5}"
    )
    assert mode.example == "inner: {mode: 'fast: yes'}" and mode.default == "none"
    assert (count.name, count.kind, count.meaning) == (
        "number",
        "whole number, at least 1",
        "How many",
    )


@pytest.mark.parametrize("name", KEYS)
def test_every_key_has_a_meaning_and_an_example_that_a_run_takes(name):
    """A key without either is named: a line under `Attributes`, `Field(examples=[...])`."""
    key = KEYS[name]
    assert len(key.meaning) > 10, f"{name} has no line in the docstring of its class"
    values = yaml.safe_load(key.example)
    for part in name.split("."):
        values = values[part]
    assert values not in (None, "", [], {}), f"{name} has no example"
    if not name.startswith(("label.", "positives.", "walks.kind", "split.max_missing")):
        assert RunConfig.parse(yaml.safe_load(key.example))


def test_the_help_of_config_has_every_key():
    answer = CliRunner().invoke(main, ["config", "--help"])
    assert (
        answer.exit_code == 0 and "\ngate.z  (number, at least 0; default 2.0)\n" in answer.output
    )
    assert all(f"\n{name}  (" in answer.output for name in KEYS)


def test_what_a_request_may_hold_is_told():
    assert REQUEST_INPUTS <= {name for _, name, _, _ in manual.REQUESTS}


def test_every_layout_is_told_by_name():
    answer = CliRunner().invoke(main, ["datasets", "--layouts"])
    assert answer.exit_code == 0 and "ml_100k" in answer.output and "`u.data`" in answer.output
    assert all(len(what) > 20 for _, what in manual.layouts())


def test_the_page_is_that_of_the_classes():
    page = (ROOT / "MANUAL.md").read_text("utf-8")
    assert page == manual.page(), "write it anew: recsys config --page > MANUAL.md"
    empty = re.findall(r"\| `(hyper_parameters\.\w+)` \|[^|]*\|[^|]*\|  \|", page)
    assert not empty, "no line under `Attributes` of the model's HyperParameters"
