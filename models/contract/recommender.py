"""What the models of both tasks share: they train by gradient on a loss of their own."""

import tensorflow as tf
import tensorflow_recommenders as tfrs

from models.inputs import sampling, tensorflow_private
from models.names.hyper_parameters import CommonHyperParameters

# TensorFlow 2.21's own rule, which 2.16 lacks: AutoGraph leaves the legacy Keras as it is.
# Converting it costs every process seconds.
tensorflow_private.leave_unconverted("tf_keras")


class Recommender(tfrs.Model):
    """Base of every model, around TFRS' one hook, `compute_loss`.

    A subclass adds its batches.

    Args:
        hyper_parameters: an instance of the class attribute `HyperParameters`.
        data: what the task trains on.
    """

    HyperParameters = CommonHyperParameters

    def __init__(self, hyper_parameters: CommonHyperParameters, data):
        super().__init__()
        self.hyper_parameters = hyper_parameters
        self._mean_loss = tf.keras.metrics.Mean(name="loss")

    def batches(self, data, seed: int, first_epoch: int) -> sampling.Batches:
        """Returns endless train batches from `first_epoch` on."""
        raise NotImplementedError(
            f"{type(self).__name__} must define batches() or override learn()"
        )

    def learn(self, loop) -> None:
        """Trains the model; `loop` is a `models.training.loop.TrainingLoop`.

        Papers with a procedure of their own override this.
        """
        loop.fit(self)

    def train_step(self, inputs):
        """One step; reports the mean loss of the epoch so far.

        TFRS reports the last step's.
        """
        values = super().train_step(inputs)
        self._mean_loss.update_state(values["total_loss"])
        return {"loss": self._mean_loss.result()}
