"""A server on a model that the pipeline has made, before or when somebody wants to ask it.

The Canary asks. Where one process runs the pipeline, the Evaluator has its server begin ahead, so
that it loads the model on one core while the model is measured on another.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator

from serving.server.process import ServerProcess

MODEL = "canary"
"""The name under which the server has the model."""
_ahead: tuple[contextlib.ExitStack, dict[str, ServerProcess]] | None = None  # by path of the model


@contextlib.contextmanager
def servers_ahead() -> Iterator[None]:
    """While it lasts `begin` starts servers; one that nobody has asked is stopped in the end."""
    global _ahead
    with contextlib.ExitStack() as stack:
        _ahead = stack, {}
        try:
            yield
        finally:
            _ahead = None


def begin(model_path: str) -> None:
    """Starts the server that `of_model` will give, so that it loads while other work is done.

    Where whoever asks it is another process (no `servers_ahead`), it does nothing.
    """
    if _ahead:
        stack, begun = _ahead
        begun[model_path] = stack.enter_context(_server(model_path))


@contextlib.contextmanager
def of_model(model_path: str) -> Iterator[ServerProcess]:
    """A server on a SavedModel, started now or ahead; whoever enters it waits until it answers.

    Args:
        model_path: folder of the SavedModel.
    """
    begun = _ahead[1].pop(model_path, None) if _ahead else None
    with contextlib.nullcontext(begun) if begun else _server(model_path) as server:
        yield server


@contextlib.contextmanager
def _server(model_path: str) -> Iterator[ServerProcess]:
    """A server that is starting on a model."""
    with tempfile.TemporaryDirectory(prefix="canary-") as folder:
        _place(model_path, os.path.join(folder, "1"))
        server = ServerProcess(MODEL, folder, options=("--max-num-load-retries", "0"))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _place(model_path: str, target: str) -> None:
    """Puts a model where the server looks for versions.

    That is a link, or a copy of one on another file system.
    """
    if "://" not in model_path:
        os.symlink(os.path.abspath(model_path), target)
        return
    from tfx.utils import io_utils

    io_utils.copy_dir(model_path, target)
