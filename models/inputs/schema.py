"""The schema of the built examples, read from any file system."""

import tensorflow as tf
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2


def read_schema(path: str) -> schema_pb2.Schema:
    """Reads a text-format schema."""
    with tf.io.gfile.GFile(path) as file:
        return text_format.Parse(file.read(), schema_pb2.Schema())
