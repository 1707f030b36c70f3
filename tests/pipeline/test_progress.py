"""What a run says of its components while they work, out of TFX's own messages. Without TFX."""

import gc
import logging
import os
import threading
import weakref
from pathlib import Path

import pytest

from models.names import memory
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


def test_what_a_component_has_to_say_stands_below_its_line():
    lines: list[str] = []
    handler = _Progress(lines.append, patience_s=60)
    heard(handler, "Component TableCheck-refit is running.")
    heard(handler, "StatisticsGen: of another")
    for number in range(7):
        heard(handler, f"TableCheck: note {number}")
    heard(handler, "Component TableCheck-refit is finished.")
    assert lines[0].startswith("  TableCheck-refit ")
    assert lines[1:] == [f"    note {number}" for number in range(5)] + [
        "    and 2 more, in the report"
    ]
    heard(handler, "Component Transform is running.")
    heard(handler, "Component Transform is finished.")
    assert len(lines) == 8  # what was told is told once


def resident() -> int:
    """Bytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to ask")
def test_what_a_component_has_freed_is_given_back():
    """200 MB below a piece that lives, which keeps the heap from shrinking by itself."""
    handler = _Progress(lambda _: None, patience_s=0)
    heard(handler, "Component Transform is running.")
    pieces = [b"x" * 100_000 for _ in range(2_000)]
    lives, held = pieces.pop(), resident()
    del pieces
    freed = resident()
    heard(handler, "Component Transform is finished.")
    assert held - freed < 100e6 < held - resident()
    assert len(lives) == 100_000


def test_garbage_is_collected_unless_somebody_has_turned_it_off():
    class Circle:
        def __init__(self):
            self.itself = self

    was = gc.isenabled()
    try:
        for enabled in (False, True):
            garbage = weakref.ref(Circle())
            (gc.enable if enabled else gc.disable)()
            memory.give_back()
            assert (garbage() is None) == enabled
    finally:
        (gc.enable if was else gc.disable)()
