"""What a run says of its components while they work, out of TFX's own messages. Without TFX."""

import logging
import threading

from pipeline.local import _Progress


def heard(handler: _Progress, message: str) -> None:
    handler.emit(logging.LogRecord("tfx", logging.INFO, "", 0, message, None, None))


def test_a_component_that_takes_long_is_named_before_it_is_finished():
    lines, named = [], threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        named.set()

    handler = _Progress(say, patience_s=0.01)
    heard(handler, "Component Transform is running.")
    assert named.wait(10)
    heard(handler, "Component Transform is finished.")
    assert lines[0] == "  Transform ..." and lines[1].startswith("  Transform   ")
    assert len(lines) == 2


def test_one_that_is_quick_or_failed_is_not():
    lines: list[str] = []
    handler = _Progress(lines.append, patience_s=60)
    heard(handler, "Component Schema-items is running.")
    first = handler._waiting
    heard(handler, "A cached execution is used.")
    heard(handler, "Component Schema-items is finished.")
    assert first.finished.is_set() and lines == [f"  {'Schema-items':<26} cached"]
    heard(handler, "Component Transform is running.")
    handler.close()  # it failed: nobody is told that it goes on
    assert handler._waiting.finished.is_set() and len(lines) == 1
    heard(handler, "Component Trainer is running.")
    assert lines[1] == "  Trainer ..."
