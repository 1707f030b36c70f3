"""Blocks of files: where they are, and their columns as the file has them. Light: no Beam, no TFX.

A file is cut into blocks (byte ranges at record ends, or row groups) by one sequential scan that
keeps only their positions; each block is then read on its own. Memory stays within a block. Of a
file that cannot be read from its middle (compressed, or of another encoding) the blocks carry their
bytes: else each would unpack all that lies before it.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BufferedReader

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.read import json_lines, parsing, quotes
from components.read.parsing import Rejects
from components.read.quotes import Records
from components.read.sources import (
    BYTE_ORDER_MARK,
    COMPRESSIONS,
    LISTS,
    FileField,
    Source,
    is_read_as_it_is,
    open_file,
    skip,
)
from components.tables.parquet import is_any_list, open_parquet, read_rows
from components.tables.places import is_remote, place

BLOCK_BYTES = 16 << 20
_BLOCK_ROWS = 250_000
_FILES_AT_ONCE = 4  # a block of each in memory

# Start, length, first line, rows, and bytes of a block: see `Block`.
_Cut = tuple[int, int, int, int, bytes | None]
Columns = tuple[dict[str, pa.Array], np.ndarray, np.ndarray]


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
        data: its bytes, where the file cannot be read from `start` on; None to read them there.
    """

    number: int
    file: str
    start: int
    length: int
    row: int
    line: int
    data: bytes | None = None


