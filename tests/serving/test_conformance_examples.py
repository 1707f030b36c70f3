"""REST `classify` and `regress` (cases C)."""

from __future__ import annotations

import pytest

from tests.serving.support import expect_error

ONE = {"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}]}
REGRESS, CLASSIFY = "half:regress", "half:classify"
REFUSED = [
    ("C3", REGRESS, {}, "key 'examples' is expected and was not found"),
    ("C4", REGRESS, {"examples": {"x": 1.0}}, "Expecting 'examples' value to be an list/array"),
    ("C5", REGRESS, {"examples": []}, "'examples' value is an empty array"),
    ("C6", REGRESS, {"examples": [[1.0]]}, "Example must be JSON object but got JSON Array"),
    (
        "C6-context",
        REGRESS,
        {"context": [1], "examples": [{"x": 1.0}]},
        "Example must be JSON object but got JSON Array",
    ),
    ("C7", REGRESS, {"examples": [{"x": [None]}]}, "has element with unexpected JSON type: Null"),
    ("C8", REGRESS, {"examples": [{"x": [10, 10.0]}]}, "expecting type: int64"),
    ("C9", REGRESS, {"examples": [{"x": [[1.0]]}]}, "unexpected JSON type: Array"),
    (
        "C10",
        REGRESS,
        {"examples": [{"x": [18446744073709551603]}]},
        "has uint64_t element. Only int64_t is supported.",
    ),
]
SIGNATURES = [
    ("C13-outputs", "regress", "two_outputs", "Expected one output Tensor."),
    ("C13-input-name", "regress", "input_name", "No regression inputs found in SignatureDef"),
    ("C13-output-name", "regress", "output_name", "No regression outputs found in SignatureDef"),
    ("C14", "regress", "x", "No signature was found with the name: x"),
    ("C14-classify", "classify", "x", "No signature was found with the name: x"),
    (
        "C15-shape",
        "regress",
        "wide",
        "Expected output Tensor shape to be either [batch_size] or [batch_size, 1]",
    ),
    ("C15-type", "regress", "double", "Expected output Tensor of DT_FLOAT"),
    ("C16-classes", "classify", "numeric_classes", "Expected classes Tensor of DT_STRING"),
    ("C16-scores", "classify", "double_scores", "Expected scores Tensor of DT_FLOAT"),
    ("C16-rank", "classify", "flat_scores", "Expected Tensor shape: [batch_size num_classes]"),
    (
        "C16-sizes",
        "classify",
        "sizes_differ",
        "Tensors class and score should match in dim_size(1). Got 2 vs. 1",
    ),
    ("C16-rows", "classify", "few_scores", "Expected scores output batch size of 2. Got: 1"),
]


def ask(target, path: str, body) -> object:
    """The `results` of an answer that must be 200."""
    reply = target.post(f"/v1/models/{path}", body)
    assert reply.status == 200, reply.body
    document = reply.json()
    assert list(document) == ["results"]
    return document["results"]


def test_regress_C1(target):
    assert target.post("/v1/models/half:regress", ONE).compact == '{"results":[42.0]}'


def test_classify_C2(target):
    body = {"signature_name": "classify_x_to_y", "examples": [{"x": 20.0}]}
    reply = target.post("/v1/models/half:classify", body)
    assert reply.compact == '{"results":[[["",12.0]]]}'


def test_signatures_of_tensorflow_2(target):
    """All of them have the method `predict`, and are classified and regressed all the same."""
    body = {"signature_name": "regress_of_tf2", "examples": [{"x": 80.0}]}
    assert ask(target, REGRESS, body) == [42.0]
    body = {"signature_name": "classify_of_tf2", "examples": [{"x": 20.0}]}
    assert ask(target, "half:classify", body) == [[["", 12.0]]]


@pytest.mark.parametrize(
    "signature,results",
    [
        pytest.param("both", [[["20.000000", 20.0], ["20.000000", 20.0]]], id="C2-both"),
        pytest.param("classes", [[["20.000000", 0.0], ["20.000000", 0.0]]], id="C2-classes"),
    ],
)
def test_classify_with_classes(target, signature, results):
    body = {"signature_name": signature, "examples": [{"x": 20.0}]}
    assert ask(target, "faulty:classify", body) == results


@pytest.mark.parametrize(
    "path,body,text", [pytest.param(*case[1:], id=case[0]) for case in REFUSED]
)
def test_refused(target, path, body, text):
    body = {"signature_name": "regress_x_to_y", **body}
    expect_error(target.post(f"/v1/models/{path}", body), 400, text)


def test_bool_is_int64_C11(target):
    """A float feature refuses an int64: so it is seen which of them a bool becomes."""
    body = {**ONE, "examples": [{"x": True}]}
    message = expect_error(target.post("/v1/models/half:regress", body), 400)
    assert "Data types don't match" in message and "int64" in message
    # Beside an integer it is one; beside a float it is not.
    body = {**ONE, "examples": [{"y": [True, 2], "x": 80.0}]}
    assert ask(target, REGRESS, body) == [42.0]
    body = {**ONE, "examples": [{"y": [False, 2.0], "x": 80.0}]}
    expect_error(target.post("/v1/models/half:regress", body), 400, "expecting type: int64")


def test_context_C12(target):
    body = {**ONE, "context": {"x": 80.0}, "examples": [{}, {"x": 20.0}]}
    assert ask(target, REGRESS, body) == [42.0, 12.0]


@pytest.mark.parametrize(
    "method,signature,text", [pytest.param(*case[1:], id=case[0]) for case in SIGNATURES]
)
def test_signature(target, method, signature, text):
    body = {"signature_name": signature, "examples": [{"x": 1.0}, {"x": 2.0}]}
    expect_error(target.post(f"/v1/models/faulty:{method}", body), 400, text)
