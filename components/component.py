"""What a component of TFX repeats, once: its specification and constructor, of a declaration."""

from typing import Any, ClassVar, get_args

from tfx.dsl.components.base import (
    base_beam_component,
    base_beam_executor,
    base_component,
    base_executor,
    executor_spec,
)
from tfx.types import Channel, component_spec

from components import beam_signatures as beam_signatures  # it makes Beam remember them
from models.names.errors import nearest


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
