"""Classify and Regress: signatures that read serialized examples, and their typed results."""

from __future__ import annotations

import numpy as np

from serving.wire.errors import invalid

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"


def serialized_examples(request_input) -> np.ndarray:
    """The examples of an Input message, serialized; a context's bytes precede each of them.

    Raises:
        ServingError: INVALID_ARGUMENT "Input is empty."
    """
    kind = request_input.WhichOneof("kind")
    if kind == "example_list":
        values = [example.SerializeToString() for example in request_input.example_list.examples]
    elif kind == "example_list_with_context":
        listed = request_input.example_list_with_context
        context = listed.context.SerializeToString()
        values = [context + example.SerializeToString() for example in listed.examples]
    else:
        values = []
    if not values:
        raise invalid("Input is empty.")
    array = np.empty(len(values), object)
    array[:] = values
    return array


def classification_signature(definition) -> tuple[str, ...]:
    """Checks a signature for Classify and returns the outputs to fetch.

    Its method is not looked at: a SavedModel of TensorFlow 2 says `predict` of every signature.

    Raises:
        ServingError: the signature is not one for classification.
    """
    if len(definition.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(definition.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(definition.outputs)}")
    if "inputs" not in definition.inputs:
        raise invalid(f"No classification inputs found in SignatureDef: {definition}")
    outputs = tuple(name for name in ("classes", "scores") if name in definition.outputs)
    if not outputs:
        raise invalid(
            "Expected classification signature outputs to contain at least one of "
            f'"classes" or "scores". Signature was: {definition}',
        )
    return outputs


def regression_signature(definition) -> tuple[str, ...]:
    """Checks a signature for Regress and returns the output to fetch, whatever its method.

    Raises:
        ServingError: the signature is not one for regression.
    """
    if len(definition.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(definition.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    for kind, names in (("inputs", definition.inputs), ("outputs", definition.outputs)):
        if kind not in names:
            raise invalid(f"No regression {kind} found in SignatureDef: {definition}")
    return ("outputs",)


def classify_result(outputs: dict[str, np.ndarray], count: int, result) -> None:
    """Fills a ClassificationResult from the fetched outputs.

    Args:
        outputs: `classes` [count, n] string, `scores` [count, n] float, or both.
        count: the number of examples.
        result: the message to fill.

    Raises:
        ServingError: outputs of other types or shapes.
    """
    for name, kind, words in (("classes", "O", "DT_STRING"), ("scores", "f", "DT_FLOAT")):
        array = outputs.get(name)
        if array is None:
            continue
        if array.ndim != 2:
            raise invalid(
                f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}"
            )
        if array.dtype.kind != kind or (kind == "f" and array.dtype != np.float32):
            raise invalid(f"Expected {name} Tensor of {words}. Got: {_type(array)}")
        if array.shape[0] != count:
            raise invalid(f"Expected {name} output batch size of {count}. Got: {array.shape[0]}")
    classes, scores = outputs.get("classes"), outputs.get("scores")
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise invalid(
            "Tensors class and score should match in dim_size(1). "
            f"Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    for row in range(count):
        entries = result.classifications.add().classes
        for column in range((classes if classes is not None else scores).shape[1]):
            entry = entries.add()
            if classes is not None:
                entry.label = classes[row, column].decode("utf-8", "replace")
            if scores is not None:
                entry.score = scores[row, column]


def regress_result(outputs: dict[str, np.ndarray], count: int, result) -> None:
    """Fills a RegressionResult from `outputs` [count] or [count, 1] float.

    Raises:
        ServingError: an output of another type or shape.
    """
    array = outputs["outputs"]
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] "
            f"but got {_shape(array)}"
        )
    if array.shape[0] != count:
        raise invalid(
            f"Input batch size did not match output batch size: {count} vs. {array.shape[0]}"
        )
    if array.dtype != np.float32:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {_type(array)}")
    for value in array.reshape(-1).tolist():
        result.regressions.add().value = value


def _shape(array: np.ndarray) -> str:
    return "[" + ",".join(map(str, array.shape)) + "]"


def _type(array: np.ndarray) -> str:
    if array.dtype.kind == "O":
        return "DT_STRING"
    names = {"float32": "FLOAT", "float64": "DOUBLE", "float16": "HALF"}
    return "DT_" + names.get(str(array.dtype), str(array.dtype).upper())
