"""The fast reader of JSON reads what it reads as our own does, and leaves it the rest."""

from __future__ import annotations

import json
import random

import pytest

from serving.server.json.text import _parse_fast, _parse_slow
from tests.serving.support import AWKWARD_IDS

TEXTS = [each if isinstance(each, str) else "plain" for each in AWKWARD_IDS] + ["", '"', "\\u0041"]
NUMBERS = [0, -0.0, 1, -1, 2**53 + 1, 10**18 - 1, 0.1, 1e-320, 1.7976931348623157e308, 5e-324, 1e22]


def document(draw: random.Random, depth: int = 0):
    """Any JSON value, up to four levels deep."""
    kind = draw.randrange(8 if depth < 4 else 5)
    if kind < 2:
        return draw.choice([*NUMBERS, draw.uniform(-1e6, 1e6), draw.randrange(-(10**12), 10**12)])
    if kind < 4:
        return draw.choice(TEXTS) + chr(draw.randrange(0x20, 0xD800))
    if kind == 4:
        return draw.choice([True, False, None])
    members = [document(draw, depth + 1) for _ in range(draw.randrange(5))]
    return members if kind < 7 else {draw.choice(TEXTS): member for member in members}


def test_random_documents_are_read_alike():
    draw = random.Random(18)
    for _ in range(500):
        value = document(draw)
        body = json.dumps(value, ensure_ascii=draw.random() < 0.5, indent=draw.choice([None, 1]))
        fast, slow = _parse_fast(body.encode()), _parse_slow(body.encode())
        # As text, which tells 1 from 1.0 and 0.0 from -0.0.
        assert json.dumps(fast) == json.dumps(slow) == json.dumps(value)


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [NaN, Infinity, -Infinity, Inf, -Inf, -NaN]}',
        b'["\xff\xfe"]',
        b'{"a": 1} and more',
        b"\xef\xbb\xbf[1]",
        b"[1234567890123456789012]",
        b"[0.1234567890123456789]",
        b'{"a": 1, "a": 2}',
        b"[-0, -0.0, 1E5, 1e-5]",
        b'["\\u00e9\\ud83c\\udfac"]',
    ],
)
def test_what_is_read_is_read_alike(body):
    fast, slow = _parse_fast(body), _parse_slow(body)
    assert fast is None or json.dumps(fast) == json.dumps(slow)
