"""TFX components that a recommender needs and TFX lacks.

They are readers, checks, example building and the canary.
"""

import models  # noqa: F401  (chooses the Keras before TensorFlow is imported)


def __getattr__(name: str):
    """`TableReport`, under the name by which Kubeflow Pipelines imports it; TFX only then."""
    if name == "TableReport":
        from components.check.table_check import TableReport

        return TableReport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
