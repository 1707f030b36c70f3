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

    Attributes:
        sums_loss: `compute_loss` is a sum over the rows that it is given, not their mean.

    Args:
        hyper_parameters: an instance of the class attribute `HyperParameters`.
        data: what the task trains on.
    """

    HyperParameters = CommonHyperParameters
    sums_loss = False

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

        An optimiser adds the gradients of all replicas up, so what each of them minimises is its
        share of the loss of the whole batch: N replicas then step as one would.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        share = self._share(inputs) if replicas > 1 else None
        with tf.GradientTape() as tape:
            loss = tf.add_n([self.compute_loss(inputs, training=True), *self.losses])
            if share is not None:
                # The mean of no rows is not a number.
                loss = tf.where(share > 0, share * loss, 0.0)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        # Every replica's update counts as one, so the mean of these is that of the shares' sums.
        self._mean_loss.update_state(replicas * loss)
        return {"loss": self._mean_loss.result()}

    def _share(self, inputs) -> tf.Tensor:
        """What part of the batch's loss this replica's is, a scalar.

        The last batch of an epoch need not divide by the replicas, and may leave one without a row.
        """
        if self.sums_loss:
            return tf.constant(1.0)
        rows = next(column for name, column in inputs.items() if name != "step_seed")
        count = tf.cast(tf.shape(rows)[0], tf.float32)
        context = tf.distribute.get_replica_context()
        return count / context.all_reduce(tf.distribute.ReduceOp.SUM, count)
