"""Hyper-parameters that every model has; a model's own class adds its paper's and sets the defaults."""

import pydantic


class HyperParameters(pydantic.BaseModel):
    """What a run may set with `--set name=value`.

    Attributes:
        epochs: passes over the train split at most; early stopping may end sooner.
        patience: epochs without a better validation metric before training stops.
        batch_size: train examples a step (positives, where a model draws negatives).
        learning_rate: step size of the optimiser.
        validate_every: epochs between two validations.
        mixed_precision: compute in bfloat16, keep variables in float32.
        jit_compile: compile the train step with XLA.
        filter_seen: leave out of the ranking what the user has had already, in evaluation and in serving alike.
        unknown_rate: share of train rows whose id is replaced by the unknown id, so that its row is trained.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    epochs: int = pydantic.Field(20, ge=1)
    patience: int = pydantic.Field(5, ge=1)
    batch_size: int = pydantic.Field(2048, ge=1)
    learning_rate: float = pydantic.Field(1e-3, gt=0)
    validate_every: int = pydantic.Field(1, ge=1)
    mixed_precision: bool = False
    jit_compile: bool = False
    filter_seen: bool = True
    unknown_rate: float = pydantic.Field(0.02, ge=0, lt=1)
