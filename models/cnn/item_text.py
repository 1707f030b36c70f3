"""The text of items as one sequence of words.

It comes out of all columns that hold text and of the reviews.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from models.inputs.columns import choose
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.score_data import ScoreData
from models.names.errors import DataError
from models.names.features import DOCUMENT, TEXT


class ItemText:
    """Words of items in a vocabulary of its own, chosen by the texts of the items that train has.

    A text is cut after its first words; words that are not in the vocabulary are then taken out, as
    in Kim et al.'s code.

    Args:
        data: has text fields of items, or reviews.
        length: words of a text before any are taken out.
        vocabulary: how many words there are, the commonest.
        max_share: words in more of the texts than this are left out.

    Attributes:
        tokens: the vocabulary; index 2 + n is word n.
        words: [N + 2, length] int32 words of the items by index, 0 behind the last.

    Raises:
        DataError: the items have no text.
    """

    def __init__(self, data: ScoreData, length: int, vocabulary: int, max_share: float):
        self._fields = [
            field
            for field in data.fields
            if field.entity == "item" and field.kind in (TEXT, DOCUMENT)
        ]
        if not self._fields:
            raise DataError(
                "the model reads the text of items; required: a column of the table items that "
                "data.schema says is text "
                "(natural_language_domain), or a column 'review' of the table events; received none"
            )
        self._length = length
        tokens = np.concatenate([np.asarray(field.tokens, object) for field in self._fields])
        distinct, number = (
            np.unique(tokens, return_inverse=True)
            if len(tokens)
            else (tokens, np.zeros(0, np.int64))
        )
        # Every index of every field, one field after the other -> number of the distinct word; -1
        # for missing and unknown ones.
        numbers, start = [], 0
        for field in self._fields:
            numbers += [np.full(FIRST_TOKEN, -1), number[start : start + len(field.tokens)]]
            start += len(field.tokens)
        numbers = np.concatenate(numbers).astype(np.int64)
        texts = self._cut(
            {field.name: _of_all_items(data, field, length) for field in self._fields}
        )
        kept = self._choose(
            numbers, texts, data.items.train_count, len(distinct), vocabulary, max_share
        )
        self.tokens = tuple(distinct[kept])
        place = np.zeros(len(distinct) + 1, np.int32)  # the last is that of -1
        place[kept] = FIRST_TOKEN + np.arange(len(kept))
        self._index = tf.constant(place[numbers])
        self.words = self._known(texts)

    def read(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """[B, L] words of each field by name -> [B, length] int32 words of the text."""
        return self._known(self._cut(inputs))

    def _cut(self, columns: Mapping[str, tf.Tensor | tf.RaggedTensor]) -> tf.RaggedTensor:
        """The first words of all fields, ragged [B, None] int32: an index over all fields."""
        parts, offset = [], 0
        for field in self._fields:
            column = columns[field.name]
            words = column if isinstance(column, tf.RaggedTensor) else choose(column, column > 0)
            parts.append(tf.cast(words, tf.int32) + offset)
            offset += field.size
        return tf.concat(parts, axis=1)[:, : self._length]

    def _known(self, texts: tf.RaggedTensor) -> tf.Tensor:
        words = texts.with_flat_values(tf.gather(self._index, texts.flat_values))
        return choose(words, words.with_flat_values(words.flat_values > 0)).to_tensor(
            shape=[None, self._length]
        )

    @staticmethod
    def _choose(numbers, texts, known, count, vocabulary, max_share) -> np.ndarray:
        """The numbers of the words to keep, the commonest first."""
        word = numbers[texts.flat_values.numpy()]
        item = texts.value_rowids().numpy()
        word, item = word[word >= 0], item[word >= 0]
        frequency = np.bincount(word, minlength=count)
        pairs = np.unique(np.stack([item, word]), axis=1)
        share = np.bincount(pairs[1], minlength=count) / max(known, 1)
        good = np.flatnonzero((frequency > 0) & (share <= max_share))
        return good[np.lexsort((good, -frequency[good]))][:vocabulary]


def _of_all_items(data: ScoreData, field, length: int) -> tf.RaggedTensor:
    """[N + 2, None] words of one field of the items that train has."""
    words = (
        data.documents("item", length).words
        if field.kind == DOCUMENT
        else data.items.features[field.name]
    )
    return words[: data.items.embedding_rows]
