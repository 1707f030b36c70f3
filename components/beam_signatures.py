"""What Beam works out again and again of the steps of a pipeline, worked out once each.

Whenever Beam makes, checks, writes or runs a step, it inspects all methods of the step's DoFn and
looks through them for state and timers, and it parses the pipeline's arguments for every step:
a quarter of the processor time of a short pipeline, for the same answers every time. Importing
this module makes it remember.
"""

import inspect
import types
import weakref
from collections.abc import Callable
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core, userstate


def remembering(
    signature: Callable[[Any], inspect.Signature],
) -> Callable[[Any], inspect.Signature]:
    """Returns `signature` with a memory of the functions and methods that it was asked for.

    The memory ends with the function; anything else that can be called is asked for each time.
    """
    known: weakref.WeakKeyDictionary[types.FunctionType, dict[bool, inspect.Signature]]
    known = weakref.WeakKeyDictionary()

    def of(asked: Any) -> inspect.Signature:
        # A method's signature lacks the first argument of its function's.
        bound = isinstance(asked, types.MethodType)
        function = asked.__func__ if bound else asked
        if not isinstance(function, types.FunctionType):
            return signature(asked)
        found = known.setdefault(function, {})
        if bound not in found:
            found[bound] = signature(asked)
        return found[bound]

    return of


def remembering_by_object(ask: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `ask(object, *more)` with a memory of the objects and what was asked of them.

    The memory of an object ends with it; equal objects have one each, and what nothing can refer
    to weakly is asked each time.
    """
    known: dict[int, dict[tuple[Any, ...], Any]] = {}

    def of(asked: Any, *more: Any) -> Any:
        key = id(asked)
        if key not in known:
            try:
                weakref.finalize(asked, known.pop, key, None).atexit = False
            except TypeError:
                return ask(asked, *more)
            known[key] = {}
        found = known[key]
        if more not in found:
            found[more] = ask(asked, *more)
        return found[more]

    return of


core.get_signature = remembering(core.get_signature)
userstate.get_dofn_specs = remembering_by_object(userstate.get_dofn_specs)
# Views of one object's options share what they hold: one is as good as another.
PipelineOptions.view_as = remembering_by_object(PipelineOptions.view_as)
