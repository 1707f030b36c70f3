"""What a run will want of a machine, said before anything starts.

Rows, different ids and their length come from the files (`components.read.counts`), the numbers
that the model is made of from its own file (`HyperParameters.parameters`). What the rest takes was
measured, and stands in benchmarks/README.md ("Scale", but where another place is said):

    memory     the process with what it has imported, before and while it trains and evaluates, and
               the graphs of wide rows ("Shapes"); an event in the columns of a training, up to
               those that lie in files, and in validation's queries and the histories that are
               exported, which all are held; an id of a user or an item with its look-ups
    disk       an event and its values in all artifacts ("What a run costs ..."); an event, an id
               and a weight in an export
    temporary  the columns of a larger training, which the operating system pages: in $TMPDIR

A weight is in memory as often as the loop holds it: itself, what the optimiser keeps beside it, the
average, the best average and a gradient. All this is right within a third or so.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from components.build.config import Positives
from components.read import counts
from components.read.counts import Counted
from components.read.sources import Source
from components.tables.names import REQUIRED
from components.tables.schemas import origins, read_schemas, schema_folder, train_schema
from models.names import features, registry
from models.names.features import EVENT_TYPE, ID, NUMERIC, REVIEW, TEXT, Feature
from models.names.hyper_parameters import HyperParameters
from models.names.sizes import Column, Parameters, Sizes
from pipeline.config import RunConfig

GIB = 1 << 30
BEFORE, TRAINING, EVALUATING = 1.2 * GIB, 1.15 * GIB, 1.8 * GIB
"""Bytes of memory of the process until it trains, when it does, and when it evaluates, which it
does beside the Canary's server."""
A_COLUMN, FREE_COLUMNS = 26 << 20, 10
"""Bytes of memory for the graphs of each column beyond so many."""
AN_EVENT, A_VALUE, A_LIST = 50, 4, 16
"""Bytes of an event in the columns of a `retrieve` training, and of a `score` training's columns \
of one value and of several."""
IN_MEMORY = 1 << 21
"""Events whose columns lie in memory; those of more lie in files (`models.inputs.columns`)."""
ANSWERED = {"retrieve": 40, "score": 20}
"""Bytes of memory for an event in the queries, or rows, of validation and in what is exported."""
FEW = 1 << 20
"""Ids of users, or of items, up to which they are objects (`models.inputs.ids`)."""
AN_ID, ONE_OF_MANY = (525, 245), (60, 19)
"""Bytes of memory for an id of few besides its text, and of many: trained with, and loaded."""
PAGED_ID = 37
"""Bytes of an id of many in temporary files, besides its text."""
COUNTED, COUNTED_AT_ONCE = 130, 1 << 23
"""Bytes of memory for an id while StatisticsGen and Transform count, and of how many at most: the \
counts of more lie in files."""
EVENT_ON_DISK, VALUE_ON_DISK, ENTITY_ON_DISK = 40, 6, 100
"""Bytes on disk for an event, for each column of its user, its item and itself, and for a user or \
an item of a table."""
EXPORTED, EXPORTED_ID = 8, (22, 15)
"""Bytes on disk for an event in the histories that a model is exported with, and for an id of few \
and of many with its look-up, besides its text."""
ALWAYS_ON_DISK, A_MODEL = 6 << 20, 3 << 20
"""Bytes on disk of an empty run, and of a model's graph."""
AN_ID_LONG = 40
"""Bytes that an id has where none was read: those of a UUID in hexadecimal, and more."""

# What Transform keeps (`models.inputs.preprocessing`).
_BUCKETS, _CATEGORIES, _WORDS = 10, 100_000, 20_000
_HISTORY = 50  # events that a `score` row has of what its user did before
_AS_EXPORTED = {"float32": 4, "int8": 1 + 2 / 16}  # bytes a number; nearly all are of tables
_BESIDE = {"float32": 4, "int8": 2 / 16}  # for a warm start, which finds bytes among the exported


@dataclass(frozen=True)
class Need:
    """What a run wants of memory at a time, or of the disk.

    Attributes:
        name: when, or what for.
        bytes: how many.
        of: what they are.
    """

    name: str
    bytes: float
    of: str


