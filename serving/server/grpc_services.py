"""The gRPC services: PredictionService, ModelService and health."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.server.connections import Told
from serving.server.inference import Inference
from serving.server.manager import Manager
from serving.server.model_config import from_proto
from serving.server.rest import key_matches
from serving.server.servable import DEFAULT_SIGNATURE
from serving.state import read_events, read_items
from serving.state.store import Written
from serving.wire import protos
from serving.wire.errors import Code, ServingError, from_exception, invalid
from serving.wire.tensors import to_array, to_proto

_LARGE = 1 << 16  # values
_MANY = 1 << 10  # events
_WATCH_SECONDS = 0.5  # between two looks at the status that a client watches
_STATUS = {status.value[0]: status for status in grpc.StatusCode}


class _Malformed(logging.Filter):
    """Has gRPC log bytes that are no message as a line, in place of a traceback for each."""

    def __init__(self) -> None:
        super().__init__()
        self._tell = Told()

    def filter(self, record: logging.LogRecord) -> bool:
        """See the base class."""
        if not record.exc_info or not isinstance(record.exc_info[1], DecodeError):
            return True
        self._tell("malformed", "a client of the gRPC port sent no message")
        return False


_malformed = _Malformed()


def log_malformed_once() -> None:
    """From now on what is no message is a line a minute in the log."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_malformed)


def _answers(method):
    """Turns a coroutine that raises into one that ends the call with the error's status."""

    @functools.wraps(method)
    async def call(self, request, context):
        try:
            return await method(self, request)
        except ServingError as error:
            failure = error
        except asyncio.CancelledError:
            raise
        except Exception as error:
            failure = from_exception(error)
        # Trailing metadata is limited to about 8 kB, and the text is a part of it.
        await context.abort(_STATUS[int(failure.code)], failure.message[:4096])

    return call


class PredictionService:
    """tensorflow.serving.PredictionService."""

    def __init__(self, inference: Inference, as_content: bool):
        """Creates the service.

        Args:
            inference: what runs the requests.
            as_content: send tensors as bytes rather than as typed values.
        """
        self._inference = inference
        self._as_content = as_content

    @contextlib.contextmanager
    def _admitted(self, request, model: str, api: str):
        with self._inference.admitted(request.ByteSize()):
            with self._inference.counted(model, api, "GRPC"):
                yield

    @_answers
    async def Predict(self, request):  # noqa: N802 (the name is the protocol's)
        """Runs any signature on named tensors."""
        spec = _model_spec(request)
        with self._admitted(request, spec.name, "Predict"):
            with self._inference.servable(spec) as servable:
                # Before anything is decoded: what takes 20 bytes may stand for gigabytes.
                count = self._inference.check_tensors(servable, spec.signature_name, request.inputs)
                inputs = await _decoded(request.inputs, large=count > _LARGE)
                outputs = await self._inference.predict(
                    servable, spec.signature_name, inputs, tuple(request.output_filter)
                )
                response = protos.predict.PredictResponse()
                response.model_spec.name = servable.name
                response.model_spec.version.value = servable.version
                response.model_spec.signature_name = spec.signature_name or DEFAULT_SIGNATURE

                def fill() -> None:
                    for name, array in outputs.items():
                        to_proto(array, response.outputs[name], self._as_content)

                large = sum(array.size for array in outputs.values()) > _LARGE
                await asyncio.to_thread(fill) if large else fill()
                return response

    @_answers
    async def Classify(self, request):  # noqa: N802
        """Runs a classification signature on examples."""
        spec = _model_spec(request)
        with self._admitted(request, spec.name, "Classify"):
            with self._inference.servable(spec) as servable:
                response = protos.classification.ClassificationResponse()
                await self._inference.classify(servable, request, response)
                return response

    @_answers
    async def Regress(self, request):  # noqa: N802
        """Runs a regression signature on examples."""
        spec = _model_spec(request)
        with self._admitted(request, spec.name, "Regress"):
            with self._inference.servable(spec) as servable:
                response = protos.regression.RegressionResponse()
                await self._inference.regress(servable, request, response)
                return response

    @_answers
    async def MultiInference(self, request):  # noqa: N802
        """Runs several classification and regression signatures on the same examples."""
        name = request.tasks[0].model_spec.name if request.tasks else ""
        with self._admitted(request, name, "MultiInference"):
            response = protos.inference.MultiInferenceResponse()
            await self._inference.multi_inference(request, response)
            return response

    @_answers
    async def GetModelMetadata(self, request):  # noqa: N802
        """The signatures of a model."""
        spec = _model_spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != "signature_def":
                raise invalid(f"Metadata field {name} is not supported")
        with self._inference.servable(spec) as servable:
            signatures = protos.metadata.SignatureDefMap()
            for name, definition in servable.signatures.items():
                signatures.signature_def[name].CopyFrom(definition)
            response = protos.metadata.GetModelMetadataResponse()
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
            response.metadata["signature_def"].Pack(signatures)
            return response


