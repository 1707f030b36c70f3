"""Which model the gate compares with: the last blessed one that is not this very training."""

import json
from pathlib import PurePosixPath

from tfx.dsl.components.common.resolver import ResolverStrategy
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import (
    LatestBlessedModelStrategy,
)
from tfx.dsl.io import fileio

FINGERPRINT = str(PurePosixPath("Format-Serving", "assets.extra", "training.json"))


class LastBlessedOther(ResolverStrategy):
    """TFX's latest blessed model, passing over the one that an unchanged run has produced itself.

    Without this an unchanged second run would evaluate its own model against itself, in place of
    being served from the cache.

    Args:
        fingerprint: of the current training; a model that holds the same in its training log is
            passed over.
    """

    def __init__(self, fingerprint: str):
        self._fingerprint = fingerprint

    def resolve_artifacts(self, store, input_dict):
        """Returns the model and its blessing.

        Where there is none it returns None or empty lists, as TFX's strategy does.
        """
        others = [
            model
            for model in input_dict.get("model", [])
            if self._of(model.uri) != self._fingerprint
        ]
        return LatestBlessedModelStrategy().resolve_artifacts(
            store, {**input_dict, "model": others}
        )

    @staticmethod
    def _of(uri: str) -> str | None:
        path = str(PurePosixPath(uri) / FINGERPRINT)
        if not fileio.exists(path):
            return None
        with fileio.open(path) as file:
            return json.load(file).get("fingerprint")
