"""Components out of declarations: what TFX asks of a specification and of a constructor."""

import json

import pytest
from tfx.dsl.components.base import base_beam_executor, base_executor
from tfx.types import Channel, standard_artifacts

from components.component import BeamComponent, Component


class CopyExecutor(base_executor.BaseExecutor):
    def Do(self, input_dict, output_dict, exec_properties):
        """Nothing: it is declared only."""


class Copy(Component):
    EXECUTOR = CopyExecutor
    PARAMETERS = {"times": int, "note": str | None}
    INPUTS = {"examples": standard_artifacts.Examples, "schema": standard_artifacts.Schema | None}
    OUTPUTS = {"copies": standard_artifacts.Examples}


class SpreadExecutor(base_beam_executor.BaseBeamExecutor):
    Do = CopyExecutor.Do


class Spread(BeamComponent):
    EXECUTOR = SpreadExecutor


EXAMPLES = Channel(type=standard_artifacts.Examples)


def test_a_declaration_makes_the_specification_and_the_outputs():
    made = Copy(examples=EXAMPLES, times=3, note=None)
    assert made.id == "Copy" and set(made.inputs) == {"examples"}
    assert made.outputs["copies"].type is standard_artifacts.Examples
    # What is left out is no parameter at all; the rest is stored as JSON.
    assert made.exec_properties == {"times": 3} == json.loads(json.dumps(made.exec_properties))
    assert made.executor_spec.class_path == f"{__name__}.CopyExecutor"
    both = Copy(
        examples=EXAMPLES, schema=Channel(type=standard_artifacts.Schema), times=1, note="twice"
    )
    assert set(both.inputs) == {"examples", "schema"} and both.exec_properties["note"] == "twice"


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"examples": EXAMPLES}, ValueError, "Missing argument 'times'"),
        ({"times": 3}, ValueError, "Missing argument 'examples'"),
        (
            {"examples": EXAMPLES, "times": 3, "tims": 2},
            TypeError,
            "no 'tims'; did you mean 'times'",
        ),
        ({"examples": EXAMPLES, "times": "often"}, TypeError, "times"),
    ],
)
def test_what_does_not_fit_the_declaration_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        Copy(**given)


def test_an_executor_of_beam_gets_the_pipelines_arguments():
    made = Spread().with_beam_pipeline_args(["--direct_num_workers=1"])
    assert made.executor_spec.beam_pipeline_args == ["--direct_num_workers=1"]
