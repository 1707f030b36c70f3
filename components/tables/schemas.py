"""The curated table schemas, and the schema of built examples that follows from them."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from components.tables.columns import is_list
from components.tables.names import PREFIX, TABLES
from models.names import features
from models.names.errors import ConfigError, DataError

_TYPE = {"bytes": schema_pb2.BYTES, "int": schema_pb2.INT, "float": schema_pb2.FLOAT}
_FOLDER = Path(__file__).resolve().parents[2] / "schema"


def schema_folder(name_or_path: str) -> str:
    """The folder of `events.pbtxt`, `items.pbtxt` and `users.pbtxt`.

    It is one of the project's by name, or the user's own.

    Raises:
        ConfigError: a file is missing there.
    """
    folder = Path(name_or_path) if Path(name_or_path).is_dir() else _FOLDER / name_or_path
    for table in TABLES:
        if not (folder / f"{table}.pbtxt").is_file():
            raise ConfigError(
                f"data.schema: {folder / f'{table}.pbtxt'} is missing; required: events.pbtxt, "
                "items.pbtxt and "
                "users.pbtxt in a folder of yours, or one of: "
                f"{', '.join(sorted(p.name for p in _FOLDER.iterdir() if p.is_dir()))}"
            )
    return str(folder.absolute())


def read_schemas(folder: str) -> dict[str, schema_pb2.Schema]:
    """Table -> its curated schema.

    Raises:
        DataError: a file is no text-format schema.
    """
    schemas = {}
    for table in TABLES:
        path = Path(folder) / f"{table}.pbtxt"
        try:
            schemas[table] = text_format.Parse(path.read_text("utf-8"), schema_pb2.Schema())
        except text_format.ParseError as error:
            raise DataError(
                f"{path} is no text-format tensorflow.metadata schema: {error}"
            ) from error
    return schemas


def read_columns(
    columns: Mapping[str, Any], schemas: Mapping[str, schema_pb2.Schema]
) -> dict[str, Any]:
    """`data.columns` as the reader is told them: with the kinds that the curated schemas have.

    Args:
        columns: what the run says.
        schemas: table -> its curated schema.
    """
    kinds = {schema_pb2.BYTES: "bytes", schema_pb2.INT: "int", schema_pb2.FLOAT: "float"}
    known = {
        table: {
            feature.name: (
                "text" if feature.HasField("natural_language_domain") else kinds[feature.type]
            )
            for feature in schema.feature
            if feature.type in kinds and feature.value_count.max <= 1
        }
        for table, schema in schemas.items()
    }
    return {**columns, "schema": known}


def train_schema(
    columns: Mapping[str, str],
    origins: Mapping[str, tuple[str, str]],
    tables: Mapping[str, schema_pb2.Schema],
    kinds: Mapping[str, Mapping[str, str]] | None = None,
    context: Collection[str] = (),
) -> schema_pb2.Schema:
    """The schema of the train rows.

    It has the columns that are in the data, with what the curated schemas know of them.

    Every feature is sparse (`value_count`, no `shape`): single-valued columns have
    `value_count.max` 1, and those that are lists in a list of events alone the tag `ONE_EACH`.

    Args:
        columns: column -> kind of the train rows.
        origins: column -> (table, its name there) of every column that comes from a table.
        tables: curated schemas.
        kinds: table -> column -> kind there.
        context: columns that the run names as context, which are tagged so.
    """
    known = {
        (table, feature.name): feature
        for table, schema in tables.items()
        for feature in schema.feature
    }
    domains = {
        (table, domain.name): domain
        for table, schema in tables.items()
        for domain in schema.string_domain
    }
    schema = schema_pb2.Schema()
    for name, kind in columns.items():
        feature = schema.feature.add(name=name, type=_TYPE[kind.removesuffix("_list")])
        feature.presence.min_count = 1
        if is_list(kind):
            feature.value_count.min = 0
        else:
            feature.value_count.min = feature.value_count.max = 1
        table, own = origins.get(name, ("", name))
        source_kind = (kinds or {}).get(table, {}).get(own)
        if is_list(kind) and source_kind and not is_list(source_kind):
            feature.annotation.tag.append(features.ONE_EACH)
        if name in context:
            feature.annotation.tag.append(features.CONTEXT)
        if table not in ("items", "users"):
            feature.annotation.tag.extend(features.own_entity(name))
        curated = known.get(origins.get(name))
        if curated is None:
            continue
        if curated.HasField("natural_language_domain"):
            feature.natural_language_domain.CopyFrom(curated.natural_language_domain)
        feature.annotation.tag.extend(curated.annotation.tag)
        for domain in ("int_domain", "float_domain"):
            if curated.HasField(domain) and not is_list(kind):
                getattr(feature, domain).CopyFrom(getattr(curated, domain))
        if (table, curated.domain) in domains:
            copied = schema_pb2.StringDomain()
            copied.CopyFrom(domains[table, curated.domain])
            copied.name = name
            schema.string_domain.append(copied)
            feature.domain = name
    return schema


def origins(columns: Mapping[str, Mapping[str, str]]) -> dict[str, tuple[str, str]]:
    """Column of the built rows -> (table, its name there).

    It holds every column of the three tables but the two keys.

    Args:
        columns: table -> its columns.
    """
    found = {}
    for table in ("events", "users", "items"):
        key = {"items": "item_id", "users": "user_id"}.get(table)
        for name in columns[table]:
            if name != key:
                found[PREFIX[table] + name] = (table, name)
    return found


def to_text(schema: schema_pb2.Schema) -> str:
    """The schema in text format, as a Schema artifact holds it."""
    return text_format.MessageToString(schema)
