"""Ranking metrics per query, in-graph, over the whole catalogue.

Tie rule: conservative. A target ranks behind every item that scores the same, so a constant scorer
gains nothing. A score that is not a number counts as the worst for a target and as the best for any
other item.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from models.inputs.traced import traced
from models.names import metrics

AT_ONCE = 4_000_000
"""Scores that are ranked at once, which bounds the memory of an evaluation on any catalogue."""
_FEW = 4  # targets a query up to which ranks are counted rather than searched for
_NEVER = 1e9  # a rank that no cutoff reaches: masked, unknown or not-a-number targets


def rows_at_once(items: int) -> int:
    """How many rows are ranked at once where there are so many items."""
    return max(1, AT_ONCE // max(1, items))


def by_parts(function: Callable[[tf.Tensor], Any], rows: tf.Tensor, size: int) -> Any:
    """Applies a function to some rows at a time, one part after the other.

    Args:
        function: [P, ...] rows -> tensors [P, ...], in dictionaries or tuples.
        rows: [B, ...].
        size: rows of a part; the last has fewer.

    Returns:
        As the function, [B, ...].
    """
    spec = tf.TensorSpec([None, *rows.shape[1:]], rows.dtype)
    one = traced(function).get_concrete_function(spec)
    found = tf.map_fn(
        lambda begin: one(rows[begin : begin + size]),
        tf.range(0, tf.maximum(tf.shape(rows)[0], 1), size),  # of no rows one part, of none
        fn_output_signature=tf.nest.map_structure(
            lambda part: tf.RaggedTensorSpec(part.shape, part.dtype, ragged_rank=0),
            one.structured_outputs,
        ),
        parallel_iterations=1,
    )
    return tf.nest.map_structure(lambda parts: parts.values, found)


def ranks(scores: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Ranks targets among all items of their row.

    Args:
        scores: [B, N] float, -inf where an item must not be recommended.
        targets: [B, T] int, positions in the catalogue; -1 for a target outside of it or for
            padding.

    Returns:
        Two [B, T] float tensors of 1-based ranks: conservative (behind its ties) and optimistic
        (before them).
    """
    return _ranks_among(scores, scores, targets)


