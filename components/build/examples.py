"""Tables to examples with Beam, in shards of users.

The log is sharded by user, and each shard is split, joined and written in one go (see
`components.tables.shards`).

What a shard must know of the rest of the log (time cuts, item counts, the item table) comes to it
as side inputs.
"""

import math
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from components.build import (
    checks,
    documents,
    domains,
    groups,
    labels,
    rows,
    selection,
    session_queries,
)
from components.build.config import SCHEMA_FILE, SOURCE, SPLITS, WALKS, BuildConfig, SplitConfig
from components.build.report import write_report
from components.build.splits import SOURCE as FROM_SOURCE
from components.build.splits import (
    TEST,
    TRAIN,
    UNUSED,
    VALID,
    Facts,
    Log,
    given_in,
    make_log,
    read_given,
)
from components.build.walks import WriteWalks
from components.build.whole_log import facts_of, facts_of_kept
from components.tables import artifacts, records, schemas
from components.tables.columns import columns_of, concatenated
from components.tables.hashing import shard_of
from components.tables.shards import ROWS_A_SHARD, Kept, ReadBatches, Shard, gather, keep
from models.names.features import REVIEW
from models.names.label import WEIGHT


def build(
    make_pipeline: Callable[[], beam.Pipeline],
    inputs: Mapping[str, str],
    examples: str,
    schema: str,
    curated: str,
    config: BuildConfig,
    rows_a_shard: int = ROWS_A_SHARD,
) -> dict[str, Any]:
    """Builds the examples and the schema of the train rows.

    Args:
        make_pipeline: gives the Beam pipeline to run in.
        inputs: table -> folder of its artifact.
        examples: folder of the Examples artifact to write.
        schema: folder of the Schema artifact to write.
        curated: folder of the curated table schemas.
        config: what to build.
        rows_a_shard: about how many events one worker holds at a time.

    Returns:
        The report, which also lies at `<examples>/report.json`: rows and users a split, what was
        dropped and why, and the columns of each split with their kinds.

    Raises:
        DataError: the events lack a column that the split or label needs, there are more items than
            the model can take, or a split comes out empty.
    """
    columns = {table: artifacts.table_columns(uri) for table, uri in inputs.items()}
    selected = checks.selected_columns(columns["events"], config)
    checks.check_columns(selected, config)
    has_documents = config.task == "score" and REVIEW in columns["events"]
    if has_documents:
        checks.check_document_columns(columns)
    if config.split.file:
        read_given(config.split.file)  # here, for Beam would wrap a worker's error in its own
    files = {
        table: records.shards(artifacts.split_folder(uri, artifacts.ALL))
        for table, uri in inputs.items()
    }
    shards = max(
        1,
        math.ceil(_row_count(inputs["events"], files["events"], columns["events"]) / rows_a_shard),
    )
    split, chosen = config.split, None
    if config.selects:
        chosen = selection.select(
            make_pipeline, files["events"], columns["events"], config, shards, examples
        )
        columns["events"] = selected

    with make_pipeline() as pipeline:
        facts, event_shards = _events(pipeline, files, columns, config, shards, examples, chosen)
        facts = facts | "CheckFacts" >> beam.Map(checks.check_facts, split)
        users = pipeline | "Users" >> ReadBatches(files["users"], columns["users"])
        item_batches = pipeline | "Items" >> ReadBatches(files["items"], columns["items"])
        items = beam.pvalue.AsList(item_batches)
        sharded = {
            "events": event_shards,
            "users": users | "ShardUsers" >> Shard(shards, examples),
        } | "Together" >> beam.CoGroupByKey()
        parted = sharded | "Split" >> beam.FlatMap(
            lambda shard, facts: _split(shard, facts, config, columns, examples),
            beam.pvalue.AsSingleton(facts),
        ).with_outputs(_COUNTS, main="logs")
        logs = parted.logs
        counts = beam.pvalue.AsSingleton(
            parted[_COUNTS]
            | "AllCounts" >> beam.CombineGlobally(rows.merge_counts)
            | "CheckItems" >> beam.Map(checks.check_items, config)
        )
        built = logs | "Build" >> beam.Map(
            lambda shard, items, counts: _build(
                shard, items, counts, columns["items"], config, has_documents, examples
            ),
            items,
            counts,
        )
        item_shards = {
            "items": item_batches | "ShardItems" >> Shard(shards, examples, "item_id"),
            "every": pipeline | "EveryShard" >> beam.Create([(n, None) for n in range(shards)]),
        }
        if has_documents:
            item_shards["reviews"] = (
                logs
                | "Reviews" >> beam.Map(lambda shard: documents.train_reviews(_log_of(shard)))
                | "ShardReviews" >> Shard(shards, examples, "item_id")
            )
        written_items = (
            item_shards
            | "ItemsTogether" >> beam.CoGroupByKey()
            | "BuildItems"
            >> beam.Map(
                lambda shard, counts, facts: _build_items(
                    shard, shards, counts, facts, columns["items"], split, has_documents, examples
                ),
                counts,
                beam.pvalue.AsSingleton(facts),
            )
        )
        walked = []
        if config.walks.on_graph:
            # Walks are a split of their own and do not replace the train rows, which counts and
            # vocabularies are made of.
            folder = artifacts.split_folder(examples, WALKS)
            walks = WriteWalks(config.walks, folder, split.by_session)
            walked = [beam.pvalue.AsSingleton(logs | "Logs" >> beam.Map(_log_of) | walks)]
        _ = (
            pipeline
            | "Once" >> beam.Create([None])
            | "Report"
            >> beam.Map(
                lambda _, facts, built, items, *walked: write_report(
                    built,
                    items,
                    walked,
                    config,
                    examples,
                    chosen.report if chosen else {},
                    facts.domains,
                ),
                beam.pvalue.AsSingleton(facts),
                beam.pvalue.AsList(built),
                beam.pvalue.AsList(written_items),
                *walked,
            )
        )
    records.remove_staging(examples)
    report = records.read_json(posixpath.join(examples, records.REPORT))
    checks.check_report(report, config)
    if config.label:
        asked = ("train",) if config.everything else ("train", "test")
        labels.check(report["labels"], config.label, asked)
    text = schemas.to_text(
        schemas.train_schema(
            report["columns"]["train"],
            schemas.origins(columns),
            schemas.read_schemas(curated),
            columns,
            config.context,
        )
    )
    records.write_text(posixpath.join(schema, SCHEMA_FILE), text)
    records.remove_staging(schema)
    return report


