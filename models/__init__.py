"""Published recommender models under one contract; importable without TFX or Beam.

TensorFlow Recommenders raises under Keras 3, so the legacy Keras is chosen here, before anything
can import TensorFlow.
"""

import os

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
