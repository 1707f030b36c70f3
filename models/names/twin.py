"""The columnar twin of a file of examples: the same rows as Parquet, for our own readers.

TFX's components read the gzip TFRecords, which are what counts. The twin is written with them, of
the same rows, and says which file it is of: its size, and the checksum and length of its content,
with which a gzip stream ends. One that says otherwise is none, and the examples are read.

    <artifact>/Split-train/data_tfrecord-00000.gz
    <artifact>/Columns-train/data_tfrecord-00000.parquet
"""

import contextlib
import posixpath
from collections.abc import Iterator

import pyarrow as pa

from models.names.errors import DataError

TAIL = 8
"""Bytes at the end of a gzip stream: CRC-32 and length of its content."""
_KEY = b"recsys.twin_of"
SPLIT, COLUMNS = "Split-", "Columns-"


def path_of(examples: str) -> str | None:
    """Where the twin of a file of examples lies; None of a file that is in no split's folder."""
    folder, name = posixpath.split(examples)
    parent, split = posixpath.split(folder)
    if not split.startswith(SPLIT):
        return None
    # Never in the split's folder: TFX takes every file there for examples.
    split = COLUMNS + split.removeprefix(SPLIT)
    return posixpath.join(parent, split, name.removesuffix(".gz") + ".parquet")


def metadata(size: int, tail: bytes) -> dict[bytes, bytes]:
    """What a twin's footer says of the file that it is of: its bytes, and the last `TAIL` ones."""
    return {_KEY: b"%d %s" % (size, tail.hex().encode())}


def is_of(found: dict[bytes, bytes] | None, size: int, tail: bytes) -> bool:
    """Whether a footer's metadata says so."""
    return (found or {}).get(_KEY) == metadata(size, tail)[_KEY]


@contextlib.contextmanager
def damage(path: str) -> Iterator[None]:
    """What Arrow cannot read of a twin is an error that names it.

    Raises:
        DataError: instead of Arrow's.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is damaged: {str(error).splitlines()[0]}; required: the file as it was "
            "written. Without it the rows beside it are read"
        ) from error