def _events(
    pipeline: beam.Pipeline,
    files: Mapping[str, list[str]],
    columns: Mapping[str, Mapping[str, str]],
    config: BuildConfig,
    shards: int,
    folder: str,
    chosen: selection.Selection | None,
):
    """The facts, and the shards of users of the events that are split.

    Both are of the same events unless filters have left some out that a border in the log was found
    by.
    """
    if chosen is None:
        events = pipeline | "Events" >> ReadBatches(files["events"], columns["events"])

        def again() -> beam.PCollection:
            times = {"timestamp": columns["events"]["timestamp"]}
            return pipeline | "Times" >> ReadBatches(files["events"], times)

        facts = facts_of(events, again, config.split)
        return facts, events | "ShardEvents" >> Shard(shards, folder)
    of_facts = chosen.before if SPLITS[config.split.name].has_border else chosen.after
    facts = facts_of_kept(pipeline | "Events" >> beam.Create(of_facts), config.split)
    return facts, pipeline | "Chosen" >> beam.Create(chosen.after)


@dataclass
class _Parted:
    """The users of a shard, split."""

    log: Log
    users: pa.Table


def _log_of(shard: tuple[int, Kept]) -> Log:
    return shard[1].read().log


def _split(
    element,
    facts,
    config: BuildConfig,
    columns: Mapping[str, Mapping[str, str]],
    folder: str,
) -> Iterator:
    number, grouped = element
    events, users = (gather(grouped[table], columns[table]) for table in ("events", "users"))
    # Batches come in any order; sorted, equal input gives equal output.
    users = users.take(pa.array(np.argsort(users.column("user_id").to_numpy(), kind="stable")))
    log = make_log(events, config.split, facts, config.everything)
    log = groups.whole(log, config.label.group if config.label else None)
    yield beam.pvalue.TaggedOutput(_COUNTS, rows.count_items(log))
    yield from keep([(number, _Parted(log, users))], folder)


