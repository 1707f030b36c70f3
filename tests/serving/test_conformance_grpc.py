"""gRPC: PredictionService, ModelService and health (cases G)."""

from __future__ import annotations

import shutil
import time

import grpc
import ml_dtypes
import numpy as np
import pytest

from serving.wire import protos
from serving.wire.tensors import to_array, to_proto
from tests.serving.support import expect_status

SERVING_DEFAULT = "serving_default"


def spec(name: str = "half", signature: str = "", version: int | None = None):
    """A ModelSpec."""
    message = protos.model.ModelSpec(name=name, signature_name=signature)
    if version is not None:
        message.version.value = version
    return message


def predict(name: str = "half", signature: str = "", output_filter=(), **inputs):
    """A PredictRequest; inputs are arrays."""
    request = protos.predict.PredictRequest(
        model_spec=spec(name, signature), output_filter=output_filter
    )
    for key, value in inputs.items():
        to_proto(value, request.inputs[key])
    return request


def examples(*values: float, context: float | None = None):
    """An Input with one example for each value of the feature x; None leaves it out."""

    def fill(example, value):
        if value is not None:
            example.features.feature["x"].float_list.value.append(value)

    message = protos.regression.RegressionRequest().input
    if context is not None:
        listed = message.example_list_with_context
        fill(listed.context, context)
    else:
        listed = message.example_list
    for value in values:
        fill(listed.examples.add(), value)
    return message


def tasks(*pairs, values=(80.0,)):
    """A MultiInferenceRequest: (model, signature, method) each."""
    request = protos.inference.MultiInferenceRequest(input=examples(*values))
    for name, signature, method in pairs:
        request.tasks.add(
            model_spec=spec(name, signature), method_name=f"tensorflow/serving/{method}"
        )
    return request


X = np.array([2.0, 4.0], np.float32)
REGRESS = ("half", "regress_x_to_y", "regress")
CLASSIFY = ("half", "classify_x_to_y", "classify")


def test_predict_G1(target):
    response = target.prediction.Predict(predict(x=X))
    assert response.model_spec == spec("half", SERVING_DEFAULT, 124)
    assert list(response.outputs) == ["y"]
    assert to_array(response.outputs["y"]).tolist() == [3.0, 4.0]


def test_predict_version_G1(target):
    request = predict(x=X, signature="version")
    request.model_spec.version.value = 123
    response = target.prediction.Predict(request)
    assert response.model_spec == spec("half", "version", 123)
    assert to_array(response.outputs["version"]).tolist() == [123, 123]


@pytest.mark.parametrize(
    "request_message,text",
    [
        pytest.param(protos.predict.PredictRequest(), "Missing ModelSpec", id="G2-missing"),
        pytest.param(predict(name=""), "ModelSpec has no name specified.", id="G2-unnamed"),
    ],
)
def test_no_model(target, request_message, text):
    with expect_status("INVALID_ARGUMENT", text):
        target.prediction.Predict(request_message)


def test_unknown_model_G3(target):
    with expect_status("NOT_FOUND", "Servable not found for request: Latest(foo)"):
        target.prediction.Predict(predict("foo", x=X))


def test_unknown_signature_G4(target):
    with expect_status("FAILED_PRECONDITION", 'Serving signature key "x" not found.'):
        target.prediction.Predict(predict(signature="x", x=X))


@pytest.mark.parametrize(
    "inputs,text",
    [
        pytest.param(
            {"tag": np.array(["a"])},
            "input size does not match signature: 1!=3 len({tag}) != "
            "len({sensor,signal,tag}). Sent extra: {}. "
            "Missing but required: {sensor,signal}.",
            id="G5-missing",
        ),
        pytest.param(
            {"tag": X, "signal": X, "sensor": X, "z": X},
            "Sent extra: {z}. Missing but required: {}.",
            id="G5-extra",
        ),
    ],
)
def test_inputs(target, inputs, text):
    with expect_status("INVALID_ARGUMENT", text):
        target.prediction.Predict(predict("multi", **inputs))


def columns():
    """The inputs of `multi`, one row."""
    return {
        "tag": np.array(["a"]),
        "signal": np.ones((1, 5), np.float32),
        "sensor": np.ones((1, 2, 2), np.float32),
    }


def test_filter_G6(target):
    response = target.prediction.Predict(predict("multi", output_filter=["total"], **columns()))
    assert {name: to_array(value).tolist() for name, value in response.outputs.items()} == {
        "total": [9.0]
    }


@pytest.mark.parametrize(
    "output_filter,text",
    [
        pytest.param(
            ["z"],
            "output tensor alias not found in signature: z Outputs expected to be in "
            "the set {name,total}.",
            id="G7",
        ),
        pytest.param(["total", "total"], "duplicate output tensor alias: total", id="G8"),
    ],
)
def test_filter_refused(target, output_filter, text):
    with expect_status("INVALID_ARGUMENT", text):
        target.prediction.Predict(predict("multi", output_filter=output_filter, **columns()))


