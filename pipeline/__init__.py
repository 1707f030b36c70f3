"""The run: configuration, the DAG, the runners, the command line and the report."""

import models  # noqa: F401  (chooses the Keras before TensorFlow is imported)
