"""What a model's `learn` sees of the training loop, `models.training.loop.TrainingLoop`."""

from collections.abc import Callable
from typing import Any, Protocol

import tensorflow as tf


class Loop(Protocol):
    """Trains models by gradient, or notes those that were fitted in closed form.

    Attributes:
        data: what the task trains on.
        seed: of batches and negatives.
        strategy: how steps are distributed; variables, optimisers too, are made in its scope.
        warm_started: the model holds weights of an earlier one, so a procedure that would overwrite
            them is skipped.
        history: one dict an epoch and stage; a model may add what it has to tell.
    """

    data: Any
    seed: int
    strategy: tf.distribute.Strategy
    warm_started: bool
    history: list[dict[str, Any]]

    def fit(
        self,
        model: Any,
        stage: str = "model",
        optimizer: Any = None,
        epochs: int | None = None,
        before_epoch: Callable[[], None] | None = None,
        validate: bool = True,
    ) -> None:
        """Trains `model` on its `batches`, and leaves it with the weights of the best epoch.

        Args:
            model: as the contract has it.
            stage: names this part of a procedure that trains several models.
            optimizer: default Adam with the learning rate of the hyper-parameters.
            epochs: default the hyper-parameters'.
            before_epoch: called before the steps of every epoch.
            validate: false for a part that answers no query: it is trained for all epochs.
        """

    def build(self, model: Any) -> None:
        """Creates the variables of a model, so that there is something to load weights into."""

    def record(self, model: Any, stage: str = "model", seconds: float = 0.0) -> None:
        """Notes a model that was fitted in closed form, after so many seconds."""
