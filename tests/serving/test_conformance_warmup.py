"""Warm-up: recorded requests replayed before a version serves (cases W)."""

from __future__ import annotations

import numpy as np
import pytest

from serving.wire import protos
from serving.wire.tensors import to_proto
from tests.serving.support import entry, eventually, write_records
from tests.serving.test_conformance_grpc import examples

FILE = "assets.extra/tf_serving_warmup_requests"
ZERO = {"instances": [0.0]}


def predict_record(value: float, signature: str = "") -> bytes:
    """A predict log with one row of x."""
    log = protos.prediction_log.PredictionLog()
    request = log.predict_log.request
    request.model_spec.signature_name = signature
    to_proto(np.array([value], np.float32), request.inputs["x"])
    return log.SerializeToString()


def examples_record(kind: str, signature: str) -> bytes:
    """A classify, regress or multi_inference log with one example."""
    log = protos.prediction_log.PredictionLog()
    request = getattr(log, f"{kind}_log").request
    request.input.CopyFrom(examples(20.0))
    if kind == "multi_inference":
        task = request.tasks.add(method_name="tensorflow/serving/regress")
        task.model_spec.signature_name = signature
    else:
        request.model_spec.signature_name = signature
    return log.SerializeToString()


@pytest.fixture
def try_version(target, scratch, copy_model):
    """A function that serves version 1, then adds version 2 with warm-up records.

    It returns version 2's entry of the status once it is settled, and the model's name.
    """

    def try_version(source: str, records: list[bytes] | None) -> dict:
        folder = scratch("warm")
        name = folder.name
        copy_model(source, folder / "1")
        target.reload(entry(name, folder))
        copy_model(source, folder / ".2")
        if records is not None:
            write_records(folder / ".2" / FILE, records)
        (folder / ".2").rename(folder / "2")
        eventually(lambda: target.states(name).get(2) in ("AVAILABLE", "END"))
        found = target.get(f"/v1/models/{name}/versions/2").json()["model_version_status"]
        return {"name": name, "state": found[0]["state"], **found[0]["status"]}

    return try_version


def test_no_file_W1(target, try_version):
    found = try_version("counter/1", None)
    assert found["state"] == "AVAILABLE"
    assert target.post(f"/v1/models/{found['name']}:predict", ZERO).json() == {"predictions": [1]}


def test_replayed_once_each_W2(target, try_version):
    found = try_version("counter/1", [predict_record(0.0), predict_record(1.0)])
    assert found["state"] == "AVAILABLE"
    assert target.post(f"/v1/models/{found['name']}:predict", ZERO).json() == {"predictions": [3]}


@pytest.mark.parametrize(
    "kind,signature",
    [
        pytest.param("classify", "classify_x_to_y", id="W2-classify"),
        pytest.param("regress", "regress_x_to_y", id="W2-regress"),
        pytest.param("multi_inference", "regress_x_to_y", id="W2-multi"),
    ],
)
def test_kind_of_record(try_version, kind, signature):
    good, bad = examples_record(kind, signature), examples_record(kind, "missing")
    assert try_version("half/123", [good])["state"] == "AVAILABLE"
    found = try_version("half/123", [good, bad])
    # Only a record that is run can fail.
    assert found["state"] == "END"
    assert "missing" in found["error_message"]


def test_iterations_W2(start, tmp_path, copy_model):
    copy_model("counter/1", tmp_path / "1")
    write_records(tmp_path / "1" / FILE, [predict_record(0.0)])
    server = start(model_base_path=tmp_path, num_request_iterations_for_warmup=4)
    assert server.post("/v1/models/default:predict", ZERO).json() == {"predictions": [5]}


REFUSED = [
    ("W3", [b"\xff\xff no message"], "INVALID_ARGUMENT", "Failed to parse warmup record: "),
    (
        "W4",
        [predict_record(0.0)] * 1001,
        "INVALID_ARGUMENT",
        "Number of warmup records exceeds the maximum (1000) at ",
    ),
    ("W5", [predict_record(0.0), predict_record(-1.0)], "INVALID_ARGUMENT", "value is negative"),
    (
        "W5-input",
        [examples_record("regress", "double")],
        "INVALID_ARGUMENT",
        "Expected output Tensor of DT_FLOAT",
    ),
]


@pytest.mark.parametrize(
    "records,code,text", [pytest.param(*case[1:], id=case[0]) for case in REFUSED]
)
def test_version_refused(target, try_version, records, code, text):
    found = try_version("faulty/1", records)
    assert (found["state"], found["error_code"]) == ("END", code)
    assert text in found["error_message"]
    # The version before goes on.
    assert target.post(f"/v1/models/{found['name']}:predict", ZERO).json() == {"predictions": [0.0]}


def test_switched_off_W6(start, tmp_path, copy_model):
    copy_model("counter/1", tmp_path / "1")
    write_records(tmp_path / "1" / FILE, [b"\xff\xff no message"])
    server = start(model_base_path=tmp_path, enable_model_warmup=False)
    assert server.post("/v1/models/default:predict", ZERO).json() == {"predictions": [1]}
