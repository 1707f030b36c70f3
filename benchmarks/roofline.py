"""What a train step could cost on one core at best, and what it costs.

    python -m benchmarks.roofline [--models cdae bpr_mf]

The settings are those of `benchmarks.speed`. A core is measured in the same run: what it multiplies
(two matrices of 1,024 x 1,024, float32), and what it moves, in arrays that fit its own cache, the
shared one and neither. A step's operations are those of its graph as Grappler leaves it, with the
shapes that a batch has. Products are counted exactly; whatever else is computed, as one operation a
number of its largest tensor; what moves is what an operation reads and writes, of look-ups the rows
alone, of views nothing. TensorFlow runs one operation after the other, so the least time of a step
is

    limit = sum over the operations of max(operations / the core's, bytes / the core's)

and `products` is what its matrix products alone would take. The step is measured as a training runs
it, on batches that are kept, so that making them is told apart (`batch`). Times are the shortest of
several, of the process, of one thread.
"""

import argparse
import collections
import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import experiment, speed
from models.inputs import tensorflow_private
from models.training.loop import TrainingLoop
from models.training.optimizers import Adam

MODELS = ("bpr_mf", "neumf", "cdae", "mult_vae", "deepfm", "xdeepfm", "sr_gnn", "gru4rec")
SIZES = (1 << 19, 1 << 21, 1 << 23, 1 << 27)
"""Bytes of the arrays that are moved: in a core's own cache, in the shared one, in neither."""
_STEPS, _ROUNDS = 8, 9
# These move nothing: views, names, and what is known when the graph is made.
_FREE = {
    *("Const", "Placeholder", "Identity", "Reshape", "ExpandDims", "Squeeze", "Shape", "NoOp"),
    *("ReadVariableOp", "VarHandleOp", "StopGradient", "PreventGradient", "Assert", "IdentityN"),
}
# Of a table they read or write the rows of the other operands.
_ROWS = {"ResourceGather", "GatherV2", "ResourceScatterAdd", "ResourceScatterSub"}
_COPIES = {
    *_ROWS,
    *("ConcatV2", "Pack", "Unpack", "Split", "SplitV", "StridedSlice", "Slice", "Pad", "Transpose"),
    *("Tile", "BroadcastTo", "Fill", "Cast", "ZerosLike", "OnesLike", "StridedSliceGrad", "Range"),
}
# Tensors as large as the gradient that an update reads and writes: (moved, operations a number).
_UPDATES = {"ResourceApplyAdam": (7, 12), "ResourceApplyAdagrad": (5, 5)}


@dataclass(frozen=True)
class Work:
    """What one operation of a graph does.

    Attributes:
        kind: of the operation, as TensorFlow names it.
        operations: of floating point.
        size: bytes that it reads and writes.
        product: whether it is of matrices.
    """

    kind: str
    operations: float
    size: float
    product: bool


@dataclass(frozen=True)
class Core:
    """What one core does.

    Attributes:
        operations: of float32 products, a second.
        bandwidth: of each of `SIZES`, bytes a second, read and written.
    """

    operations: float
    bandwidth: tuple[float, ...]

    def moved(self, size: float) -> float:
        """Seconds that so many bytes of one operation take."""
        place = min(np.searchsorted(SIZES, size), len(SIZES) - 1)
        return size / self.bandwidth[place]

    def limit_of(self, work: Work) -> float:
        """Seconds that an operation takes at least."""
        return max(work.operations / self.operations, self.moved(work.size))


