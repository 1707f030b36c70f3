"""Readers: the files of a layout to the tables `events`, `items`, `users`, as a Beam PTransform.

Each block is read, typed and checked by whichever worker gets it.
"""

import apache_beam as beam

from components.read.raw import BLOCK_BYTES, blocks
from components.read.sources import Source
from components.read.typed import Parsed, parse

__all__ = ["BLOCK_BYTES", "Parsed", "ReadSource", "blocks", "parse"]


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
