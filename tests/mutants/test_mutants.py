"""Mutants of the contract: each breaks one promise, and a test that holds it must notice.

Slow, and not about the code but about the tests: `make mutants` runs them, and CI.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("benchmarks", "components", "models", "pipeline", "schema", "serving", "tests")


class Mutant(NamedTuple):
    """One change of the code.

    Attributes:
        file: where.
        old: the text that is there, once.
        new: what takes its place; with an `old` of "" it takes the place of the file.
        tests: of which one must fail.
    """

    file: str
    old: str
    new: str
    tests: str


MUTANTS = {
    "cold entities are looked up as if train had them": Mutant(
        "models/inputs/token_layers.py",
        "tf.where(index < self.input_dim, index, unknown)",
        "index",
        "tests/models/test_bpr_mf.py -k only_the_tables",
    ),
    "mixed_precision is accepted and has no effect": Mutant(
        "models/training/trainer.py",
        '"mixed_bfloat16" if hyper_parameters.setting("mixed_precision") else "float32"',
        '"float32"',
        "tests/models/test_options.py -k mixed",
    ),
    "jit_compile is accepted and has no effect": Mutant(
        "models/training/loop.py",
        'jit_compile=hyper_parameters.setting("jit_compile")',
        "jit_compile=False",
        "tests/models/test_options.py -k jit",
    ),
    "lazy_adam is accepted and has no effect": Mutant(
        "models/training/loop.py",
        'lazy=hyper_parameters.setting("lazy_adam")',
        "lazy=False",
        "tests/models/test_options.py -k lazy",
    ),
    "the test file of a model is empty": Mutant(
        "tests/models/test_fm.py", "", "", "tests/models/test_contract.py -k fm"
    ),
    "a request's history takes the place of the stored one": Mutant(
        "models/contract/request_reader.py",
        "            return stored.followed_by(requested)",
        "            return requested",
        "tests/models/test_requests.py -k history",
    ),
    "a request's history comes before the stored one": Mutant(
        "models/contract/request_reader.py",
        "            return stored.followed_by(requested)",
        "            return requested.followed_by(stored)",
        "tests/models/test_requests.py -k history",
    ),
    "the state is carried from one session into the next": Mutant(
        "models/rnn/gru4rec.py",
        'tf.where(inputs["fresh"][:, tf.newaxis], 0.0, state)',
        "tf.identity(state)",
        "tests/models/test_gru4rec.py -k nothing_else",
    ),
    "a replica divides by its own rows": Mutant(
        "models/contract/recommender.py",
        "loss = tf.where(share > 0, share * loss, 0.0)",
        "loss = tf.where(share > 0, loss, 0.0)",
        "tests/models/test_training.py -k step_as_one",
    ),
}


def copied(folder: Path) -> Path:
    for name in ROOMS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, folder)
    return folder


def run_tests(folder: Path, tests: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, "-p", "no:xdist", "-m", "not slow", *tests.split(" ", 2)],
        capture_output=True,
        text=True,
        cwd=folder,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_does_not_survive(name, tmp_path):
    mutant = MUTANTS[name]
    file = copied(tmp_path) / mutant.file
    text = file.read_text("utf-8")
    if mutant.old:
        assert text.count(mutant.old) == 1, f"{mutant.file} has no longer: {mutant.old}"
        file.write_text(text.replace(mutant.old, mutant.new), "utf-8")
    else:
        file.write_text(mutant.new, "utf-8")
    done = run_tests(tmp_path, mutant.tests)
    assert done.returncode == 1, f"survived: {name}\n{done.stdout[-2000:]}{done.stderr[-500:]}"
    # It failed by a test, not because the tests could not even be collected.
    assert " failed" in done.stdout or " error" in done.stdout, done.stdout[-2000:]
