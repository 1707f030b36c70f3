"""Every key of a run file, out of the classes that declare it: on the terminal and as a page.

The page is MANUAL.md: `recsys config --page > MANUAL.md`.
"""

import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal

import pydantic
import yaml

from models.names import declared
from models.names.hyper_parameters import COMMON, USUAL, HyperParameters
from pipeline.config import RunConfig

_KINDS = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    dict: "mapping",
    tuple: "list",
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}

REQUESTS = (
    ("recommend", "user_id", "[B] strings", "who asks; an id that nobody knows is answered too"),
    ("", "history", "[B, H] strings", "what the user had beyond the log, oldest first; `[[]]`"),
    ("", "exclude", "[B, E] strings", "what must not come back; `[[]]`"),
    ("", "k", "[B] whole numbers", "how many items, a list like the others: one number a request"),
    (
        "recommend_events",
        "event_types",
        "[B, H] strings",
        "what was done with each item of history",
    ),
    ("", "dwell", "[B, H] seconds", "for how long"),
    ("", "timestamps", "[B, H] seconds", "when, since 1970"),
    ("", "the columns of features.context", "[B]", "the moment in which is asked, by their names"),
    (
        "recommend_explained",
        "reasons",
        "[B] whole numbers",
        "how many reasons an item has; beside what recommend_rules takes",
    ),
    ("similar", "item_id", "[B] strings", "like which items; an id that nobody knows gets none"),
    ("", "exclude", "[B, E] strings", "what is not answered; `[[]]`"),
    ("", "k", "[B] whole numbers", "how many items, or one number for all"),
    ("", "allow", "[B, A] strings", "nothing else is answered; `[[]]`"),
    ("", "where", "[B, W] strings", "conditions on the items' columns; `[[]]`"),
    ("rank", "user_id", "[B] strings", "whose items; the features come from the users table"),
    ("", "item_id", "[B, C] strings", 'what to score, "" for none; features as of the items table'),
    ("rank_told", "the columns of context", "[B]", "beside those of rank, all of them"),
    ("score", "the features by name", "[B]", 'raw values; "" or NaN where missing'),
)
"""Signature, input, shape and meaning of what a request may hold."""


@dataclass(frozen=True)
class Key:
    """A key of a run file.

    Attributes:
        name: dotted, as `--set` takes it.
        kind: what its value is.
        default: what it is where the file does not say.
        meaning: one sentence or more.
        example: as YAML, on one line.
    """

    name: str
    kind: str
    default: str
    meaning: str
    example: str


def keys() -> list[Key]:
    """Every key of a run, the common hyper-parameters among them."""
    found = []
    for key in of(RunConfig):
        found.append(key)
        if key.name == "hyper_parameters":
            for group in dict.fromkeys(COMMON.values()):
                found += of(group, "hyper_parameters.")
    return found


def of_model(name: str) -> list[Key]:
    """The hyper-parameters of a model, its own first.

    Raises:
        ConfigError: no such model.
    """
    found = list(of(declared.hyper_parameters(name), "hyper_parameters."))
    return sorted(found, key=lambda key: key.name.rpartition(".")[2] in COMMON)


def of(settings: type[pydantic.BaseModel], before: str = "") -> Iterator[Key]:
    """The keys that a class declares, and those of the classes that it nests.

    Args:
        settings: the class; its docstring has a line an attribute.
        before: what stands before the names.
    """
    usual = USUAL if issubclass(settings, HyperParameters) else {}
    meanings = {**usual, **_attributes(settings)}
    for attribute, field in settings.model_fields.items():
        name = before + (field.alias or attribute)
        kinds = [kind for kind in _parts(field.annotation) if kind is not NoneType]
        is_class = inspect.isclass(kinds[0]) and typing.get_origin(kinds[0]) is None
        if is_class and issubclass(kinds[0], pydantic.BaseModel):
            yield from of(kinds[0], f"{name}.")
        else:
            readers = getattr(settings, "READ_BY", {}).get(attribute, ())
            chosen = {f"{before}{settings.CHOICE}": readers[0]} if readers else {}
            meaning = meanings.get(attribute, "").rstrip(".")
            yield Key(
                name,
                _kind(field, kinds),
                "required" if field.is_required() else _value(field.default),
                meaning[:1].upper() + meaning[1:],
                _example(name, field, kinds, chosen),
            )


def text(found: list[Key] | None = None) -> str:
    """Keys, for a terminal; left out, those of a run file."""
    lines = []
    for key in keys() if found is None else found:
        lines += [f"{key.name}  ({key.kind}; default {key.default})", f"    {key.meaning}"]
        lines += [f"    {key.example}", ""]
    return "\n".join(lines)


