"""TensorFlow's private names that the server needs: here and nowhere else.

A release may drop one without a word. `tests/test_tensorflow_private.py` asks for each by name, in
either lane. What the models need is in `models.inputs.tensorflow_private`.
"""

from __future__ import annotations

import os
import time
from typing import Callable

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, saved_model_pb2
from tensorflow.python.client import pywrap_tf_session as c_api
from tensorflow.python.saved_model import loader_impl

from serving.wire.fields import take_out

_TAGS = {"serve"}
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_FUNCTIONS = (2, 2, 2, 1)  # SavedModel.meta_graphs, .graph_def, .library, .function
_SECONDS_BETWEEN = 0.001


def load(session: tf.compat.v1.Session, path: str) -> meta_graph_pb2.MetaGraphDef:
    """Does what `tf.compat.v1.saved_model.load` does, and lets other threads go on meanwhile.

    Whatever reads or imports a whole graph holds the interpreter's lock from its beginning to its
    end, .2 s for a model with all its signatures. So its functions go from the file to the graph as
    they are, each by a call of its own with a pause behind it, and the nodes that call them are
    imported without inferring shapes through what they call: the file tells those.

    Args:
      session: of an empty graph.
      path: folder of the SavedModel.

    Returns:
      Its description, without the functions.

    Raises:
      OSError: the file is none.
      RuntimeError: it has no graph that serves.
    """
    found, functions = _read(path)
    with session.graph._c_graph.get() as graph:
        for definition in functions:
            function = c_api.TF_FunctionImportFunctionDef(definition)
            c_api.TF_GraphCopyFunction(graph, function, None)
            c_api.TF_DeleteFunction(function)
            time.sleep(_SECONDS_BETWEEN)
    for node in found.graph_def.node:
        if node.op in _CALLS:
            node.attr["_disable_call_shape_inference"].b = True
    with session.graph.as_default():
        saver = tf.compat.v1.train.import_meta_graph(found)
        if saver is not None:
            saver.restore(session, os.path.join(path, "variables", "variables"))
        start = loader_impl.get_init_op(found)
        if start is not None:
            session.run([start], loader_impl.get_asset_tensors(path, found))
    return found


def _read(path: str) -> tuple[meta_graph_pb2.MetaGraphDef, list[bytes]]:
    """The graph of a SavedModel without its functions, and those, serialized."""
    functions: list[bytes] | None = None
    try:
        with open(os.path.join(path, "saved_model.pb"), "rb") as file:
            rest, functions = take_out(file.read(), _FUNCTIONS)
        model = saved_model_pb2.SavedModel.FromString(rest)
    except (FileNotFoundError, ValueError, DecodeError):
        model = None
    if model is None or len(model.meta_graphs) > 1:  # or it would not be known whose they are
        model, functions = loader_impl.parse_saved_model(path), None
    found = next((each for each in model.meta_graphs if {*each.meta_info_def.tags} == _TAGS), None)
    if found is None:
        tags = [sorted(each.meta_info_def.tags) for each in model.meta_graphs]
        raise RuntimeError(f"{path} has no graph of the tags {sorted(_TAGS)}; it has {tags}")
    if functions is None:
        library = found.graph_def.library.function
        functions = [each.SerializeToString() for each in library]
        del library[:]
    return found, functions


def make_callable(
    session: tf.compat.v1.Session, options: config_pb2.CallableOptions
) -> Callable[..., list]:
    """Prepares one run of a session, of which each call is the run alone.

    `Session.make_callable` prepares nothing where there are feeds: each call looks the names up
    again as `Session.run` does. And a limit of time is an option of every call there.

    Args:
      session: the session, whose graph is complete.
      options: what is fed, what is fetched, and how it is run.

    Returns:
      A function of one array for each feed; it returns one for each fetch, a string of rank 0 as
      `bytes`.
    """
    return session._make_callable_from_options(options)