def test_typed_fields_G9(target):
    answer = target.prediction.Predict(predict(x=X)).outputs["y"]
    assert (list(answer.float_val), answer.tensor_content) == ([3.0, 4.0], b"")


def test_content_G9(start):
    server = start(enable_serialization_as_tensor_content=True)
    answer = server.prediction.Predict(predict(x=X)).outputs["y"]
    assert answer.tensor_content == np.array([3, 4], np.float32).tobytes()
    assert not answer.float_val


def test_content_of_the_request_G10(target):
    request = predict()
    to_proto(X, request.inputs["x"], as_content=True)
    assert request.inputs["x"].tensor_content
    answer = target.prediction.Predict(request).outputs["y"]
    assert to_array(answer).tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    "name",
    [
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint32",
        "uint64",
        "bool",
        "float32",
        "float64",
        "complex64",
        "float16",
        "bfloat16",
    ],
)
def test_types_both_ways_G10(target, name):
    kind = ml_dtypes.bfloat16 if name == "bfloat16" else name
    value = np.array([[0, 1], [1, 100]]).astype(kind)
    for as_content in (False, True):
        request = predict("types", signature=name)
        to_proto(value, request.inputs["x"], as_content)
        found = to_array(target.prediction.Predict(request).outputs["y"])
        assert found.dtype == value.dtype
        assert found.tolist() == value.tolist()


def test_another_type_than_the_signature_G10(target):
    with expect_status("INVALID_ARGUMENT", "double", "float"):
        target.prediction.Predict(predict(x=X.astype(np.float64)))


def test_classify_and_regress_G11(target):
    request = protos.regression.RegressionRequest(
        model_spec=spec(signature="regress_x_to_y"), input=examples(80.0, 20.0)
    )
    response = target.prediction.Regress(request)
    assert [entry.value for entry in response.result.regressions] == [42.0, 12.0]
    assert response.model_spec == spec("half", "regress_x_to_y", 124)
    request = protos.classification.ClassificationRequest(
        model_spec=spec(signature="classify_x_to_y"), input=examples(20.0)
    )
    response = target.prediction.Classify(request)
    (entry,) = response.result.classifications[0].classes
    assert (entry.label, entry.score) == ("", 12.0)
    assert response.model_spec == spec("half", "classify_x_to_y", 124)


def test_empty_input_G11(target):
    request = protos.regression.RegressionRequest(model_spec=spec(signature="regress_x_to_y"))
    with expect_status("INVALID_ARGUMENT", "Input is empty."):
        target.prediction.Regress(request)


def test_context_G12(target):
    request = protos.regression.RegressionRequest(
        model_spec=spec(signature="regress_x_to_y"), input=examples(None, 20.0, context=80.0)
    )
    response = target.prediction.Regress(request)
    assert [entry.value for entry in response.result.regressions] == [42.0, 12.0]


def test_multi_inference_runs_once(target):
    """The model tells how often it was run; twice would be two numbers."""
    request = tasks(("counter", "regress", "regress"), ("counter", "classify", "classify"))
    for _ in range(2):
        first, second = target.prediction.MultiInference(request).results
        number = first.regression_result.regressions[0].value
        assert second.classification_result.classifications[0].classes[0].score == number


@pytest.mark.parametrize("signature, kind", [("input_name", "inputs"), ("output_name", "outputs")])
def test_signatures_of_other_names_C13(target, signature, kind):
    request = protos.regression.RegressionRequest(
        model_spec=spec("faulty", signature), input=examples(80.0)
    )
    with expect_status("INVALID_ARGUMENT", f"No regression {kind} found in SignatureDef"):
        target.prediction.Regress(request)


def test_multi_inference_G13(target):
    first, second = target.prediction.MultiInference(tasks(REGRESS, CLASSIFY)).results
    assert first.model_spec == spec("half", "regress_x_to_y", 124)
    assert first.regression_result.regressions[0].value == 42.0
    assert second.model_spec == spec("half", "classify_x_to_y", 124)
    assert second.classification_result.classifications[0].classes[0].score == 42.0


