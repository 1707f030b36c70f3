"""What a component of TFX repeats, once: its specification and constructor, of a declaration.

And how a step that is not needed after all ends at once. Not every runner has TFX's conditions, so
the step runs, marks what it would have written as skipped, and why; what is made of that is skipped
in its turn.
"""

import functools
import posixpath
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, get_args

from absl import logging
from tfx import types
from tfx.dsl.components.base import (
    base_beam_component,
    base_beam_executor,
    base_component,
    base_executor,
    executor_spec,
)
from tfx.dsl.io import fileio
from tfx.types import Channel, component_spec

from components import beam_signatures as beam_signatures  # it makes Beam remember them
from models.names.errors import nearest

SKIPPED = "skipped"
"""The custom property of an artifact that was not made, and its only file; both say why."""


def why_skipped(artifacts: Mapping[str, list[types.Artifact]]) -> str:
    """Why one of the artifacts was not made; empty where all were."""
    reasons = (
        one.get_string_custom_property(SKIPPED) for many in artifacts.values() for one in many
    )
    return next(filter(None, reasons), "")


def skip(artifacts: Mapping[str, list[types.Artifact]], reason: str) -> None:
    """Marks artifacts as not made, and says why.

    The file is for object stores, in which a folder without one is none.
    """
    for many in artifacts.values():
        for one in many:
            one.set_string_custom_property(SKIPPED, reason)
            fileio.makedirs(one.uri)
            with fileio.open(posixpath.join(one.uri, SKIPPED), "w") as file:
                file.write(reason)
    logging.info("skipped: %s", reason)


def skips(do: Callable[..., None]) -> Callable[..., None]:
    """An executor's `Do` that makes nothing of what was not made."""

    @functools.wraps(do)
    def wrapped(self, input_dict, output_dict, exec_properties):
        if reason := why_skipped(input_dict):
            skip(output_dict, reason)
        else:
            do(self, input_dict, output_dict, exec_properties)

    return wrapped


class _Declared:
    """Makes TFX's `SPEC_CLASS` and `EXECUTOR_SPEC` of what a component declares.

    A name whose type is `kind | None` may be left out, or be None.

    Attributes:
        EXECUTOR: the class that does the work; TFX imports it by its path.
        PARAMETERS: name -> type of what is given as a value: str, int or float.
        INPUTS: name -> class of the artifacts that are read.
        OUTPUTS: name -> class of the artifact that is written.

    Args:
        given: parameters by value, and inputs by the channel they come from.

    Raises:
        TypeError: a name that is not declared, or a value of another type.
        ValueError: a name that may not be left out is.
    """

    EXECUTOR: ClassVar[type[base_executor.BaseExecutor]]
    PARAMETERS: ClassVar[dict[str, Any]] = {}
    INPUTS: ClassVar[dict[str, Any]] = {}
    OUTPUTS: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        if not hasattr(cls, "EXECUTOR"):
            return  # Component and BeamComponent themselves
        sides = {
            "PARAMETERS": (component_spec.ExecutionParameter, cls.PARAMETERS),
            "INPUTS": (component_spec.ChannelParameter, cls.INPUTS),
            "OUTPUTS": (component_spec.ChannelParameter, cls.OUTPUTS),
        }
        spec = {
            side: {name: _parameter(make, kind) for name, kind in declared.items()}
            for side, (make, declared) in sides.items()
        }
        cls.SPEC_CLASS = type(f"{cls.__name__}Spec", (component_spec.ComponentSpec,), spec)
        beam = issubclass(cls.EXECUTOR, base_beam_executor.BaseBeamExecutor)
        by_class = executor_spec.BeamExecutorSpec if beam else executor_spec.ExecutorClassSpec
        cls.EXECUTOR_SPEC = by_class(cls.EXECUTOR)

    def __init__(self, **given: Any):
        declared = [*self.PARAMETERS, *self.INPUTS]
        for name in given:
            if name not in declared:  # which TFX would take no notice of
                raise TypeError(f"{type(self).__name__} takes no {name!r}{nearest(name, declared)}")
        outputs = {name: Channel(type=kind) for name, kind in self.OUTPUTS.items()}
        set_ones = {name: value for name, value in given.items() if value is not None}
        super().__init__(self.SPEC_CLASS(**set_ones, **outputs))


class Component(_Declared, base_component.BaseComponent):
    """A component whose executor works in its own process; see `_Declared`."""


class BeamComponent(_Declared, base_beam_component.BaseBeamComponent):
    """A component whose executor makes Beam pipelines; see `_Declared`.

    Their arguments are those of the whole pipeline or its own.
    """


def _parameter(make: Any, kind: Any) -> Any:
    required, *none = get_args(kind) or (kind,)
    return make(type=required, optional=bool(none))
