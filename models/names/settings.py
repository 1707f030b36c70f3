"""Settings: what a user may configure, declared once, by the room that uses it.

A run file nests these very classes, and so do the parameters of a component, as JSON. A value that
is refused is a `ConfigError` that names the key, what is required, what was received and, where a
name was misspelt, the nearest one.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, TypeVar, get_args

import pydantic

from models.names.errors import ConfigError, nearest

_Own = TypeVar("_Own", bound="Settings")


class Settings(pydantic.BaseModel):
    """Base of all settings: unknown keys are refused, and nothing changes once it is made.

    A check of several keys together raises a ValueError whose message begins with the name of the
    key that has to change.

    Attributes:
        SECTION: what the settings are called in a run file, and so in front of their keys in
            messages.
        CHOICE: the key that chooses which of the others are read, where there is one.
        READ_BY: key -> the choices that read it. With another choice a value other than the default
            is refused; the default is not, as a resolved run holds every key.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    SECTION: ClassVar[str] = ""
    CHOICE: ClassVar[str] = ""
    READ_BY: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @pydantic.model_validator(mode="after")
    def _is_read(self: _Own) -> _Own:
        for key, readers in self.READ_BY.items():
            value, chosen = getattr(self, key), getattr(self, self.CHOICE)
            if chosen not in readers and value != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key} belongs to {self.SECTION}.{self.CHOICE} "
                    f"{' or '.join(map(repr, readers))}; "
                    f"received {value!r} with {chosen!r}, which takes no notice of it: leave one "
                    "of the two out"
                )
        return self

    @classmethod
    def parse(cls: type[_Own], values: Mapping[str, Any] | None, source: str = "") -> _Own:
        """Checks and takes over a mapping.

        Args:
            values: key -> value; what is left out has its default.
            source: what they come from, such as a file; said first in a message.

        Raises:
            ConfigError: an unknown key or a value that is refused.
        """
        try:
            return cls.model_validate(dict(values or {}))
        except pydantic.ValidationError as error:
            where = f"{source}: " if source else ""
            raise ConfigError(where + _explain(error, cls)) from None


def _share(value: Any, check: pydantic.ValidatorFunctionWrapHandler) -> float:
    try:
        number: float = check(value)
    except pydantic.ValidationError:
        number = -1.0
    if isinstance(value, bool) or not 0 <= number <= 1:
        raise ValueError("must be a share in [0, 1]")
    return number


Share = Annotated[float, pydantic.WrapValidator(_share)]
"""A number from 0 to 1."""

Names = Annotated[
    tuple[str, ...],
    pydantic.BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]
"""Several names; a single one needs no brackets."""


def _explain(error: pydantic.ValidationError, settings: type[Settings]) -> str:
    """The first error of a validation: key, what is required, what was received."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join([settings.SECTION, *location] if settings.SECTION else location)
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if first["type"] == "extra_forbidden":
        holder = _settings_at(settings, location[:-1])
        fields = holder.model_fields if holder else {}
        names = [field.alias or name for name, field in fields.items()]
        return f"unknown key {key!r}{nearest(location[-1], names)}"
    if first["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        hint = nearest(str(first["input"]), choices)
        return f"{key}: unknown value; received {first['input']!r}{hint}"
    if first["type"] == "value_error" and _settings_at(settings, location):
        return f"{key}.{message}" if key else message
    return f"{key}: {message}; received {first['input']!r}"


def _settings_at(
    settings: type[pydantic.BaseModel], location: Iterable[str]
) -> type[pydantic.BaseModel] | None:
    """The settings that are declared at a place of others; None where a plain value is."""
    for part in location:
        field = settings.model_fields.get(part)
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        nested = [kind for kind in kinds if isinstance(kind, type)]
        nested = [kind for kind in nested if issubclass(kind, pydantic.BaseModel)]
        if not nested:
            return None
        settings = nested[0]
    return settings