@dataclass(frozen=True)
class Estimate:
    """What a run will want.

    Attributes:
        rows: table -> rows; of the events those that count.
        read: the share of the log that was read to tell; 0: nothing, so that every event is taken
            for one of another user with another item.
        sizes: of the data.
        parameters: of the model; None where its file does not say.
        memory: what is wanted, moment by moment.
        disk: what is wanted in the folder of runs.
        temporary: what is wanted in the folder of temporary files meanwhile.
        most_items: how many items the model takes at most; None for any number.
    """

    rows: Mapping[str, int]
    read: float
    sizes: Sizes
    parameters: Parameters | None
    memory: tuple[Need, ...]
    disk: tuple[Need, ...]
    temporary: Need
    most_items: int | None = None

    @property
    def most_memory(self) -> Need:
        """The moment that wants the most."""
        return max(self.memory, key=lambda need: need.bytes)


def estimate(
    config: RunConfig,
    settings: HyperParameters,
    tables: Sequence[Source],
    schemas: str,
    reads: bool = True,
) -> Estimate:
    """Estimates what a run will want.

    Args:
        config: the run.
        settings: the model's hyper-parameters.
        tables: what the tables are read from.
        schemas: name or folder of the table schemas.
        reads: whether the files are read; else the rows are told by their sizes, and different
            values are taken to be as many as there are rows.
    """
    sources = {table.table: table for table in tables}
    found = _features(config, sources, schemas)
    counted = _count(config, sources, found) if reads else _bound(sources, found)
    sizes = _sizes(config, sources, found, counted)
    parameters = settings.parameters(sizes)
    if parameters and settings.setting("row_adagrad"):
        parameters = replace(parameters, slots=0)  # a number a row is hardly any
    read = counted["events"].read if reads else 0.0
    rows = {name: counted[name].rows for name in sources}
    width = sum(len(source.columns()) - len(REQUIRED[name]) for name, source in sources.items())
    columns, ids = _columns(config, sizes), _ids(config, counted, sizes)
    return Estimate(
        rows,
        read,
        sizes,
        parameters,
        tuple(_memory(config, sizes, parameters, columns, ids)),
        tuple(_disk(config, rows, width, sizes, parameters, ids)),
        Need(
            "columns while it trains",
            config.cluster.workers
            * (columns * (sizes.events > IN_MEMORY) + sum(one.paged for one in ids)),
            "the system pages them",
        ),
        settings.most_items(),
    )


def in_gib(number: float) -> str:
    """Bytes as a person reads them."""
    return f"{number / GIB:,.2f} GiB" if number < 100 * GIB else f"{number / GIB:,.0f} GiB"


def _features(
    config: RunConfig, sources: Mapping[str, Source], schemas: str
) -> list[tuple[Feature, str, str]]:
    """The features that the model may look up, each with its table and its name there."""
    columns = {name: source.columns() for name, source in sources.items()}
    places = origins(columns)
    kinds = {name: columns[table][own] for name, (table, own) in places.items()}
    curated, told = read_schemas(schema_folder(schemas)), config.features.context
    schema = train_schema(kinds, places, curated, None, told)
    of_label = (
        {config.label.column, config.label.group, config.label.weight} if config.label else ()
    )
    is_score = registry.get(config.model).task == "score"
    return [
        (feature, *places[feature.name])
        for feature in features.from_schema(schema)
        if feature.name not in of_label
        and (is_score or feature.entity != "context" or feature.name in told)
    ]


def _wanted(
    config: RunConfig, sources: Mapping[str, Source], found: list[tuple[Feature, str, str]]
) -> dict[str, dict[str, int]]:
    """Table -> column whose values are counted -> how often a value must be there to count."""
    least = config.features.min_count
    wanted: dict[str, dict[str, int]] = {name: {} for name in sources}
    events = sources["events"].columns()
    wanted["events"] = {"user_id": least, "item_id": least}
    wanted["events"] |= {name: 1 for name in (EVENT_TYPE, "session_id", REVIEW) if name in events}
    for feature, table, own in found:
        if feature.kind != NUMERIC:
            # A table has a value once; how often train has it is not told by that.
            is_often = table == "events" and feature.kind != TEXT
            wanted[table][own] = least if is_often else 1
    return wanted


def _count(
    config: RunConfig, sources: Mapping[str, Source], found: list[tuple[Feature, str, str]]
) -> dict[str, Counted]:
    """Table -> what the files hold; `source`: the events of the other domain."""
    wanted = _wanted(config, sources, found)
    chosen = functools.partial(_that_count, config, config.split.target)
    counted = {
        name: counts.count(
            source, wanted[name], chosen if name == "events" else lambda table: table
        )
        for name, source in sources.items()
    }
    if config.split.has_source:
        other = functools.partial(_that_count, config, config.split.source)
        counted["source"] = counts.count(sources["events"], {"user_id": 1, "item_id": 1}, other)
    return counted


