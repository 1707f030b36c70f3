"""Why an item is answered, in words: a line an item, and what the numbers in it are."""

from collections.abc import Iterable, Mapping, Sequence

from models.names.registry import EXPLANATIONS
from serving.client.messages import Reasons

_SHOWN = 3
_FIXED = {"popularity": "popular", "pin": "pinned", "none": "not said"}


def line(reasons: Reasons, titles: Mapping[str, str]) -> str:
    """One short line.

    Args:
        reasons: of an item.
        titles: of the items that have one.
    """
    if reasons.basis in _FIXED:
        said = _FIXED[reasons.basis]
    elif reasons.basis == "segment":
        said = ", ".join(f"popular where {segment}" for segment, _ in reasons.parts)
    else:
        parts = reasons.parts[:_SHOWN]
        said = ", ".join(f"{titles.get(item, item)} ({_weight(part)})" for item, part in parts)
    return "; ".join(filter(None, (said or "no one item", moved(reasons.fields))))


def moved(fields: Sequence[tuple[str, float]]) -> str:
    """The fields that moved a score most, and how far."""
    return ", ".join(f"{name} {_weight(part, '+')}" for name, part in fields[:_SHOWN])


def meaning(bases: Iterable[str]) -> str:
    """What the numbers in the lines of one answer are, by their bases."""
    said = [EXPLANATIONS[basis] for basis in dict.fromkeys(bases) if basis in EXPLANATIONS]
    return "; ".join(said) or "none"


def _weight(weight: float, sign: str = "-") -> str:
    return f"{weight:{sign}#.2g}".rstrip(".")
