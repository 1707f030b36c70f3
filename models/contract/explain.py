"""Why an item is answered: which items of the user's history carried it. Plain TensorFlow ops.

How a model tells is one of `models.names.registry.EXPLANATIONS`: its `explains`, which is the
`basis` of an answer, and its `contributions`, which are the weights. Instead of a model

- `segment` says that the item is popular in the user's segment, which is the one reason;
- `popularity`, that it is popular: there is no reason;
- `pin`, that a rule of the request has put the item there: likewise.

Of a history the newest `NEWEST` different items are looked at, however often each stands in it; of
a `difference`, which asks the model again for each, `LEFT_OUT`. Only those whose weight is above 0
have carried anything. Who has no history has no reasons.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from models.contract.query import Query
from models.inputs.columns import choose
from models.inputs.preprocessing import FIRST_TOKEN

NEWEST, LEFT_OUT = 1000, 50
_REASONS = 50  # of an item, whatever a request says
POPULARITY, SEGMENT, PIN = "popularity", "segment", "pin"


def reasons_signature() -> dict[str, tf.TensorSpec]:
    """The input of a signature that explains: how many reasons an item has at most, [B]."""
    return {"reasons": tf.TensorSpec([None], tf.int32, name="reasons")}


def newest_items(history: tf.RaggedTensor, most: int = NEWEST) -> tf.Tensor:
    """Ragged [B, None] int64 items, oldest first -> [B, L], each once, newest first, padded with 0.

    L is `most` at most.
    """
    return tf.map_fn(
        lambda row: tf.unique(row[::-1]).y[:most],
        history,
        fn_output_signature=tf.RaggedTensorSpec([None], tf.int64, ragged_rank=0),
    ).to_tensor()


def times_in(history: tf.RaggedTensor, items: tf.Tensor) -> tf.Tensor:
    """[B, L] float32: how often items [B, L] stand in histories, ragged [B, None]."""
    return sum_of(tf.ones_like(history, tf.float32).to_tensor(), history, items)


def sum_of(values: tf.Tensor, history: tf.RaggedTensor, items: tf.Tensor) -> tf.Tensor:
    """[B, L]: the sums of what stands beside events [B, H] over the events of each item [B, L]."""
    same = history.to_tensor()[:, tf.newaxis] == items[:, :, tf.newaxis]
    return tf.reduce_sum(tf.cast(same, values.dtype) * values[:, tf.newaxis], axis=2)


def without_each(query: Query, row: tf.Tensor, items: tf.Tensor) -> Query:
    """A query of 1 + L rows: one of a query, and the same without each of L items [L]."""
    history = query.history[row]
    kept = tf.pad(history != items[:, tf.newaxis], [[1, 0], [0, 0]], constant_values=True)
    copies = tf.fill(tf.shape(kept)[:1], row)
    kept = tf.RaggedTensor.from_tensor(kept)

    def events(column: tf.RaggedTensor | None) -> tf.RaggedTensor | None:
        return None if column is None else choose(tf.gather(column, copies), kept)

    context = query.context and {
        name: tf.gather(value, copies) for name, value in query.context.items()
    }
    return query._replace(
        user=tf.gather(query.user, copies),
        known=tf.gather(query.known, copies),
        history=events(query.history),
        event_types=events(query.event_types),
        dwell=events(query.dwell),
        timestamps=events(query.timestamps),
        context=context,
    )


def differences(
    query: Query, items: tf.Tensor, scores: Callable[[Query, tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """What scores lose where items are left out of the histories.

    Row by row, so that no more is held at once than of `LEFT_OUT` queries and one.

    Args:
        query: B rows.
        items: [B, L] int64, padded with 0.
        scores: of a query of V rows, made of a row of the other, and the number of that: [V, K].

    Returns:
        [B, K, L] float32.
    """

    def of_row(row: tf.Tensor) -> tf.Tensor:
        found = tf.cast(scores(without_each(query, row, items[row]), row), tf.float32)
        return tf.transpose(found[:1] - found[1:])

    return tf.map_fn(
        of_row,
        tf.range(tf.shape(items)[0]),
        fn_output_signature=tf.TensorSpec([None, None], tf.float32),
    )


def largest(weights: tf.Tensor, names: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The names of the largest weights above 0, largest first, and the weights.

    Args:
        weights: [B, K, L] float32.
        names: [B, L] strings.
        count: [B] int32, how many.

    Returns:
        [B, K, R] strings, "" where there are fewer, and [B, K, R] float32, 0 there; R is the
        largest count, 50 at most.
    """
    most = tf.clip_by_value(tf.reduce_max(tf.concat([count, [0]], axis=0)), 0, _REASONS)
    short = tf.maximum(most - tf.shape(names)[1], 0)
    names = tf.pad(names, [[0, 0], [0, short]], constant_values="")
    best = tf.math.top_k(tf.pad(weights, [[0, 0], [0, 0], [0, short]]), most)
    wanted = tf.range(most) < count[:, tf.newaxis, tf.newaxis]
    there = wanted & (best.values > 0)
    name = tf.gather(names, best.indices, batch_dims=1)
    return tf.where(there, name, ""), tf.where(there, best.values, 0.0)


