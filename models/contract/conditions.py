"""Conditions on the columns of items: parsed and evaluated in the graph, plain TensorFlow ops.

`models.contract.rules` says how they are written.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from models.inputs.item_columns import ItemColumns

_OPERATORS = ("<", "<=", "=", ">=", ">")
# Which of less, equal and greater an operator takes.
_TAKES = (
    (True, False, False),
    (True, True, False),
    (False, True, False),
    (False, True, True),
    (False, False, True),
)
_CONDITION = r"^\s*(not\s+)?(.+?)\s*(<=|>=|=|<|>|\sin\s)\s*(.*\S)\s*$"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_PROTECTED = ((r"\\\\", "\x01"), (r"\\\|", "\x02"), (r"\\or", "\x03"))
_SEPARATOR = "\x1f"  # between a column and a value; no text has it


class Conditions(tf.Module):
    """The columns of a catalogue of N items, and which items a condition holds of.

    Args:
        columns: of its items.
        size: N.
    """

    def __init__(self, columns: ItemColumns, size: int):
        super().__init__()
        self._size = size
        self._numbers = tf.Variable(
            tf.stack(list(columns.numbers.values()))
            if columns.numbers
            else tf.zeros([1, size], tf.float64),
            trainable=False,
        )
        self._texts, self._number_names = list(columns.values), list(columns.numbers)
        self._names = sorted([*self._texts, *self._number_names])
        self._text_column = _places(self._texts)
        self._number_column = _places(self._number_names)
        # All values of all columns have codes of one space from 1 on; 0 is a value of no item.
        keys = [
            tf.strings.join([name, column.flat_values], _SEPARATOR)
            for name, column in columns.values.items()
        ]
        every = tf.concat(keys, axis=0) if keys else tf.constant([], tf.string)
        tokens, code = tf.unique(every, out_idx=tf.int32)
        self._codes = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.concat([tokens, [""]], axis=0), tf.range(1, tf.size(tokens) + 2)
            ),
            0,
        )
        self._item_codes = tf.Variable(tf.concat([code + 1, [0]], axis=0), trainable=False)
        splits, start = [], 0
        for column in columns.values.values():
            splits.append(column.row_splits + start)
            start += int(tf.size(column.flat_values))
        self._splits = tf.Variable(
            tf.stack(splits) if splits else tf.zeros([1, size + 1], tf.int64), trainable=False
        )
        # The same the other way around: what a condition reads is as long as what it holds of.
        rows = [column.value_rowids() for column in columns.values.values()]
        items = tf.concat(rows, axis=0) if rows else tf.constant([], tf.int64)
        by_code = tf.RaggedTensor.from_value_rowids(
            tf.gather(tf.cast(items, tf.int32), tf.argsort(code, stable=True)),
            tf.cast(tf.sort(code) + 1, tf.int64),
            nrows=tf.cast(tf.size(tokens) + 2, tf.int64),
        )
        # A variable of no values is none.
        self._items = tf.Variable(tf.concat([by_code.values, [0]], axis=0), trainable=False)
        self._starts = tf.Variable(by_code.row_splits, trainable=False)

    @property
    def names(self) -> list[str]:
        """Of the columns, sorted."""
        return self._names

    def hold(self, conditions: tf.Tensor) -> tf.Tensor:
        """[V, N] bool: of which items each of [V] conditions holds.

        Raises:
            InvalidArgumentError: a condition is none, a column or its type is another, or a number
                is none; by name.
        """
        terms = tf.strings.split(conditions, " or ")
        text = terms.flat_values
        text = require(
            tf.strings.regex_full_match(text, _CONDITION),
            text,
            "where: required: COLUMN OPERATOR VALUE, with one of = in < <= > >=; received",
        )
        negated, name, operator, value = (
            tf.strings.regex_replace(text, _CONDITION, rf"\{group}") for group in (1, 2, 3, 4)
        )
        operator = tf.strings.strip(operator)
        is_in = operator == "in"
        number_column = self._number_column.lookup(name)
        compares = ~is_in & (operator != "=")
        numeric = number_column >= 0
        self._require_columns(
            name,
            numeric | ~compares & (self._text_column.lookup(name) >= 0),
            tf.where(compares, "a column of numbers", "a column of the items"),
        )
        values, term = _split_values(value, is_in)
        shape = [tf.size(text), self._size]
        fits = self._fit_values(name, values, term, shape)

        def with_numbers() -> tf.Tensor:
            return fits | self._fit_numbers(number_column, operator, values, term, shape)

        fits = tf.cond(tf.reduce_any(numeric), with_numbers, lambda: fits)
        fits ^= (negated != "")[:, tf.newaxis]
        condition = terms.value_rowids()

        def any_of_terms() -> tf.Tensor:
            count = tf.size(conditions)
            return tf.math.unsorted_segment_max(tf.cast(fits, tf.int8), condition, count) > 0

        alone = tf.size(text) == tf.size(conditions)
        return tf.cond(alone, lambda: fits, any_of_terms)

    def _fit_values(
        self, name: tf.Tensor, value: tf.Tensor, term: tf.Tensor, shape: Sequence[Any]
    ) -> tf.Tensor:
        """[T, N] bool: which items have one of a term's values.

        Args:
            name: [T] of columns.
            value: [W] strings.
            term: [W] int32, the term of each.
            shape: T and N.
        """
        # As the table has it, "" where it is a column of numbers or none.
        column = self._text_column.lookup(name)
        own = tf.gather([*self._texts, ""], tf.where(column < 0, len(self._texts), column))
        code = self._codes.lookup(tf.strings.join([tf.gather(own, term), value], _SEPARATOR))
        by_code = tf.RaggedTensor.from_row_splits(self._items, self._starts, validate=False)
        items = tf.gather(by_code, code)

        def of_terms() -> tf.Tensor:
            return tf.gather(term, items.value_rowids()) * shape[1] + items.flat_values

        place = tf.cond(shape[0] > 1, of_terms, lambda: items.flat_values)
        flat = tf.tensor_scatter_nd_update(
            tf.fill([shape[0] * shape[1]], False),
            place[:, tf.newaxis],
            tf.fill(tf.shape(place), True),
        )
        return tf.reshape(flat, shape)

    def _fit_numbers(
        self,
        column: tf.Tensor,
        operator: tf.Tensor,
        value: tf.Tensor,
        term: tf.Tensor,
        shape: Sequence[Any],
    ) -> tf.Tensor:
        """[T, N] bool: which items' numbers a term takes; of a term of texts none.

        Args:
            column: [T] int32 of numbers, -1 of texts.
            operator: [T] strings.
            value: [W] strings.
            term: [W] int32, the term of each.
            shape: T and N.
        """
        is_number = tf.gather(column, term) >= 0
        term, value = tf.boolean_mask(term, is_number), tf.boolean_mask(value, is_number)
        require(
            tf.strings.regex_full_match(value, _NUMBER),
            value,
            "where: required: a number to compare a column of numbers with; received",
        )
        bound = to_numbers(value, tf.float64)[:, tf.newaxis]
        own = tf.gather(self._numbers, tf.gather(column, term))
        # Of `in` a number takes what it takes of `=`.
        operator = tf.where(operator == "in", "=", operator)
        sign = tf.argmax(tf.gather(operator, term)[:, tf.newaxis] == _OPERATORS, axis=1)
        less, equal, greater = tf.unstack(tf.gather(_TAKES, sign)[:, :, tf.newaxis], axis=1)
        # Each of these is false of a number that is missing, which is NaN.
        taken = less & (own < bound) | equal & (own == bound) | greater & (own > bound)
        return tf.math.unsorted_segment_max(tf.cast(taken, tf.int8), term, shape[0]) > 0

    def categories(self, name: tf.Tensor, asked: tf.Tensor) -> tf.Tensor:
        """[T] int32 places of columns of categories, of those that are `asked` for.

        Raises:
            InvalidArgumentError: one that is asked for is not there; the nearest is named.
        """
        column = self._text_column.lookup(name)
        what = tf.fill(tf.shape(name), "a column of categories")
        self._require_columns(name, ~asked | (column >= 0), what)
        return column

    def codes_of(self, column: tf.Tensor) -> tf.RaggedTensor:
        """Ragged [N, None] int32 codes of the items in a column of categories."""
        splits = self._splits[column]
        codes = self._item_codes[splits[0] : splits[-1]]
        return tf.RaggedTensor.from_row_splits(codes, splits - splits[0], validate=False)

    def _require_columns(self, name: tf.Tensor, good: tf.Tensor, what: tf.Tensor) -> None:
        """Fails with the first column that is not `good`, `what` is required, and the nearest."""

        def refuse() -> tf.Tensor:
            lost = tf.boolean_mask(name, ~good)[0]
            what_first = tf.boolean_mask(what, ~good)[0]
            required = tf.strings.join(["required: ", what_first, "; received"])
            tf.debugging.Assert(False, [required, lost, *self._nearest(lost)])
            return True

        tf.cond(tf.reduce_all(good), lambda: True, refuse)

    def _nearest(self, name: tf.Tensor) -> list[Any]:
        if not self._names:
            return ["; the items have no columns"]
        letters = tf.strings.unicode_split(tf.fill([len(self._names)], name), "UTF-8")
        others = tf.strings.unicode_split(tf.constant(self._names), "UTF-8")
        distance = tf.edit_distance(letters.to_sparse(), others.to_sparse(), normalize=False)
        kinds = ["categories"] * len(self._texts) + ["numbers"] * len(self._number_names)
        kind = dict(zip([*self._texts, *self._number_names], kinds, strict=True))
        said = tf.constant([f"{name} ({kind[name]})" for name in self._names])
        return ["; the nearest is", said[tf.argmin(distance)]]


def require(holds: tf.Tensor, received: tf.Tensor, message: str) -> tf.Tensor:
    """Fails in the graph with the first of `received` [V] that does not hold.

    Returns:
        `received`, for what must not fail before this does.
    """

    def refuse() -> tf.Tensor:
        tf.debugging.Assert(False, [message, tf.boolean_mask(received, ~holds)[:1]])
        return True

    with tf.control_dependencies([tf.cond(tf.reduce_all(holds), lambda: True, refuse)]):
        return tf.identity(received)


def to_numbers(texts: tf.Tensor, kind: tf.DType) -> tf.Tensor:
    """Texts as numbers; 0 for what is none, which is refused elsewhere, maybe later."""
    good = tf.strings.regex_full_match(texts, _NUMBER)
    return tf.strings.to_number(tf.where(good, texts, "0"), kind)


def _split_values(value: tf.Tensor, is_in: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """[W] values of terms [T]: what bars part of `in`, the whole of others; and [W] int32 terms."""

    def parted(text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        values = tf.strings.split(text, "|")
        return tf.strings.strip(values.flat_values), tf.cast(values.value_rowids(), tf.int32)

    def protected() -> tuple[tf.Tensor, tf.Tensor]:
        # What a backslash protects is taken out of the way while bars part the values.
        hidden = value
        for sign, place in _PROTECTED:
            hidden = tf.strings.regex_replace(hidden, sign, place)
        whole = tf.strings.regex_replace(hidden, r"\|", "\x02")
        flat, term = parted(tf.where(is_in, hidden, whole))
        for (_, place), plain in zip(_PROTECTED, ("\\\\", "|", "or"), strict=True):
            flat = tf.strings.regex_replace(flat, place, plain)
        return flat, term

    special = tf.strings.regex_full_match(value, r"(?s).*\\.*")
    special |= tf.strings.regex_full_match(value, r"(?s).*\|.*") & ~is_in
    return tf.cond(tf.reduce_any(special), protected, lambda: parted(value))


def _places(names: Sequence[str]) -> tf.lookup.StaticHashTable:
    """Name of a column, as in the items' table or as built examples have it, -> its place."""
    keys = [*names, *(f"item_{name}" for name in names), ""]
    values = [*range(len(names))] * 2 + [-1]
    return tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.constant(keys), tf.constant(values, tf.int32)), -1
    )
