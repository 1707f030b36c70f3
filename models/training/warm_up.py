"""Requests that a server runs before a version of a model answers anybody.

The first run of a signature takes as long as hundreds of others. TensorFlow Serving, and the server
here, replay what lies in `assets.extra/tf_serving_warmup_requests` of a SavedModel when they load
it, and say that they are ready afterwards.
"""

import os

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
# What a server is asked for. What only evaluation and batch jobs ask may come slowly once.
SIGNATURES = (
    "serving_default",
    "recommend",
    "recommend_events",
    "recommend_rules",
    "recommend_explained",
    "similar",
    "similar_features",
    "embed",
    "embed_events",
    "retrieve",
    "score",
    "score_explained",
)
BATCH_SIZES = (1, 8)
_K = 10


def save_requests(folder: str) -> int:
    """Writes a request a signature and batch size into an exported SavedModel.

    They ask for 10 items for users whom nobody knows: what runs is the same for all.

    Args:
        folder: of the SavedModel; it may be of any file system that TensorFlow knows.

    Returns:
        How many requests there are.
    """
    with tf.io.gfile.GFile(os.path.join(folder, "saved_model.pb"), "rb") as file:
        model = saved_model_pb2.SavedModel.FromString(file.read())
    signatures = model.meta_graphs[0].signature_def
    path = os.path.join(folder, FILE)
    tf.io.gfile.makedirs(os.path.dirname(path))
    logs = [
        _log(name, signatures[name], rows)
        for name in SIGNATURES
        if name in signatures
        for rows in BATCH_SIZES
    ]
    with tf.io.TFRecordWriter(path) as writer:
        for log in logs:
            writer.write(log.SerializeToString())
    return len(logs)


def _log(
    name: str, signature: meta_graph_pb2.SignatureDef, rows: int
) -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.signature_name = name
    for key, tensor in signature.inputs.items():
        kind = tf.dtypes.as_dtype(tensor.dtype)
        # Of any rank is `k`: a list, since a server that batches wants rows of all that it joins.
        unknown = tensor.tensor_shape.unknown_rank
        dims = [-1] if unknown else [dim.size for dim in tensor.tensor_shape.dim]
        # Rows first; lists of one, so that what is made of them runs too.
        shape = [
            size if size >= 0 else (rows if place == 0 else 1) for place, size in enumerate(dims)
        ]
        value = "" if kind == tf.string else (_K if key == "k" else 0)
        request.inputs[key].CopyFrom(tf.make_tensor_proto(tf.fill(shape, tf.constant(value, kind))))
    return log
