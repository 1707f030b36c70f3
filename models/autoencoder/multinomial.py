"""What Mult-VAE and Mult-DAE share.

That is the corrupted input, the multinomial likelihood and the ranking.
"""

from typing import Any, TypeVar

import pydantic
import tensorflow as tf

from models.autoencoder.layers import FromEntities, ToEntities
from models.contract.query import Query
from models.contract.retrieve import RetrieveModel
from models.inputs import sampling
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.profiles import (
    corrupted,
    multi_hot,
    normalised,
    shuffled_profiles,
    sparse_rows,
)
from models.names.hyper_parameters import Epochs, Gradient, MixedPrecision, Ranking, Xla
from models.names.sizes import Sizes

M = TypeVar("M", bound="MultinomialHyperParameters")


class MultinomialHyperParameters(Ranking, Epochs, Gradient, MixedPrecision, Xla):
    """Both models' own hyper-parameters.

    `dropout` is the share of a user's items hidden from the input. A batch holds users.
    """

    epochs: int = 200
    patience: int = 20
    batch_size: int = 128
    dropout: float = pydantic.Field(0.5, ge=0, lt=1)

    def outer(self, sizes: Sizes, width: int) -> int:
        """Returns how many numbers are in the layers from the items and to them."""
        return 2 * sizes.table("item", width) + width + sizes.table("item", 1)


class MultinomialAutoEncoder(RetrieveModel[M]):
    """x -> x / |x| -> dropout -> encoder -> decoder -> logits over all items.

    A subclass defines `encode` (input -> code), `decode` (code -> [B, N + 2] logits) and
    `compute_loss`. None asks for a user id, so any history will do.
    """

    uses_user_id = False
    uses_history = True

    def __init__(self, hyper_parameters: M, data: TrainingData, outer_width: int):
        super().__init__(hyper_parameters, data)
        self._index_count = data.items.index_count
        self.from_items = FromEntities(
            data.items,
            outer_width,
            "tanh",
            "glorot_uniform",
            bias_initializer(),
            name="from_items",
        )
        self.to_items = ToEntities(
            data.items, outer_width, "glorot_uniform", bias_initializer(), name="to_items"
        )

    def encode(self, inputs: tf.Tensor) -> tf.Tensor:
        """[B, N + 2] normalised profiles -> the code that ranking uses, without noise."""
        raise NotImplementedError(f"{type(self).__name__} must define encode()")

    def decode(self, code: tf.Tensor) -> tf.Tensor:
        """Code -> [B, N + 2] logits, those of the padding and the unknown included."""
        raise NotImplementedError(f"{type(self).__name__} must define decode()")

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        batches = shuffled_profiles(data, self.hyper_parameters.batch_size, seed, first_epoch)
        return batches.map(self.train_inputs)

    def train_inputs(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """A batch of `shuffled_profiles` -> what `compute_loss` takes.

        That is `items` and, of the corrupted input, `weights`, [B, L] both.

        All noise is drawn here, with the seed of the step, so that a resumed training goes on with
        the noise that was its due.
        """
        items, seed = batch["items"], sampling.of_values(batch["step_seed"])
        weights = corrupted(normalised(items), self.hyper_parameters.dropout, seed)
        return {"items": items, "weights": weights}

    def corrupted(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor | tf.SparseTensor:
        """The [B, N + 2] input of a train batch, sparse where nothing forbids it."""
        # XLA knows no sparse products.
        rows = multi_hot if self.hyper_parameters.jit_compile else sparse_rows
        return rows(inputs["items"], self._index_count, inputs["weights"])

    def score_items(self, query: Query, catalogue: Any) -> tf.Tensor:
        items = query.history.to_tensor()
        # An item that is repeated counts once, in the norm too.
        profile = multi_hot(items, self._index_count)
        logits = self.decode(self.encode(tf.math.l2_normalize(profile, axis=1)))
        return tf.cast(logits[:, FIRST_TOKEN:], tf.float32)


def bias_initializer() -> tf.keras.initializers.Initializer:
    """The released code's: a normal of deviation 0.001, cut at two deviations."""
    return tf.keras.initializers.TruncatedNormal(stddev=0.001)


def negative_log_likelihood(
    logits: tf.Tensor, items: tf.Tensor, weights: tf.Tensor | None = None
) -> tf.Tensor:
    """Multinomial: -sum over a user's items of x log softmax(logits), mean over the users.

    Args:
        logits: [B, N + 2], a column for every index. The padding and the unknown are no items.
        items: [B, L] item indices, padded with 0: the whole profile, whatever the input has lost.
        weights: [B, L] float32 x of the items; None: 1.
    """
    count = tf.shape(logits)[1]
    never = [tf.fill([FIRST_TOKEN], -1e30), tf.zeros([count - FIRST_TOKEN])]
    logits = tf.cast(logits, tf.float32) + tf.concat(never, axis=0)
    profile = multi_hot(items, count, weights)
    return -tf.reduce_mean(tf.reduce_sum(profile * tf.nn.log_softmax(logits), axis=1))
