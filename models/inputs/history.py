"""Histories: what users have had, and what stands beside each item of it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from models.inputs.columns import choose
from models.inputs.preprocessing import FIRST_TOKEN
from models.names.features import HISTORY_COLUMNS

STRINGS = tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64)
"""How a list of ids is parsed."""

RAW = {"event_types": tf.string, "dwell": tf.float32, "timestamps": tf.int64}
"""The types of `HISTORY_COLUMNS` in requests and rows; "" and 0 are missing values."""


class History(NamedTuple):
    """Rows of events, each oldest first; all columns have the same row lengths.

    A column that the model does not read is None.

    Attributes:
        items: ragged [B, None] int64 item indices.
        event_types: ragged [B, None] int64 indices of `TrainingData.event_types`: 0 where there is
            none, 1 for one that train has not seen.
        dwell: ragged [B, None] float32 seconds, 0 where nobody knows.
        timestamps: ragged [B, None] int64 seconds since 1970, 0 where nobody knows.
    """

    items: tf.RaggedTensor
    event_types: tf.RaggedTensor | None = None
    dwell: tf.RaggedTensor | None = None
    timestamps: tf.RaggedTensor | None = None

    def columns(self) -> dict[str, tf.RaggedTensor]:
        """The columns that the model reads, by name."""
        named = zip(self._fields, self, strict=True)
        return {name: part for name, part in named if part is not None}

    def keep(self, mask: tf.RaggedTensor) -> "History":
        """The events that a ragged [B, None] bool mask chooses, in every column alike."""
        return History(*(None if part is None else choose(part, mask) for part in self))

    def known(self) -> "History":
        """Leaves out the events of unknown items, in every column alike."""
        return self.keep(self.items >= FIRST_TOKEN)

    def followed_by(self, newer: "History") -> "History":
        """These events and then, row by row, the newer ones."""
        return History(
            *(
                None if part is None else tf.concat([part, after], axis=1)
                for part, after in zip(self, newer, strict=True)
            )
        )


class HistoryReader(tf.Module):
    """Reads raw histories: ids to indices, unknown items left out.

    Args:
        items: look-up of item ids.
        event_types: [N] bytes, the vocabulary.
        columns: what the model reads beside the items, of `HISTORY_COLUMNS`.
    """

    def __init__(
        self,
        items: tf.lookup.StaticHashTable,
        event_types: Sequence[bytes],
        columns: Sequence[str] = (),
    ):
        super().__init__()
        self.columns = tuple(name for name in HISTORY_COLUMNS if name in columns)
        self._items = items
        if "event_types" not in columns:
            return
        # The vocabulary has no empty string: it is no type.
        self._types = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant([b"", *event_types], tf.string),
                tf.constant([0, *range(FIRST_TOKEN, FIRST_TOKEN + len(event_types))], tf.int64),
            ),
            default_value=1,
        )

    def parsing(self) -> dict[str, tf.io.RaggedFeature]:
        """How `history`, and what stands beside it, is parsed of a tf.Example."""
        beside = {
            name: tf.io.RaggedFeature(RAW[name], row_splits_dtype=tf.int64) for name in self.columns
        }
        return {"history": STRINGS, **beside}

    def signature(self) -> dict[str, tf.TensorSpec]:
        """What stands beside `history` in a request: [B, H], padded as `history` is."""
        return {name: tf.TensorSpec([None, None], RAW[name], name=name) for name in self.columns}

    def read(self, rows: Mapping[str, tf.RaggedTensor]) -> History:
        """Reads [B, None] raw columns by name.

        A row has as many values of a column as it has items, or none.
        """
        ids = rows["history"]
        beside = {
            name: beside_items(rows[name], ids, name) for name in self.columns if name in rows
        }
        return self.of_index(self._items.lookup(ids), beside)

    def read_padded(
        self, history: tf.Tensor, beside: Mapping[str, tf.Tensor] | None = None
    ) -> History:
        """Reads [B, H] ids, padded with "", and what stands beside them, [B, H] by name."""
        ids = tf.RaggedTensor.from_tensor(history)
        for name, column in (beside or {}).items():
            tf.debugging.assert_equal(
                tf.shape(column),
                tf.shape(history),
                message=f"{name}: required: the shape of history, a value for each item",
            )
        return self.read(
            {
                "history": ids,
                **{n: tf.RaggedTensor.from_tensor(column) for n, column in (beside or {}).items()},
            }
        )

    def event_type_index(self, names):
        """Event types of any shape, or ragged, to int64 indices."""
        return self._types.lookup(names)

    def of_index(self, items: tf.RaggedTensor, beside: Mapping[str, tf.RaggedTensor]) -> History:
        """Item indices and raw columns beside them; what is read and not there is missing."""
        columns = {
            name: beside[name]
            if name in beside
            else items.with_flat_values(
                tf.zeros_like(items.flat_values, RAW[name])
                if RAW[name] != tf.string
                else tf.fill(tf.shape(items.flat_values), "")
            )
            for name in self.columns
        }
        if "event_types" in columns:
            columns["event_types"] = self.event_type_index(columns["event_types"])
        return History(items, **columns).known()


def beside_items(column: tf.RaggedTensor, items: tf.RaggedTensor, name: str) -> tf.RaggedTensor:
    """The column with as many values a row as there are items: a row of none is filled.

    Raises:
        tf.errors.InvalidArgumentError: in-graph, where a row has another number of values.
    """
    lengths, wanted = column.row_lengths(), items.row_lengths()
    check = tf.debugging.assert_equal(
        tf.where(lengths == 0, wanted, lengths),
        wanted,
        message=f"{name}: required: as many values as history has items, or none",
    )
    with tf.control_dependencies([check] if check is not None else []):
        there = tf.where(tf.repeat(lengths > 0, wanted))
    missing = tf.zeros([], column.dtype) if column.dtype != tf.string else tf.constant("")
    values = tf.fill([tf.reduce_sum(wanted)], missing)
    return items.with_flat_values(tf.tensor_scatter_nd_update(values, there, column.flat_values))
