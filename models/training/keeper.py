"""Early stopping on validation, and checkpoints that survive a kill.

How an epoch is chosen, for every model: validation has few queries, so a curve of it jitters by
more than an epoch is worth, and its highest point is chance. Both sides are therefore averaged over
the latest epochs, in which the newest has the share a = `latest_share` (1/t in the first epochs,
where that is more: a plain mean):

    weights w <- w + a (those of the epoch - w)        validated, kept and exported
    curve   c <- c + a (the monitor of w - c)          the best c names the epoch that is kept

and training ends where c has not been better for `patience` epochs, or with `epochs`. With a share
of 1 the latest epoch alone decides. Training itself goes on from its own weights, not from the
averages. Averaged are the trainable weights; one that is exactly zero stays so, as l1 wants it.
What a model solves for, computes or counts (not trainable) is the latest.

The state is saved after every epoch, and within one every ten minutes: batches are a function of
(seed, epoch, step), so a training that was killed goes on from the step that was saved, bit for
bit. (Not with parameter servers, where workers are at steps of their own, and not where a procedure
does something of its own before each epoch.)
"""

import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from models.names.errors import RecsysError
from models.training import cluster
from models.training.progress import describe, say
from models.training.servers import fetch

SECONDS_BETWEEN_SAVES = 600.0
"""Of training within an epoch; more where saving itself takes long."""
# Saving takes at most one part in so many of the time.
_SAVING_SHARE = 20
_NUMBERS_AT_ONCE = 1 << 20
# Several workers ask each other after so many steps.
_STEPS_BETWEEN_QUESTIONS = 100


