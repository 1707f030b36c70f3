"""What models of an item-item matrix share.

A score is the sum of an item-item matrix over the history.
"""

import tensorflow as tf

from models.contract.query import Query
from models.contract.recommender import H
from models.contract.retrieve import RetrieveModel
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.profiles import multi_hot


class ItemBased(RetrieveModel[H]):
    """score(u, i) = sum over the items j of the history of weights[j, i].

    Any history will do, so new users are native.

    A subclass sets `self.weights_matrix`, a [N, N] float32 variable, in `learn`.
    """

    uses_user_id = False
    uses_history = True
    explains = "sum"

    def __init__(self, hyper_parameters: H, data: TrainingData):
        super().__init__(hyper_parameters, data)
        count = len(data.items)
        self.weights_matrix = self.add_weight(
            name="weights", shape=[count, count], initializer="zeros", trainable=False
        )

    def catalogue(self) -> tf.Tensor:
        return tf.identity(self.weights_matrix)

    def score_items(self, query: Query, catalogue: tf.Tensor) -> tf.Tensor:
        # A repeated item counts once, as in the binary matrix that the weights were fitted on.
        history = multi_hot(query.history.to_tensor(), catalogue.shape[0] + FIRST_TOKEN)
        return tf.matmul(history[:, FIRST_TOKEN:], catalogue)

    def contributions(
        self, query: Query, items: tf.Tensor, position: tf.Tensor, catalogue: tf.Tensor
    ) -> tf.Tensor:
        row = tf.cast(tf.maximum(items - FIRST_TOKEN, 0), tf.int32)[:, tf.newaxis]
        column = position[:, :, tf.newaxis]
        shape = tf.broadcast_dynamic_shape(tf.shape(row), tf.shape(column))
        cells = [tf.broadcast_to(each, shape) for each in (row, column)]
        return tf.gather_nd(catalogue, tf.stack(cells, axis=3))
