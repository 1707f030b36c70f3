"""How a model is exported. Light: a run file nests it."""

from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from models.names.settings import Settings


class ExportConfig(Settings):
    """How the tables of embeddings lie in what is served.

    Attributes:
        tables: `float32` as they were learnt; `int8` a byte a number, each row by a scale of its
            own (narrow rows a few together), and made floats again when a row is looked up. What
            that costs of validation's metrics is printed beside what it saves; the gate measures
            the model as it is served.
        smallest: how many numbers a table has at least to be stored in bytes.
    """

    SECTION = "export"

    tables: Literal["float32", "int8"] = "float32"
    smallest: int = pydantic.Field(65_536, ge=1)


FLOAT32 = ExportConfig()
"""Tables as they were learnt."""

_SAID = ("auc", "ndcg_10", "hr_10", "log_loss", "rmse")


def described(export: Mapping[str, Any]) -> str:
    """What the training log says under `export`, in words: the saving and beside it the cost."""
    size, whole = export["bytes"], export["float32_bytes"]
    served, learnt = export["valid"], export["float32_valid"]
    costs = [
        f"{name} {served[name]:.5f} for {learnt[name]:.5f}" for name in _SAID if name in served
    ]
    return (
        f"{size / 1e6:,.1f} of {whole / 1e6:,.1f} MB ({size / whole:.2f}), tables in "
        f"{export['tables']}; {', '.join(costs) or 'no validation says what it costs'}"
    )
