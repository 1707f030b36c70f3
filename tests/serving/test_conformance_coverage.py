"""No case of TensorFlow Serving's behaviour is forgotten: each has a test that is named by it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

# How many cases there are of each letter: serving/README.md says what the letters stand for.
CASES = {
    "R": 17,
    "P": 31,
    "O": 24,
    "C": 16,
    "S": 8,
    "M": 3,
    "G": 24,
    "L": 19,
    "W": 6,
    "B": 7,
    "X": 5,
}
# An id of parametrised tests, the end of a function's name, a class' name.
NAMES = [
    r'\(\s*"([A-Z]\d+)[-"]',
    r'id="([A-Z]\d+)[-"]',
    r"def test_\w+_([A-Z]\d+)\(",
    r"class Test([A-Z]\d+)\b",
]


@pytest.mark.parametrize("letter", CASES)
def test_every_case(letter):
    files = [
        path
        for path in Path(__file__).parent.glob("test_conformance_*.py")
        if path != Path(__file__)
    ]
    text = "\n".join(path.read_text() for path in files)
    found = {case for name in NAMES for case in re.findall(name, text)}
    every = {f"{letter}{number}" for number in range(1, CASES[letter] + 1)}
    assert {case for case in found if case[0] == letter} == every
