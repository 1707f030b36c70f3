"""Tables on disk: gzip TFRecord files of tf.Example, written and read whole batches at a time.

Beside each file lies its columnar twin (`models.names.twin`), which is read where there is one.
"""

import itertools
import json
import os
import posixpath
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders import example_coder

from components.tables.columns import BYTES, FLOAT, INT, arrow_type, empty_table, is_list
from models.names import twin
from models.names.errors import DataError
from serving.wire import records as tfrecord

T = TypeVar("T")
REPORT = "report.json"
_SCHEMA_TYPE = {BYTES: schema_pb2.BYTES, INT: schema_pb2.INT, FLOAT: schema_pb2.FLOAT}
_ROWS_AT_ONCE = 50_000
_STAGING = ".temporary"


def encode(table: pa.Table) -> Iterator[bytes]:
    """Yields one serialized tf.Example a row; a null becomes a missing feature."""
    encoder = example_coder.RecordBatchToExamplesEncoder()
    for batch in table.combine_chunks().to_batches(max_chunksize=_ROWS_AT_ONCE):
        columns = [as_list(column) for column in batch.columns]
        yield from encoder.encode(pa.RecordBatch.from_arrays(columns, batch.schema.names))


def decode(examples: list[bytes], columns: Mapping[str, str]) -> pa.Table:
    """Parses serialized tf.Examples into the given columns.

    Single-valued columns become flat arrays with nulls.
    """
    if not examples:
        return empty_table(columns)
    schema = schema_pb2.Schema()
    for name, kind in columns.items():
        schema.feature.add(name=name, type=_SCHEMA_TYPE[kind.removesuffix("_list")])
    decoder = example_coder.ExamplesToRecordBatchDecoder(schema.SerializeToString())
    batch = decoder.DecodeBatch(examples)
    arrays = [
        _from_list(batch.column(batch.schema.get_field_index(name)), kind)
        for name, kind in columns.items()
    ]
    return pa.table(arrays, names=list(columns))


def as_list(column: pa.Array) -> pa.Array:
    """A column as large lists: a value is a list of one, and a null stays one."""
    if pa.types.is_large_list(column.type):
        return column
    # A null row is a missing feature, not an empty list; the value array must not hold it.
    present = column.is_valid().to_numpy(zero_copy_only=False)
    offsets = _offsets(present)
    if not present.all():
        offsets = pa.array(offsets.to_numpy(), mask=np.append(~present, False))
    return pa.LargeListArray.from_arrays(offsets, column.drop_null())


def _from_list(column: pa.Array, kind: str) -> pa.Array:
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), arrow_type(kind))
    values = column.flatten().cast(arrow_type(kind.removesuffix("_list")))
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    if is_list(kind):
        return pa.LargeListArray.from_arrays(_offsets(lengths), values)
    if len(values) == len(column) and bool((lengths == 1).all()):
        return values
    starts = pa.array(_offsets(lengths).to_numpy()[:-1], mask=lengths == 0)
    return values.take(starts)


def _offsets(lengths) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def write_table(table: pa.Table, folder: str, shard: int) -> int:
    """Writes one shard whole or not at all, and its twin; returns the number of rows written.

    Args:
        table: the rows.
        folder: where the shard goes (`.../Split-train`).
        shard: its number; a second attempt at the same shard replaces the first.
    """
    count = write_records(encode(table), folder, shard)
    _write_twin(table, _path(folder, shard))
    return count


def write_records(records, folder: str, shard: int) -> int:
    """Writes serialized records as one gzip TFRecord file and returns their number.

    The file has a temporary name first.
    """
    return _write_atomically(
        _path(folder, shard), lambda file: tfrecord.write_records(records, file, packed=True)
    )


def _path(folder: str, shard: int) -> str:
    return posixpath.join(folder, f"data_tfrecord-{shard:05d}.gz")


