"""The vocabularies of all columns, fitted in one pass of Beam.

`tft.vocabulary` sets up 14 stages of Beam for every column, which took most of the time of a wide
table. Here the values of all columns are counted together, so that a column more is an output more.

What they are is tft's: the most frequent value first, of equal counts the one that comes later in
the order of bytes or numbers; empty values and those with a line break, which a file of lines
cannot hold, are left out; one that has no value at all has a word that stands nowhere.

A worker holds about a million values. What is more lies in files, cut into parts by a hash of the
value; the parts are added up and sorted one after the other, and merged.
"""

import heapq
import os
import pickle
import uuid
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam.experimental as tft_beam
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.transforms.window import GlobalWindows

from models.inputs.preprocessing import Vocabulary

_HELD = 1 << 20
"""Values that a worker holds in memory."""
_PARTS = 64
_CHUNK = 4096  # counts of a file that are read at once
_NO_VALUE: dict[type, bytes | int] = {bytes: b"49d0cd50-04bb-48c0-bc6f-5b575dce351a", int: -1}


def fit(asked: Mapping[str, Vocabulary]) -> dict[str, tf.Tensor]:
    """Fits vocabularies on train, within a preprocessing function.

    Args:
        asked: name -> what is asked for. The transform graph knows the file by the name.

    Returns:
        The same names -> the path of the file, as `tft.apply_vocabulary` takes it.
    """
    if not asked:
        return {}
    rules = tuple(
        _Rule(name, int if one.column.dtype.is_integer else bytes, *one[1:])
        for name, one in asked.items()
    )
    # Each value of a batch once, and how often: of MovieLens-1M Python sees one in 23.
    counted = [tf.unique_with_counts(one.column.values, tf.int64) for one in asked.values()]
    paths = tft.experimental.ptransform_analyzer(
        [one.y for one in counted] + [one.count for one in counted],
        Fit(rules),
        [tf.string] * len(rules),
        [[]] * len(rules),
        [_line(_NO_VALUE[rule.kind], 1, rule) for rule in rules],
        name="vocabularies",
    )
    return dict(zip(asked, paths, strict=True))


class _Rule(NamedTuple):
    """A `Vocabulary` without its column, which workers do not have."""

    name: str
    kind: type
    min_count: int
    top: int | None
    with_counts: bool


class Fit(tft_beam.PTransformAnalyzer):
    """Batches, each a tuple of arrays -> the path of a file a column.

    The arrays are the different values of every column, and then how often each of them is there.

    Args:
        rules: of the columns, in their order.
    """

    def __init__(self, rules: tuple[_Rule, ...]):
        super().__init__()
        self._rules = rules

    def expand(self, batches):
        rules, folder = self._rules, self.base_temp_dir
        written = (
            batches
            | "Count" >> beam.ParDo(_Count(len(rules), folder))
            | "Parts" >> beam.GroupByKey()
            | "Add" >> beam.FlatMapTuple(lambda key, found: _add(key[0], found, rules, folder))
            | "Columns" >> beam.GroupByKey()
            | "Write" >> beam.MapTuple(lambda number, found: _write(number, found, rules, folder))
            | "Together" >> beam.combiners.ToDict()
        )
        names = [str(number) for number in range(len(rules))]
        paths = written | "Paths" >> beam.FlatMap(_paths, rules, folder).with_outputs(*names)
        return tuple(paths[name] for name in names)


_Value = bytes | int
_Counts = list[tuple[int, _Value]]
"""How often a value is there, and the value."""