def _bound(
    sources: Mapping[str, Source], found: list[tuple[Feature, str, str]]
) -> dict[str, Counted]:
    """The same without reading, and no less.

    Ids beyond `FEW` take less than as many do: what `pipeline.room` leaves over is enough for it.
    """
    counted = {}
    for name, source in sources.items():
        rows, columns = counts.rows_of(source), source.columns()
        every, length = dict.fromkeys(columns, rows), dict.fromkeys(columns, AN_ID_LONG)
        counted[name] = Counted(rows, dict(every), every, length)
    for _, table, own in found:  # of a list there may be more than rows
        counted[table].distinct[own] = max(_CATEGORIES, counted[table].rows)
    return {**counted, "source": counted["events"]}


def _that_count(config: RunConfig, domain: str, table: pa.Table) -> pa.Table:
    """The events of a domain, where there are two, that are of the values that count."""
    if config.split.has_source:
        table = table.filter(pc.equal(table.column("domain"), domain.encode()))
    if config.positives:
        table = table.filter(_are_positive(table.column(config.positives.column), config.positives))
    return table


def _are_positive(column: pa.ChunkedArray, positives: Positives) -> pa.ChunkedArray:
    if positives.from_value is not None:
        return pc.greater_equal(column.cast(pa.float64()), positives.from_value)
    values = list(positives.values or {})
    if column.type == pa.large_binary():
        return pc.is_in(column, pa.array([value.encode() for value in values], pa.large_binary()))
    return pc.is_in(column.cast(pa.float64()), pa.array(list(map(float, values)), pa.float64()))


def _sizes(
    config: RunConfig,
    sources: Mapping[str, Source],
    found: list[tuple[Feature, str, str]],
    counted: Mapping[str, Counted],
) -> Sizes:
    events, is_score = counted["events"], registry.get(config.model).task == "score"
    users, items = events.distinct["user_id"], events.distinct["item_id"]
    columns = []
    if is_score and not sources["events"].anonymous:
        columns = [Column("user_id", "user", ID, users), Column("item_id", "item", ID, items)]
    for feature, table, own in found:
        most = _WORDS if feature.kind == TEXT else _CATEGORIES
        number = feature.kind == NUMERIC
        values = _BUCKETS if number else min(most, counted[table].distinct[own])
        columns.append(Column(feature.name, feature.entity, feature.kind, values))
    if is_score:
        told = [(name, "context", NUMERIC) for name in config.features.point_in_time]
        columns += [Column(*one, _BUCKETS) for one in told]
    words = [one.values for one in columns if one.kind == TEXT and one.entity == "item"]
    source = counted.get("source", Counted(0)) if config.split.has_source else Counted(0)
    return Sizes(
        users=users,
        items=items,
        catalogue=max(items, counted["items"].rows),
        events=events.rows,
        sequences=events.distinct.get("session_id", users),
        columns=tuple(columns),
        item_words=sum(words),
        review_words=min(_WORDS, events.distinct.get(REVIEW, 0)),
        event_types=events.distinct.get(EVENT_TYPE, 0),
        source_users=source.distinct.get("user_id", 0),
        source_items=source.distinct.get("item_id", 0),
    )


@dataclass(frozen=True)
class _Ids:
    """The ids of the users, or of the items, of which there are look-ups.

    Attributes:
        number: of them.
        text: bytes of them all.
    """

    number: int
    text: float

    @property
    def memory(self) -> tuple[float, float]:
        """Bytes of memory that they take where they are trained with, and where they are loaded."""
        trained, loaded = AN_ID if self.number <= FEW else ONE_OF_MANY
        text = self.text * (self.number <= FEW)
        return trained * self.number + text, loaded * self.number + text

    @property
    def paged(self) -> float:
        """Bytes of temporary files, where they are trained with."""
        return (PAGED_ID * self.number + self.text) * (self.number > FEW)

    @property
    def exported(self) -> float:
        """Bytes that they take on disk in a model, with what a warm start aligns its rows by."""
        return EXPORTED_ID[self.number > FEW] * self.number + 2 * self.text


