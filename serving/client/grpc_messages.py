"""The gRPC messages of the clients."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import grpc
import numpy as np
import numpy.typing as npt

from serving.client.messages import (
    Document,
    Inputs,
    LongIntegers,
    Outputs,
    VersionStatus,
    no_grpc,
)
from serving.state.store import Written
from serving.wire import protos
from serving.wire.errors import Code, ServingError
from serving.wire.proto_json import message_to_dict
from serving.wire.tensors import to_array, to_bytes, to_proto

_IDS = ("user_id", "item_id")


def predict_request(
    model: str,
    inputs: Inputs,
    signature: str,
    version: int | None,
    label: str | None,
    output_filter: tuple[str, ...],
) -> Any:
    """A PredictRequest.

    Args:
        model: its name.
        signature: of the model.
        version: ask for this version rather than the newest.
        label: ask for the version with this label.
        output_filter: the outputs to return; none for all.
        inputs: arrays, or nested lists: strings become string tensors, `bool` bool, integers int32
            where they fit and int64 where not, other numbers float. Give an array where the
            signature wants another type.
    """
    request = protos.predict.PredictRequest(
        model_spec=model_spec(model, version, label), output_filter=output_filter
    )
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        to_proto(_array(value), request.inputs[name])
    return request


def model_spec(model: str, version: int | None, label: str | None) -> Any:
    """A ModelSpec."""
    spec = protos.model.ModelSpec(name=model)
    if version is not None:
        spec.version.value = version
    elif label:
        spec.version_label = label
    return spec


def _array(value: Any) -> npt.NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, LongIntegers):
        return np.array(value, np.int64)
    first, shape = value, []
    while isinstance(first, (list, tuple)):
        shape.append(len(first))
        first = first[0] if first else ""
    if isinstance(first, (str, bytes)):
        array = np.empty(shape, object)
        flat = value
        for _ in shape[1:]:
            flat = [member for row in flat for member in row]
        encoded = [
            member.encode("utf-8", "surrogateescape") if isinstance(member, str) else member
            for member in (flat if shape else [flat])
        ]
        if len(encoded) != array.size:
            raise ServingError(Code.INVALID_ARGUMENT, "rows of one input differ in length")
        array.reshape(-1)[:] = encoded
        return array
    try:
        array = np.array(value)
    except ValueError:
        raise ServingError(Code.INVALID_ARGUMENT, "rows of one input differ in length") from None
    if array.dtype == np.float64:
        return array.astype(np.float32)
    if array.dtype == np.int64 and (abs(array) < 1 << 31).all():
        return array.astype(np.int32)
    if array.dtype == object:
        raise ServingError(Code.INVALID_ARGUMENT, "rows of one input differ in length")
    return to_bytes(array) if array.dtype.kind in "SU" else array


def predict_outputs(response: Any) -> Outputs:
    """The outputs of a PredictResponse as nested lists, strings decoded as in REST."""
    outputs = {}
    for name, proto in response.outputs.items():
        array = to_array(proto)
        if array.dtype == object and not name.endswith("_bytes"):
            decoded = np.empty(array.size, object)
            decoded[:] = [
                value.decode("utf-8", "surrogateescape") for value in array.reshape(-1).tolist()
            ]
            array = decoded.reshape(array.shape)
        outputs[name] = array.tolist()
    return outputs


def write_request(kind: str, rows: Sequence[Mapping[str, Any]]) -> Any:
    """An EventsRequest or an ItemsRequest of what REST takes as JSON.

    Raises:
        ServingError: INVALID_ARGUMENT: a row has a field that the message has not, or of a wrong
            type.
    """
    request = protos.EventsRequest() if kind == "events" else protos.ItemsRequest()
    for position, row in enumerate(rows):
        try:
            message = getattr(request, kind).add()
            for name, value in row.items():
                if name == "features":
                    for column, values in (value or {}).items():
                        _fill_feature(message.features.add(name=column), values)
                elif value is not None:
                    setattr(message, name, _encoded(value) if name in _IDS else value)
        except (AttributeError, TypeError, ValueError) as error:
            text = f"{kind[:-1]} {position}: {error}"
            raise ServingError(Code.INVALID_ARGUMENT, text) from None
    return request


def _fill_feature(feature: Any, value: Any) -> None:
    for each in value if isinstance(value, (list, tuple)) else [] if value is None else [value]:
        (feature.texts if isinstance(each, str) else feature.numbers).append(each)


def _encoded(value: Any) -> Any:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def written(response: Any) -> Written:
    """The WriteResponse."""
    return Written(
        response.written,
        response.expired,
        tuple(response.answered_now),
        tuple(response.answered_after_export),
        tuple(each.decode("utf-8", "surrogateescape") for each in response.unknown),
    )


def version_states(response: Any) -> list[VersionStatus]:
    """The states in a GetModelStatusResponse."""
    names = protos.status.ModelVersionStatus.State
    return [
        VersionStatus(
            entry.version,
            names.Name(entry.state),
            Code(entry.status.error_code).name,
            entry.status.error_message,
        )
        for entry in response.model_version_status
    ]


def metadata_request(model: str, version: int | None, label: str | None) -> Any:
    """A GetModelMetadataRequest for the signatures."""
    return protos.metadata.GetModelMetadataRequest(
        model_spec=model_spec(model, version, label), metadata_field=["signature_def"]
    )


def metadata_document(response: Any) -> Document:
    """A GetModelMetadataResponse as REST writes it."""
    signatures = protos.metadata.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    return {
        "model_spec": {
            "name": response.model_spec.name,
            "signature_name": response.model_spec.signature_name,
            "version": str(response.model_spec.version.value),
        },
        "metadata": {"signature_def": message_to_dict(signatures)},
    }


def error_of(error: grpc.RpcError) -> ServingError:
    """The ServingError of a failed call."""
    details = error.details() or ""
    if "http1.x server" in details:
        return no_grpc(details)
    return ServingError(Code(error.code().value[0]), details)
