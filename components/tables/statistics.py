"""TFDV's statistics of our own tables, which are read by columns.

TFX's StatisticsGen takes tf.Examples one after the other, at five times the processor time.
"""

import posixpath
from collections.abc import Callable, Iterator, Mapping

import apache_beam as beam
import numpy as np
import pyarrow as pa
from tensorflow_metadata.proto.v0 import statistics_pb2

from components.tables import artifacts, records
from components.tables.shards import ReadBatches

FILE = "FeatureStats.pb"
Statistics = statistics_pb2.DatasetFeatureStatisticsList


def split_statistics(
    make_pipeline: Callable[[], beam.Pipeline],
    uri: str,
    split: str,
    columns: Mapping[str, str],
    folder: str,
    empty_is_missing: bool = False,
) -> Statistics:
    """TFDV's statistics of columns of a split, as of its tf.Examples.

    Args:
        make_pipeline: makes the Beam pipeline; none is made where there are no rows.
        uri: of the Examples artifact.
        split: its name.
        columns: name -> kind.
        folder: where they are also written, as `FeatureStats.pb`.
        empty_is_missing: a list without a value counts as missing, not as there.
    """
    # They import TensorFlow.
    import tensorflow_data_validation as tfdv

    from components.tables import top_values

    path = posixpath.join(folder, FILE)
    files = records.shards(artifacts.split_folder(uri, split))

    def parsed(table: pa.Table) -> Iterator[pa.RecordBatch]:
        for batch in table.combine_chunks().to_batches():
            if batch.num_rows:
                lists = [_as_parsed(column, empty_is_missing) for column in batch.columns]
                yield pa.RecordBatch.from_arrays(lists, batch.schema.names)

    if not any(len(table) for file in files for table in records.read_batches(file, columns)):
        nothing = Statistics()
        nothing.datasets.add()
        records.write_bytes(path, nothing.SerializeToString())
        return nothing
    with top_values.options(folder) as options, make_pipeline() as pipeline:
        _ = (
            pipeline
            | "Read" >> ReadBatches(files, columns)
            | "Parse" >> beam.FlatMap(parsed)
            | "Measure" >> tfdv.GenerateStatistics(options)
            | "Write"
            >> beam.Map(lambda found: records.write_bytes(path, found.SerializeToString()))
        )
    return Statistics.FromString(records.read_bytes(path))


def _as_parsed(column: pa.Array, empty_is_missing: bool) -> pa.Array:
    """A column as it is parsed from tf.Examples: lists, and of no kind where there is no value."""
    column = records.as_list(column)
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    if empty_is_missing and not lengths.all():
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        missing = np.append(lengths == 0, False)
        column = pa.LargeListArray.from_arrays(pa.array(offsets, mask=missing), column.flatten())
    return column if lengths.any() else pa.nulls(len(column))
