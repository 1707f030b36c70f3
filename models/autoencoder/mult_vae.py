"""Mult-VAE: a variational auto-encoder with a multinomial likelihood and annealed KL term.

Cite: Liang, Krishnan, Hoffman, Jebara: Variational Autoencoders for Collaborative Filtering, WWW
2018 (Mult-VAE^PR).

    x~             = dropout(x / |x|)                      x in {0, 1}^N: the items of the user
    [mu ; log s^2] = V_2 tanh(V_1 x~ + b_1) + b_2          N - 600 - 2 x 200
    z              = mu + e exp(log s^2 / 2), e ~ N(0, I)  in training; z = mu in ranking
    logits         = W_2 tanh(W_1 z + c_1) + c_2           200 - 600 - N
    loss           = mean over users of
                     [ - sum_i w_i x_i log softmax(logits)_i + beta KL(N(mu, s^2) | N(0, I)) ]
    beta           = min(anneal_cap, t / T)                t: updates so far

w_i is 1, or the weight of the user's heaviest event with i over its mean, where the run weighs
events (positives.values); what is read has no weights, as a query has none.

The KL is summed over the dimensions, and the likelihood over the items: the balance that beta
stands for. The target is the whole profile, not the corrupted one, and not normalised. Kernels
start from Glorot's distribution, biases from a truncated normal of deviation 0.001. The paper's T
is 200,000, of runs of 200 epochs of 234 updates: beta is at its cap of 0.2 after 85 % of them.

Deviations: T follows the run, so that beta is at its cap after the share `anneal_share` of the
updates of all `epochs` whatever the data's size (`anneal_updates` sets T itself); the batch is 128
users rather than 500 (small data sets have few users an epoch); the epoch is chosen by NDCG@10 on
validation rather than NDCG@100.
"""

import pydantic
import tensorflow as tf

from models.autoencoder.multinomial import (
    MultinomialAutoEncoder,
    MultinomialHyperParameters,
    bias_initializer,
    negative_log_likelihood,
)
from models.inputs import sampling
from models.inputs.data import TrainingData
from models.names.label import WEIGHT
from models.names.sizes import Parameters, Sizes, dense


class HyperParameters(MultinomialHyperParameters):
    """Mult-VAE's own.

    Attributes:
        hidden: width of the layers beside z.
        latent: width of z.
        anneal_cap: the highest beta.
        anneal_share: of the run's updates (those of all `epochs`), after which beta is at its cap.
        anneal_updates: T, in place of `anneal_share`: beta would be 1 after so many updates.
    """

    hidden: int = pydantic.Field(600, ge=1)
    latent: int = pydantic.Field(200, ge=1)
    anneal_cap: float = pydantic.Field(0.2, ge=0)
    anneal_share: float = pydantic.Field(0.85, gt=0, le=1)
    anneal_updates: int | None = pydantic.Field(None, ge=1)

    def parameters(self, sizes: Sizes) -> Parameters:
        inner = dense(self.hidden, 2 * self.latent) + dense(self.latent, self.hidden)
        return Parameters(self.outer(sizes, self.hidden) + inner)


class MultVAE(MultinomialAutoEncoder[HyperParameters]):
    """A user is a Gaussian; the items are drawn from what its mean decodes to."""

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data, hyper_parameters.hidden)
        hidden, latent = hyper_parameters.hidden, hyper_parameters.latent
        updates = hyper_parameters.epochs * -(
            -(len(data.events.starts) - 1) // hyper_parameters.batch_size
        )
        self._capped_after = (
            hyper_parameters.anneal_cap * hyper_parameters.anneal_updates
            if hyper_parameters.anneal_updates
            else hyper_parameters.anneal_share * updates
        )
        self.posterior = tf.keras.layers.Dense(
            2 * latent, bias_initializer=bias_initializer(), name="posterior"
        )
        self.generator = tf.keras.layers.Dense(
            hidden, "tanh", bias_initializer=bias_initializer(), name="generator"
        )

    def train_inputs(self, batch):
        hyper_parameters, users = self.hyper_parameters, tf.shape(batch["items"])[0]
        _, seed = sampling.split(batch["step_seed"], 2)
        noise = sampling.normal(tf.stack([users, hyper_parameters.latent]), seed)
        updates = tf.cast(batch["step_seed"][1], tf.float32)
        beta = hyper_parameters.anneal_cap * tf.minimum(1.0, updates / max(self._capped_after, 1.0))
        return {**super().train_inputs(batch), "noise": noise, "beta": tf.fill([users], beta)}

    def posterior_of(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """[B, N + 2] inputs -> [B, latent] mu and log s^2."""
        return tuple(
            tf.split(tf.cast(self.posterior(self.from_items(inputs)), tf.float32), 2, axis=1)
        )

    def encode(self, inputs):
        return self.posterior_of(inputs)[0]

    def decode(self, code):
        return self.to_items(self.generator(code))

    def compute_loss(self, inputs, training=False):
        mean, log_variance = self.posterior_of(self.corrupted(inputs))
        logits = self.decode(mean + inputs["noise"] * tf.exp(0.5 * log_variance))
        divergence = tf.reduce_mean(inputs["beta"] * kl_divergence(mean, log_variance))
        return negative_log_likelihood(logits, inputs["items"], inputs.get(WEIGHT)) + divergence


def kl_divergence(mean: tf.Tensor, log_variance: tf.Tensor) -> tf.Tensor:
    """KL(N(mean, exp(log_variance)) | N(0, I)), summed over the dimensions: [B, K] -> [B]."""
    return 0.5 * tf.reduce_sum(tf.exp(log_variance) + mean**2 - 1.0 - log_variance, axis=1)


Model = MultVAE
