"""Vocabularies: the files by hand, and their paths as Transform takes them."""

from collections import Counter
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that

from components.transform import vocabularies
from components.transform.vocabularies import Fit, _Rule

BATCHES = [
    (np.array([b"b", b"a", b"", b"c\n", b"a"], object), np.array([7, 7, 10])),
    (np.array([b"b", b"d\r", b"c"], object), np.array([9, 10])),
]


def fitted(tmp_path, batches, *rules):
    """The lines of the vocabulary of each rule."""
    fit, columns = Fit(rules), []
    counted = ([np.unique(values, return_counts=True) for values in batch] for batch in batches)
    batches = [(*(y for y, _ in batch), *(count for _, count in batch)) for batch in counted]
    fit.base_temp_dir = str(tmp_path)
    with beam.Pipeline() as pipeline:
        paths = pipeline | beam.Create(batches, reshuffle=False) | fit
        for number, path in enumerate(paths):

            def read(found):
                (path,) = found  # one element an output
                assert path.dtype.kind == "U" and path.shape == ()

            assert_that(path, read, label=f"output {number}")
    for rule in rules:
        (file,) = Path(tmp_path).glob(f"*/{rule.name}")  # called as the transform graph asks
        columns.append(file.read_bytes().splitlines())
    return columns


def test_the_most_frequent_first_and_of_equals_the_later(tmp_path):
    # Texts: a and b twice, c once. Numbers: 7 and 10 twice, 9 once; 10 is later than 7.
    words, ids, counts, frequent = fitted(
        tmp_path,
        [(*one, one[0], one[0]) for one in BATCHES],
        _Rule("words", bytes, 1, None, False),
        _Rule("ids", int, 1, 2, False),
        _Rule("counts", bytes, 1, None, True),
        _Rule("frequent", bytes, 2, None, False),
    )
    assert words == [b"b", b"a", b"c"] and ids == [b"10", b"7"]
    assert counts == [b"2 b", b"2 a", b"1 c"] and frequent == [b"b", b"a"]


def test_a_column_without_values_has_a_word_that_stands_nowhere(tmp_path):
    none = np.array([b""], object), np.array([], np.int64), np.array([b"a"], object)
    empty, numbers, rare = fitted(
        tmp_path,
        [none],
        _Rule("empty", bytes, 1, None, False),
        _Rule("numbers", int, 1, None, False),
        _Rule("rare", bytes, 2, None, False),
    )
    assert len(empty) == len(rare) == 1 and len(empty[0]) == 36 and numbers == [b"-1"]


def drawn(rows):
    """Batches of a column of words and one of numbers: a few are frequent, most are there once."""
    random = np.random.default_rng(0)
    for _ in range(0, rows, 100):
        values = random.zipf(1.2, 100) % 100_000
        yield np.array([b"w%x" % value for value in values], object), values


@pytest.mark.parametrize("held", [1 << 20, 200])
def test_values_that_lie_in_files_are_the_vocabulary_that_those_in_memory_are(
    tmp_path, monkeypatch, held
):
    monkeypatch.setattr(vocabularies, "_HELD", held)
    batches = list(drawn(5_000))
    words, frequent, numbers = fitted(
        tmp_path,
        [(words, words, numbers) for words, numbers in batches],
        _Rule("words", bytes, 1, None, True),
        _Rule("frequent", bytes, 2, 100, False),
        _Rule("numbers", int, 1, None, False),
    )
    ordered = [
        sorted(((times, value) for value, times in Counter(column).items()), reverse=True)
        for column in (np.concatenate(each).tolist() for each in zip(*batches, strict=True))
    ]
    assert len(ordered[0]) > 1000 and sum(times > 1 for times, _ in ordered[0]) > 100
    assert words == [b"%d %s" % each for each in ordered[0]]
    assert frequent == [value for _, value in ordered[0][:100]]
    assert numbers == [b"%d" % value for _, value in ordered[1]]
    in_files = sum(1 for _ in tmp_path.glob("*/counts"))
    assert (in_files > 20) == (held == 200)
