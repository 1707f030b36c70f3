"""The servers under test.

By default the embedded server, in a process of its own. With TF_SERVING_TARGET=HOST:REST:GRPC and
TF_SERVING_MODELS=FOLDER the cases go to that server instead: see serving/README.md.
"""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest

from tests.serving.support import Laboratory, Target

_numbers = itertools.count()


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory):
    """Starts embedded servers with options of one's own; skips where a real server is tested."""
    if os.environ.get("TF_SERVING_TARGET"):
        pytest.skip("needs the embedded server, and TF_SERVING_TARGET names another")
    laboratory = Laboratory(tmp_path_factory.mktemp("serving"))
    yield laboratory
    laboratory.close()


@pytest.fixture(scope="session")
def target(request) -> Target:
    """The server under test, with every fixture model; `half` has the labels stable and canary."""
    address = os.environ.get("TF_SERVING_TARGET")
    if address:
        host, rest, grpc_port = address.rsplit(":", 2)
        target = Target(host, int(rest), int(grpc_port), Path(os.environ["TF_SERVING_MODELS"]))
    else:
        laboratory = request.getfixturevalue("laboratory")
        target = laboratory.start(
            monitoring_config_file=laboratory.models / "monitoring.config",
            file_system_poll_wait_seconds=0.1,
            max_num_load_retries=0,
        )
    target.reload()
    return target


@pytest.fixture
def start(laboratory):
    """A function that starts an embedded server for one test: `start(**options) -> Target`."""
    started = []

    def start(**options) -> Target:
        started.append(laboratory.start(**options))
        return started[-1]

    yield start
    for target in started:
        laboratory.stop(target)


@pytest.fixture
def scratch(target):
    """A function that makes an empty folder for a model of one's own: `scratch(name) -> Path`.

    The folder is called by the name and a number, since the server remembers the versions of every
    name it served. Afterwards the server has the fixture models only again.
    """
    made = []

    def scratch(name: str) -> Path:
        folder = target.models / "scratch" / f"{name}-{next(_numbers)}"
        folder.mkdir(parents=True)
        made.append(folder)
        return folder

    yield scratch
    target.reload()
    for folder in made:
        shutil.rmtree(folder)


@pytest.fixture
def copy_model(target):
    """A function that puts a fixture's version in place: `copy_model("half/123", folder)`."""

    def copy_model(version: str, folder: Path) -> None:
        partial = folder.parent / f".{folder.name}"
        shutil.copytree(target.models / version, partial)
        partial.rename(folder)

    return copy_model
