"""Layers that know which entities their rows stand for."""

import numpy as np
import tensorflow as tf

from models.inputs.data import Entities
from models.inputs.dropout import Dropout


class TokenEmbedding(tf.keras.layers.Embedding):
    """An embedding whose row r >= 2 belongs to `tokens[r - 2]`; a warm start aligns rows by token,
    not by number.

    Args:
        tokens: what the rows from 2 on stand for.
        rows: number of rows, padding and unknown included.
        dimension: width.
    """

    def __init__(self, tokens, rows: int, dimension: int, **kwargs):
        super().__init__(rows, dimension, **kwargs)
        self.tokens = np.asarray(tokens, object)


def id_embedding(
    entities: Entities, dimension: int, stddev: float = 0.01, name: str | None = None
) -> TokenEmbedding:
    """Returns an embedding of the entities that train has seen; look up `embedding_index[index]`."""
    initializer = tf.keras.initializers.RandomNormal(stddev=stddev)
    tokens = entities.ids[: entities.known]
    return TokenEmbedding(
        tokens, entities.embedding_rows, dimension, embeddings_initializer=initializer, name=name
    )


class EntityEncoder(tf.keras.layers.Layer):
    """Sum-pooled embedding of an entity's features and, optionally, of its id, concatenated: [...]
    index -> [..., width].

    Multi-valued features and text are averaged over the values present; an entity without any has
    zeros.

    Args:
        entities: the users or the items, with their feature tables.
        dimension: width of the id's embedding.
        feature_dimension: width of each feature's.
    """

    def __init__(
        self, entities: Entities, dimension: int, feature_dimension: int, name: str | None = None
    ):
        super().__init__(name=name)
        self._index = tf.constant(entities.embedding_index)
        self._features = {name: _dense(table) for name, table in entities.features.items()}
        self._id = id_embedding(entities, dimension, stddev=dimension**-0.5, name="id")
        self._embeddings = {
            feature: TokenEmbedding(
                entities.tokens[feature],
                entities.vocabulary_sizes[feature],
                feature_dimension,
                embeddings_initializer=tf.keras.initializers.RandomNormal(
                    stddev=feature_dimension**-0.5
                ),
                name=feature,
            )
            for feature in sorted(self._features)
        }

    def call(self, index, forget=None):
        """Encodes `index`; where the boolean `forget` (same shape) is true the id is replaced by
        the unknown one.
        """
        row = tf.gather(self._index, index)
        if forget is not None:
            row = tf.where(forget, tf.ones_like(row), row)
        parts = [self._id(row)]
        for feature, embedding in self._embeddings.items():
            values = tf.gather(self._features[feature], index)
            if values.shape.rank == index.shape.rank:
                parts.append(embedding(values))
            else:
                present = tf.cast(values > 0, self.compute_dtype)[..., tf.newaxis]
                total = tf.reduce_sum(embedding(values) * present, axis=-2)
                parts.append(total / tf.maximum(tf.reduce_sum(present, axis=-2), 1.0))
        return tf.concat(parts, axis=-1)


class Mlp(tf.keras.layers.Layer):
    """Hidden layers of a multi-layer perceptron: [B, any] -> [B, hidden[-1]], dropout after each;
    no layer at all is the identity.

    Args:
        hidden: units of each layer, with ReLU.
        dropout: share of units dropped in training.
    """

    def __init__(self, hidden, dropout: float = 0.0, name: str | None = None):
        super().__init__(name=name)
        self._layers = [tf.keras.layers.Dense(units, activation="relu") for units in hidden]
        self._dropout = Dropout(dropout)

    def call(self, inputs, training=False):
        for layer in self._layers:
            inputs = self._dropout(layer(inputs), training=training)
        return inputs


def _dense(table: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
    return table.to_tensor() if isinstance(table, tf.RaggedTensor) else table
