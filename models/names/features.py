"""Features are typed by the schema, so a new data set needs a schema and no code."""

from dataclasses import dataclass

from tensorflow_metadata.proto.v0 import schema_pb2

CATEGORICAL, MULTIVALUED, TEXT, NUMERIC = "categorical", "multivalued", "text", "numeric"

ID = "id"
"""Kind of the field or the table that an id is looked up in."""

LOG_SCALE = "log_scale"
"""Schema tag of a heavy-tailed count: Transform makes categories of it that are equally wide \
on a squared logarithmic scale."""

DOCUMENT = "document"
"""Kind of the documents of `DOCUMENTS`."""

REVIEW = "review"
"""The column of the events that documents are made of."""

OTHER = {"user": "item", "item": "user"}

ANONYMOUS = "anonymous"
"""Schema tag of an id that the reader made up because the data has none: \
no model may learn from it."""

EVENT_TYPE, DWELL, TIMESTAMP = "event_type", "dwell", "timestamp"

HISTORY_COLUMNS = {"event_types": EVENT_TYPE, "dwell": DWELL, "timestamps": TIMESTAMP}
"""What may stand beside the items of a history, one value an item -> the events' column of it.

Requests, and the rows of queries and users, call it by the name before the arrow."""

SHOWN = "shown"
"""The column of the events that lists the items that were on display, in order of position."""

NOT_FEATURES = frozenset(
    "user_id item_id session_id timestamp row rating label history exclude targets candidates "
    "activity popularity temperature review dwell event_type split event_types timestamps "
    "shown example_weight example_group".split()
)

ONE_EACH = "one_each"
"""Schema tag of a column that is a list because its row is one: it has one value an event, or an \
item, of the row."""

CONTEXT = "context"
"""Schema tag of a column that the run names as context: a request may tell it."""

OF_EVENT = "of_event"
"""Schema tag of a column that the event says, though its name begins as if its user or item did, \
such as `user_agent`."""

REQUEST_INPUTS = frozenset(("user_id", "history", "exclude", "k", "reasons", *HISTORY_COLUMNS))
"""What a request for recommendations may hold besides context."""


@dataclass(frozen=True)
class Feature:
    """One input column that describes a user, an item or the context of an event.

    Attributes:
        name: the column.
        entity: `user`, `item` or `context`.
        kind: `categorical`, `multivalued`, `text`, `numeric` or `document`.
    """

    name: str
    entity: str
    kind: str


DOCUMENTS = tuple(Feature(f"{entity}_document", entity, DOCUMENT) for entity in OTHER)
"""All that train's reviews say of a user, and of an item. \
No model gets them unasked: they hold the reviews of the train rows."""


def document_columns(entity: str) -> tuple[str, str]:
    """Returns the names of the lists of reviews and of the other side of each.

    They are columns in the split of the users or of the items.
    """
    return f"{entity}_document", f"{entity}_document_{OTHER[entity]}"


def from_schema(schema: schema_pb2.Schema) -> tuple[Feature, ...]:
    """Returns the features of `schema` in its order; ids, labels and lists of ids are none."""
    features = []
    for column in schema.feature:
        if column.name in NOT_FEATURES:
            continue
        entity = _entity(column.name)
        if OF_EVENT in column.annotation.tag:
            entity = "context"
        features.append(Feature(column.name, entity, _kind(column)))
    return tuple(features)


def own_entity(name: str) -> tuple[str, ...]:
    """Returns the tag of a column that an event says, where its name would say otherwise."""
    misleading = name not in NOT_FEATURES and _entity(name) != "context"
    return (OF_EVENT,) if misleading else ()


def _entity(name: str) -> str:
    """Returns whom a column describes, by its name."""
    entity = name.split("_", 1)[0]
    return entity if entity in OTHER else "context"


def text_columns(
    items: schema_pb2.Schema, users: schema_pb2.Schema, events: schema_pb2.Schema
) -> list[str]:
    """Returns the names of the columns of three table schemas that hold text.

    The names are as the built examples carry them.
    """
    tables = (("item_", items), ("user_", users), ("", events))
    return [
        prefix + column.name
        for prefix, table in tables
        for column in table.feature
        if column.HasField("natural_language_domain") and column.name not in NOT_FEATURES
    ]


def log_columns(
    items: schema_pb2.Schema, users: schema_pb2.Schema, events: schema_pb2.Schema
) -> list[str]:
    """Returns the names of the columns of three table schemas that are `LOG_SCALE`.

    The names are as the built examples carry them.
    """
    tables = (("item_", items), ("user_", users), ("", events))
    return [
        prefix + column.name
        for prefix, table in tables
        for column in table.feature
        if LOG_SCALE in column.annotation.tag
    ]


def _kind(column: schema_pb2.Feature) -> str:
    if column.type in (schema_pb2.INT, schema_pb2.FLOAT):
        return CATEGORICAL if LOG_SCALE in column.annotation.tag else NUMERIC
    if column.HasField("natural_language_domain"):
        return TEXT
    single = (
        column.HasField("shape") or column.value_count.max == 1 or ONE_EACH in column.annotation.tag
    )
    return CATEGORICAL if single else MULTIVALUED
