"""AutoRec: an auto-encoder of rating vectors; of items (I-AutoRec) or of users (U-AutoRec).

Cite: Sedhain, Menon, Sanner, Xie: AutoRec: Autoencoders Meet Collaborative Filtering, WWW 2015
companion.

    h(r) = W g(V r + mu) + b
        g: sigmoid; r: the train ratings of an item (or user), 0 where there is none
    loss = sum over items i of |r_i - h(r_i)|^2 over the observed ratings + l2 / 2 (|W|^2 + |V|^2)

Biases are not penalised. The prediction for a user and an item reads the item's train vector at the
user's place: a rating that is asked for is never in the input. Predictions are clipped to the range
of the train ratings. An item without ratings gets the train mean; a user without any, in I-AutoRec,
the item's mean (U-AutoRec: the other way round). U-AutoRec folds in ratings that come with a
request: they are the vector of a user whom train has not seen. In I-AutoRec such a user has no
place in the items' vectors, and no row of W.

Deviations: Adam on batches of items rather than L-BFGS or Rprop on all at once: the loss of a batch
is divided by its items and the penalty by all items, so that l2 means what it means in the paper;
where the paper predicts 3.0 the means stand. One hidden layer. A rating of exactly 0 is an error to
learn from, but in the input it looks like none; so clicks are refused.
"""

from typing import Literal

import numpy as np
import pydantic
import scipy.sparse
import tensorflow as tf

from models.autoencoder.layers import FromEntities, ToEntities
from models.contract.score import ScoreModel
from models.inputs import sampling
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.profiles import sparse_rows
from models.inputs.score_data import Inputs, ScoreData
from models.names.errors import ConfigError
from models.names.features import Feature
from models.names.hyper_parameters import Epochs, Gradient, MixedPrecision, Xla
from models.names.sizes import Parameters, Sizes


class HyperParameters(Epochs, Gradient, MixedPrecision, Xla):
    """AutoRec's own hyper-parameters.

    `variant` says whose rating vectors are rebuilt, `hidden` is k. A batch holds items (or users).
    """

    epochs: int = 300
    patience: int = 20
    batch_size: int = 128
    variant: Literal["item", "user"] = "item"
    hidden: int = pydantic.Field(500, ge=1)
    l2: float = pydantic.Field(400.0, ge=0)

    def parameters(self, sizes: Sizes) -> Parameters:
        row, column = ("item", "user") if self.variant == "item" else ("user", "item")
        kernels = 2 * sizes.table(column, self.hidden)
        learnt = kernels + self.hidden + sizes.table(column, 1)
        return Parameters(learnt, held=sizes.table(row, self.hidden))


