"""Many values merged into one, some at a time."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import apache_beam as beam


class Merging(beam.CombineFn):
    """Merges as many as are merged already: a value is moved a few times only.

    Args:
        merge: makes one value of several.
        size: of a value.
        waiting: how large the values that are merged at once are together, at least.
    """

    def __init__(self, merge: Callable[[list[Any]], Any], size: Callable[[Any], int], waiting: int):
        self._merge, self._size, self._waiting = merge, size, waiting

    def create_accumulator(self) -> list[Any]:
        return []

    def add_input(self, parts: list[Any], part: Any) -> list[Any]:
        parts.append(part)
        waiting = sum(map(self._size, parts[1:]))
        return parts if waiting < max(self._waiting, self._size(parts[0])) else self.compact(parts)

    def merge_accumulators(self, accumulators: Iterable[list[Any]]) -> list[Any]:
        return list(chain.from_iterable(accumulators))

    def compact(self, parts: list[Any]) -> list[Any]:
        return [self._merge(parts)]

    def extract_output(self, parts: list[Any]) -> Any:
        return self._merge(parts)
