"""Warm-up: recorded requests replayed on a version before it becomes available."""

from __future__ import annotations

import os
import time

from google.protobuf.message import DecodeError

from serving.server.examples_api import (
    CLASSIFY,
    classification_signature,
    classify_result,
    regress_result,
    regression_signature,
    serialized_examples,
)
from serving.server.metrics import Metrics
from serving.server.servable import DEFAULT_SIGNATURE, Servable
from serving.wire import protos
from serving.wire.errors import Code, ServingError, invalid
from serving.wire.records import DamagedRecords, read_records
from serving.wire.tensors import to_array

FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000


def warm_up(servable: Servable, iterations: int, metrics: Metrics) -> int:
    """Replays the records that lie beside a SavedModel.

    Args:
        servable: a version that no request reaches yet.
        iterations: how often each record is sent.
        metrics: where the time goes.

    Returns:
        The number of records; 0 where there is no file.

    Raises:
        ServingError: the file is damaged or holds something else, it has more records than
            TensorFlow Serving accepts, or a request failed.
    """
    path = os.path.join(servable.path, FILE)
    if not os.path.exists(path):
        return 0
    begin = time.perf_counter()
    count = 0
    try:
        with open(path, "rb") as file:
            for record in read_records(file):
                log = _parsed(record, path)
                count += 1
                if count > MAX_RECORDS:
                    raise invalid(
                        f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}"
                    )
                for _ in range(iterations):
                    replay(servable, log)
    except DamagedRecords as error:
        raise ServingError(
            Code.DATA_LOSS,
            f"{'truncated' if error.truncated else 'corrupted'} record at {error.offset}: {error}. "
            "Please verify your warmup data is in TFRecord format.",
        ) from None
    metrics.warmup_latency.add((time.perf_counter() - begin) * 1e6, servable.path, "OK")
    return count


def _parsed(record: bytes, path: str) -> "protos.prediction_log.PredictionLog":
    try:
        return protos.prediction_log.PredictionLog.FromString(record)
    except DecodeError:
        raise invalid(f"Failed to parse warmup record: {record[:256]!r} from {path}") from None


def replay(servable: Servable, log) -> None:
    """Runs one PredictionLog on a servable, on the calling thread.

    Raises:
        ServingError: UNIMPLEMENTED for a log of another kind, or what a client would have got.
    """
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if name not in servable.signatures:
            raise ServingError(
                Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
            )
        inputs = {key: to_array(proto) for key, proto in request.inputs.items()}
        inputs = {**servable.defaults(name), **inputs}
        missing = set(servable.input_names(name)) - set(inputs)
        if missing:
            raise invalid(f"warm-up request lacks the input(s) {', '.join(sorted(missing))}")
        outputs = sorted(servable.signatures[name].outputs)
        servable.run(name, inputs, servable.tensors(name, outputs))
    elif kind == "classify_log":
        request = log.classify_log.request
        _replay_examples(servable, request.input, request.model_spec.signature_name, CLASSIFY)
    elif kind == "regress_log":
        request = log.regress_log.request
        _replay_examples(servable, request.input, request.model_spec.signature_name, "")
    elif kind == "multi_inference_log":
        request = log.multi_inference_log.request
        for task in request.tasks:
            _replay_examples(
                servable, request.input, task.model_spec.signature_name, task.method_name
            )
    else:
        raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind or 'none'}")


def _replay_examples(servable: Servable, request_input, signature: str, method: str) -> None:
    name = signature or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    definition = servable.signatures[name]
    array = serialized_examples(request_input)
    if method == CLASSIFY:
        outputs = classification_signature(definition)
        fetched = _fetch(servable, name, array, outputs)
        classify_result(fetched, len(array), protos.classification.ClassificationResult())
    else:
        outputs = regression_signature(definition)
        fetched = _fetch(servable, name, array, outputs)
        regress_result(fetched, len(array), protos.regression.RegressionResult())


def _fetch(servable: Servable, signature: str, array, outputs) -> dict:
    # In the order that a request prepares.
    tensors = tuple(sorted(set(servable.tensors(signature, outputs))))
    found = dict(zip(tensors, servable.run(signature, {"inputs": array}, tensors), strict=True))
    return {name: found[of] for name, of in zip(outputs, servable.tensors(signature, outputs))}
