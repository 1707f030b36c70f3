"""What has been blessed and pushed, kept beside the pushed versions: the ledger.

    DESTINATION/1764340000/                the version that servers load
    DESTINATION/.blessed/1764340000.json   its entry
    DESTINATION/.blessed/1764340000/       the model that was measured, where another was pushed

TensorFlow Serving takes folders whose names are numbers for versions and passes over all others.
Every push adds a file of its own: nothing is read, changed and written back. An entry counts while
its version and the model that was measured are there: removing a version's folder takes it back.

A version of an older kit has no entry. Its model carries its training's log, which is what an entry
is made of where it has none.
"""

import contextlib
import dataclasses
import datetime
import json
import posixpath
import shutil
import time
from collections.abc import Iterator
from typing import Any

from pyarrow import fs

from components.tables.places import Remote, place, upload
from models.names.errors import ConfigError

FOLDER = ".blessed"
TRAINING_LOG = "assets.extra/training.json"
_MODEL = "saved_model.pb"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A blessed model.

    Attributes:
        version: the number under which it was pushed.
        fingerprint: of its training; None where it is not known.
        measured: folder of the model that the gate measured, below the destination.
        model: the artifact of that model, as the step that pushed it found it; None where it is not
            known.
        metrics: its overall means on the test rows; empty where they are not known.
        time: of the push, ISO 8601 in UTC; None where it is not known.
    """

    version: int
    fingerprint: str | None
    measured: str
    model: str | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    time: str | None = None


def entries(destination: str) -> Iterator[Entry]:
    """The entries of a destination that count, newest first; none where it does not exist.

    Args:
        destination: an absolute path, or a URI (s3://, gs://).
    """
    place = _Place(destination)
    for version in sorted(place.versions(), reverse=True):
        entry = None
        if recorded := place.read(f"{FOLDER}/{version}.json"):
            entry = Entry(**json.loads(recorded))
        elif log := place.read(f"{version}/{TRAINING_LOG}"):
            told = json.loads(log)
            # Of one that was fitted again on everything, the measured model is not to be had.
            if not told.get("refit"):
                entry = Entry(version, told.get("fingerprint"), str(version))
        if entry and place.exists(f"{version}/{_MODEL}", f"{entry.measured}/{_MODEL}"):
            yield entry


def last_blessed(destination: str, other_than: str | None = None) -> Entry | None:
    """The newest entry; None where there is none.

    Args:
        destination: as of `entries`.
        other_than: fingerprint of a training that is passed over: or else an unchanged run would
            compare its own model with itself, in place of being served from the cache.
    """
    found = entries(destination)
    return next((one for one in found if not other_than or one.fingerprint != other_than), None)


def push(
    model: str,
    destination: str,
    *,
    measured: str | None = None,
    artifact: str | None = None,
    metrics: dict[str, float] | None = None,
) -> Entry:
    """Makes a model the next version of a destination.

    Its entry is there before the version is whole, and `saved_model.pb`, which servers wait for, is
    the last file of it: what is cut off in between is neither served nor compared with.

    Args:
        model: folder of the SavedModel.
        destination: as of `entries`.
        measured: folder of the model that the gate measured; None where it is `model`.
        artifact: as of `Entry.model`.
        metrics: as of `Entry`.
    """
    place, now = _Place(destination), datetime.datetime.now(datetime.timezone.utc)
    version = max(int(time.time()), *(taken + 1 for taken in place.versions()), 0)
    log = _Place(measured or model).read(TRAINING_LOG)
    entry = Entry(
        version,
        json.loads(log).get("fingerprint") if log else None,
        f"{FOLDER}/{version}" if measured else str(version),
        artifact,
        metrics or {},
        now.isoformat(timespec="seconds"),
    )
    if measured:
        place.copy_from(_Place(measured), entry.measured)
    text = json.dumps(dataclasses.asdict(entry), indent=1) + "\n"
    place.write(f"{FOLDER}/{version}.json", text.encode())
    place.copy_from(_Place(model), str(version))
    return entry


def copy_measured(entry: Entry, destination: str, target: str) -> None:
    """Copies the model of an entry into a new folder of this machine."""
    _Place(target).copy_from(_Place(posixpath.join(destination, entry.measured)), "")


def holds_model(folder: str) -> bool:
    """Whether a folder holds a SavedModel."""
    return _Place(folder).exists(_MODEL)


class _Place:
    """A folder of this machine or of an object store, read and written through Arrow.

    Args:
        name: an absolute path or a URI.

    Raises:
        ConfigError: Arrow knows no file system of that name.
    """

    def __init__(self, name: str):
        self.found = place(name)
        if isinstance(self.found, Remote):
            self.files, self.root = self.found.system, self.found.key
        else:
            if not self.found.is_absolute():
                raise ConfigError(
                    "required: an absolute path, or a URI such as s3://bucket/models; received "
                    f"{name!r}"
                )
            self.files, self.root = fs.LocalFileSystem(), name

    def path(self, name: str) -> str:
        return posixpath.join(self.root, name).rstrip("/")

    def versions(self) -> list[int]:
        selector = fs.FileSelector(self.root, allow_not_found=True)
        names = (one.base_name for one in self.files.get_file_info(selector))
        return [int(name) for name in names if name.isascii() and name.isdigit()]

    def exists(self, *names: str) -> bool:
        found = self.files.get_file_info([self.path(name) for name in names])
        return all(one.type == fs.FileType.File for one in found)

    def read(self, name: str) -> bytes | None:
        if not self.exists(name):
            return None
        with self.files.open_input_stream(self.path(name), compression=None) as file:
            return file.read()

    def write(self, name: str, contents: bytes) -> None:
        """Writes a small file whole or not at all."""
        with self._written_whole(self.path(name)) as file:
            file.write(contents)

    def copy_from(self, source: "_Place", name: str) -> None:
        """Copies all files of a folder, `saved_model.pb` last."""
        if isinstance(self.found, Remote) and not isinstance(source.found, Remote):
            upload(source.found, self.found / name, _MODEL)
            return
        selector = fs.FileSelector(source.root, recursive=True)
        found = [one.path for one in source.files.get_file_info(selector) if one.is_file]
        for path in sorted(found, key=lambda path: (posixpath.basename(path) == _MODEL, path)):
            target = self.path(posixpath.join(name, posixpath.relpath(path, source.root)))
            with (
                source.files.open_input_stream(path, compression=None) as old,
                self._written_whole(target) as new,
            ):
                shutil.copyfileobj(old, new, 1 << 24)

    @contextlib.contextmanager
    def _written_whole(self, path: str) -> Iterator[Any]:
        """A store shows a file when it is whole; on a disk it gets its name then."""
        local = isinstance(self.files, fs.LocalFileSystem)
        part = f"{path}.part" if local else path
        if local:  # a store has no folders, only names with strokes
            self.files.create_dir(posixpath.dirname(path))
        with self.files.open_output_stream(part, compression=None) as file:
            yield file
        if local:
            self.files.move(part, path)


def describe(entry: Entry | None) -> dict[str, Any] | None:
    """An entry as JSON holds it; None for none."""
    return dataclasses.asdict(entry) if entry else None