def _ids(config: RunConfig, counted: Mapping[str, Counted], sizes: Sizes) -> tuple[_Ids, _Ids]:
    """The ids of users and items: all of them, but items that train has too rarely to retrieve."""
    events, is_score = counted["events"], registry.get(config.model).task == "score"
    users = max(events.every["user_id"], counted["users"].rows)
    items = max(events.every["item_id"], sizes.catalogue) if is_score else sizes.catalogue
    return (
        _Ids(users, users * events.length["user_id"]),
        _Ids(items, items * events.length["item_id"]),
    )


def _columns(config: RunConfig, sizes: Sizes) -> float:
    """Bytes of the columns of train."""
    entry = registry.get(config.model)
    if entry.task == "retrieve":
        return AN_EVENT * sizes.events
    label = Column("label", "context", NUMERIC, 0)
    a_row = sum(A_VALUE if one.is_single else A_LIST for one in (label, *sizes.columns))
    if entry.reads:  # beside the items of the history
        before = min(_HISTORY, sizes.events / max(1, sizes.users))
        a_row += round(A_VALUE * before * (1 + len(entry.reads)))
    return a_row * sizes.events


def _histories(config: RunConfig, sizes: Sizes) -> float:
    """Bytes of the histories that a model is exported with."""
    return EXPORTED * sizes.events * (registry.get(config.model).task == "retrieve")


def _memory(
    config: RunConfig,
    sizes: Sizes,
    parameters: Parameters | None,
    columns: float,
    ids: tuple[_Ids, _Ids],
) -> Iterator[Need]:
    own = parameters or Parameters()
    graphs = A_COLUMN * max(0, len(sizes.columns) - FREE_COLUMNS)
    entry = registry.get(config.model)
    # Of more than lie in memory the system keeps as much as it likes.
    events = columns * min(1, IN_MEMORY / max(1, sizes.events))
    events += ANSWERED[entry.task] * sizes.events
    steps = 0
    if config.walks.on_graph:
        steps = sizes.items * config.walks.walks_per_node * config.walks.walk_length
    elif entry.kind == "walk":
        steps = sizes.events
    # Of each step of a walk the item, the walk and the pair: int64, and once more to batch it.
    events += 48 * steps
    numbers = 4 * (own.learnt * (4 + own.slots) + own.held + own.beside)
    processes = config.cluster.workers
    in_counts = COUNTED * min(COUNTED_AT_ONCE, sum(one.number for one in ids))
    yield Need(
        "reading and Transform", BEFORE + graphs + in_counts, "whatever the number of events"
    )
    trained, loaded = map(sum, zip(*(one.memory for one in ids), strict=True))
    yield Need(
        "training" + (f" by {processes} processes" if processes > 1 else ""),
        (TRAINING + graphs + events + trained + numbers) * processes,
        f"{in_gib(TRAINING + graphs)} the process, {in_gib(events)} the events, "
        f"{in_gib(trained)} the ids, {in_gib(numbers)} the model and its optimiser",
    )
    model = _AS_EXPORTED[config.export.tables] * (own.learnt + own.held)
    model += _histories(config, sizes) + loaded
    yield Need(
        "evaluating",
        EVALUATING + graphs + 3 * model,
        "the model, here and in a server, and the last blessed one",
    )


def _disk(
    config: RunConfig,
    rows: Mapping[str, int],
    width: int,
    sizes: Sizes,
    parameters: Parameters | None,
    ids: tuple[_Ids, _Ids],
) -> Iterator[Need]:
    own, again = parameters or Parameters(), 1 + config.refit
    a_row = EVENT_ON_DISK + VALUE_ON_DISK * width
    entities = rows["items"] + rows["users"] + sizes.users + sizes.items
    tables = rows["events"] * a_row * again + entities * ENTITY_ON_DISK
    yield Need("tables and examples", ALWAYS_ON_DISK + tables, "")
    # With the weights that a warm start reads; and once more where it is pushed.
    kind = config.export.tables
    model = (_AS_EXPORTED[kind] + _BESIDE[kind]) * (own.learnt + own.held)
    model += A_MODEL + _histories(config, sizes) + sum(one.exported for one in ids)
    yield Need("the model and its push", model * (1 + again), "")
    # The newest and the best: weights, slots and averages.
    yield Need("checkpoints while it trains", 4 * own.learnt * (2 + own.slots + 1), "")
