"""REST `predict`: requests that are accepted, and how answers are written (cases O)."""

from __future__ import annotations

import pytest

from tests.serving.support import expect_error

MULTI = {"tag": "a", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]}
COLUMNS = {name: [value] for name, value in MULTI.items()}
DBL_MAX, DBL_MIN = "1.7976931348623157e308", "2.2250738585072014e-308"
ACCEPTED = [
    ("O1", "half3", '{"instances": [1.0, 2.0, 5.0]}', '{"predictions":[3.5,4.0,5.5]}'),
    ("O2", "half", '{"instances": [[1, 2], [3, 4]]}', '{"predictions":[[2.5,3.0],[3.5,4.0]]}'),
    ("O3", "half", '{"inputs": [3.0, 4.0]}', '{"outputs":[3.5,4.0]}'),
    (
        "O4",
        "half",
        '{"signature_name": "serving_default", "instances": [2]}',
        '{"predictions":[3.0]}',
    ),
    (
        "O7",
        "multi",
        {"instances": [MULTI, {**MULTI, "tag": "b"}]},
        '{"predictions":[{"name":"a","total":25.0},{"name":"b","total":25.0}]}',
    ),
    ("O8", "multi", {"inputs": COLUMNS}, '{"outputs":{"name":["a"],"total":[25.0]}}'),
    ("O9-rows", "bytes", '{"signature_name": "one", "instances": ["a"]}', '{"predictions":["a"]}'),
    ("O9-columns", "bytes", '{"signature_name": "one", "inputs": ["a"]}', '{"outputs":["a"]}'),
    ("O12", "scalar", '{"inputs": [1, 2]}', '{"outputs":3.0}'),
    ("O13", "half", '{"inputs": 3.0}', '{"outputs":3.5}'),
    (
        "O14",
        "bytes",
        '{"signature_name": "one", "instances": [{"b64": "aGVsbG8="}, "x"]}',
        '{"predictions":["hello","x"]}',
    ),
    (
        "O15",
        "bytes",
        '{"instances": ["hello"]}',
        '{"predictions":[{"img_bytes":{"b64":"aGVsbG8="},"txt":"hello"}]}',
    ),
    (
        "O16",
        "half",
        '{"instances": [NaN, Infinity, -Infinity]}',
        '{"predictions":[NaN,Infinity,-Infinity]}',
    ),
    (
        "O16-short",
        "half",
        '{"signature_name": "serving_default", "instances": [Inf, -Inf, -NaN, 2], "Inf": "-Inf"}',
        '{"predictions":[Infinity,-Infinity,NaN,3.0]}',
    ),
    ("O17", "half", '{"instances": [14.0]}', '{"predictions":[9.0]}'),
    (
        "O17-short",
        "types",
        '{"signature_name": "float32", "instances": [0.2, 0.333333343]}',
        '{"predictions":[0.2,0.333333343]}',
    ),
    (
        "O17-double",
        "types",
        '{"signature_name": "float64", "instances": [0.2, 0.1234567890123]}',
        '{"predictions":[0.2,0.12345678901230001]}',
    ),
    (
        "O18",
        "types",
        '{"signature_name": "float32", "instances": [9000000, 0.00003]}',
        '{"predictions":[9e+06,3e-05]}',
    ),
    (
        "O19",
        "types",
        '{"signature_name": "float32", "instances": [1435774380]}',
        '{"predictions":[1.43577434e+09]}',
    ),
    (
        "O20",
        "types",
        f'{{"signature_name": "float32", "instances": [{DBL_MAX}, {DBL_MIN}]}}',
        '{"predictions":[Infinity,0.0]}',
    ),
    ("O21", "types", '{"signature_name": "float64", "instances": [7]}', '{"predictions":[7.0]}'),
    (
        "O22",
        "types",
        '{"signature_name": "int64", "instances": [9007199254740993, '
        "-9223372036854775808, 9223372036854775807]}",
        '{"predictions":[9007199254740993,-9223372036854775808,9223372036854775807]}',
    ),
    (
        "O22-unsigned",
        "types",
        '{"signature_name": "uint64", "instances": [18446744073709551615]}',
        '{"predictions":[18446744073709551615]}',
    ),
    ("O23", "half", '{"instances": [2]} trailing }', '{"predictions":[3.0]}'),
    ("O24", "scalar", '{"signature_name": "none", "instances": [1]}', '{"predictions":[]}'),
]


@pytest.mark.parametrize(
    "model,body,answer", [pytest.param(*case[1:], id=case[0]) for case in ACCEPTED]
)
def test_accepted(target, model, body, answer):
    reply = target.post(f"/v1/models/{model}:predict", body)
    assert reply.status == 200, reply.body
    assert reply.compact == answer


@pytest.mark.parametrize(
    "path,version",
    [
        pytest.param("/versions/123", 123, id="O5-version"),
        pytest.param("/labels/stable", 123, id="O5-label"),
        pytest.param("", 124, id="O6"),
    ],
)
def test_version(target, path, version):
    reply = target.post(
        f"/v1/models/half{path}:predict", {"signature_name": "version", "instances": [0]}
    )
    assert reply.json() == {"predictions": [version]}


REFUSED = [
    ("O10", '{"instances": [1, 2]}', "Tensor name: y has no shape information"),
    (
        "O11",
        '{"signature_name": "uneven", "instances": [1, 2]}',
        "has inconsistent batch size: 2 expecting: 1",
    ),
]


@pytest.mark.parametrize("body,text", [pytest.param(*case[1:], id=case[0]) for case in REFUSED])
def test_answer_without_rows(target, body, text):
    expect_error(target.post("/v1/models/scalar:predict", body), 400, text)
