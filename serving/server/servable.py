"""One loaded version of a SavedModel: its signatures, run by the fastest path TensorFlow has."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

from serving.server.tensorflow_private import load, make_callable
from serving.wire.errors import Code, ServingError, from_exception, invalid
from serving.wire.tensors import to_array

DEFAULT_SIGNATURE = "serving_default"
# A client chooses which signatures one MultiInference runs; what is prepared for each is kept.
_MOST_CALLABLES = 64
# How TensorFlow fails where an input has another shape than an operation takes.
_OF_SHAPES = {Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.OUT_OF_RANGE, Code.INTERNAL}


@dataclass(frozen=True)
class SessionOptions:
    """How sessions run.

    Attributes:
        intra_op_threads: threads inside one operation; 0: one per core.
        inter_op_threads: threads between operations; 0: one per core.
        timeout_ms: limit of one run in milliseconds; 0: none.
    """

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    timeout_ms: int = 0


class Servable:
    """A SavedModel in a session of its own.

    What a signature fetches becomes one prepared callable of the session, which costs a third of
    calling the signature's function. The servable counts its users, so that closing it can wait
    for the requests under way.

    Attributes:
        name: the model's name.
        version: its version number.
        path: the folder it was loaded from.
        signatures: SignatureDef by name.
        input_types: TensorFlow's number of the data type by input name, by signature; of "" those
            of the signature that serves where none is named.
    """

    def __init__(
        self, name: str, version: int, path: str, options: SessionOptions = SessionOptions()
    ):
        """Loads the SavedModel.

        Args:
            name: the model's name.
            version: its version number.
            path: folder with saved_model.pb.
            options: threads and the limit of time of one run.

        Raises:
            ServingError: NOT_FOUND where there is no SavedModel, or what TensorFlow raised.
        """
        self.name = name
        self.version = version
        self.path = path
        self._options = options
        if not os.path.exists(os.path.join(path, "saved_model.pb")) and not os.path.exists(
            os.path.join(path, "saved_model.pbtxt")
        ):
            raise ServingError(
                Code.NOT_FOUND,
                "Could not find SavedModel .pb or .pbtxt at supplied export directory path: "
                f"{path}",
            )
        graph = tf.Graph()
        config = config_pb2.ConfigProto(
            intra_op_parallelism_threads=self._options.intra_op_threads,
            inter_op_parallelism_threads=self._options.inter_op_threads,
        )
        # A second round finds nothing more, and takes a seventh of what the first runs take.
        config.graph_options.rewrite_options.meta_optimizer_iterations = 1
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        try:
            meta_graph = load(self._session, path)
        except Exception as error:
            self._session.close()
            raise from_exception(error) from error
        self.signatures = {
            signature: definition
            for signature, definition in meta_graph.signature_def.items()
            if signature != "__saved_model_init_op"
        }
        self._inputs = {name: sorted(sig.inputs) for name, sig in self.signatures.items()}
        self.input_types = {
            name: {each: self.signatures[name].inputs[each].dtype for each in inputs}
            for name, inputs in self._inputs.items()
        }
        self.input_types[""] = self.input_types.get(DEFAULT_SIGNATURE, {})
        self._callables: OrderedDict[tuple, Callable[..., list]] = OrderedDict()
        self._preparing = threading.Lock()
        self._users = 0
        self._idle = threading.Condition()

    def input_names(self, signature: str) -> list[str]:
        """The signature's input names, sorted: the order in which `run` feeds them."""
        return self._inputs[signature]

    def defaults(self, signature: str) -> dict[str, np.ndarray]:
        """Default values of inputs that a request may leave out (newer SavedModels)."""
        protos = getattr(self.signatures[signature], "defaults", {})
        return {name: to_array(proto) for name, proto in protos.items()}

    def tensors(self, signature: str, outputs: Iterable[str]) -> tuple[str, ...]:
        """The tensors of the graph that a signature's outputs are, for `run`."""
        definition = self.signatures[signature].outputs
        return tuple(definition[name].name for name in outputs)

    def run(
        self, signature: str, inputs: dict[str, np.ndarray], tensors: tuple[str, ...]
    ) -> list[np.ndarray]:
        """Runs the graph on the inputs of a signature.

        Args:
            signature: a name in `signatures`, whose inputs are fed.
            inputs: an array for every input name.
            tensors: what to fetch. Every other tuple of them costs a preparation of a second, and
                megabytes, so they are best the same ones every time.

        Returns:
            The arrays, in the order of `tensors`; strings as object arrays of bytes.

        Raises:
            ServingError: with TensorFlow's own code and message; INVALID_ARGUMENT where it fails
                and an input is not of the shape that the signature tells.
        """
        call = self._callables.get((signature, tensors)) or self._prepare(signature, tensors)
        try:
            results = call(*[inputs[name] for name in self._inputs[signature]])
        except Exception as raised:
            error = _from_run(raised)
            if error.code in _OF_SHAPES:
                # Not before: TensorFlow Serving looks at no shape, and some others are answered.
                error = _misshapen(self.signatures[signature], inputs) or error
            raise error from raised
        # A string of rank 0 is the only result that comes as no array.
        return [
            np.array(result, object) if isinstance(result, bytes) else result for result in results
        ]

    def _prepare(self, signature: str, tensors: tuple[str, ...]) -> Callable[..., list]:
        definition: meta_graph_pb2.SignatureDef = self.signatures[signature]
        options = config_pb2.CallableOptions()
        options.feed.extend(definition.inputs[name].name for name in self._inputs[signature])
        options.fetch.extend(tensors)
        options.run_options.timeout_in_ms = self._options.timeout_ms
        with self._preparing:  # by one thread; the others find it made
            call = self._callables.get((signature, tensors))
            if call is None:
                call = self._callables[(signature, tensors)] = make_callable(self._session, options)
                while len(self._callables) > _MOST_CALLABLES:
                    self._callables.popitem(last=False)
            return call

    def acquire(self) -> "Servable":
        """Counts one more user; `release` must follow."""
        with self._idle:
            self._users += 1
        return self

    def release(self) -> None:
        """Counts one user less."""
        with self._idle:
            self._users -= 1
            if not self._users:
                self._idle.notify_all()

    def close(self, timeout: float | None = None) -> None:
        """Waits for the requests under way, then frees the session; see also `give_memory_back`.

        Args:
            timeout: seconds to wait at most; then the session is closed under the last requests.
        """
        with self._idle:
            self._idle.wait_for(lambda: not self._users, timeout)
        self._callables.clear()
        self._session.close()
        self._session = None


