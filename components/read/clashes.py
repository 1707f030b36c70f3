"""Columns of the tables that would be called alike once their rows are put together.

Light: no Beam, no TFX.
"""

from collections.abc import Sequence

from components.read.sources import Source
from components.tables.names import BUILT_FOR_EVENTS, PREFIX, REQUIRED, VOCABULARIES
from models.names.errors import DataError


def check_names(sources: Sequence[Source]) -> None:
    """Refuses a name that two columns would have in the built rows, or that is not free there.

    A built row holds the columns of its event, those of its item as `item_...` and those of its
    user as `user_...`.

    Raises:
        DataError: both columns are named, and how to rename one.
    """
    taken = {name: ("events", name) for name in REQUIRED["events"]}
    for source in sources:
        for name in source.columns():
            if name in REQUIRED[source.table]:
                continue
            built = PREFIX[source.table] + name
            if built in taken:
                table, own = taken[built]
                _refuse(source, name, f"the column {own!r} of the table {table}", built)
            if built in VOCABULARIES:
                _refuse(source, name, f"a vocabulary, of {VOCABULARIES[built]}", built)
            if source.table == "events" and name in BUILT_FOR_EVENTS:
                _refuse(source, name, "a column that the built rows get", built)
            taken[built] = (source.table, name)


def _refuse(source: Source, name: str, other: str, built: str) -> None:
    """Raises for a column whose built name is taken."""
    header = next((field.header for field in source.fields if field.name == name), name)
    raise DataError(
        f"{', '.join(source.files[:1])}: the column {name!r} of the table {source.table} is called "
        f"{built!r} in the built rows, and so is {other}; required: names of their own. Rename it, "
        f"such as data.columns.{source.table}.own_{name}: {header}"
    )
