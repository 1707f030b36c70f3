"""What setup.py, the locks' sources and the files as a whole must keep to."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("components", "models", "pipeline", "schema", "serving")
# An environment installs these by hand or not at all: the locks leave them out.
BY_HAND = {"gpu", "ann", "redis"}


def declared(lines, python: str) -> set[str]:
    """The names that requirements have under a version of Python."""
    found = map(Requirement, lines)
    return {
        each.name.lower()
        for each in found
        if each.marker is None or each.marker.evaluate({"python_version": python})
    }


@pytest.mark.parametrize("lane, python", [("portable", "3.10"), ("current", "3.12")])
def test_setup_declares_what_a_lane_is_compiled_of(lane, python, monkeypatch):
    """Names alone: the bounds of setup.py are looser than the pins of a lane."""
    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    runpy.run_path(str(ROOT / "setup.py"))
    groups = [given["install_requires"]]
    groups += [group for name, group in given["extras_require"].items() if name not in BY_HAND]
    compiled = [
        line
        for file in (f"{lane}.in", "tools.in")
        for line in (ROOT / "requirements" / file).read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    # To build with, as pyproject.toml says: setup.py cannot require it.
    assert declared(compiled, python) - {"wheel"} == set().union(
        *(declared(group, python) for group in groups)
    )


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The project's files as setuptools reads them, in a folder that may be written to."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in TOPS:
        (folder / name).symlink_to(ROOT / name)
    return folder


def python(code: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "command",
    [
        "from setuptools import build_meta; build_meta.build_wheel('dist')",
        "from setuptools import build_meta; build_meta.build_sdist('dist')",
        "import sys, runpy; sys.argv[1:] = ['build']; runpy.run_path('setup.py')",
        # Were it to run, it would leave this environment alone.
        "import sys, runpy; sys.argv[1:] = ['install', '--root', 'installed']; "
        "runpy.run_path('setup.py')",
    ],
    ids=["wheel", "sdist", "build", "install"],
)
def test_no_distribution_is_made(command, clone):
    ended = python(command, clone)
    assert ended.returncode != 0
    assert "recsys-tfx is cloned, not published" in ended.stderr
    assert not [*clone.glob("dist/*"), *clone.glob("build/*"), *clone.glob("installed")]


def test_a_clone_is_installed_editable(clone):
    """What `make venv` asks setuptools for."""
    ended = python("from setuptools import build_meta; build_meta.build_editable('.')", clone)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert [path.name for path in clone.glob("*.whl")] == [
        "recsys_tfx-0.1.0-0.editable-py3-none-any.whl"
    ]


MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:home|root|Users|work)/[\w.-]+|[A-Z]:\\Users\\")
GENERATED = {"__pycache__", "runs", "build", "dist"}


def files(folder: Path) -> list[Path]:
    """The files beneath a folder, without generated ones and without hidden folders but .ci."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name not in GENERATED and (path.name == ".ci" or path.name[0] != "."):
                found += files(path)
        elif path.name != ".git":
            found.append(path)
    return found


def test_the_sources_hold_no_path_of_a_machine():
    found = []
    for path in files(ROOT):
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            if MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found


@pytest.mark.parametrize(
    "line, is_one",
    [
        ("data: " + "/home" + "/anna/shop", True),
        ("'" + "/Users" + "/anna/shop'", True),
        ("/mnt/data/events", False),
        ("https://example.org/home/index.html", False),
    ],
)
def test_a_path_of_a_machine_is_told_from_others(line, is_one):
    assert bool(MACHINE_PATH.search(line)) is is_one


def test_google_does_not_tell_users_that_their_python_or_grpc_is_old():
    """Those of the `portable` lane are; Beam and TFX import what warns."""
    program = "import models, google.api_core, google.auth.transport.grpc"
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "FutureWarning" not in done.stderr


@pytest.mark.parametrize(
    "glibc, versions, expected",
    [
        ("2.41", ("3.10", "3.13"), "current python3.13"),
        ("2.41", ("3.10", "3.12"), "current python3.12"),
        ("2.39", ("3.12", "3.13"), "current python3.13"),
        ("2.36", ("3.10", "3.13"), "portable python3.10"),  # TFX 1.21 has no wheel for it
        ("2.41", ("3.10",), "portable python3.10"),
    ],
)
def test_the_current_lane_is_taken_where_it_runs(tmp_path, glibc, versions, expected):
    """Pythons that say their version, and a C library that does."""
    answers = {f"python{version}": version for version in versions}
    for name, answer in {**answers, "getconf": f"glibc {glibc}"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\necho {answer}\n")
        (tmp_path / name).chmod(0o755)
    for tool in ("bash", "cut", "sort", "head", "env", "cat"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    found = subprocess.run(
        [ROOT / "requirements" / "find_python"],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    lane, name = expected.split()
    assert found.stdout.split() == [lane, str(tmp_path / name)]
