"""Dense layers with a row of weights for every item (or user).

So a warm start aligns them by id.
"""

import tensorflow as tf

from models.inputs.data import Entities
from models.inputs.token_layers import IdEmbedding, id_embedding


class FromEntities(tf.keras.layers.Layer):
    """activation(profile W + b): [B, N + 2], a column for every index, -> [B, units].

    A profile may be sparse; then what it has not costs nothing.

    Args:
        entities: what the columns of a profile stand for; N are those that train knows.
        units: width.
        activation: as Keras names it.
        kernel_initializer: of W.
        bias_initializer: of b.
    """

    def __init__(
        self,
        entities: Entities,
        units: int,
        activation,
        kernel_initializer,
        bias_initializer,
        name: str,
    ):
        super().__init__(name=name, autocast=False)
        self._activation = tf.keras.activations.get(activation)
        self.kernel = _rows(entities, units, kernel_initializer, f"{name}_kernel")
        self.bias = self.add_weight(name="bias", shape=[units], initializer=bias_initializer)

    def call(self, profile):
        if isinstance(profile, tf.SparseTensor):  # of which half precision knows no product
            product = tf.sparse.sparse_dense_matmul(profile, self.kernel.embeddings)
        else:
            dtype = self.compute_dtype
            product = tf.matmul(tf.cast(profile, dtype), tf.cast(self.kernel.embeddings, dtype))
        return self._activation(tf.cast(product, self.compute_dtype) + self.bias)


class ToEntities(tf.keras.layers.Layer):
    """Computes hidden W' + b: [B, units] -> [B, N + 2], a column for every index; linear.

    Who trains leaves out those of the padding and the unknown where he adds up: the gradient of a
    slice is a copy. Arguments are as for FromEntities.
    """

    def __init__(
        self, entities: Entities, units: int, kernel_initializer, bias_initializer, name: str
    ):
        super().__init__(name=name)
        self.kernel = _rows(entities, units, kernel_initializer, f"{name}_kernel")
        self.bias = _rows(entities, 1, bias_initializer, f"{name}_bias")

    def call(self, hidden):
        kernel, bias = (
            tf.cast(table.embeddings, self.compute_dtype) for table in (self.kernel, self.bias)
        )
        return tf.matmul(hidden, kernel, transpose_b=True) + bias[:, 0]


def _rows(entities: Entities, units: int, initializer, name: str) -> IdEmbedding:
    table = id_embedding(entities, units, initializer, name)
    table.build(None)
    return table
