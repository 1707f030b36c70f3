"""The Transform step: what it fits, it fits on the train split and nothing else.

That goes for every vocabulary, boundary and count.

Index layout of every transformed id and category: 0 = padding or missing, 1 = unknown, 2.. =
vocabulary, most frequent first.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from models.inputs import tensorflow_private
from models.names.features import EVENT_TYPE, NOT_FEATURES, REVIEW

# What branches on a tensor says so (`tf.where`, `tf.cond`, `tf.scan`), so nothing here needs
# AutoGraph, whose conversion costs every process that traces seconds. Of the legacy Keras it is
# TensorFlow 2.21's own rule, which 2.16 lacks.
for package in ("models", "tensorflow_recommenders", "tensorflow_transform", "tf_keras"):
    tensorflow_private.leave_unconverted(package)

UNKNOWN = 1
FIRST_TOKEN = 2
ITEM_FREQUENCY = "item_frequency"
BUCKETS = 10
_QUANTILES = 100
_WORDS = 20_000
_CATEGORIES = 100_000

# Vocabularies that are not applied: data and models have look-ups of their own, and a table of many
# ids need not be there twice.
READ_BACK = ("user_id", "item_id", ITEM_FREQUENCY)
_PASSED_ON = ("rating", "label", "timestamp", "row", "dwell")


class Vocabulary(NamedTuple):
    """What is asked of a vocabulary.

    Attributes:
        column: string or int64, of any shape.
        min_count: a value that is there less often is left out.
        top: values at most, the most frequent; None for all.
        with_counts: each line begins with how often the value is there.
    """

    column: tf.SparseTensor
    min_count: int = 1
    top: int | None = None
    with_counts: bool = False


def preprocessing_fn(
    inputs: dict[str, Any],
    settings: Mapping[str, Any],
    fit: Callable[[Mapping[str, Vocabulary]], Mapping[str, tf.Tensor]],
) -> dict[str, Any]:
    """Transforms raw columns to indices and numbers.

    Args:
        inputs: raw columns of the train rows, dense or sparse, as the schema says.
        settings: `text`, the names of the columns that hold text, and optionally `log`, the names
            of heavy-tailed counts (`features.log_columns`), `min_count`, below which an id or a
            category counts as unknown, `quantiles`: whether numbers are wanted as such, and
            `hashed`, the names of categories of which no vocabulary is wanted (`hash_rows`).
        fit: fits vocabularies: name -> what is asked for, to name -> the path of its file, which
            the transform graph knows by the name.

    Returns:
        Sparse int64 columns under the same names: categories as indices, text as word indices,
        numbers as 1-based quantile buckets plus one, `hashed` categories as hashes (see `hashed`),
        counts as categories (see `log_category`); labels and times pass through unchanged. With
        `quantiles`, for a number x also `x_quantile`: float32, the share of train's values below
        it, in [0, 1). Of ids the vocabularies alone are fitted.
    """
    outputs, asked = {}, {}
    min_count = int(settings.get("min_count", 1))
    for name in ("user_id", "item_id"):
        if name in inputs:
            asked[name] = Vocabulary(_sparse(inputs[name]), min_count)
    if "item_id" in inputs:
        # The counts behind popularity and the sampling probabilities.
        asked[ITEM_FREQUENCY] = Vocabulary(_sparse(inputs["item_id"]), with_counts=True)
    for name in sorted(set(inputs) - NOT_FEATURES):
        column = _sparse(inputs[name])
        if name in settings.get("log", ()):
            asked[name] = Vocabulary(log_category(column), min_count, _CATEGORIES)
        elif column.dtype != tf.string:
            outputs[name] = _bucket(column)
            if settings.get("quantiles"):
                outputs[quantile_column(name)] = _quantile(column)
        elif name in settings.get("hashed", ()) and name not in settings["text"]:
            value = tf.where(column.values == "", UNKNOWN, hashed(column.values))
            outputs[name] = tf.SparseTensor(
                column.indices, tf.cast(value, tf.int64), column.dense_shape
            )
        elif name in settings["text"]:
            asked[name] = Vocabulary(words(column), 1, _WORDS)
        else:
            asked[name] = Vocabulary(column, min_count, _CATEGORIES)
    if REVIEW in inputs:
        # No feature of its row: the words of documents (`models.inputs.documents`) are looked up
        # in its vocabulary.
        asked[REVIEW] = Vocabulary(words(_sparse(inputs[REVIEW])), 1, _WORDS)
    if EVENT_TYPE in inputs:
        # No feature: of an event that is to be predicted nobody knows the type. Histories have it.
        asked[EVENT_TYPE] = Vocabulary(_sparse(inputs[EVENT_TYPE]), 1, _CATEGORIES)
    for name, path in fit(asked).items():
        if name not in READ_BACK:
            outputs[name] = _index(asked[name].column, path)
    for name in _PASSED_ON:
        if name in inputs:
            outputs[name] = _sparse(inputs[name])
    return outputs


def hashed(values: tf.Tensor) -> tf.Tensor:
    """Strings of any shape -> int32 from FIRST_TOKEN on: what a value is without a vocabulary.

    Of 30 million values one in 70 has the hash of another.
    """
    bucket = tf.strings.to_hash_bucket_fast(values, 2**31 - 1 - FIRST_TOKEN)
    return tf.cast(bucket, tf.int32) + FIRST_TOKEN


def words(column: tf.SparseTensor) -> tf.SparseTensor:
    """Splits [batch, n] texts into lower-cased words of letters and digits, [batch, words]."""
    text = tf.strings.reduce_join(tf.RaggedTensor.from_sparse(column), axis=1, separator=" ")
    clean = tf.strings.regex_replace(
        tf.strings.lower(text, encoding="utf-8"), r"[^\p{L}\p{N}]+", " "
    )
    return tf.strings.split(tf.strings.strip(clean)).to_sparse()


def log_category(column: tf.SparseTensor) -> tf.SparseTensor:
    """Counts to categories, so that a long tail takes few of them.

    A value up to 2 is one of its own; beyond, it is 2 + floor(ln(x)^2).
    """
    number = tf.cast(column.values, tf.float32)
    logarithm = tf.math.log(tf.maximum(number, 1.0))
    category = tf.where(number > 2, 2 + tf.floor(logarithm**2), tf.floor(number))
    return tf.SparseTensor(column.indices, tf.cast(category, tf.int64), column.dense_shape)


def _index(column: tf.SparseTensor, vocabulary: tf.Tensor) -> tf.SparseTensor:
    index = tft.apply_vocabulary(column, vocabulary, default_value=UNKNOWN - FIRST_TOKEN)
    return tf.SparseTensor(index.indices, index.values + FIRST_TOKEN, index.dense_shape)


def _bucket(column: tf.SparseTensor) -> tf.SparseTensor:
    number = tf.SparseTensor(column.indices, tf.cast(column.values, tf.float32), column.dense_shape)
    bucket = tft.bucketize(number, num_buckets=BUCKETS)
    return tf.SparseTensor(
        bucket.indices, tf.cast(bucket.values, tf.int64) + FIRST_TOKEN, bucket.dense_shape
    )


def quantile_column(name: str) -> str:
    """What the quantile of a number is called."""
    return f"{name}_quantile"


def _quantile(column: tf.SparseTensor) -> tf.SparseTensor:
    number = tf.cast(column.values, tf.float32)
    boundaries = tft.quantiles(number, num_buckets=_QUANTILES, epsilon=0.1 / _QUANTILES)
    share = tft.apply_buckets_with_interpolation(number, boundaries)
    largest = np.nextafter(np.float32(1), np.float32(0))
    return tf.SparseTensor(
        column.indices, tf.clip_by_value(share, 0.0, largest), column.dense_shape
    )


def _sparse(column: Any) -> tf.SparseTensor:
    if isinstance(column, tf.SparseTensor):
        return column
    if isinstance(column, tf.RaggedTensor):
        return column.to_sparse()
    dense = tf.reshape(column, [tf.shape(column)[0], -1])
    # Not tf.sparse.from_dense: it would drop empty strings and zeros.
    return tf.RaggedTensor.from_tensor(dense).to_sparse()
