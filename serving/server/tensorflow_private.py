"""TensorFlow's private names that the server needs: here and nowhere else.

A release may drop one without a word. `tests/test_tensorflow_private.py` asks for each by name, in
either lane. What the models need is in `models.inputs.tensorflow_private`.
"""

from __future__ import annotations

from typing import Callable

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session as c_api
from tensorflow.python.saved_model.loader_impl import SavedModelLoader

_TAGS = ["serve"]
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def load(session: tf.compat.v1.Session, path: str) -> meta_graph_pb2.MetaGraphDef:
    """Does what `tf.compat.v1.saved_model.load` does, and lets other threads go on meanwhile.

    A call that imports a graph holds the interpreter's lock from its beginning to its end, .2 s for
    a model with all its signatures. So its functions come before, each by a call of its own, and
    the nodes that call them without inferring shapes through what they call: the file tells those.

    Args:
      session: of an empty graph.
      path: folder of the SavedModel.

    Returns:
      Its description, without the functions.
    """
    loader = SavedModelLoader(path)
    found = loader.get_meta_graph_def_from_tags(_TAGS)
    functions = found.graph_def.library.function
    with session.graph._c_graph.get() as graph:
        for definition in functions:
            function = c_api.TF_FunctionImportFunctionDef(definition.SerializeToString())
            c_api.TF_GraphCopyFunction(graph, function, None)
            c_api.TF_DeleteFunction(function)
    del functions[:]
    for node in found.graph_def.node:
        if node.op in _CALLS:
            node.attr["_disable_call_shape_inference"].b = True
    saver, _ = loader.load_graph(session.graph, _TAGS)
    loader.restore_variables(session, saver)
    loader.run_init_ops(session, _TAGS)
    return found


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
