"""What a `score` model trains on: rows of fields, transformed to indices, and the label.

An input is a dict, field -> [B] int32 index for one value a row, [B, L] int32 padded with 0 for
many; where the model reads quantiles, a number has one besides, [B] float32, 0 where it is missing.
Where it reads histories there are `history`, [B, L] item indices, oldest first, and what it reads
beside them, and `table_user` and `table_item`, [B]: indices of the tables, in which those that
train has not seen have one of their own.
Index layout: 0 = missing or padding, 1 = unknown, 2.. = vocabulary (of a number: its quantile
bucket, ascending).
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from models.inputs.columns import first_value, read_columns, to_ragged
from models.inputs.data import Entities, TrainingData
from models.inputs.history import History
from models.inputs.preprocessing import UNKNOWN, quantile_column
from models.inputs.schema import Field, present, read_schema
from models.inputs.traced import traced
from models.names import features as feature_types
from models.names.errors import DataError
from models.names.features import (
    DOCUMENT,
    DOCUMENTS,
    ID,
    NUMERIC,
    REVIEW,
    Feature,
)
from models.names.label import GROUP, LABEL, WEIGHT, Label

Inputs = dict[str, tf.Tensor]

_HASHES = 2**62
_TABLES = ("table_user", "table_item")


class ScoreData(TrainingData):
    """What a `score` model may learn from: the train rows as they are built.

    The events, users and items stand beside them.

    Args:
        transform_graph: folder of the transform graph.
        schema: text-format schema of the train rows.
        splits: split name -> glob of its files; `train`, `items` and `users` are required.
        label: what the run predicts.
        reads: feature -> whether it is a field, besides the two ids; asked about every feature that
            a row may have and, where there are reviews, about the documents.
        quantiles: whether the model reads numbers as such.
        history: what it reads beside the items of histories; empty: it reads none.

    Raises:
        DataError: a required split is missing, train is empty, a click is neither 0 nor 1, or a
            feature has a name that no signature can have.
    """

    _drops_unknown_items = False

    def __init__(
        self,
        transform_graph: str,
        schema: str,
        splits: Mapping[str, str],
        label: Label,
        reads: Callable[[Feature], bool],
        quantiles: bool = False,
        history: Sequence[str] = (),
    ):
        # Items that train has not seen are scored by their features, by `rank` as by `score`.
        super().__init__(transform_graph, schema, splits, cold_items=True, history=history)
        self.label = label
        columns = {column.name: column for column in read_schema(schema).feature}
        self._lists = columns["item_id"].value_count.max != 1
        ids = [
            name
            for name in ("user_id", "item_id")
            if feature_types.ANONYMOUS not in columns[name].annotation.tag
        ]
        features = [
            feature
            for feature in [*self.features, *(DOCUMENTS if REVIEW in columns else ())]
            # A list of a train row of another kind (a profile's ratings) is no field of the one row
            # that is scored.
            if reads(feature) and not (self._lists and feature.entity == "context")
        ]
        self.fields = tuple(
            [self._field(name, name.removesuffix("_id"), ID) for name in ids]
            + [self._field(feature.name, feature.entity, feature.kind) for feature in features]
        )
        self.quantiles = {
            field.name: quantile_column(field.name)
            for field in self.fields
            if quantiles and field.kind == NUMERIC
        }
        for field in self.fields:
            if field.name in self.quantiles.values():
                raise DataError(
                    f"the column {field.name!r} is called what a number's quantile is; rename it "
                    "under data.columns"
                )
            if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", field.name):
                raise DataError(
                    f"the feature {field.name!r} cannot name an input of a served model; required: "
                    "letters, digits and _, a letter first. "
                    "Rename the column under data.columns, such as "
                    f"{re.sub('[^A-Za-z0-9_]+', '_', field.name)}: {field.name!r}"
                )
        # Traced once for all splits and signatures.
        self._transform = traced(self._transform_columns, reduce_retracing=True)

    def field(self, name: str) -> Field:
        """Returns the field called `name`.

        Raises:
            DataError: the data has none (anonymous data has no ids).
        """
        for field in self.fields:
            if field.name == name:
                return field
        names = ", ".join(field.name for field in self.fields)
        raise DataError(
            f"the model needs the field {name!r}, which this data does not have; received: {names}"
        )

    @functools.cached_property
    def train(self) -> dict[str, np.ndarray | tf.RaggedTensor]:
        """The train rows of the `event` kind: `label` ([E] float32) first, then every field.

        A field is [E] int32 or ragged [E, None] int32. Beside them stand what the run names of
        WEIGHT ([E] float32), divided by their mean, since only proportions matter, and GROUP.
        """
        rows = self._read("train")
        if not len(rows[LABEL]):
            raise DataError(
                "the train split holds no rows; required: at least one labelled event before the "
                "split point"
            )
        if WEIGHT in rows:
            mean = rows[WEIGHT].mean(dtype=np.float64)
            if not mean > 0:
                raise DataError(
                    f"label.weight: {self.label.weight!r}: required: a train row that weighs more "
                    "than 0; all of them are 0"
                )
            rows[WEIGHT] = (rows[WEIGHT] / mean).astype(np.float32)
        return rows

    @property
    def unknown_rows(self) -> dict[str, int]:
        """Field -> train rows with a value that its vocabulary lacks; fields with such rows alone.

        It is there less often than `features.min_count`, or the vocabulary is as large as one gets.
        Empty where train rows are lists.
        """
        if self._lists:
            return {}
        found = {}
        for field in self.fields:
            column = self.train[field.name]
            if isinstance(column, tf.RaggedTensor):
                unknown = tf.reduce_any(column == UNKNOWN, axis=1).numpy()
            else:
                unknown = column == UNKNOWN
            found[field.name] = int(np.count_nonzero(unknown))
        return {name: rows for name, rows in found.items() if rows}

    @functools.cached_property
    def train_labels(self) -> np.ndarray:
        """[E] float32 labels of the train events, whatever the example kind."""
        labels = self.events.label if self._lists else self.train[LABEL]
        self.check_labels(labels, "train")
        return labels

    @functools.cached_property
    def label_mean(self) -> float:
        """The mean train label, weighted as the run has it: what the constant predictor answers."""
        labels = self.train_labels.astype(np.float64)
        return float(np.average(labels, weights=self.train[WEIGHT] if self.label.weight else None))

    @functools.cached_property
    def label_range(self) -> tuple[float, float]:
        """The smallest and the largest train label; predicted ratings are clipped to it."""
        return float(self.train_labels.min()), float(self.train_labels.max())

    def parse(self, examples: tf.Tensor) -> tuple[Inputs, tf.Tensor, tf.Tensor]:
        """Parses [B] serialized rows, where every field may be missing.

        Returns:
            The inputs; [B] float32 labels, NaN where there is none; and [B] int64 hashes of the
            user ids.
        """
        rows = tf.io.parse_example(examples, self._parsing())
        user = _joined(rows["user_id"])
        inputs = self._transform(self._columns_of(rows)) | self._histories_of(rows)
        return (
            {name: _dense(column) for name, column in inputs.items()},
            rows[LABEL],
            tf.strings.to_hash_bucket_fast(user, _HASHES),
        )

    def beside(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """What stands beside the fields of [B] serialized rows, of what the run names.

        WEIGHT, [B] float32, and GROUP, [B] int64: a hash of the user and what the group is called.
        """
        spec = {"user_id": tf.io.VarLenFeature(tf.string), **self._beside_spec()}
        return self._beside(tf.io.parse_example(examples, spec))

    def _beside_spec(self) -> dict[str, Any]:
        named = {WEIGHT: (self.label.weight, 1.0), GROUP: (self.label.group, "")}
        return {
            name: tf.io.FixedLenFeature(
                [], tf.float32 if name == WEIGHT else tf.string, default_value=default
            )
            for name, (column, default) in named.items()
            if column
        }

    def _beside(self, rows: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        beside = {name: rows[name] for name in self._beside_spec()}
        if GROUP in beside:
            name = tf.strings.join([_joined(rows["user_id"]), beside[GROUP]], separator="\0")
            beside[GROUP] = tf.strings.to_hash_bucket_fast(name, _HASHES)
        return beside

    def transform_raw(self, raw: Mapping[str, tf.Tensor]) -> Inputs:
        """Transforms raw values by name as a request gives them.

        These are strings [B] or [B, L] padded with "", numbers [B] float32 or NaN.
        """
        columns = {field.name: present(raw[field.name], field.dtype) for field in self.fields}
        inputs = {name: _dense(column) for name, column in self._transform(columns).items()}
        return inputs | self.history_inputs(raw) | self._table_indices(raw)

    @property
    def history_names(self) -> tuple[str, ...]:
        """What a request may tell of what the user had; empty where the model reads no history."""
        return ("history", *self.histories.columns) if self.histories.columns else ()

    def history_inputs(self, raw: Mapping[str, tf.Tensor]) -> Inputs:
        """Reads the histories of requests that tell them, [B, H] by name, padded with ""."""
        if not self.history_names or "history" not in raw:
            return {}
        beside = {name: raw[name] for name in self.histories.columns}
        return {
            name: _dense(column)
            for name, column in _named(self.histories.read_padded(raw["history"], beside)).items()
        }

    def _histories_of(self, rows: Mapping[str, Any]) -> Inputs:
        """The same of parsed rows, as they are: ragged."""
        if not self.history_names:
            return {}
        ids = {name: _joined(rows[name]) for name in ("user_id", "item_id")}
        return {**self._table_indices(ids), **_named(self.histories.read(rows))}

    def _table_indices(self, ids: Mapping[str, tf.Tensor]) -> Inputs:
        if not self.history_names:
            return {}
        found = (self.user_table.lookup(ids["user_id"]), self.item_table.lookup(ids["item_id"]))
        return {name: tf.cast(index, tf.int32) for name, index in zip(_TABLES, found, strict=True)}

    @property
    def context_fields(self) -> tuple[Field, ...]:
        """The fields that neither the user nor the item says: what a request may tell of itself."""
        return tuple(field for field in self.fields if field.entity == "context")

    def context_inputs(self, raw: Mapping[str, tf.Tensor]) -> Inputs:
        """Transforms raw values of context fields by name, as `transform_raw` does all."""
        fields = [field for field in self.context_fields if field.name in raw]
        if not fields:
            return {}
        columns = self.transform_layer(
            {field.name: present(raw[field.name], field.dtype) for field in fields}
        )
        return {name: _dense(value) for name, value in self._inputs_of(fields, columns).items()}

    def lookup(self, user: tf.Tensor, item: tf.Tensor) -> Inputs:
        """Inputs of (user, item) pairs out of the two tables, in-graph.

        Context fields, histories and documents are missing.

        Args:
            user: [B] int64 indices of `user_table`.
            item: [B] int64 indices of `item_table`.
        """
        inputs = {}
        if self.history_names:
            tables = zip(_TABLES, (user, item), strict=True)
            inputs = {name: tf.cast(index, tf.int32) for name, index in tables}
            none = tf.zeros_like(inputs["table_user"])[:, tf.newaxis]
            inputs |= dict.fromkeys(self.history_names, none)
        for field in self.fields:
            entities, index = (self.users, user) if field.entity == "user" else (self.items, item)
            if field.kind == ID:
                inputs[field.name] = _known(index, entities)
            elif field.entity == "context" or field.kind == DOCUMENT:
                zeros = tf.zeros_like(user, tf.int32)
                inputs[field.name] = zeros if field.single else zeros[:, tf.newaxis]
            else:
                inputs[field.name] = tf.cast(
                    _dense(tf.gather(entities.features[field.name], index)), tf.int32
                )
            if field.name in self.quantiles:
                values = entities.quantiles.get(field.name)
                known = (
                    tf.zeros_like(user, tf.float32) if values is None else tf.gather(values, index)
                )
                inputs[self.quantiles[field.name]] = known
        return inputs

    @property
    def left_out(self) -> dict[str, dict[str, int]]:
        """What the inputs of a row are without a field: field -> the inputs that say it -> index.

        An id is unknown, the rest is missing. The history, where the model reads one, is among the
        fields: it is all that the user had.
        """
        fields = {
            field.name: {field.name: UNKNOWN if field.kind == ID else 0} for field in self.fields
        }
        for name, quantile in self.quantiles.items():
            fields[name][quantile] = 0
        return fields | (
            {"history": dict.fromkeys(self.history_names, 0)} if self.history_names else {}
        )

    def input_signature(self) -> dict[str, tf.TensorSpec]:
        """What `Inputs` are, of any batch size and number of values."""
        quantiles = {
            name: tf.TensorSpec([None], tf.float32, name=name) for name in self.quantiles.values()
        }
        histories = {
            name: tf.TensorSpec([None] if name in _TABLES else [None, None], tf.int32, name=name)
            for name in ((*self.history_names, *_TABLES) if self.history_names else ())
        }
        return (
            quantiles
            | histories
            | {
                field.name: tf.TensorSpec(
                    [None] if field.single else [None, None], tf.int32, name=field.name
                )
                for field in self.fields
            }
        )

    def raw_signature(self) -> dict[str, tf.TensorSpec]:
        """What `transform_raw` takes, by name."""
        return self.history_signature() | {
            field.name: tf.TensorSpec(
                [None, None] if field.listed else [None],
                tf.string if field.dtype == tf.string else tf.float32,
                name=field.name,
            )
            for field in self.fields
        }

    def history_signature(self) -> dict[str, tf.TensorSpec]:
        """What `history_inputs` takes, by name."""
        if not self.history_names:
            return {}
        history = tf.TensorSpec([None, None], tf.string, name="history")
        return {"history": history, **self.histories.signature()}

    def _read(self, split: str) -> dict[str, Any]:
        def columns(rows):
            beside = {LABEL: rows[LABEL], **self._beside(rows)}
            fields = self._transform(self._columns_of(rows))
            return beside | fields | self._histories_of(rows)

        spec = {**self._parsing(), **self._beside_spec()}
        rows = read_columns(self._splits[split], spec, columns)
        return {LABEL: rows.pop(LABEL), **rows}

    def _parsing(self) -> dict[str, Any]:
        spec = {field.name: tf.io.VarLenFeature(field.dtype) for field in self.fields}
        label = tf.io.FixedLenFeature([], tf.float32, default_value=float("nan"))
        spec |= self.histories.parsing() if self.history_names else {}
        ids = dict.fromkeys(("user_id", "item_id"), tf.io.VarLenFeature(tf.string))
        return {**spec, **ids, LABEL: label}

    def _columns_of(self, rows: Mapping[str, Any]) -> dict[str, tf.SparseTensor]:
        return {field.name: rows[field.name] for field in self.fields}

    def _transform_columns(
        self, raw: Mapping[str, tf.SparseTensor]
    ) -> dict[str, tf.Tensor | tf.RaggedTensor]:
        """Raw sparse columns -> [B] int32, or ragged [B, None] int32, by field."""
        if not self.fields:
            return {}
        told = {
            field.name: raw[field.name] for field in self.fields if field.kind not in (DOCUMENT, ID)
        }
        columns = self.transform_layer(told) if told else {}
        for field in self.fields:
            if field.kind == ID:
                columns[field.name] = self._id_index(field, _joined(raw[field.name]))
            if field.kind == DOCUMENT:
                columns[field.name] = self.transform_layer({REVIEW: raw[field.name]})[REVIEW]
        return self._inputs_of(self.fields, columns)

    def _id_index(self, field: Field, identity: tf.Tensor) -> tf.Tensor:
        """[B] strings, "" where missing -> [B] int32 indices of a field that is an id."""
        is_user = field.entity == "user"
        table, entities = (
            (self.user_table, self.users) if is_user else (self.item_table, self.items)
        )
        return tf.where(identity == "", 0, _known(table.lookup(identity), entities))

    def _inputs_of(
        self, fields: Sequence[Field], columns: Mapping[str, tf.SparseTensor]
    ) -> dict[str, tf.Tensor | tf.RaggedTensor]:
        """Transformed columns as inputs, those of many values ragged."""
        outputs = {}
        for field in fields:
            if field.kind == ID:
                outputs[field.name] = columns[field.name]
                continue
            ragged = to_ragged(tf.cast(columns[field.name], tf.int32))
            outputs[field.name] = first_value(ragged) if field.single else ragged
            if quantile := self.quantiles.get(field.name):
                outputs[quantile] = first_value(to_ragged(columns[quantile]))
        return outputs

    def check_labels(self, labels: np.ndarray, split: str) -> None:
        """Raises DataError unless every label is a number and, in a click run, 0 or 1."""
        good = np.isin(labels, (0.0, 1.0)) if self.label.is_click else np.isfinite(labels)
        if not good.all():
            wanted = "0 or 1" if self.label.is_click else "a number"
            raise DataError(
                f"{split}: {np.sum(~good):,} of {len(good):,} labels (label.column: "
                f"{self.label.column}) are not {wanted}; "
                f"the first is {labels[np.argmin(good)]:g}. A rating becomes a click with "
                "label.threshold"
            )


def _dense(column: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
    return column.to_tensor() if isinstance(column, tf.RaggedTensor) else column


def _known(index: tf.Tensor, entities: Entities) -> tf.Tensor:
    """Indices of a table as a field has them, int32: its vocabulary ends where train's ids do."""
    return tf.cast(tf.where(index < entities.embedding_rows, index, UNKNOWN), tf.int32)


def _joined(column: tf.SparseTensor) -> tf.Tensor:
    """[B] the one string of every row, "" where there is none."""
    return tf.strings.reduce_join(tf.sparse.to_dense(column, default_value=""), axis=1)


def _named(history: History) -> dict[str, tf.RaggedTensor]:
    """The columns of histories as inputs: ragged int32 indices."""
    columns = history.columns()
    columns["history"] = columns.pop("items")
    return {name: tf.cast(column, tf.int32) for name, column in columns.items()}
