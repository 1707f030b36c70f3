"""How many rows a table has, and how many different values: what tells how large a run will be.

Rows are counted by reading them as the run will, or without that by Parquet's metadata and the
sizes of the files. How many different values there are is told by the smallest hashes (Bar-Yossef
et al., RANDOM 2002): of at most `KEPT` values exactly, of more with a standard error of `ERROR`.
Beside each hash stands how often its value is there and how long it is, so that values that are
there often enough, and the mean length, are told likewise.

Of text beyond `MOST_BYTES`, and of Parquet beyond `MOST_ROWS`, the first part is read; the rest is
taken to be as the second half of that was: rows by bytes, and values by how they grew (Heaps' law,
values = c rows^b). That is a guess.

Light: no Beam, no TFX.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.read import raw, typed
from components.read.sources import COMPRESSIONS, Source
from components.tables.hashing import hash_ids
from components.tables.parquet import open_parquet
from components.tables.places import place

KEPT = 1 << 16
ERROR = (KEPT - 2) ** -0.5
MOST_BYTES, MOST_ROWS = 2 << 30, 50_000_000
_FIRST_BYTES = 1 << 20

Chosen = Callable[[pa.Table], pa.Table]


class Distinct:
    """The different values of a column, by their smallest hashes.

    Args:
        kept: how many hashes are kept.
    """

    def __init__(self, kept: int = KEPT):
        self._kept, self._limit = kept, np.iinfo(np.uint64).max
        self._hashes, self._counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        self._lengths = np.zeros(0, np.int64)

    def add(self, values: pa.Array) -> None:
        """Takes [N] large_binary values in, of which missing and empty ones are none."""
        found = pc.value_counts(values)
        texts, counts = found.field("values"), found.field("counts").to_numpy()
        lengths = pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False)
        there = lengths > 0
        hashes = hash_ids(texts.to_numpy(zero_copy_only=False)[there])
        # The limit only falls, so a hash below it has been kept from its first time on: what is
        # counted of it is all.
        below = hashes <= self._limit
        hashes = np.concatenate([self._hashes, hashes[below]])
        counts = np.concatenate([self._counts, counts[there][below]])
        lengths = np.concatenate([self._lengths, lengths[there][below]])
        hashes, first, where = np.unique(hashes, return_index=True, return_inverse=True)
        counts = np.bincount(where, counts, len(hashes)).astype(np.int64)
        if len(hashes) > self._kept:
            self._limit = hashes[self._kept - 1]
        self._hashes, self._counts = hashes[: self._kept], counts[: self._kept]
        self._lengths = lengths[first[: self._kept]]

    def count(self, at_least: int = 1) -> int:
        """Returns how many different values there are, of those that are there so often."""
        often = int(np.count_nonzero(self._counts >= at_least))
        if self._limit == np.iinfo(np.uint64).max:
            return often
        # The k-th smallest of n uniform numbers lies at about k / n.
        whole = (self._kept - 1) / (float(self._limit) / 2.0**64)
        return round(whole * often / self._kept)

    @property
    def length(self) -> float:
        """Bytes of a value, the mean of all that are different; 0 where there is none."""
        return float(self._lengths.mean()) if len(self._lengths) else 0.0


@dataclass
class Counted:
    """What is known of how large a table is.

    Attributes:
        rows: of the table; of the events those that count.
        distinct: column -> how many different values it has, of those that are there often enough;
            of a text, words. A column that was not looked at is missing.
        every: the same, however often a value is there.
        length: column -> mean bytes of a different value.
        read: the share of the table that was read.
    """

    rows: int
    distinct: dict[str, int] = field(default_factory=dict)
    every: dict[str, int] = field(default_factory=dict)
    length: dict[str, float] = field(default_factory=dict)
    read: float = 1.0


def rows_of(source: Source) -> int:
    """How many rows a table has, by Parquet's metadata or by the first rows and the files' sizes.

    What is compressed is taken to be ten times as large.
    """
    if not source.files:
        return 0
    if source.format == "parquet":
        return sum(int(open_parquet(file).metadata.num_rows) for file in source.files)
    found = typed.first_rows(source, _FIRST_BYTES, _FIRST_BYTES)
    if found is None:
        return 0
    parsed, whole = found
    if whole:
        return parsed.read
    return math.ceil(_size(source) * parsed.read / parsed.block.length)


def count(
    source: Source,
    wanted: Mapping[str, int],
    chosen: Chosen = lambda table: table,
    most_bytes: int = MOST_BYTES,
    most_rows: int = MOST_ROWS,
    block_bytes: int = raw.BLOCK_BYTES,
) -> Counted:
    """Counts rows and different values.

    Args:
        source: of the table.
        wanted: column -> how often a value must be there to count.
        chosen: takes rows, and gives those that count; left out, all do.
        most_bytes: of text that is read.
        most_rows: of Parquet that are read, but for the rest of a row group.
        block_bytes: of text that is read at a time.
    """
    texts = {field.name for field in source.fields if field.text}
    found = {name: Distinct() for name in wanted}
    is_parquet = source.format == "parquet"
    size, most = (rows_of(source), most_rows) if is_parquet else (_size(source), most_bytes)
    done, rows = 0, 0
    half: tuple[int, list[dict[str, int]]] | None = None
    is_cut = (is_parquet or not _is_compressed(source)) and size > most

    def values() -> list[dict[str, int]]:
        """Those that are there often enough, and all."""
        rules = wanted, dict.fromkeys(wanted, 1)
        return [{name: found[name].count(rule[name]) for name in found} for rule in rules]

    for block in raw.blocks(source, block_bytes):
        parsed = typed.parse(source, block)
        table = chosen(parsed.table)
        rows += table.num_rows
        for name, distinct in found.items():
            distinct.add(_texts(table.column(name), name in texts))
        done += parsed.read if is_parquet else block.length
        if is_cut and half is None and 2 * done >= most:
            half = rows, values()
        if is_cut and done >= most:
            break
    lengths = {name: distinct.length for name, distinct in found.items()}
    if not is_cut or half is None or done >= size:
        return Counted(rows, *values(), lengths)
    read = done / size
    grown = [
        {name: _grown(before[name], now, half[0], rows, read) for name, now in after.items()}
        for before, after in zip(half[1], values(), strict=True)
    ]
    return Counted(round(rows / read), *grown, lengths, read)


def _grown(before: int, now: int, rows_before: int, rows: int, read: float) -> int:
    """How many values there will be of all rows, of which a share was read."""
    if not before or rows <= rows_before:
        return now
    power = math.log(now / before) / math.log(rows / rows_before)
    return round(now * (1 / read) ** min(1.0, max(0.0, power)))


def _texts(column: pa.ChunkedArray, is_text: bool) -> pa.Array:
    """The values of a column, or its words, each as large_binary."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_large_list(array.type) or pa.types.is_list(array.type):
        array = array.flatten()
    if not is_text:
        return raw.as_text(array)
    # As Transform splits them (`models.inputs.preprocessing.words`).
    lower = pc.utf8_lower(raw.as_text(array).cast(pa.large_string()))
    clean = pc.replace_substring_regex(lower, r"[^\p{L}\p{N}]+", " ")
    return pc.split_pattern(clean, " ").flatten().cast(pa.large_binary())


def _is_compressed(source: Source) -> bool:
    return any(place(file).suffix in COMPRESSIONS for file in source.files)


def _size(source: Source) -> int:
    """Bytes of the files, as they are when they are unpacked."""
    return sum(
        place(file).stat().st_size * (10 if place(file).suffix in COMPRESSIONS else 1)
        for file in source.files
    )
