"""Rows through files: every row once, in its user's shard, and little for Beam to carry."""

import pickle

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.testing.util import assert_that

from components.in_process import in_process_pipeline
from components.tables import records, shards
from components.tables.columns import BYTES, INT, columns_of
from components.tables.hashing import shard_of


def batch(first: int, rows: int) -> pa.Table:
    number = np.arange(first, first + rows)
    users = [f"user {one % 97}".encode() for one in number]
    return pa.table({"user_id": pa.array(users, pa.large_binary()), "row": pa.array(number)})


@pytest.mark.parametrize("count", [1, 5])
def test_every_row_is_once_in_the_shard_of_its_user(tmp_path, count):
    def check(grouped):
        assert sorted(number for number, _ in grouped) == list(range(count))
        rows = []
        for number, kept in grouped:
            table = shards.gather(kept, {})
            assert (shard_of(table.column("user_id").to_numpy(), count) == number).all()
            rows += table.column("row").to_pylist()
        assert sorted(rows) == list(range(5_000))

    with in_process_pipeline() as pipeline:
        batches = pipeline | beam.Create([batch(0, 2_000), batch(2_000, 3_000)])
        assert_that(batches | shards.Shard(count, str(tmp_path)) | beam.GroupByKey(), check)
    records.remove_staging(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_what_beam_carries_does_not_grow_with_the_rows(tmp_path):
    sizes = []
    for rows in (10, 100_000):
        ((number, kept),) = shards.keep([(3, batch(0, rows))], str(tmp_path))
        assert number == 3 and kept.read().equals(batch(0, rows))
        sizes.append(len(pickle.dumps(kept)))
    assert sizes[1] <= sizes[0] + 8  # the numbers are larger


def test_a_shard_without_rows_has_the_columns(tmp_path):
    assert columns_of(shards.gather([], {"user_id": BYTES, "row": INT})) == {
        "user_id": BYTES,
        "row": INT,
    }
