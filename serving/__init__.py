"""An embedded server that answers as TensorFlow Serving does, and a small client for both.

The server needs TensorFlow and any SavedModel; the client needs neither.
"""

import os

# Before anything imports TensorFlow: models are exported by legacy Keras, and its log is for
# developers.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from serving.wire import import_notes  # noqa: E402

import_notes.mute()
