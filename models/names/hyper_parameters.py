"""The settings that models have in common, in groups.

A model's own `HyperParameters` inherits the groups that it honours and no other, adds its paper's
and sets the defaults.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, TypeVar

import pydantic

from models.names.errors import ConfigError, nearest
from models.names.sizes import Parameters, Sizes


class HyperParameters(pydantic.BaseModel):
    """The base of every group and so of every model's own; it has no setting.

    Attributes:
        REFUSAL: of a group: why a model that does not inherit it has no use for its settings.
        REFUSALS: of a model: setting that it has not got -> why, where that is another reason.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    REFUSAL: ClassVar[str] = ""
    REFUSALS: ClassVar[dict[str, str]] = {}

    def setting(self, name: str) -> Any:
        """Returns a common setting, or the value that turns it off where the model has not got it.

        For what treats all models alike, the Trainer and the loop; a model reads its own fields.
        """
        return getattr(self, name, _OFF[name])

    @classmethod
    def refusal(cls, name: str) -> str:
        """Returns why a model has no use for a common setting that it has not got."""
        return cls.REFUSALS.get(name, COMMON[name].REFUSAL)

    def most_items(self) -> int | None:
        """Returns how many items the model can be trained on here; None for any number.

        A model that holds a matrix of items x items overrides it. The pipeline asks before the run,
        and ExampleBuilder refuses a larger catalogue as soon as it has counted the items.
        """
        return None

    def parameters(self, sizes: Sizes) -> Parameters | None:
        """Returns how many numbers the model is made of, on data of such sizes.

        A model overrides it, so that a run that cannot fit is refused before anything heavy is
        imported; of one that does not (None) only the data are estimated.

        Args:
            sizes: of the data.
        """
        return None

    def named_columns(self) -> Iterator[tuple[str, str]]:
        """Yields each setting that names a column of the built rows, with the column.

        A model that has such settings overrides it, so that a name that the data lack is refused
        before anything heavy is imported.
        """
        yield from ()


class Ranking(HyperParameters):
    """For every `retrieve` model.

    Attributes:
        filter_seen: leave out of the ranking what the user has had already, in evaluation and in
            serving alike.
        segment: the feature of the users within whose values popularity is counted for users whom
            train has not seen; left out, the first with one value a user; empty, none.
    """

    REFUSAL: ClassVar[str] = "it scores single rows and ranks no catalogue"

    filter_seen: bool = True
    segment: str | None = pydantic.Field(None, examples=["user_country"])

    def named_columns(self) -> Iterator[tuple[str, str]]:
        yield from super().named_columns()
        if self.segment:
            yield "segment", self.segment


class Epochs(HyperParameters):
    """For a model that goes over the train split again and again.

    Attributes:
        epochs: passes over the train split at most; early stopping may end sooner.
        patience: epochs without a better value of the averaged curve of validation before training
            stops.
        latest_share: of the newest epoch in the averages, of weights and of the validation metric,
            that an epoch is chosen by (see `models.training.keeper`); 1: the newest alone.
        validate_every: epochs between two validations.
        monitor: the validation metric that chooses the epoch; left out, the task's: ndcg_10,
            log_loss or mse.
    """

    REFUSAL: ClassVar[str] = "it is fitted in closed form, in one pass"

    epochs: int = 20
    patience: int = 5
    latest_share: float = 0.3
    validate_every: int = 1
    monitor: str | None = pydantic.Field(None, examples=["recall_20"])

    # Validators, not field constraints: a model's own class sets other defaults, which would drop a
    # field's constraints.
    @pydantic.field_validator("epochs", "patience", "validate_every")
    @classmethod
    def _at_least_one_epoch(cls, value: int) -> int:
        return _at_least_one(value)

    @pydantic.field_validator("latest_share")
    @classmethod
    def _some(cls, value: float) -> float:
        if not 0 < value <= 1:
            raise ValueError("must be greater than 0 and at most 1")
        return value


class Gradient(HyperParameters):
    """For a model that takes gradient steps.

    Attributes:
        batch_size: train examples a step (positives, where a model draws negatives).
        learning_rate: step size of the optimiser.
    """

    REFUSAL: ClassVar[str] = "it takes no gradient steps"

    batch_size: int = 2048
    learning_rate: float = 1e-3

    @pydantic.field_validator("batch_size")
    @classmethod
    def _at_least_one_row(cls, value: int) -> int:
        return _at_least_one(value)

    @pydantic.field_validator("learning_rate")
    @classmethod
    def _positive(cls, value: float) -> float:
        if not value > 0:
            raise ValueError("must be greater than 0")
        return value


class LazyAdam(HyperParameters):
    """For a model that learns by Adam and whose steps read some rows of a table.

    Attributes:
        lazy_adam: a step moves only the rows of an embedding table that it reads, so that its time
            does not grow with the table; a little other than Adam.
    """

    REFUSAL: ClassVar[str] = "it does not learn by Adam, or each step of it reads every row"

    lazy_adam: bool = False


class RowState(HyperParameters):
    """For a model that learns a table of all fields by Adam.

    Attributes:
        row_adagrad: the table is learnt by Adagrad with one number a row beside it, where Adam
            keeps two for each of its own; the other weights by Adam as ever. Its steps shrink, so
            that a larger learning_rate suits it.
    """

    REFUSAL: ClassVar[str] = "it has no table of all fields that Adam learns"

    row_adagrad: bool = False


