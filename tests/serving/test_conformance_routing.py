"""REST: routes, status and metadata (cases R, S, M)."""

from __future__ import annotations

import gzip
import json
import socket

import pytest

from tests.serving.support import entry, eventually, expect_error

BODY = '{"instances": [2.0]}'
ROUTES = [
    ("R1", "GET", "/v1/foo", "Malformed request: GET /v1/foo"),
    ("R2", "GET", "/v1/models", "Missing model name in request."),
    ("R3", "GET", "/v1/models/debug/model_name", "Malformed request"),
    ("R4", "POST", "/v1/models", "Malformed request: POST /v1/models"),
    ("R5", "GET", "/v1/models/half:predict", "Malformed request"),
    ("R6", "POST", "/v1/models/half/metadata", "Malformed request"),
    ("R7", "POST", "/v1/models/half/version/50:regress", "Malformed request"),
    ("R8", "POST", "/v1/models/half/versions/HELLO:regress", "Malformed request"),
    (
        "R9",
        "POST",
        f"/v1/models/half/versions/{'9' * 20}:predict",
        f"Failed to convert version: {'9' * 20} to numeric.",
    ),
    ("R9-long", "POST", f"/v1/models/half/versions/{'9' * 5000}:predict", "to numeric."),
    ("R10", "POST", "/v1/models/half/label/x:regress", "Malformed request"),
    ("R11", "POST", "/v1/models/half/versions/1/labels/x:predict", "Malformed request"),
    ("R14-put", "PUT", "/v1/models/half:predict", "Malformed request: PUT"),
    ("R14-delete", "DELETE", "/v1/models/half", "Malformed request: DELETE"),
]


@pytest.mark.parametrize(
    "method,path,text", [pytest.param(*case[1:], id=case[0]) for case in ROUTES]
)
def test_route_refused(target, method, path, text):
    expect_error(target.send(method, path, BODY.encode() if method != "GET" else None), 400, text)


class TestR1:
    def test_outside_the_api(self, target):
        reply = target.get("/other")
        assert reply.status == 404
        with pytest.raises(ValueError):
            reply.json()


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/V1/MODELS/half:predict", id="R12-path"),
        pytest.param("/v1/models/half:PREDICT", id="R12-method"),
    ],
)
def test_case_of_the_path(target, path):
    assert target.post(path, BODY).compact == '{"predictions":[3.0]}'


def test_a_target_with_the_host(target):
    """As a client sends it to a proxy, which hands it on."""
    with socket.create_connection((target.host, target.rest), timeout=20) as connection:
        line = f"POST http://{target.host}:{target.rest}/v1/models/half:predict HTTP/1.1\r\n"
        head = f"Host: h\r\nConnection: close\r\nContent-Length: {len(BODY)}\r\n\r\n"
        connection.sendall((line + head + BODY).encode())
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b'{"predictions": [3.0]}')


def test_a_query_is_a_part_of_the_path(target):
    reply = target.post("/v1/models/half:predict?verbose=1", BODY)
    expect_error(reply, 400, "Malformed request: POST /v1/models/half:predict?verbose=1")


def test_case_of_the_name_R12(target):
    expect_error(target.post("/v1/models/HALF:predict", BODY), 404, "Latest(HALF)")


@pytest.mark.parametrize(
    "path,answer",
    [
        pytest.param("/v1/models/a%20b:predict", 4.0, id="R13-blank"),
        pytest.param("/v1/models/a%2Fb:predict", 4.0, id="R13-slash"),
        pytest.param("/v1/models/half/labels/%73table:predict", 3.0, id="R13-label"),
    ],
)
def test_encoded_path(target, path, answer):
    assert target.post(path, BODY).json() == {"predictions": [answer]}


class TestR15:
    def test_options(self, target):
        reply = target.send("OPTIONS", "/v1/models/half:predict", headers={"Origin": "https://h"})
        assert (reply.status, reply.body) == (200, b"")
        assert "access-control-allow-origin" not in reply.headers

    def test_without_origin(self, target):
        reply = target.send("OPTIONS", "/v1/models/half:predict")
        assert (reply.status, reply.body) == (400, b"")

    def test_cors(self, start):
        server = start(rest_api_enable_cors_support=True)
        reply = server.send("OPTIONS", "/v1/models/half", headers={"Origin": "https://h"})
        headers = {
            name: reply.headers.get(f"access-control-allow-{name}")
            for name in ("origin", "methods", "headers")
        }
        assert headers == {"origin": "*", "methods": "POST, GET", "headers": "Content-Type"}
        answer = server.send("POST", "/v1/models/half:predict", BODY.encode())
        assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "method,path,status",
    [
        pytest.param("POST", "/v1/models/half:predict", 200, id="R16-predict"),
        pytest.param("GET", "/v1/models/half", 200, id="R16-status"),
        pytest.param("GET", "/v1/models/half/metadata", 200, id="R16-metadata"),
        pytest.param("POST", "/v1/models/foo:predict", 404, id="R16-error"),
    ],
)
def test_content_type(target, method, path, status):
    reply = target.send(method, path, BODY.encode() if method == "POST" else None)
    assert reply.status == status
    assert reply.headers["content-type"] == "application/json"


