"""Documents: the words of all train reviews of a user or of an item, the newest review first."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from models.inputs.columns import choose


@dataclass
class Documents:
    """The documents of all users, or of all items.

    Attributes:
        words: ragged [N + 2, None] int32 word indices (1 = unknown) of the users or items by index;
            rows 0 and 1 are empty.
        partners: the same shape; the index of the item (of the user) whom the review is about (is
            by) that a word is from; 1 for all whom train does not know.
    """

    words: tf.RaggedTensor
    partners: tf.RaggedTensor

    @property
    def lengths(self) -> np.ndarray:
        """[N + 2] int64 numbers of words."""
        return self.words.row_lengths().numpy()

    def without(self, owner: tf.Tensor, partner: tf.Tensor, length: int) -> tf.Tensor:
        """The documents of pairs, without what the pair itself has written.

        Of an unknown partner nobody can tell which review is the pair's own, so those of all
        unknown partners are left out.

        Args:
            owner: [B] indices of those whose documents are read.
            partner: [B] indices of the other side of each pair.
            length: words to return; older ones are cut off.

        Returns:
            [B, length] int32 words, 0 beyond the end.
        """
        words, partners = tf.gather(self.words, owner), tf.gather(self.partners, owner)
        own = tf.repeat(tf.cast(partner, partners.dtype), partners.row_lengths())
        others = choose(words, partners.with_flat_values(partners.flat_values != own))
        return others[:, :length].to_tensor(shape=[None, length])
