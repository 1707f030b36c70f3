"""Metrics of single predictions, in-graph.

AUC over all rows or within groups, log loss, errors, calibration.

Tie rule: half. A pair of equal predictions counts as half in the right order, so a constant
predictor has an AUC of 0.5.
"""

import tensorflow as tf

_SMALLEST = 1e-7  # probabilities are kept this far from 0 and 1


def log_loss(label: tf.Tensor, probability: tf.Tensor) -> tf.Tensor:
    """[B] labels 0 or 1 and [B] probabilities -> [B] negative log-likelihood, in nats."""
    probability = tf.clip_by_value(probability, _SMALLEST, 1 - _SMALLEST)
    return -(label * tf.math.log(probability) + (1 - label) * tf.math.log(1 - probability))


def row_metrics(
    label: tf.Tensor, prediction: tf.Tensor, mean: tf.Tensor, is_click: bool
) -> dict[str, tf.Tensor]:
    """The values of single rows whose averages are metrics.

    The metrics are `means` of `metrics.CLICK` or `metrics.RATING`.

    Args:
        label: [B] float32.
        prediction: [B] float32 probabilities or ratings.
        mean: scalar, the train mean, which the constant predictor answers.
        is_click: clicks or ratings.

    Returns:
        Metric -> [B] float32.
    """
    constant = tf.fill(tf.shape(label), mean)
    if is_click:
        ours, reference = log_loss(label, prediction), log_loss(label, constant)
        return {"log_loss": ours, "constant_log_loss": reference, "lift_log_loss": reference - ours}
    error = label - prediction
    ours, reference = error**2, (label - constant) ** 2
    return {
        "mse": ours,
        "mae": tf.abs(error),
        "constant_mse": reference,
        "lift_mse": reference - ours,
    }


