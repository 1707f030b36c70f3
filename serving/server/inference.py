"""Runs requests on the models that are loaded, whatever protocol a request came by.

The limits on concurrency, rows and time hold here; requests are counted and logged here.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from serving.server.batching import Batcher, BatchingParameters, waited_too_long
from serving.server.examples_api import (
    CLASSIFY,
    REGRESS,
    classification_signature,
    classify_result,
    regress_result,
    regression_signature,
    serialized_examples,
)
from serving.server.live import LiveState
from serving.server.manager import Manager
from serving.server.metrics import Metrics
from serving.server.newcomers import are_answered
from serving.server.request_log import Predicted, RequestLog
from serving.server.servable import DEFAULT_SIGNATURE, Servable
from serving.state import Item
from serving.state.store import Written
from serving.wire import protos
from serving.wire.errors import Code, ServingError, from_exception, invalid
from serving.wire.tensors import element_count


@dataclass(frozen=True)
class RequestLimits:
    """What one server accepts.

    Attributes:
        max_rows: rows of one request; 0: any number.
        max_elements: values in all tensors of one request; 0: any number.
        max_concurrent_requests: requests under way at once; 0: any number.
        max_bytes_under_way: bytes that they hold together, as they were sent; 0: any number.
        timeout_seconds: time a request may wait and run; 0: any.
    """

    max_rows: int = 0
    max_elements: int = 0
    max_concurrent_requests: int = 0
    max_bytes_under_way: int = 0
    timeout_seconds: float = 0.0


class Inference:
    """Runs requests on the servables of a manager, on threads that each model has of its own.

    Attributes:
        manager: the models.
        metrics: the counters.
        under_way: how many requests are being answered now.
        draining: whether requests are refused since the server stops.
        live: the state that requests are filled with; None where the server keeps none.
    """

    def __init__(
        self,
        manager: Manager,
        metrics: Metrics,
        limits: RequestLimits,
        threads: int,
        batching: BatchingParameters | None = None,
        request_log: RequestLog | None = None,
    ):
        self.manager = manager
        self.metrics = metrics
        self.under_way = 0
        self._bytes_under_way = 0
        self.draining = False
        self.live: LiveState | None = None
        self._limits = limits
        self._request_log = request_log
        self._threads = threads
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._batcher = None
        if batching:
            self._batcher = Batcher(batching, self._pool, metrics, limits.timeout_seconds)

    def close(self) -> None:
        """Stops the threads."""
        for pool in self._pools.values():
            pool.shutdown(wait=False)

    def _pool(self, model: str) -> ThreadPoolExecutor:
        """The threads of one model: a slow one has no other's to wait on."""
        if model not in self._pools:
            self._pools[model] = ThreadPoolExecutor(self._threads, f"run-{model}")
        return self._pools[model]

    @contextlib.contextmanager
    def admitted(self, size: int = 0):
        """Counts a request in and out, and the bytes that it holds.

        Args:
            size: how many it has when it comes.

        Yields:
            A function that is to be told how many more come; it raises as this does.

        Raises:
            ServingError: UNAVAILABLE while too many others are under way or they hold too much, or
                the server stops.
        """
        if self.draining:
            raise ServingError(Code.UNAVAILABLE, "The server is stopping")
        limit = self._limits.max_concurrent_requests
        if limit and self.under_way >= limit:
            raise ServingError(
                Code.UNAVAILABLE, f"Too many requests are under way; the limit is {limit}"
            )
        held = 0

        def hold(more: int) -> None:
            nonlocal held
            limit = self._limits.max_bytes_under_way
            if limit and self._bytes_under_way + more > limit:
                raise ServingError(
                    Code.UNAVAILABLE,
                    f"The requests under way hold {self._bytes_under_way} bytes, and {more} more "
                    f"came; the limit is {limit}",
                )
            self._bytes_under_way += more
            held += more

        self.under_way += 1
        try:
            hold(size)
            yield hold
        finally:
            self.under_way -= 1
            self._bytes_under_way -= held

    @contextlib.contextmanager
    def counted(self, model: str, api: str, entrypoint: str):
        """Counts a request by its status, and times it where it succeeds.

        Models that nobody knows have one label together: a client chooses their names.
        """
        model = model if self.manager.knows(model) else ""
        begin = time.perf_counter()
        try:
            yield
        except asyncio.CancelledError:
            self.metrics.request_count.add(model, Code.CANCELLED.name)
            raise
        except Exception as error:
            self.metrics.request_count.add(model, from_exception(error).code.name)
            raise
        micros = (time.perf_counter() - begin) * 1e6
        self.metrics.request_count.add(model, "OK")
        self.metrics.request_latency.add(micros, model, api, entrypoint)

    @contextlib.contextmanager
    def servable(self, spec: "protos.model.ModelSpec"):
        """The servable a request names, held for as long as the request takes.

        Raises:
            ServingError: INVALID_ARGUMENT without a name, NOT_FOUND.
        """
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        found = self.manager.acquire(
            spec.name,
            spec.version.value if spec.HasField("version") else None,
            spec.version_label,
        )
        try:
            yield found
        finally:
            found.release()

    def check_size(self, count: int) -> None:
        """Checks how many values a request has, or stands for.

        Raises:
            ServingError: INVALID_ARGUMENT: there are more than one may have.
        """
        limit = self._limits.max_elements
        if limit and count > limit:
            raise invalid(f"The request has {count} values; the limit is {limit}")

    def check_tensors(
        self,
        servable: Servable,
        signature: str,
        tensors: Mapping[str, "protos.TensorProto"],
    ) -> int:
        """Checks names and shapes of what a request holds, before it is decoded.

        Returns:
            How many values the shapes stand for.

        Raises:
            ServingError: as `predict`; or the shapes stand for more values than a request may have.
        """
        signature = signature or DEFAULT_SIGNATURE
        _definition_of(servable, signature)
        _check_names(servable, signature, tensors)
        count = sum(element_count(proto) for proto in tensors.values())
        self.check_size(count)
        return count

    async def predict(
        self,
        servable: Servable,
        signature: str,
        inputs: dict[str, np.ndarray],
        output_filter: tuple[str, ...] = (),
    ) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            servable: an acquired servable.
            signature: its name; empty for `serving_default`.
            inputs: arrays by input name.
            output_filter: the outputs wanted; all where empty.

        Returns:
            Arrays by output name.

        Raises:
            ServingError: as TensorFlow Serving words it, or what the model raised.
        """
        asked = signature
        signature = signature or DEFAULT_SIGNATURE
        definition = _definition_of(servable, signature)
        if self.live is not None:
            filled, inputs = await self.live.fill(servable, signature, inputs)
            if filled != signature:
                # What is logged is what the model was asked.
                asked, signature, definition = filled, filled, servable.signatures[filled]
        sent = inputs
        inputs = {**_check_names(servable, signature, inputs), **inputs}
        wanted = _checked_outputs(definition, output_filter)
        # All are run, whatever is wanted: see `Servable.run`.
        outputs = sorted(definition.outputs)
        tensors = servable.tensors(signature, outputs)
        values = await self._run(servable, signature, inputs, tensors, "Predict")
        found = dict(zip(outputs, values, strict=True))
        if self.live is not None:
            found = await self.live.add_newcomers(
                servable, signature, inputs, found, self._run_whole
            )
        results = {name: found[name] for name in wanted}
        if config := self._sampled(servable):
            fill = Predicted(
                servable.name, servable.version, asked, signature, sent, results, output_filter
            )
            self._request_log.add(
                config, servable.name, servable.version, signature, fill.size, fill
            )
        return results

    async def _run_whole(
        self, servable: Servable, signature: str, inputs: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """All outputs of a signature by name; of more rows than a batch has they are run alone."""
        outputs = sorted(servable.signatures[signature].outputs)
        tensors = servable.tensors(signature, outputs)
        rows = max(map(len, inputs.values()))
        batched = self._batcher is not None and rows <= self._batcher.most_rows
        run = self._run if batched else self._run_alone
        values = await run(servable, signature, inputs, tensors, "Predict")
        return dict(zip(outputs, values, strict=True))

    async def write_items(self, items: Sequence[Item]) -> Written:
        """Writes changes of the catalogue; says which models answer what entered.

        Raises:
            ServingError: see `LiveState.write_events`; INVALID_ARGUMENT: a model answers items by
                their features, and those of one are no columns of any, or of another type.
        """
        told = [item for item in items if item.features]
        if not told:
            return await self.live.write_items(items)
        with contextlib.ExitStack() as held:
            models: dict[str, Servable] = {}
            for name in sorted({name for name, _ in self.manager.available()}):
                with contextlib.suppress(ServingError):  # it has gone meanwhile
                    model = held.enter_context(self.servable(protos.model.ModelSpec(name=name)))
                    if "recommend" in model.signatures:
                        models[name] = model
            answering = {name: each for name, each in models.items() if are_answered(each)}
            newcomers = self.live.newcomers
            await newcomers.check(list(answering.values()), items, self._run_whole)
            written = await self.live.write_items(items)
            known = {
                name: await newcomers.known(model, told, self._run_whole)
                for name, model in answering.items()
            }
        now = tuple(name for name in answering if known[name])
        unknown = {item.item_id: None for item in told} if answering else {}
        return replace(
            written,
            answered_now=now,
            answered_after_export=tuple(name for name in models if name not in now),
            unknown=tuple(
                item.decode("utf-8", "surrogateescape")
                for item in unknown
                if not any(item in found for found in known.values())
            ),
        )

    def _sampled(self, servable: Servable):
        """The log's configuration where this request is to be logged, else None."""
        if self._request_log is None:
            return None
        config = self.manager.request_log(servable.name)
        return config if self._request_log.samples(config) else None

    def _log_examples(
        self, servable: Servable, signature: str, kind: str, request, response
    ) -> None:
        if config := self._sampled(servable):

            def fill(record) -> None:
                getattr(record, kind).request.CopyFrom(request)
                getattr(record, kind).response.CopyFrom(response)

            size = request.ByteSize() + response.ByteSize()
            self._request_log.add(config, servable.name, servable.version, signature, size, fill)

    async def _run(
        self,
        servable: Servable,
        signature: str,
        inputs: dict[str, np.ndarray],
        tensors: tuple[str, ...],
        api: str,
    ) -> list[np.ndarray]:
        limit = self._limits.max_rows
        if limit:
            rows = max((array.shape[0] for array in inputs.values() if array.shape), default=0)
            if rows > limit:
                raise invalid(f"The request has {rows} rows; the limit is {limit}")
        if self._batcher is not None:
            return await self._batcher.run(servable, signature, inputs, tensors, api)
        return await self._run_alone(servable, signature, inputs, tensors, api)

    async def _run_alone(
        self,
        servable: Servable,
        signature: str,
        inputs: dict[str, np.ndarray],
        tensors: tuple[str, ...],
        api: str,
    ) -> list[np.ndarray]:
        return await asyncio.get_running_loop().run_in_executor(
            self._pool(servable.name),
            self._timed_run,
            servable,
            signature,
            inputs,
            tensors,
            api,
            time.perf_counter(),
        )

    def _timed_run(self, servable, signature, inputs, tensors, api, queued) -> list[np.ndarray]:
        begin = time.perf_counter()
        # The run itself is limited by the session; the wait for a thread is limited here.
        if self._limits.timeout_seconds and begin - queued > self._limits.timeout_seconds:
            raise waited_too_long(self._limits.timeout_seconds)
        results = servable.run(signature, inputs, tensors)
        self.metrics.runtime_latency.add(
            (time.perf_counter() - begin) * 1e6, servable.name, api, "TF1"
        )
        return results

    async def classify(self, servable: Servable, request, response) -> None:
        """Fills a ClassificationResponse."""
        name, definition = _definition(servable, request.model_spec.signature_name)
        outputs = classification_signature(definition)
        count, arrays = await self._run_examples(
            servable, request.input, [(name, outputs)], "Classify"
        )
        classify_result(arrays[name], count, response.result)
        _fill_spec(response.model_spec, servable, name)
        self._log_examples(servable, name, "classify_log", request, response)

    async def regress(self, servable: Servable, request, response) -> None:
        """Fills a RegressionResponse."""
        name, definition = _definition(servable, request.model_spec.signature_name)
        outputs = regression_signature(definition)
        count, arrays = await self._run_examples(
            servable, request.input, [(name, outputs)], "Regress"
        )
        regress_result(arrays[name], count, response.result)
        _fill_spec(response.model_spec, servable, name)
        self._log_examples(servable, name, "regress_log", request, response)

    async def multi_inference(self, request, response) -> None:
        """Fills a MultiInferenceResponse."""
        if not request.tasks:
            raise invalid("Inference request contains no task.")
        with self.servable(_one_model(request)) as servable:
            runs: list[tuple[str, tuple[str, ...]]] = []
            tensor = ""
            for task in request.tasks:
                if not task.model_spec.name:
                    raise invalid("Found ModelSpec with an empty model name.")
                name = task.model_spec.signature_name or DEFAULT_SIGNATURE
                if task.model_spec.name != request.tasks[0].model_spec.name:
                    raise invalid(
                        "All ModelSpecs in a MultiInferenceRequest must access the same model name."
                    )
                if any(name == before for before, _ in runs):
                    raise invalid(f"Duplicate evaluation of signature: {name}")
                definition = servable.signatures.get(name)
                if definition is None:
                    raise invalid(f"Requested signature not found in model graph: {name}")
                if task.method_name == CLASSIFY:
                    runs.append((name, classification_signature(definition)))
                elif task.method_name == REGRESS:
                    runs.append((name, regression_signature(definition)))
                else:
                    raise ServingError(
                        Code.UNIMPLEMENTED,
                        f"Unsupported signature method_name: {task.method_name}",
                    )
                fed = definition.inputs["inputs"].name
                if tensor not in ("", fed):
                    raise invalid("Input tensor must be the same for all Signatures.")
                tensor = fed
            count, arrays = await self._run_examples(
                servable, request.input, runs, "MultiInference"
            )
            for task, (name, _) in zip(request.tasks, runs, strict=True):
                result = response.results.add()
                if task.method_name == CLASSIFY:
                    classify_result(arrays[name], count, result.classification_result)
                else:
                    regress_result(arrays[name], count, result.regression_result)
                _fill_spec(result.model_spec, servable, name)
            self._log_examples(servable, runs[0][0], "multi_inference_log", request, response)

    async def _run_examples(
        self,
        servable: Servable,
        examples,
        runs: list[tuple[str, tuple[str, ...]]],
        api: str,
    ) -> tuple[int, dict[str, dict[str, np.ndarray]]]:
        array = serialized_examples(examples)
        self.metrics.example_counts.add(len(array), servable.name)
        self.metrics.example_count_total.add(servable.name, by=len(array))
        # One run for all: their inputs are one tensor.
        tensors = {name: servable.tensors(name, outputs) for name, outputs in runs}
        fetched = tuple(sorted(set().union(*tensors.values())))
        values = await self._run(servable, runs[0][0], {"inputs": array}, fetched, api)
        found = dict(zip(fetched, values, strict=True))
        results = {
            name: {output: found[of] for output, of in zip(outputs, tensors[name], strict=True)}
            for name, outputs in runs
        }
        return len(array), results


