"""One process of a training: `python -m models.training.worker ARGUMENTS.json`.

The file holds the Trainer's arguments (`launcher.write_arguments`), in a folder that all processes
of the training share by the same path; TF_CONFIG says which of them this one is. Ends with 0; with
1 on an error that would come again; with `cluster.LOST` where another process was lost and a new
start goes on from the checkpoint.
"""

import json
import os
import sys
import traceback
from types import SimpleNamespace

# Before TensorFlow is imported, which also runs where nothing else sets them.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from models.names.errors import ConfigError, RecsysError
from models.training import cluster

START_SECONDS = 600.0
"""How long all processes of a training have to come together."""

_LOST_A_PEER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
)


def main(arguments: list[str]) -> int:
    """Runs this process' part of a training; returns its exit status."""
    try:
        here = cluster.Cluster.here()
        if here.serves:
            cluster.serve(here)
        run(arguments[0], here)
    except RecsysError as error:
        print(f"error: {error}", flush=True)
        return 1
    except _LOST_A_PEER as error:
        traceback.print_exc()
        missing = ", ".join(here.missing())
        lost = f"no answer of {missing}" if missing else "all answer: one was started anew"
        print(f"error: a process of this training was lost ({type(error).__name__}); {lost}")
        return cluster.LOST
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def run(file: str, here: cluster.Cluster) -> None:
    """Trains and exports by the arguments in a file.

    Raises:
        ConfigError: a folder is not there that all workers must share; or as of `trainer.run_fn`.
    """
    seconds = float(os.environ.get("RECSYS_START_SECONDS", START_SECONDS))
    cluster.wait_for(file, seconds)
    values = json.loads(tf.io.gfile.GFile(file).read())
    for path in (values["transform_graph_path"], values["schema_path"]):
        if not tf.io.gfile.exists(path):
            raise ConfigError(
                f"{here.name or 'the chief'}: {path} is not there; required: the folder of runs, "
                "shared by all workers of a training by the same path"
            )
    # A server needs nothing of it.
    from models.training import trainer

    trainer.run_fn(SimpleNamespace(**values), start_seconds=seconds)


if __name__ == "__main__":
    # Not by sys.exit: TensorFlow's threads that wait for a lost peer would hold the process.
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
