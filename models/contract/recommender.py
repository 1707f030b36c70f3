"""What the models of both tasks share: they train by gradient on a loss of their own."""

import tensorflow as tf
import tensorflow_recommenders as tfrs
from tensorflow.python.autograph.core import config as autograph

from models.inputs import dropout, sampling
from models.names.hyper_parameters import CommonHyperParameters

# TensorFlow 2.21's own rule, which 2.16 lacks: AutoGraph leaves the legacy Keras as it is.
# Converting it costs every process seconds.
autograph.CONVERSION_RULES = (*autograph.CONVERSION_RULES, autograph.DoNotConvert("tf_keras"))


class Recommender(tfrs.Model):
    """Base of every model: TFRS' one hook, `compute_loss`, around which a subclass adds its
    batches.

    Args:
        hyper_parameters: an instance of the class attribute `HyperParameters`.
        data: what the task trains on.
    """

    HyperParameters = CommonHyperParameters

    def __init__(self, hyper_parameters: CommonHyperParameters, data):
        super().__init__()
        self.hyper_parameters = hyper_parameters
        self.dropout_seed = 0  # the training loop sets its own
        self._mean_loss = tf.keras.metrics.Mean(name="loss")

    @classmethod
    def most_items(cls, hyper_parameters) -> int | None:
        """Returns how many items the model can be trained on here; None for any number.

        A model that holds a matrix of items x items overrides it. The pipeline asks before the run,
        and ExampleBuilder refuses a larger catalogue as soon as it has counted the items.
        """
        return None

    def batches(self, data, seed: int, first_epoch: int) -> sampling.Batches:
        """Returns endless train batches from `first_epoch` on."""
        raise NotImplementedError(
            f"{type(self).__name__} must define batches() or override learn()"
        )

    def learn(self, loop) -> None:
        """Trains the model; `loop` is a training.TrainingLoop. Papers with a procedure of
        their own override this.
        """
        loop.fit(self)

    def train_step(self, inputs):
        """One step; reports the mean loss of the epoch so far, where TFRS reports the last step's."""
        # The optimiser counts the steps, and its count survives a kill.
        with dropout.Step(self.dropout_seed, self.optimizer.iterations):
            values = super().train_step(inputs)
        self._mean_loss.update_state(values["total_loss"])
        return {"loss": self._mean_loss.result()}