@pytest.mark.parametrize(
    "pairs,code,text",
    [
        pytest.param(
            [REGRESS, ("half3", "regress_x_to_y", "regress")],
            "INVALID_ARGUMENT",
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
            id="G14",
        ),
        pytest.param(
            [REGRESS, REGRESS],
            "INVALID_ARGUMENT",
            "Duplicate evaluation of signature: regress_x_to_y",
            id="G15",
        ),
        pytest.param(
            [("half", SERVING_DEFAULT, "predict")],
            "UNIMPLEMENTED",
            "Unsupported signature method_name: tensorflow/serving/predict",
            id="G16",
        ),
        pytest.param(
            [("half", "s", "regress")],
            "INVALID_ARGUMENT",
            "Requested signature not found in model graph: s",
            id="G17",
        ),
        pytest.param(
            [("", "regress_x_to_y", "regress")],
            "INVALID_ARGUMENT",
            "Found ModelSpec with an empty model name.",
            id="G18",
        ),
    ],
)
def test_multi_inference_refused(target, pairs, code, text):
    with expect_status(code, text):
        target.prediction.MultiInference(tasks(*pairs))


@pytest.mark.parametrize(
    "fields,text",
    [
        pytest.param(
            [], "GetModelMetadataRequest must specify at least one metadata_field", id="G19"
        ),
        pytest.param(["x"], "Metadata field x is not supported", id="G20"),
    ],
)
def test_metadata_refused(target, fields, text):
    request = protos.metadata.GetModelMetadataRequest(model_spec=spec(), metadata_field=fields)
    with expect_status("INVALID_ARGUMENT", text):
        target.prediction.GetModelMetadata(request)


def test_metadata_G21(target):
    request = protos.metadata.GetModelMetadataRequest(
        model_spec=spec("half3"), metadata_field=["signature_def"]
    )
    response = target.prediction.GetModelMetadata(request)
    assert response.model_spec == spec("half3", "", 123)
    signatures = protos.metadata.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def[SERVING_DEFAULT].inputs["x"].name == "x:0"
    assert "regress_x_to_y" in signatures.signature_def


def test_no_model_spec_G22(target):
    with expect_status("INVALID_ARGUMENT", "Missing ModelSpec"):
        target.prediction.GetModelMetadata(
            protos.metadata.GetModelMetadataRequest(metadata_field=["signature_def"])
        )
    with expect_status("INVALID_ARGUMENT", "Missing ModelSpec"):
        target.model.GetModelStatus(protos.status.GetModelStatusRequest())


def status(target, name: str, version: int | None = None):
    """The versions and states that GetModelStatus tells."""
    request = protos.status.GetModelStatusRequest(model_spec=spec(name, version=version))
    names = protos.status.ModelVersionStatus.State
    return [
        (entry.version, names.Name(entry.state), entry.status.error_code)
        for entry in target.model.GetModelStatus(request).model_version_status
    ]


def test_status_G23(target):
    both = [(124, "AVAILABLE", 0), (123, "AVAILABLE", 0)]
    assert status(target, "half") == both
    assert status(target, "half", 123) == both[1:]
    with expect_status("NOT_FOUND", "Could not find version 9 of model half"):
        status(target, "half", 9)
    with expect_status("NOT_FOUND", "Could not find any versions of model foo"):
        status(target, "foo")


def check_health(target, service: str) -> bytes:
    """The answer of grpc.health.v1, encoded: field 1 is the state, 1 is SERVING."""
    call = target.channel.unary_unary("/grpc.health.v1.Health/Check")
    name = service.encode()
    return call(b"\x0a" + bytes([len(name)]) + name if name else b"", timeout=5)


def test_health_G24(target):
    for service in ("", "PredictionService", "ModelService"):
        assert check_health(target, service) == b"\x08\x01"
    with expect_status("NOT_FOUND"):
        check_health(target, "other")


def test_health_switched_off_G24(start):
    server = start(enable_grpc_healthcheck_service=False)
    with expect_status("UNIMPLEMENTED"):
        check_health(server, "")


def watch_health(target):
    """The statuses that a watch of the whole server receives."""
    return target.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=20)


def test_health_watch_G24(laboratory):
    server = laboratory.start()
    gone, call = watch_health(server), watch_health(server)
    assert next(gone) == next(call) == b"\x08\x01"
    gone.cancel()  # one client leaves, the others are told nevertheless
    channel, server.channel = server.channel, None
    begin = time.monotonic()
    laboratory.stop(server)
    assert time.monotonic() - begin < 5  # a watch holds up no stop; drain_seconds is 10
    assert next(call) == b"\x08\x02"
    with pytest.raises((StopIteration, grpc.RpcError)):
        next(call)
    channel.close()


def test_health_follows_the_versions(start, tmp_path, copy_model):
    """NOT_SERVING when the last version has ended; TensorFlow Serving goes on saying SERVING."""
    copy_model("half/123", tmp_path / "1")
    server = start(model_base_path=tmp_path, file_system_poll_wait_seconds=0.05)
    call = watch_health(server)
    assert next(call) == b"\x08\x01"
    shutil.rmtree(tmp_path / "1")
    assert next(call) == b"\x08\x02"
    assert check_health(server, "PredictionService") == b"\x08\x02"
    copy_model("half/123", tmp_path / "2")
    assert next(call) == b"\x08\x01"
    call.cancel()
