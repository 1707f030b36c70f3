"""What can be said of a run before TensorFlow, TFX and Beam are imported, which takes long.

That is what the run itself, the headers of the files and the first rows of each table tell. It is
found by the very functions of the reader and of the build, so that neither says otherwise later.
Of the whole log only a log within the first rows is judged; of a longer one what they show is said,
and refused where no further row can mend it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tensorflow_metadata.proto.v0 import schema_pb2

from components.build.config import BuildConfig
from components.gate.config import SLICES, require_known_slices
from components.tables.places import Place, is_remote, place
from components.tables.schemas import origins, read_columns, read_schemas, schema_folder
from models.names import declared, metrics, registry
from models.names.errors import ConfigError, DataError, nearest
from models.names.features import DOCUMENTS, REVIEW
from models.names.hyper_parameters import Epochs, HyperParameters, resolve
from pipeline import room, rows
from pipeline.config import RunConfig

_BYTES = 1 << 20


@dataclass(frozen=True)
class Found:
    """Where a run's data are, and what it learns by.

    Attributes:
        source: the folder.
        schemas: name or folder of the table schemas.
        reader: name of the layout.
        hyper_parameters: all of the model's.
    """

    source: Place
    schemas: str
    reader: str
    hyper_parameters: HyperParameters


def check(config: RunConfig, say: Callable[[str], None]) -> Found:
    """Says how the data are read, and refuses what cannot be run.

    Args:
        config: the run.
        say: takes lines.

    Raises:
        ConfigError: the data set, a setting or a combination of them is not to be had, or the run
            wants more memory or disk than there is.
        DataError: the data are not what they should be, or not what the run needs.
    """
    found, tables = look(config, say)
    lacking = room.require_room(config, found.hyper_parameters, tables, found.schemas)
    for line in lacking:
        say(f"  may not fit: {line}")
    return found


def look(config: RunConfig, say: Callable[[str], None]) -> tuple[Found, list[Any]]:
    """As `check`, but for what the run will want of this machine.

    Returns:
        Beside what was found the three tables, a `components.read.sources.Source` each.

    Raises:
        ConfigError: as of `check`.
        DataError: likewise; the file of the split `given` cannot be read.
    """
    settings = resolve(
        config.model, declared.hyper_parameters(config.model), config.hyper_parameters
    )
    build = check_run(config, settings)
    if config.split.file:
        from components.build.splits import read_given

        read_given(config.split.file)
    source, schemas, reader = find_data(config, say)
    tables = check_data(config, settings, build, source, schemas, reader, say)
    return Found(source, schemas, reader, settings), tables


def check_run(config: RunConfig, settings: HyperParameters) -> BuildConfig:
    """Refuses settings that do not go together.

    Args:
        config: the run.
        settings: the model's hyper-parameters.

    Returns:
        What is to be built, but for what the model's class says of its rows.

    Raises:
        ConfigError: no metric to choose the epoch by, walks for a model that takes none, targets
            that the model's own ranking leaves out, or something that the model has no use for.
    """
    entry = registry.get(config.model)
    if not config.split.drop_repeats and getattr(settings, "filter_seen", False):
        # Every such target would count as a miss, whatever the model says.
        raise ConfigError(
            "split.drop_repeats: false makes targets of items that the user has had, and "
            "hyper_parameters.filter_seen: true takes them out of the ranking, so that each would "
            "count as a miss; required: hyper_parameters.filter_seen: false with "
            "split.drop_repeats: false, or split.drop_repeats: true"
        )
    if config.warm_start and not isinstance(settings, Epochs):
        raise ConfigError(
            f"{config.model} has no use for 'warm_start': it is fitted in closed form, in one pass"
        )
    if "equal_rows" in entry.needs and config.positives and config.positives.weighted:
        raise ConfigError(
            f"{config.model} needs {registry.NEEDS['equal_rows']}; received: "
            f"positives.values: {config.positives.values}"
        )
    if entry.task == "retrieve":  # the rows of a `score` run have any column
        require_known_slices(config.gate.slices)
        if config.features.context and "context" not in entry.reads:
            raise ConfigError(
                f"features.context: {config.model} reads no context; received "
                f"{', '.join(config.features.context)}"
            )
    elif config.label:
        config.label.check_lists(settings.setting("list_loss"))
        if "ratings" in entry.needs and config.label.is_click:
            _lacks(config, "ratings")
        if "equal_rows" in entry.needs and config.label.weight:
            _lacks(config, "equal_rows")
    if "two_domains" in entry.needs and not config.split.has_source:
        _lacks(config, "two_domains")
    metrics.of(entry.task, config.label, config.metrics).choosing_by(settings.setting("monitor"))
    return rows.to_build(config)


def find_data(config: RunConfig, say: Callable[[str], None]) -> tuple[Place, str, str]:
    """Returns the data folder, the name or folder of its table schemas, and its layout.

    The data is fetched when it is a public data set. What the layout is, is decided here, and
    nowhere after.
    """
    from components.read import datasets
    from components.read.layouts import detection

    name, data = config.data.source, config.data
    if name in datasets.DATASETS:
        dataset = datasets.find(name)
        folder = datasets.get(name, progress=say)
        return folder.absolute(), data.schema_name or dataset.schema, data.reader or dataset.reader
    found = place(name)
    if not found.exists():
        if is_remote(name):
            raise ConfigError(f"data.source: {name} is missing; required: a folder with files")
        datasets.find(name)  # raises, naming the nearest
    reader = data.reader or detection.detect(name, data.columns)
    usual = detection.conventions(name, reader).get("schema", "generic")
    return found.absolute(), data.schema_name or usual, reader


def say_how_it_is_read(
    config: RunConfig, source: Place, schemas: str, reader: str, say: Callable[[str], None]
) -> list[Any]:
    """Says what each column is taken for, and what is left out.

    Returns:
        The three tables, a `components.read.sources.Source` each.

    Raises:
        ConfigError: an option of `data.columns` does not fit the files.
        DataError: the files are not what they should be.
    """
    from components.read.layouts import detection

    columns = read_columns(config.data.columns, read_schemas(schema_folder(schemas)))
    tables = detection.plan(str(source), reader, columns)
    for table in tables:
        for note in table.notes:
            say(f"  {note}")
    return tables


def check_data(
    config: RunConfig,
    settings: HyperParameters,
    build: BuildConfig,
    source: Place,
    schemas: str,
    reader: str,
    say: Callable[[str], None],
) -> list[Any]:
    """Says how the data are read, and refuses what the run cannot use.

    Args:
        config: the run.
        settings: the model's hyper-parameters.
        build: of `check_run`.
        source: the data folder.
        schemas: name or folder of the table schemas.
        reader: name of the layout.
        say: takes lines.

    Returns:
        The three tables, a `components.read.sources.Source` each.

    Raises:
        ConfigError: an option of `data.columns` does not fit the files, or a setting names a column
            that is not there.
        DataError: the files are not what they should be, or lack what the run needs.
    """
    from components.build import checks
    from components.read import kinds, typed

    tables = say_how_it_is_read(config, source, schemas, reader, say)
    curated = read_schemas(schema_folder(schemas))
    build = build.model_copy(
        update={
            "context": config.features.context,
            "min_count": config.features.min_count,
            "most_items": settings.most_items(),
        }
    )
    columns = {table.table: table.columns() for table in tables}
    selected = checks.selected_columns(columns["events"], build)
    checks.check_columns(selected, build)
    if caveat := config.split.caveat(timed="timestamp" in selected):
        say(caveat)
    if build.task == "score" and REVIEW in selected:
        checks.check_document_columns(columns)
    _check_needs(config, tables, columns)
    _check_names(config, settings, {**columns, "events": selected})
    for table in tables:
        found = typed.first_rows(table, kinds.ROWS, _BYTES)
        if found is None:
            if table.table == "events":
                raise typed.no_events(table)
            continue
        parsed, whole = found
        _check_rejected(config, table, parsed, whole, say)
        _check_schema(config, table, parsed.table, curated[table.table])
        if table.table == "events" and parsed.table.num_rows:
            _check_events(build, parsed.table, whole, say)
    return tables


def _lacks(config: RunConfig, need: str) -> None:
    raise ConfigError(f"{config.model} needs {registry.NEEDS[need]}")


def _check_needs(config: RunConfig, tables: list, columns: Mapping[str, Mapping[str, str]]) -> None:
    """Refuses data that lack what the model reads."""
    entry = registry.get(config.model)
    has_text = any(
        field.text for table in tables if table.table == "items" for field in table.fields
    )
    has_review = REVIEW in columns["events"]
    has = {
        "ids": not any(table.anonymous for table in tables),
        "item_text": has_text,
        "item_text_or_review": has_text or has_review,
        "review": has_review,
    }
    needed = (*entry.needs, "ids") if entry.task == "retrieve" else entry.needs
    for need in needed:
        if not has.get(need, True):
            received = "; ".join(
                f"{table}: {', '.join(names)}" for table, names in columns.items() if names
            )
            raise DataError(f"{config.model} needs {registry.NEEDS[need]}; received: {received}")


def _check_names(
    config: RunConfig, settings: HyperParameters, columns: Mapping[str, Mapping[str, str]]
) -> None:
    """Refuses settings and slices that name a column which the built rows will not have."""
    built = {"user_id", "item_id", *origins(columns), *config.features.point_in_time}
    for setting, name in settings.named_columns():
        documents = [one.name for one in DOCUMENTS] if REVIEW in columns["events"] else []
        known = sorted({*built, *documents})
        if name not in known:
            raise ConfigError(
                f"{config.model}: hyper-parameter {setting}: the built rows have no column "
                f"{name!r}{nearest(name, known)}"
            )
    if registry.get(config.model).task == "score":
        for name in config.gate.slices:
            feature = name.partition(":")[0]
            if feature not in {*built, *SLICES}:
                raise ConfigError(
                    f"gate.slices: the test rows have no column {feature!r}"
                    f"{nearest(feature, {*built, *SLICES})}"
                )


def _check_rejected(config: RunConfig, source: Any, parsed: Any, whole: bool, say) -> None:
    """Refuses a table of which too many rows are rejected, or says that many of the first are."""
    from components.read.typed import check_rejected, reasons_of

    rejected = {
        reason: {"count": count, "file": parsed.block.file, "line": line, "received": received}
        for reason, (count, line, received) in parsed.rejects.items()
    }
    report = {
        "table": source.table,
        "read": parsed.read,
        "kept": parsed.table.num_rows,
        "rejected": rejected,
    }
    if whole:
        check_rejected(report, config.data.max_rejected_share)
    elif parsed.read - parsed.table.num_rows > config.data.max_rejected_share * parsed.read:
        say(
            f"  {source.table}: {parsed.read - parsed.table.num_rows:,} of the first "
            f"{parsed.read:,} rows will be rejected: {reasons_of(report)}"
        )


def _check_schema(config: RunConfig, source: Any, sample: Any, schema: schema_pb2.Schema) -> None:
    """Refuses columns that are not of the schema's type, and the lack of those that it requires.

    TFDV would, once the whole table has been measured.
    """
    allowed = config.check.allowed_anomalies
    types = {schema_pb2.BYTES: "bytes", schema_pb2.INT: "int", schema_pb2.FLOAT: "float"}
    kinds = source.columns()
    for feature in schema.feature:
        name, place = feature.name, f"{source.table}.{feature.name}"
        if place in allowed or feature.lifecycle_stage:
            continue
        if name not in kinds and feature.presence.min_count > 0:
            raise DataError(
                f"{place}: the table lacks the column, which data.schema requires; received: "
                f"{', '.join(kinds)}; to let it pass: check.allowed_anomalies: [{place}]"
            )
        wanted = types.get(feature.type)
        held = kinds.get(name, wanted or "").removesuffix("_list")
        if wanted and held != wanted and sample.column(name).null_count < sample.num_rows:
            raise DataError(
                f"{place}: data.schema requires {wanted}; received: {held}. "
                f"data.columns.types.{name} says what it is read as; to let it pass: "
                f"check.allowed_anomalies: [{place}]"
            )


def _check_events(build: BuildConfig, sample: Any, whole: bool, say: Callable[[str], None]) -> None:
    """Judges the first events: their types, labels, domains and number of items."""
    first = f"the first {sample.num_rows:,} events"
    if build.positives and build.positives.values:
        _check_positives(build, sample, whole, say, first)
    if build.selects:  # which leaves some of these events out
        return
    if build.split.has_source:
        _check_domains(build, sample, whole, say, first)
        return
    _check_labels_and_items(build, sample, whole, say, first)


def _check_positives(build: BuildConfig, sample: Any, whole: bool, say, first: str) -> None:
    from components.build import checks

    there = _values(sample, build.positives.column)
    if whole:
        checks.check_values(build.positives, there)
    for value in build.positives.values:
        if value not in there:
            hint = nearest(value, there)
            say(f"  positives.values: {first} have no {build.positives.column} {value!r}{hint}")


def _values(sample: Any, column: str) -> Collection[str]:
    """The distinct values of a column, as a run file would say them."""
    from components.tables.columns import words_of

    values = sample.column(column)
    return words_of(values.unique().drop_null().to_pylist(), values.type)


def _check_domains(build: BuildConfig, sample: Any, whole: bool, say, first: str) -> None:
    from components.build import checks
    from components.build.splits import gather_facts

    if whole:
        checks.check_facts(gather_facts(sample, build.split), build.split)
        return
    there = _values(sample, "domain")
    for key in ("source", "target"):
        name = getattr(build.split, key)
        if name not in there:
            say(f"  split.{key}: {first} have no domain {name!r}{nearest(name, there)}")


def _check_labels_and_items(build: BuildConfig, sample: Any, whole: bool, say, first: str) -> None:
    from components.build import checks, groups, labels
    from components.build.rows import count_items
    from components.build.splits import gather_facts, make_log

    log = make_log(sample, build.split, gather_facts(sample, build.split))
    if not whole:
        # Which of them train is not known; nothing below depends on it.
        log = replace(log, split=np.zeros_like(log.split))
    log = groups.whole(log, build.label.group if build.label else None)
    counts = count_items(log)
    if whole:
        checks.check_items(counts, build)
    elif build.most_items and (counts.counts >= build.min_count).sum() > build.most_items:
        say(
            f"  items: {first} alone have {(counts.counts >= build.min_count).sum():,}, and the "
            f"model takes {build.most_items:,} at most that train has; features.min_count leaves "
            "rare ones out"
        )
    if build.label is None:
        return
    found = labels.merge([labels.with_label(log, build.label)[1]])
    if whole:
        labels.check(found, build.label)
    elif found["strange"]["count"] or found["negative"] and found["zero"]:
        try:
            labels.check(found, build.label)
        except DataError as error:
            raise DataError(f"{error} (of {first})") from None
    else:
        one = found["splits"]["train"]
        if not one["count"]:
            say(f"  label: none of {first} has one")
        elif one["low"] == one["high"]:
            say(f"  label: those of {first} are all {one['low']:g}")
