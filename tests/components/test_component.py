"""Components out of declarations: what TFX asks of a specification and of a constructor."""

import inspect
import json

import pytest
from apache_beam.options.pipeline_options import PipelineOptions, TypeOptions
from apache_beam.transforms import core, userstate
from tfx.dsl.components.base import base_beam_executor, base_executor
from tfx.types import Channel, standard_artifacts

from components.beam_signatures import remembering, remembering_by_object
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


def test_beam_asks_for_a_signature_once():
    """A function, its method of each object and a class are asked for apart; objects share."""
    asked = []

    def signature(of):
        asked.append(of)
        return inspect.signature(of)

    class Step:
        def process(self, element, side=3):
            return element, side

    remembered = remembering(signature)
    one, other = Step(), Step()
    for _ in range(2):
        assert [*remembered(one.process).parameters] == ["element", "side"]
        assert [*remembered(other.process).parameters] == ["element", "side"]
        assert [*remembered(Step.process).parameters] == ["self", "element", "side"]
    assert asked == [one.process, Step.process]
    # What is no function of Python's is asked for each time.
    assert [remembered(Step), remembered(Step)] == [inspect.signature(Step)] * 2
    assert asked[2:] == [Step, Step]


def test_beam_asks_an_object_once():
    """Equal objects are asked apart, and what comes where a dead object lay is asked anew."""

    class Step:
        def __eq__(self, other):
            return True

        __hash__ = None

    asked = []

    def ask(step, *more):
        asked.append(more)
        return [step is one, *more]

    remembered = remembering_by_object(ask)
    one, other = Step(), Step()
    first = remembered(one, "state")
    assert first == [True, "state"] and remembered(one, "state") is first
    assert remembered(other, "state") == [False, "state"]
    assert remembered(one, "timers") == [True, "timers"]
    assert asked == [("state",), ("state",), ("timers",)]
    for _ in range(3):  # an object each, and likely in one place
        remembered(Step(), "state")
    assert len(asked) == 6
    # Nothing refers weakly to a tuple.
    assert remembered((), "state") == remembered((), "state") and len(asked) == 8


def test_views_of_options_share_what_is_set():
    options = PipelineOptions(["--runner=DirectRunner"])
    view = options.view_as(TypeOptions)
    assert view.pipeline_type_check and options.view_as(TypeOptions) is view
    view.pipeline_type_check = False
    assert not options.view_as(TypeOptions).pipeline_type_check
    assert PipelineOptions().view_as(TypeOptions).pipeline_type_check


def test_components_have_beam_remember():
    for remembered in (core.get_signature, userstate.get_dofn_specs, PipelineOptions.view_as):
        assert inspect.getmodule(remembered).__name__ == "components.beam_signatures"
