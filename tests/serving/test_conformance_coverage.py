"""No case of TensorFlow Serving's behaviour is forgotten: each has a test that is named by it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TABLE = Path(__file__).with_name("CASES.md")
# The cases of the table, `| R1 | ...`, and of each the place in TensorFlow Serving's sources.
CASES = dict(
    re.findall(r"^\| ([A-Z]\d+) \|.*\| (\S[^|]*) \|$", TABLE.read_text("utf-8"), re.MULTILINE)
)
# An id of parametrised tests, the end of a function's name, a class' name.
NAMES = [
    r'\(\s*"([A-Z]\d+)[-"]',
    r'id="([A-Z]\d+)[-"]',
    r"def test_\w+_([A-Z]\d+)\(",
    r"class Test([A-Z]\d+)\b",
]


@pytest.mark.parametrize("letter", sorted({case[0] for case in CASES}))
def test_every_case(letter):
    files = [
        path
        for path in Path(__file__).parent.glob("test_conformance_*.py")
        if path != Path(__file__)
    ]
    text = "\n".join(path.read_text() for path in files)
    found = {case for name in NAMES for case in re.findall(name, text)}
    every = {case for case in CASES if case[0] == letter}
    assert {case for case in found if case[0] == letter} == every


def test_the_table_has_no_gaps_and_a_source_for_each():
    assert len(CASES) == 160
    for letter in {case[0] for case in CASES}:
        numbers = sorted(int(case[1:]) for case in CASES if case[0] == letter)
        assert numbers == list(range(1, len(numbers) + 1))
    assert all(re.search(r"\w+\.(cc|h):\d+", source) for source in CASES.values())
