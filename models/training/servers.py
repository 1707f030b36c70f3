"""Tables that are larger than a device: they lie in pieces on parameter servers.

The model of the loop stays in the chief's memory, where it is validated and exported. A second one
of the same class lies on the servers and takes the steps:

    chief      model  <- after every epoch -  sharded model  <- steps -  worker 0, worker 1, ...
                                              rows 0..n/2 of a table on server 0, the rest on 1

Several workers step without waiting for each other, each from a place of its own in the stream of
batches; with one worker the steps are those of a training in one process.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from models.names import registry
from models.names.errors import ConfigError
from models.training.cluster import SERVER, WORKER, Cluster

# TensorFlow's advice for a piece: below it the way costs more than the memory is worth.
SMALLEST_PIECE = 256 << 10


def require_shards(name: str) -> None:
    """Refuses a model whose tables cannot lie on parameter servers.

    Raises:
        ConfigError: it is one; the message names those that can.
    """
    if registry.load(name).Model.shards:
        return
    able = [each for each in registry.MODELS if registry.load(each).Model.shards]
    raise ConfigError(
        f"cluster.parameter_servers: {name} cannot be trained on parameter servers: it computes "
        f"with whole tables, or by a procedure of its own; required: one of {', '.join(able)}, or "
        "cluster.workers alone"
    )


class ParameterServers:
    """Makes and feeds the sharded twin of a model.

    Args:
        cluster: whose chief this process is.
        smallest_piece: bytes; a table is cut into pieces of at least this size.

    Attributes:
        strategy: that of the workers and servers.
        pieces: how many there are of the tables of the last model that are cut at all.
    """

    def __init__(self, cluster: Cluster, smallest_piece: int = SMALLEST_PIECE):
        self.pieces = 0
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        self._workers = len(cluster.addresses[WORKER])
        pieces = tf.distribute.experimental.partitioners.MinSizePartitioner(
            smallest_piece, max_shards=len(cluster.addresses[SERVER])
        )

        def tables_alone(shape, dtype, **rest):
            # A vector may be sliced with tensors, which a sharded one refuses.
            return pieces(shape, dtype, **rest) if shape.rank == 2 else [1] * (shape.rank or 0)

        self.strategy = tf.distribute.ParameterServerStrategy(
            resolver, variable_partitioner=tables_alone
        )

    def twin(self, model: Any, data: Any, batch: Any, optimizer: Any) -> Any:
        """Returns a model like `model`, with its weights, on the servers and ready to be fitted.

        Args:
            model: its variables exist.
            data: what it is trained on.
            batch: of its train batches.
            optimizer: whose settings the twin's has.
        """
        with self.strategy.scope():
            twin = type(model)(model.hyper_parameters, data)
            twin.dropout_seed = model.dropout_seed
            twin.compute_loss(batch, training=False)
            whole = {tuple(each.shape) for each in model.weights}
            self.pieces = sum(tuple(each.shape) not in whole for each in twin.weights)
            _copy_to(model, twin)
            twin.compile(optimizer=type(optimizer).from_config(optimizer.get_config()))
            twin.optimizer.build(twin.trainable_variables)
        return twin

    def batches(self, twin: Any, data: Any, seed: int, first_epoch: int) -> Any:
        """Returns what Keras makes each worker's batches with."""

        def of_a_worker(_):
            batches = twin.batches(data, seed, first_epoch)
            if self._workers == 1:
                return batches.dataset
            # One function makes them all, no worker is told which it is, and an op with a seed
            # would say the same to each.
            now = tf.cast(1e6 * tf.timestamp(), tf.int64)
            place = tf.random.stateless_uniform([], [now, 0], maxval=batches.steps, dtype=tf.int64)
            return batches.dataset.skip(place)

        return tf.keras.utils.experimental.DatasetCreator(of_a_worker)


def fetch(twin: Any, model: Any) -> None:
    """Copies the weights on the servers into the model of the chief."""
    pieces = iter(twin.weights)
    for variable in model.weights:
        found = [next(pieces).numpy()]
        while variable.shape.rank and sum(map(len, found)) < variable.shape[0]:
            found.append(next(pieces).numpy())
        variable.assign(np.concatenate(found) if variable.shape.rank else found[0])


def _copy_to(model: Any, twin: Any) -> None:
    pieces = iter(twin.weights)
    for variable in model.weights:
        value, row = variable.numpy(), 0
        while True:
            piece = next(pieces)
            if not value.ndim:
                piece.assign(value)
                break
            piece.assign(value[row : row + piece.shape[0]])
            row += piece.shape[0]
            if row >= len(value):
                break
