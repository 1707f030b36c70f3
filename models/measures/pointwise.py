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
    label: tf.Tensor, prediction: tf.Tensor, group: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Area under the ROC curve within every group.

    It is the share of (positive, negative) pairs in the right order.

    Args:
        label: [N] 0 or 1.
        prediction: [N] float.
        group: [N] int64.

    Returns:
        Three [G] float64 tensors: AUC (0 where a group has one class only), rows, and
        positive-negative pairs.
    """
    order = tf.argsort(prediction, stable=True)
    order = tf.gather(order, tf.argsort(tf.gather(group, order), stable=True))
    label, prediction, group = (tf.gather(values, order) for values in (label, prediction, group))
    new_group = _changes(group)
    segment = tf.cumsum(tf.cast(new_group, tf.int64)) - 1
    tie = tf.cumsum(tf.cast(new_group | _changes(prediction), tf.int64)) - 1
    # The mean rank of a tie, counted within its group from 1.
    place = tf.range(1, tf.size(label, tf.int64) + 1)
    rows = tf.math.segment_sum(tf.ones_like(label, tf.float64), segment)
    start = tf.cumsum(rows, exclusive=True)
    rank = tf.gather(tf.math.segment_mean(tf.cast(place, tf.float64), tie), tie) - tf.gather(
        start, segment
    )
    positive = tf.cast(label > 0.5, tf.float64)
    positives = tf.math.segment_sum(positive, segment)
    pairs = positives * (rows - positives)
    right = tf.math.segment_sum(positive * rank, segment) - positives * (positives + 1) / 2
    return tf.math.divide_no_nan(right, pairs), rows, pairs


def auc(label: tf.Tensor, prediction: tf.Tensor) -> tf.Tensor:
    """Area under the ROC curve over all rows, a scalar; 0.5 where only one class is there."""
    area, _, pairs = group_auc(label, prediction, tf.zeros_like(label, tf.int64))
    return tf.where(pairs[0] > 0, area[0], 0.5)


def gauc(
    label: tf.Tensor, prediction: tf.Tensor, user: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """GAUC: the AUC within each user, averaged with the user's rows as weights.

    Users with one class only have none and are left out.

    Args:
        label: [N] 0 or 1.
        prediction: [N] float.
        user: [N] int64.

    Returns:
        Three scalars, float64: GAUC (0 where nobody is left), users counted, users left out.
    """
    area, rows, pairs = group_auc(label, prediction, user)
    counted = pairs > 0
    weight = tf.where(counted, rows, 0.0)
    value = tf.math.divide_no_nan(tf.reduce_sum(area * weight), tf.reduce_sum(weight))
    return (
        value,
        tf.reduce_sum(tf.cast(counted, tf.float64)),
        tf.reduce_sum(tf.cast(~counted, tf.float64)),
    )


def click_metrics(label: tf.Tensor, prediction: tf.Tensor, user: tf.Tensor) -> dict[str, tf.Tensor]:
    """Metrics of clicks that no average of rows gives.

    Args:
        label: [N] 0 or 1.
        prediction: [N] probabilities.
        user: [N] int64.

    Returns:
        `auc`, `gauc`, `gauc_users`, `gauc_users_left_out`, and `calibration`: predicted over
        observed clicks.
    """
    value, users, left_out = gauc(label, prediction, user)
    return {
        "auc": auc(label, prediction),
        "gauc": value,
        "gauc_users": users,
        "gauc_users_left_out": left_out,
        "calibration": tf.math.divide_no_nan(tf.reduce_sum(prediction), tf.reduce_sum(label)),
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
    new_group = _changes(group)
    segment = tf.cumsum(tf.cast(new_group, tf.int64)) - 1
    tie = tf.cumsum(tf.cast(new_group | _changes(score), tf.int64)) - 1
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


def _changes(values: tf.Tensor) -> tf.Tensor:
    """[N] sorted values -> [N] bool: whether a value differs from the one before.

    It is true for the first.
    """
    return tf.concat(
        [tf.ones([tf.minimum(tf.size(values), 1)], tf.bool), values[1:] != values[:-1]], axis=0
    )
