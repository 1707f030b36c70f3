"""The statistics of our own tables are those that TFDV has of their tf.Examples."""

from contextlib import nullcontext

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
import tensorflow_data_validation as tfdv
from tfx_bsl.public import tfxio

from components.in_process import in_process_pipeline
from components.tables import artifacts, records, top_values
from components.tables.columns import arrow_type
from components.tables.statistics import FILE, Statistics, split_statistics

COLUMNS = {
    "user_id": "bytes",
    "rating": "float",
    "timestamp": "int",
    "genres": "bytes_list",
    "never": "bytes",
}
ROWS = [
    {"user_id": b"a", "rating": 4.5, "timestamp": 1, "genres": [b"x", b"y"]},
    {"user_id": b"b", "rating": None, "timestamp": 2, "genres": []},
    {"user_id": b"\xff", "rating": 0.0, "timestamp": 3, "genres": [b"z"]},
    {"user_id": b"a", "rating": -1.0, "timestamp": None, "genres": [b"x"]},
]


def of_examples(uri: str, output: str) -> Statistics:
    source = tfxio.TFExampleRecord(
        file_pattern=artifacts.split_folder(uri, "all") + "/*", telemetry_descriptors=["tests"]
    )
    with in_process_pipeline() as pipeline:
        _ = (
            pipeline
            | source.BeamSource()
            | tfdv.GenerateStatistics(tfdv.StatsOptions())
            | tfdv.WriteStatisticsToBinaryFile(output)
        )
    return tfdv.load_stats_binary(output)


@pytest.mark.parametrize("rows", [ROWS, [{}, {}], []], ids=["some", "no values", "no rows"])
def test_they_are_those_of_the_examples(tmp_path, rows):
    uri = str(tmp_path / "table")
    table = pa.Table.from_pylist(
        rows, pa.schema([(name, arrow_type(kind)) for name, kind in COLUMNS.items()])
    )
    records.write_table(table, artifacts.split_folder(uri, "all"), 0)
    (tmp_path / "ours").mkdir()
    ours = split_statistics(in_process_pipeline, uri, "all", COLUMNS, str(tmp_path / "ours"))
    assert Statistics.FromString((tmp_path / "ours" / FILE).read_bytes()) == ours

    (ours,), (theirs,) = ours.datasets, of_examples(uri, str(tmp_path / "theirs.pb")).datasets
    assert ours.num_examples == theirs.num_examples == len(rows)
    by_name = [
        {feature.path.step[0]: feature for feature in found.features} for found in (ours, theirs)
    ]
    assert by_name[0] == by_name[1]
    assert set(by_name[0]) == set(COLUMNS if rows else ())


@pytest.mark.parametrize("held", [1 << 20, 500])
def test_values_are_counted_as_tfdv_counts_them(tmp_path, monkeypatch, held):
    """More values than are ranked, many of one count, added up in memory and of files."""
    monkeypatch.setattr(top_values, "_WAITING", 50)
    monkeypatch.setattr(top_values, "_HELD", held)
    stored, read = [], top_values._Part.read
    monkeypatch.setattr(
        top_values._Part, "read", lambda self: stored.append(self.path) or read(self)
    )
    draw = np.random.default_rng(0)
    batches = []
    for size in (1, 400, 3_000, 2_000, 700):
        number = (3_000 * draw.random(size) ** 2).astype(int)
        lists = {
            "words": pa.array([[b"word %d" % one] for one in number], pa.list_(pa.binary())),
            "texts": pa.array(
                [[str(one % 7)] * (one % 3) or None for one in number], pa.large_list(pa.string())
            ),
            "empty": pa.array([[]] * size, pa.list_(pa.binary())),
            "numbers": pa.array([[float(one)] for one in number], pa.list_(pa.float32())),
            "sometimes": pa.array([[b"\xff%d" % one] for one in number], pa.list_(pa.binary()))
            if size > 1_000
            else pa.nulls(size),
        }
        batches.append(pa.RecordBatch.from_arrays(list(lists.values()), list(lists)))
    found = []
    ours, theirs = top_values.options(str(tmp_path)), nullcontext(tfdv.StatsOptions())
    for name, context in (("ours", ours), ("theirs", theirs)):
        path = str(tmp_path / name)
        with context as options, in_process_pipeline() as pipeline:
            _ = (
                pipeline
                | beam.Create(batches)
                | tfdv.GenerateStatistics(options)
                | tfdv.WriteStatisticsToBinaryFile(path)
            )
        (one,) = tfdv.load_stats_binary(path).datasets
        found.append({feature.path.step[0]: feature for feature in one.features})
    assert found[0] == found[1]
    assert any(stored) == (held == 500) and not (tmp_path / "counts").exists()
    assert found[0]["words"].string_stats.unique > 1_000
    assert len(found[0]["words"].string_stats.rank_histogram.buckets) == 1_000
