"""What a model trains on: the users, the items and the train rows, as index arrays in memory.

Index layout: 0 = padding, 1 = unknown, 2.. = entities; those seen in train first, in the
vocabulary's order (most frequent first; of more than a million users that of their look-up), then
the ones that only the tables know ("cold"). Position p in the catalogue is index p + 2.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow_transform.tf_metadata import schema_utils

from models.inputs.columns import (
    drop_unknown,
    first_value,
    read_columns,
    scatter_rows,
    take_rows,
    to_ragged,
)
from models.inputs.documents import Documents
from models.inputs.event_log import EventLog, by_user_and_time
from models.inputs.history import RAW, STRINGS, History, HistoryReader, beside_items
from models.inputs.ids import IdIndex, Ids, bucket_order, held, index_of, lines, pieces
from models.inputs.preprocessing import (
    BUCKETS,
    FIRST_TOKEN,
    ITEM_FREQUENCY,
    UNKNOWN,
    quantile_column,
)
from models.inputs.schema import Field, present, read_schema
from models.names import features as feature_types
from models.names.errors import DataError
from models.names.features import CONTEXT, EVENT_TYPE, HISTORY_COLUMNS, SHOWN
from models.names.label import WEIGHT


@dataclass
class Entities:
    """The users or the items.

    Attributes:
        ids: [N] bytes; row r has index r + 2. Many are held as `Ids`.
        train_count: how many of them train has seen: the first ones. The others share the unknown
            row of an id embedding.
        features: name -> ([N + 2] or ragged [N + 2, None]) int64 transformed features; rows 0 and 1
            are missing.
        vocabulary_sizes: feature name -> number of distinct indices, padding and unknown included.
        tokens: feature name -> the vocabulary, for aligning embedding rows at a warm start.
        table: the look-up of the ids, where there is one already.
        quantiles: name of a numeric feature -> [N + 2] float32, see `preprocessing_fn`; 0 where the
            number is missing. Empty unless Transform was asked for them.
    """

    ids: np.ndarray | Ids
    train_count: int
    features: dict[str, tf.Tensor | tf.RaggedTensor]
    vocabulary_sizes: dict[str, int]
    tokens: dict[str, Sequence[bytes] | Ids]
    quantiles: dict[str, tf.Tensor] = field(default_factory=dict)
    table: tf.lookup.StaticHashTable | IdIndex | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def index_count(self) -> int:
        """Number of indices: all entities, padding and unknown."""
        return len(self.ids) + FIRST_TOKEN

    @property
    def embedding_rows(self) -> int:
        """Rows that an id embedding needs: train's entities, padding and unknown."""
        return self.train_count + FIRST_TOKEN

    def in_train(self, index: tf.Tensor) -> tf.Tensor:
        """Indices of any shape -> bool: whether train has seen the entity."""
        return (index >= FIRST_TOKEN) & (index < self.embedding_rows)

    def lookup_table(self) -> tf.lookup.StaticHashTable | IdIndex:
        """Id (string) -> index; an id that nobody knows maps to 1."""
        return index_of(self.ids) if self.table is None else self.table