def page() -> str:
    """The manual as Markdown."""
    from models.names.registry import MODELS

    parts = [
        "# The manual",
        "Written by `recsys config --page` from the classes that declare the keys: change those.",
        "## A run file",
        "`recsys run --config FILE`, and `--set KEY=VALUE` for one key, in which "
        "`hyper_parameters.` may be left out. Values are YAML.",
        _markdown(keys()),
        "## The hyper-parameters of each model",
        "Beside the common ones above, of which a model refuses those that it has no use for; "
        "its own defaults stand here. `recsys config MODEL` prints them.",
    ]
    for name, entry in MODELS.items():
        own = [key for key in of_model(name) if _is_own(key)]
        parts += [f"### {name}", f"{entry.title}: {entry.paper}. {_prose(name)}".strip()]
        parts += [_markdown(own)] if own else []
    parts += [
        "## What a request may hold",
        "The inputs of a signature come together, and each is a list with one entry a request "
        "(B of them); `recommend_examples` takes the same as tf.Examples, in which all but "
        "`user_id` may be left out and `k` is one number. More: serving/README.md.",
        "| signature | input | shape | meaning |\n|---|---|---|---|\n"
        + "\n".join(
            f"| {f'`{signature}`' if signature else ''} | {name} | {shape} | {meaning} |"
            for signature, name, shape, meaning in REQUESTS
        ),
        '    curl -d \'{"signature_name": "recommend", "inputs": {"user_id": ["42"], '
        '"history": [["50"]], "exclude": [[]], "k": [10]}}\' '
        "http://127.0.0.1:8501/v1/models/recsys:predict",
        "## Layouts of data folders",
        "The first whose files are there is taken; `data.reader` names one.",
        "| reader | what it reads |\n|---|---|\n"
        + "\n".join(f"| {name} | {what} |" for name, what in layouts()),
    ]
    return "\n\n".join(parts) + "\n"


def layouts() -> list[tuple[str, str]]:
    """Every reader by its name, and what it reads."""
    from components.read.layouts.detection import LAYOUTS

    return [
        (name, " ".join((inspect.getdoc(plan) or "").split("\n\n")[0].split()))
        for name, (_, plan) in LAYOUTS.items()
    ]


def _prose(model: str) -> str:
    """What the docstring of a model's settings says before it comes to them one by one."""
    said = inspect.getdoc(declared.hyper_parameters(model)) or ""
    return " ".join(said.partition("Attributes:")[0].split())


def _is_own(key: Key) -> bool:
    """Whether a model declares a hyper-parameter itself, or gives it another default."""
    name = key.name.rpartition(".")[2]
    if name not in COMMON:
        return True
    return key.default != _value(COMMON[name].model_fields[name].default)


def _markdown(found: list[Key]) -> str:
    lines = ["| key | value | default | meaning | example |", "|---|---|---|---|---|"]
    for key in found:
        cells = (f"`{key.name}`", key.kind, key.default, key.meaning, f"`{key.example}`")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _attributes(settings: type[pydantic.BaseModel]) -> dict[str, str]:
    """Attribute -> its lines in the docstrings of a class and of those that it inherits from."""
    found: dict[str, str] = {}
    for one in reversed(settings.__mro__):
        _, _, section = (inspect.cleandoc(one.__doc__ or "")).partition("Attributes:\n")
        for entry in re.split(r"\n(?=    \w)", "\n" + section):
            name, colon, meaning = entry.strip().partition(": ")
            if colon:
                found[name] = " ".join(meaning.split("\n\n")[0].split())
    return found


def _parts(annotation: Any) -> list[Any]:
    """The types of a union; those of anything else are itself."""
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        return [part for one in typing.get_args(annotation) for part in _parts(one)]
    if typing.get_origin(annotation) is typing.Annotated:
        return _parts(typing.get_args(annotation)[0])
    return [annotation]


def _kind(field: Any, kinds: list[Any]) -> str:
    words = []
    for kind in kinds:
        origin = typing.get_origin(kind)
        if origin is Literal:
            words.append("one of " + ", ".join(map(str, typing.get_args(kind))))
        else:
            words.append(_KINDS.get(origin or kind, str(kind)))
    for one in field.metadata:
        for bound, word in _BOUNDS.items():
            if hasattr(one, bound):
                words[-1] += f", {word} {getattr(one, bound)}"
    return " or ".join(words)


def _value(value: Any) -> str:
    """A value on one line of YAML; what is empty is said in a word."""
    if value is None or value == "" or value == () or value == {} or value == []:
        return "none"
    if isinstance(value, tuple):
        value = list(value)
    dumped: str = yaml.safe_dump(
        value, default_flow_style=True, width=10_000, allow_unicode=True
    ).strip()
    return dumped.removesuffix("...").strip()


def _example(name: str, field: Any, kinds: list[Any], chosen: Mapping[str, Any]) -> str:
    """The field's own example, or a value other than the default where there is a plain one.

    Args:
        name: dotted, as are the names of `chosen`.
        field: of pydantic.
        kinds: its types.
        chosen: what a run must say besides for the key to be read.
    """
    value = field.default
    if field.examples:
        value = field.examples[0]
    elif typing.get_origin(kinds[0]) is Literal:
        value = next(one for one in typing.get_args(kinds[0]) if one != field.default)
    elif isinstance(value, bool):
        value = not value
    nested: dict[str, Any] = {}
    for key, one in {**chosen, name: list(value) if isinstance(value, tuple) else value}.items():
        *sections, last = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = one
    return _value(nested).removeprefix("{").removesuffix("}")
