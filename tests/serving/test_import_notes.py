"""What TensorFlow prints while it is imported, by a package that prints as it does."""

import os
import subprocess
import sys

import pytest

from tests.serving.support import ROOT

PACKAGE = """
import os
os.write(2, b"I0000 port.cc: a note of the build\\n")
"""
PROGRAM = """
import {first}
import importlib.util, os
assert importlib.util.find_spec("tensorflow")  # to ask whether it is there does not import it
import tensorflow
os.write(2, b"an error afterwards\\n")
"""


@pytest.mark.parametrize("first", ["serving", "serving.client.client", "pipeline.lineage"])
@pytest.mark.parametrize("level, notes", [(None, 0), ("3", 0), ("0", 1)])
def test_notes_are_printed_to_those_alone_who_ask_for_them(first, level, notes, tmp_path):
    (tmp_path / "tensorflow.py").write_text(PACKAGE)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    if level is not None:
        environment["TF_CPP_MIN_LOG_LEVEL"] = level
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(first=first)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.count("a note of the build") == notes
    assert done.stderr.endswith("an error afterwards\n")
