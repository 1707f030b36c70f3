"""EASE: a linear auto-encoder with a zero diagonal, in closed form.

Cite: Steck: Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019.

    P     = (X'X + lambda I)^-1         X: users x items, where the user has the item the weight of
                                           the heaviest event with it (1 unless the run says one)
    B     = I - P diag(1 / diag P)
    score = x_u B                       x_u: 1 where the query has the item

Deviations: none in the formula. The matrix is positive definite, so it is inverted by Cholesky's
factors, in place, and in float64: in float32 the error grows with the largest eigenvalue of X'X
over lambda. The model's own matrix is float32. A catalogue beyond what memory holds is refused.
"""

import math
import time

import numpy as np
import pydantic
import scipy.linalg.lapack
import scipy.sparse

from models.baseline.item_based import ItemBased
from models.contract.loop import Loop
from models.inputs.data import TrainingData
from models.names import memory
from models.names.errors import ConfigError
from models.names.hyper_parameters import Ranking
from models.names.sizes import Parameters, Sizes

_BLOCK = 512
_SHARE = 0.8  # of memory: the rest is for the log and TensorFlow


class HyperParameters(Ranking):
    """EASE's own.

    Attributes:
        l2: lambda.
        max_items: a larger catalogue is refused; left out, as many as memory holds.
    """

    l2: float = pydantic.Field(250.0, gt=0)
    max_items: int | None = pydantic.Field(None, ge=1)

    def most_items(self) -> int:
        # At most 16 bytes an entry at a time: the inverse in float64 beside the model's matrix and
        # a copy of it in float32; at the export the last two, what is frozen and what is written.
        return self.max_items or math.isqrt(int(_SHARE * memory.total_bytes()) // 16)

    def parameters(self, sizes: Sizes) -> Parameters:
        # 16 bytes an entry at a time, as of `most_items`.
        return Parameters(held=sizes.items**2, beside=3 * sizes.items**2)


class EASE(ItemBased[HyperParameters]):
    """The item-item matrix that best rebuilds every user's row.

    An item is rebuilt without looking at the item itself.
    """

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        most = hyper_parameters.most_items()
        if len(data.items) > most:
            raise ConfigError(
                f"ease needs a matrix of items x items; required: at most {most:,} items "
                f"(max_items, or what memory holds); received {len(data.items):,}. Raise "
                "features.min_count"
            )
        super().__init__(hyper_parameters, data)

    def learn(self, loop: Loop) -> None:
        started = time.monotonic()
        pairs = loop.data.events.matrix(len(loop.data.items))
        self.weights_matrix.assign(solve(count_together(pairs), self.hyper_parameters.l2))
        loop.record(self, seconds=time.monotonic() - started)


def count_together(pairs: scipy.sparse.csr_matrix) -> np.ndarray:
    """[P, N] X -> [N, N] float64 X'X, by columns.

    Where most pairs of items meet, the sparse product of the whole would be larger than the dense.
    """
    count = pairs.shape[1]
    together, columns = np.empty((count, count), np.float64, order="F"), pairs.tocsc()
    for start in range(0, count, _BLOCK):
        block = columns[:, start : start + _BLOCK]
        together[:, start : start + _BLOCK] = (columns.T @ block).toarray()
    return together


def solve(gram: np.ndarray, l2: float) -> np.ndarray:
    """[N, N] X'X -> [N, N] float64 B, in the place of X'X where that is float64 by columns.

    Raises:
        ConfigError: the matrix has no inverse in float64.
    """
    matrix = np.asfortranarray(gram, np.float64)
    matrix.flat[:: len(matrix) + 1] += l2
    matrix, failed = scipy.linalg.lapack.dpotrf(matrix, lower=1, overwrite_a=1, clean=0)
    if not failed:
        matrix, failed = scipy.linalg.lapack.dpotri(matrix, lower=1, overwrite_c=1)
    if failed:
        raise ConfigError(f"ease: X'X + l2 I has no inverse; required: a larger l2; received {l2}")
    # LAPACK leaves the upper triangle as it was.
    for start in range(0, len(matrix), _BLOCK):
        end = start + _BLOCK
        square = matrix[start:end, start:end]
        square[:] = np.tril(square) + np.tril(square, -1).T
        matrix[start:end, end:] = matrix[end:, start:end].T
    matrix /= -matrix.diagonal().copy()
    np.fill_diagonal(matrix, 0.0)
    return matrix


Model = EASE
