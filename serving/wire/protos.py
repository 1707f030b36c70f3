"""TensorFlow Serving's protocol buffers, imported without TensorFlow itself.

The generated modules of `tensorflow_serving.apis` import `tensorflow.core.*_pb2`. Those are plain
generated code too, but naming them runs TensorFlow's own `__init__`, which takes ten seconds and
half a gigabyte. Where TensorFlow is not loaded yet, an empty package with TensorFlow's path stands
in for it during the imports; afterwards it is taken away, so that a later `import tensorflow`
works as usual and shares the message classes.

Two messages that TensorFlow Serving reads from text files are in no package; they are built here,
and so are those of the one service that is our own, `recsys.LiveState`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any, cast

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_NAMES = (
    "tensorflow.core.example.example_pb2",
    "tensorflow.core.framework.tensor_pb2",
    "tensorflow.core.framework.types_pb2",
    "tensorflow_serving.apis.classification_pb2",
    "tensorflow_serving.apis.get_model_metadata_pb2",
    "tensorflow_serving.apis.get_model_status_pb2",
    "tensorflow_serving.apis.inference_pb2",
    "tensorflow_serving.apis.model_management_pb2",
    "tensorflow_serving.apis.model_pb2",
    "tensorflow_serving.apis.model_service_pb2_grpc",
    "tensorflow_serving.apis.predict_pb2",
    "tensorflow_serving.apis.prediction_log_pb2",
    "tensorflow_serving.apis.prediction_service_pb2_grpc",
    "tensorflow_serving.apis.regression_pb2",
    "tensorflow_serving.config.model_server_config_pb2",
)


def _import_all() -> dict[str, types.ModuleType]:
    stand_in = None
    if "tensorflow" not in sys.modules:
        specification = importlib.util.find_spec("tensorflow")
        if specification is None or specification.submodule_search_locations is None:
            raise ImportError("gRPC needs the package tensorflow beside tensorflow-serving-api")
        stand_in = types.ModuleType("tensorflow")
        stand_in.__path__ = list(specification.submodule_search_locations)
        sys.modules["tensorflow"] = stand_in
    try:
        return {name.rsplit(".", 1)[1]: importlib.import_module(name) for name in _NAMES}
    finally:
        if stand_in is not None and sys.modules.get("tensorflow") is stand_in:
            del sys.modules["tensorflow"]


_modules = _import_all()

Example = _modules["example_pb2"].Example
TensorProto = _modules["tensor_pb2"].TensorProto
DataType = _modules["types_pb2"].DataType
classification = _modules["classification_pb2"]
inference = _modules["inference_pb2"]
management = _modules["model_management_pb2"]
metadata = _modules["get_model_metadata_pb2"]
model = _modules["model_pb2"]
predict = _modules["predict_pb2"]
prediction_log = _modules["prediction_log_pb2"]
regression = _modules["regression_pb2"]
server_config = _modules["model_server_config_pb2"]
status = _modules["get_model_status_pb2"]
ModelServiceStub = _modules["model_service_pb2_grpc"].ModelServiceStub
PredictionServiceStub = _modules["prediction_service_pb2_grpc"].PredictionServiceStub
add_model_service = _modules["model_service_pb2_grpc"].add_ModelServiceServicer_to_server
add_prediction_service = _modules[
    "prediction_service_pb2_grpc"
].add_PredictionServiceServicer_to_server

_Field = descriptor_pb2.FieldDescriptorProto


def _define(in_package: str, **messages: list[tuple[Any, ...]]) -> list[type[Any]]:
    """Classes of messages of a package.

    Args:
        in_package: such as `tensorflow.serving`.
        **messages: by name, its fields as (number, name, type): a scalar type's number, or the name
            of a message before it or of a wrapper of google.protobuf; and `True` where it repeats.
    """
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    file = descriptor_pb2.FileDescriptorProto(
        name="/".join(messages), package=in_package, syntax="proto3"
    )
    file.dependency.append(wrappers.name)
    for message, fields in messages.items():
        definition = file.message_type.add(name=message)
        for number, name, kind, *repeated in fields:
            field = definition.field.add(name=name, number=number)
            field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if isinstance(kind, int):
                field.type = cast(Any, kind)
            else:
                package = in_package if kind in messages else "google.protobuf"
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".{package}.{kind}"
    # A pool of its own: a package that comes to carry these messages may define them as well.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(wrappers)
    pool.Add(file)
    found = [pool.FindMessageTypeByName(f"{in_package}.{message}") for message in messages]
    if hasattr(message_factory, "GetMessageClass"):
        return [message_factory.GetMessageClass(descriptor) for descriptor in found]
    factory: Any = message_factory.MessageFactory(pool)  # protobuf 3
    return [factory.GetPrototype(descriptor) for descriptor in found]


_, MonitoringConfig = _define(
    "tensorflow.serving",
    PrometheusConfig=[(1, "enable", _Field.TYPE_BOOL), (2, "path", _Field.TYPE_STRING)],
    MonitoringConfig=[(1, "prometheus_config", "PrometheusConfig")],
)
(BatchingParameters,) = _define(
    "tensorflow.serving",
    BatchingParameters=[
        (1, "max_batch_size", "Int64Value"),
        (2, "batch_timeout_micros", "Int64Value"),
        (3, "max_enqueued_batches", "Int64Value"),
        (4, "num_batch_threads", "Int64Value"),
        (5, "thread_pool_name", "StringValue"),
        (6, "allowed_batch_sizes", _Field.TYPE_INT64, True),
        (7, "pad_variable_length_inputs", _Field.TYPE_BOOL),
        (8, "enable_large_batch_splitting", "BoolValue"),
        (9, "max_execution_batch_size", "Int64Value"),
    ],
)

# Ids are any bytes, which on the wire is what strings are.
_, EventsRequest, _, _, ItemsRequest, WriteResponse = _define(
    "recsys",
    Event=[
        (1, "user_id", _Field.TYPE_BYTES),
        (2, "item_id", _Field.TYPE_BYTES),
        (3, "event_type", _Field.TYPE_STRING),
        (4, "dwell", _Field.TYPE_DOUBLE),
        (5, "timestamp", _Field.TYPE_INT64),
    ],
    EventsRequest=[(1, "events", "Event", True)],
    Feature=[
        (1, "name", _Field.TYPE_STRING),
        (2, "texts", _Field.TYPE_STRING, True),
        (3, "numbers", _Field.TYPE_DOUBLE, True),
    ],
    Item=[
        (1, "item_id", _Field.TYPE_BYTES),
        (2, "features", "Feature", True),
        (3, "left", _Field.TYPE_BOOL),
    ],
    ItemsRequest=[(1, "items", "Item", True)],
    WriteResponse=[
        (1, "written", _Field.TYPE_INT64),
        (2, "expired", _Field.TYPE_INT64),
        (3, "answered_now", _Field.TYPE_STRING, True),
        (4, "answered_after_export", _Field.TYPE_STRING, True),
        (5, "unknown", _Field.TYPE_BYTES, True),
    ],
)
_LIVE_STATE = "recsys.LiveState"
_LIVE_STATE_METHODS = {"WriteEvents": EventsRequest, "WriteItems": ItemsRequest}


class LiveStateStub:
    """The methods of the service `recsys.LiveState`, for a client.

    Args:
        channel: of grpc or grpc.aio.
    """

    def __init__(self, channel: Any):
        for name, request in _LIVE_STATE_METHODS.items():
            method = channel.unary_unary(
                f"/{_LIVE_STATE}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=WriteResponse.FromString,
            )
            setattr(self, name, method)


def add_live_state(servicer: Any, server: Any) -> None:
    """Adds the service `recsys.LiveState` to a server of grpc or grpc.aio."""
    import grpc

    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, name),
            request_deserializer=request.FromString,
            response_serializer=WriteResponse.SerializeToString,
        )
        for name, request in _LIVE_STATE_METHODS.items()
    }
    generic = grpc.method_handlers_generic_handler(_LIVE_STATE, handlers)
    server.add_generic_rpc_handlers((generic,))
