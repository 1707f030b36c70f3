"""The rules of a request, of items that a model does not know: by what was told of them.

The model's own are judged in its graph; what is written here is what `serving/README.md` says under
Rules, of one item at a time. A request that comes so far was read by the model, which refuses what
is no condition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from serving.state import Item

_CONDITION = re.compile(r"\s*(not\s+)?(.+?)\s*(<=|>=|=|<|>|\sin\s)\s*(.*\S)\s*", re.ASCII)
_BOOST = re.compile(r"(.+) => *([*+-]) *(\d*\.?\d+(?:[eE][+-]?\d+)?)\s*", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_PROTECTED = (("\\\\", "\x01", "\\"), ("\\|", "\x02", "|"), ("\\or", "\x03", "or"))
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": lambda own, bound: own < bound,
    "<=": lambda own, bound: own <= bound,
    ">": lambda own, bound: own > bound,
    ">=": lambda own, bound: own >= bound,
}


class Judge:
    """Which of E items the conditions of requests hold of.

    Args:
        items: with what was told of them.
    """

    def __init__(self, items: Sequence[Item]):
        self._items = items
        self._ids = np.array([item.item_id for item in items], object)
        self._held: dict[str, np.ndarray] = {}

    def qualifies(self, allow: Sequence[bytes], where: Sequence[bytes]) -> np.ndarray:
        """[E] bool: which one request takes, by its rules of these names; b"" is none."""
        allowed = [item for item in allow if item]
        taken = np.isin(self._ids, allowed) if allowed else np.ones(len(self._ids), bool)
        for condition in filter(None, where):
            taken = taken & self._holds(_text(condition))
        return taken

    def boosts(self, boost: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """[E] float32 factors of one request, and [E] what it adds."""
        factor, added = np.ones(len(self._ids), np.float32), np.zeros(len(self._ids), np.float32)
        for one in filter(None, boost):
            found = _BOOST.fullmatch(_text(one))
            if found is None:  # the model has refused it
                continue
            condition, sign, number = found.groups()
            of, amount = self._holds(condition), np.float32(number)
            if sign == "*":
                factor[of] *= amount
            else:
                added[of] += amount if sign == "+" else -amount
        return factor, added

    def _holds(self, condition: str) -> np.ndarray:
        if condition not in self._held:
            if len(self._held) >= 1000:  # a client chooses how many there are
                self._held.clear()
            self._held[condition] = np.array([holds(condition, item) for item in self._items], bool)
        return self._held[condition]


def boosted(scores: np.ndarray, factor: np.ndarray, added: np.ndarray) -> np.ndarray:
    """Scores after boosts; all of one shape."""
    return np.where(scores >= 0, scores * factor, scores / factor) + added


def holds(condition: str, item: Item) -> bool:
    """Whether a condition holds of an item, by what was told of it.

    A number that was told is compared as one with `=` and `in`, a string as it is written.
    """
    return any(_term_holds(term, item) for term in condition.split(" or "))


def _term_holds(term: str, item: Item) -> bool:
    found = _CONDITION.fullmatch(term)
    if found is None:
        return False
    negated, name, operator, value = found.groups()
    told = _told(item, name)
    if operator in _COMPARE:
        bound = _number(value)
        taken = any(_COMPARE[operator](_number(own), bound) for own in told)
    else:
        wanted = _split(value, operator != "=")
        taken = any(_equal(own, one) for own in told for one in wanted)
    return taken != bool(negated)


def _told(item: Item, name: str) -> list:
    for column in (name, name.removeprefix("item_"), f"item_{name}"):
        if column in item.features:
            value = item.features[column]
            return value if isinstance(value, list) else [value]
    return []


def _equal(own: str | float, value: str) -> bool:
    return own == value if isinstance(own, str) else own == _number(value)


def _number(value: str | float) -> float:
    """NaN, which no comparison takes, where it is none."""
    if not isinstance(value, str):
        return float(value)
    return float(value) if _NUMBER.fullmatch(value) else math.nan


def _split(value: str, by_bars: bool) -> list[str]:
    for sign, place, _ in _PROTECTED:
        value = value.replace(sign, place)
    values = value.split("|") if by_bars else [value]
    for _, place, plain in _PROTECTED:
        values = [one.strip().replace(place, plain) for one in values]
    return values


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
