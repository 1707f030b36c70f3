"""Skip-gram with negative sampling over item sets and walks.

What it trains on is drawn in the input pipeline.

A set of K kept items has K(K-1) ordered pairs. Gathered one by one they would cost two rows each;
cut into blocks of at most C items, all pairs of a centre block and a context block are one matrix
product of [C, D] and [C, D]. Such a couple of blocks of one set is a *tile*, a batch is some tiles,
and the tiles of an epoch hold every pair of every set exactly once. Everything is a function of
(seed, epoch, step) alone, as in models/inputs/sampling.py.
"""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from models.inputs import sampling
from models.inputs.preprocessing import FIRST_TOKEN
from models.names.errors import DataError

POWER = 0.75
_KEEP, _ORDER, _CHOICE, _NEGATIVES = range(4)  # what a seed is for


class SkipGram:
    """The pairs of sets or walks and their negatives.

    Args:
        rows: ragged [W, None] int64 item indices, one set or walk a row.
        item_count: number of items; their indices are FIRST_TOKEN .. item_count + 1.
        negatives: N, negatives a positive.
        subsample: rho; an occurrence of an item with the share f of all occurrences is kept with
            sqrt(rho / f), at most 1, anew every epoch; 0 keeps all.
        window: contexts are at most so many places away; None: the whole row is one set, in which
            an item counts once.
        block: C, the most items of a side of a tile.
        shared: M, negatives drawn a tile, for all of its centres.
        batch_size: positives a step, about.
        max_set: a longer set is represented by so many of its kept items, chosen anew every epoch.
            (Walks are never cut.)
        seed: of everything that is drawn.
        count_weighted: of sets: a centre also says how often its row has it, see `batches`.

    Raises:
        DataError: no row has two different items.
    """

    def __init__(
        self,
        rows,
        item_count,
        *,
        negatives,
        subsample,
        window,
        block,
        shared,
        batch_size,
        max_set,
        seed,
        count_weighted=False,
    ):
        item, row = rows.flat_values.numpy(), rows.value_rowids().numpy()
        stride = item_count + FIRST_TOKEN
        members, times = np.unique(row * stride + item, return_counts=True)
        self._emphasis = None
        if window is None:
            row, item = np.divmod(members, stride)
            if count_weighted:
                mean = np.bincount(row, times) / np.maximum(np.bincount(row), 1)
                self._emphasis = tf.constant((times / mean[row]).astype(np.float32))
        if len(members) == len(np.unique(members // stride)):
            raise DataError(
                "there is nothing to learn from: no set or walk of the train split has two "
                "different items"
            )
        self.counts = np.bincount(item, minlength=stride)
        share = self.counts / self.counts.sum()
        self.keep = (
            np.minimum(1.0, np.sqrt(subsample / np.maximum(share, 1e-30)))
            if subsample
            else np.ones(stride)
        )
        weights = self.counts**POWER
        self._cumulated = tf.constant(np.cumsum(weights) / weights.sum())
        self._members, self._stride = tf.constant(members), stride
        self._item, self._row = tf.constant(item), tf.constant(row)
        self._keep_rate = tf.constant(self.keep[item])
        self._row_count = rows.nrows()
        self._window, self._block, self._shared, self._negatives = window, block, shared, negatives
        longest = int(np.bincount(row).max())
        self._max_set = max_set if window is None and longest > max_set else None
        self._most_contexts = 2 * window if window else np.iinfo(np.int64).max
        self._seed = seed
        tiles, pairs = self._measure()
        self.steps = max(1, round(tiles * block * block / batch_size))
        self.pairs = pairs

    def batches(self, first_epoch: int = 0) -> sampling.Batches:
        """Endless batches of about equally many tiles; the epoch's tiles in a fresh order.

        Returns:
            Batches of dicts; T tiles, different from batch to batch:
            `centre`, `context`: [T, C] int64 item indices, 0 where a block is shorter;
            `offset`: [T] int64: the place of the first centre minus that of the first context;
            `weight`: [T] float32: 1 / K, K the kept items of the row or, in a walk, at most the 2 x
                window contexts of an item;
            `negative`: [T, M] int64 item indices;
            `negative_weight`: [T, M] float32 that sum to N: 0 for an item of the row and equal for
                all others, as if members had
            been drawn again. All 0 where nothing but members was drawn;
            `emphasis`, where asked for: [T, C] float32: how often the row has the centre, over the
                mean of its items: 1 on average.
        """
        steps = self.steps

        def make(later: int, share: sampling.Share | None = None) -> tf.data.Dataset:
            def one_epoch(epoch):
                item, splits = self._kept(epoch)
                tiles = self._tiles(splits)
                order = tf.random.experimental.stateless_shuffle(
                    tf.range(tf.size(tiles[0])), self._seeds(epoch, _ORDER)
                )
                tiles = tf.stack([tf.gather(part, order) for part in tiles], axis=1)
                count = tf.shape(tiles, tf.int64)[0]

                def batch(step):
                    these = tiles[step * count // steps : (step + 1) * count // steps]
                    seed = self._seeds(epoch * steps + step, _NEGATIVES)
                    if share:
                        these, seed = share.cut(these, seed)
                    return self._batch(these, item, splits, seed)

                return tf.data.Dataset.range(steps).map(batch, num_parallel_calls=tf.data.AUTOTUNE)

            epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
            return epochs.flat_map(one_epoch).skip(later)

        return sampling.Batches(steps, self.pairs, make, empty_rows=True)

    def _kept(self, epoch):
        """What subsampling leaves: [E'] int64 items and the [W + 1] int64 bounds of their rows."""
        lottery = tf.random.stateless_uniform(
            tf.shape(self._item), self._seeds(epoch, _KEEP), dtype=tf.float64
        )
        kept = tf.where(lottery < self._keep_rate)[:, 0]
        item, row = tf.gather(self._item, kept), tf.gather(self._row, kept)
        if self._max_set is not None:
            order = tf.random.experimental.stateless_shuffle(
                tf.range(tf.size(item)), self._seeds(epoch, _CHOICE)
            )
            order = tf.gather(order, tf.argsort(tf.gather(row, order), stable=True))
            item, row = tf.gather(item, order), tf.gather(row, order)
            place = tf.range(tf.size(row, tf.int64)) - tf.gather(self._splits(row), row)
            inside = place < self._max_set
            item, row = tf.boolean_mask(item, inside), tf.boolean_mask(row, inside)
        return item, self._splits(row)

    def _splits(self, row):
        # Row numbers ascend.
        return tf.searchsorted(row, tf.range(self._row_count + 1), out_type=tf.int64)

    def _tiles(self, splits):
        """(row, centre block, context block) of every tile, [T] int64 each."""
        size = splits[1:] - splits[:-1]
        blocks = tf.where(size > 1, -(-size // self._block), 0)
        ends = tf.cumsum(blocks**2)
        row = tf.repeat(tf.range(tf.size(blocks, tf.int64)), blocks**2)
        number = tf.range(tf.size(row, tf.int64)) - tf.gather(ends - blocks**2, row)
        across = tf.gather(blocks, row)
        centre, context = number // across, number % across
        if self._window is not None:
            nearest = (tf.abs(centre - context) - 1) * self._width(tf.gather(size, row)) + 1
            near = nearest <= self._window
            row, centre, context = (tf.boolean_mask(part, near) for part in (row, centre, context))
        return row, centre, context

    def _width(self, size):
        """Items a block: rows are cut evenly, so that blocks are full or nearly so."""
        return -(-size // tf.maximum(-(-size // self._block), 1))

    def _batch(self, tiles, item, splits, seed):
        row, centre, context = tf.unstack(tiles, axis=1)
        start, end = tf.gather(splits, row), tf.gather(splits, row + 1)
        width = self._width(end - start)
        place = tf.range(self._block, dtype=tf.int64)

        def items(block):
            position = start + block * width
            inside = (place < width[:, tf.newaxis]) & (
                position[:, tf.newaxis] + place < end[:, tf.newaxis]
            )
            return tf.where(
                inside, tf.gather(item, tf.where(inside, position[:, tf.newaxis] + place, 0)), 0
            )

        negative, negative_weight = self.draw(row, seed)
        centres = items(centre)
        emphasis = {}
        if self._emphasis is not None:
            found, member = self._find(row, centres)
            emphasis["emphasis"] = tf.where(member, tf.gather(self._emphasis, found), 0.0)
        return {
            **emphasis,
            "centre": centres,
            "context": items(context),
            "offset": (centre - context) * width,
            "weight": 1.0 / tf.cast(tf.minimum(end - start, self._most_contexts), tf.float32),
            "negative": negative,
            "negative_weight": negative_weight,
        }

    def draw(self, row, seed):
        """Draws [T, M] int64 negatives from count^0.75, and their [T, M] float32 weights.

        Takes [T] row numbers and a seed as `sampling.uniform` takes it.
        """
        shape = tf.stack([tf.size(row), self._shared])
        uniform = sampling.uniform(shape, seed, dtype=tf.float64)
        negative = tf.reshape(
            tf.searchsorted(
                self._cumulated, tf.reshape(uniform, [-1]), side="right", out_type=tf.int64
            ),
            shape,
        )
        negative = tf.minimum(negative, self._stride - 1)
        free = tf.cast(~self._find(row, negative)[1], tf.float32)
        return negative, free * (
            self._negatives / tf.maximum(tf.reduce_sum(free, axis=1, keepdims=True), 1.0)
        )

    def _find(self, row, item):
        """Looks [T, C] items up among the members of their [T] rows.

        Returns:
            [T, C] int32 places in the list of members, and whether each is one.
        """
        key = row[:, tf.newaxis] * self._stride + item
        flat = tf.searchsorted(self._members, tf.reshape(key, [-1]))
        place = tf.reshape(tf.minimum(flat, tf.size(self._members) - 1), tf.shape(key))
        return place, tf.gather(self._members, place) == key

    def _seeds(self, number, purpose):
        return tf.stack([tf.cast(self._seed, tf.int64) * 4 + purpose, tf.cast(number, tf.int64)])

    def _measure(self):
        """Tiles and pairs of the first epoch; those of others differ by what subsampling leaves."""
        _, splits = self._kept(tf.constant(0, tf.int64))
        size = np.diff(splits.numpy())
        reach = size - 1 if self._window is None else np.minimum(size - 1, self._window)
        pairs = reach * (2 * size - reach - 1)
        return int(tf.size(self._tiles(splits)[0])), int(pairs[size > 1].sum())


def pair_mask(
    centre: tf.Tensor, context: tf.Tensor, offset: tf.Tensor, window: int | None
) -> tf.Tensor:
    """[T, C, C] float32: 1 where centre i and context j are a pair.

    A pair is both there, of different items and within the window.
    """
    mask = (
        (centre[:, :, tf.newaxis] != context[:, tf.newaxis])
        & (centre > 0)[:, :, tf.newaxis]
        & (context > 0)[:, tf.newaxis]
    )
    if window is not None:
        place = tf.range(tf.shape(centre, tf.int64)[1])
        distance = tf.abs(offset[:, tf.newaxis, tf.newaxis] + place[:, tf.newaxis] - place)
        mask &= distance <= window
    return tf.cast(mask, tf.float32)


def tile_losses(
    centre: tf.Tensor, others: tf.Tensor, mask: tf.Tensor, negative_weight: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss of skip-gram with negative sampling, by centre.

    Args:
        centre: [T, C, D] vectors.
        others: [T, C + M, D] context vectors, of the contexts and then of the negatives.
        mask: [T, C, C]: how much a centre and a context are a pair, 0 where they are none.
        negative_weight: [T, M], N a tile.

    Returns:
        [T, C] float32 of all the pairs of a centre, and [T, C] float32 of the negatives that one of
        them has.
    """
    contexts = tf.shape(mask)[2]
    logits = tf.matmul(centre, others, transpose_b=True)
    positive = tf.cast(softplus(-logits[:, :, :contexts]), tf.float32) * mask
    negative = tf.cast(softplus(logits[:, :, contexts:]), tf.float32)
    return tf.reduce_sum(positive, axis=2), tf.linalg.matvec(negative, negative_weight)


def bounded_steps(
    rows: tf.Tensor, index: tf.Tensor, weight: tf.Tensor, count: int, limit: float
) -> tf.Tensor:
    """Passes `rows` on, and scales their gradients.

    So no row of the table takes a longer step than it can bear.

    word2vec takes the steps of a row one after another, each from where the last one led; a batch
    adds them up from one place, and a row that is in very many pairs overshoots. Beyond `limit`
    pairs such a row takes `limit` times their mean.

    Args:
        rows: [R, D] looked-up rows.
        index: [R] int64, which row of the table each is.
        weight: [R] float32, how much loss hangs on it: pairs times their weights.
        count: rows of the table.
        limit: pairs of weight 1 that a row may add up in a batch.
    """
    total = tf.math.unsorted_segment_sum(weight, index, count)
    scale = tf.gather(limit / tf.maximum(total, limit), index)[:, tf.newaxis]

    @tf.custom_gradient
    def scaled(values):
        return tf.identity(values), lambda upstream: upstream * tf.cast(scale, upstream.dtype)

    return scaled(rows)


@tf.custom_gradient
def softplus(logits: tf.Tensor) -> tf.Tensor:
    """The function log(1 + exp(x)), with one sigmoid.

    The sigmoid is computed once for value and gradient, which the plain operation does twice.
    """
    complement = tf.sigmoid(
        -logits
    )  # at least the smallest normal number below: its logarithm must stay finite
    return -tf.math.log(
        tf.maximum(complement, 1e-37)
    ), lambda upstream: upstream * (1.0 - complement)


def tile_loss(
    inputs: Mapping[str, tf.Tensor],
    vectors: Callable[[tf.Tensor], tf.Tensor],
    contexts: Callable[[tf.Tensor], tf.Tensor],
    *,
    count: int,
    negatives: int,
    window: int | None,
    limit: float,
) -> tf.Tensor:
    """The loss of a batch of tiles: a sum, so that an item's step does not shrink with its batch.

    Args:
        inputs: what `SkipGram.batches` gives; `emphasis` multiplies the positive terms.
        vectors: [R] int64 item indices -> [R, D] rows of the centres' table.
        contexts: the same of the contexts' table.
        count: rows of either table.
        negatives: N, negatives a positive.
        window: as of `SkipGram`.
        limit: see `bounded_steps`.

    Returns:
        A float32 scalar.
    """
    mask = pair_mask(inputs["centre"], inputs["context"], inputs["offset"], window)
    positives = mask * inputs["emphasis"][:, :, tf.newaxis] if "emphasis" in inputs else mask
    weight, negative_weight = inputs["weight"][:, tf.newaxis], inputs["negative_weight"]
    # Positives of each centre, of each context, and what the centres' negatives add up to: in
    # sets, so weighted by 1 / K.
    of_centre = tf.reduce_sum(mask, axis=2) * weight
    emphasised, of_context = (tf.reduce_sum(positives, axis=axis) * weight for axis in (2, 1))
    of_negative = negative_weight * tf.reduce_sum(of_centre, axis=1, keepdims=True)

    def rows(table, index, pairs):
        """Looks up [T, C] rows of a table; each is in pairs of this [T, C] weight."""
        flat = tf.reshape(index, [-1])
        found = bounded_steps(table(flat), flat, tf.reshape(pairs, [-1]), count, limit)
        return tf.reshape(found, tf.concat([tf.shape(index), [found.shape[-1]]], axis=0))

    centre = rows(vectors, inputs["centre"], emphasised + negatives * of_centre)
    others = tf.concat([inputs["context"], inputs["negative"]], axis=1)
    others = rows(contexts, others, tf.concat([of_context, of_negative], axis=1))
    positive, negative = tile_losses(centre, others, positives, negative_weight)
    return tf.reduce_sum(positive * weight + negative * of_centre)
