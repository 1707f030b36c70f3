"""REST `predict`: requests that are refused, and in which words (cases P)."""

from __future__ import annotations

import json

import pytest

from tests.serving.support import expect_error
from tests.serving.test_conformance_predict import COLUMNS, MULTI

FLOAT = "is not of expected type: float"
PLAIN_LIST = (
    "instances is a plain list, but expecting list of objects as multiple input tensors "
    "required as per tensorinfo_map"
)
PLAIN_VALUE = (
    "inputs is a plain value/list, but expecting an object as multiple input tensors "
    "required as per tensorinfo_map"
)


def without(record: dict, name: str) -> dict:
    """A copy that lacks one member."""
    return {key: value for key, value in record.items() if key != name}


UNKNOWN = [
    ("P1", "foo", 404, "Servable not found for request: Latest(foo)"),
    ("P2", "half/versions/50", 404, "Servable not found for request: Specific(half, 50)"),
    ("P3", "half/labels/x", 400, "Unrecognized servable version label: x"),
    ("P3-model", "foo/labels/x", 400, "Unrecognized servable version label: x"),
]
REFUSED = [
    ("P4", "half", b"", "JSON Parse error: The document is empty"),
    ("P5", "half", "instances = [1, 2]", "JSON Parse error: Invalid value. at offset: 0"),
    ("P5-offset", "half", '{"instances": [1, }', "JSON Parse error: Invalid value. at offset: 18"),
    (
        "P5-comma",
        "half",
        '{"instances": [1 2]}',
        "JSON Parse error: Missing a comma or ] after an array element. at offset: 17",
    ),
    ("P5-end", "half", '{"instances": [1]', "JSON Parse error: Missing a comma or } after"),
    ("P6", "half", "[1, 2]", "Is not object"),
    ("P7", "half", {"signature_name": "serving_default"}, "Missing 'inputs' or 'instances' key"),
    (
        "P8",
        "half",
        {"instances": [1], "inputs": [1]},
        "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist",
    ),
    ("P9", "half", {"instances": 1}, "Expecting 'instances' to be an list/array"),
    ("P10", "half", {"instances": []}, "No values in 'instances' array"),
    (
        "P11",
        "half",
        {"signature_name": 100, "instances": [1]},
        "'signature_name' key must be a string value.",
    ),
    (
        "P12",
        "half",
        {"signature_name": "x", "instances": [1]},
        'Serving signature name: "x" not found in signature def',
    ),
    ("P13", "half", {"instances": ["a"]}, FLOAT),
    ("P13-null", "half", {"instances": [None]}, FLOAT),
    ("P16", "half", {"instances": [[1, 2], [3]]}, "Expecting tensor size: 2 but got: 1"),
    ("P17", "half", {"instances": [[[1, 2]], [[1], [2]]]}, "Expecting shape [1,2] but got: [2,1]"),
    (
        "P18-size",
        "half",
        {"instances": [[[1, 2], [3]]]},
        "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
    ),
    (
        "P18-deeper",
        "half",
        {"instances": [[1, [2]]]},
        "Encountered list at unexpected level: 1 expected < 1",
    ),
    ("P18-flatter", "half", {"instances": [[[1], 2]]}, "found at incorrect level"),
    ("P19", "multi", {"instances": [[1, 2]]}, PLAIN_LIST),
    (
        "P20",
        "multi",
        {"instances": [MULTI, [1]]},
        "Expecting object but got list at item 1 of input list",
    ),
    (
        "P21",
        "half",
        {"instances": [1, {"x": 1}]},
        "Expecting value/list but got object at item 1 of input list",
    ),
    (
        "P22",
        "multi",
        {"instances": [without(MULTI, "tag")]},
        "keys must be equal to: sensor,signal,tag",
    ),
    (
        "P23",
        "multi",
        {"instances": [{**MULTI, "z": 1}]},
        "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: "
        "JSON object: does not have named input: z",
    ),
    (
        "P24",
        "multi",
        {"inputs": without(COLUMNS, "tag")},
        "Missing named input: tag in 'inputs' object.",
    ),
    ("P25", "multi", {"inputs": [1, 2]}, PLAIN_VALUE),
    (
        "P27-type",
        "bytes",
        {"signature_name": "one", "inputs": [{"b64": 5}]},
        "not formatted correctly for base64 data",
    ),
    (
        "P27-extra",
        "bytes",
        {"signature_name": "one", "inputs": [{"b64": "aGk=", "x": 1}]},
        "not formatted correctly for base64 data",
    ),
    (
        "P27-rows",
        "bytes",
        {"signature_name": "one", "instances": [{"b64": 5}]},
        "does not have named input: b64",
    ),
    (
        "P28",
        "bytes",
        {"signature_name": "one", "instances": [{"b64": "!!"}]},
        "Unable to base64 decode",
    ),
    ("P29", "half", {"inputs": [{"b64": "aGk="}]}, FLOAT),
]
TYPES = [
    ("P14-decimal", "int32", "1.5"),
    ("P14-large", "int32", "2147483648"),
    ("P14-negative", "uint32", "-1"),
    ("P14-negative-64", "uint64", "-1"),
    ("P14-large-64", "int64", "9223372036854775808"),
    ("P15-integer", "int32", "true"),
    ("P15-bool", "bool", "1"),
    ("P15-float", "float32", "true"),
    ("P15-string", "string", "1"),
]


@pytest.mark.parametrize(
    "path,status,text", [pytest.param(*case[1:], id=case[0]) for case in UNKNOWN]
)
def test_unknown_version(target, path, status, text):
    expect_error(target.post(f"/v1/models/{path}:predict", {"instances": [1]}), status, text)


@pytest.mark.parametrize(
    "model,body,text", [pytest.param(*case[1:], id=case[0]) for case in REFUSED]
)
def test_refused(target, model, body, text):
    expect_error(target.post(f"/v1/models/{model}:predict", body), 400, text)


@pytest.mark.parametrize("form", ["instances", "inputs"])
@pytest.mark.parametrize("kind,value", [pytest.param(*case[1:], id=case[0]) for case in TYPES])
def test_value_of_another_type(target, kind, value, form):
    body = f'{{"signature_name": "{kind}", "{form}": [{value}]}}'
    message = expect_error(target.post("/v1/models/types:predict", body), 400)
    name = {"float32": "float"}.get(kind, kind)
    assert f"is not of expected type: {name}" in message


def test_extra_column_P26(target):
    reply = target.post("/v1/models/multi:predict", {"inputs": {**COLUMNS, "z": [1]}})
    assert reply.json() == {"outputs": {"name": ["a"], "total": [25.0]}}


def test_long_value_P30(target):
    body = json.dumps({"instances": "x" * 100_000})
    message = expect_error(
        target.post("/v1/models/half:predict", body),
        400,
        "Expecting 'instances' to be an list/array",
    )
    assert message.count("x") > 200
    assert len(message) < 400


@pytest.mark.parametrize(
    "kind,name",
    [
        pytest.param("complex64", "complex64", id="P31-complex"),
        pytest.param("float16", "half", id="P31-half"),
    ],
)
def test_type_without_json(target, kind, name):
    columns = target.post("/v1/models/types:predict", {"signature_name": kind, "inputs": [1]})
    expect_error(columns, 501, f"Conversion of JSON Value: 1 to type: {name}")
    rows = target.post("/v1/models/types:predict", {"signature_name": kind, "instances": [1]})
    expect_error(rows, 400, "Conversion of JSON Value: 1 to type:")
