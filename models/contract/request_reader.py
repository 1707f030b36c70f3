"""What a request or a query row says, as indices: users, histories, context, what is excluded."""

import math
import types
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from models.contract.query import Query
from models.contract.retrieve import RetrieveModel
from models.inputs.columns import drop_unknown
from models.inputs.data import TrainingData
from models.inputs.history import STRINGS, History
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.schema import Field

DEFAULT_K = 10


def parse_requests(
    examples: tf.Tensor, beside: Mapping[str, Any] = types.MappingProxyType({})
) -> dict[str, Any]:
    """Parses [B] serialized requests, where everything but `user_id` may be left out.

    Args:
        examples: the requests.
        beside: how what the model reads besides is parsed, by name.

    Returns:
        `user_id` [B] strings, `history` and `exclude` ragged [B, None] strings, `k` [B] int32, and
        what is `beside`.
    """
    spec = {
        **beside,
        "user_id": tf.io.FixedLenFeature([], tf.string, default_value=""),
        "history": STRINGS,
        "exclude": STRINGS,
        "k": tf.io.FixedLenFeature([], tf.int64, default_value=DEFAULT_K),
    }
    rows = tf.io.parse_example(examples, spec)
    return {**rows, "k": tf.cast(rows["k"], tf.int32)}


class RequestReader(tf.Module):
    """Reads what is asked for a model, with the histories that are stored beside it.

    Args:
        model: the model; it says what it reads.
        data: what it was trained on.
    """

    def __init__(self, model: RetrieveModel[Any], data: TrainingData):
        super().__init__()
        self._session_based = model.session_based
        self._filter_seen = model.hyper_parameters.filter_seen
        self._item_table = data.item_table
        self._user_table = data.user_table
        self._users = data.users
        # Variables, not constants: a graph may not hold more than 2 GB.
        self._stored_values = {
            name: tf.Variable(column.flat_values, trainable=False)
            for name, column in data.user_histories.columns().items()
        }
        self._stored_splits = tf.Variable(data.user_history.row_splits, trainable=False)
        self._histories = data.histories
        self._context = data.context
        self._context_index = data.context_index

    def parse_queries(self, examples: tf.Tensor) -> dict[str, Any]:
        """Parses [B] serialized query rows into indices.

        The evaluation's own history is used, never the stored one.
        """
        spec = {"user_id": tf.io.FixedLenFeature([], tf.string, default_value="")}
        lists = ("exclude", "targets", "candidates")
        beside = {**self._histories.parsing(), **self._context_parsing()}
        rows = tf.io.parse_example(examples, {**spec, **beside, **dict.fromkeys(lists, STRINGS)})
        index = {name: self._item_table.lookup(rows[name]) for name in lists}
        history = self._histories.read(rows)
        seen = history.items if self._filter_seen else history.items[:, :0]
        user = self._user_table.lookup(rows["user_id"])
        return {
            "query": self._query(user, history, self._context_index(rows)),
            "masked": tf.concat([seen, drop_unknown(index["exclude"])], axis=1),
            "targets": _positions(index["targets"]),
            "target_count": tf.cast(index["targets"].row_lengths(), tf.float32),
            "candidates": _positions(index["candidates"]),
        }

    def events_signature(self) -> dict[str, tf.TensorSpec]:
        """What the model reads besides the ids of a request; empty for most.

        Parallel to `history`, [B, H] and padded as it is: `event_types` strings, `dwell` float32
        seconds, `timestamps` int64 seconds. Of the context: [B] strings, or float32 numbers. "", 0
        and of numbers NaN are missing.
        """
        context = {
            field.name: tf.TensorSpec(
                [None], tf.string if field.dtype == tf.string else tf.float32, name=field.name
            )
            for field in self._context
        }
        return {**self._histories.signature(), **context}

    def excluded(self, item_id: tf.Tensor) -> tf.RaggedTensor:
        """Padded [B, E] item ids -> ragged [B, None] indices of those that are known."""
        return drop_unknown(self._item_table.lookup(tf.RaggedTensor.from_tensor(item_id)))

    def parse(
        self, examples: tf.Tensor
    ) -> tuple[tf.Tensor, History, dict[str, Any], tf.RaggedTensor, tf.Tensor]:
        """Parses [B] serialized requests: see `parse_requests`.

        Returns:
            `user_id` [B]; what they tell of history and context, as `told` returns it; what is
            excluded, as of `excluded`; and `k` [B] int32.
        """
        beside = {**self._histories.parsing(), **self._context_parsing()}
        rows = parse_requests(examples, beside)
        excluded = drop_unknown(self._item_table.lookup(rows["exclude"]))
        history, context = self._histories.read(rows), self._context_index(rows)
        return rows["user_id"], history, context, excluded, rows["k"]

    def query(
        self, user_id: tf.Tensor, requested: History, context: dict[str, Any]
    ) -> tuple[Query, tf.RaggedTensor]:
        """The query of requests, and the items [B, None] that their users have had.

        Args:
            user_id: [B] strings.
            requested: what they tell of the history, as `told` returns it.
            context: likewise.
        """
        user = self._user_table.lookup(user_id)
        stored = self._stored(user)
        history = self._history(stored, requested)
        query = self._query(user, history, context)
        if not self._session_based:  # it reads all that they have had
            return query, history.items
        return query, tf.concat([stored.items, requested.items], axis=1)

    def told(
        self, history: tf.Tensor, beside: Mapping[str, tf.Tensor]
    ) -> tuple[History, dict[str, Any]]:
        """The history and the context of padded requests; what is not told is missing."""
        parallel = {name: beside[name] for name in self._histories.columns if name in beside}
        context = {
            field.name: beside.get(field.name, _missing(field, tf.shape(history)[:1]))
            for field in self._context
        }
        return self._histories.read_padded(history, parallel), self._context_index(context)

    def _query(self, user: tf.Tensor, history: History, context: dict[str, Any]) -> Query:
        """A user whom train has not seen is not known to the model.

        That holds though the tables may hold features and a history.
        """
        return Query(
            user,
            self._users.in_train(user),
            history.items,
            history.event_types,
            history.dwell,
            history.timestamps,
            context or None,
        )

    def _context_parsing(self) -> dict[str, Any]:
        """How the context is parsed of a tf.Example; a row without a value misses it."""
        return {field.name: tf.io.VarLenFeature(field.dtype) for field in self._context}

    def _stored(self, user: tf.Tensor) -> History:
        stored = {
            name: tf.RaggedTensor.from_row_splits(values, self._stored_splits, validate=False)
            for name, values in self._stored_values.items()
        }
        return History(**{name: tf.gather(rows, user) for name, rows in stored.items()})

    def _history(self, stored: History, requested: History) -> History:
        """What the model reads, see `RetrieveModel.session_based`."""
        if not self._session_based:
            return stored.followed_by(requested)
        keep = tf.repeat(requested.items.row_lengths() == 0, stored.items.row_lengths())
        return stored.keep(stored.items.with_values(keep)).followed_by(requested)


def _missing(field: Field, shape: tf.Tensor) -> tf.Tensor:
    return tf.fill(shape, "" if field.dtype == tf.string else math.nan)


def _positions(index: tf.RaggedTensor) -> tf.Tensor:
    """Ragged item indices -> dense catalogue positions.

    They are -1 for padding and for items outside the catalogue.
    """
    dense = tf.maximum(index - FIRST_TOKEN, -1).to_tensor(default_value=-1)
    return tf.cast(dense, tf.int32)
