"""TFX's Trainer that makes nothing of examples that were not built."""

from tfx.components import Trainer
from tfx.components.trainer import executor as trainer_executor
from tfx.dsl.components.base import executor_spec

from components.component import skips


class TrainerExecutor(trainer_executor.GenericExecutor):
    """TFX's own, unless its examples were skipped."""

    Do = skips(trainer_executor.GenericExecutor.Do)


class RefitTrainer(Trainer):
    """Trains on everything for the epochs of its `hyperparameters` (see `refit.Refit`)."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(TrainerExecutor)
