"""`make new-model` on a copy of the tree: what it writes is a model that differs by name alone."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    for name in ("models", "tools", "tests/models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run(tree, *arguments):
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments], capture_output=True, text=True, cwd=tree
    )


@pytest.mark.parametrize(
    "name, task, kind, begun",
    [("new_dae", "retrieve", "profile", "mult_dae"), ("new_lr", "score", "event", "lr")],
)
def test_a_new_model_is_the_nearest_one_under_its_name(tree, name, task, kind, begun):
    done = run(tree, "tools/new_model.py", name, "--task", task, "--kind", kind)
    assert done.returncode == 0 and f"begun from {begun}" in done.stdout, done.stderr
    line = (
        f"from models.names.registry import get; entry = get({name!r}); "
        "print(entry.task, entry.kind, entry.learns == get('" + begun + "').learns)"
    )
    assert run(tree, "-c", line).stdout == f"{task} {kind} True\n"
    (model,) = (tree / "models").rglob(f"{name}.py")
    (source,) = (tree / "models").rglob(f"{begun}.py")
    assert model.parent == source.parent
    title = "NewDae" if name == "new_dae" else "NewLr"
    assert model.read_text().rstrip().endswith(f"Model = {title}")
    # All but the docstring and the class' name.
    old = source.read_text().split('"""', 2)[2].rstrip().rsplit("Model = ", 1)[1]
    assert model.read_text().split('"""', 2)[2].replace(title, old).split() == (
        source.read_text().split('"""', 2)[2].split()
    )
    test = tree / f"tests/models/test_{name}.py"
    assert f'name = "{name}"' in test.read_text() and "pytest.fail(" in test.read_text()
    assert not run(tree, "-m", "ruff", "check", "--quiet", str(model), str(test)).returncode
    again = run(tree, "tools/new_model.py", name, "--task", task, "--kind", kind)
    assert again.returncode == 2 and "is registered already" in again.stderr


def test_a_kind_that_no_model_has_asks_for_one_to_begin_as(tree):
    done = run(tree, "tools/new_model.py", "ranker", "--task", "score", "--kind", "walk")
    assert done.returncode == 2 and "name FROM" in done.stderr
