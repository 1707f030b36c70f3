"""EASE: a linear auto-encoder with a zero diagonal, in closed form.

Cite: Steck: Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019.

    P     = (X'X + lambda I)^-1         X: users x items, 1 where the user has the item
    B     = I - P diag(1 / diag P)
    score = x_u B

Deviations: none in the formula; the inverse is taken in float64. The matrix has items x items
entries, so a catalogue beyond `max_items` is refused rather than left to run out of memory.
"""

import time

import numpy as np
import pydantic

from models.baseline.item_based import ItemBased
from models.contract.loop import Loop
from models.inputs.data import TrainingData
from models.names.errors import ConfigError
from models.names.hyper_parameters import Ranking


class HyperParameters(Ranking):
    """EASE's own: `l2` is lambda."""

    l2: float = pydantic.Field(250.0, gt=0)
    max_items: int = pydantic.Field(40_000, ge=1)


class EASE(ItemBased[HyperParameters]):
    """The item-item matrix that best rebuilds every user's row.

    An item is rebuilt without looking at the item itself.
    """

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        if len(data.items) > hyper_parameters.max_items:
            raise ConfigError(
                f"ease needs a matrix of items x items; max_items is {hyper_parameters.max_items}, "
                f"the catalogue has {len(data.items)}"
            )
        super().__init__(hyper_parameters, data)

    def learn(self, loop: Loop) -> None:
        started = time.monotonic()
        pairs = loop.data.events.matrix(len(loop.data.items))
        self.weights_matrix.assign(
            solve((pairs.T @ pairs).toarray().astype(np.float64), self.hyper_parameters.l2)
        )
        loop.record(self, seconds=time.monotonic() - started)


def solve(gram: np.ndarray, l2: float) -> np.ndarray:
    """[N, N] X'X -> [N, N] B."""
    inverse = np.linalg.inv(gram + l2 * np.eye(len(gram)))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


Model = EASE
