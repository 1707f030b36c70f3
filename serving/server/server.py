"""The server: `python -m serving.server`, or `Server(...)` in process."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import logging
import os
import resource
import signal
import ssl
import sys
import threading
import time

from serving.server.options import ServerOptions, parse_arguments
from serving.server.processes import VARIABLE, Shared, listen_on, newest_configuration, supervise
from serving.wire.errors import ServingError, StartError

log = logging.getLogger("serving")
# What a server imports when it starts.
_IMPORTS = (
    "serving.server.batching",
    "serving.server.connections",
    "serving.server.grpc_services",
    "serving.server.inference",
    "serving.server.rest",
    "serving.server.servable",
    "serving.server.warmup",
)
# How long clients that keep connections are told that theirs end, before they do.
_TELLING_SECONDS = 1.0


class Server:
    """Serves SavedModels over REST and gRPC from threads of this process.

    Usage:
        with Server(model_name="m", model_base_path="/models/m", port=0, rest_api_port=0) as server:
            print(server.rest_port, server.grpc_port)

    Attributes:
        options: the options it runs with.
        rest_port: the REST port once started; None where switched off.
        grpc_port: the gRPC port once started; None where switched off.
        manager: the models and their versions; `manager.step()` looks at the folders at once.
        metrics: the counters.
    """

    def __init__(self, options: ServerOptions | None = None, *, shared: str = "", **keywords):
        """Checks the options; nothing is loaded before `start`.

        Args:
            options: all options; or
            shared: the folder of a group of processes that this one belongs to; its ports are then
                theirs.
            **keywords: single ones, by the names of `ServerOptions`.

        Raises:
            StartError: the options contradict each other.
        """
        self.options = (options or ServerOptions(**keywords)).checked()
        if self.options.processes > 1:
            raise StartError("--processes is of the command line: a Server is one process")
        self._shared_folder = shared
        self._shared: Shared | None = None
        self.rest_port: int | None = None
        self.grpc_port: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._runner = self._grpc = self._health = self._rest = None

    def start(self) -> "Server":
        """Loads the models, opens the ports and returns when both answer.

        Raises:
            StartError: no model could be loaded, or a port is in use; nothing is left running.
        """
        from serving.server.inference import Inference, RequestLimits
        from serving.server.manager import Manager
        from serving.server.metrics import Metrics
        from serving.server.request_log import open_log

        options = self.options
        told = newest_configuration(self._shared_folder) if self._shared_folder else None
        configs = self._read_configs() if told is None else self._parse_config(told.read_bytes())
        self.metrics = Metrics()
        self.manager = Manager(
            self._load,
            options.max_num_load_retries,
            options.load_retry_interval_micros / 1e6,
            options.allow_version_labels_for_unavailable_models,
        )
        self._request_log = open_log(self.metrics, configs, options)
        self._inference = Inference(
            self.manager,
            self.metrics,
            RequestLimits(
                max_rows=options.max_rows,
                max_elements=options.max_elements,
                max_concurrent_requests=options.max_concurrent_requests,
                max_bytes_under_way=options.max_bytes_under_way,
                timeout_seconds=options.rest_api_timeout_in_ms / 1e3,
            ),
            options.threads or 2 * (os.cpu_count() or 1),
            self._read_batching(),
            self._request_log,
        )
        rest_options = self._rest_options()
        self._inference.live = self._open_state()
        try:
            self.manager.configure(configs)
        except ServingError as error:
            self.manager.stop()
            self._close_state()
            raise StartError(error.message) from error
        if self._shared_folder:
            self._shared = Shared(
                self._shared_folder,
                told,
                self.metrics.snapshot,
                lambda config: self.manager.configure(self._parse_config(config)),
            )
            self.metrics.published = self._shared.published
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="serving", daemon=True)
        self._thread.start()
        try:
            self._call(self._open(rest_options))
        except BaseException:
            self.stop()
            raise
        self.manager.start_polling(options.file_system_poll_wait_seconds)
        self._watch_config_file(configs)
        return self

    def drain(self) -> None:
        """Refuses new requests and waits for those under way; `stop` follows."""
        if self._loop is not None:
            self._stopping.set()
            self._call(self._drain())
            # No handler is left, so the log is complete.
            self._request_log.close()
            self._close_state()
            if self._shared is not None:
                self._shared.close()

    def stop(self) -> None:
        """Refuses new requests, waits for those under way, and frees everything."""
        if self._loop is None:
            return
        self.drain()
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = None
        self._inference.close()
        # Whoever still runs has had its time: closing the session cancels it.
        self.manager.stop(0)

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *_) -> None:
        self.stop()

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # --- what the options name

    def _read_configs(self) -> list:
        from serving.server.model_config import (
            ModelConfig,
            RequestLogConfig,
            read_model_config_file,
        )

        options = self.options
        if options.model_config_file:
            return read_model_config_file(options.model_config_file)
        request_log = None
        if options.request_log_prefix:
            prefix = os.path.abspath(options.request_log_prefix)
            request_log = RequestLogConfig(prefix, options.request_log_sampling_rate)
        path = os.path.abspath(options.model_base_path)
        return [ModelConfig(options.model_name, path, request_log=request_log)]

    @staticmethod
    def _parse_config(config: bytes) -> list:
        from serving.server.model_config import from_proto
        from serving.wire import protos

        return from_proto(protos.server_config.ModelServerConfig.FromString(config))

    def _read_batching(self):
        from serving.server.batching import BatchingParameters, read_parameters

        options = self.options
        if not options.enable_batching:
            return None
        cores = os.cpu_count() or 1
        if options.batching_parameters_file:
            return read_parameters(
                options.batching_parameters_file, options.batch_separate_shapes, cores
            )
        return BatchingParameters(
            num_batch_threads=cores, separate_shapes=options.batch_separate_shapes
        )

    def _open_state(self):
        from serving.server.live import LiveState
        from serving.state import open_state

        options = self.options
        if not options.state:
            return None
        store = open_state(
            options.state, options.state_events_per_user, options.state_ttl_days * 86400
        )
        return LiveState(store, self.metrics, self._inference.check_size)

    def _close_state(self) -> None:
        if self._inference.live is not None:
            self._inference.live.close()

    def _rest_options(self):
        from serving.server.metrics import page_path
        from serving.server.rest import RestOptions

        options = self.options
        path = ""
        if options.monitoring_config_file:
            path = page_path(options.monitoring_config_file)
        return RestOptions(
            max_body_bytes=options.max_body_bytes,
            body_timeout=options.body_timeout_seconds,
            cors=options.rest_api_enable_cors_support,
            metrics_path=path,
            api_key=_read_key(options.api_key_file),
        )

    def _load(self, name: str, version: int, path: str):
        from serving.server.servable import Servable, SessionOptions
        from serving.server.warmup import warm_up

        options = self.options
        try:
            servable = Servable(
                name,
                version,
                path,
                SessionOptions(
                    options.tensorflow_intra_op_parallelism,
                    options.tensorflow_inter_op_parallelism,
                    options.rest_api_timeout_in_ms,
                ),
            )
            if options.enable_model_warmup:
                try:
                    warm_up(servable, options.num_request_iterations_for_warmup, self.metrics)
                except BaseException:
                    servable.close(0)
                    raise
        except ServingError:
            self.metrics.load_attempts.add(path, "fail")
            raise
        self.metrics.load_attempts.add(path, "success")
        return servable

    def _watch_config_file(self, configs: list) -> None:
        from serving.server.model_config import read_model_config_file

        seconds = self.options.model_config_file_poll_wait_seconds
        if not self.options.model_config_file or seconds <= 0:
            return

        def watch(current: list) -> None:
            while not self._stopping.wait(seconds):
                try:
                    found = read_model_config_file(self.options.model_config_file)
                    if found != current:
                        self.manager.configure(found)
                        current = found
                except (StartError, ServingError) as error:
                    log.error("the model configuration stays as it was: %s", error)

        threading.Thread(target=watch, args=(configs,), name="config-poll", daemon=True).start()

    # --- on the event loop

    async def _open(self, rest_options) -> None:
        options = self.options
        context = None
        if options.tls_certificate_file:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            try:
                context.load_cert_chain(options.tls_certificate_file, options.tls_key_file)
            except (OSError, ssl.SSLError) as error:
                raise StartError(
                    f"cannot use {options.tls_certificate_file} with "
                    f"{options.tls_key_file}: {error}"
                ) from error
        if options.rest_api_port >= 0:
            await self._open_rest(rest_options, context)
        if options.port >= 0:
            await self._open_grpc(rest_options.api_key)

    async def _open_rest(self, rest_options, context: ssl.SSLContext | None) -> None:
        from aiohttp import web

        from serving.server.connections import Connections
        from serving.server.rest import RestHandler

        options = self.options
        self._rest = RestHandler(self._inference, rest_options)
        connections = Connections(
            self._rest,
            options.max_connections or _most_connections(),
            options.header_timeout_seconds,
            options.idle_timeout_seconds,
        )
        self._runner = web.ServerRunner(connections, shutdown_timeout=1.0)
        await self._runner.setup()
        listening = listen_on(options.host, options.rest_api_port, bool(self._shared_folder))
        self.rest_port = listening.getsockname()[1]
        await web.SockSite(self._runner, listening, ssl_context=context, backlog=1024).start()

    async def _open_grpc(self, api_key: str) -> None:
        import grpc
        from grpc_health.v1 import health_pb2_grpc

        from serving.server import grpc_services
        from serving.wire import protos

        grpc_services.log_malformed_once()
        options = self.options
        limit = options.max_body_bytes
        self._grpc = grpc.aio.server(
            interceptors=[grpc_services.ApiKeyInterceptor(api_key)] if api_key else [],
            options=[
                ("grpc.so_reuseport", int(bool(self._shared_folder))),
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
            ],
        )
        protos.add_prediction_service(
            grpc_services.PredictionService(
                self._inference, options.enable_serialization_as_tensor_content
            ),
            self._grpc,
        )
        tell = self._shared.tell if self._shared is not None else None
        protos.add_model_service(grpc_services.ModelService(self._inference, tell), self._grpc)
        if self._inference.live is not None:
            protos.add_live_state(grpc_services.LiveStateService(self._inference), self._grpc)
        if options.enable_grpc_healthcheck_service:
            self._health = grpc_services.Health(self.manager)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        address = f"[{options.host}]" if ":" in options.host else options.host
        address = f"{address}:{options.port}"
        try:
            if options.tls_certificate_file:
                files = (options.tls_key_file, options.tls_certificate_file)
                credentials = grpc.ssl_server_credentials([tuple(map(_read_bytes, files))])
                self.grpc_port = self._grpc.add_secure_port(address, credentials)
            else:
                self.grpc_port = self._grpc.add_insecure_port(address)
        except RuntimeError as error:
            raise StartError(f"cannot listen on {address}: the port is in use") from error
        if not self.grpc_port:
            raise StartError(f"cannot listen on {address}: the port is in use")
        await self._grpc.start()

    async def _drain(self) -> None:
        """Refuses what comes, tells clients so, and waits for what is under way."""
        if self._health is not None:
            self._health.stop()
        self._inference.draining = True
        for site in list(self._runner.sites if self._runner else ()):
            await site.stop()
        end = time.monotonic() + self.options.drain_seconds
        # Whoever is connected asks once more, and is told that the connection ends.
        connected = self._runner is not None and self._runner.server.connections
        told = time.monotonic() + (_TELLING_SECONDS if connected else 0.0)
        while time.monotonic() < end and (self._inference.under_way or time.monotonic() < told):
            await asyncio.sleep(0.02)

    async def _close(self) -> None:
        closing = []
        if self._grpc is not None:
            closing.append(self._grpc.stop(0))
        if self._runner is not None:
            closing.append(self._runner.cleanup())
        await asyncio.gather(*closing)
        if self._rest is not None:
            self._rest.close()
        # gRPC polls on a thread for as long as a server of it exists: too long, when Python ends.
        self._runner = self._grpc = self._health = self._rest = None


def _most_connections() -> int:
    """As many as the limit of open files leaves, with some for models, logs and gRPC."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(files, 1 << 16) - 256)


