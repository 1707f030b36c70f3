"""The facts of a whole log, for a split that must know them, gathered with Beam."""

from collections.abc import Callable
from operator import attrgetter

import apache_beam as beam

from components.build.config import SplitConfig
from components.build.splits import (
    gather_facts,
    merge_facts,
    merge_times,
    near_cuts,
    refined,
)
from components.tables.merging import Merging

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
        | "AllFacts" >> beam.CombineGlobally(Merging(merge_facts, attrgetter("size"), _WAITING))
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
