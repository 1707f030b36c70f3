"""What every signature checks of a request before a model sees it, and how they are saved."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from models.inputs.tensorflow_private import without_keras
from models.inputs.traced import traced

K = tf.TensorSpec(None, tf.int32, name="k")


def save(module: tf.Module, folder: str, signatures: Mapping[str, Any]) -> None:
    """Writes a SavedModel, which is asked by its signatures alone: Keras does not load it.

    Its answers have no gradient: whoever loads one registers it for as long as the process lives.
    """
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    # TensorFlow wraps each signature in a function, which AutoGraph would read and compile.
    written = tf.autograph.experimental.do_not_convert(tf.saved_model.save)
    with without_keras():
        written(module, folder, signatures=signatures, options=options)


def signature(function: Callable[..., Any], **specs: tf.TensorSpec) -> Any:
    """Returns the function as a signature that says which of its inputs have other rows.

    Plain ops, so that TensorFlow Serving answers with the same words; without them a product or a
    broadcast somewhere in the graph would complain of shapes that nobody sent, or of none.

    Args:
        function: takes tensors by the names of the inputs.
        specs: the inputs by name: [B, ...] those of at least one dimension; `k` also one for all.
    """

    def checked(**inputs: tf.Tensor) -> Any:
        return function(**_same_rows(inputs))

    return traced(checked).get_concrete_function(**specs)


def _same_rows(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The inputs, `k` with a value a row; an error of the graph names those that disagree."""
    # Of unknown rank is `k` alone: a number, or a list of them.
    lists = [name for name in inputs if inputs[name].shape.rank]
    if "k" in inputs and inputs["k"].shape.rank is None and lists:
        inputs = {**inputs, "k": _one_each(inputs["k"], tf.shape(inputs[lists[0]])[0])}
        lists.append("k")
    if len(lists) < 2:
        return inputs
    rows = [tf.shape(inputs[name])[0] for name in lists]
    same = tf.reduce_all(tf.stack(rows[1:]) == rows[0])
    said = [part for name, count in zip(lists, rows, strict=True) for part in (name, count)]
    message = "inputs of a request must have as many rows as each other; received rows of"
    with tf.control_dependencies([tf.debugging.Assert(same, [message, *said])]):
        return {name: tf.identity(value) for name, value in inputs.items()}


def _one_each(k: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """[B] of a scalar, of [1], or of [B]."""
    flat = tf.reshape(k, [-1])
    return tf.repeat(flat, tf.where(tf.size(flat) == 1, rows, 1))