class TrainingData:
    """Everything that a `retrieve` model may learn from.

    It is read from the built examples and the transform graph.

    Args:
        transform_graph: folder of the transform graph (it holds the vocabularies fitted on train).
        schema: text-format schema of the train rows.
        splits: split name -> glob of its gzip TFRecord files; `train`, `items` and `users` are
            required.
        cold_items: whether items that train has not seen belong to the catalogue.
        history: what the model reads beside the items of a history, of
            `models.names.features.HISTORY_COLUMNS`.
        context: whether it reads the context columns that the run names.

    Raises:
        DataError: a required split is missing or train is empty.

    Attributes:
        unknown_item_events: train events that `events` leaves out, since their item is not in the
            catalogue: it has fewer than `features.min_count` of them, and no model can retrieve it.
        item_counts: [N] int64 train events of each item, in catalogue order.
        event_types: [N] bytes; type n has index n + 2 in `EventLog.event_type` and in histories.
        context: the fields of the context that the model reads and the run names.
        histories: reads the histories of requests and queries.
    """

    _drops_unknown_items = True

    def __init__(
        self,
        transform_graph: str,
        schema: str,
        splits: Mapping[str, str],
        cold_items: bool = False,
        history: Sequence[str] = (),
        context: bool = False,
    ):
        self.unknown_item_events = 0
        for name in ("train", "items", "users"):
            if not tf.io.gfile.glob(splits.get(name, "")):
                raise DataError(
                    f"training needs the split {name!r}; found none at {splits.get(name)!r}"
                )
        self.transform = tft.TFTransformOutput(transform_graph)
        self._vocabularies: dict[str, list[bytes] | Ids] = {}
        columns = read_schema(schema)
        self.features = feature_types.from_schema(columns)
        self._raw_spec = schema_utils.schema_as_feature_spec(columns).feature_spec
        self._splits = dict(splits)
        self.items = self._entities("item", self._splits["items"], with_cold=cold_items)
        self.users = self._entities("user", self._splits["users"], with_cold=True)
        self.item_table = self.items.lookup_table()
        self.user_table = self.users.lookup_table()
        self.item_counts = self._item_counts()
        self.event_types = (
            self._vocabulary(EVENT_TYPE)
            if "event_types" in history and EVENT_TYPE in self._raw_spec
            else []
        )
        self.histories = HistoryReader(self.item_table, self.event_types, history)
        tagged = {column.name for column in columns.feature if CONTEXT in column.annotation.tag}
        self.context = tuple(
            self._field(feature.name, feature.entity, feature.kind)
            for feature in self.features
            if context and feature.name in tagged
        )

    @property
    def unknown_rows(self) -> dict[str, int]:
        """Column -> train rows whose value no vocabulary has; empty where rows are no fields."""
        return {}

    @functools.cached_property
    def events(self) -> EventLog:
        """The train events, whatever the example kind.

        Lists are taken apart into the events that they are made of. An event of an
        unknown item is none of a `retrieve` model's, neither as a target nor in a history; a
        `score` model learns its label.
        """
        kinds = {"timestamp": tf.int64, "row": tf.int64, "rating": tf.float32, "label": tf.float32}
        kinds |= {WEIGHT: tf.float32} if WEIGHT in self._raw_spec else {}
        spec = {
            "user_id": tf.io.FixedLenFeature([], tf.string),
            "item_id": STRINGS,
            "session_id": STRINGS,
            **{
                name: tf.io.RaggedFeature(kind, row_splits_dtype=tf.int64)
                for name, kind in kinds.items()
            },
        }
        beside = {
            HISTORY_COLUMNS[name]: RAW[name]
            for name in self.histories.columns
            if HISTORY_COLUMNS[name] not in kinds
        }
        told = {field.name: field.dtype for field in self.context}
        spec |= {
            name: tf.io.RaggedFeature(kind, row_splits_dtype=tf.int64)
            for name, kind in (beside | told).items()
        }
        # A row that is a list cannot hold a list of each of its events.
        shown = {SHOWN: STRINGS} if SHOWN in self._raw_spec else {}
        spec |= shown

        def index(row):
            items = self.item_table.lookup(row["item_id"])
            lengths, row_of = items.row_lengths(), items.value_rowids()
            step = tf.range(tf.size(row_of, tf.int64)) - tf.gather(items.row_starts(), row_of)

            def of_events(column, has, place, missing):
                """The value of each event at its place of the column, where its row has one."""
                values = tf.pad(column.flat_values, [[0, 1]], constant_values=missing)
                place += tf.gather(column.row_starts(), row_of)
                last = tf.size(column.flat_values, tf.int64)
                return tf.gather(values, tf.where(tf.gather(has, row_of), place, last))

            # One session id a row marks a row that is a session; a list of them, one an event,
            # belongs to a row of a whole user. A row without any holds events outside of sessions.
            ids = row["session_id"]
            session = ids.with_flat_values(tf.strings.to_hash_bucket_fast(ids.flat_values, 2**62))
            user = tf.cast(self.user_table.lookup(row["user_id"]), tf.int32)
            columns = {
                "user": tf.gather(user, row_of),
                "item": tf.cast(items.flat_values, tf.int32),
                "session": of_events(session, ids.row_lengths() == 1, tf.zeros_like(row_of), 0),
            }
            for name, kind in kinds.items():
                # A row without the value has an empty list.
                whole = row[name].row_lengths() == lengths
                missing = float("nan") if kind.is_floating else 0
                columns[name] = of_events(row[name], whole, step, missing)
            for name in beside | told:
                columns[name] = beside_items(row[name], items, name).flat_values
            if EVENT_TYPE in beside:
                columns[EVENT_TYPE] = self.histories.event_type_index(columns[EVENT_TYPE])
            if told:
                columns |= self.context_index({name: columns[name] for name in told})
            for name in shown:
                columns[name] = self.item_table.lookup(row[name])
            return columns

        columns = read_columns(self._splits["train"], spec, index)
        known = None
        if self._drops_unknown_items:
            known = columns["item"] >= FIRST_TOKEN
            self.unknown_item_events = len(known) - int(np.count_nonzero(known))
        order = by_user_and_time(columns["user"], columns["timestamp"], columns["row"], known)
        if not len(order):
            raise DataError(
                "the train split holds no rows; required: at least one event before the split "
                f"point, of an item of the catalogue; received: {self.unknown_item_events:,} of "
                "items that features.min_count leaves out"
            )
        # One column after the other: two copies of a large log need not be there at once.
        sorted_ = {name: take_rows(columns.pop(name), order) for name in list(columns)}
        told_of = {name: sorted_.pop(name) for name in told}
        return EventLog(context=told_of, weight=sorted_.pop(WEIGHT, None), **sorted_)

    @functools.cached_property
    def item_weights(self) -> np.ndarray:
        """[N] what the train events of each item weigh together, in catalogue order.

        The counts, where all events weigh alike: popularity.
        """
        if WEIGHT not in self._raw_spec:
            return self.item_counts
        events, known = self.events, self.events.item >= FIRST_TOKEN
        place = events.item[known] - FIRST_TOKEN
        return np.bincount(place, events.weights[known], len(self.items))

    def context_index(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor | tf.RaggedTensor]:
        """Transforms the context of requests or events, in-graph.

        Args:
            raw: name of a field of `context` -> [B] strings, "" where missing, or numbers, NaN
                where missing (a float is taken for an integer column too); or sparse [B, L] as
                they are parsed.

        Returns:
            The same names -> [B] int64 indices: 0 missing, 1 unknown; ragged [B, None] of text.
        """
        return self._index(self.context, raw)

    @functools.cached_property
    def item_fields(self) -> tuple[Field, ...]:
        """The features that describe an item, in the order of their names."""
        features = sorted(self.features, key=lambda feature: feature.name)
        return tuple(
            self._field(feature.name, feature.entity, feature.kind)
            for feature in features
            if feature.entity == "item"
        )

    def item_index(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor | tf.RaggedTensor]:
        """Transforms features of items as a request tells them, in-graph.

        So an item can be embedded that no table knows.

        Args:
            raw: names of fields of `item_fields`, those that are wanted -> as `context_index` takes
                them; where the field is `listed`, [B, L] padded with "".

        Returns:
            The same names -> [B] int64 indices, or ragged [B, None], as in `items.features`.
        """
        return self._index([field for field in self.item_fields if field.name in raw], raw)

    def _index(
        self, fields: Sequence[Field], raw: Mapping[str, tf.Tensor]
    ) -> dict[str, tf.Tensor | tf.RaggedTensor]:
        if not fields:
            return {}
        columns = self.transform_layer(
            {
                field.name: raw[field.name]
                if isinstance(raw[field.name], tf.SparseTensor)
                else present(raw[field.name], field.dtype)
                for field in fields
            }
        )
        ragged = {field: to_ragged(columns[field.name]) for field in fields}
        return {
            field.name: first_value(values) if field.single else values
            for field, values in ragged.items()
        }

    @property
    def transform_layer(self) -> tf.keras.layers.Layer:
        """The fitted transform; it takes any of the raw columns, as sparse [B, L]."""
        return self.transform.transform_features_layer()

    def files(self, split: str) -> str:
        """The glob of the files of a split; empty where there is none."""
        return self._splits.get(split, "")

    @property
    def has_walks(self) -> bool:
        """Whether the examples hold walks over the item graph, in a split of their own."""
        return bool(tf.io.gfile.glob(self._splits.get("walks", "")))

    @functools.cached_property
    def walks(self) -> tf.RaggedTensor:
        """[W, None] int64 item indices: the walks where there are any, else lists.

        The lists are those of the train rows. Unknown items are left out.

        Walks are no events: whatever is counted is counted in `events` and `item_counts`.
        """
        pattern = self._splits["walks" if self.has_walks else "train"]
        return read_columns(
            pattern,
            {"item_id": STRINGS},
            lambda row: {"item": drop_unknown(self.item_table.lookup(row["item_id"]))},
        )["item"]

    @functools.cached_property
    def user_histories(self) -> History:
        """[users + 2] rows, oldest first: the whole log.

        It is for serving only; unknown items are left out.
        """
        spec = {
            "user_id": tf.io.FixedLenFeature([], tf.string),
            **self.histories.parsing(),
        }

        def read(row):
            columns = self.histories.read(row).columns()
            return {"user": self.user_table.lookup(row["user_id"]), **columns}

        rows = read_columns(self._splits["users"], spec, read)
        user = rows.pop("user")
        return History(
            **{name: scatter_rows(rows[name], user, self.users.index_count) for name in rows}
        )

    @property
    def user_history(self) -> tf.RaggedTensor:
        """[users + 2, None] int64 item indices: the items of `user_histories`."""
        return self.user_histories.items

    def documents(self, entity: str, longest: int) -> Documents:
        """The documents of the users or the items, out of reviews that train has and nothing else.

        Args:
            entity: `user` or `item`.
            longest: words of one review that are read. A document is cut after twice as many, so
                that this many are left of it when a review is taken out.

        Raises:
            DataError: the events have no reviews.
        """
        if feature_types.REVIEW not in self._raw_spec:
            raise DataError(
                f"documents are made of reviews; required: a column {feature_types.REVIEW!r} of "
                "the table events"
            )
        text, partner = feature_types.document_columns(entity)
        tables = {"user": self.user_table, "item": self.item_table}
        partners = self.users if entity == "item" else self.items
        layer = self.transform_layer

        def columns(row):
            reviews = row[text]
            review = tf.RaggedTensor.from_tensor(reviews.flat_values[:, tf.newaxis]).to_sparse()
            words = to_ragged(layer({feature_types.REVIEW: review})[feature_types.REVIEW])[
                :, :longest
            ]
            other = tables[feature_types.OTHER[entity]].lookup(row[partner].flat_values)
            # Rows of train know a partner below features.min_count as the unknown one alone.
            other = tf.where(other < partners.embedding_rows, other, UNKNOWN)
            parts = {
                "words": words,
                "partners": words.with_flat_values(tf.repeat(other, words.row_lengths())),
            }
            whole = {
                name: tf.RaggedTensor.from_row_splits(
                    tf.cast(part, tf.int32), reviews.row_splits
                ).merge_dims(1, 2)[:, : 2 * longest]
                for name, part in parts.items()
            }
            return {"index": tables[entity].lookup(row[f"{entity}_id"]), **whole}

        spec = {
            f"{entity}_id": tf.io.FixedLenFeature([], tf.string),
            text: STRINGS,
            partner: STRINGS,
        }
        rows = read_columns(self._splits[f"{entity}s"], spec, columns)
        # Whoever is unknown has no document: not that of one of the many who are.
        known = np.flatnonzero(rows["index"] >= FIRST_TOKEN)
        index = rows["index"][known]
        count = (self.users if entity == "user" else self.items).index_count
        return Documents(
            *(
                scatter_rows(tf.gather(rows[name], known), index, count)
                for name in ("words", "partners")
            )
        )

    def queries(self, split: str) -> np.ndarray:
        """[Q] bytes: the serialized query rows of `split`, in file order.

        It is empty when the split has none.
        """
        files = sorted(tf.io.gfile.glob(self._splits.get(split, "")))
        records = [
            np.array(list(tf.data.TFRecordDataset(file, "GZIP").as_numpy_iterator()), object)
            for file in files
        ]
        return np.concatenate(records) if records else np.array([], object)

    def _vocabulary(self, name: str) -> list[bytes] | Ids:
        """What Transform has found of a column; nothing where it hashes the values."""
        if name not in self._vocabularies:
            path = self.transform.vocabulary_file_by_name(name)
            tokens = held(lines(path) if path else ())
            # Ties between items are broken by their order; nothing asks for that of many users.
            if name == "user_id" and isinstance(tokens, Ids):
                tokens = tokens.take(bucket_order(tokens))
            self._vocabularies[name] = tokens
        return self._vocabularies[name]

    def _has_vocabulary(self, name: str) -> bool:
        return self.transform.vocabulary_file_by_name(name) is not None

    def _field(self, name: str, entity: str, kind: str) -> Field:
        if kind == feature_types.DOCUMENT:
            tokens = self._vocabulary(feature_types.REVIEW)
            return Field(name, entity, kind, tf.string, False, tuple(tokens))
        buckets = [b"bucket %d" % number for number in range(BUCKETS)]
        tokens = buckets if kind == feature_types.NUMERIC else self._vocabulary(name)
        listed = kind == feature_types.MULTIVALUED
        table = None
        if kind == feature_types.ID:
            table = self.user_table if entity == "user" else self.item_table
        return Field(
            name,
            entity,
            kind,
            self._raw_spec[name].dtype,
            listed,
            tokens if isinstance(tokens, Ids) else tuple(tokens),
            hashed=kind != feature_types.NUMERIC and not self._has_vocabulary(name),
            table=table if isinstance(table, IdIndex) else None,
        )

    def _entities(self, entity: str, pattern: str, with_cold: bool) -> Entities:
        key = f"{entity}_id"
        known, cold_ids = self._vocabulary(key), f"{key}:cold"
        lookup = index_of(known)
        members = [feature for feature in self.features if feature.entity == entity]
        spec = {feature.name: _optional(self._raw_spec[feature.name]) for feature in members}
        layer = self.transform_layer if spec else None

        def transform(row):
            identity = row.pop(key)
            index = lookup.lookup(identity)
            columns = layer(row) if layer else {}
            wanted = {*spec, *map(quantile_column, spec)} & set(columns)
            cold = tf.boolean_mask(identity, (index == UNKNOWN) & with_cold)
            told = {name: to_ragged(columns[name]) for name in wanted}
            return {key: index, cold_ids: cold, **told}

        rows = read_columns(pattern, {key: tf.io.FixedLenFeature([], tf.string), **spec}, transform)
        index = rows.pop(key)
        cold, place = np.unique(rows.pop(cold_ids).astype(object), return_inverse=True)
        ids = np.array(known, object) if isinstance(known, list) else known
        if len(cold):
            if entity == "user" and isinstance(lookup, IdIndex):
                order = bucket_order(cold)
                cold, place = cold[order], np.argsort(order)[place]
            index[index == UNKNOWN] = FIRST_TOKEN + len(known) + place
            ids = held([*pieces(known), cold.tolist()])
            if isinstance(lookup, IdIndex):
                lookup.append(cold)
            else:
                lookup = None
            ids = np.array(ids, object) if isinstance(ids, list) else ids
        # One row an id: a later duplicate (the data check has said so) does not win over an earlier
        # one.
        first = np.flatnonzero(index >= FIRST_TOKEN)[::-1]
        source = np.full(len(ids), -1, np.int64)
        source[index[first] - FIRST_TOKEN] = first
        present = np.flatnonzero(source >= 0)
        features, sizes, tokens, quantiles = {}, {}, {}, {}
        for feature in members:
            if quantile_column(feature.name) in rows:
                shares = tf.gather(rows[quantile_column(feature.name)], source[present])
                table = scatter_rows(shares, present + FIRST_TOKEN, len(ids) + FIRST_TOKEN)
                quantiles[feature.name] = first_value(table)
            values = tf.gather(rows[feature.name], source[present])
            table = scatter_rows(values, present + FIRST_TOKEN, len(ids) + FIRST_TOKEN)
            single = feature.kind in (feature_types.CATEGORICAL, feature_types.NUMERIC)
            features[feature.name] = first_value(table) if single else table
            tokens[feature.name] = (
                [] if feature.kind == feature_types.NUMERIC else self._vocabulary(feature.name)
            )
            sizes[feature.name] = (
                int(
                    tf.reduce_max(
                        tf.concat([values.flat_values, [len(tokens[feature.name]) + UNKNOWN]], 0)
                    )
                )
                + 1
            )
        return Entities(ids, len(known), features, sizes, tokens, quantiles, lookup)

    def _item_counts(self) -> np.ndarray:
        """[N] int64 train counts in catalogue order, as Transform counted them."""
        counts = np.zeros(len(self.items), np.int64)
        for part in lines(self.transform.vocabulary_file_by_name(ITEM_FREQUENCY)):
            told = [line.split(b" ", 1) for line in part]
            times = np.array([int(count) for count, _ in told], np.int64)
            index = self.item_table.lookup(tf.constant([item for _, item in told], tf.string))
            known = index.numpy() >= FIRST_TOKEN
            counts[index.numpy()[known] - FIRST_TOKEN] = times[known]
        return counts


def _optional(spec):
    """A table may lack a feature for some rows, whatever the train rows promise."""
    if isinstance(spec, tf.io.FixedLenFeature) and spec.default_value is None:
        default = np.full(spec.shape, b"" if spec.dtype == tf.string else -1)
        return tf.io.FixedLenFeature(spec.shape, spec.dtype, default_value=default)
    return spec
