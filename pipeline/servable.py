"""The trained model of a run as a server would load it, to be asked here."""

import functools
import os
from pathlib import Path
from typing import Any

from models.names.errors import RecsysError
from pipeline.lineage import RunRecord

# Before anybody imports TensorFlow, which reads it once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

FORMAT = "Format-Serving"


@functools.lru_cache(maxsize=2)
def load(folder: str) -> Any:
    """Loads a SavedModel; the last two stay loaded, for who asks them one thing after another."""
    import tensorflow as tf

    return tf.saved_model.load(folder)


def signatures(record: RunRecord) -> Any:
    """The signatures of a run's model by name.

    Raises:
        RecsysError: the run has no model, or its folder is gone.
    """
    folder = Path(record.model_uri or "") / FORMAT
    if not record.model_uri or not (folder / "saved_model.pb").is_file():
        raise RecsysError(f"run {record.run_id} of {record.pipeline} has no model to ask")
    return load(str(folder)).signatures