class Keeper(tf.keras.callbacks.Callback):
    """Averages weights, validates them, keeps the best and stops when patience runs out.

    It saves the state after every epoch.

    Args:
        loop: the training loop that asks, `models.training.loop.TrainingLoop`.
        model: what it trains.
        stage: of the procedure.
        epochs: at most so many.
        before_epoch: called before the steps of every epoch.
        validate: whether validation chooses the epoch.
    """

    def __init__(
        self,
        loop: Any,
        model,
        stage: str,
        epochs: int,
        before_epoch: Callable[[], None] | None,
        validate: bool,
    ):
        super().__init__()
        self._loop, self._stage, self._epochs = loop, stage, epochs
        self._evaluation = loop.evaluation if validate else None
        self._trained = self._stepped = model
        self._before_epoch = before_epoch
        self._metrics = (
            self._evaluation.metrics.choosing_by(loop.hyper_parameters.monitor)
            if self._evaluation
            else None
        )
        self._evaluate: Callable[[], dict[str, float]] | None = None
        self._average: list[tf.Variable] = []
        self._curve: float | None = None
        self._best = -float("inf")
        self._best_epoch = 0
        self._best_weights = None
        self.rows = self.steps = 0
        self.finished = False
        self._folder = pathlib.Path(loop.checkpoint_dir, stage) if loop.checkpoint_dir else None
        self.saves_within = bool(self._folder) and not before_epoch and not loop.servers
        # A kill may come when one worker has saved an epoch and another has not.
        states = {_place(state): state for state in self._states()}
        self._state = states.get(cluster.agreed_place(loop.strategy, list(states)))
        self.first_epoch, self.first_step = 0, 0
        if self._state:
            self.first_epoch, self.first_step = self._state["epoch"], self._state["step"]
        elif states:
            say(f"{stage}: no epoch is kept by all workers; they start anew")
        self._left = self.first_step
        self._pause = SECONDS_BETWEEN_SAVES
        self._saved = time.monotonic()

    def prepare(self, stepped) -> None:
        """Makes room for the averages of a model whose variables exist.

        Args:
            stepped: the model that takes the steps, where it is another one: on servers.
        """
        self._stepped = stepped
        with tf.device("CPU:0"):
            self._average = [
                tf.Variable(tf.convert_to_tensor(variable), trainable=False)
                for variable in self._weights()
            ]
        if self._evaluation is not None:
            # Here and not in a callback, which Keras calls within the strategy's scope: what
            # evaluation holds, ids among it, is this process' own and no concern of the others.
            self._evaluate = self._evaluation.of(self._trained)

    def restore(self) -> None:
        """Loads what an interrupted training had come to, if there was one."""
        state = self._state
        if state is None:
            return
        # The best first: a model's checkpoint holds its optimiser too, and training goes on with
        # the latest state of both.
        if state["best_epoch"]:
            self._read(_name(state["best_epoch"]))
            self._best_weights = self._averaged(self._trained.get_weights)
        self._read(_name(state["epoch"], state["step"]))
        self._curve, self._best = state["curve"], state["best"]
        self._best_epoch = state["best_epoch"]
        self.finished = state["finished"]
        self._loop.history.extend(state["history"])
        within = f", step {state['step']:,}" if state["step"] else ""
        say(f"{self._stage}: resumed after epoch {state['epoch']}{within}")

    def parts(self) -> Iterator[tuple[int, int, int]]:
        """Yields what is left to do, as calls of Keras' `fit`, which has equally long epochs.

        That is the rest of an epoch that a kill came in, and whole ones: each the first epoch, the
        one after the last, and the steps of it that have been taken.
        """
        first = self.first_epoch
        if self.first_step:
            yield first, first + 1, self.first_step
            first += 1
            if self.model.stop_training:
                return
        if first < self._epochs:
            yield first, self._epochs, 0

    def _read(self, name: str) -> None:
        self._checkpoint().read(str(self._folder / name)).expect_partial()
        self._fetch()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._started = epoch, time.monotonic()
        # Steps of this epoch that an earlier process has taken, and what they have come to.
        self._before, self._left = self._left, 0
        if self._before:
            self._started -= self._state["seconds"]
            for variable, value in zip(self._sums(), self._state["sums"], strict=True):
                variable.assign(value)
        if self._before_epoch:
            self._before_epoch()

    def on_epoch_end(self, epoch, logs=None):
        hyper_parameters = self._loop.hyper_parameters
        epoch += 1
        seconds = time.monotonic() - self._started
        loss = float(logs["loss"])
        if not loss == loss or loss in (float("inf"), -float("inf")):
            raise RecsysError(
                f"{self._stage}: the loss of epoch {epoch} is {loss}; required: a finite number. "
                "Lower learning_rate."
            )
        row = {
            "stage": self._stage,
            "epoch": epoch,
            "seconds": round(seconds, 3),
            "loss": loss,
            "examples_per_second": round(self.rows / seconds, 1),
        }
        self._fetch()
        self._follow(epoch)
        if self._evaluation is not None and (
            epoch % hyper_parameters.validate_every == 0 or epoch == self._epochs
        ):
            values = self._averaged(lambda: self._judge(epoch))
            row.update(values)
            logs.update({f"val_{name}": value for name, value in values.items()})
            if (
                epoch - self._best_epoch
                >= hyper_parameters.patience * hyper_parameters.validate_every
            ):
                self.model.stop_training = True
        self._loop.history.append(row)
        say(describe(row) + (" *" if self._best_epoch == epoch else ""))
        self._save(epoch, finished=self.model.stop_training or epoch == self._epochs)

    def after_step(self, number: int) -> None:
        """Saves the state within an epoch, if it is time.

        Args:
            number: steps that this process has taken in the epoch.
        """
        late, step = time.monotonic() - self._saved - self._pause, self._before + number
        if step == self.steps:  # the end of the epoch saves more
            return
        if isinstance(self._loop.strategy, tf.distribute.MultiWorkerMirroredStrategy):
            # All of them at the same step, or none: their clocks differ.
            if step % _STEPS_BETWEEN_QUESTIONS:
                return
            late = float(cluster.gathered(self._loop.strategy, [late]).max())
        if late >= 0:
            self._save(self._epoch, finished=False, step=step)

    def _sums(self) -> list[tf.Variable]:
        """What the mean loss of an epoch is made of."""
        return [each for metric in self._trained.metrics for each in metric.variables]

    def keep_best(self) -> None:
        """Puts the best of the averaged weights in place and notes their epoch.

        Where nothing chose, they are the last.
        """
        if self._best_weights is None:
            for variable, average in zip(self._weights(), self._average, strict=True):
                variable.assign(average)
        else:
            self._trained.set_weights(self._best_weights)
        rows = [row for row in self._loop.history if row["stage"] == self._stage]
        self._loop.best_epochs[self._stage] = self._best_epoch or rows[-1]["epoch"]

    def _judge(self, epoch: int) -> dict[str, float]:
        """Validates the averaged weights, which are in place; keeps them if none were better."""
        hyper_parameters = self._loop.hyper_parameters
        values = cluster.agreed_values(self._loop.strategy, self._evaluate())
        score = values[self._metrics.monitor] * (1 if self._metrics.higher_is_better else -1)
        share = max(hyper_parameters.latest_share, hyper_parameters.validate_every / epoch)
        self._curve = score if self._curve is None else self._curve + share * (score - self._curve)
        if self._curve > self._best:
            self._best, self._best_epoch = self._curve, epoch
            self._best_weights = self._trained.get_weights()
        return values

    def _fetch(self) -> None:
        """Brings the latest weights here, where the servers have them."""
        if self._stepped is not self._trained:
            fetch(self._stepped, self._trained)

    def _follow(self, epoch: int) -> None:
        """Moves the averages towards the weights of an epoch."""
        share = max(self._loop.hyper_parameters.latest_share, 1 / epoch)
        for average, variable in zip(self._average, self._weights(), strict=True):
            value = tf.convert_to_tensor(variable)
            if share == 1:
                average.assign(value)
                continue
            for part in _parts(value.shape):
                before, latest = average[part], value[part]
                # All the way where the latest is zero, so that it stays so.
                moves = tf.where(latest == 0, tf.ones_like(latest), tf.cast(share, latest.dtype))
                average[part].assign(before - moves * (before - latest))

    def _averaged(self, function: Callable[[], Any]) -> Any:
        """Calls `function` while the model has the averaged weights, and their place the latest."""
        self._exchange()
        try:
            return function()
        finally:
            self._exchange()

    def _exchange(self) -> None:
        # A tensor that is assigned is shared until one side changes it: no table is copied here.
        for average, variable in zip(self._average, self._weights(), strict=True):
            value = tf.convert_to_tensor(variable)
            variable.assign(tf.convert_to_tensor(average))
            average.assign(value)

    def _weights(self) -> list[tf.Variable]:
        """What is averaged."""
        return [each for each in self._trained.trainable_variables if each.dtype.is_floating]

    def _checkpoint(self) -> tf.train.Checkpoint:
        return tf.train.Checkpoint(
            model=self._stepped, optimizer=self._stepped.optimizer, average=self._average
        )

    def _states(self) -> list[dict[str, Any]]:
        """The states that are kept, the latest first: of one epoch, or with several workers two."""
        names = ("state.json", "state-before.json")
        files = [self._folder / name for name in names] if self._folder else []
        return [json.loads(file.read_text()) for file in files if file.exists()]

    def _save(self, epoch: int, finished: bool, step: int = 0) -> None:
        """Saves the state after so many epochs and, of the next one, so many steps."""
        if self._folder is None:
            return
        begun = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._checkpoint().write(str(self._folder / _name(epoch, step)))
        state = {
            "epoch": epoch,
            "step": step,
            "seconds": begun - self._started if step else 0.0,
            "sums": [float(each.numpy()) for each in self._sums()] if step else [],
            "curve": self._curve,
            "best": self._best,
            "best_epoch": self._best_epoch,
            "finished": finished,
            "history": [row for row in self._loop.history if row["stage"] == self._stage],
        }
        before = self._states()[:1]
        if self._loop.strategy.num_replicas_in_sync > 1 and before:
            _write(self._folder / "state-before.json", before[0])
        # The state names the checkpoint.
        _write(self._folder / "state.json", state)
        kept = {_name(each["epoch"], each["step"]) for each in self._states()}
        kept |= {_name(each["best_epoch"]) for each in self._states()}
        # Another process may be writing its own: epoch-4_temp is none yet.
        for old in self._folder.glob("epoch-*.*"):
            if old.name.split(".")[0] not in kept:
                old.unlink()
        self._saved = time.monotonic()
        self._pause = max(SECONDS_BETWEEN_SAVES, _SAVING_SHARE * (self._saved - begun))


