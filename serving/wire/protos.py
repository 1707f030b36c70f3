"""TensorFlow Serving's protocol buffers, imported without TensorFlow itself.

The generated modules of `tensorflow_serving.apis` import `tensorflow.core.*_pb2`. Those are plain
generated code too, but naming them runs TensorFlow's own `__init__`, which takes ten seconds and
half a gigabyte. Where TensorFlow is not loaded yet, an empty package with TensorFlow's path stands
in for it during the imports; afterwards it is taken away, so that a later `import tensorflow`
works as usual and shares the message classes.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types

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
    "tensorflow_serving.config.file_system_storage_path_source_pb2",
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
storage = _modules["file_system_storage_path_source_pb2"]
ModelServiceStub = _modules["model_service_pb2_grpc"].ModelServiceStub
PredictionServiceStub = _modules["prediction_service_pb2_grpc"].PredictionServiceStub
add_model_service = _modules["model_service_pb2_grpc"].add_ModelServiceServicer_to_server
add_prediction_service = _modules[
    "prediction_service_pb2_grpc"
].add_PredictionServiceServicer_to_server
