"""What a `retrieve` model is asked with."""

from typing import NamedTuple

import tensorflow as tf


class Query(NamedTuple):
    """Who asks, one row a request.

    It is a tuple, so that `tf.function`, `tf.nest` and strategies take it.

    What a request may come to carry beside its history is a field more here, filled in by
    `Retriever`; models read the fields that they know by name.

    Attributes:
        user: [B] int64 user indices; 1 where nobody knows the user, and beyond the train users
            where the tables alone do.
        known: [B] bool: train has seen the user.
        history: ragged [B, None] int64 item indices of the catalogue, oldest first, as they came:
            an item may stand in it several times. What it holds of a request, see
            `RetrieveModel.session_based`.
    """

    user: tf.Tensor
    known: tf.Tensor
    history: tf.RaggedTensor
