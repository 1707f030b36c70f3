"""Dynamic batching: requests that arrive together share one run of the model.

One queue for each signature, what is fetched of it, and model version. A batch closes when it is
full, or when its oldest task has waited for the timeout, and starts when one of the model's batch
threads is free: while all are busy, tasks go on gathering. Everything but the run itself happens on
the event loop, so nothing here is locked.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from serving.server.metrics import Metrics
from serving.server.servable import Servable
from serving.server.text_proto import read_text_proto
from serving.wire import protos
from serving.wire.errors import Code, ServingError, StartError, invalid

# Parameters that are numbers, and the smallest that each may be.
_LEAST = {
    "max_batch_size": 1,
    "batch_timeout_micros": 0,
    "max_enqueued_batches": 0,
    "num_batch_threads": 1,
}


@dataclass(frozen=True)
class BatchingParameters:
    """What `batching_parameters.txt` says.

    Attributes:
        max_batch_size: rows of one run at most.
        batch_timeout_micros: how long a task waits for company at most, in microseconds.
        max_enqueued_batches: how many full batches may wait; beyond that tasks are refused.
        num_batch_threads: runs of one model at the same time at most.
        allowed_batch_sizes: sizes that batches are padded to, ascending; the last is the maximum.
        pad_variable_length_inputs: pad inputs to the longest of the batch.
        separate_shapes: queue requests by the shape of their rows in place of refusing to mix them.
            TensorFlow Serving has no such switch.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = 2
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    separate_shapes: bool = False


def read_parameters(
    path: str, separate_shapes: bool = False, threads: int = 2
) -> BatchingParameters:
    """Reads TensorFlow Serving's batching parameters file.

    Args:
        path: a BatchingParameters message in protobuf's text format. Its `thread_pool_name` changes
            nothing here.
        separate_shapes: see `BatchingParameters`.
        threads: the default of num_batch_threads.

    Raises:
        StartError: the file does not parse, or its values cannot be or contradict each other.
    """
    message = read_text_proto(path, protos.BatchingParameters())
    if message.enable_large_batch_splitting.value:
        raise StartError(
            f"{path}: this server does not split requests (enable_large_batch_splitting); "
            "max_batch_size must hold the largest"
        )
    given = {"num_batch_threads": threads}
    for name, least in _LEAST.items():
        if message.HasField(name):
            given[name] = getattr(message, name).value
        if given.get(name, least) < least:
            raise StartError(f"{path}: {name} must be at least {least}, got {given[name]}")
    parameters = BatchingParameters(
        **given,
        allowed_batch_sizes=tuple(message.allowed_batch_sizes),
        pad_variable_length_inputs=message.pad_variable_length_inputs,
        separate_shapes=separate_shapes,
    )
    sizes = list(parameters.allowed_batch_sizes)
    if sizes and (sizes != sorted(set(sizes)) or sizes[-1] != parameters.max_batch_size):
        raise StartError(
            f"{path}: allowed_batch_sizes must ascend, and its last entry must equal "
            f"max_batch_size ({parameters.max_batch_size}); got {sizes}"
        )
    return parameters


@dataclass
class _Task:
    inputs: dict[str, np.ndarray]
    size: int
    future: asyncio.Future
    begin: float


@dataclass
class _Queue:
    servable: Servable
    signature: str
    tensors: tuple[str, ...]
    api: str
    tasks: deque = field(default_factory=deque)
    rows: int = 0
    timer: asyncio.TimerHandle | None = None


def waited_too_long(seconds: float) -> ServingError:
    """The error of a request whose time was over before its run began."""
    return ServingError(Code.DEADLINE_EXCEEDED, f"The request waited longer than {seconds:g} s")