class AutoRec(ScoreModel[HyperParameters]):
    """Rebuilds every item's (or user's) ratings from themselves through a narrow layer."""

    weighs_rows = False

    @staticmethod
    def reads(feature: Feature) -> bool:
        return False

    def __init__(self, hyper_parameters: HyperParameters, data: ScoreData):
        super().__init__(hyper_parameters, data)
        if self.label.is_click:
            raise ConfigError(
                "autorec rebuilds ratings and requires a label of numbers: label.column without "
                "label.threshold"
            )
        by_item = hyper_parameters.variant == "item"
        self._row, self._column = ("item_id", "user_id") if by_item else ("user_id", "item_id")
        rows, columns = (data.items, data.users) if by_item else (data.users, data.items)
        self._ratings = rating_matrix(
            data.events, by_item, rows.embedding_rows, columns.embedding_rows
        )
        self._rated = np.flatnonzero(np.diff(self._ratings.indptr))

        def start() -> list[tf.keras.initializers.Initializer]:
            """Of weights and biases; one for both layers would begin them alike."""
            return [tf.keras.initializers.RandomNormal(stddev=stddev) for stddev in (0.01, 0.001)]

        self.encoder = FromEntities(
            columns, hyper_parameters.hidden, "sigmoid", *start(), name="encoder"
        )
        self.decoder = ToEntities(columns, hyper_parameters.hidden, *start(), name="decoder")
        counts = np.maximum(np.diff(self._ratings.indptr), 1)
        self._means = tf.constant(np.asarray(self._ratings.sum(axis=1))[:, 0] / counts, tf.float32)
        self._is_rated = tf.constant(np.diff(self._ratings.indptr) > 0)
        # The codes of all rows: what serving needs of the rating vectors.
        shape = [rows.embedding_rows, hyper_parameters.hidden]
        self.codes = self.add_weight(
            name="codes", shape=shape, initializer="zeros", trainable=False
        )

    def batches(self, data: ScoreData, seed: int, first_epoch: int) -> sampling.Batches:
        ratings = self._ratings[self._rated]
        splits = ratings.indptr.astype(np.int64)
        columns = {
            "column": tf.RaggedTensor.from_row_splits(ratings.indices.astype(np.int64), splits),
            "rating": tf.RaggedTensor.from_row_splits(ratings.data, splits),
        }

        def padded(batch):
            return {"column": batch["column"].to_tensor(), "rating": batch["rating"].to_tensor()}

        return sampling.shuffled_batches(
            columns, self.hyper_parameters.batch_size, seed, first_epoch
        ).map(padded)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        column, observed = inputs["column"], tf.cast(inputs["column"] > 0, tf.float32)
        rows = tf.shape(column, tf.int64)[0]
        # XLA knows no sparse products.
        spread = self._vectors if self.hyper_parameters.jit_compile else sparse_rows
        vectors = spread(column, self._ratings.shape[1], inputs["rating"])
        rebuilt = tf.cast(self.decoder(self.encoder(vectors)), tf.float32)
        rebuilt = tf.gather(rebuilt, column, batch_dims=1)
        errors = tf.reduce_sum(observed * (inputs["rating"] - rebuilt) ** 2) / tf.cast(
            rows, tf.float32
        )
        squares = tf.add_n(
            [tf.reduce_sum(layer.kernel.embeddings**2) for layer in (self.encoder, self.decoder)]
        )
        return errors + 0.5 * self.hyper_parameters.l2 / len(self._rated) * squares

    def prepare(self):
        codes = self._ratings @ self.encoder.kernel.embeddings.numpy() + self.encoder.bias.numpy()
        self.codes.assign(tf.sigmoid(codes))

    @property
    def folds_in(self) -> bool:
        return self.hyper_parameters.variant == "user"

    def fold_in(self, item: tf.Tensor, rated: tf.Tensor, rating: tf.Tensor) -> tf.Tensor:
        present = tf.cast(rated > 0, tf.float32)
        vectors = self._vectors(rated, self._ratings.shape[1], rating * present)
        code = tf.cast(self.encoder(vectors), tf.float32)
        kernel, bias = (table.embeddings for table in (self.decoder.kernel, self.decoder.bias))
        rebuilt = tf.einsum("bf,bcf->bc", code, tf.gather(kernel, item)) + tf.gather(
            bias[:, 0], item
        )
        count = tf.reduce_sum(present, axis=1, keepdims=True)
        mean = tf.reduce_sum(rating * present, axis=1, keepdims=True) / tf.maximum(count, 1.0)
        mean = tf.where(count > 0, mean, self.label_mean)
        return tf.where((count > 0) & (item >= FIRST_TOKEN), rebuilt, mean)

    @staticmethod
    def _vectors(column: tf.Tensor, count: int, rating: tf.Tensor) -> tf.Tensor:
        """[B, L] columns and their ratings -> [B, count]; a column that is repeated adds up."""
        rows = tf.shape(column, tf.int64)[0]
        row = tf.repeat(tf.range(rows)[:, tf.newaxis], tf.shape(column)[1], axis=1)
        return tf.scatter_nd(tf.stack([row, column], axis=-1), rating, tf.stack([rows, count]))

    def score_rows(self, inputs: Inputs, training: bool = False) -> tf.Tensor:
        row, column = inputs[self._row], inputs[self._column]
        kernel, bias = (table.embeddings for table in (self.decoder.kernel, self.decoder.bias))
        code, weights = tf.gather(self.codes, row), tf.gather(kernel, column)
        rebuilt = tf.reduce_sum(code * weights, axis=1) + tf.gather(bias[:, 0], column)
        mean = tf.where(
            tf.gather(self._is_rated, row), tf.gather(self._means, row), self.label_mean
        )
        return tf.where(tf.gather(self._is_rated, row) & (column >= FIRST_TOKEN), rebuilt, mean)


def rating_matrix(
    events, by_item: bool, row_count: int, column_count: int
) -> scipy.sparse.csr_matrix:
    """[row_count, column_count] float32 train labels by index.

    Of several ratings of a pair the last stands; unknown entities are left out.
    """
    rows, columns = (events.item, events.user) if by_item else (events.user, events.item)
    known = (
        (rows >= FIRST_TOKEN)
        & (rows < row_count)
        & (columns >= FIRST_TOKEN)
        & (columns < column_count)
    )
    rows, columns, labels = rows[known].astype(np.int64), columns[known], events.label[known]
    # The events of a user are in the order of time, so the first of the reversed pairs is the last.
    _, last = np.unique((rows * column_count + columns)[::-1], return_index=True)
    chosen = len(rows) - 1 - last
    starts = np.searchsorted(rows[chosen], np.arange(row_count + 1))
    return scipy.sparse.csr_matrix(
        (labels[chosen], columns[chosen], starts), (row_count, column_count)
    )


Model = AutoRec
