"""Hyper-parameters that every model has.

A model's own class adds its paper's and sets the defaults.
"""

import pydantic


class CommonHyperParameters(pydantic.BaseModel):
    """What a run of either task may set with `--set name=value`; the base of a `score` model's own.

    Attributes:
        epochs: passes over the train split at most; early stopping may end sooner.
        patience: epochs without a better value of the averaged curve of validation before training
            stops.
        latest_share: of the newest epoch in the averages, of weights and of the validation metric,
            that an epoch is chosen by (see `models.training`); 1: the newest alone.
        batch_size: train examples a step (positives, where a model draws negatives).
        learning_rate: step size of the optimiser.
        validate_every: epochs between two validations.
        monitor: the validation metric that chooses the epoch; left out, the task's: ndcg_10,
            log_loss or mse.
        mixed_precision: compute in bfloat16, keep variables in float32.
        jit_compile: compile the train step with XLA.
        lazy_adam: where a model learns by Adam, a step moves only the rows of an embedding table
            that it reads, so that its time does not grow with the table; a little other than Adam.
        unknown_rate: share of train rows whose id is replaced by the unknown id, so that its row is
            trained.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    epochs: int = 20
    patience: int = 5
    latest_share: float = 0.3
    batch_size: int = 2048
    learning_rate: float = 1e-3
    validate_every: int = 1
    monitor: str | None = None
    mixed_precision: bool = False
    jit_compile: bool = False
    lazy_adam: bool = False
    unknown_rate: float = 0.02

    # Validators, not field constraints: a model's own class sets other defaults, which would drop a
    # field's constraints.
    @pydantic.field_validator("epochs", "patience", "batch_size", "validate_every")
    @classmethod
    def _at_least_one(cls, value: int) -> int:
        if value < 1:
            raise ValueError("must be at least 1")
        return value

    @pydantic.field_validator("learning_rate")
    @classmethod
    def _positive(cls, value: float) -> float:
        if not value > 0:
            raise ValueError("must be greater than 0")
        return value

    @pydantic.field_validator("latest_share")
    @classmethod
    def _some(cls, value: float) -> float:
        if not 0 < value <= 1:
            raise ValueError("must be greater than 0 and at most 1")
        return value

    @pydantic.field_validator("unknown_rate")
    @classmethod
    def _share(cls, value: float) -> float:
        if not 0 <= value < 1:
            raise ValueError("must be at least 0 and less than 1")
        return value


class HyperParameters(CommonHyperParameters):
    """The base of a `retrieve` model's own.

    Attributes:
        filter_seen: leave out of the ranking what the user has had already, in evaluation and in
            serving alike.
        segment: the feature of the users within whose values popularity is counted for users whom
            train has not seen; left out, the first with one value a user; empty, none.
    """

    filter_seen: bool = True
    segment: str | None = None