def with_pins(
    reasons: dict[str, tf.Tensor], item_id: tf.Tensor, pin: tf.Tensor
) -> dict[str, tf.Tensor]:
    """The reasons of items [B, K], of which those among the pins [B, P] say that they are."""
    pinned = tf.reduce_any(item_id[:, :, tf.newaxis] == pin[:, tf.newaxis], axis=2)
    pinned &= item_id != ""
    return {
        "reason": tf.where(pinned[..., tf.newaxis], "", reasons["reason"]),
        "weight": tf.where(pinned[..., tf.newaxis], 0.0, reasons["weight"]),
        "basis": tf.where(pinned, PIN, reasons["basis"]),
    }


def explained(
    model: Any,
    query: Query,
    answered: tf.Tensor,
    position: tf.Tensor,
    catalogue: Any,
    ids: tf.Tensor,
    fallback: tuple[tf.Tensor, tf.Tensor],
    count: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """What carried items.

    Args:
        model: a `RetrieveModel`.
        query: who asks.
        answered: [B] bool: by the model.
        position: [B, K] int32 of the catalogue, -1 for none.
        catalogue: as of `RetrieveModel.catalogue`.
        ids: [N] strings of the catalogue.
        fallback: whom the model does not answer: [B] names of their segments, "" for none, and
            [B, K] float32 scores of the items in them.
        count: [B] int32, how many reasons.

    Returns:
        `reason` [B, K, R] strings, `weight` [B, K, R] float32 and `basis` [B, K] strings, as of
        `largest` and of the module; all of them empty where there is no item.
    """
    there, place = position >= 0, tf.maximum(position, 0)
    most = LEFT_OUT if model.explains == "difference" else NEWEST
    history = newest_items(query.history, most)
    if model.explains in ("none", POPULARITY):
        shape = tf.concat([tf.shape(position), tf.shape(history)[1:]], axis=0)
        weights = tf.zeros(shape)
    else:
        weights = tf.cast(model.contributions(query, history, place, catalogue), tf.float32)
    counted = (
        there[..., tf.newaxis] & answered[:, tf.newaxis, tf.newaxis] & (history > 0)[:, tf.newaxis]
    )
    weights = tf.where(counted & tf.math.is_finite(weights), weights, 0.0)
    names = tf.where(history > 0, tf.gather(ids, tf.maximum(history - FIRST_TOKEN, 0)), "")
    # One more, of the segment: whoever has reasons of the one kind has none of the other.
    segment, score = fallback
    by_segment = ~answered & (segment != "")
    score = tf.where(there & by_segment[:, tf.newaxis], score, 0.0)
    weights = tf.concat([weights, score[..., tf.newaxis]], axis=2)
    reason, weight = largest(weights, tf.concat([names, segment[:, tf.newaxis]], axis=1), count)
    basis = tf.where(answered, model.explains, tf.where(by_segment, SEGMENT, POPULARITY))
    return {
        "reason": reason,
        "weight": weight,
        "basis": tf.where(there, basis[:, tf.newaxis], ""),
    }
