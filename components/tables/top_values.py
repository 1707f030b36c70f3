"""The most frequent values of columns of strings, and how many there are, as TFDV measures them.

TFDV's own generator makes every value of every batch an object of Python, which Beam then groups.
Here Arrow counts the values of a batch and adds counts up. A worker holds some million values; what
is more lies in files, cut into parts by a hash of the value, and is added up part by part.
"""

import contextlib
import heapq
import io
import itertools
import posixpath
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow_data_validation as tfdv
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindows
from tensorflow_data_validation.statistics.generators import basic_stats_generator
from tensorflow_data_validation.types import FeaturePath
from tensorflow_metadata.proto.v0 import statistics_pb2

from components.tables.hashing import shard_of
from components.tables.names import NO_TEXT

_TOP, _RANKS = 20, 1_000  # as TFDV has them by default
_WAITING = 1 << 20
"""Counts that are added up at once, at least."""
_HELD = 1 << 22
"""Values that a worker holds in memory, and as many that wait."""
_PARTS = 16


@contextlib.contextmanager
def options(folder: str) -> Iterator[tfdv.StatsOptions]:
    """What TFDV measures by default, but that values of strings are counted here.

    Args:
        folder: where files may lie meanwhile, in a folder of theirs.
    """
    counts = posixpath.join(folder, "counts")
    generators = [
        basic_stats_generator.BasicStatsGenerator(),
        tfdv.TransformStatsGenerator("TopValues", TopValues(counts)),
    ]
    try:
        yield tfdv.StatsOptions(add_default_generators=False, generators=generators)
    finally:
        if FileSystems.exists(counts):
            FileSystems.delete([counts])


class TopValues(beam.PTransform):
    """Batches -> `unique`, `top_values` and `rank_histogram` of their columns of strings.

    Of equal counts the value that is later in the order of bytes comes first, as TFDV has it. Every
    batch and every result is told with its slice.

    Args:
        folder: where files may lie.
    """

    def __init__(self, folder: str):
        super().__init__()
        self._folder = folder

    def expand(self, batches: beam.PCollection) -> beam.PCollection:
        return (
            batches
            | "Count" >> beam.ParDo(_Count(self._folder))
            | "Parts" >> beam.GroupByKey()
            | "Add" >> beam.MapTuple(lambda key, parts: (key[:2], _first(parts)))
            | "Columns" >> beam.GroupByKey()
            | "Tell" >> beam.MapTuple(_told)
        )


class _Counts:
    """How often each value of a column is there."""

    def __init__(self) -> None:
        self._values: list[pa.Array] = []
        self._times: list[np.ndarray] = []
        self._waiting = 0

    def add(self, values: pa.Array, times: np.ndarray) -> None:
        """Takes [N] large binary, different values, and [N] how often each of them is there."""
        self._values.append(values)
        self._times.append(times)
        self._waiting += len(values)
        # As many as are added up already: a value is moved a few times only.
        if self._waiting > max(_WAITING, len(self._values[0])):
            self.total()

    def total(self) -> tuple[pa.Array, np.ndarray]:
        """[N] large binary, every value once, and [N] int64 how often."""
        if len(self._values) > 1:
            value = pa.chunked_array(self._values).dictionary_encode().combine_chunks()
            times = np.bincount(value.indices, np.concatenate(self._times))
            self._values, self._times = [value.dictionary], [times.astype(np.int64)]
        self._waiting = 0
        return self._values[0], self._times[0]

    def __len__(self) -> int:
        return sum(map(len, self._values))