class LiveStateService:
    """recsys.LiveState, our own: `POST /v1/events` and `/v1/items` over gRPC."""

    def __init__(self, inference: Inference):
        self._inference = inference

    @_answers
    async def WriteEvents(self, request):  # noqa: N802
        """Writes events; answered when they are durable."""
        with self._inference.admitted(request.ByteSize()):

            def read():
                return read_events(
                    [{field.name: value for field, value in e.ListFields()} for e in request.events]
                )

            large = len(request.events) > _MANY
            events = await asyncio.to_thread(read) if large else read()
            return _response(await self._inference.live.write_events(events))

    @_answers
    async def WriteItems(self, request):  # noqa: N802
        """Writes changes of the catalogue; answered when they are durable."""
        with self._inference.admitted(request.ByteSize()):
            rows = [
                {
                    "item_id": item.item_id,
                    "features": {each.name: _values(each) for each in item.features},
                    "left": item.left,
                }
                for item in request.items
            ]
            return _response(await self._inference.write_items(read_items(rows)))


def _values(feature):
    """One value alone, several as a list; of a feature that tells nothing, None."""
    values = [*feature.texts, *feature.numbers]
    return values if len(values) > 1 else next(iter(values), None)


def _response(written: Written):
    return protos.WriteResponse(
        written=written.written,
        expired=written.expired,
        answered_now=written.answered_now,
        answered_after_export=written.answered_after_export,
        unknown=[each.encode("utf-8", "surrogateescape") for each in written.unknown],
    )


async def _decoded(tensors, large: bool) -> dict:
    def decode() -> dict:
        return {name: to_array(proto) for name, proto in tensors.items()}

    # Another thread gets its turn between two tensors, the loop's other requests do not.
    return await asyncio.to_thread(decode) if large else decode()


class ModelService:
    """tensorflow.serving.ModelService.

    Args:
        inference: what answers.
        tell: has the other processes of the server take over a serialized ModelServerConfig; None
            where there are none.
    """

    def __init__(self, inference: Inference, tell: Callable[[bytes], None] | None = None):
        self._inference = inference
        self._tell = tell

    @_answers
    async def GetModelStatus(self, request):  # noqa: N802
        """The states of a model's versions."""
        spec = _model_spec(request)
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        version = spec.version.value if spec.HasField("version") else None
        response = protos.status.GetModelStatusResponse()
        for entry in self._inference.manager.status(spec.name, version):
            status = response.model_version_status.add(version=entry.number, state=entry.state)
            status.status.error_code = int(entry.error.code) if entry.error else 0
            status.status.error_message = entry.error.message if entry.error else ""
        return response

    @_answers
    async def HandleReloadConfigRequest(self, request):  # noqa: N802
        """Replaces the configuration; returns when the new models serve."""
        metrics = self._inference.metrics
        before = metrics.totals(list(request.metric_names))
        configs = from_proto(request.config)
        await asyncio.to_thread(self._inference.manager.configure, configs)
        if self._tell is not None:
            await asyncio.to_thread(self._tell, request.config.SerializeToString())
        response = protos.management.ReloadConfigResponse()
        response.status.error_code = 0
        for name, count in metrics.totals(list(request.metric_names)).items():
            response.metric.add(name=name, int64_value_increase=count - before[name])
        return response


def _model_spec(request):
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec


class Health(health_pb2_grpc.HealthServicer):
    """grpc.health.v1.Health: SERVING while any version of any model serves, until the server stops.

    The servicer for asyncio that comes with grpcio-health-checking is not used: once one of two
    watches of a service has ended, the other is told nothing more, and none ends with the server.
    """

    # As TensorFlow Serving registers them: without a package.
    SERVICES = ("", "ModelService", "PredictionService")

    def __init__(self, manager: Manager):
        self._manager = manager
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Answers NOT_SERVING from now on, and ends the watches."""
        self._stopping.set()

    def _status(self, service: str) -> int:
        response = health_pb2.HealthCheckResponse
        if service not in self.SERVICES:
            return response.SERVICE_UNKNOWN
        if self._stopping.is_set() or not self._manager.available():
            return response.NOT_SERVING
        return response.SERVING

    async def Check(self, request, context):  # noqa: N802 (the names are the protocol's)
        """The status now; NOT_FOUND for an unknown service."""
        status = self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request, context):  # noqa: N802
        """The status now, and again whenever it has changed."""
        told = None
        while True:
            stopping = self._stopping.is_set()
            status = self._status(request.service)
            if status != told:
                yield health_pb2.HealthCheckResponse(status=status)
                told = status
            if stopping:
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _WATCH_SECONDS)


class ApiKeyInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without the API key; health checks need none."""

    def __init__(self, key: str):
        self._key = key

    async def intercept_service(self, continuation, details):
        """See the base class."""
        given = {name: value for name, value in details.invocation_metadata or ()}
        if details.method.startswith("/grpc.health.") or key_matches(
            self._key, given.get("x-api-key"), given.get("authorization")
        ):
            return await continuation(details)

        async def refuse(request, context):
            await context.abort(_STATUS[int(Code.UNAUTHENTICATED)], "A valid API key is required")

        return grpc.unary_unary_rpc_method_handler(refuse)
