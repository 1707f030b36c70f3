"""Items like an item, for every model that ranks a catalogue: plain TensorFlow ops.

By vectors, where the model has them: the cosine. A dot product would put what is popular first
whatever was asked for, since the lengths of learnt vectors, and their biases, which are left out,
grow with the number of events.

    s_ij = v_i . v_j / (|v_i| |v_j|)

By co-occurrence, where it has none: the shrunk cosine of item-based neighbours (Sarwar, Karypis,
Konstan, Riedl, WWW 2001; see `models.baseline.item_knn`) of train, fitted at the export, of which
the 100 largest of an item are kept. Of a user the last 50 events count, so that it takes seconds of
any log.

    s_ij = n_ij / (sqrt(n_i n_j) + shrink)         n_ij: users who have both

An item that no table knows is embedded by its features, by models that can: the signature
`similar_features`. Any other that nobody knows, or that has neither a vector nor a neighbour, has
nothing like it: no item is answered, and the strategy says `unknown`. The rules `allow` and
`where` hold of what is answered (`models.contract.rules`); the item itself is never answered, nor
what a request excludes.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from models.contract.rules import Rulebook, mask_items
from models.inputs.columns import drop_unknown
from models.inputs.data import TrainingData
from models.inputs.int8 import products, take
from models.inputs.neighbours import similarities
from models.inputs.preprocessing import FIRST_TOKEN

_NEIGHBOURS, _SHRINK = 100, 10.0
_LATEST = 50


class SimilarItems(tf.Module):
    """Answers the signature `similar`.

    Args:
        data: what the model was trained on.
        rules: of its items, with their vectors where it has them.
    """

    def __init__(self, data: TrainingData, rules: Rulebook):
        super().__init__()
        self._rules, self._table = rules, data.item_table
        self._size = len(data.items)
        self._ids = tf.Variable(tf.constant(data.items.ids, tf.string), trainable=False)
        self._neighbours: Any = None
        if rules.vectors is None:
            self._neighbours = [
                tf.Variable(values, trainable=False) for values in co_occurrence(data)
            ]
        else:
            there = _length(tf.convert_to_tensor(rules.vectors)) > 0
            self._with_vector = tf.Variable(there, trainable=False)

    def answer(
        self,
        item_id: tf.Tensor,
        exclude: tf.Tensor,
        k: tf.Tensor,
        allow: tf.Tensor,
        where: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """The `similar` signature.

        Args:
            item_id: [B] strings.
            exclude: [B, E] strings, padded with "": what is not answered.
            k: [B] int32, at least 1.
            allow: [B, A] strings, likewise padded.
            where: [B, W] strings, likewise.

        Returns:
            `item_id` [B, K], "" where there are fewer; `score` [B, K] float32, -1 to 1; `strategy`
            [B]: `vectors`, `co-occurrence` or `unknown`.
        """
        with tf.control_dependencies(
            [tf.debugging.assert_positive(k, message="k must be at least 1")]
        ):
            position = tf.cast(self._table.lookup(item_id), tf.int32) - FIRST_TOKEN
        scores, name = self._scores(position)
        own = tf.range(self._size) == position[:, tf.newaxis]
        scores = self._under(tf.where(own, float("-inf"), scores), exclude, allow, where)
        return {**self.first(scores, k), "strategy": name}

    def answer_features(
        self,
        vectors: tf.Tensor,
        known: tf.Tensor,
        exclude: tf.Tensor,
        k: tf.Tensor,
        allow: tf.Tensor,
        where: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """The `similar_features` signature: as `answer` for items that no table knows.

        Args:
            vectors: [B, D] of what a request tells of the items.
            known: [B] bool: whether it tells anything that train has seen.
            exclude: as of `answer`.
            k: likewise.
            allow: likewise.
            where: likewise.

        Returns:
            As `answer`; the strategy is `features` or `unknown`.
        """
        with tf.control_dependencies(
            [tf.debugging.assert_positive(k, message="k must be at least 1")]
        ):
            unit = tf.where(known[:, tf.newaxis], tf.math.l2_normalize(vectors, axis=1), 0.0)
        scores = self._under(self.by_vector(unit), exclude, allow, where)
        return {**self.first(scores, k), "strategy": tf.where(known, "features", "unknown")}

    def _under(
        self, scores: tf.Tensor, exclude: tf.Tensor, allow: tf.Tensor, where: tf.Tensor
    ) -> tf.Tensor:
        """The scores, -inf where rules do not hold."""
        never = tf.fill(tf.shape(scores), float("-inf"))  # where() is slow where it broadcasts
        scores = tf.where(self._rules.qualifies(where, allow), scores, never)
        excluded = self._table.lookup(tf.RaggedTensor.from_tensor(exclude))
        return mask_items(scores, drop_unknown(excluded))

    def first(self, scores: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        """The first k [B] items of scores [B, N], -inf where an item may not be answered."""
        most = tf.minimum(tf.reduce_max(tf.concat([k, [1]], axis=0)), self._size)
        best = tf.math.top_k(scores, most)
        there = (tf.range(most) < k[:, tf.newaxis]) & (best.values > float("-inf"))
        return {
            "item_id": tf.where(there, tf.gather(self._ids, best.indices), ""),
            "score": tf.where(there, best.values, 0.0),
        }

    def by_vector(self, unit: tf.Tensor) -> tf.Tensor:
        """[B, D] vectors of unit length, or 0 -> [B, N] cosines, -inf where one of both is 0."""
        near = products(unit, self._rules.vectors)
        there = self._with_vector & (_length(unit) > 0)[:, tf.newaxis]
        return tf.where(there, near, float("-inf"))

    def _scores(self, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """[B, N] scores, -inf where nothing is known; and [B] strategies."""
        known, place = position >= 0, tf.maximum(position, 0)
        if self._neighbours is None:
            own = take(self._rules.vectors, place)
            scores, name = self.by_vector(tf.where(known[:, tf.newaxis], own, 0.0)), "vectors"
        else:
            splits, of, values = self._neighbours
            starts, ends = tf.gather(splits, place), tf.gather(splits, place + 1)
            entries = tf.ragged.range(starts, tf.where(known, ends, starts))
            row = tf.cast(entries.value_rowids(), tf.int32)
            cells = tf.stack([row, tf.gather(of, entries.flat_values)], axis=1)
            scores = tf.fill([tf.shape(position)[0], self._size], float("-inf"))
            near = tf.gather(values, entries.flat_values)
            scores, name = tf.tensor_scatter_nd_update(scores, cells, near), "co-occurrence"
        some = tf.reduce_any(scores > float("-inf"), axis=1)
        return scores, tf.where(some, name, "unknown")


def co_occurrence(data: TrainingData) -> tuple[npt.NDArray[Any], ...]:
    """The neighbours of every item, as lists.

    Returns:
        [N + 1] int32, where the neighbours of an item begin, and the end; [E] int32 their catalogue
        positions and [E] float32 similarities.
    """
    pairs = data.events.matrix(len(data.items), _LATEST)
    near = similarities(pairs, _NEIGHBOURS, _SHRINK).tocsc()
    return near.indptr.astype(np.int32), near.indices.astype(np.int32), near.data.astype(np.float32)


def _length(vectors: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.square(vectors), axis=1)
