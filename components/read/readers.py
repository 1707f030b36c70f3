"""Readers: the files of a layout to the tables `events`, `items`, `users`, as a Beam PTransform.

A file is cut into blocks (byte ranges at record ends, or row groups) by one sequential scan that
keeps only their positions; each block is then read, parsed, typed and checked by whichever worker
gets it. Memory stays within a block.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.read import json_lines, parsing
from components.read.parsing import Rejects
from components.read.sources import BLOCK_OF_ROWS, LISTS, FileField, Source, open_file
from components.tables.columns import BYTES, FLOAT, INT, arrow_type, is_list
from components.tables.names import PART, REQUIRED, ROW
from components.tables.parquet import open_parquet, read_rows

BLOCK_BYTES = 16 << 20
_BLOCK_ROWS = 250_000


@dataclass(frozen=True)
class Block:
    """A piece of a file that one worker parses.

    Attributes:
        number: of the block in its table; its shard.
        file: where it is.
        start: byte (text) or row group (Parquet) at which it begins.
        length: bytes; -1 for Parquet.
        row: number of its first row in the whole source.
        line: 1-based line (Parquet: row) of the file on which it begins.
    """

    number: int
    file: str
    start: int
    length: int
    row: int
    line: int


@dataclass
class Parsed:
    """What became of a block: its good rows, and its bad ones by reason."""

    block: Block
    table: pa.Table
    read: int
    rejects: dict[str, tuple[int, int, str]]
    unreadable: dict[str, int]


class ReadSource(beam.PTransform):
    """Reads one table.

    Args:
        source: which files and columns.
        block_bytes: size of a block of text.

    Returns:
        A PCollection of `Parsed`, one a block.
    """

    def __init__(self, source: Source, block_bytes: int = BLOCK_BYTES):
        super().__init__()
        self._source = source
        self._block_bytes = block_bytes

    def expand(self, pipeline):
        source, size = self._source, self._block_bytes
        return (
            pipeline
            | "Source" >> beam.Create([source])
            | "Blocks" >> beam.FlatMap(lambda one: blocks(one, size))
            | "Spread" >> beam.Reshuffle()
            | "Parse" >> beam.Map(lambda block: parse(source, block))
        )


def blocks(source: Source, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """Cuts the files of a source into blocks, in the order of their rows."""
    number = row = 0
    for file in source.files:
        cut = (
            _row_groups(file) if source.format == "parquet" else _ranges(source, file, block_bytes)
        )
        for start, length, line, rows in cut:
            yield Block(number, file, start, length, row, line)
            number, row = number + 1, row + rows


def _row_groups(file: str) -> Iterator[tuple[int, int, int, int]]:
    metadata = open_parquet(file).metadata
    line = 1
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        yield group, -1, line, rows
        line += rows


def _ranges(source: Source, file: str, block_bytes: int) -> Iterator[tuple[int, int, int, int]]:
    quoted, lists = source.format == "csv", source.format in LISTS
    with open_file(file) as stream:
        start = len(stream.readline()) if source.header else 0
        line = 2 if source.header else 1
        held = b""
        while True:
            piece = stream.read(block_bytes)
            data = held + piece
            if not data:
                return
            ends = parsing.record_ends(data, quoted)
            if piece and not len(ends):
                held = data
                continue
            length = len(data) if not piece else int(ends[-1]) + 1
            if piece and lists:
                # The last session may go on in what is read next: it is left for that block.
                length = parsing.whole_sessions(data, ends)
                if not length:
                    held = data
                    continue
            if lists:
                rows = len(data[:length].split())
            else:
                rows = len(ends) + (
                    1 if not piece and (not len(ends) or ends[-1] != len(data) - 1) else 0
                )
            yield start, length, line, rows
            line += data[:length].count(b"\n")
            start += length
            held = data[length:]


def parse(source: Source, block: Block) -> Parsed:
    """Reads, types and checks one block."""
    rejects = Rejects()
    if source.format == "parquet":
        columns, kept, lines = _read_parquet(source, block)
    else:
        columns, kept, lines = _read_text(source, block, rejects)
    read = len(kept) + sum(count for count, _, _ in rejects.reasons.values())
    rows = block.row + kept
    lines = lines[kept]

    arrays: dict[str, pa.Array] = {}
    unreadable: dict[str, int] = {}
    good = np.ones(len(kept), bool)

    def refuse(reason: str, bad: np.ndarray, column: pa.Array) -> None:
        nonlocal good
        bad = bad & good
        where = np.flatnonzero(bad)
        if len(where):
            value = column[int(where[0])].as_py()
            rejects.add(
                reason,
                lines[where],
                [parsing.show(value if isinstance(value, bytes) else str(value).encode())],
            )
            good &= ~bad

    for field in source.fields:
        column = columns[field.name]
        if field.name in REQUIRED[source.table]:
            for reason, bad in parsing.id_problems(column, field.name):
                refuse(reason, bad, column)
            arrays[field.name] = column
        elif source.table == "events" and field.name == "timestamp":
            seconds, bad = _seconds(column, source.timestamp_unit)
            refuse("timestamp is not a number", bad, column)
            arrays[field.name] = pa.array(seconds)
        elif source.table == "events" and field.name in ("rating", "label"):
            # An event without a rating is an event; a run that learns ratings counts it.
            numbers, bad, missing = parsing.to_judgements(column)
            refuse(f"{field.name} is not a number", bad, column)
            arrays[field.name] = pa.array(numbers.astype(np.float32), mask=missing | bad)
        elif isinstance(column, pa.LargeBinaryArray):
            if field.year:
                column, arrays[field.year] = parsing.split_year(column)
            value, bad = parsing.to_feature(column, field.kind, field.separator)
            arrays[field.name] = value
            if bad.any():
                unreadable[field.name] = int(bad.sum())
        else:
            arrays[field.name] = column
    if source.anonymous:
        blocks_, place = np.unique(rows // BLOCK_OF_ROWS, return_inverse=True)
        names_ = np.array(
            [b"rows %d-%d" % (n * BLOCK_OF_ROWS, (n + 1) * BLOCK_OF_ROWS - 1) for n in blocks_],
            object,
        )
        arrays["user_id"] = pa.array(names_[place] if len(rows) else [], pa.large_binary())
        arrays["item_id"] = pa.array(np.full(len(rows), b"any", object), pa.large_binary())
    if source.parts:
        part = (source.part_of(block.file) or "").encode()
        arrays[PART] = pa.array(np.full(len(kept), part, object), pa.large_binary())
    if source.table == "events":
        arrays[ROW] = pa.array(rows)
    names = list(source.columns())
    table = pa.table(
        [arrays[name].cast(arrow_type(kind)) for name, kind in source.columns().items()],
        names=names,
    )
    if not good.all():
        table = table.filter(pa.array(good))
    return Parsed(block, table, read, rejects.reasons, unreadable)


def _seconds(column: pa.Array, unit: str):
    if pa.types.is_large_binary(column.type):
        return parsing.to_seconds(column, unit)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ns")).cast(pa.int64())
        unit = "ns"
    bad = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_floating(column.type):
        numbers = column.to_numpy(zero_copy_only=False)
        bad = bad | ~np.isfinite(numbers)
        column = pa.array(np.floor(np.where(bad, 0, numbers)).astype(np.int64))
    whole = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return whole // parsing.UNITS[unit], bad


def _read_text(source: Source, block: Block, rejects: Rejects):
    with open_file(block.file) as stream:
        stream.seek(block.start)
        data = stream.read(block.length)
    if source.encoding != "utf-8":
        data = data.decode(source.encoding).encode("utf-8")
    quoted = source.format == "csv"
    ends = parsing.record_ends(data, quoted)
    lines = parsing.record_lines(data, ends, block.line)
    if source.format in LISTS:
        name = source.part_of(block.file) if source.format == "session_lists" else None
        made_up = source.format == "session_lists"
        values, kept, lines = parsing.split_lists(
            data, source.delimiter, lines, rejects, f"{name}-" if name else "" if made_up else None
        )
    elif source.format == "json":
        names = [field.header for field in source.fields]
        values, kept = json_lines.split_json(data, names, lines, rejects)
    elif quoted:
        values, kept = parsing.split_csv(data, source.delimiter, source.width, ends, lines, rejects)
    else:
        values, kept = parsing.split_fields(data, source.delimiter, source.width, lines, rejects)
    columns = {}
    for field in source.fields:
        columns[field.name] = _flags(values, field) if field.flags else values[field.index]
    return columns, kept, lines


def _flags(values: list[pa.Array], field: FileField) -> pa.Array:
    """One-or-nought columns -> the names of those that are one."""
    set_ = np.stack(
        [
            pc.equal(values[field.index + position], b"1").to_numpy(zero_copy_only=False)
            for position in range(len(field.flags))
        ],
        axis=1,
    )
    names = pa.array([name.encode() for name in field.flags], pa.large_binary())
    offsets = np.concatenate([[0], np.cumsum(set_.sum(axis=1))]).astype(np.int64)
    return pa.LargeListArray.from_arrays(
        pa.array(offsets), names.take(pa.array(np.nonzero(set_)[1]))
    )


def _read_parquet(source: Source, block: Block):
    wanted = [field.header for field in source.fields]
    parts = list(read_rows(block.file, block.start, wanted, _BLOCK_ROWS))
    table = pa.Table.from_batches(parts)
    columns = {
        field.name: _typed(table.column(field.header), field, source) for field in source.fields
    }
    rows = np.arange(table.num_rows)
    return columns, rows, block.line + rows


def _typed(column: pa.ChunkedArray, field: FileField, source: Source) -> pa.Array:
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if source.table == "events" and field.name in ("timestamp", "rating", "label"):
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            return array.cast(pa.large_binary())
        return array
    if is_list(field.kind):
        if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            return array.cast(arrow_type(field.kind))
        return array.cast(pa.large_string()).cast(pa.large_binary())
    if field.kind == BYTES:
        if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
            return array.cast(pa.large_binary())
        return array.cast(pa.large_string()).cast(pa.large_binary())
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        return _epoch(array)
    if field.kind in (INT, FLOAT) and (
        pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    ):
        return array.cast(pa.large_binary())
    return array.cast(arrow_type(field.kind), safe=False)


def _epoch(array: pa.Array) -> pa.Array:
    nanoseconds = array.cast(pa.timestamp("ns")).cast(pa.int64())
    mask = array.is_null().to_numpy(zero_copy_only=False)
    return pa.array(
        nanoseconds.fill_null(0).to_numpy(zero_copy_only=False) // 1_000_000_000, mask=mask
    )
