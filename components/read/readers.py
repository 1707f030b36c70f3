"""Readers: the files of a layout to the tables `events`, `items`, `users`, as a Beam PTransform.

Each block is read, typed and checked by whichever worker gets it.
"""

import dataclasses
import uuid

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from components.read.raw import BLOCK_BYTES, Block, blocks
from components.read.sources import Source
from components.read.typed import Parsed, parse
from components.tables import records

__all__ = ["BLOCK_BYTES", "Parsed", "ReadSource", "blocks", "parse"]


class ReadSource(beam.PTransform):
    """Reads one table.

    Args:
        source: which files and columns.
        block_bytes: size of a block of text.
        folder: where the bytes of blocks lie meanwhile, of files that cannot be read from their
            middle; `records.remove_staging` takes them away. None: they stay in memory.

    Returns:
        A PCollection of `Parsed`, one a block.
    """

    def __init__(self, source: Source, block_bytes: int = BLOCK_BYTES, folder: str | None = None):
        super().__init__()
        self._source = source
        self._block_bytes = block_bytes
        self._folder = folder

    def expand(self, pipeline):
        source, size, folder = self._source, self._block_bytes, self._folder
        return (
            pipeline
            | "Source" >> beam.Create([source])
            | "Blocks" >> beam.FlatMap(lambda one: blocks(one, size))
            | "PutAway" >> beam.Map(lambda block: _put_away(block, folder))
            | "Spread" >> beam.Reshuffle()
            | "Parse" >> beam.Map(lambda one: parse(source, _take(*one)))
        )


def _put_away(block: Block, folder: str | None) -> tuple[Block, str | None]:
    """The block, and the file of its bytes where it carried some."""
    if block.data is None or folder is None:
        return block, None
    path = records.staging_path(folder, f"block-{uuid.uuid4().hex}.zst")
    with FileSystems.create(path, compression_type="uncompressed") as file:
        file.write(pa.compress(block.data, "zstd", asbytes=True))
    return dataclasses.replace(block, data=None), path


def _take(block: Block, path: str | None) -> Block:
    if path is None:
        return block
    data = pa.decompress(records.read_bytes(path), block.length, "zstd", asbytes=True)
    return dataclasses.replace(block, data=data)
