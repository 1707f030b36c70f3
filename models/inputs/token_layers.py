"""Layers that know which entities their rows stand for."""

import numpy as np
import tensorflow as tf

from models.inputs.data import Entities
from models.inputs.dropout import Dropout
from models.inputs.ids import Ids
from models.inputs.int8 import Int8Table
from models.inputs.preprocessing import FIRST_TOKEN, UNKNOWN


class TokenEmbedding(tf.keras.layers.Embedding):
    """An embedding whose row r >= 2 belongs to `tokens[r - 2]`.

    A warm start aligns rows by token, not by number.

    Args:
        tokens: what the rows from 2 on stand for.
        rows: number of rows, padding and unknown included.
        dimension: width.
    """

    def __init__(self, tokens, rows: int, dimension: int, **kwargs):
        super().__init__(rows, dimension, **kwargs)
        self.tokens = tokens if isinstance(tokens, Ids) else np.asarray(tokens, object)

    def call(self, index):
        """Looks rows up: [...] integers -> [..., dimension]."""
        if isinstance(self.embeddings, Int8Table):
            return tf.cast(self.embeddings.rows(tf.convert_to_tensor(index)), self.compute_dtype)
        return super().call(index)


class IdEmbedding(TokenEmbedding):
    """An embedding of the users or the items, asked with indices: [...] int -> [..., dimension].

    Train's entities, padding and unknown have a row each. One that only the tables know, whose
    index lies beyond, gets the row of the unknown.
    """

    def call(self, index):
        index = tf.convert_to_tensor(index)
        unknown = tf.cast(UNKNOWN, index.dtype)
        return super().call(tf.where(index < self.input_dim, index, unknown))


def id_embedding(
    entities: Entities, dimension: int, initializer=None, name: str | None = None
) -> IdEmbedding:
    """Returns an embedding of the users or the items.

    Args:
        entities: the users or the items.
        dimension: width.
        initializer: of the rows, as Keras takes it; left out, a normal of deviation 0.01.
        name: of the layer.
    """
    return IdEmbedding(
        entities.ids[: entities.train_count],
        entities.embedding_rows,
        dimension,
        embeddings_initializer=initializer or tf.keras.initializers.RandomNormal(stddev=0.01),
        name=name,
    )


def factor_tables(
    users: Entities, items: Entities, dimension: int, names: tuple[str, str]
) -> tuple[IdEmbedding, IdEmbedding]:
    """Factors of users and of items, from normals of deviation 0.1.

    Each table has an initializer of its own: one would begin both alike.

    Args:
        users: whose rows the first has.
        items: whose rows the second has.
        dimension: width of both.
        names: of the layers.
    """
    user, item = (
        id_embedding(entities, dimension, tf.keras.initializers.RandomNormal(stddev=0.1), name)
        for entities, name in zip((users, items), names, strict=True)
    )
    return user, item


def around_zero(width: int) -> tf.keras.initializers.Initializer:
    """The first vectors of word2vec: uniform in [-1/2, 1/2) / width."""
    return tf.keras.initializers.RandomUniform(-0.5 / width, 0.5 / width)


class ZeroRows(tf.keras.initializers.Initializer):
    """Rows as another initializer draws them, but zeros where train has nothing that moves them.

    They then say nothing.

    Args:
        rows: [K] numbers of those rows.
        others: makes all, as an initializer of Keras does.
    """

    def __init__(self, rows, others):
        self._rows, self._others = np.asarray(rows, np.int64), others

    def __call__(self, shape, dtype=None, **piece):
        """Makes a table or, for parameter servers, the piece at `partition_offset`."""
        values = self._others(shape, dtype=dtype or tf.float32, **piece)
        rows = self._rows - piece.get("partition_offset", [0])[0]
        rows = rows[(rows >= 0) & (rows < values.shape[0])]
        zeros = tf.zeros([len(rows), values.shape[1]], values.dtype)
        return tf.tensor_scatter_nd_update(values, rows[:, np.newaxis], zeros)


