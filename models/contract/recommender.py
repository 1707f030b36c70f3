"""What the models of both tasks share: they train by gradient on a loss of their own."""

from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar, get_args

import tensorflow as tf
import tensorflow_recommenders as tfrs

from models.contract.loop import Loop
from models.inputs import dropout, sampling
from models.inputs.data import TrainingData
from models.inputs.tensorflow_private import several_steps
from models.names import hyper_parameters as settings
from models.names.label import WEIGHT

H = TypeVar("H", bound=settings.HyperParameters)


class Recommender(tfrs.Model, Generic[H]):
    """Base of every model, around TFRS' one hook, `compute_loss`.

    A subclass adds its batches.

    A model names its hyper-parameters once, in brackets behind its base class, such as `class
    NeuMF(RetrieveModel[HyperParameters])`; a class derived from the model has the same ones.

    Args:
        hyper_parameters: an instance of the class attribute `HyperParameters`.
        data: what the task trains on.

    Attributes:
        HyperParameters: the class in the brackets; the Trainer, tests and notebooks make the
            model's settings with it.
        hyper_parameters: the settings of this model.
        sums_loss: `compute_loss` is a sum over the rows that it is given, not their mean.
        weighs_rows: the model learns of a row as much as it weighs, where the run says so
            (`positives.values`, `label.weight`): by `weighed`, or in closed form. The registry says
            it too: a model that does not needs `equal_rows`.
        shards: the tables may lie in pieces on parameter servers: the model learns by `loop.fit`
            alone, of batches that are made anywhere (`batches` asks no table of texts), and reads
            tables by looking rows up.
    """

    HyperParameters: ClassVar[type[settings.HyperParameters]] = settings.HyperParameters
    sums_loss: ClassVar[bool] = False
    weighs_rows: ClassVar[bool] = True
    shards: ClassVar[bool] = False
    train_function: Callable[..., Any] | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in cls.__dict__.get("__orig_bases__", ()):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, settings.HyperParameters):
                    cls.HyperParameters = argument

    def __init__(self, hyper_parameters: H, data: TrainingData):
        super().__init__()
        self.hyper_parameters = hyper_parameters
        self.dropout_seed = 0  # the training loop sets its own
        self._mean_loss = tf.keras.metrics.Mean(name="loss")

    @property
    def metrics(self) -> list[tf.keras.metrics.Metric]:
        """The mean loss alone: a model within a model has one of the same name."""
        return [self._mean_loss]

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        """Returns endless train batches from `first_epoch` on.

        They are a function of (seed, epoch, step) alone, so that a training that was killed goes on
        with the batches it would have seen. What 0 pads on the right of a list adds nothing to the
        loss, however much of it there is: for XLA there is more.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define batches() or override learn()"
        )

    def learn(self, loop: Loop) -> None:
        """Trains the model. Papers with a procedure of their own override this."""
        loop.fit(self)

    def make_train_function(self, force: bool = False) -> Callable[..., Any]:
        """Returns what takes the steps of an execution: Keras' own, but traced once."""
        steps = several_steps(self) if force or self.train_function is None else None
        if steps is None:
            return super().make_train_function(force)
        self.train_function = steps
        return steps

    def train_step(self, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step; reports the mean loss of the epoch so far.

        TFRS reports the last step's.

        An optimiser adds the gradients of all replicas up, so what each of them minimises is its
        share of the loss of the whole batch: N replicas then step as one would.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        share = self._share(inputs) if replicas > 1 else None
        # The optimiser counts the steps, and its count survives a kill.
        step = dropout.Step(self.dropout_seed, self.optimizer.iterations)
        with step, tf.GradientTape() as tape:
            loss = tf.add_n([self.compute_loss(inputs, training=True), *self.losses])
            if share is not None:
                # The mean of no rows is not a number.
                loss = tf.where(share > 0, share * loss, 0.0)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        # Every replica's update counts as one, so the mean of these is that of the shares' sums.
        self._mean_loss.update_state(replicas * loss)
        return {"loss": self._mean_loss.result()}

    def _share(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """What part of the batch's loss this replica's is, a scalar.

        The last batch of an epoch need not divide by the replicas, and may leave one without a row.
        """
        if self.sums_loss:
            return tf.constant(1.0)
        rows = next(column for name, column in inputs.items() if name != "step_seed")
        count = tf.cast(tf.shape(rows)[0], tf.float32)
        context = tf.distribute.get_replica_context()
        return count / context.all_reduce(tf.distribute.ReduceOp.SUM, count)


def weighed(inputs: dict[str, tf.Tensor], losses: tf.Tensor) -> tf.Tensor:
    """What the rows of a batch lose, each by what it weighs.

    Every loss of a model that weighs rows goes through here. Weights have a mean of 1 over train,
    so that they change no step size: only their proportions matter.

    Args:
        inputs: the batch; WEIGHT is in it where the run says that rows weigh differently.
        losses: as many as there are weights, [B], or [B, L] of rows that are sequences or profiles.
    """
    return inputs[WEIGHT] * losses if WEIGHT in inputs else losses