def test_gzip_R17(target):
    reply = target.send(
        "POST",
        "/v1/models/half:predict",
        gzip.compress(BODY.encode()),
        {"Content-Encoding": "gzip"},
    )
    assert reply.json() == {"predictions": [3.0]}


# --- status


def _version(number: int, state: str = "AVAILABLE") -> dict:
    return {
        "version": str(number),
        "state": state,
        "status": {"error_code": "OK", "error_message": ""},
    }


@pytest.mark.parametrize(
    "path,versions",
    [
        pytest.param("half3", [123], id="S1"),
        pytest.param("half", [124, 123], id="S2"),
        pytest.param("half/versions/123", [123], id="S3"),
        pytest.param("half/labels/stable", [124, 123], id="S6"),
    ],
)
def test_status(target, path, versions):
    expected = {"model_version_status": [_version(number) for number in versions]}
    assert target.get(f"/v1/models/{path}").json() == expected


@pytest.mark.parametrize(
    "path,text",
    [
        pytest.param("half/versions/9", "Could not find version 9 of model half", id="S4"),
        pytest.param("foo", "Could not find any versions of model foo", id="S5"),
    ],
)
def test_status_unknown(target, path, text):
    expect_error(target.get(f"/v1/models/{path}"), 404, text)


def test_failed_version_S7(target, scratch, copy_model):
    folder = scratch("failed")
    copy_model("half3/123", folder / "1")
    target.reload(entry(folder.name, folder))
    (folder / "2").mkdir()
    eventually(lambda: target.states(folder.name).get(2) == "END")
    found = target.get(f"/v1/models/{folder.name}").json()["model_version_status"]
    assert found[0]["version"] == "2"
    assert found[0]["status"]["error_code"] == "NOT_FOUND"
    assert "Could not find SavedModel .pb or .pbtxt" in found[0]["status"]["error_message"]
    assert found[1] == _version(1)


def test_unloaded_version_S8(target, scratch, copy_model):
    folder = scratch("unloaded")
    copy_model("half3/123", folder / "1")
    target.reload(entry(folder.name, folder))
    copy_model("half3/123", folder / "2")
    eventually(lambda: target.states(folder.name) == {1: "END", 2: "AVAILABLE"})
    found = target.get(f"/v1/models/{folder.name}").json()["model_version_status"]
    assert found == [_version(2), _version(1, "END")]


# --- metadata


def test_metadata_M1(target):
    document = target.get("/v1/models/half3/metadata").json()
    assert document["model_spec"] == {"name": "half3", "signature_name": "", "version": "123"}
    signatures = document["metadata"]["signature_def"]["signature_def"]
    assert sorted(signatures) == [
        "classify_of_tf2",
        "classify_x_to_y",
        "regress_of_tf2",
        "regress_x_to_y",
        "serving_default",
        "tensorflow/serving/regress",
        "version",
    ]
    default = signatures["serving_default"]
    assert default["method_name"] == "tensorflow/serving/predict"
    assert default["inputs"] == {
        "x": {
            "dtype": "DT_FLOAT",
            "name": "x:0",
            "tensor_shape": {"dim": [], "unknown_rank": True},
        }
    }
    examples = signatures["regress_x_to_y"]["inputs"]["inputs"]["tensor_shape"]
    assert examples == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}


def test_metadata_of_unknown_M2(target):
    expect_error(
        target.get("/v1/models/foo/metadata"), 404, "Servable not found for request: Latest(foo)"
    )


@pytest.mark.parametrize(
    "path,version",
    [
        pytest.param("/versions/123", "123", id="M3-version"),
        pytest.param("/labels/canary", "124", id="M3-label"),
        pytest.param("", "124", id="M3-latest"),
    ],
)
def test_metadata_of_a_version(target, path, version):
    document = json.loads(target.get(f"/v1/models/half{path}/metadata").body)
    assert document["model_spec"]["version"] == version