def _write_twin(table: pa.Table, examples: str) -> None:
    """Writes the rows of a file once more, as columns, if it is one of a split."""
    path = twin.path_of(examples)
    if path is None:
        return
    table = table.replace_schema_metadata(twin.metadata(*_end_of(examples)))

    # Of a store PyArrow does not know the files that Beam opens.
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=_ROWS_AT_ONCE, compression="zstd")
    _write_atomically(path, lambda file: file.write(sink.getvalue()))


def _open_twin(examples: str, columns: Mapping[str, str]) -> pq.ParquetFile | None:
    """The twin of a file of examples, if it has one that is still of it.

    None too where it holds a column as another kind than is asked for.
    """
    path = twin.path_of(examples)
    if path is None or not exists(path):
        return None
    # What a store holds is fetched whole: a file has about as many rows as a worker has at a time.
    with twin.damage(path):
        file = pq.ParquetFile(pa.BufferReader(read_bytes(path)) if "://" in path else path)
    types = {field.name: field.type for field in file.schema_arrow}
    alike = all(
        types.get(name, arrow_type(kind)) == arrow_type(kind) for name, kind in columns.items()
    )
    if alike and twin.is_of(file.metadata.metadata, *_end_of(examples)):
        return file
    file.close()
    return None


def _end_of(path: str) -> tuple[int, bytes]:
    """The bytes of a file, and the last ones of them, by which a twin knows it."""
    (found,) = FileSystems.match([path])
    size = found.metadata_list[0].size_in_bytes
    with FileSystems.open(path, compression_type="uncompressed") as file:
        file.seek(max(0, size - twin.TAIL))
        return size, file.read(twin.TAIL)


def read_batches(path: str, columns: Mapping[str, str]) -> Iterator[pa.Table]:
    """Yields the rows of one gzip TFRecord file in batches of bounded size.

    Raises:
        DataError: the file, or the twin that is read in its place, is damaged.
    """
    found = _open_twin(path, columns)
    if found:
        with found:
            yield from _read_twin(found, path, columns)
        return
    batch = []
    for record in read_records(path):
        batch.append(record)
        if len(batch) == _ROWS_AT_ONCE:
            yield decode(batch, columns)
            batch = []
    if batch:
        yield decode(batch, columns)


def read_rows(
    path: str, columns: set[str], at_once: int
) -> Iterator[tuple[pa.RecordBatch, list[bytes]]]:
    """Yields the rows of one gzip TFRecord file twice: as some columns of lists, and serialized.

    Args:
        path: of the file.
        columns: which; what a batch has none of may be left out.
        at_once: rows in a batch, at most.

    Raises:
        DataError: the file or its twin is damaged.
    """
    rows, found = read_records(path), _open_twin(path, {})
    if not found:
        decoder = example_coder.ExamplesToRecordBatchDecoder()
        while some := list(itertools.islice(rows, at_once)):
            yield _of_lists(decoder.DecodeBatch(some), columns), some
        return
    with found:
        for batch in _batches_of_twin(found, path, columns, at_once):
            yield _of_lists(batch, columns), list(itertools.islice(rows, batch.num_rows))


def _of_lists(batch: pa.RecordBatch, columns: set[str]) -> pa.RecordBatch:
    kept = {
        name: as_list(column)
        for name, column in zip(batch.schema.names, batch.columns)
        if name in columns
    }
    return pa.RecordBatch.from_arrays(list(kept.values()), list(kept))


def _read_twin(
    file: pq.ParquetFile, examples: str, columns: Mapping[str, str]
) -> Iterator[pa.Table]:
    """The rows of a twin as `decode` gives those that it is the twin of."""
    names = set(file.schema_arrow.names)
    for batch in _batches_of_twin(file, examples, columns, _ROWS_AT_ONCE):
        yield pa.table(
            {
                name: _as_decoded(batch.column(batch.schema.get_field_index(name)))
                if name in names
                else pa.nulls(batch.num_rows, arrow_type(kind))
                for name, kind in columns.items()
            },
        )


