"""TensorFlow's and legacy Keras' private names that the models need: here and nowhere else.

A release may drop one without a word. `tests/test_tensorflow_private.py` asks for each by name, in
either lane. What the server needs is in `serving.server.tensorflow_private`.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.autograph.core import config as autograph
from tensorflow.python.framework import ops
from tensorflow.python.grappler import tf_optimizer
from tf_keras.src import backend


def leave_unconverted(package: str) -> None:
    """Makes AutoGraph run the functions of `package` as they are, for the rest of the process.

    `tf.autograph.experimental.do_not_convert` does so for one function of ours, not for those of a
    library that a library calls.
    """
    rule = autograph.DoNotConvert(package)
    autograph.CONVERSION_RULES = (*autograph.CONVERSION_RULES, rule)


def with_seeds(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that draws initial weights, in whatever thread, with the seeds of this one.

    A replica's thread has none, so that layers which are made in it were other ones than those of
    one process.
    """
    generator = getattr(backend._SEED_GENERATOR, "generator", None)

    def seeded(*arguments: Any) -> Any:
        backend._SEED_GENERATOR.generator = generator
        return function(*arguments)

    return seeded


@contextlib.contextmanager
def forgotten_gradients() -> Iterator[None]:
    """Takes back the gradients of `tf.custom_gradient` that are registered within, at its end.

    Every function that is traced with one, and every SavedModel that is loaded with one, registers
    it under a number of its own, for as long as the process lives. What is registered holds the
    graph, and with it the tables, the optimiser's state and the data that the graph reads.

    What was traced within can be called thereafter, but has no gradient.
    """
    registered = ops.gradient_registry._registry
    before = set(registered)
    try:
        yield
    finally:
        for name in registered.keys() - before:
            # The others are those of operations, imported when wanted.
            if re.search(r"-\d+$", name):
                del registered[name]


@contextlib.contextmanager
def without_keras() -> Iterator[None]:
    """Leaves out of a SavedModel, while it lasts, what Keras would load the layers from.

    That is lists of each layer's variables, losses and calls, which costs more than all
    that the signatures read. That is saved as of any other module.
    """
    layer = tf.keras.layers.Layer
    own = layer._trackable_children
    layer._trackable_children = tf.Module._trackable_children
    try:
        yield
    finally:
        layer._trackable_children = own


def several_steps(model: tf.keras.Model) -> tf.types.experimental.GenericFunction | None:
    """Returns Keras' train function where an execution is several steps, which one replica takes.

    Keras' own loop begins without a value, and so AutoGraph traces a step once more to learn of
    what kind its value is. Ours begins with a loss.

    Args:
        model: compiled; a step of it returns the loss alone.

    Returns:
        none where an execution is one step: that Keras traces once.
    """
    if model.run_eagerly or model._steps_per_execution.numpy() == 1:
        return None

    def step(batch):
        logs = model.train_step(batch)
        model._train_counter.assign_add(1)
        return logs["loss"]

    if model.jit_compile:
        step = tf.function(step, jit_compile=True, reduce_retracing=True)

    @tf.function(reduce_retracing=True)
    def execution(iterator):
        loss = tf.constant(0.0)
        for _ in tf.range(model._steps_per_execution):
            loss = model.distribute_strategy.run(step, args=(next(iterator),))
        return {"loss": loss}

    return execution


def as_executed(graph: tf.Graph, fetched: list[str]) -> tf.compat.v1.GraphDef:
    """Returns a graph as Grappler rewrites it before it is executed.

    Args:
        graph: of a function.
        fetched: names of the operations that have to stay, with what they need.
    """
    meta = tf.compat.v1.train.export_meta_graph(graph_def=graph.as_graph_def(), graph=graph)
    meta.collection_def["train_op"].node_list.value.extend(fetched)
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1
    return tf_optimizer.OptimizeGraph(config, meta)


def set_learning_rate(optimizer: tf.keras.optimizers.Optimizer, learning_rate) -> None:
    """Gives an optimiser of ours its learning rate, a number or a schedule, while it is made.

    The property `learning_rate` can be set only where there is one already, and the base class'
    constructor takes none.
    """
    optimizer._learning_rate = optimizer._build_learning_rate(learning_rate)


def share_learning_rate(
    optimizer: tf.keras.optimizers.Optimizer, other: tf.keras.optimizers.Optimizer
) -> None:
    """Makes the learning rate of `other`, variable or schedule, that of `optimizer` too.

    The property `learning_rate` copies the number, and hides a schedule behind its last value.
    """
    optimizer._learning_rate = other._learning_rate


def learning_rate_config(optimizer: tf.keras.optimizers.Optimizer):
    """Returns the learning rate as `get_config` gives it: a number, or a schedule's own config.

    The property `learning_rate` hides a schedule behind its last value.
    """
    return optimizer._serialize_hyperparameter(optimizer._learning_rate)


def builds_now(optimizer: tf.keras.optimizers.Optimizer) -> bool:
    """Whether `build`, which Keras calls at every step, is called for the first time.

    Keras' own optimisers ask the same attribute; there is no public one.
    """
    first = not getattr(optimizer, "_built", False)
    optimizer._built = True
    return first


def place_of(optimizer: tf.keras.optimizers.Optimizer, variable: tf.Variable) -> int:
    """Returns the position of `variable` in the list that `optimizer` was built with.

    `update_step` is told the variable alone; comparing it with the list fails under a strategy,
    which hands out a replica's part of it.
    """
    return optimizer._index_dict[optimizer._var_key(variable)]


def adam_moments(
    optimizer: tf.keras.optimizers.Adam, variable: tf.Variable
) -> tuple[tf.Variable, tf.Variable]:
    """Returns the first and the second moment that Keras' Adam keeps of `variable`.

    `Optimizer.variables` holds them too, in an order that no document states.
    """
    place = place_of(optimizer, variable)
    return optimizer._momentums[place], optimizer._velocities[place]


def untrack(holder: tf.Module, name: str) -> None:
    """Makes what is saved of `holder` lack the attribute `name`, until it is set again.

    Keras' own `del` does so only for what has been set once.
    """
    holder._delete_tracking(name)
