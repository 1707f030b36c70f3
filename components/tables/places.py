"""Folders and files wherever they lie: on this machine's disks, or under s3://, gs:// or hdfs://.

Object stores are read and written through Arrow's file systems. Credentials come from where their
own tools take them and from nowhere else: the environment, the user's profile, or the role of the
machine. A store of another maker than Amazon is named as its tools name it, by AWS_ENDPOINT_URL_S3
or AWS_ENDPOINT_URL.
"""

import contextlib
import fnmatch
import functools
import io
import os
import shutil
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from models.names.errors import ConfigError, DataError

SCHEMES = ("s3", "gs", "hdfs")
_COPIED_AT_ONCE = 8
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of the machine",
    "gs": "Google's application default credentials (gcloud auth application-default login)",
    "hdfs": "JAVA_HOME, HADOOP_HOME and CLASSPATH (hadoop classpath --glob)",
}

Found = TypeVar("Found")


@dataclass(frozen=True)
class Status:
    """Of a file: its size in bytes, and when it was changed, in nanoseconds since 1970."""

    st_size: int
    st_mtime_ns: int


@functools.total_ordering
class Remote:
    """A file or a folder of an object store, with as much of `pathlib.Path` as is used here.

    Args:
        scheme: of `SCHEMES`.
        path: the bucket (of HDFS: host and port) and what is in it.
        info: what a listing said of it; None to ask the store.

    Raises:
        DataError: of every method that asks the store: it cannot be reached, or refuses.
    """

    def __init__(self, scheme: str, path: PurePosixPath, info: Any = None):
        self.scheme, self._path, self._listed_as = scheme, path, info

    @property
    def name(self) -> str:
        """The last part."""
        return self._path.name

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """The end of the last part, from its last dot on."""
        return self._path.suffix

    @property
    def parent(self) -> "Remote":
        """The folder that it is in."""
        return Remote(self.scheme, self._path.parent)

    def __truediv__(self, name: object) -> "Remote":
        return Remote(self.scheme, self._path / str(name))

    def __str__(self) -> str:
        return f"{self.scheme}://{self._path}"

    __fspath__ = None  # no path of this machine

    def __repr__(self) -> str:
        return f"Remote({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and str(self) == str(other)

    def __lt__(self, other: "Remote") -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def relative_to(self, folder: "Remote") -> PurePosixPath:
        """What comes after a folder that it is in."""
        return self._path.relative_to(folder._path)

    def absolute(self) -> "Remote":
        """Itself."""
        return self

    def is_file(self) -> bool:
        """Whether there is such a file."""
        return bool(self._info().is_file)

    def is_dir(self) -> bool:
        """Whether anything lies below."""
        return self._info().type.name == "Directory"

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        return self._info().type.name != "NotFound"

    def stat(self) -> Status:
        """Its size and time of change."""
        info = self._info()
        return Status(info.size or 0, info.mtime_ns or 0)

    def iterdir(self) -> Iterator["Remote"]:
        """The files and folders in a folder."""
        yield from self._listed(recursive=False)

    def rglob(self, pattern: str) -> Iterator["Remote"]:
        """The files and folders below a folder whose names are of a pattern."""
        yield from (
            one for one in self._listed(recursive=True) if fnmatch.fnmatchcase(one.name, pattern)
        )

    def glob(self, pattern: str) -> Iterator["Remote"]:
        """The files and folders in a folder of a pattern, whose parts are of one folder each."""
        first, _, rest = pattern.partition("/")
        for one in self.iterdir() if self.is_dir() else ():
            if fnmatch.fnmatchcase(one.name, first):
                yield from one.glob(rest) if rest else (one,)

    def read_text(self, encoding: str = "utf-8") -> str:
        """The text of a small file."""
        return self.read_bytes().decode(encoding)

    def read_bytes(self) -> bytes:
        """All of a small file."""
        with self.open() as stream:
            return stream.read()

    def open(self, buffering: int = 1 << 16) -> io.BufferedReader:
        """Opens a file to read its bytes; a read of more than the buffer is one request."""
        return io.BufferedReader(_Ranges(self.arrow_file()), buffering)

    def arrow_file(self) -> Any:
        """Opens a file as Arrow does, to read any range of it."""
        return self._asked(lambda: self.system.open_input_file(self.key))

    def unpacked(self, compression: str) -> Any:
        """Opens a compressed file as Arrow does, to read it from its start."""
        return self._asked(lambda: self.system.open_input_stream(self.key, compression))

    def write(self) -> Any:
        """Opens a file to write its bytes as they are; it is there once it is closed."""
        return self._asked(lambda: self.system.open_output_stream(self.key, None))

    def move(self, target: "Remote") -> None:
        """Gives a file another name: on an object store, a copy and a removal."""
        self._asked(lambda: self.system.move(self.key, target.key))

    def remove(self) -> None:
        """Takes away a folder with all below, or a file; nothing where there is none."""
        if self.is_file():
            self._asked(lambda: self.system.delete_file(self.key))
        elif self.is_dir():
            self._asked(lambda: self.system.delete_dir(self.key))

    @property
    def system(self) -> Any:
        """Arrow's file system of the store."""
        return _file_system(self.scheme, self._path.parts[0])

    @property
    def key(self) -> str:
        """Its path in that file system."""
        return str(
            self._path
            if self.scheme != "hdfs"
            else "/" / self._path.relative_to(self._path.parts[0])
        )

    def _info(self) -> Any:
        if self._listed_as is not None:
            return self._listed_as
        return self._asked(lambda: self.system.get_file_info(self.key))

    def _listed(self, recursive: bool) -> list["Remote"]:
        from pyarrow import fs

        selector = fs.FileSelector(self.key, recursive=recursive)
        found = self._asked(lambda: self.system.get_file_info(selector))
        folder = PurePosixPath(self.key)
        return sorted(
            Remote(self.scheme, self._path / PurePosixPath(one.path).relative_to(folder), one)
            for one in found
        )

    def _asked(self, ask: Callable[[], Found]) -> Found:
        try:
            return ask()
        except FileNotFoundError:
            raise DataError(f"{self} is missing") from None
        except OSError as error:
            raise DataError(
                f"{self}: {str(error).splitlines()[0]}. Credentials are taken from "
                f"{_CREDENTIALS[self.scheme]}"
            ) from error


