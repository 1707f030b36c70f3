"""Request logs: a sample of what was asked and answered, as TensorFlow Serving writes it.

TFRecord files of `PredictionLog`, named `PREFIX-TIME-SERVER-NUMBER.tfrecord`. While a file is being
written its name is hidden (`.NAME.partial`), so that readers of `PREFIX-*` meet whole files only.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from serving.server.metrics import Metrics
from serving.server.model_config import ModelConfig, RequestLogConfig
from serving.server.options import ServerOptions
from serving.wire import protos
from serving.wire.errors import StartError
from serving.wire.records import frame
from serving.wire.tensors import to_proto

log = logging.getLogger("serving")
SUFFIX = ".tfrecord"
_STRING_BYTES = 32  # a guess for each string of a tensor: to measure them would cost a look at all
_COMPLAIN_SECONDS = 60.0


@dataclass(frozen=True)
class LogLimits:
    """What a request log may hold.

    Attributes:
        file_bytes: a file is closed when it has this size.
        file_seconds: a file is closed this long after its first record.
        pending: records that wait to be written, at most.
        pending_bytes: about how much memory they may hold.
    """

    file_bytes: int = 64 << 20
    file_seconds: float = 3600.0
    pending: int = 1024
    pending_bytes: int = 64 << 20


@dataclass(frozen=True)
class _Entry:
    config: RequestLogConfig
    model: str
    version: int
    signature: str
    seconds: int
    size: int
    fill: Callable


class RequestLog:
    """Writes sampled requests on a thread of its own; no request waits for it or fails by it.

    What is sampled is counted in `request_log_count`: OK when it is in a file, RESOURCE_EXHAUSTED
    where the writer could not keep up, UNAVAILABLE where the file could not be written, INTERNAL
    where the request could not be encoded.
    """

    def __init__(self, metrics: Metrics, limits: LogLimits = LogLimits()):
        """Creates a log; its thread starts with the first record.

        Args:
            metrics: where records are counted.
            limits: sizes.
        """
        self._metrics = metrics
        self._limits = limits
        self._random = random.Random()
        self._pending: deque[_Entry] = deque()
        self._pending_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._files: dict[str, _LogFile] = {}
        self._server = uuid.uuid4().hex[:8]
        self._opened = 0
        self._complained = 0.0

    def samples(self, config: RequestLogConfig | None) -> bool:
        """Whether this request is one of those to log; decided anew at each call."""
        return config is not None and self._random.random() < config.sampling_rate

    def add(
        self,
        config: RequestLogConfig,
        model: str,
        version: int,
        signature: str,
        size: int,
        fill: Callable[["protos.prediction_log.PredictionLog"], None],
    ) -> None:
        """Takes one record, or drops and counts it; returns at once.

        Args:
            config: where it goes.
            model: name of the model that answered.
            version: its version.
            signature: the signature that ran.
            size: about how many bytes of memory it holds until it is written.
            fill: puts request and response into a PredictionLog; called on the writer's thread.
        """
        entry = _Entry(config, model, version, signature, int(time.time()), size, fill)
        limits = self._limits
        with self._changed:
            full = len(self._pending) >= limits.pending or (
                self._pending_bytes + size > limits.pending_bytes
            )
            if not full and not self._closing:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="request-log", daemon=True)
                    try:
                        thread.start()
                    except RuntimeError as error:  # the system has no thread left
                        self._failed(model, "UNAVAILABLE", "logged", error)
                        return
                    self._thread = thread
                self._pending.append(entry)
                self._pending_bytes += size
                self._changed.notify()
                return
        self._metrics.request_log_count.add(model, "RESOURCE_EXHAUSTED")

    def close(self, timeout: float = 10.0) -> None:
        """Writes what is pending and closes the files.

        Args:
            timeout: seconds to wait at most: a folder that hangs must not hold up the end.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                log.error("the request log was not written to its end within %g s", timeout)

    # --- on the writer's thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing, self._next_end())
                entry = self._pending.popleft() if self._pending else None
                done = entry is None and self._closing
            if entry is not None:
                self._write(entry)
                with self._changed:
                    self._pending_bytes -= entry.size
            now = time.monotonic()
            for prefix, file in list(self._files.items()):
                if done or now >= file.end or file.size >= self._limits.file_bytes:
                    del self._files[prefix]
                    self._finish(file)
            if done:
                return

    def _next_end(self) -> float | None:
        if not self._files:
            return None
        return max(0.0, min(file.end for file in self._files.values()) - time.monotonic())

    def _write(self, entry: _Entry) -> None:
        try:
            record = _record(entry)
        except Exception as error:  # whatever a request holds, the next one must be written
            self._failed(entry.model, "INTERNAL", "encoded", error)
            return
        prefix = entry.config.filename_prefix
        try:
            file = self._files.get(prefix)
            if file is None:
                file = _LogFile(prefix, self._server, self._opened, self._limits.file_seconds)
                self._files[prefix] = file
                self._opened += 1
            file.append(record)
        except OSError as error:
            self._failed(entry.model, "UNAVAILABLE", f"written to {prefix}-*", error)
            return
        self._metrics.request_log_count.add(entry.model, "OK")

    def _finish(self, file: "_LogFile") -> None:
        try:
            file.finish()
        except OSError as error:
            log.error("the request log %s keeps its temporary name: %s", file.path, error)

    def _failed(self, model: str, code: str, what: str, error: Exception) -> None:
        self._metrics.request_log_count.add(model, code)
        if time.monotonic() > self._complained:
            self._complained = time.monotonic() + _COMPLAIN_SECONDS
            log.error("a request of %s could not be %s: %s", model, what, error)


