"""The `retrieve` models that rank by vectors of items, and those that know nothing but items."""

from typing import Any, TypeVar

import pydantic
import tensorflow as tf

from models.contract.explain import times_in
from models.contract.query import Query
from models.contract.recommender import H
from models.contract.retrieve import DotProductModel
from models.inputs.columns import choose
from models.inputs.data import TrainingData
from models.inputs.int8 import take
from models.inputs.preprocessing import FIRST_TOKEN
from models.names.hyper_parameters import Ranking


class LastItems(Ranking):
    """For an item-to-item model.

    Attributes:
        history_length: a query is the mean of the last so many items that have a vector.
    """

    history_length: int = 5

    @pydantic.field_validator("history_length")
    @classmethod
    def _at_least_one_item(cls, value: int) -> int:
        if value < 1:
            raise ValueError("must be at least 1")
        return value


L = TypeVar("L", bound=LastItems)


class ItemVectorModel(DotProductModel[H]):
    """A model that ranks by the cosine with the items' vectors, of which some items have none.

    A subclass writes `item_vectors`. An item whose vector is 0 has none: it is neither returned nor
    asked with.
    """

    uses_user_id = False
    uses_history = True

    def __init__(self, hyper_parameters: H, data: TrainingData):
        super().__init__(hyper_parameters, data)
        self._index_count = data.items.index_count

    def item_vectors(self, index: tf.Tensor) -> tf.Tensor:
        """Returns [K, D] vectors of [K] item indices, cold ones of the catalogue included."""
        raise NotImplementedError(f"{type(self).__name__} must define item_vectors()")

    def item_embeddings(self) -> tf.Tensor:
        index = tf.range(FIRST_TOKEN, self._index_count, dtype=tf.int64)
        return tf.math.l2_normalize(self.item_vectors(index), axis=1)

    def catalogue_of(self, vectors: tf.Tensor) -> Any:
        """([N, D] unit vectors; [N] what is added to the score).

        Where an item has no vector these are 0 and -inf; elsewhere 0 is added.
        """
        return vectors, tf.where(tf.reduce_any(vectors != 0, axis=1), 0.0, float("-inf"))

    def index(self, catalogue: Any) -> tuple[tf.Tensor, tf.Tensor]:
        vectors, penalty = catalogue
        there = tf.where(penalty == 0)[:, 0]
        return tf.gather(vectors, there), there

    def score_items(self, query: Query, catalogue: Any) -> tf.Tensor:
        vectors, penalty = catalogue
        return super().score_items(query, vectors) + penalty

    def vectors_at(self, position: tf.Tensor, catalogue: Any) -> tuple[tf.Tensor, tf.Tensor]:
        vectors, penalty = catalogue[:2]
        place = tf.maximum(position, 0)
        known = (position >= 0) & (tf.gather(penalty, place) == 0)
        return tf.where(known[..., tf.newaxis], take(vectors, place), 0.0), known

    def answers(self, query: Query) -> tf.Tensor:
        return self.with_vector(query.history).row_lengths() > 0

    def with_vector(self, history: tf.RaggedTensor) -> tf.RaggedTensor:
        """Ragged [B, None] item indices -> those of items that have a vector."""
        vectors = self.item_vectors(history.flat_values)
        return choose(history, history.with_flat_values(tf.reduce_any(vectors != 0, axis=1)))


class ItemToItemModel(ItemVectorModel[L]):
    """A model of papers that have no users.

    score(history, i) = mean over the last j in the history of cos(H_j, H_i)
    """

    explains = "sum"

    def query_embedding(self, query: Query) -> tf.Tensor:
        known = self.with_vector(query.history)[:, -self.hyper_parameters.history_length :]
        unit = tf.math.l2_normalize(self.item_vectors(known.flat_values), axis=1)
        return tf.math.unsorted_segment_mean(unit, known.value_rowids(), known.nrows())

    def contributions(
        self, query: Query, items: tf.Tensor, position: tf.Tensor, catalogue: Any
    ) -> tf.Tensor:
        """An item's cosine, as often as the item is among the last, over their number."""
        known = self.with_vector(query.history)[:, -self.hyper_parameters.history_length :]
        share = tf.math.divide_no_nan(
            times_in(known, items), tf.cast(known.row_lengths(), tf.float32)[:, tf.newaxis]
        )
        flat = tf.math.l2_normalize(self.item_vectors(tf.reshape(items, [-1])), axis=1)
        width = tf.shape(flat)[1]
        own = tf.reshape(flat, tf.concat([tf.shape(items), [width]], axis=0))
        others, _ = self.vectors_at(position, catalogue)
        # Beside an item's vector there may stand one that users without a history meet.
        return tf.matmul(others[..., :width], own * share[..., tf.newaxis], transpose_b=True)
