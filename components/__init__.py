"""TFX components that a recommender needs and TFX lacks: readers, checks, example building, the
canary."""

import models  # noqa: F401  (chooses the Keras before TensorFlow is imported)