class Batcher:
    """Gathers tasks into batches and runs them."""

    def __init__(
        self,
        parameters: BatchingParameters,
        pool: Callable[[str], Executor],
        metrics: Metrics,
        timeout_seconds: float = 0.0,
    ):
        """Creates a batcher.

        Args:
            parameters: sizes, limits and switches.
            pool: gives the threads that run the batches of a model, by its name.
            metrics: where waiting and running times go.
            timeout_seconds: longest a task may wait for its run; 0: any time.
        """
        self._timeout = timeout_seconds
        self._parameters = parameters
        self._pool = pool
        self._metrics = metrics
        self._queues: dict[tuple, _Queue] = {}
        self._running: Counter[str] = Counter()

    @property
    def most_rows(self) -> int:
        """How many rows a task may have."""
        return self._parameters.max_batch_size

    async def run(
        self,
        servable: Servable,
        signature: str,
        inputs: dict[str, np.ndarray],
        tensors: tuple[str, ...],
        api: str,
    ) -> list[np.ndarray]:
        """Runs one request as a part of a batch.

        Args:
            servable: a servable that the caller has acquired.
            signature: its signature.
            inputs: the arrays; the first dimension of each is the request's number of rows.
            tensors: what to fetch, see `Servable.run`.
            api: the name for the metrics.

        Returns:
            The request's own rows of what was fetched.

        Raises:
            ServingError: the request cannot be batched, the queue is full, or the run failed.
        """
        parameters = self._parameters
        size = _rows(inputs)
        if size > parameters.max_batch_size:
            raise invalid(
                f"Task size {size} is larger than maximum input batch size "
                f"{parameters.max_batch_size}"
            )
        key = (servable, signature, tensors, api)
        if parameters.separate_shapes:
            key += tuple(inputs[name].shape[1:] for name in sorted(inputs))
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(servable, signature, tensors, api)
        waiting = -(-(queue.rows + size) // parameters.max_batch_size)
        if queue.tasks and waiting > parameters.max_enqueued_batches:
            raise ServingError(
                Code.UNAVAILABLE,
                "The batch scheduling queue to which this task was submitted is full; task size "
                f"is {size} but scheduling capacity is only "
                f"{parameters.max_enqueued_batches * parameters.max_batch_size - queue.rows}",
            )
        loop = asyncio.get_running_loop()
        task = _Task(inputs, size, loop.create_future(), time.perf_counter())
        queue.tasks.append(task)
        queue.rows += size
        self._start_due(key, queue, loop)
        return await task.future

    def _start_due(self, key: tuple, queue: _Queue, loop: asyncio.AbstractEventLoop) -> None:
        parameters = self._parameters
        name = queue.servable.name
        while queue.tasks and self._running[name] < parameters.num_batch_threads:
            wait = queue.tasks[0].begin + parameters.batch_timeout_micros / 1e6
            wait -= time.perf_counter()
            if queue.rows < parameters.max_batch_size and wait > 0:
                if queue.timer is None:
                    queue.timer = loop.call_later(wait, self._timed_out, key, queue, loop)
                return
            self._start(queue, loop)
        if not queue.tasks:
            # Versions come and go; an empty queue would hold on to its servable.
            self._queues.pop(key, None)
            if queue.timer is not None:
                queue.timer.cancel()
                queue.timer = None

    def _timed_out(self, key: tuple, queue: _Queue, loop: asyncio.AbstractEventLoop) -> None:
        queue.timer = None
        self._start_due(key, queue, loop)

    def _start(self, queue: _Queue, loop: asyncio.AbstractEventLoop) -> None:
        batch: list[_Task] = []
        rows = 0
        now = time.perf_counter()
        while queue.tasks and rows + queue.tasks[0].size <= self._parameters.max_batch_size:
            task = queue.tasks.popleft()
            queue.rows -= task.size
            if task.future.done():  # the client has gone
                continue
            if self._timeout and now - task.begin > self._timeout:
                task.future.set_exception(waited_too_long(self._timeout))
                continue
            batch.append(task)
            rows += task.size
        if not batch:
            return
        for task in batch:
            self._metrics.queuing_latency.add((now - task.begin) * 1e6)
        self._running[queue.servable.name] += 1
        # The batch outlives a request whose client goes away, so it counts as a user itself.
        queue.servable.acquire()
        run = loop.run_in_executor(self._pool(queue.servable.name), self._run, queue, batch, rows)
        run.add_done_callback(lambda done: self._finish(queue, batch, done, loop))

    def _finish(self, queue: _Queue, batch: list[_Task], done, loop) -> None:
        self._running[queue.servable.name] -= 1
        queue.servable.release()
        error = done.exception()
        for number, task in enumerate(batch):
            if task.future.done():
                continue
            if error is not None:
                task.future.set_exception(error)
            else:
                task.future.set_result(done.result()[number])
        for key, waiting in list(self._queues.items()):
            self._start_due(key, waiting, loop)

    def _run(self, queue: _Queue, batch: list[_Task], rows: int) -> list[list[np.ndarray]]:
        """Runs one batch, on a thread; one list of outputs for each task."""
        padded = next((size for size in self._parameters.allowed_batch_sizes if size >= rows), rows)
        names = queue.servable.input_names(queue.signature)
        if len(batch) == 1 and padded == rows:
            inputs = batch[0].inputs
        else:
            inputs = {
                name: merge(
                    name,
                    [task.inputs[name] for task in batch],
                    padded - rows,
                    self._parameters.pad_variable_length_inputs,
                )
                for name in names
            }
        begin = time.perf_counter()
        results = queue.servable.run(queue.signature, inputs, queue.tensors)
        self._metrics.runtime_latency.add(
            (time.perf_counter() - begin) * 1e6, queue.servable.name, queue.api, "TF1"
        )
        for result in results:
            if not result.shape:
                raise ServingError(
                    Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions"
                )
            if result.shape[0] != padded:
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th "
                    "dimension sizes of the input tensors",
                )
        split, start = [], 0
        for task in batch:
            split.append([result[start : start + task.size] for result in results])
            start += task.size
        return split