def _ranks_among(
    listed: tf.Tensor, scores: tf.Tensor, targets: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """As `ranks`, among the items whose scores are `listed` [B, L]; the targets are among them."""
    target_scores = tf.gather(scores, tf.maximum(targets, 0), batch_dims=1)
    ranked = (targets >= 0) & tf.math.is_finite(target_scores)
    numbers = tf.where(tf.math.is_nan(listed), tf.fill(tf.shape(listed), listed.dtype.max), listed)
    safe = tf.where(ranked, target_scores, tf.zeros_like(target_scores))
    # One look at every score a target is cheaper than sorting them, while the targets are few.
    not_below, above = tf.cond(
        tf.shape(targets)[1] <= _FEW, lambda: _count(numbers, safe), lambda: _search(numbers, safe)
    )
    never = tf.fill(tf.shape(safe), _NEVER)
    return tf.where(ranked, not_below, never), tf.where(ranked, above + 1.0, never)


def _count(scores: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """How many of [B, N] scores are at least, and how many above, each of [B, T] target scores."""
    scores, targets = scores[:, tf.newaxis], targets[:, :, tf.newaxis]
    return tuple(
        tf.reduce_sum(tf.cast(ahead, tf.float32), axis=2)
        for ahead in (scores >= targets, scores > targets)
    )


def _search(scores: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """As `_count`, in a sorted copy of the scores."""
    ascending, count = tf.sort(scores, axis=1), tf.cast(tf.shape(scores)[1], tf.float32)
    return tuple(
        count - tf.cast(tf.searchsorted(ascending, targets, side=side), tf.float32)
        for side in ("left", "right")
    )


def distinct(targets: tf.Tensor, target_count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Leaves each target of a row once, so that one that stands there twice gains once.

    Args:
        targets: [B, T] int, -1 for a target that cannot be ranked or for padding.
        target_count: [B] float, targets of the row, repeats included.

    Returns:
        [B, T] targets in ascending order with -1 in the place of every repeat; and [B] float, how
        many targets are left. Targets that are -1 cannot be told apart and keep their count.
    """
    ordered = tf.sort(targets, axis=1)
    again = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    again = tf.pad(again, [[0, 0], [1, 0]])[:, : tf.shape(ordered)[1]]
    left = target_count - tf.reduce_sum(tf.cast(again, tf.float32), axis=1)
    return tf.where(again, tf.cast(-1, ordered.dtype), ordered), left


def hit_rate(rank: tf.Tensor, k: int) -> tf.Tensor:
    """1 where any target is within the first `k`: [B, T] ranks -> [B]."""
    return tf.cast(tf.reduce_any(rank <= k, axis=1), tf.float32)


def recall(rank: tf.Tensor, target_count: tf.Tensor, k: int) -> tf.Tensor:
    """Share of the targets, those outside the catalogue included, within the first `k`: -> [B]."""
    return tf.reduce_sum(tf.cast(rank <= k, tf.float32), axis=1) / tf.maximum(target_count, 1.0)


def recall_min(rank: tf.Tensor, target_count: tf.Tensor, k: int) -> tf.Tensor:
    """Hits within the first `k` over min(k, targets) (Liang et al., WWW 2018, section 4.2): [B].

    It reaches 1 however many targets there are.
    """
    hits = tf.reduce_sum(tf.cast(rank <= k, tf.float32), axis=1)
    return hits / tf.clip_by_value(target_count, 1.0, float(k))


def precision(rank: tf.Tensor, k: int) -> tf.Tensor:
    """Hits within the first `k` over k, however few items there are: [B, T] ranks -> [B]."""
    return tf.reduce_sum(tf.cast(rank <= k, tf.float32), axis=1) / float(k)


def query_auc(scores: tf.Tensor, rank: tf.Tensor, target_count: tf.Tensor) -> tf.Tensor:
    """Share of the pairs of a target and another item that are in order (Rendle et al., UAI 2009).

        AUC = 1 - sum_t ahead(t) / (T M),    ahead(t) = rank(t) - |{t': rank(t') <= rank(t)}|

    of T targets, those outside the catalogue included, and the M other items that may be
    recommended. Conservative as the ranks are: an item that scores the same is ahead of the target,
    and a target that cannot be ranked is behind all. 1 where there is no other item.

    Args:
        scores: [B, N], masked with -inf.
        rank: [B, T] conservative ranks of distinct targets.
        target_count: [B] float, targets of the query.

    Returns:
        [B] float32.
    """
    ranked = rank < _NEVER
    listed = tf.reduce_sum(tf.cast(~(scores <= float("-inf")), tf.float32), axis=1)
    targets = tf.reduce_sum(tf.cast(ranked, tf.float32), axis=1)
    others = listed - targets
    # Targets at or before each target, itself among them.
    ascending = tf.sort(rank, axis=1)
    before = tf.cast(tf.searchsorted(ascending, rank, side="right"), tf.float32)
    ahead = tf.reduce_sum(tf.where(ranked, rank - before, 0.0), axis=1)
    ahead += (tf.maximum(target_count, 1.0) - targets) * others
    return 1.0 - tf.math.divide_no_nan(ahead, tf.maximum(target_count, 1.0) * others)


def novelty(recommended: tf.Tensor, information: tf.Tensor, k: int) -> tf.Tensor:
    """Mean self-information of the first `k` items (Zhou et al., PNAS 2010): [B]; 0 of no item.

        1 / |list| sum_i -log2 p(i),    p(i) = max(events of i, 1) / events of train

    Args:
        recommended: [B, K] catalogue positions, -1 for none; K is at least k.
        information: [N] float32, -log2 p of every item.
        k: how many items are looked at.
    """
    listed = recommended[:, :k]
    there = tf.cast(listed >= 0, tf.float32)
    bits = tf.gather(information, tf.maximum(listed, 0)) * there
    return tf.math.divide_no_nan(tf.reduce_sum(bits, axis=1), tf.reduce_sum(there, axis=1))


def recommended(scores: tf.Tensor, k: int) -> tf.Tensor:
    """Catalogue positions of the first `k` items, [B, k] int32, -1 where there are no more.

    Equal scores are in catalogue order, as in an answer.
    """
    count = tf.minimum(k, tf.shape(scores)[1])
    top, position = tf.math.top_k(scores, count)
    position = tf.where(top > float("-inf"), position, -1)
    return tf.pad(position, [[0, 0], [0, k - count]], constant_values=-1)


def ndcg(rank: tf.Tensor, target_count: tf.Tensor, k: int) -> tf.Tensor:
    """Normalised discounted cumulative gain at `k` with gains 0 and 1: -> [B]."""
    gain = tf.where(rank <= k, 1.0 / log2(rank + 1.0), tf.zeros_like(rank))
    ideal = tf.cumsum(1.0 / log2(tf.range(2.0, k + 2.0)))
    position = tf.cast(tf.clip_by_value(target_count, 1.0, float(k)), tf.int32) - 1
    return tf.reduce_sum(gain, axis=1) / tf.gather(ideal, position)


def reciprocal_rank(rank: tf.Tensor, k: int) -> tf.Tensor:
    """1 / rank of the first target, 0 beyond `k`: -> [B]."""
    first = tf.reduce_min(rank, axis=1)
    return tf.where(first <= k, 1.0 / first, tf.zeros_like(first))


def average_precision(rank: tf.Tensor, target_count: tf.Tensor, k: int) -> tf.Tensor:
    """(1 / min(k, targets)) * sum of precision at each hit within `k`: -> [B]."""
    ordered = tf.sort(rank, axis=1)
    hits = tf.range(1.0, tf.cast(tf.shape(ordered)[1], tf.float32) + 1.0)
    precision = tf.where(ordered <= k, hits[tf.newaxis] / ordered, tf.zeros_like(ordered))
    return tf.reduce_sum(precision, axis=1) / tf.clip_by_value(target_count, 1.0, float(k))


def log2(value: tf.Tensor) -> tf.Tensor:
    """Logarithm to the base of 2."""
    return tf.math.log(value) / tf.math.log(2.0)


# Traced once a process, not once in every signature and evaluation that measures.
@traced(reduce_retracing=True)
def retrieve_metrics(
    scores: tf.Tensor,
    popularity: tf.Tensor,
    targets: tf.Tensor,
    target_count: tf.Tensor,
    candidates: tf.Tensor,
    asked: Sequence[str] = (),
    longest_list: int = 0,
    information: tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """Computes every metric of `metrics.RETRIEVE_METRICS`, and those that are asked for.

    Args:
        scores: [B, N], masked with -inf.
        popularity: [B, N], the baseline's scores under the same mask.
        targets: [B, T] catalogue positions, -1 outside or padding.
        target_count: [B] float, targets of the query whether in the catalogue or not.
        candidates: [B, C] catalogue positions of sampled negatives, -1 padding; C may be 0.
        asked: per-query metrics besides, see `metrics.MetricSet.asking`.
        longest_list: how many recommended items are to be returned besides.
        information: [N], see `novelty`; where it is asked for.

    Returns:
        Metric name -> [B] float32; where a `longest_list` is asked for also `metrics.RECOMMENDED`
        [B, K] int32 and `metrics.CATALOGUE` [B] float32. A target that is listed twice counts once.
    """
    targets, target_count = distinct(targets, target_count)
    rank, optimistic = ranks(scores, targets)
    popular_rank, _ = ranks(popularity, targets)
    sampled_rank = _sampled_ranks(scores, targets, candidates)
    sampled = tf.cast(tf.reduce_any(candidates >= 0, axis=1), tf.float32)
    values, popularity_ndcg_10 = (
        cutoff_metrics(rank, optimistic, target_count),
        ndcg(popular_rank, target_count, 10),
    )
    besides = {}
    if longest_list:
        besides[metrics.RECOMMENDED] = recommended(scores, longest_list)
        size = tf.cast(tf.shape(scores)[1], tf.float32)
        besides[metrics.CATALOGUE] = tf.fill(tf.shape(target_count), size)
    for name in asked:
        kind, k = metrics.split(name)
        if name == metrics.AUC:
            besides[name] = query_auc(scores, rank, target_count)
        elif kind == "novelty":
            besides[name] = novelty(besides[metrics.RECOMMENDED], information, k)
        else:
            besides[name] = _at_cutoff(kind, rank, target_count, k)
    return {
        **values,
        **besides,
        "popularity_hr_10": hit_rate(popular_rank, 10),
        "popularity_ndcg_10": popularity_ndcg_10,
        "lift_ndcg_10": values["ndcg_10"] - popularity_ndcg_10,
        "ncf99_hr_10": hit_rate(sampled_rank, 10) * sampled,
        "ncf99_ndcg_10": ndcg(sampled_rank, target_count, 10) * sampled,
    }


def _at_cutoff(kind: str, rank: tf.Tensor, target_count: tf.Tensor, k: int) -> tf.Tensor:
    """[B] of a metric of `metrics.AT_CUTOFF`."""
    if kind in ("hr", "mrr", "precision"):
        return {"hr": hit_rate, "mrr": reciprocal_rank, "precision": precision}[kind](rank, k)
    of_targets = {
        "recall": recall,
        "recall_min": recall_min,
        "ndcg": ndcg,
        "map": average_precision,
    }
    return of_targets[kind](rank, target_count, k)


def cutoff_metrics(
    rank: tf.Tensor, optimistic: tf.Tensor, target_count: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Computes every metric of `metrics.RANKED`.

    Args:
        rank: [B, T] conservative ranks.
        optimistic: [B, T] optimistic ranks.
        target_count: [B] float, targets of the query whether they can be ranked or not.

    Returns:
        Metric name -> [B] float32.
    """
    return {
        "hr_10": hit_rate(rank, 10),
        "hr_20": hit_rate(rank, 20),
        "recall_10": recall(rank, target_count, 10),
        "recall_20": recall(rank, target_count, 20),
        "ndcg_10": ndcg(rank, target_count, 10),
        "ndcg_20": ndcg(rank, target_count, 20),
        "mrr_10": reciprocal_rank(rank, 10),
        "mrr_20": reciprocal_rank(rank, 20),
        "map_10": average_precision(rank, target_count, 10),
        "tie_gap_10": hit_rate(optimistic, 10) - hit_rate(rank, 10),
    }


def _sampled_ranks(scores: tf.Tensor, targets: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    """Conservative ranks [B, T] of targets among the row's targets and sampled candidates.

    Every item stands once in that list.
    """
    items = tf.concat([targets, tf.cast(candidates, targets.dtype)], axis=1)
    items, _ = distinct(items, tf.zeros(tf.shape(items)[:1]))
    listed = tf.gather(scores, tf.maximum(items, 0), batch_dims=1)
    listed = tf.where(items >= 0, listed, tf.cast(float("-inf"), scores.dtype))
    return _ranks_among(listed, scores, targets)[0]
