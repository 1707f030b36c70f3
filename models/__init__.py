"""Published recommender models under one contract; importable without TFX or Beam.

TensorFlow Recommenders raises under Keras 3, so the legacy Keras is chosen here, before anything
can import TensorFlow.
"""

import os
import warnings

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Google's libraries warn of a Python or a gRPC that is not new. The locks choose those, and a user
# of the `portable` lane has no other.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"google\.")