def _one_model(request):
    for task in request.tasks:
        if not task.model_spec.name:
            raise invalid("Found ModelSpec with an empty model name.")
    return request.tasks[0].model_spec


def _definition(servable: Servable, signature: str):
    name = signature or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    return name, servable.signatures[name]


def _fill_spec(spec, servable: Servable, signature: str) -> None:
    spec.name = servable.name
    spec.version.value = servable.version
    spec.signature_name = signature


def _definition_of(servable: Servable, signature: str):
    definition = servable.signatures.get(signature)
    if definition is None:
        raise ServingError(
            Code.FAILED_PRECONDITION, f'Serving signature key "{signature}" not found.'
        )
    return definition


def _check_names(
    servable: Servable, signature: str, inputs: Collection[str]
) -> dict[str, np.ndarray]:
    """Returns the values of inputs that the request may leave out, and does."""
    wanted = servable.input_names(signature)
    if len(inputs) == len(wanted) and all(name in inputs for name in wanted):
        return {}
    defaults = servable.defaults(signature)
    missing = sorted(set(wanted) - set(inputs) - set(defaults))
    extra = sorted(set(inputs) - set(wanted))
    if missing or extra:
        raise invalid(
            f"input size does not match signature: {len(inputs)}!={len(wanted)} "
            f"len({{{','.join(sorted(inputs))}}}) != len({{{','.join(wanted)}}}). "
            f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}."
        )
    return defaults


def _checked_outputs(definition, output_filter: tuple[str, ...]) -> tuple[str, ...]:
    if not output_filter:
        return tuple(sorted(definition.outputs))
    for number, name in enumerate(output_filter):
        if name not in definition.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in "
                f"the set {{{','.join(sorted(definition.outputs))}}}."
            )
        if name in output_filter[:number]:
            raise invalid(f"duplicate output tensor alias: {name}")
    return output_filter
