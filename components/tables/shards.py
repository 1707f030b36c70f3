"""Rows brought together by the hash of an id, through files.

What Beam moves and groups is where the rows lie, not the rows: a runner that shuffles in memory, as
Beam's in-process one does, then holds a batch or a shard at a time and never the whole log.
"""

import pickle
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from components.tables import records
from components.tables.columns import concatenated
from components.tables.hashing import shard_of

# About how many rows one worker holds at a time.
ROWS_A_SHARD = 500_000
_CODEC = "lz4"


@dataclass(frozen=True)
class Kept:
    """Where a value lies.

    Attributes:
        path: of the file.
        start: the value's first byte in it.
        size: bytes that it takes there.
        unpacked: bytes that it takes when they are no longer compressed.
    """

    path: str
    start: int
    size: int
    unpacked: int

    def read(self) -> Any:
        """The value."""
        with FileSystems.open(self.path, compression_type="uncompressed") as file:
            file.seek(self.start)
            data = file.read(self.size)
        return pickle.loads(pa.decompress(data, self.unpacked, _CODEC))


def keep(values: Iterable[tuple[int, Any]], folder: str) -> Iterator[tuple[int, Kept]]:
    """Writes values to one file below `folder`, which `records.remove_staging` takes away.

    Args:
        values: of each shard, by its number.
        folder: of the artifact that is being written.

    Yields:
        The number of each shard and where its value lies, once all of them do.
    """
    path, end, kept = records.staging_path(folder, f"shards-{uuid.uuid4().hex}"), 0, []
    with FileSystems.create(path, compression_type="uncompressed") as file:
        for number, value in values:
            data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
            packed = pa.compress(data, _CODEC, asbytes=True)
            file.write(packed)
            kept.append((number, Kept(path, end, len(packed), len(data))))
            end += len(packed)
    yield from kept


class Shard(beam.PTransform):
    """Batches -> the number of a shard and where a batch's part of it lies.

    Args:
        shards: how many.
        folder: see `keep`.
        key: the column of ids that says which shard a row belongs to.
    """

    def __init__(self, shards: int, folder: str, key: str = "user_id"):
        super().__init__()
        self._shards, self._folder, self._key = shards, folder, key

    def expand(self, batches):
        shards, folder, key = self._shards, self._folder, self._key
        return batches | beam.FlatMap(lambda table: keep(_partition(table, shards, key), folder))


def gather(parts: Iterable[Kept], columns: Mapping[str, str]) -> pa.Table:
    """The rows of a shard, in no order; see `concatenated`."""
    return concatenated([part.read() for part in parts], columns)


def _partition(table: pa.Table, shards: int, key: str) -> Iterator[tuple[int, pa.Table]]:
    if shards == 1:
        yield 0, table
        return
    shard = shard_of(table.column(key).to_numpy(), shards)
    order = np.argsort(shard, kind="stable")
    bounds = np.searchsorted(shard[order], np.arange(shards + 1))
    table = table.take(pa.array(order))
    for number in np.flatnonzero(np.diff(bounds)):
        # A copy: a slice would take the whole batch along when it is written.
        part = table.slice(bounds[number], bounds[number + 1] - bounds[number])
        yield int(number), part.take(pa.array(np.arange(part.num_rows)))


class ReadBatches(beam.PTransform):
    """The rows of a table's files, in batches.

    Args:
        files: gzip TFRecords.
        columns: column -> kind.
    """

    def __init__(self, files: list[str], columns: Mapping[str, str]):
        super().__init__()
        self._files, self._columns = files, dict(columns)

    def expand(self, pipeline):
        columns = self._columns
        return (
            pipeline
            | beam.Create(self._files)
            | beam.Reshuffle()
            | "Decode" >> beam.FlatMap(lambda path: records.read_batches(path, columns))
        )
