"""The server's options: one table for the command line and for use in process."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, field, fields

from serving.state.store import EVENTS_PER_USER, TTL_SECONDS
from serving.wire.errors import StartError

# Flags of TensorFlow Serving about what this server has not got, or does by itself. One that would
# change who may connect or what is served is not among them: it is refused as any unknown flag.
_FOREIGN = {
    "enable-cors-support",
    "enable-per-model-batching-parameters",
    "enable-profiler",
    "enable-signature-method-name-check",
    "flush-filesystem-caches",
    "grpc-channel-arguments",
    "grpc-max-threads",
    "mixed-precision",
    "num-load-threads",
    "num-tflite-interpreters-per-pool",
    "num-tflite-pools",
    "num-unload-threads",
    "per-process-gpu-memory-fraction",
    "platform-config-file",
    "remove-unused-fields-from-bundle-metagraph",
    "rest-api-num-threads",
    "skip-initialize-tpu",
    "tensorflow-session-parallelism",
    "thread-pool-factory-config-file",
    "xla-cpu-compilation-enabled",
    "xla-gpu-compilation-enabled",
}


def _option(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class ServerOptions:
    """Everything that can be set. Names and meanings are TensorFlow Serving's where it has them.

    The text beside each field is the help of its flag; on the command line underscores and hyphens
    are the same.
    """

    model_name: str = _option("default", "name of the model (with model_base_path)")
    model_base_path: str = _option("", "folder that holds the version folders of the model")
    model_config_file: str = _option("", "file of a model_config_list, for several models")
    model_config_file_poll_wait_seconds: float = _option(0, "seconds between reads of that file")
    host: str = _option("127.0.0.1", "address to listen on")
    port: int = _option(8500, "gRPC port; 0: a free one; -1: no gRPC")
    rest_api_port: int = _option(8501, "REST port; 0: a free one; -1: no REST")
    file_system_poll_wait_seconds: float = _option(
        1, "seconds between looks at the folders; 0: look once"
    )
    max_num_load_retries: int = _option(5, "further attempts to load a version that failed")
    load_retry_interval_micros: int = _option(60_000_000, "time between these attempts")
    allow_version_labels_for_unavailable_models: bool = _option(
        False, "accept a new label for a version that is not loaded"
    )
    enable_model_warmup: bool = _option(True, "replay assets.extra/tf_serving_warmup_requests")
    num_request_iterations_for_warmup: int = _option(1, "how often each record is replayed")
    enable_batching: bool = _option(False, "let requests share runs of the model")
    batching_parameters_file: str = _option("", "sizes and limits of batches")
    batch_separate_shapes: bool = _option(
        False, "batch requests of equal row shapes only, rather than refuse to mix shapes"
    )
    monitoring_config_file: str = _option("", "file of a MonitoringConfig (Prometheus)")
    request_log_prefix: str = _option(
        "", "where sampled requests are logged, as PREFIX-*.tfrecord (with model_base_path)"
    )
    request_log_sampling_rate: float = _option(0.1, "share of requests logged, 0 to 1")
    request_log_max_file_bytes: int = _option(64 << 20, "size at which a log file is closed")
    request_log_max_file_seconds: float = _option(3600, "age at which a log file is closed")
    state: str = _option(
        "", "live state of users and catalogue: a file, or the redis:// URL of a Redis"
    )
    state_events_per_user: int = _option(EVENTS_PER_USER, "events of a user that it keeps")
    state_ttl_days: float = _option(
        TTL_SECONDS / 86400, "how old an event may be, by its timestamp; 0: any age"
    )
    enable_grpc_healthcheck_service: bool = _option(True, "answer grpc.health.v1")
    enable_serialization_as_tensor_content: bool = _option(False, "reply tensors as bytes in gRPC")
    rest_api_timeout_in_ms: int = _option(30_000, "longest a request may wait and run; 0: no limit")
    rest_api_enable_cors_support: bool = _option(False, "send CORS headers")
    max_body_bytes: int = _option(8 << 20, "largest request")
    max_rows: int = _option(100_000, "most rows in a request; 0: any number")
    max_elements: int = _option(1 << 21, "most values in one request; 0: any number")
    max_concurrent_requests: int = _option(1000, "most requests under way; 0: any number")
    max_bytes_under_way: int = _option(
        256 << 20, "most bytes that the requests under way hold together; 0: any number"
    )
    max_connections: int = _option(
        0, "most connections of the REST port; 0: what the limit of open files leaves"
    )
    header_timeout_seconds: float = _option(
        20, "longest a REST connection may take until its first request has begun"
    )
    idle_timeout_seconds: float = _option(600, "longest between two requests of a connection")
    body_timeout_seconds: float = _option(20, "longest a client may take to send a REST body")
    drain_seconds: float = _option(10, "longest to wait for requests under way when stopping")
    stop_at_end_of_input: bool = _option(
        False, "stop when the standard input ends, as it does with the process that holds it"
    )
    processes: int = _option(
        1, "processes that share the ports, each with the models (command line only)"
    )
    threads: int = _option(0, "threads that run one model; 0: two for each core")
    tensorflow_intra_op_parallelism: int = _option(0, "threads inside one operation; 0: all cores")
    tensorflow_inter_op_parallelism: int = _option(0, "threads between operations; 0: all cores")
    tls_certificate_file: str = _option("", "PEM certificate chain; switches TLS on")
    tls_key_file: str = _option("", "PEM private key of that certificate")
    api_key_file: str = _option("", "file with the key that every request must carry")

    def checked(self) -> "ServerOptions":
        """Returns self, or raises StartError for options that contradict each other."""
        if bool(self.model_base_path) == bool(self.model_config_file):
            raise StartError("exactly one of --model-base-path and --model-config-file is required")
        if self.model_base_path and not os.path.isdir(self.model_base_path):
            raise StartError(f"model base path {self.model_base_path} is not a folder")
        for name in ("port", "rest_api_port"):
            if not -1 <= getattr(self, name) <= 65535:
                raise StartError(f"--{name} must be -1 to 65535, got {getattr(self, name)}")
        if self.port == self.rest_api_port == -1:
            raise StartError("both ports are switched off")
        if bool(self.tls_certificate_file) != bool(self.tls_key_file):
            raise StartError("--tls-certificate-file and --tls-key-file belong together")
        for name in (
            "max_num_load_retries",
            "load_retry_interval_micros",
            "max_rows",
            "max_elements",
            "max_concurrent_requests",
            "max_bytes_under_way",
            "max_connections",
            "threads",
            "rest_api_timeout_in_ms",
        ):
            if getattr(self, name) < 0:
                raise StartError(f"--{name} must not be negative, got {getattr(self, name)}")
        if self.state_events_per_user < 1 or not self.state_ttl_days >= 0:
            raise StartError(
                "--state-events-per-user must be at least 1 and --state-ttl-days 0 or more"
            )
        if self.processes < 1:
            raise StartError(f"--processes must be at least 1, got {self.processes}")
        if self.request_log_prefix and self.model_config_file:
            raise StartError(
                "--request_log_prefix belongs to --model_base_path; in a "
                "--model_config_file each model has a logging_config"
            )
        if self.request_log_prefix and not os.path.basename(self.request_log_prefix):
            raise StartError(
                f"--request_log_prefix must end in a name, got {self.request_log_prefix}"
            )
        if not 0 <= self.request_log_sampling_rate <= 1:
            raise StartError(
                f"--request_log_sampling_rate must be 0 to 1, got {self.request_log_sampling_rate}"
            )
        if self.request_log_max_file_bytes < 1 or not self.request_log_max_file_seconds > 0:
            raise StartError(
                "--request_log_max_file_bytes must be at least 1 and "
                "--request_log_max_file_seconds more than 0"
            )
        if 0 < self.max_bytes_under_way < self.max_body_bytes:
            raise StartError(
                f"--max-bytes-under-way must be at least --max-body-bytes, {self.max_body_bytes}, "
                f"got {self.max_bytes_under_way}"
            )
        if self.max_body_bytes < 1 or self.num_request_iterations_for_warmup < 1:
            raise StartError(
                "--max_body_bytes and --num_request_iterations_for_warmup must be at least 1"
            )
        return self


def parse_arguments(arguments: list[str]) -> ServerOptions:
    """Reads the command line; exits with status 2 and a message for an unknown flag.

    Flags of TensorFlow Serving that mean nothing here are taken, with a line on standard error.
    """
    parser = argparse.ArgumentParser(
        prog="python -m serving.server",
        description="Serves SavedModels over REST and gRPC as TensorFlow Serving does.",
        epilog="example: python -m serving.server --model-name two_tower "
        "--model-base-path runs/serving/two_tower",
    )
    for entry in fields(ServerOptions):
        default = f" (default: {entry.default})" if entry.default not in ("",) else ""
        flag = "--" + entry.name.replace("_", "-")
        help_text = entry.metadata["help"] + default
        if isinstance(entry.default, bool):
            parser.add_argument(
                flag, type=_truth, nargs="?", const=True, default=entry.default, help=help_text
            )
        else:
            kind = float if entry.type == "float" else type(entry.default)
            parser.add_argument(flag, type=kind, default=entry.default, help=help_text)
    given, others = parser.parse_known_args([_hyphens(argument) for argument in arguments])
    while others:
        flag, equals, _ = others[0].removeprefix("--").partition("=")
        if flag not in _FOREIGN:
            parser.error(f"unrecognized arguments: {' '.join(others)}")
        print(f"warning: --{flag} of TensorFlow Serving means nothing here", file=sys.stderr)
        # Its value may be an argument of its own.
        alone = len(others) > 1 and not equals and not others[1].startswith("--")
        others = others[2 if alone else 1 :]
    return ServerOptions(**vars(given))


def _hyphens(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _truth(text: str) -> bool:
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text}")
