"""TFX's Transform and Trainer that make nothing of examples that were not built."""

from tfx.components import Trainer, Transform
from tfx.components.trainer import executor as trainer_executor
from tfx.components.transform import executor as transform_executor
from tfx.dsl.components.base import executor_spec

from components.component import skips


class TransformExecutor(transform_executor.Executor):
    """TFX's own, unless its examples were skipped."""

    Do = skips(transform_executor.Executor.Do)


class TrainerExecutor(trainer_executor.GenericExecutor):
    """TFX's own, unless its examples were skipped."""

    Do = skips(trainer_executor.GenericExecutor.Do)


class RefitTransform(Transform):
    """Vocabularies, boundaries and counts of everything."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(TransformExecutor)


class RefitTrainer(Trainer):
    """Trains on everything for the epochs of its `hyperparameters` (see `refit.Refit`)."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(TrainerExecutor)