def blocks(source: Source, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """Cuts the files of a source into blocks, in the order of their rows."""
    number = row = 0
    for file, cut in zip(source.files, _cuts(source, block_bytes)):
        for start, length, line, rows, data in cut:
            yield Block(number, file, start, length, row, line, data)
            number, row = number + 1, row + rows


def _cuts(source: Source, block_bytes: int) -> Iterator[Iterable[_Cut]]:
    """Of each file where its blocks are; several files of a store are looked through at once."""

    def cut(file: str) -> Iterable[_Cut]:
        if source.format == "parquet":
            return _row_groups(file)
        return _ranges(source, file, block_bytes)

    if not any(map(is_remote, source.files)):
        yield from map(cut, source.files)
        return
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        # What is compressed carries its bytes, so one file of those is looked through at a time.
        yield from pool.map(
            lambda file: cut(file) if place(file).suffix in COMPRESSIONS else list(cut(file)),
            source.files,
        )


def _row_groups(file: str) -> Iterator[_Cut]:
    metadata = open_parquet(file).metadata
    line = 1
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if rows:  # Spark writes parts without any
            yield group, -1, line, rows, None
        line += rows


def _ranges(source: Source, file: str, block_bytes: int) -> Iterator[_Cut]:
    with open_file(file, source.encoding) as stream:
        by_position = None  # asked after the first block, which is as quickly read again
        start = len(stream.readline()) if source.header else _mark(stream)
        line = 2 if source.header else 1
        held = b""
        while True:
            piece = stream.read(block_bytes)
            data = held + piece
            if not data:
                return
            records = _cut(source, data, not piece)
            number = len(records)
            if piece and number and source.format in LISTS:
                # The last session may go on in what is read next: it is left for that block.
                number = parsing.whole_sessions(data, source.delimiter, records.bounds)
            length = int(records.bounds[number])
            if length:
                whole = data[:length]
                rows = number
                if source.format in LISTS:
                    rows = parsing.count_values(whole, source.delimiter, number)
                yield start, length, line, rows, whole if by_position is False else None
                if by_position is None:
                    by_position = is_read_as_it_is(file, source.encoding)
                line += whole.count(b"\n")
                start += length
            held = data[length:]


def _mark(stream: BufferedReader) -> int:
    """Passes over a byte order mark at the start of a text without a header; its size."""
    size = len(BYTE_ORDER_MARK)
    return len(stream.read(size)) if stream.peek(size)[:size] == BYTE_ORDER_MARK else 0


def _cut(source: Source, data: bytes, last: bool) -> Records:
    quoted = source.format == "csv"
    return quotes.cut(data, last, source.delimiter if quoted else None, source.width)


def read_block(source: Source, block: Block, rejects: Rejects) -> Columns:
    """Reads one block; rows that have no columns are rejected, and what they hold is not looked at.

    Returns:
        A column for every field: text as large_binary, or as the Parquet file has it; the index
        within the block of every row that is kept; and the line of every row, kept or not.
    """
    if source.format == "parquet":
        return _read_parquet(source, block)
    data = block.data
    if data is None:
        with open_file(block.file, source.encoding) as stream:
            skip(stream, block.start)
            data = stream.read(block.length)
    records = _cut(source, data, True)
    lines = block.line + records.lines
    if source.format in LISTS:
        name = source.part_of(block.file) if source.format == "session_lists" else None
        made_up = source.format == "session_lists"
        values, kept, lines = parsing.split_lists(
            data, source.delimiter, lines, rejects, f"{name}-" if name else "" if made_up else None
        )
    elif source.format == "json":
        names = [field.header for field in source.fields]
        values, kept = json_lines.split_json(data, names, lines, rejects)
    elif source.format == "csv":
        values, kept = parsing.split_csv(
            data, source.delimiter, source.width, records, lines, rejects
        )
    else:
        values, kept = parsing.split_fields(data, source.delimiter, source.width, lines, rejects)
    columns = {}
    for field in source.fields:
        columns[field.name] = _flags(values, field) if field.flags else values[field.index]
    return columns, kept, lines


def sample(source: Source, file: str, rows: int, size: int) -> dict[str, pa.Array] | None:
    """The columns of the first rows of a file, of at most so many bytes; None where it has none."""
    found = first_rows(replace(source, files=(file,)), rows, size, Rejects())
    return found and found[1][0]


def first_rows(
    source: Source, rows: int, size: int, rejects: Rejects
) -> tuple[Block, Columns, bool] | None:
    """Reads the first rows of a source, as `read_block` does.

    Args:
        source: where they are.
        rows: how many at most.
        size: bytes of text at most.
        rejects: takes the rows that have no columns.

    Returns:
        Their block, the columns, and whether they are all rows that there are; None for none.
    """
    cut = blocks(source, size)
    block = next(cut, None)
    if block is None:
        return None
    if source.format == "parquet":
        wanted = [field.header for field in source.fields]
        table = pa.Table.from_batches([next(read_rows(block.file, block.start, wanted, rows))])
        columns = {field.name: _flat(table.column(field.header)) for field in source.fields}
        kept = np.arange(table.num_rows)
        lines = block.line + kept
        whole = open_parquet(block.file).metadata.num_rows == table.num_rows
    else:
        columns, kept, lines = read_block(source, block, rejects)
        whole = len(kept) <= rows
        columns = {name: column.slice(0, rows) for name, column in columns.items()}
        kept = kept[:rows]
    return block, (columns, kept, lines), whole and next(cut, None) is None


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


def _read_parquet(source: Source, block: Block) -> Columns:
    wanted = [field.header for field in source.fields]
    table = pa.Table.from_batches(list(read_rows(block.file, block.start, wanted, _BLOCK_ROWS)))
    columns = {field.name: _flat(table.column(field.header)) for field in source.fields}
    rows = np.arange(table.num_rows)
    return columns, rows, block.line + rows


def _flat(column: pa.ChunkedArray) -> pa.Array:
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array


def as_text(array: pa.Array) -> pa.Array:
    """Values as text (large_binary), as a file of text would have them.

    A whole number has no decimals, whatever its type; a list is its values with blanks between.
    """
    type_ = array.type
    if is_any_list(type_):
        return _joined(array)
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return array.cast(pa.large_binary())
    if pa.types.is_dictionary(type_):
        return as_text(array.cast(type_.value_type))
    if pa.types.is_decimal(type_):
        values = [None if one is None else f"{one.normalize():f}" for one in array.to_pylist()]
        return pa.array(values, pa.large_string()).cast(pa.large_binary())
    text = array.cast(pa.large_string())
    if pa.types.is_floating(type_):
        numbers = array.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
        whole = (np.abs(numbers) < 2.0**63) & (numbers == np.floor(numbers))
        integers = pa.array(np.where(whole, numbers, 0).astype(np.int64)).cast(pa.large_string())
        text = pc.if_else(pa.array(whole), integers, text)
        text = pc.if_else(pa.array(np.isnan(numbers)), pa.scalar(None, pa.large_string()), text)
    return text.cast(pa.large_binary())


def _joined(array: pa.Array) -> pa.Array:
    rows = [
        None if row is None else b" ".join(value for value in row if value)
        for row in texts_of(array).to_pylist()
    ]
    return pa.array(rows, pa.large_binary())


def texts_of(array: pa.Array) -> pa.Array:
    """Lists of anything as lists of text; a missing list is an empty one, a missing value none."""
    values = as_text(array.flatten())
    if pa.types.is_fixed_size_list(array.type):
        lengths = array.is_valid().to_numpy(zero_copy_only=False) * array.type.list_size
    else:
        lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    there = values.is_valid().to_numpy(zero_copy_only=False)
    owner = np.repeat(np.arange(len(lengths)), lengths)[there]
    counts = np.bincount(owner, minlength=len(lengths))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(offsets), values.drop_null())
