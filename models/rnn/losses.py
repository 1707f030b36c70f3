"""Losses of GRU4Rec over scored columns.

The columns are the row's own target, the targets of the other rows and additional samples.

    cross-entropy  -ln( e^{r_i} / sum_j e^{r_j} )
                   over all columns, the own one included
    BPR            - sum_j ln sigma(r_i - r_j)
                   over all columns; the own one adds the constant ln 2
    TOP1           ( sum_j [sigma(r_j - r_i) + sigma(r_j^2)] - sigma(r_i^2) ) / N
                   over all N columns
    TOP1-max       sum_j s_j [sigma(r_j - r_i) + sigma(r_j^2)]
                   over the negatives
    BPR-max        -ln sum_j s_j sigma(r_i - r_j) + lambda sum_j s_j r_j^2
                   over the negatives

s is the softmax over the negatives only, and the gradient flows through it.
"""

import tensorflow as tf

_TINY = 1e-24


def row_losses(
    name: str, scores: tf.Tensor, own: tf.Tensor, columns: tf.Tensor, regularisation: float = 0.0
) -> tf.Tensor:
    """Computes the loss of every row.

    Args:
        name: `cross_entropy`, `bpr`, `top1`, `top1_max` or `bpr_max`.
        scores: [B, C] float scores of the columns.
        own: [B] int, the column of the row's target.
        columns: [C] bool, which columns count; a row whose own column does not gets a value of no
            meaning.
        regularisation: lambda of BPR-max.

    Returns:
        [B] float losses.
    """
    scores = tf.cast(scores, tf.float32)
    is_own = tf.one_hot(own, tf.shape(scores)[1], on_value=True, off_value=False, dtype=tf.bool)
    target = tf.gather(scores, own, batch_dims=1)[:, tf.newaxis]
    if name == "cross_entropy":
        return tf.reduce_logsumexp(_without(scores, ~columns), axis=1) - target[:, 0]
    if name in ("bpr", "top1"):
        # The own column counts in every row, so that each row has the same N.
        counted = tf.cast(columns | is_own, tf.float32)
        if name == "bpr":
            return tf.reduce_sum(counted * tf.math.softplus(scores - target), axis=1)
        rows = tf.reduce_sum(
            counted * (tf.sigmoid(scores - target) + tf.sigmoid(scores**2)), axis=1
        ) - tf.sigmoid(target[:, 0] ** 2)
        return rows / tf.maximum(tf.reduce_sum(counted, axis=1), 1.0)
    weight = negative_softmax(scores, is_own, columns)
    if name == "top1_max":
        return tf.reduce_sum(weight * (tf.sigmoid(scores - target) + tf.sigmoid(scores**2)), axis=1)
    loss = -tf.math.log(tf.reduce_sum(weight * tf.sigmoid(target - scores), axis=1) + _TINY)
    return loss + regularisation * tf.reduce_sum(weight * scores**2, axis=1)


def negative_softmax(scores: tf.Tensor, is_own: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """[B, C] softmax of each row over its negatives.

    The own column and those that do not count have exactly 0.
    """
    return tf.nn.softmax(_without(scores, is_own | ~columns), axis=1) * tf.cast(
        columns & ~is_own, tf.float32
    )


def _without(scores: tf.Tensor, left_out: tf.Tensor) -> tf.Tensor:
    return tf.where(left_out, tf.fill(tf.shape(scores), -1e9), scores)
