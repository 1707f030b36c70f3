"""Columns that would be called alike in the built rows are refused by both names, at reading."""

import pytest

from components.read.layouts import detection
from components.tables import schemas
from components.tables.names import VOCABULARIES
from models.names import features
from models.names.errors import DataError


def plan(folder, events="", items=None, users=None, columns=None):
    """Writes tables of a row with these columns beside their ids, and plans to read them."""
    for table, names in (("events", events), ("items", items), ("users", users)):
        if names is not None:
            key = {"events": "user_id,item_id", "items": "item_id", "users": "user_id"}[table]
            header = f"{key},{names}".strip(",")
            text = f"{header}\n{','.join('1' for _ in header.split(','))}\n"
            (folder / f"{table}.csv").write_text(text)
    return {source.table: source for source in detection.plan(str(folder), columns=columns)}


@pytest.mark.parametrize(
    "tables, message",
    [
        # A built row calls the column x of the items item_x, and that of the users user_x.
        ({"items": "id"}, "'id' of the table items.* 'item_id'.* 'item_id' of the table events"),
        ({"users": "id"}, "'id' of the table users.* 'user_id'.* 'user_id' of the table events"),
        (
            {"events": "item_color", "items": "color"},
            "'color' of the table items.* 'item_color'.*'item_color' of the table events",
        ),
        (
            {"events": "user_agent", "users": "agent"},
            "'agent' of the table users.*'user_agent'.*'user_agent' of the table events",
        ),
        ({"items": "frequency"}, "'frequency' of the table items .*'item_frequency'.* vocabulary"),
        ({"events": "item_frequency"}, "'item_frequency' of the table events .*vocabulary"),
        ({"events": "temperature"}, "'temperature' of the table events .* built rows get"),
        ({"events": "candidates"}, "'candidates' of the table events .* built rows get"),
    ],
)
def test_a_clash_is_refused_by_both_names_with_the_mend(tmp_path, tables, message):
    with pytest.raises(DataError, match=message) as refused:
        plan(tmp_path, **tables)
    # What the message advises is enough.
    table, name = str(refused.value).rsplit("data.columns.", 1)[1].split(": ")[0].split(".")
    header = str(refused.value).rsplit(": ", 1)[1]
    renamed = plan(tmp_path, **tables, columns={table: {name: header}})
    assert name in renamed[table].columns() and header not in renamed[table].columns()


def test_names_that_only_look_alike_are_let_pass(tmp_path):
    found = plan(tmp_path, "id,user_agent,item_rank,color,popularity_", "popularity,color", "items")
    assert set(found["events"].columns()) >= {"id", "user_agent", "item_rank"}


def test_a_column_of_the_events_is_context_whatever_it_is_called():
    """`user_agent` was typed as a feature of the user, and never joined."""
    columns = {"events": {"user_id": "bytes", "item_id": "bytes", "user_agent": "bytes"}}
    columns |= {"items": {"item_id": "bytes", "color": "bytes"}, "users": {"user_id": "bytes"}}
    rows = dict.fromkeys(("user_id", "item_id", "user_agent", "item_color"), "bytes")
    # What a build computes of the log is of no table.
    rows["user_events_before"] = "int"
    schema = schemas.train_schema(rows, schemas.origins(columns), {})
    assert {one.name: one.entity for one in features.from_schema(schema)} == {
        "user_agent": "context",
        "item_color": "item",
        "user_events_before": "context",
    }


def test_the_vocabularies_that_are_refused_are_those_of_transform():
    from models.inputs.preprocessing import ITEM_FREQUENCY

    assert list(VOCABULARIES) == [ITEM_FREQUENCY]
