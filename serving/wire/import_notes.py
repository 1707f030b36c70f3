"""TensorFlow's notes on its own build, which 2.21 prints while it is imported."""

import contextlib
import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Iterator, Sequence

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_MUTE = "3"


class _Muted(importlib.abc.MetaPathFinder):
    """Finds TensorFlow where the others find it, and imports it without standard error."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "tensorflow" or os.environ.get(_LEVEL) != _MUTE:
            return None
        found = (
            finder.find_spec(fullname, path, target)
            for finder in sys.meta_path
            if not isinstance(finder, _Muted)
        )
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_muted(module: types.ModuleType) -> None:
                with _nothing_on_stderr():
                    execute(module)

            spec.loader.exec_module = execute_muted  # type: ignore[method-assign]
        return spec


def mute() -> None:
    """Keeps the notes off the screen, whoever imports TensorFlow first in this process.

    They come from C++ that runs before TF_CPP_MIN_LOG_LEVEL is heeded. Where that variable is not 3
    they are wanted, and printed.
    """
    if not any(isinstance(finder, _Muted) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Muted())


@contextlib.contextmanager
def _nothing_on_stderr() -> Iterator[None]:
    before = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(before, 2)
        os.close(before)
