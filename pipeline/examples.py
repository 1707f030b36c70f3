"""Built examples and tables read row by row, for people to look at.

Light: neither TensorFlow nor Beam.
"""

import gzip
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4
_TITLES = ("title", "name")


def read_rows(folder: str | Path) -> Iterator[dict[str, list]]:
    """Yields the rows of a split's folder.

    A row is column -> list of its values, bytes, int or float; none where it is missing.
    """
    for serialized in read_serialized(folder):
        yield parse(serialized)


def read_serialized(folder: str | Path) -> Iterator[bytes]:
    """Yields the rows of a split's folder as they lie there, each a serialized tf.Example."""
    for path in sorted(Path(folder).glob("*.gz")):
        with gzip.open(path) as file:
            while header := file.read(_HEADER.size):
                (length, _) = _HEADER.unpack(header)
                yield file.read(length + _FOOTER_BYTES)[:length]


def parse(serialized: bytes) -> dict[str, list]:
    """A serialized tf.Example as `read_rows` yields it."""
    from serving.wire.protos import Example

    return {
        name: list(getattr(feature, feature.WhichOneof("kind")).value)
        if feature.WhichOneof("kind")
        else []
        for name, feature in Example.FromString(serialized).features.feature.items()
    }


def titles(items_uri: str | Path | None, wanted: Collection[str]) -> dict[str, str]:
    """Item id -> its title or name in the items table.

    It holds those of the wanted ids that have one.
    """
    found: dict[str, str] = {}
    if items_uri is None:
        return found
    left = set(wanted)
    for row in read_rows(Path(items_uri) / "Split-all"):
        identity = text(row["item_id"][0])
        value: list[Any] = next((row[name] for name in _TITLES if row.get(name)), [])
        if identity in left and value:
            found[identity] = text(value[0])
            left.discard(identity)
            if not left:
                break
    return found


def text(value: bytes | str) -> str:
    """An id or a title as it is shown; bytes that are no UTF-8 are kept, escaped."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