def _batches_of_twin(
    file: pq.ParquetFile, examples: str, columns: Collection[str], at_once: int
) -> Iterator[pa.RecordBatch]:
    there = [name for name in file.schema_arrow.names if name in columns]
    with twin.damage(str(twin.path_of(examples))):
        yield from file.iter_batches(at_once, columns=there)


def _as_decoded(column: pa.Array) -> pa.Array:
    """A column as `decode` gives it: of lists, one that is missing is empty."""
    if not pa.types.is_large_list(column.type):
        return column
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return pa.LargeListArray.from_arrays(_offsets(lengths), column.flatten())


def guess_columns(path: str) -> dict[str, str]:
    """Column name -> kind, from the rows of a file that no report of ours describes."""
    examples = list(read_records(path))
    if not examples:
        return {}
    batch = example_coder.ExamplesToRecordBatchDecoder().DecodeBatch(examples)
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns):
        if pa.types.is_null(column.type):
            continue
        value = column.flatten().type
        kind = (
            INT if pa.types.is_integer(value) else FLOAT if pa.types.is_floating(value) else BYTES
        )
        most = pc.max(column.value_lengths().fill_null(0)).as_py()
        columns[name] = f"{kind}_list" if most > 1 else kind
    return columns


def read_records(path: str) -> Iterator[bytes]:
    """Yields the records of one gzip TFRecord file.

    Raises:
        DataError: the file is damaged, or ends in the middle of a record. (Of the checksums, gzip's
            own is compared, and those of lengths.)
    """
    with FileSystems.open(path, compression_type="uncompressed") as file:
        try:
            yield from tfrecord.read_records(file, packed=True, check=False)
        except tfrecord.DamagedRecords as error:
            raise DataError(f"{path} is damaged: {error}") from error


def shards(folder: str) -> list[str]:
    """The files of one split, in order."""
    (found,) = FileSystems.match([posixpath.join(folder, "*.gz")])
    return sorted(metadata.path for metadata in found.metadata_list)


def write_bytes(path: str, data: bytes) -> None:
    """Writes a file whole or not at all."""
    _write_atomically(path, lambda file: file.write(data))


def write_text(path: str, text: str) -> None:
    """Writes a small text file whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n")


def read_bytes(path: str) -> bytes:
    """Reads a file whole."""
    with FileSystems.open(path, compression_type="uncompressed") as file:
        return file.read()


def read_text(path: str) -> str:
    """Reads a small text file."""
    return read_bytes(path).decode("utf-8")


def read_json(path: str) -> Any:
    """Reads a JSON file."""
    return json.loads(read_text(path))


def exists(path: str) -> bool:
    """Whether the file is there, on whatever file system the path names."""
    return FileSystems.exists(path)


def _write_atomically(path: str, body: Callable[[BinaryIO], T]) -> T:
    folder, name = posixpath.split(path)
    # Never in a split's folder: readers take every file that they find there.
    of_split = posixpath.basename(folder).startswith((twin.SPLIT, twin.COLUMNS))
    parent = posixpath.dirname(folder) if of_split else folder
    _make_folder(folder)
    temporary = staging_path(parent, f"{name}-{uuid.uuid4().hex}")
    with FileSystems.create(temporary, compression_type="uncompressed") as file:
        result = body(file)
    if "://" not in path:
        os.replace(temporary, path)
    else:
        FileSystems.rename([temporary], [path])
    return result


def _make_folder(path: str) -> None:
    if not FileSystems.exists(path):
        try:
            FileSystems.mkdirs(path)
        except OSError:  # another worker was quicker
            if not FileSystems.exists(path):
                raise


def staging_path(folder: str, name: str) -> str:
    """Where a file below `folder` may lie for a while, out of its readers' sight."""
    staging = posixpath.join(folder, _STAGING)
    _make_folder(staging)
    return posixpath.join(staging, name)


def remove_staging(folder: str) -> None:
    """Removes what lay there for a while, and what interrupted writes left behind."""
    staging = posixpath.join(folder, _STAGING)
    if FileSystems.exists(staging):
        FileSystems.delete([staging])
