"""Documents of users and items: all the reviews that train has of one, newest first.

A document is a list of reviews with, beside it, the other side of each: the item of a user's
review, the user of an item's. So a reader of the document can leave out what the pair at hand has
written.
"""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.build.rows import times, to_lists
from components.build.splits import TRAIN, Log
from components.tables.columns import BYTES, kind_of
from models.names.errors import DataError
from models.names.features import OTHER, REVIEW, document_columns

LONGEST = 1000
"""Reviews in a document at most; older ones are left out and counted."""

_COLUMNS = ("user_id", "item_id", REVIEW)


def train_reviews(log: Log) -> pa.Table:
    """The reviews of the train events: user_id, item_id, review, timestamp and row.

    Events without a review have none.

    Raises:
        DataError: the column `review` holds no text.
    """
    column = log.table.column(REVIEW)
    if kind_of(column.type) != BYTES:
        raise DataError(
            f"the column {REVIEW!r} of the table events holds {kind_of(column.type)}; required: "
            "text"
        )
    written = pc.greater(pc.binary_length(column), 0).fill_null(False).to_numpy()
    mask = pa.array((log.split == TRAIN) & written)
    table = log.table.select(_COLUMNS).append_column("timestamp", pa.array(times(log)))
    return table.append_column("row", log.table.column("row")).filter(mask)


def add(table: pa.Table, reviews: list[pa.Table], entity: str) -> tuple[pa.Table, int]:
    """Adds the documents to the rows of users, or of items.

    Args:
        table: has `user_id` or `item_id`, each once.
        reviews: of `train_reviews`; together they hold all the reviews of these users or items.
        entity: `user` or `item`.

    Returns:
        The table with the two columns of a document; and how many reviews are left out of one that
        has `LONGEST` newer ones.
    """
    key, names = f"{entity}_id", document_columns(entity)
    if not reviews:
        for name in names:
            table = table.append_column(
                name, to_lists(np.array([], object), np.zeros(table.num_rows, np.int64))
            )
        return table, 0
    found = pa.concat_tables(reviews)
    ids = pd.Index(table.column(key).to_numpy(), dtype=object)
    owner = ids.get_indexer(pd.Index(found.column(key).to_numpy(), dtype=object))
    order = np.lexsort(
        (-found.column("row").to_numpy(), -found.column("timestamp").to_numpy(), owner)
    )
    owner = owner[order]
    kept = np.arange(len(owner)) - np.searchsorted(owner, owner) < LONGEST
    found, lengths = (
        found.take(pa.array(order[kept])),
        np.bincount(owner[kept], minlength=table.num_rows),
    )
    for name, source in zip(names, (REVIEW, f"{OTHER[entity]}_id"), strict=True):
        table = table.append_column(name, to_lists(found.column(source).to_numpy(), lengths))
    return table, int((~kept).sum())
