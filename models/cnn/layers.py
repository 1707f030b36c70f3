"""Text as convolutional networks read it: words, windows of words, the maximum over time."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.token_layers import TokenEmbedding, ZeroRows
from models.names.errors import DataError
from models.training.progress import say

_AT_ONCE = 64  # documents, outside of training: bounds memory however many rows are asked for


class WordEmbedding(TokenEmbedding):
    """Vectors of words: [B, L] indices -> [B, L, dimension].

    They are zeros where there is no word (index 0), and those of a word that train has not begin
    there: what train never has moves nothing.

    Args:
        tokens: the vocabulary; index 2 + n is word n.
        dimension: of a vector.
        initializer: of vectors that `vectors` does not have.
        vectors: a text file of pre-trained vectors, a word and its numbers a line (word2vec's and
            GloVe's text form); None for none.
        scale: what the vectors of the file are multiplied by.
    """

    def __init__(
        self,
        tokens,
        dimension: int,
        initializer,
        vectors: str | None = None,
        scale: float = 1.0,
        name: str | None = None,
    ):
        initializer = tf.keras.initializers.get(initializer)
        if vectors:
            initializer = pretrained(vectors, tokens, dimension, initializer, scale)
        super().__init__(
            tokens,
            FIRST_TOKEN + len(tokens),
            dimension,
            embeddings_initializer=ZeroRows(range(FIRST_TOKEN), initializer),
            name=name,
        )

    def call(self, inputs):
        return super().call(inputs) * tf.cast(inputs > 0, self.compute_dtype)[..., tf.newaxis]


class MaxOverTime(tf.keras.layers.Layer):
    """The max over t of ReLU(window_t * K + b).

    One convolution over all windows of `width` words, the best window for every kernel.

    Only windows of words count: a document of n words has n - width + 1 of them, one that is
    shorter than a window has the one that begins it, filled up with zeros. So the padding of a
    batch changes nothing. A document without words gives zeros.

    Args:
        kernels: number of kernels.
        width: words of a window.
    """

    def __init__(self, kernels: int, width: int, name: str | None = None, **convolution):
        super().__init__(name=name)
        self._width = width
        self._convolution = tf.keras.layers.Conv1D(kernels, width, activation="relu", **convolution)

    def call(self, embedded, lengths):
        """[B, L, dimension] vectors and [B] numbers of words -> [B, kernels]."""
        values = self._convolution(tf.pad(embedded, [[0, 0], [0, self._width - 1], [0, 0]]))
        windows = tf.maximum(lengths - self._width + 1, tf.minimum(lengths, 1))
        # ReLU gives nothing below zero, so zeros never win against a window.
        return tf.reduce_max(
            values * tf.sequence_mask(windows, tf.shape(values)[1], values.dtype)[..., tf.newaxis],
            axis=1,
        )


def count_words(words: tf.Tensor) -> tf.Tensor:
    """[B, L] indices, 0 behind the last word -> [B] int32 numbers of words."""
    return tf.math.count_nonzero(words, axis=1, dtype=tf.int32)


def trim(words: tf.Tensor) -> tf.Tensor:
    """[B, L] indices -> [B, longest] without the columns in which no document has a word.

    At least one column is left.
    """
    return words[:, : tf.reduce_max(tf.maximum(count_words(words), 1))]


def encode_distinct(
    encode: Callable[[tf.Tensor], tf.Tensor], words: tf.Tensor, width: int
) -> tf.Tensor:
    """Encodes each distinct document once, a few at a time.

    Args:
        encode: [D, L] indices -> [D, width] floats.
        words: [B, L] indices.
        width: of a code.

    Returns:
        [B, width] float32.
    """
    distinct, place = tf.raw_ops.UniqueV2(x=words, axis=[0])
    count = tf.shape(distinct)[0]
    # Documents of like lengths go together, since padding costs as much as words do.
    order = tf.argsort(count_words(distinct))
    distinct, place = (
        tf.gather(distinct, order),
        tf.gather(tf.math.invert_permutation(order), place),
    )
    size = tf.clip_by_value(count, 1, _AT_ONCE)
    whole = tf.pad(distinct, [[0, tf.maximum(-count % size, 1 - count)], [0, 0]])
    groups = tf.reshape(whole, tf.stack([-1, size, tf.shape(words)[1]]))
    codes = tf.map_fn(
        lambda group: tf.cast(encode(group), tf.float32),
        groups,
        fn_output_signature=tf.TensorSpec([None, width], tf.float32),
        parallel_iterations=1,
    )
    return tf.gather(tf.reshape(codes, [-1, width]), place)


def pretrained(path: str, tokens: Sequence[bytes], dimension: int, others, scale: float = 1.0):
    """Returns an initializer with the vectors of a file where it has a word.

    Elsewhere it has those of `others`.

    Raises:
        DataError: the file is missing, its vectors are of another dimension, or it has no word of
            the vocabulary.
    """
    row_of = {token: row for row, token in enumerate(tokens, start=FIRST_TOKEN)}
    rows, found = [], []
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                word, *values = line.split()
                if (
                    number == 1 and len(values) == 1
                ):  # word2vec's header: how many words, and the dimension
                    continue
                if word in row_of:
                    if len(values) != dimension:
                        raise DataError(
                            f"{path}, line {number}: required: a word and {dimension} numbers; "
                            f"received {len(values)} numbers"
                        )
                    rows.append(row_of[word])
                    found.append(np.array(values, np.float32))
    except (tf.errors.OpError, ValueError) as error:
        raise DataError(f"{path} cannot be read as word vectors: {error}") from error
    if not rows:
        raise DataError(
            f"{path} has none of the {len(tokens):,} words of the reviews and item texts of train"
        )
    say(f"{path}: vectors of {len(rows):,} of {len(tokens):,} words")
    indices, values = np.array(rows)[:, np.newaxis], scale * np.stack(found)

    def initial(shape, dtype=None, **_):
        return tf.tensor_scatter_nd_update(
            others(shape, dtype=dtype or tf.float32), indices, tf.cast(values, dtype or tf.float32)
        )

    return initial