Place = Path | Remote


def place(text: "str | Place") -> Place:
    """What a path or a URI names.

    Raises:
        ConfigError: a URI of another scheme, or without a bucket.
    """
    if not isinstance(text, str):
        return text
    scheme, found, rest = text.partition("://")
    if not found:
        return Path(text)
    path = PurePosixPath(rest.strip("/"))
    if scheme not in SCHEMES or not path.parts:
        raise ConfigError(
            "required: a path, or a URI such as s3://bucket/folder, gs:// or hdfs://host:port/; "
            f"received {text}"
        )
    return Remote(scheme, path)


def is_remote(text: str) -> bool:
    """Whether a text is a URI and no path."""
    return "://" in text


def open_binary(path: "str | Place", buffering: int = 1 << 16) -> io.BufferedReader:
    """Opens a file wherever it lies, to read its bytes."""
    found = place(path)
    return found.open(buffering) if isinstance(found, Remote) else open(found, "rb", buffering)


def upload(folder: Path, target: Remote, last: str) -> None:
    """Copies a folder and what is below it, the file `last` when all others are there.

    An object store has no folder to rename, so what a reader waits for has to come last. What was
    copied is taken away again where that does not end well.

    Raises:
        DataError: the store cannot be written.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    ends = [file for file in files if file.relative_to(folder) == Path(last)]

    def copy(file: Path) -> None:
        with open(file, "rb") as source, (target / file.relative_to(folder)).write() as sink:
            shutil.copyfileobj(source, sink, 1 << 22)

    try:
        with ThreadPoolExecutor(_COPIED_AT_ONCE) as pool:
            list(pool.map(copy, [file for file in files if file not in ends]))
        for file in ends:
            copy(file)
    except OSError as error:
        target.remove()
        raise DataError(f"{target} cannot be written: {str(error).splitlines()[0]}") from error
    except BaseException:
        target.remove()
        raise


@contextlib.contextmanager
def fetched(path: str, below: Path) -> Iterator[str]:
    """A folder as one of this machine: itself, or a copy that is there for as long as it is used.

    Args:
        path: of this machine, or a URI.
        below: a folder that copies may lie in.

    Yields:
        A path whose last part is that of `path`.
    """
    source = place(path)
    if not isinstance(source, Remote):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix=".fetched-", dir=below) as folder:
        target = Path(folder) / source.name

        def copy(file: Remote) -> None:
            to = target / file.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            with file.open() as stream, open(to, "wb") as sink:
                shutil.copyfileobj(stream, sink, 1 << 22)

        with ThreadPoolExecutor(_COPIED_AT_ONCE) as pool:
            list(pool.map(copy, [file for file in source.rglob("*") if file.is_file()]))
        yield str(target)


class _Ranges(io.RawIOBase):
    """A file of Arrow's as one of Python's."""

    def __init__(self, file: Any):
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._file.seek(offset, whence)
        return int(self._file.tell())

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@functools.lru_cache(maxsize=32)
def _file_system(scheme: str, bucket: str) -> Any:
    from pyarrow import fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    try:
        if scheme == "s3" and endpoint:
            url = urllib.parse.urlparse(endpoint)
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
            return fs.S3FileSystem(
                scheme=url.scheme, endpoint_override=url.netloc, region=region or "us-east-1"
            )
        return fs.FileSystem.from_uri(f"{scheme}://{bucket}/")[0]
    except (OSError, ValueError) as error:  # no such bucket, no libhdfs
        raise DataError(
            f"{scheme}://{bucket}: {str(error).splitlines()[0]}. Credentials are taken from "
            f"{_CREDENTIALS[scheme]}"
        ) from error
