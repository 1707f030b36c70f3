"""The trained model of a run as a server would load it, to be asked here."""

import os
from pathlib import Path
from typing import Any

from models.names.errors import RecsysError
from pipeline.lineage import RunRecord

# Before anybody imports TensorFlow, which reads it once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

FORMAT = "Format-Serving"


def load(folder: str) -> Any:
    """Loads a SavedModel."""
    import tensorflow as tf

    return tf.saved_model.load(folder)


def model(record: RunRecord) -> Any:
    """The loaded model of a run; its `signatures` live as long as it does.

    Raises:
        RecsysError: the run has no model, or its folder is gone.
    """
    folder = Path(record.model_uri or "") / FORMAT
    if not record.model_uri or not (folder / "saved_model.pb").is_file():
        raise RecsysError(f"run {record.run_id} of {record.pipeline} has no model to ask")
    return load(str(folder))