class SharedRows(HyperParameters):
    """For a model whose table has a row for every value of every field.

    Attributes:
        hash_rows: ids and features whose values share so many rows, each value two of them by two
            hashes, whose sum it is; so its table stays as small however many values there are. Of
            a feature no vocabulary is kept then: a value that train has not seen has two rows too.
            An id is looked up in its vocabulary as ever, and shares rows where that is larger.
    """

    REFUSAL: ClassVar[str] = "it has no table of all fields, whose values could share rows"

    hash_rows: dict[str, int] = pydantic.Field({}, examples=[{"item_ad": 1_000_000}])

    @pydantic.field_validator("hash_rows")
    @classmethod
    def _some_rows(cls, value: dict[str, int]) -> dict[str, int]:
        for rows in value.values():
            _at_least_one(rows)
        return value

    def named_columns(self) -> Iterator[tuple[str, str]]:
        yield from super().named_columns()
        yield from (("hash_rows", name) for name in self.hash_rows)


class MixedPrecision(HyperParameters):
    """For a model that has matrix products to compute in half precision.

    Attributes:
        mixed_precision: compute in bfloat16, keep variables in float32; on a processor it is
            for those that multiply bfloat16, such as avx512_bf16 among the flags of lscpu.
    """

    REFUSAL: ClassVar[str] = "it has no layers that compute in half precision"

    mixed_precision: bool = False


class Xla(HyperParameters):
    """For a model whose train step XLA can compile.

    Attributes:
        jit_compile: compile the train step with XLA, once for each of the few shapes that batches
            are then filled up to.
    """

    REFUSAL: ClassVar[str] = "it has no train step that XLA can compile"

    jit_compile: bool = False


class Forgetting(HyperParameters):
    """For a model that learns what to answer for an id that it does not know.

    Attributes:
        unknown_rate: share of train rows whose id is replaced by the unknown id, so that its row is
            trained.
    """

    REFUSAL: ClassVar[str] = "it makes no id unknown in training"

    unknown_rate: float = 0.02

    @pydantic.field_validator("unknown_rate")
    @classmethod
    def _share(cls, value: float) -> float:
        if not 0 <= value < 1:
            raise ValueError("must be at least 0 and less than 1")
        return value


class Lists(HyperParameters):
    """For a `score` model that can learn the order of the rows of a group (`label.group`).

    Attributes:
        list_loss: `lambda_rank` or `softmax` (`models.measures.lists`); None: each row by itself.
    """

    REFUSAL: ClassVar[str] = "it learns each row by itself"

    list_loss: Literal["lambda_rank", "softmax"] | None = None


COMMON: dict[str, type[HyperParameters]] = {
    name: group
    for group in (
        Ranking,
        Epochs,
        Gradient,
        LazyAdam,
        RowState,
        SharedRows,
        MixedPrecision,
        Xla,
        Forgetting,
        Lists,
    )
    for name in group.model_fields
}
"""Common setting -> its group."""

USUAL = {
    "factors": "numbers that an id is made of",
    "embedding_dim": "numbers that an id or a query is made of",
    "embedding": "the same",
    "feature_dim": "numbers that a value of a feature is made of",
    "hidden": "width of the hidden layer, or of each of them",
    "units": "width of the recurrent layer",
    "l2": "weight of the squared weights in the loss (what exactly is penalised: the model's file)",
    "l1": "weight of the absolute weights in the loss",
    "dropout": "share of a layer's inputs that a step leaves out",
    "dropout_hidden": "share of the recurrent layer's outputs that a step leaves out",
    "dropout_embedding": "share of the item vectors that a step leaves out",
    "negatives": "items drawn against each positive",
    "history_length": "the newest items of a history that are read",
    "stddev": "deviation of the initial weights",
    "temperature": "scores are divided by it before the softmax",
    "variant": "which of the paper's models",
    "loss": "what is minimised",
    "activation": "of the hidden layers",
    "optimizer": "what takes the steps",
}
"""What settings that several models have by the same name mean, where a model says nothing else."""

_OFF: dict[str, Any] = {
    "monitor": None,
    "lazy_adam": False,
    "row_adagrad": False,
    "hash_rows": {},
    "mixed_precision": False,
    "jit_compile": False,
    "unknown_rate": 0.0,
    "list_loss": None,
}


_Own = TypeVar("_Own", bound=HyperParameters)


def resolve(model: str, declared: type[_Own], overrides: Mapping[str, Any]) -> _Own:
    """Returns the hyper-parameters of a model.

    Args:
        model: its name.
        declared: its class `HyperParameters`.
        overrides: name -> value of what is not to stay as the model's defaults have it.

    Raises:
        ConfigError: a common setting that the model has no use for, an unknown name (the message
            has the nearest), or a value that is refused.
    """
    for name in overrides:
        if name not in declared.model_fields and name in COMMON:
            raise ConfigError(f"{model} has no use for {name!r}: {declared.refusal(name)}")
        if name not in declared.model_fields:
            raise ConfigError(
                f"{model} has no hyper-parameter {name!r}{nearest(name, declared.model_fields)}"
            )
    try:
        return declared(**overrides)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{model}: hyper-parameter {place}: {first['msg']}; received {first['input']!r}"
        ) from None


def _at_least_one(value: int) -> int:
    if value < 1:
        raise ValueError("must be at least 1")
    return value
