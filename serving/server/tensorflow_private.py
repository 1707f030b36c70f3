"""TensorFlow's private names that the server needs: here and nowhere else.

A release may drop one without a word. `tests/test_tensorflow_private.py` asks for each by name, in
either lane. What the models need is in `models.inputs.tensorflow_private`.
"""

from __future__ import annotations

from typing import Callable

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2


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
