"""Examples of how to ask a model, made from its own signatures.

    python -m serving.client.usage HOST:PORT MODEL

prints a command of curl and a few lines of Python for every signature of a model that is served,
by this server or by TensorFlow Serving; HOST:PORT is the REST port. What is printed runs as it is.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import dataclass
from typing import Any

from serving.client import messages
from serving.client.client import Client
from serving.wire.errors import ServingError

_METHODS = {"tensorflow/serving/classify": "classify", "tensorflow/serving/regress": "regress"}
_INTEGERS = ("DT_INT", "DT_UINT")
_WITHOUT_JSON = ("DT_HALF", "DT_BFLOAT16", "DT_COMPLEX64", "DT_COMPLEX128")


@dataclass(frozen=True)
class Usage:
    """How to ask one signature.

    Attributes:
        signature: its name.
        summary: its inputs and outputs with types and shapes.
        curl: a shell command; empty where JSON has no value for an input's type.
        python: a program that prints the answer; empty where the client has no method for it.
    """

    signature: str
    summary: str
    curl: str
    python: str


def usages(metadata: messages.Document, address: str, model: str) -> list[Usage]:
    """Makes the examples.

    Args:
        metadata: the model's metadata, as `Client.metadata` returns it.
        address: host:port of the REST port, for the examples to name.
        model: the model's name.

    Returns:
        One for each signature, by name.
    """
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    return [_usage(name, signatures[name], address, model) for name in sorted(signatures)]


def _usage(name: str, signature: messages.Document, address: str, model: str) -> Usage:
    inputs = signature["inputs"]
    summary = f"{_tensors(inputs)} -> {_tensors(signature['outputs'])}"
    method = _METHODS.get(signature["method_name"], "predict")
    url = f"http://{address}{messages.model_path(model)}:{method}"
    if any(tensor["dtype"] in _WITHOUT_JSON for tensor in inputs.values()):
        return Usage(name, summary, "", "")
    if method != "predict":
        # An example without features: the signature fills in what has a default.
        body: messages.Document = {"signature_name": name, "examples": [{}]}
        return Usage(name, summary, _curl(url, body), "")
    if set(inputs) == messages.IDS:
        values = messages.recommend_inputs([messages.Query("1", ["2", "3"], ["4"])], 10)
        call = 'client.recommend("1", history=["2", "3"], exclude=["4"], k=10)'
    elif name in (messages.EVENTS, messages.RULES, messages.EXPLAINED):
        more = _more(inputs)
        if name == messages.RULES:
            more["pin"], more["exclude_recent"] = ["5"], 3
        elif name == messages.EXPLAINED:
            more["explain"] = 3
        query = messages.Query("1", ["2", "3"], ["4"], **more)
        beside = {key: tensor for key, tensor in inputs.items() if key not in messages.IDS}
        values = messages.recommend_inputs([query], 10, beside)
        told = "".join(f", {key}={value!r}" for key, value in more.items())
        call = f'client.recommend("1", history=["2", "3"], exclude=["4"], k=10{told})'
    elif name == messages.SIMILAR:
        values = messages.similar_inputs(["1"], 10)
        call = 'client.similar("1", k=10)'
    else:
        values = {key: _value(tensor) for key, tensor in sorted(inputs.items())}
        call = f"client.predict({values!r}, signature_name={name!r})"
    body = {"signature_name": name, "inputs": values}
    python = (
        "from serving.client import Client\n\n"
        f"with Client({address!r}, {model!r}) as client:\n"
        f"    print({call})"
    )
    return Usage(name, summary, _curl(url, body), python)


def _more(inputs: messages.Document) -> dict[str, Any]:
    """Values of what a request tells besides ids."""
    lists = {
        name: value
        for name, value in (
            ("event_types", ["click", "click"]),
            ("dwell", [12.0, 30.0]),
            ("timestamps", [1_700_000_000, 1_700_000_060]),
        )
        if name in inputs
    }
    context = {
        name: "" if tensor["dtype"] == "DT_STRING" else 1.0
        for name, tensor in sorted(inputs.items())
        if name not in messages.IDS and name not in lists and name not in messages.RULE_NAMES
    }
    return {**lists, **({"context": context} if context else {})}


def _curl(url: str, body: messages.Document) -> str:
    return f"curl --silent --data {shlex.quote(json.dumps(body))} {shlex.quote(url)}"


def _tensors(tensors: messages.Document) -> str:
    return ", ".join(f"{name} {_type(tensor)}" for name, tensor in sorted(tensors.items()))


def _type(tensor: messages.Document) -> str:
    shape = _shape(tensor)
    sizes = (
        "of any shape"
        if shape is None
        else "[" + ", ".join("?" if size < 0 else str(size) for size in shape) + "]"
    )
    return f"{tensor['dtype'].removeprefix('DT_').lower()} {sizes}"


def _shape(tensor: messages.Document) -> list[int] | None:
    shape = tensor["tensor_shape"]
    if shape.get("unknown_rank"):
        return None
    return [int(dimension["size"]) for dimension in shape.get("dim", [])]


def _value(tensor: messages.Document) -> Any:
    """A value of the tensor's type, repeated to its shape; one where a size is free."""
    dtype = tensor["dtype"]
    if dtype == "DT_STRING":
        value: object = ""  # as an id one that nobody has, as a serialized example an empty one
    elif dtype == "DT_BOOL":
        value = True
    else:
        value = 1 if dtype.startswith(_INTEGERS) else 1.0
    shape = _shape(tensor)
    for size in reversed([1] if shape is None else shape):
        value = [value] * (size if size >= 0 else 1)
    return value


def markdown(metadata: messages.Document, address: str, model: str) -> str:
    """All examples as a page of Markdown."""
    version = metadata["model_spec"]["version"]
    parts = [f"# {model}, version {version}, at {address}"]
    for usage in usages(metadata, address, model):
        parts.append(f"## {usage.signature}\n\n{usage.summary}")
        if usage.curl:
            parts.append(f"```bash\n{usage.curl}\n```")
        else:
            parts.append("JSON has no value for this type: use gRPC.")
        if usage.python:
            parts.append(f"```python\n{usage.python}\n```")
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """Prints the examples of a served model.

    Returns:
        The exit status: 0, or 1 where the server or the model does not answer.
    """
    parser = argparse.ArgumentParser(
        prog="python -m serving.client.usage",
        description="Prints how to ask a served model, as commands of curl and as Python.",
    )
    parser.add_argument("address", metavar="HOST:PORT", help="the server's REST port")
    parser.add_argument("model", help="the model's name")
    given = parser.parse_args(arguments)
    try:
        with Client(given.address, given.model) as client:
            print(markdown(client.metadata(), given.address, given.model))
    except ServingError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