class _Part(NamedTuple):
    """Counts of some values: a table with `value` and `times`, or where such a one lies."""

    table: pa.Table | None
    path: str
    place: int

    def read(self) -> pa.Table:
        if self.table is not None:
            return self.table
        with FileSystems.open(self.path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.seek(self.place)
            return pa.ipc.open_stream(file).read_all()


class _Count(beam.DoFn):
    """Batches -> (slice, column, part) and the counts of the part."""

    def __init__(self, folder: str):
        self._folder = folder

    def start_bundle(self) -> None:
        self._held: dict[tuple[Any, str], _Counts] = defaultdict(_Counts)

    def process(self, element: tuple[Any, pa.RecordBatch]) -> Iterator[Any]:
        key, batch = element
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if not _is_text(column.type):
                continue
            values, times = pc.value_counts(column.flatten()).flatten()
            if len(values):
                # Large, since all values together may have more than 2 GB.
                self._held[key, name].add(values.cast(pa.large_binary()), times.to_numpy())
        if self._size() >= 2 * _HELD:  # with those that wait
            for counts in self._held.values():
                counts.total()
            if self._size() >= _HELD:
                yield from self._stored()
                self.start_bundle()

    def finish_bundle(self) -> Iterator[Any]:
        for key, table in self._parts():
            yield GlobalWindows.windowed_value((key, _Part(table, "", 0)))

    def _size(self) -> int:
        return sum(map(len, self._held.values()))

    def _parts(self) -> Iterator[tuple[tuple[Any, str, int], pa.Table]]:
        for (key, name), counts in self._held.items():
            values, times = counts.total()
            part = shard_of(values.to_numpy(zero_copy_only=False), _PARTS)
            order = np.argsort(part, kind="stable")
            ends = np.searchsorted(part[order], np.arange(_PARTS + 1)).tolist()
            for number, (begin, end) in enumerate(itertools.pairwise(ends)):
                if end > begin:
                    own = order[begin:end]  # a copy: a slice would be pickled as the whole
                    table = pa.table({"value": values.take(pa.array(own)), "times": times[own]})
                    yield (key, name, number), table

    def _stored(self) -> Iterator[Any]:
        """What is held, as it lies in a file then."""
        FileSystems.mkdirs(folder := posixpath.join(self._folder, uuid.uuid4().hex))
        path = posixpath.join(folder, "counts")
        with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            place = 0
            for key, table in self._parts():
                buffer = io.BytesIO()
                with pa.ipc.new_stream(buffer, table.schema) as writer:
                    writer.write_table(table)
                file.write(buffer.getbuffer())
                yield key, _Part(None, path, place)
                place += buffer.tell()


_First = tuple[int, list[tuple[int, bytes]]]
"""How many values there are, and how often each of the most frequent ones is there."""


def _first(parts: Iterable[_Part]) -> _First:
    """Adds up a part of a column."""
    counts = _Counts()
    for part in parts:
        table = part.read().combine_chunks()
        counts.add(table["value"].chunk(0), table["times"].to_numpy())
    values, times = counts.total()
    table = pa.table({"times": times, "value": values})
    order = [("times", "descending"), ("value", "descending")]
    first = table.take(pc.select_k_unstable(table, min(_RANKS, len(table)), order))
    return len(values), [(one["times"], one["value"]) for one in first.to_pylist()]


def _told(
    key: tuple[Any, str], parts: Iterable[_First]
) -> tuple[Any, statistics_pb2.DatasetFeatureStatistics]:
    """The statistics of a column, of its parts."""
    sizes, firsts = zip(*parts, strict=True)
    found = statistics_pb2.DatasetFeatureStatistics()
    feature = found.features.add()
    feature.path.CopyFrom(FeaturePath([key[1]]).to_proto())
    feature.string_stats.unique = sum(sizes)
    for rank, (times, value) in enumerate(heapq.nlargest(_RANKS, itertools.chain(*firsts))):
        label = _decoded(value)
        if rank < _TOP:
            feature.string_stats.top_values.add(value=label, frequency=times)
        feature.string_stats.rank_histogram.buckets.add(
            low_rank=rank, high_rank=rank, sample_count=times, label=label
        )
    return key[0], found


def _is_text(kind: pa.DataType) -> bool:
    """Whether a column is of lists of strings."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    texts = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string)
    return any(is_one(kind.value_type) for is_one in (*texts, pa.types.is_large_string))


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return NO_TEXT
