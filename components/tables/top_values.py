"""The most frequent values of columns of strings, and how many there are, as TFDV measures them.

TFDV's own generator makes every value of every batch an object of Python, which Beam then groups.
Here Arrow counts the values of a batch, and adds counts up.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow_data_validation as tfdv
from tensorflow_data_validation.statistics.generators import basic_stats_generator
from tensorflow_data_validation.types import FeaturePath
from tensorflow_metadata.proto.v0 import statistics_pb2

_TOP, _RANKS = 20, 1_000  # as TFDV has them by default
_NO_TEXT = "__BYTES_VALUE__"  # likewise
_WAITING = 1 << 20
"""Counts that are added up at once, at least."""


def options() -> tfdv.StatsOptions:
    """What TFDV measures by default, but that values of strings are counted here."""
    generators = [basic_stats_generator.BasicStatsGenerator(), TopValues()]
    return tfdv.StatsOptions(add_default_generators=False, generators=generators)


class _Counts:
    """How often each value of a column is there."""

    def __init__(self) -> None:
        self._values: list[pa.Array] = []
        self._counts: list[np.ndarray] = []
        self._waiting = 0

    def add(self, values: pa.Array, counts: np.ndarray) -> None:
        """Takes [N] different values and how often each of them is there."""
        self._values.append(values)
        self._counts.append(counts)
        self._waiting += len(values)
        # As many as are added up already: a value is moved a few times only.
        if self._waiting > max(_WAITING, len(self._values[0])):
            self.total()

    def total(self) -> tuple[pa.Array, np.ndarray]:
        """[N] large binary, every value once, and [N] int64 how often."""
        if len(self._values) > 1:
            value = pa.chunked_array(self._values).dictionary_encode().combine_chunks()
            times = np.bincount(value.indices, np.concatenate(self._counts))
            self._values, self._counts = [value.dictionary], [times.astype(np.int64)]
            self._waiting = 0
        return self._values[0], self._counts[0]


_Columns = dict[str, _Counts]


class TopValues(tfdv.CombinerStatsGenerator):
    """`unique`, `top_values` and `rank_histogram` of columns of strings.

    Of equal counts the value that is later in the order of bytes comes first, as TFDV has it.
    """

    def __init__(self) -> None:
        super().__init__("TopValues")

    def create_accumulator(self) -> _Columns:
        return {}

    def add_input(self, accumulator: _Columns, batch: pa.RecordBatch) -> _Columns:
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            lists = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
            if not lists or not _is_text(column.type.value_type):
                continue
            values, counts = pc.value_counts(column.flatten()).flatten()
            if len(values):
                # Large, since all values together may have more than 2 GB.
                large = values.cast(pa.large_binary())
                accumulator.setdefault(name, _Counts()).add(large, counts.to_numpy())
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Columns]) -> _Columns:
        merged: _Columns = {}
        for accumulator in accumulators:
            for name, counts in accumulator.items():
                merged.setdefault(name, _Counts()).add(*counts.total())
        return merged

    def compact(self, accumulator: _Columns) -> _Columns:
        for counts in accumulator.values():
            counts.total()
        return accumulator

    def extract_output(self, accumulator: _Columns) -> statistics_pb2.DatasetFeatureStatistics:
        found = statistics_pb2.DatasetFeatureStatistics()
        for name, counts in accumulator.items():
            values, times = counts.total()
            feature = found.features.add()
            feature.path.CopyFrom(FeaturePath([name]).to_proto())
            feature.string_stats.unique = len(values)
            table = pa.table({"value": values, "times": times})
            order = [("times", "descending"), ("value", "descending")]
            first = table.take(pc.select_k_unstable(table, min(_RANKS, len(table)), order))
            for rank, one in enumerate(first.to_pylist()):
                label = _decoded(one["value"])
                if rank < _TOP:
                    feature.string_stats.top_values.add(value=label, frequency=one["times"])
                feature.string_stats.rank_histogram.buckets.add(
                    low_rank=rank, high_rank=rank, sample_count=one["times"], label=label
                )
        return found


def _is_text(kind: pa.DataType) -> bool:
    texts = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string)
    return any(is_one(kind) for is_one in (*texts, pa.types.is_large_string))


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _NO_TEXT