def _read_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror}") from error


def _read_key(path: str) -> str:
    if not path:
        return ""
    key = _read_bytes(path).decode("utf-8").strip()
    if not key:
        raise StartError(f"{path} holds no key")
    return key


def _freeze_imports() -> None:
    """Imports TensorFlow and all else, and takes its million objects out of every later collection.

    Each would otherwise hold up all requests for a tenth of a second.
    """
    for name in _IMPORTS:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _end_with_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: list[str] | None = None) -> int:
    """Runs the server until SIGTERM or SIGINT.

    Prints one JSON line, `{"ready": true, "rest": PORT, "grpc": PORT, ...}`, when it answers.

    Returns:
        The exit status where it could not start, 1; after a signal the process ends with 0.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # The default of 5 ms would make an answer that is ready wait for a busy thread.
    sys.setswitchinterval(0.001)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.stop_at_end_of_input:
        threading.Thread(target=_end_with_input, daemon=True).start()
    shared = os.environ.get(VARIABLE, "")
    try:
        if options.processes > 1:
            return supervise(options.checked(), arguments)
        server = Server(options, shared=shared)
        for port in set() if shared else {options.port, options.rest_api_port} - {0, -1}:
            # Importing TensorFlow takes ten seconds; a port in use is told before that.
            listen_on(options.host, port).close()
        _freeze_imports()
        server.start()
    except StartError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    ready = {
        "ready": True,
        "pid": os.getpid(),
        "host": options.host,
        "rest": server.rest_port,
        "grpc": server.grpc_port,
        "models": [f"{name}/{version}" for name, version in sorted(server.manager.available())],
    }
    print(json.dumps(ready), flush=True)
    # A wait without a limit would not wake for a signal that another thread received.
    while not stop.wait(1.0):
        pass
    log.info("stopping; waiting for the requests under way")
    server.drain()
    # gRPC's own stop would answer CANCELLED to calls that have come and have not begun, which
    # clients do not send again; where the process ends they are UNAVAILABLE.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