def _from_run(raised: Exception) -> ServingError:
    """The error of a run, whose message may quote bytes of the request that are no UTF-8."""
    if isinstance(raised, UnicodeDecodeError):
        return invalid(raised.object.decode("utf-8", "replace"))
    return from_exception(raised)


def _misshapen(
    definition: meta_graph_pb2.SignatureDef, inputs: dict[str, np.ndarray]
) -> ServingError | None:
    """What is wrong with the shape of the first input that has another than its signature tells."""
    for name in sorted(definition.inputs):
        told, received = definition.inputs[name].tensor_shape, list(inputs[name].shape)
        sizes = [each.size for each in told.dim]
        fits = len(sizes) == len(received) and all(
            size in (-1, own) for size, own in zip(sizes, received)
        )
        if not told.unknown_rank and not fits:
            # The first is that of the batch, another one the length of a list.
            letters = ["L" if place else "B" for place in range(len(sizes))]
            shown = [letter if size == -1 else str(size) for letter, size in zip(letters, sizes)]
            required = f"required shape [{', '.join(shown)}]"
            return invalid(f"{name}: {required}; received {received}")
    return None


def give_memory_back() -> None:
    """Returns the memory of closed servables to the system.

    Graphs are rings of objects, and glibc keeps freed pages: without this, a server that swaps
    versions for weeks would grow. A collection holds up every thread, for a tenth of a second
    unless what was imported is frozen (`gc.freeze`).
    """
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        pass
