"""What a SavedModel's training log says that the state must know."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Notes:
    """What `assets.extra/training.json` says; of models that have none, nothing.

    Attributes:
        history_until: the time of the newest event that the stored histories hold, in seconds since
            1970; 0 where nobody says.
        filters_seen: whether the model leaves out what was seen.
    """

    history_until: int = 0
    filters_seen: bool = True


def read_notes(path: str) -> Notes:
    """Reads the training log of the version in the folder `path`."""
    try:
        with open(os.path.join(path, "assets.extra", "training.json"), encoding="utf-8") as file:
            log = json.load(file)
        seen = log.get("hyper_parameters", {}).get("filter_seen", True)
        return Notes(int(log.get("history_until") or 0), bool(seen))
    except (OSError, ValueError, TypeError, AttributeError):
        return Notes()
