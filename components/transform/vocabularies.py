"""The vocabularies of all columns, fitted in one pass of Beam.

`tft.vocabulary` sets up 14 stages of Beam for every column, which took most of the time of a wide
table. Here the values of all columns are counted together, so that a column more is an output more.

What they are is tft's: the most frequent value first, of equal counts the one that comes later in
the order of bytes or numbers; empty values and those with a line break, which a file of lines
cannot hold, are left out; one that has no value at all has a word that stands nowhere.
"""

import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam.experimental as tft_beam
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from models.inputs.preprocessing import Vocabulary

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
    paths = tft.experimental.ptransform_analyzer(
        [one.column.values for one in asked.values()],
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
    """Batches, each a tuple of an array a column -> the path of a file a column.

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
            | "Count" >> beam.FlatMap(count)
            | "Add" >> beam.CombinePerKey(sum)
            | "Enough" >> beam.FlatMap(_enough, rules)
            | "Group" >> beam.GroupByKey()
            | "Write" >> beam.MapTuple(lambda number, found: _write(number, found, rules, folder))
            | "Together" >> beam.combiners.ToDict()
        )
        names = [str(number) for number in range(len(rules))]
        paths = written | "Paths" >> beam.FlatMap(_paths, rules, folder).with_outputs(*names)
        return tuple(paths[name] for name in names)


def count(batch: tuple[np.ndarray, ...]) -> Iterator[tuple[tuple[int, bytes | int], int]]:
    """How often each value is in each column of a batch, but for what has no place in a file."""
    for number, values in enumerate(batch):
        for value, times in Counter(values.ravel().tolist()).items():
            if isinstance(value, int) or value and b"\n" not in value and b"\r" not in value:
                yield (number, value), times


def _enough(
    found: tuple[tuple[int, bytes | int], int], rules: tuple[_Rule, ...]
) -> Iterator[tuple[int, tuple[int, bytes | int]]]:
    (number, value), times = found
    if times >= rules[number].min_count:
        yield number, (times, value)


def _write(
    number: int, found: Iterable[tuple[int, bytes | int]], rules: tuple[_Rule, ...], folder: str
) -> tuple[int, str]:
    """Writes the vocabulary of a column; returns the column's number and the file."""
    rule = rules[number]
    # In a folder of its own: work that is done twice must not write into one file.
    folder = os.path.join(folder, uuid.uuid4().hex)
    FileSystems.mkdirs(folder)
    path = os.path.join(folder, rule.name)
    ordered = sorted(found, reverse=True)[: rule.top] or [(1, _NO_VALUE[rule.kind])]
    with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        for times, value in ordered:
            file.write(_line(value, times, rule) + b"\n")
    return number, path


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
