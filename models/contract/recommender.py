"""What the models of both tasks share: they train by gradient on a loss of their own."""

from typing import Any, ClassVar, Generic, TypeVar, get_args

import tensorflow as tf
import tensorflow_recommenders as tfrs
from tensorflow.python.autograph.core import config as autograph

from models.contract.loop import Loop
from models.inputs import sampling
from models.inputs.data import TrainingData
from models.names import hyper_parameters as settings

# TensorFlow 2.21's own rule, which 2.16 lacks: AutoGraph leaves the legacy Keras as it is.
# Converting it costs every process seconds.
autograph.CONVERSION_RULES = (*autograph.CONVERSION_RULES, autograph.DoNotConvert("tf_keras"))

H = TypeVar("H", bound=settings.HyperParameters)


class Recommender(tfrs.Model, Generic[H]):
    """Base of every model: TFRS' one hook, `compute_loss`, around which a subclass adds its
    batches.

    A model names its hyper-parameters once, in brackets behind its base class, such as `class
    NeuMF(RetrieveModel[HyperParameters])`; a class derived from the model has the same ones.

    Args:
        hyper_parameters: an instance of the class attribute `HyperParameters`.
        data: what the task trains on.

    Attributes:
        HyperParameters: the class in the brackets; the Trainer, tests and notebooks make the
            model's settings with it.
        hyper_parameters: the settings of this model.
    """

    HyperParameters: ClassVar[type[settings.HyperParameters]] = settings.HyperParameters

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__dict__.get("__orig_bases__", ()):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, settings.HyperParameters):
                    cls.HyperParameters = argument

    def __init__(self, hyper_parameters: H, data: TrainingData):
        super().__init__()
        self.hyper_parameters = hyper_parameters
        self._mean_loss = tf.keras.metrics.Mean(name="loss")

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        """Returns endless train batches from `first_epoch` on: a function of (seed, epoch, step)
        alone, so that a training that was killed goes on with the batches it would have seen.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define batches() or override learn()"
        )

    def learn(self, loop: Loop) -> None:
        """Trains the model. Papers with a procedure of their own override this."""
        loop.fit(self)

    def train_step(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step; reports the mean loss of the epoch so far, where TFRS reports the last step's."""
        values = super().train_step(inputs)
        self._mean_loss.update_state(values["total_loss"])
        return {"loss": self._mean_loss.result()}
