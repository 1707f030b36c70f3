"""How large a model is, told by how large its data are: no TensorFlow, and no data either.

A model's `HyperParameters.parameters` answers, so that a run that cannot fit is refused before
anything heavy is imported.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from models.names.features import CATEGORICAL, ID, NUMERIC, TEXT

ADDED = 2
"""Rows of every table of values besides theirs: of padding (or missing) and of the unknown."""


@dataclass(frozen=True)
class Column:
    """An id or a feature that a model looks up in a table.

    Attributes:
        name: what the built rows call it.
        entity: `user`, `item` or `context`.
        kind: `id`, or one of `models.names.features`.
        values: how many distinct ones there are, or words of a text, or buckets of a number.
    """

    name: str
    entity: str
    kind: str
    values: int

    @property
    def rows(self) -> int:
        """Rows of a table of them."""
        return self.values + ADDED

    @property
    def is_single(self) -> bool:
        """Whether a row of data holds at most one value."""
        return self.kind in (ID, CATEGORICAL, NUMERIC)


@dataclass(frozen=True)
class Sizes:
    """What of the data decides how large a model is.

    Attributes:
        users: that train knows.
        items: that train knows.
        catalogue: items that are scored: those that only the table knows too, where the model can.
        events: of train.
        sequences: sessions of train, or users where the log has none.
        columns: what the model may look up: the ids of a `score` run, the features, and of a
            `retrieve` run those columns of the moment that the run names.
        item_words: distinct words of the texts of the items.
        review_words: of the reviews.
        event_types: of the events.
        source_users: of the other domain, where there are two.
        source_items: likewise.
    """

    users: int
    items: int
    catalogue: int = 0
    events: int = 0
    sequences: int = 0
    columns: tuple[Column, ...] = ()
    item_words: int = 0
    review_words: int = 0
    event_types: int = 0
    source_users: int = 0
    source_items: int = 0

    def table(self, entity: str, width: int) -> int:
        """Numbers in a table of the users or the items that train knows."""
        return ((self.users if entity == "user" else self.items) + ADDED) * width

    def of(self, entity: str) -> list[Column]:
        """The features of the users, the items or the moment; no ids."""
        return [one for one in self.columns if one.entity == entity and one.kind != ID]

    def sharing(self, hash_rows: Mapping[str, int]) -> "Sizes":
        """The same data, where the values of some columns share so many rows."""
        columns = [
            replace(
                column,
                values=min(hash_rows[column.name], column.values)
                if column.kind == ID
                else hash_rows[column.name],
            )
            if column.name in hash_rows
            else column
            for column in self.columns
        ]
        return replace(self, columns=tuple(columns))

    @property
    def field_rows(self) -> int:
        """Rows of one table for all columns (`models.inputs.fields.FieldRows`)."""
        return ADDED + sum(column.rows for column in self.columns)

    @property
    def item_texts(self) -> list[Column]:
        """The features of the items that are texts."""
        return [column for column in self.of("item") if column.kind == TEXT]


@dataclass(frozen=True)
class Parameters:
    """How many numbers of 4 bytes a model is made of; one of 8 bytes counts twice.

    Attributes:
        learnt: in variables that an optimiser moves, in any stage.
        held: in variables that are solved for, counted or filled in.
        beside: at most at a time besides, such as a model that is learnt first, or the matrices
            that a closed form is computed in.
        slots: numbers that the optimiser keeps for each that is learnt: Adam and FTRL 2, Adagrad
            and RMSprop 1, plain descent 0.
    """

    learnt: int = 0
    held: int = 0
    beside: int = 0
    slots: int = 2


def dense(inputs: int, outputs: int, bias: bool = True) -> int:
    """Numbers in a dense layer."""
    return (inputs + bias) * outputs


def perceptron(inputs: int, hidden: Iterable[int], *last: int) -> int:
    """Numbers in dense layers one after the other; none where there is no layer."""
    total = 0
    for units in (*hidden, *last):
        total, inputs = total + dense(inputs, units), units
    return total