@dataclass(frozen=True)
class _Stored:
    """Counts that lie in a file: so many chunks from a place on."""

    path: str
    begin: int
    chunks: int

    def __iter__(self) -> Iterator[tuple[int, _Value]]:
        with FileSystems.open(self.path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.seek(self.begin)
            for _ in range(self.chunks):
                yield from pickle.load(file)


class _Count(beam.DoFn):
    """Batches -> (number of the column, part) and how often each value of the part is there.

    Args:
        columns: how many.
        folder: where files may lie.
    """

    def __init__(self, columns: int, folder: str):
        self._columns, self._folder = columns, folder

    def start_bundle(self) -> None:
        self._held: list[Counter[_Value]] = [Counter() for _ in range(self._columns)]

    def process(self, batch: tuple[np.ndarray, ...]) -> Iterator[Any]:
        columns = len(self._held)
        for held, values, counts in zip(self._held, batch[:columns], batch[columns:], strict=True):
            for value, times in zip(values.tolist(), counts.tolist(), strict=True):
                held[value] += times
        if sum(map(len, self._held)) >= _HELD:
            parts = self._parts()
            yield from zip(parts, _store(parts.values(), self._folder), strict=True)
            self.start_bundle()

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(GlobalWindows.windowed_value, self._parts().items())

    def _parts(self) -> dict[tuple[int, int], _Counts]:
        """What is held, but for what has no place in a file of lines."""
        parts: dict[tuple[int, int], _Counts] = defaultdict(list)
        for number, held in enumerate(self._held):
            for value, times in held.items():
                if isinstance(value, int):
                    parts[number, value % _PARTS].append((times, value))
                elif value and b"\n" not in value and b"\r" not in value:
                    parts[number, zlib.crc32(value) % _PARTS].append((times, value))
        return parts


def _add(
    number: int, found: Iterable[_Counts | _Stored], rules: tuple[_Rule, ...], folder: str
) -> Iterator[tuple[int, _Counts | _Stored]]:
    """Adds up a part of a column: the column's number, and what the rule leaves, in order."""
    rule, total = rules[number], Counter[_Value]()
    for counts in found:
        for times, value in counts:
            total[value] += times
    enough = ((times, value) for value, times in total.items() if times >= rule.min_count)
    ordered = sorted(enough, reverse=True)[: rule.top]
    if len(ordered) > _HELD // _PARTS:
        yield number, _store([ordered], folder)[0]
    elif ordered:
        yield number, ordered


def _write(
    number: int, found: Iterable[_Counts | _Stored], rules: tuple[_Rule, ...], folder: str
) -> tuple[int, str]:
    """Writes the vocabulary of a column; returns the column's number and the file."""
    rule = rules[number]
    merged = heapq.merge(*found, reverse=True)
    first = next(merged, (1, _NO_VALUE[rule.kind]))
    path = _new(folder, rule.name)
    with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        for times, value in islice(chain([first], merged), rule.top):
            file.write(_line(value, times, rule) + b"\n")
    return number, path


def _store(many: Iterable[_Counts], folder: str) -> list[_Stored]:
    """Writes lists of counts to one file; returns where each of them lies."""
    path, place, stored = _new(folder, "counts"), 0, []
    with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        for counts in many:
            chunks = [
                pickle.dumps(counts[begin : begin + _CHUNK])
                for begin in range(0, len(counts), _CHUNK)
            ]
            file.write(b"".join(chunks))
            stored.append(_Stored(path, place, len(chunks)))
            place += sum(map(len, chunks))
    return stored


def _new(folder: str, name: str) -> str:
    """A file in a folder of its own: work that is done twice must not write into one."""
    folder = os.path.join(folder, uuid.uuid4().hex)
    FileSystems.mkdirs(folder)
    return os.path.join(folder, name)


def _line(value: bytes | int, times: int, rule: _Rule) -> bytes:
    text = value if isinstance(value, bytes) else b"%d" % value
    return b"%d %s" % (times, text) if rule.with_counts else text


def _paths(
    written: dict[int, str], rules: tuple[_Rule, ...], folder: str
) -> Iterator[beam.pvalue.TaggedOutput]:
    """The files as an output each; a column without any value has one too."""
    for number in range(len(rules)):
        path = written.get(number) or _write(number, (), rules, folder)[1]
        yield beam.pvalue.TaggedOutput(str(number), np.array(path))