class Within(tf.keras.callbacks.Callback):
    """Tells a keeper of steps: apart, since Keras waits for every step that is listened to."""

    def __init__(self, keeper: Keeper):
        super().__init__()
        self._keeper = keeper

    def on_train_batch_end(self, batch, logs=None):
        self._keeper.after_step(batch + 1)


def _parts(shape: tf.TensorShape) -> Iterator[Any]:
    """Yields what of a variable is averaged at a time; all that is computed of it is as large."""
    if not shape.rank:
        yield ...
        return
    rows = max(1, _NUMBERS_AT_ONCE // max(1, math.prod(shape[1:])))
    for begin in range(0, shape[0], rows):
        yield slice(begin, begin + rows)


def _name(epoch: int, step: int = 0) -> str:
    """The name of the checkpoint after so many epochs and steps of the next."""
    return f"epoch-{epoch}-step-{step}" if step else f"epoch-{epoch}"


def _place(state: dict[str, Any]) -> int:
    """A state's epoch and step as one number, ascending; 0 of none."""
    return (state["epoch"] << 32) + state["step"]


def _write(file: pathlib.Path, state: dict[str, Any]) -> None:
    """Replaces the old state whole, so a kill leaves one of the two, never half of one."""
    temporary = file.with_name(f"{file.name}.partial")
    temporary.write_text(json.dumps(state))
    temporary.replace(file)
