"""Why an item is answered, in words: a line an item, and what the numbers in it are."""

from collections.abc import Iterable, Mapping

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
    fields = [f"{name} {part:+.2g}" for name, part in reasons.fields[:_SHOWN]]
    return "; ".join(filter(None, (said or "no one item", ", ".join(fields))))


def meaning(answered: Iterable[Reasons]) -> str:
    """What the numbers in the lines of one answer are."""
    bases = dict.fromkeys(each.basis for each in answered)
    said = [EXPLANATIONS[basis] for basis in bases if basis in EXPLANATIONS]
    return "; ".join(said) or "none"


def _weight(weight: float) -> str:
    return f"{weight:#.2g}".rstrip(".")