def group_auc(
    label: tf.Tensor, prediction: tf.Tensor, group: tf.Tensor, weight: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Area under the ROC curve within every group.

    It is the share of (positive, negative) pairs in the right order; a pair weighs what its rows
    weigh, multiplied.

    Args:
        label: [N] 0 or 1.
        prediction: [N] float.
        group: [N] int64.
        weight: [N] float of 0 or more, what the rows count for; None: all of them 1.

    Returns:
        Three [G] float64 tensors: AUC (0 where a group has one class only), rows, and
        positive-negative pairs.
    """
    order = tf.argsort(prediction, stable=True)
    order = tf.gather(order, tf.argsort(tf.gather(group, order), stable=True))
    weight = tf.ones_like(label, tf.float64) if weight is None else tf.cast(weight, tf.float64)
    label, prediction, group, weight = (
        tf.gather(values, order) for values in (label, prediction, group, weight)
    )
    new_group = changes(group)
    segment = tf.cumsum(tf.cast(new_group, tf.int64)) - 1
    tie = tf.cumsum(tf.cast(new_group | changes(prediction), tf.int64)) - 1
    positive = weight * tf.cast(label > 0.5, tf.float64)
    negative = weight - positive
    # The negatives of the group that score less, and half of those that score the same.
    before = tf.cumsum(negative, exclusive=True)
    below = tf.math.segment_min(before, tie) + tf.math.segment_sum(negative, tie) / 2
    below = tf.gather(below, tie) - tf.gather(tf.math.segment_min(before, segment), segment)
    positives = tf.math.segment_sum(positive, segment)
    pairs = positives * tf.math.segment_sum(negative, segment)
    right = tf.math.segment_sum(positive * below, segment)
    return tf.math.divide_no_nan(right, pairs), tf.math.segment_sum(weight, segment), pairs


def auc(label: tf.Tensor, prediction: tf.Tensor, weight: tf.Tensor | None = None) -> tf.Tensor:
    """Area under the ROC curve over all rows, a scalar; 0.5 where only one class is there."""
    area, _, pairs = group_auc(label, prediction, tf.zeros_like(label, tf.int64), weight)
    return tf.where(pairs[0] > 0, area[0], 0.5)


def gauc(
    label: tf.Tensor, prediction: tf.Tensor, user: tf.Tensor, weight: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """GAUC: the AUC within each user, averaged with the user's rows as weights.

    Users with one class only have none and are left out.

    Args:
        label: [N] 0 or 1.
        prediction: [N] float.
        user: [N] int64.
        weight: [N] float, what the rows count for; None: all of them 1.

    Returns:
        Three scalars, float64: GAUC (0 where nobody is left), users counted, users left out.
    """
    area, rows, pairs = group_auc(label, prediction, user, weight)
    counted = pairs > 0
    of_user = tf.where(counted, rows, 0.0)
    value = tf.math.divide_no_nan(tf.reduce_sum(area * of_user), tf.reduce_sum(of_user))
    return (
        value,
        tf.reduce_sum(tf.cast(counted, tf.float64)),
        tf.reduce_sum(tf.cast(~counted, tf.float64)),
    )


def click_metrics(
    label: tf.Tensor, prediction: tf.Tensor, user: tf.Tensor, weight: tf.Tensor | None = None
) -> dict[str, tf.Tensor]:
    """Metrics of clicks that no average of rows gives.

    Args:
        label: [N] 0 or 1.
        prediction: [N] probabilities.
        user: [N] int64.
        weight: [N] float, what the rows count for; None: all of them 1.

    Returns:
        `auc`, `gauc`, `gauc_users`, `gauc_users_left_out`, and `calibration`: predicted over
        observed clicks.
    """
    value, users, left_out = gauc(label, prediction, user, weight)
    rows = tf.ones_like(label) if weight is None else tf.cast(weight, label.dtype)
    return {
        "auc": auc(label, prediction, weight),
        "gauc": value,
        "gauc_users": users,
        "gauc_users_left_out": left_out,
        "calibration": tf.math.divide_no_nan(
            tf.reduce_sum(rows * prediction), tf.reduce_sum(rows * label)
        ),
    }


def watch_time_loss(time: tf.Tensor, score: tf.Tensor, group: tf.Tensor) -> tf.Tensor:
    """The share of watch time that is mispredicted (Covington et al., RecSys 2016).

    Every pair of a watched and an unwatched row of one group weighs the time of the watched one; it
    is mispredicted where the unwatched one scores higher, by half where they score the same.

    Args:
        time: [N] watch times, 0 where a row was not watched.
        score: [N] float.
        group: [N] int64: the page, the search or the user.

    Returns:
        A scalar float64; 0 where no group has both.
    """
    order = tf.argsort(score, stable=True)
    order = tf.gather(order, tf.argsort(tf.gather(group, order), stable=True))
    time, score, group = (tf.gather(values, order) for values in (time, score, group))
    new_group = changes(group)
    segment = tf.cumsum(tf.cast(new_group, tf.int64)) - 1
    tie = tf.cumsum(tf.cast(new_group | changes(score), tf.int64)) - 1
    unwatched = tf.cast(time <= 0, tf.float64)
    of_group = tf.gather(tf.math.segment_sum(unwatched, segment), segment)
    # Those of the group up to a row's tie, and within it.
    up_to = tf.cumsum(unwatched)
    before = tf.gather(tf.math.segment_min(up_to - unwatched, segment), segment)
    not_above = tf.gather(tf.math.segment_max(up_to, tie), tie) - before
    equal = tf.gather(tf.math.segment_sum(unwatched, tie), tie)
    wrong = of_group - not_above + equal / 2
    weight = tf.cast(tf.maximum(time, 0.0), tf.float64)
    return tf.math.divide_no_nan(tf.reduce_sum(weight * wrong), tf.reduce_sum(weight * of_group))


def changes(values: tf.Tensor) -> tf.Tensor:
    """[N] sorted values -> [N] bool: whether a value differs from the one before.

    It is true for the first.
    """
    return tf.concat(
        [tf.ones([tf.minimum(tf.size(values), 1)], tf.bool), values[1:] != values[:-1]], axis=0
    )