def mean_embedding(embedding: TokenEmbedding, values: tf.RaggedTensor) -> tf.Tensor:
    """The means of lists of values: ragged [K, None] int64 -> [K, dimension], 0 for an empty list.

    A value that stands in many lists is looked up once.
    """
    value, place = tf.unique(values.flat_values, tf.int64)
    return tf.sparse.segment_mean(
        embedding(value), place, values.value_rowids(), num_segments=values.nrows()
    )


class EntityEncoder(tf.keras.layers.Layer):
    """Sum-pooled embedding of an entity's features and, optionally, of its id, concatenated.

    Maps [...] index -> [..., width].

    Multi-valued features and text are averaged over the values present; an entity without any has
    zeros. The rows of the unknown id, of a value that is missing and of one that train has not
    begin at zero: where train has none, which would move them, they add nothing, and such a value
    is not counted among those present.

    Args:
        entities: the users or the items, with their feature tables.
        dimension: width of the id's embedding.
        feature_dimension: width of each feature's.
    """

    def __init__(
        self, entities: Entities, dimension: int, feature_dimension: int, name: str | None = None
    ):
        super().__init__(name=name)
        self._features = {name: _dense(table) for name, table in entities.features.items()}
        trained = slice(FIRST_TOKEN, entities.embedding_rows)
        self._unknown_in_train = {
            name: bool(np.any(table[trained] == UNKNOWN)) for name, table in self._features.items()
        }

        def normal(width: int) -> ZeroRows:
            draw = tf.keras.initializers.RandomNormal(stddev=width**-0.5)
            return ZeroRows(range(FIRST_TOKEN), draw)

        self._id = id_embedding(entities, dimension, normal(dimension), name="id")
        self._embeddings = {
            feature: TokenEmbedding(
                entities.tokens[feature],
                entities.vocabulary_sizes[feature],
                feature_dimension,
                embeddings_initializer=normal(feature_dimension),
                name=feature,
            )
            for feature in sorted(self._features)
        }

    def call(self, index, forget=None):
        """Encodes `index`.

        Where the boolean `forget` (same shape) is true the id is replaced by the unknown one.
        """
        identity = index
        if forget is not None:
            identity = tf.where(forget, tf.cast(UNKNOWN, index.dtype), index)
        values = {name: tf.gather(table, index) for name, table in self._features.items()}
        return self._encode(identity, values)

    def encode_new(self, values):
        """Encodes entities that are in no table, by what train knows of their features alone.

        The id is the unknown one; all else is as of an entity of the table.

        Args:
            values: of every feature [B] int64 indices, or ragged [B, None].

        Returns:
            [B, width], and [B] bool: whether any value is known.
        """
        values = {name: _dense(values[name]) for name in self._features}
        there = [
            index >= FIRST_TOKEN
            if index.shape.rank == 1
            else tf.reduce_any(index >= FIRST_TOKEN, axis=1)
            for index in values.values()
        ]
        known = tf.reduce_any(tf.stack(there), axis=0)
        nobody = tf.fill(tf.shape(known), tf.constant(UNKNOWN, tf.int64))
        return self._encode(nobody, values), known

    def _encode(self, identity, values):
        parts = [self._id(identity)]
        for feature, embedding in self._embeddings.items():
            values_of = values[feature]
            if self._features[feature].shape.rank == 1:
                parts.append(embedding(values_of))
            else:
                counted = values_of >= (UNKNOWN if self._unknown_in_train[feature] else FIRST_TOKEN)
                present = tf.cast(counted, self.compute_dtype)[..., tf.newaxis]
                total = tf.reduce_sum(embedding(values_of) * present, axis=-2)
                parts.append(total / tf.maximum(tf.reduce_sum(present, axis=-2), 1.0))
        return tf.concat(parts, axis=-1)


class Mlp(tf.keras.layers.Layer):
    """Hidden layers of a multi-layer perceptron: [B, any] -> [B, hidden[-1]].

    Dropout comes after each; no layer at all is the identity.

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
