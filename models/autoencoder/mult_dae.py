"""Mult-DAE: a denoising auto-encoder with a multinomial likelihood.

Cite: Liang, Krishnan, Hoffman, Jebara: Variational Autoencoders for Collaborative Filtering, WWW
2018.

    x~     = dropout(x / |x|)                      x in {0, 1}^N: the items that the user has
    logits = W' tanh(W x~ + b) + b'                N - 200 - N
    loss   = - mean over users of sum_i w_i x_i log softmax(logits)_i
             + (l2 / batch_size) (|W|^2 + |W'|^2)

w_i is 1, or the weight of the user's heaviest event with i over its mean, where the run weighs
events (positives.values); what is read has no weights, as a query has none.

The target is the whole profile, not the corrupted one, and not normalised; biases are not
penalised. Ranking sees the normalised history without dropout. Kernels start from Glorot's
distribution, biases from a truncated normal of deviation 0.001.

Deviations: the batch is 128 users rather than 500 (small data sets have few users an epoch); the
epoch is chosen by NDCG@10 on validation rather than NDCG@100.
"""

import pydantic
import tensorflow as tf

from models.autoencoder.multinomial import (
    MultinomialAutoEncoder,
    MultinomialHyperParameters,
    negative_log_likelihood,
)
from models.inputs.data import TrainingData
from models.names.label import WEIGHT
from models.names.sizes import Parameters, Sizes


class HyperParameters(MultinomialHyperParameters):
    """Mult-DAE's own: `hidden` is the width of the code."""

    hidden: int = pydantic.Field(200, ge=1)
    l2: float = pydantic.Field(0.01, ge=0)

    def parameters(self, sizes: Sizes) -> Parameters:
        return Parameters(self.outer(sizes, self.hidden))


class MultDAE(MultinomialAutoEncoder[HyperParameters]):
    """One hidden layer between two layers of items."""

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data, hyper_parameters.hidden)

    def encode(self, inputs):
        return self.from_items(inputs)

    def decode(self, code):
        return self.to_items(code)

    def compute_loss(self, inputs, training=False):
        logits = self.decode(self.encode(self.corrupted(inputs)))
        kernels = (self.from_items.kernel.embeddings, self.to_items.kernel.embeddings)
        penalty = tf.add_n([tf.reduce_sum(kernel**2) for kernel in kernels])
        strength = self.hyper_parameters.l2 / self.hyper_parameters.batch_size
        return (
            negative_log_likelihood(logits, inputs["items"], inputs.get(WEIGHT))
            + strength * penalty
        )


Model = MultDAE
