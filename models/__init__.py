"""Published recommender models under one contract; importable without TFX or Beam.

TensorFlow Recommenders raises under Keras 3, so the legacy Keras is chosen here, before anything
can import TensorFlow.
"""

import os
import warnings

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Google's libraries warn of every Python that is not new; which one runs here is chosen by
# `requirements/find_python`, and a user of the `portable` lane has no other.
warnings.filterwarnings("ignore", "You are using a .*Python version", FutureWarning)