def _record(entry: _Entry) -> bytes:
    record = protos.prediction_log.PredictionLog()
    metadata = record.log_metadata
    metadata.model_spec.name = entry.model
    metadata.model_spec.version.value = entry.version
    metadata.model_spec.signature_name = entry.signature
    metadata.sampling_config.sampling_rate = entry.config.sampling_rate
    metadata.timestamp_secs = entry.seconds
    entry.fill(record)
    return record.SerializeToString()


@dataclass
class Predicted:
    """Fills the `predict_log` of a record with the arrays of a request and its response.

    The request has the inputs as they were sent, and no version, so that any version can replay it.
    """

    name: str
    version: int
    asked: str
    signature: str
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    output_filter: tuple[str, ...] = field(default=())

    @property
    def size(self) -> int:
        """About how many bytes of memory the arrays hold."""
        arrays = [*self.inputs.values(), *self.outputs.values()]
        return sum(
            array.size * (_STRING_BYTES if array.dtype == object else array.itemsize)
            for array in arrays
        )

    def __call__(self, record: "protos.prediction_log.PredictionLog") -> None:
        """Fills `record`."""
        request, response = record.predict_log.request, record.predict_log.response
        request.model_spec.name = self.name
        request.model_spec.signature_name = self.asked
        request.output_filter.extend(self.output_filter)
        for name, array in self.inputs.items():
            to_proto(array, request.inputs[name])
        response.model_spec.name = self.name
        response.model_spec.version.value = self.version
        response.model_spec.signature_name = self.signature
        for name, array in self.outputs.items():
            to_proto(array, response.outputs[name])


class _LogFile:
    """One file, hidden until `finish` gives it its name.

    Records are written whole by one call each: a process that is killed leaves whole records.
    """

    def __init__(self, prefix: str, server: str, number: int, seconds: float):
        folder, base = os.path.split(prefix)
        os.makedirs(folder, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        name = f"{base}-{stamp}-{server}-{number:05d}{SUFFIX}"
        self.path = os.path.join(folder, name)
        self._partial = os.path.join(folder, f".{name}.partial")
        self._file = open(self._partial, "xb", buffering=0)  # noqa: SIM115 (closed by finish)
        self.size = 0
        self.end = time.monotonic() + seconds

    def append(self, record: bytes) -> None:
        """Writes one record, or raises OSError and leaves the file as it was."""
        framed = memoryview(frame(record))
        written = 0
        try:
            while written < len(framed):
                written += self._file.write(framed[written:])
        except OSError:
            self._file.truncate(self.size)
            self._file.seek(self.size)
            raise
        self.size += written

    def finish(self) -> None:
        """Closes the file and shows it under its name; removes it where nothing was written."""
        with self._file:
            os.fsync(self._file.fileno())
        if self.size:
            os.rename(self._partial, self.path)
        else:
            os.remove(self._partial)


def open_log(metrics: Metrics, configs: list[ModelConfig], options: ServerOptions) -> RequestLog:
    """The log of a server; makes the folders of its models.

    Raises:
        StartError: a folder cannot be made, or nothing can be written there.
    """
    for config in configs:
        if config.request_log:
            folder = os.path.dirname(config.request_log.filename_prefix)
            try:
                os.makedirs(folder, exist_ok=True)
            except OSError as error:
                reason = error.strerror
                raise StartError(f"cannot write request logs to {folder}: {reason}") from error
            if not os.access(folder, os.W_OK | os.X_OK):
                raise StartError(f"cannot write request logs to {folder}: Permission denied")
    return RequestLog(
        metrics, LogLimits(options.request_log_max_file_bytes, options.request_log_max_file_seconds)
    )
