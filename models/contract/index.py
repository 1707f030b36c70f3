"""An inverted file in plain TensorFlow ops: the nearest items of a query, without all of them.

Sources: Jégou, Douze, Schmid: Product Quantization for Nearest Neighbor Search, TPAMI 2011, the
inverted file and the second, exact look at the best; scalar quantisation in place of products.

    list(i)  = argmin_c |v_i - m_c|                             k-means, of a sample of the items
    code(i)  = round(v_i / s_i),  s_i = max_d |v_id| / 127      int8
    rough(i) = s_i (q . code(i))       of the items of the `probes` lists with the largest q . m_c
    score(i) = q . v_i                 of the best of those, exactly

A list costs its items' bytes, so the time of a query is that of a few thousand items, whatever the
catalogue. Vectors may have any length: the score is the dot product, not the cosine.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from models.contract.retrieve import DotProductModel, RetrieveModel
from models.inputs.traced import traced
from models.names.errors import ConfigError
from models.names.index import IndexConfig

MEASURED_AT = 100
"""The best so many are what the recall of an index is measured on."""

_SAMPLE = 50  # items a list, of which k-means learns
_ITERATIONS = 10
_CELLS = 8_000_000  # of a matrix that is held at once
_LARGEST = 127

Vectors = npt.NDArray[np.float32]


def index_of(
    model: RetrieveModel[Any],
    catalogue: Any,
    settings: IndexConfig,
    seed: int,
    queries: Callable[[], tf.Tensor],
) -> "InvertedFile":
    """The inverted file of a model's items.

    Args:
        model: whose score is a dot product.
        catalogue: of the model, see `RetrieveModel.catalogue`.
        settings: of a kind that is not exact.
        seed: of k-means.
        queries: makes [Q, D] vectors of queries.

    Raises:
        ConfigError: the model's score is none.
    """
    if not isinstance(model, DotProductModel):
        raise ConfigError(
            f"index.kind: {settings.kind} is for models whose score is a dot product; "
            f"{type(model).__name__}'s is none; required: exact"
        )
    vectors, positions = model.index(tf.nest.map_structure(tf.convert_to_tensor, catalogue))
    return InvertedFile(vectors.numpy(), positions.numpy(), settings, seed, queries().numpy())


class InvertedFile(tf.Module):
    """The items' vectors, in lists.

    Args:
        vectors: [M, D] float32.
        positions: [M] where each stands in the catalogue, in ascending order.
        settings: of a kind that is not exact.
        seed: of k-means.
        queries: [Q, D] float32, on which the recall is measured, and by which `probes` is found
            where the settings leave it out.

    Attributes:
        lists: how many there are.
        probes: how many a query looks into.
        recall: the share of the exact best 100 of the queries that is found; NaN without queries.
    """

    def __init__(
        self,
        vectors: Vectors,
        positions: npt.NDArray[np.int64],
        settings: IndexConfig,
        seed: int,
        queries: Vectors,
    ):
        super().__init__()
        size, width = vectors.shape
        usual = max(1, round(4 * size**0.5))
        centres = k_means(vectors, min(settings.lists or usual, size), seed)
        list_of = nearest_centres(vectors, centres)
        self.lists = len(centres)
        best = exact_best(vectors, queries)
        self.probes = min(
            settings.probes or probes_for(settings.recall, centres, queries, list_of[best]),
            self.lists,
        )
        scale = np.maximum(np.abs(vectors).max(axis=1), np.finfo(np.float32).tiny) / _LARGEST
        codes = np.rint(vectors / scale[:, np.newaxis]).astype(np.int8)
        # Codes and scales lie in the order of the lists, vectors in that of the catalogue.
        order = np.argsort(list_of, kind="stable")
        splits = np.cumsum([0, *np.bincount(list_of, minlength=self.lists)])
        self._size = size
        # Variables, not constants: a graph may not hold more than 2 GB.
        self._vectors, self._positions, self._centres, self._splits, self._items = (
            tf.Variable(values, trainable=False)
            for values in (
                vectors,
                positions.astype(np.int32),
                centres,
                splits.astype(np.int32),
                order.astype(np.int32),
            )
        )
        self._codes = tf.Variable(codes[order], trainable=False)
        self._scale = tf.Variable(scale[order].astype(np.float32), trainable=False)
        # Several signatures ask it, and it is traced once.
        self.nearest = traced(
            self._nearest,
            input_signature=[tf.TensorSpec([None, width]), tf.TensorSpec([None], tf.int32)],
        ).__call__
        hits = [
            np.isin(self.nearest(query[np.newaxis], [best.shape[1]])[1], positions[right]).mean()
            for query, right in zip(queries, best, strict=True)
        ]
        self.recall = float(np.mean(hits)) if hits else float("nan")

    def _nearest(self, query: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`nearest`: the items with the largest dot products, among those of the probed lists.

        Where these hold fewer than a query asks for, it is compared with all items. An answer does
        not depend on the other queries of a batch.

        Args:
            query: [B, D] float32.
            count: [B] int32, at least 1.

        Returns:
            [B, C] scores, best first, -inf beyond a query's count; and [B, C] int32 catalogue
            positions. C is the largest count, or the number of items where that is less. Of equal
            scores the first position wins.
        """
        count = tf.minimum(count, self._size)
        width = tf.reduce_max(tf.concat([count, [1]], axis=0))
        near = tf.matmul(query, self._centres, transpose_b=True)
        lists = tf.math.top_k(near, self.probes, sorted=False).indices
        starts, ends = tf.gather(self._splits, lists), tf.gather(self._splits, lists + 1)

        def best_of(row: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
            query, starts, ends, count = row
            rows = tf.ragged.range(starts, ends).flat_values
            score, item = tf.cond(
                tf.size(rows) >= count,
                lambda: self._best_of(query, rows, count),
                lambda: tuple(tf.math.top_k(tf.linalg.matvec(self._vectors, query), count)),
            )
            beyond = [[0, width - count]]
            score = tf.pad(score, beyond, constant_values=float("-inf"))
            return score, tf.pad(tf.gather(self._positions, item), beyond)

        kinds = tf.TensorSpec([None]), tf.TensorSpec([None], tf.int32)
        return tf.map_fn(best_of, (query, starts, ends, count), fn_output_signature=kinds)

    def _best_of(
        self, query: tf.Tensor, rows: tf.Tensor, count: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The best `count` for a query [D] of some rows of the lists: scores and items."""
        codes = tf.cast(tf.gather(self._codes, rows), tf.float32)
        rough = tf.linalg.matvec(codes, query) * tf.gather(self._scale, rows)
        # A second look at twice as many makes up for what a byte leaves out.
        looked_at = tf.minimum(2 * count + MEASURED_AT, tf.size(rows))
        best = tf.math.top_k(rough, looked_at, sorted=False).indices
        item = tf.sort(tf.gather(self._items, tf.gather(rows, best)))
        score = tf.linalg.matvec(tf.gather(self._vectors, item), query)
        first = tf.math.top_k(score, count)
        return first.values, tf.gather(item, first.indices)


def k_means(vectors: Vectors, count: int, seed: int) -> Vectors:
    """Lloyd's algorithm from items drawn at random: [M, D] -> [count, D] means.

    A list that loses all its items begins anew at one that is drawn.
    """
    draw = np.random.default_rng(seed)
    if len(vectors) > _SAMPLE * count:
        vectors = vectors[draw.choice(len(vectors), _SAMPLE * count, replace=False)]
    centres = vectors[draw.choice(len(vectors), count, replace=False)]
    for _ in range(_ITERATIONS):
        of = nearest_centres(vectors, centres)
        size = np.bincount(of, minlength=count)[:, np.newaxis]
        total = tf.math.unsorted_segment_sum(vectors, of, count).numpy()
        drawn = vectors[draw.choice(len(vectors), count)]
        centres = np.where(size, total / np.maximum(size, 1), drawn).astype(np.float32)
    return centres


def nearest_centres(vectors: Vectors, centres: Vectors) -> npt.NDArray[np.int64]:
    """[M] which of [L, D] centres is nearest to each of [M, D] vectors."""
    # |v - m|^2 = |v|^2 - 2 (v . m - |m|^2 / 2)
    half = tf.constant((centres**2).sum(axis=1) / 2)
    parts = [
        tf.argmax(tf.matmul(part, centres, transpose_b=True) - half, axis=1).numpy()
        for part in _parts(vectors, len(centres))
    ]
    return np.concatenate(parts)


def exact_best(vectors: Vectors, queries: Vectors) -> npt.NDArray[np.int64]:
    """[Q, up to 100] the rows of [M, D] vectors that are best for [Q, D] queries."""
    count = min(MEASURED_AT, len(vectors))
    parts = [
        tf.math.top_k(tf.matmul(part, vectors, transpose_b=True), count).indices.numpy()
        for part in _parts(queries, len(vectors))
    ]
    return np.concatenate([np.zeros([0, count], np.int64), *parts])


def probes_for(
    recall: float, centres: Vectors, queries: Vectors, lists: npt.NDArray[np.int64]
) -> int:
    """The fewest lists that hold a share of the best items of queries.

    Args:
        recall: the share, 0 to 1.
        centres: [L, D].
        queries: [Q, D]; without any all lists are probed.
        lists: [Q, B], in which the best items of each query are.
    """
    if not len(queries):
        return len(centres)
    order = np.argsort(-(queries @ centres.T), axis=1, kind="stable")
    places = np.sort(np.take_along_axis(np.argsort(order, axis=1), lists, axis=1), axis=None)
    return int(places[max(0, int(np.ceil(recall * len(places))) - 1)]) + 1


def _parts(rows: Vectors, columns: int) -> Iterator[Vectors]:
    """The rows in parts, a matrix of each with so many columns is held at once."""
    size = max(1, _CELLS // columns)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
