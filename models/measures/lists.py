"""Lists, the rows of a group such as a search: NDCG within them, losses that learn their order.

The gain of a row is 2^label - 1, so a label may be a grade and, of what was refused, below 0; the
discount of the place r, counted from 1, is 1 / log2(1 + r). The ideal of a list is what its best
order reaches; a list whose ideal is not above 0 (nobody wanted any of it) has no NDCG.

Tie rule of the metric: half. Rows with the same score share the mean of their gains, which is what
a random order of them is expected to reach (McSherry, Najork, ECIR 2008).
"""

import math

import tensorflow as tf

from models.measures.pointwise import changes

CUTOFF = 10


def gains(label: tf.Tensor) -> tf.Tensor:
    """Labels of any shape to gains."""
    return 2.0**label - 1.0


def discounts(rank: tf.Tensor) -> tf.Tensor:
    """Places of any shape, counted from 1, to discounts."""
    return math.log(2) / tf.math.log(1.0 + rank)


def group_ndcg(
    label: tf.Tensor, score: tf.Tensor, group: tf.Tensor, k: int = CUTOFF
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """NDCG at `k` within every group, in ascending order of the groups.

    Args:
        label: [N] grades.
        score: [N] float; one that is not a number is the worst.
        group: [N] int64.
        k: places that count.

    Returns:
        Three [G] tensors: NDCG float64, what a random order is expected to reach, float64 (both 0
        where a group has no ideal), and whether it has one, bool.
    """
    gain = gains(tf.cast(label, tf.float64))
    score = tf.cast(score, tf.float32)
    score = tf.where(tf.math.is_nan(score), score.dtype.min, score)

    def discounted(by: tf.Tensor) -> tf.Tensor:
        """[G] DCG in the descending order of `by`, ties sharing their gains."""
        order = tf.argsort(by, direction="DESCENDING", stable=True)
        order = tf.gather(order, tf.argsort(tf.gather(group, order), stable=True))
        ordered, key, own = (tf.gather(values, order) for values in (by, group, gain))
        new = changes(key)
        segment = tf.cumsum(tf.cast(new, tf.int32)) - 1
        tie = tf.cumsum(tf.cast(new | changes(ordered), tf.int32)) - 1
        place = tf.range(tf.size(order))
        first = tf.gather(tf.math.segment_min(place, segment), segment)
        rank = tf.cast(place - first + 1, tf.float64)
        discount = tf.where(rank <= k, discounts(rank), tf.zeros_like(rank))
        shared = tf.gather(tf.math.segment_mean(own, tie), tie)
        return tf.math.segment_sum(shared * discount, segment)

    ideal = discounted(gain)
    counted = ideal > 0

    def normalised(value: tf.Tensor) -> tf.Tensor:
        return tf.where(counted, tf.math.divide_no_nan(value, ideal), tf.zeros_like(value))

    return normalised(discounted(score)), normalised(discounted(tf.zeros_like(gain))), counted


def group_metrics(
    label: tf.Tensor, score: tf.Tensor, group: tf.Tensor, weight: tf.Tensor | None = None
) -> dict[str, tf.Tensor]:
    """Means of `group_ndcg` over the groups that have an ideal.

    Args:
        label: [N] grades.
        score: [N] float.
        group: [N] int64.
        weight: [N] float; a group counts for what its rows do on average. None: all the same.

    Returns:
        Scalars by name, of `models.names.metrics.GROUP_METRICS`: 0 where no group has an ideal.
    """
    return group_means(*weighted_groups(label, score, group, weight))


def weighted_groups(
    label: tf.Tensor, score: tf.Tensor, group: tf.Tensor, weight: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """What `group_ndcg` returns, and [G] float64 what each group counts for: 0 without an ideal."""
    ours, random, counted = group_ndcg(label, score, group)
    rows = tf.ones_like(label, tf.float64) if weight is None else tf.cast(weight, tf.float64)
    _, segment = tf.unique(tf.sort(group))
    of_group = tf.math.segment_mean(tf.gather(rows, tf.argsort(group, stable=True)), segment)
    return ours, random, counted, tf.where(counted, of_group, tf.zeros_like(of_group))


def group_means(
    ours: tf.Tensor, random: tf.Tensor, counted: tf.Tensor, of_group: tf.Tensor
) -> dict[str, tf.Tensor]:
    """The metrics of groups, of what `weighted_groups` returns."""

    def mean(values: tf.Tensor) -> tf.Tensor:
        return tf.math.divide_no_nan(tf.reduce_sum(of_group * values), tf.reduce_sum(of_group))

    return {
        "group_ndcg_10": mean(ours),
        "random_group_ndcg_10": mean(random),
        "lift_group_ndcg_10": mean(ours) - mean(random),
        "groups": tf.reduce_sum(tf.cast(counted, tf.float64)),
        "groups_left_out": tf.reduce_sum(tf.cast(~counted, tf.float64)),
    }


def lambda_rank(label: tf.Tensor, score: tf.Tensor, group: tf.Tensor) -> tf.Tensor:
    """LambdaRank: what the wrong order of each pair would cost in NDCG, times its logistic loss.

    Cite: Burges: From RankNet to LambdaRank to LambdaMART, MSR-TR-2010-82; as a loss, Wang et al.,
    CIKM 2018.

        loss_i = sum over j of lower label of |delta NDCG_ij| ln(1 + e^(s_j - s_i))

    delta NDCG_ij is what swapping i and j would change. NDCG is over the whole list; equal scores
    stand as the rows do. A list without an ideal loses nothing.

    Args:
        label: [B] float32 grades.
        score: [B] float32.
        group: [B] int, ascending.

    Returns:
        [B] float32: a pair's loss is the one of its better row.
    """
    (label, score), there = _padded(group, label, score)
    gain = tf.where(there, gains(label), 0.0)
    lowest = tf.where(there, score, score.dtype.min)
    order = tf.argsort(lowest, direction="DESCENDING", stable=True)
    discount = discounts(tf.cast(tf.argsort(order) + 1, tf.float32))
    worst = tf.where(there, gain, gain.dtype.min)
    best = tf.sort(worst, direction="DESCENDING")
    places = discounts(tf.range(1.0, tf.cast(tf.shape(best)[1], tf.float32) + 1.0))
    ideal = tf.reduce_sum(tf.where(best > gain.dtype.min, best, 0.0) * places, axis=1)
    weight = tf.where(ideal > 0, tf.math.divide_no_nan(1.0, ideal), 0.0)
    swapped = tf.abs(_difference(gain) * _difference(discount)) * weight[:, tf.newaxis, tf.newaxis]
    pairs = (_difference(label) > 0) & there[:, :, tf.newaxis] & there[:, tf.newaxis]
    loss = tf.stop_gradient(swapped) * tf.nn.softplus(-_difference(score))
    return tf.boolean_mask(tf.reduce_sum(tf.where(pairs, loss, 0.0), axis=2), there)


def list_softmax(label: tf.Tensor, score: tf.Tensor, group: tf.Tensor) -> tf.Tensor:
    """Cross entropy of the softmax of a list's scores with its gains (Cao et al., ICML 2007).

    Gains below 0 count as 0; they are divided by their sum. A list without gains loses nothing.

    Args:
        label: [B] float32 grades.
        score: [B] float32.
        group: [B] int, ascending.

    Returns:
        [B] float32: each row's term.
    """
    (label, score), there = _padded(group, label, score)
    gain = tf.where(there, tf.maximum(gains(label), 0.0), 0.0)
    share = tf.math.divide_no_nan(gain, tf.reduce_sum(gain, axis=1, keepdims=True))
    log = tf.nn.log_softmax(tf.where(there, score, -1e9))
    return tf.boolean_mask(-share * log, there)


LOSSES = {"lambda_rank": lambda_rank, "softmax": list_softmax}
"""The losses of lists by the name that the hyper-parameter `list_loss` has for them."""


def _padded(group: tf.Tensor, *columns: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
    """[B] columns of rows of ascending groups as [G, L], padded with 0; and what is no padding."""
    _, number = tf.unique(group)
    lists = [tf.RaggedTensor.from_value_rowids(column, number) for column in columns]
    return [part.to_tensor() for part in lists], tf.sequence_mask(lists[0].row_lengths())


def _difference(values: tf.Tensor) -> tf.Tensor:
    """[G, L] -> [G, L, L] of each less each other."""
    return values[:, :, tf.newaxis] - values[:, tf.newaxis]