def measure_core() -> Core:
    """Measures this machine's."""
    side = 1024
    square = tf.random.normal([side, side])
    multiply = tf.function(lambda: tf.matmul(square, square))
    bandwidth = []
    for size in SIZES:
        # Two are read and one is written.
        third, repeats = tf.random.uniform([size // 12]), max(1, (1 << 24) // size)

        @tf.function
        def move(start, added=third, repeats=repeats):
            for _ in range(repeats):
                start = start + added
            return start

        bandwidth.append(repeats * size / seconds_of(functools.partial(move, third)))
    return Core(2 * side**3 / seconds_of(multiply), tuple(bandwidth))


def seconds_of(run: Callable[[], Any]) -> float:
    """The fewest of the process's seconds that a call takes: other work only adds to them."""
    run()
    run()
    found = []
    for _ in range(_ROUNDS):
        started = time.process_time()
        run()
        found.append(time.process_time() - started)
    return min(found)


def work_of(function: Callable[[], Any]) -> list[Work]:
    """What each operation does that a function without arguments executes, once."""
    traced = tf.compat.v1.wrap_function(function, [])
    effects = [each.name for each in traced.graph.get_operations() if _changes(each)]
    results = [tensor.op.name for tensor in traced.outputs]
    graph = tensorflow_private.as_executed(traced.graph, effects + results)
    left = {node.name for node in graph.node}

    def again():
        capture = tf.compat.v1.get_default_graph().capture
        given = {
            inner.name: capture(outer)
            for outer, inner in traced.graph.captures
            if inner.op.name in left
        }
        tf.import_graph_def(graph, input_map=given, name="")
        return ()

    executed = tf.compat.v1.wrap_function(again, [])
    operations = [each for each in executed.graph.get_operations() if each.type not in _FREE]
    tensors = {
        id(tensor): tensor
        for each in operations
        for tensor in [*each.inputs, *each.outputs]
        if tensor.dtype not in (tf.resource, tf.variant)
    }
    # What a shape depends on the values for has to be run.
    unknown = [tensor for tensor in tensors.values() if not tensor.shape.is_fully_defined()]
    with executed.graph.as_default():
        wanted = [tf.shape(tensor) for tensor in unknown]
    found = executed.prune([], wanted)() if wanted else []
    shapes = {
        key: tuple(tensor.shape.as_list())
        for key, tensor in tensors.items()
        if tensor.shape.is_fully_defined()
    }
    shapes |= {
        id(tensor): tuple(shape.numpy()) for tensor, shape in zip(unknown, found, strict=True)
    }
    return [_work(each, shapes) for each in operations]


def _changes(operation: tf.Operation) -> bool:
    """Whether the operation assigns to a variable."""
    resource = any(tensor.dtype == tf.resource for tensor in operation.inputs)
    return resource and not operation.outputs


def _work(operation: tf.Operation, shapes: dict[int, tuple[int, ...]]) -> Work:
    """Of one operation, of whose tensors the shapes are given by identity."""

    def of(tensors):
        return [
            (shapes[id(tensor)], tensor.dtype.size) for tensor in tensors if id(tensor) in shapes
        ]

    kind, inputs, outputs = operation.type, of(operation.inputs), of(operation.outputs)
    read = sum(_count(shape) * size for shape, size in inputs)
    written = sum(_count(shape) * size for shape, size in outputs)
    numbers = max((_count(shape) for shape, _ in [*inputs, *outputs]), default=0)
    if kind in _UPDATES:
        moved, each = _UPDATES[kind]
        return Work(kind, each * numbers, 4 * moved * numbers, False)
    if kind.endswith(("MatMul", "MatMulV2")) and "Sparse" not in kind:
        left, result = inputs[0][0], outputs[0][0]
        turned = operation.get_attr("adj_x" if "Batch" in kind else "transpose_a")
        inner = left[-2] if turned else left[-1]
        return Work(kind, 2 * _count(result) * inner, read + written, True)
    if kind == "Einsum":
        letters = operation.get_attr("equation").decode().split("->")[0].split(",")
        lengths = {
            letter: length
            for term, (shape, _) in zip(letters, inputs, strict=True)
            for letter, length in zip(term, shape, strict=True)
        }
        return Work(kind, 2 * _count(tuple(lengths.values())), read + written, True)
    if kind == "SparseTensorDenseMatMul":
        entries, width = inputs[1][0][0], outputs[0][0][-1]
        return Work(kind, 2 * entries * width, 4 * entries * width + written, True)
    if kind in _COPIES:
        rows = written if kind in ("ResourceGather", "GatherV2") else 0
        return Work(kind, 0, 2 * written if rows or kind not in _ROWS else 2 * read, False)
    floats = any(tensor.dtype.is_floating for tensor in [*operation.inputs, *operation.outputs])
    return Work(kind, numbers if floats else 0, read + written, False)


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


class _Measured(TrainingLoop):
    """Compiles the model as `learn` asks for it, and measures where it would train."""

    core: Core
    row: dict[str, str]

    def fit(self, model, stage="model", optimizer=None, *_, **__):
        own = self.hyper_parameters
        model.compile(
            optimizer=optimizer or Adam(own.learning_rate, lazy=own.setting("lazy_adam")),
            steps_per_execution=_STEPS,
        )
        batches = model.batches(self.data, self.seed, 0)
        self.build(model, batches)
        steps = min(_STEPS, batches.steps)
        few = list(itertools.islice(batches.dataset, steps))
        work = work_of(lambda: model.train_step(few[0]))
        run, made = model.make_train_function(), iter(batches.dataset)
        kept = iter(batches.dataset.take(steps).cache().repeat())
        step = seconds_of(lambda: run(kept)) / _STEPS
        batch = seconds_of(lambda: [next(made) for _ in few]) / steps
        self.row = _row(work, self.core, step, batch)


def _row(work: list[Work], core: Core, step: float, batch: float) -> dict[str, str]:
    limit = sum(map(core.limit_of, work))
    operations = sum(each.operations for each in work)
    products = sum(each.operations for each in work if each.product)
    largest: collections.Counter[str] = collections.Counter()
    for each in work:
        largest[each.kind] += core.limit_of(each)
    return {
        "step, ms": f"{step * 1e3:.2f}",
        "batch, ms": f"{batch * 1e3:.2f}",
        "MFLOP": f"{operations / 1e6:,.0f}",
        "MB": f"{sum(each.size for each in work) / 1e6:,.1f}",
        "products, ms": f"{products / core.operations * 1e3:.2f}",
        "limit, ms": f"{limit * 1e3:.2f}",
        "limit / step": f"{limit / step:.2f}",
        "largest of the limit": ", ".join(
            f"{kind} {seconds / limit:.0%}" for kind, seconds in largest.most_common(4)
        ),
    }


def measure(name: str, core: Core, output: Path) -> dict[str, str]:
    """A row of the table."""
    from models.names import registry
    from models.training.trainer import resolve

    pair = speed.PAIRS[name]
    data = speed.prepare(pair, output).training_data(name)
    model = registry.load(name).Model(resolve(name, {**pair.ours, "epochs": 1}), data)
    loop = _Measured(model.hyper_parameters, data)
    loop.core = core
    model.learn(loop)
    return {"model": name, **loop.row}


def main() -> None:
    """Prints what the core does, and a row a model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=speed.PAIRS, default=MODELS)
    parser.add_argument("--output", type=Path, default=Path(".cache/benchmarks/speed"))
    given = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    core = measure_core()
    moved = ", ".join(f"{each / 1e9:.0f}" for each in core.bandwidth)
    print(f"{core.operations / 1e9:.0f} GFLOP/s; GB/s in arrays of {SIZES} bytes: {moved}")
    rows = []
    for name in given.models:
        rows.append(measure(name, core, given.output))
        print(rows[-1], flush=True)
    print(experiment.table(rows))
    print(f"\n{experiment.machine()}")


if __name__ == "__main__":
    main()
