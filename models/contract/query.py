"""What a `retrieve` model is asked with."""

from typing import NamedTuple

import tensorflow as tf


class Query(NamedTuple):
    """Who asks, one row a request.

    It is a tuple, so that `tf.function`, `tf.nest` and strategies take it.

    `Retriever` fills in what the model says that it reads (`RetrieveModel.reads_history`,
    `reads_context`), whether or not the request tells it; the rest is None.

    Attributes:
        user: [B] int64 user indices; 1 where nobody knows the user, and beyond the train users
            where the tables alone do.
        known: [B] bool: train has seen the user.
        history: ragged [B, None] int64 item indices of the catalogue, oldest first, as they came:
            an item may stand in it several times. What it holds of a request, see
            `RetrieveModel.session_based`.
        event_types: parallel to `history`, see `models.inputs.history.History`.
        dwell: likewise.
        timestamps: likewise.
        context: name of a field of `TrainingData.context` -> [B] int64 index, ragged [B, None] of
            text; 0, or an empty row, where the request does not tell it.
    """

    user: tf.Tensor
    known: tf.Tensor
    history: tf.RaggedTensor
    event_types: tf.RaggedTensor | None = None
    dwell: tf.RaggedTensor | None = None
    timestamps: tf.RaggedTensor | None = None
    context: dict[str, tf.Tensor | tf.RaggedTensor] | None = None
