"""The facts of a whole log, for a split that must know them, gathered with Beam."""

from collections.abc import Callable, Iterable
from itertools import chain

import apache_beam as beam

from components.build.config import SplitConfig
from components.build.splits import (
    Facts,
    gather_facts,
    merge_facts,
    merge_times,
    near_cuts,
    refined,
)

_WAITING = 1 << 20
"""Values of facts that are merged at once, at least."""


def facts_of(
    batches: beam.PCollection,
    again: Callable[[], beam.PCollection],
    config: SplitConfig,
) -> beam.PCollection:
    """The one `Facts` of a log.

    Args:
        batches: of its events.
        again: makes the same once more, of which the times are read alone. Only cuts in time need
            them: so many times as a log may have are not held, but counted by spans, of which those
            with a cut are looked at again.
        config: the split.
    """
    facts = (
        batches
        | "Facts" >> beam.Map(gather_facts, config)
        | "AllFacts" >> beam.CombineGlobally(_Merge())
    )
    if config.name != "temporal":
        return facts
    near = (
        again()
        | "NearCuts" >> beam.Map(near_cuts, beam.pvalue.AsSingleton(facts), config)
        | "AllNear" >> beam.CombineGlobally(merge_times)
    )
    return facts | "Refine" >> beam.Map(refined, beam.pvalue.AsSingleton(near))


def facts_of_kept(shards: beam.PCollection, config: SplitConfig) -> beam.PCollection:
    """The one `Facts` of events that are kept shard by shard, as of `components.tables.shards`."""

    def tables(name: str) -> beam.PCollection:
        return shards | name >> beam.Map(lambda shard: shard[1].read())

    return facts_of(tables("Tables"), lambda: tables("TablesAgain"), config)


class _Merge(beam.CombineFn):
    """`merge_facts` of as many as are merged already: a value is moved a few times only."""

    def create_accumulator(self) -> list[Facts]:
        return []

    def add_input(self, parts: list[Facts], facts: Facts) -> list[Facts]:
        parts.append(facts)
        waiting = sum(part.size for part in parts[1:])
        return parts if waiting < max(_WAITING, parts[0].size) else self.compact(parts)

    def merge_accumulators(self, accumulators: Iterable[list[Facts]]) -> list[Facts]:
        return list(chain.from_iterable(accumulators))

    def compact(self, parts: list[Facts]) -> list[Facts]:
        return [merge_facts(parts)]

    def extract_output(self, parts: list[Facts]) -> Facts:
        return merge_facts(parts)