def _build(
    shard: tuple[int, Kept],
    items: list[pa.Table],
    counts: rows.Popularity,
    item_columns: Mapping[str, str],
    config: BuildConfig,
    has_documents: bool,
    folder: str,
) -> dict[str, Any]:
    number, parted = shard[0], shard[1].read()
    log, split = parted.log, config.split
    if not config.weighs and WEIGHT in log.table.column_names:
        # The log's own column of that name, which the run does not ask for.
        log = replace(log, table=log.table.drop([WEIGHT]))
    dropped: dict[str, dict[str, int]] = {name: {} for name, _ in _PARTS}
    source = None
    if split.has_source:
        # From here on the log is the target's, as if there were no other domain.
        dropped[SOURCE] = {"events of other domains": int((log.split == UNUSED).sum())}
        log, source = _parted(log)
    # Before events without a label are left out: they happened all the same.
    firsts = groups.starts(log, config.label.group if config.label else None)
    log = rows.with_point_in_time(log, config.point_in_time, firsts)
    log, unknown = rows.with_known_targets(log, counts, config)
    if config.label:
        log, labelled = labels.with_label(log, config.label)
        for name, _ in _PARTS:
            dropped[name] = {"events without a label": labelled["splits"][name]["missing"]}
        source = labels.with_label(source, config.label)[0] if source else None
    item_side = rows.Side(concatenated(items, item_columns), "item_id")
    user_side = rows.Side(parted.users, "user_id")
    train = log.split == TRAIN
    if config.kind == "event":
        made = {"train": rows.event_rows(log, train, item_side, user_side)}
    else:
        by_session = split.by_session and config.kind in ("sequence", "walk")
        features = item_side if config.item_features else None
        made = {"train": rows.list_rows(log, train, user_side, by_session, features)}
    for name, part in (("valid", VALID), ("test", TEST)):
        if config.task == "score":
            made[name] = rows.score_rows(log, part, item_side, user_side, counts)
        elif split.asks_sessions:
            made[name], dropped[name] = session_queries.query_rows(
                log, part, user_side, counts, config
            )
        else:
            made[name], dropped[name] = rows.query_rows(log, part, user_side, counts, config)
    if config.row_history:
        for name, part in _PARTS:
            chosen = (log.split == part) & (log.target | (part == TRAIN))
            made[name] = rows.with_histories(made[name], log, chosen, config, firsts)
    for name, count in unknown.items():
        dropped[name]["targets that train does not have"] = count
    if config.everything:  # nobody is asked, so nobody was left out
        dropped |= {name: {} for name, part in _PARTS if part != TRAIN}
    made["users"] = rows.user_rows(log, parted.users, config.history)
    if source:
        lists = rows.list_rows(source, source.split == FROM_SOURCE, user_side, by_session=False)
        made[SOURCE] = domains.source_rows(lists, split.shared)
    if has_documents:
        # From the log before events without a label were taken out of it: their reviews are still
        # train's.
        reviews = [documents.train_reviews(parted.log)]
        made["users"], left_out = documents.add(made["users"], reviews, "user")
        dropped["users"] = {_LEFT_OUT: left_out}
    for name, table in made.items():
        records.write_table(table, artifacts.split_folder(folder, name), number)
    return {
        "number": number,
        "newest": int(rows.times(log).max(initial=0)),
        "rows": {name: table.num_rows for name, table in made.items()},
        "users": {
            name: len(np.unique(table.column("user_id").to_numpy())) for name, table in made.items()
        },
        "events": {name: int((log.split == part).sum()) for name, part in _PARTS}
        | ({SOURCE: int((source.split == FROM_SOURCE).sum())} if source else {}),
        "columns": {name: columns_of(table) for name, table in made.items()},
        "dropped": dropped,
        **({"labels": labelled} if config.label else {}),
        **({"given": np.packbits(given_in(log, split))} if split.name == "given" else {}),
    }


def _parted(log: Log) -> tuple[Log, Log]:
    """The target's log and the source's, without the column that told them apart."""
    log = replace(log, table=log.table.drop([domains.DOMAIN]))
    source = log.split == FROM_SOURCE
    return log.only(~source & (log.split != UNUSED)), log.only(source)


_COUNTS = "counts"
_LEFT_OUT = f"reviews that a document has {documents.LONGEST:,} newer ones of"
_PARTS = (("train", TRAIN), ("valid", VALID), ("test", TEST))


def _build_items(
    element,
    shards: int,
    counts: rows.Popularity,
    facts: Facts,
    columns: Mapping[str, str],
    split: SplitConfig,
    has_documents: bool,
    folder: str,
) -> dict[str, Any]:
    number, grouped = element
    if shards > 1:
        own = shard_of(counts.items, shards) == number
        counts = rows.Popularity(counts.items[own], counts.counts[own])
    # Batches come in any order; sorted, equal input gives equal output.
    items, held_out = gather(grouped["items"], columns), ()
    if split.has_source:
        own = facts.domains.target.items
        own = own[shard_of(own, shards) == number] if shards > 1 else own
        items, held_out = domains.of_the_catalogue(items, own, facts.domains, split)
    table = rows.item_rows(items, counts, held_out)
    dropped = {}
    if has_documents:
        reviews = [part.read() for part in grouped["reviews"]]
        table, left_out = documents.add(table, reviews, "item")
        dropped = {_LEFT_OUT: left_out}
    records.write_table(table, artifacts.split_folder(folder, "items"), number)
    return {
        "number": number,
        "rows": table.num_rows,
        "columns": columns_of(table),
        "in_train": len(counts.items),
        "dropped": {"items": dropped},
    }


def _row_count(uri: str, files: list[str], columns: Mapping[str, str]) -> int:
    report = posixpath.join(uri, records.REPORT)
    if records.exists(report):
        return records.read_json(report)["kept"]
    return sum(1 for path in files for _ in records.read_records(path))
