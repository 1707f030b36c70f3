"""The processes of one training, as TF_CONFIG names them, and what they agree on.

Without parameter servers every worker runs the whole of `models.training.trainer.run_fn` and makes
its share of each batch; worker 0 is the chief, which writes what all share. With them a chief runs
`run_fn`, and the workers and servers wait for what it asks of them.
"""

import json
import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from models.names.errors import ConfigError

CHIEF, WORKER, SERVER = "chief", "worker", "ps"
# What ends a process that is well itself and lost another: to be started again. The Training
# Operator takes codes from 128 on for such, and smaller ones for errors that would come again.
LOST = 138


@dataclass(frozen=True)
class Cluster:
    """The processes of a training, and which of them this one is.

    Attributes:
        addresses: kind of process (`chief`, `worker`, `ps`) -> host:port of each; empty where there
            is one process alone.
        kind: what this process is.
        index: which of its kind.
    """

    addresses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    kind: str = WORKER
    index: int = 0

    @classmethod
    def here(cls) -> "Cluster":
        """The cluster that TF_CONFIG names.

        Raises:
            ConfigError: TF_CONFIG is no JSON, or does not name this process.
        """
        text = os.environ.get("TF_CONFIG") or "{}"
        try:
            config = json.loads(text)
            addresses, task = config.get("cluster", {}), config.get("task", {})
            cluster = cls(addresses, task.get("type", WORKER), int(task.get("index", 0)))
        except (ValueError, TypeError, AttributeError):
            raise ConfigError(
                'TF_CONFIG: required: JSON such as {"cluster": {"worker": ["host:port", ..]}, '
                f'"task": {{"type": "worker", "index": 0}}}}; received {text}'
            ) from None
        if addresses and cluster.index >= len(addresses.get(cluster.kind, ())):
            raise ConfigError(
                f"TF_CONFIG: required: a task that its cluster names; received {cluster.kind} "
                f"{cluster.index} of {', '.join(f'{len(a)} {k}' for k, a in addresses.items())}"
            )
        return cluster

    @property
    def has_servers(self) -> bool:
        """Whether the tables lie on parameter servers."""
        return bool(self.addresses.get(SERVER))

    @property
    def serves(self) -> bool:
        """Whether this process only does what the chief asks of it."""
        return self.has_servers and self.kind != CHIEF

    @property
    def name(self) -> str | None:
        """The name of this process, such as `worker-1`; None of the one that writes for all."""
        first = CHIEF if CHIEF in self.addresses else WORKER
        if not self.addresses or (self.kind, self.index) == (first, 0):
            return None
        return f"{self.kind}-{self.index}"

    @contextmanager
    def starting(self, seconds: float) -> Iterator[None]:
        """Ends this process with `LOST` if the body takes longer, naming who is not there.

        TensorFlow itself waits for all others, for as long as it takes.
        """
        if not self.addresses or seconds == math.inf:
            yield
            return
        timer = threading.Timer(seconds, self._give_up, args=(seconds,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def missing(self) -> list[str]:
        """The others that do not answer now, each with its address."""
        return [
            f"{kind}-{index} at {address}"
            for kind, addresses in self.addresses.items()
            for index, address in enumerate(addresses)
            if (kind, index) != (self.kind, self.index) and not _answers(address)
        ]

    def _give_up(self, seconds: float) -> None:
        missing = ", ".join(self.missing()) or "one of them started and is gone"
        print(
            f"error: the workers of this training did not come together within {seconds:.0f} s; "
            f"no answer of: {missing}",
            flush=True,
        )
        os._exit(LOST)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return True
    except OSError:
        return False


def serve(cluster: Cluster) -> None:
    """Does what the chief asks, until somebody ends this process."""
    options = tf.compat.v1.ConfigProto()
    # An operation that waits for another process holds a thread: with as many threads as cores, one
    # core alone would wait forever.
    enough = len(cluster.addresses.get(WORKER, ())) + 1
    options.inter_op_parallelism_threads = max(os.cpu_count() or 1, enough)
    server = tf.distribute.Server(
        tf.train.ClusterSpec(dict(cluster.addresses)),
        job_name=cluster.kind,
        task_index=cluster.index,
        protocol="grpc",
        config=options,
    )
    server.join()


def gathered(strategy: tf.distribute.Strategy, numbers: Sequence[float]) -> np.ndarray:
    """What each worker has for `numbers`: [workers, N] float64; a row where there is one alone."""
    row = np.array([numbers], np.float64)
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return row
    own = strategy.experimental_distribute_values_from_function(lambda _: tf.constant(row))
    rows = strategy.gather(own, axis=0).numpy()
    # A worker of several devices has a row of each.
    return rows[:: len(strategy.extended.worker_devices)]


def require_equal(strategy: tf.distribute.Strategy, numbers: Mapping[str, int]) -> None:
    """Refuses workers that were given different trainings, which would wait for each other forever.

    Args:
        strategy: how steps are distributed.
        numbers: what must be the same everywhere, by name; below 2^53.

    Raises:
        ConfigError: it is not the same, in every worker alike.
    """
    rows = gathered(strategy, list(numbers.values()))
    for name, column in zip(numbers, rows.T):
        if len(np.unique(column)) > 1:
            received = ", ".join(f"worker {n}: {value:.0f}" for n, value in enumerate(column))
            raise ConfigError(
                f"the workers of this training differ in {name}; required: the same arguments and "
                f"data everywhere; received: {received}"
            )


def agreed_place(strategy: tf.distribute.Strategy, places: Sequence[int]) -> int:
    """The latest place in a training that all workers can go on from; 0: from none.

    Args:
        strategy: how steps are distributed.
        places: whose state this worker has kept: at most two; below 2^53.
    """
    rows = gathered(strategy, [*places, 0, 0][:2])
    common = set(rows[0]).intersection(*rows[1:])
    return int(max(common, default=0))


def agreed_values(strategy: tf.distribute.Strategy, values: dict[str, float]) -> dict[str, float]:
    """The mean of what the workers have measured, the same to the bit in each.

    Their processors may differ in a last digit, and then in whether training is to end.
    """
    rows = gathered(strategy, list(values.values()))
    return dict(zip(values, rows.mean(axis=0).tolist()))


def wait_for(path: str, seconds: float) -> None:
    """Waits until a file of the shared folder is there.

    Raises:
        ConfigError: it is not, after so many seconds.
    """
    until = time.monotonic() + seconds
    while not tf.io.gfile.exists(path):
        if time.monotonic() > until:
            raise ConfigError(
                f"{path} is not there; required: a folder that all workers of a training share, "
                "by the same path"
            )
        time.sleep(1)