def _rows(inputs: dict[str, np.ndarray]) -> int:
    sizes = set()
    for array in inputs.values():
        if not array.shape:
            raise invalid("Batching input tensors must have at least one dimension.")
        sizes.add(array.shape[0])
    if len(sizes) > 1:
        raise invalid(
            "Batching input tensors supplied in a given op invocation must have equal "
            "0th-dimension size."
        )
    return sizes.pop()


def merge(name: str, arrays: list[np.ndarray], extra: int, pad: bool) -> np.ndarray:
    """Joins one input of several tasks along the first dimension.

    Args:
        name: the input's name, for messages.
        arrays: one array a task.
        extra: rows to add at the end, copies of the first row.
        pad: pad the other dimensions to the largest, with each array's first value, as TensorFlow
            Serving does.

    Raises:
        ServingError: FAILED_PRECONDITION for shapes that differ without `pad`.
    """
    if len({array.shape[1:] for array in arrays}) > 1:
        if not pad:
            raise ServingError(
                Code.FAILED_PRECONDITION,
                f"Tensors with name '{name}' from different tasks have different shapes and "
                "padding is turned off. Set pad_variable_length_inputs to true, or ensure that "
                "all tensors with the same name have equal dimensions starting with the first dim.",
            )
        if len({array.ndim for array in arrays}) > 1:
            raise invalid(f"Tensors with name '{name}' from different tasks have different ranks")
        longest = np.max([array.shape[1:] for array in arrays], axis=0)
        arrays = [_pad(array, longest) for array in arrays]
    if extra:
        arrays = [*arrays, np.repeat(arrays[0][:1], extra, axis=0)]
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


def _pad(array: np.ndarray, longest: np.ndarray) -> np.ndarray:
    if array.shape[1:] == tuple(longest):
        return array
    if not array.size:
        raise invalid("Got empty tensor in batch of non-empty tensors.")
    missing = longest - np.array(array.shape[1:])
    widths = [(0, 0)] + [(0, int(count)) for count in missing]
    return np.pad(array, widths, constant_values=array.reshape(-1)[0])
