"""The run: configuration, the DAG, the runners, the command line and the report."""

import models  # noqa: F401  (chooses the Keras before TensorFlow is imported)
import serving  # noqa: F401  (keeps the notes of TensorFlow off the screen)
