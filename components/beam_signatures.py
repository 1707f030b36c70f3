"""Beam's signatures of functions, asked for once each.

Whenever Beam makes, checks, writes or runs a step, it inspects all methods of the step's DoFn,
which are the same every time: a seventh of the processor time of a short pipeline. Importing this
module makes it remember.
"""

import inspect
import types
import weakref
from collections.abc import Callable
from typing import Any

from apache_beam.transforms import core


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


core.get_signature = remembering(core.get_signature)
