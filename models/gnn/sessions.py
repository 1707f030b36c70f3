"""Sessions as batches of their prefixes, and as graphs."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from models.inputs import sampling
from models.inputs.columns import as_tensor, take_index
from models.inputs.event_log import require_successors
from models.names.label import WEIGHT


def prefix_batches(
    items: np.ndarray,
    starts: np.ndarray,
    length: int,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
    weight: np.ndarray | None = None,
) -> sampling.Batches:
    """Endless shuffled batches in which every prefix of a sequence is a row.

    Args:
        items: [E] item indices, sequence after sequence.
        starts: [S + 1] where each sequence begins, and the end.
        length: of a prefix, its latest items.
        batch_size: rows a batch.
        seed: of the order.
        first_epoch: the epoch to start with.
        weight: [E] float32 of the events; None: all alike.

    Returns:
        Batches of `item` ([B, L] int64, oldest first, padded with 0 on the right to the longest
        prefix of the batch) and `target` ([B] int64, the item after it); with weights WEIGHT, [B]
        float32 of the targets.

    Raises:
        DataError: no sequence has two events.
    """
    require_successors(starts)
    begin = np.repeat(starts[:-1], np.diff(starts))
    place = np.flatnonzero(np.arange(len(items)) > begin)
    columns = {"from": np.maximum(begin[place], place - length), "target": place}
    columns |= {} if weight is None else {WEIGHT: weight[place]}
    values = as_tensor(items)

    def prefixes(batch):
        target = batch["target"][:, tf.newaxis]
        longest = tf.reduce_max(batch["target"] - batch["from"])
        click = batch["from"][:, tf.newaxis] + tf.range(longest)
        read = take_index(values, tf.minimum(click, target))
        return {
            "item": tf.where(click < target, read, 0),
            "target": take_index(values, batch["target"]),
        }

    return sampling.shuffled_batches(columns, batch_size, seed, first_epoch).map(prefixes)


class Graphs(NamedTuple):
    """The graphs of B sessions side by side; nodes and edges are numbered through.

    Attributes:
        item: [M] int64, the different items of all sessions.
        place: [N] int64, where in `item` each node has its own; session after session.
        session: [N] int64, the session of every node.
        clicks: [N] float32, how many clicks of the session each node stands for.
        last: [B] int64, the node of every session's last click.
        source: [E] int64, the node where an edge begins.
        target: [E] int64, the node where it ends; no edge is there twice.
    """

    item: tf.Tensor
    place: tf.Tensor
    session: tf.Tensor
    clicks: tf.Tensor
    last: tf.Tensor
    source: tf.Tensor
    target: tf.Tensor


def session_graphs(items: tf.Tensor) -> Graphs:
    """Builds the graphs of sessions.

    Args:
        items: [B, L] int64 item indices, oldest first, padded with 0 on the right. A session
            without any item gets one node of the item 0, so that it has a last one.
    """
    clicked = (items > 0) | (tf.range(tf.shape(items)[1]) == 0)
    session = tf.where(clicked)[:, 0]
    item, place = tf.unique(tf.boolean_mask(items, clicked), tf.int64)
    kinds = tf.size(item, tf.int64)
    key, node, clicks = tf.unique_with_counts(session * kinds + place, tf.int64)
    nodes = tf.size(key, tf.int64)
    follows = session[1:] == session[:-1]
    pair, _ = tf.unique(tf.boolean_mask(node[:-1] * nodes + node[1:], follows))
    ends = tf.cumsum(tf.reduce_sum(tf.cast(clicked, tf.int64), axis=1)) - 1
    return Graphs(
        item=item,
        place=key % kinds,
        session=key // kinds,
        clicks=tf.cast(clicks, tf.float32),
        last=tf.gather(node, ends),
        source=pair // nodes,
        target=pair % nodes,
    )


def adjacency(graphs: Graphs, place: tf.Tensor, rows: tf.Tensor) -> tf.SparseTensor:
    """[N, 2 rows] float32: where every node hears from, by incoming edges and by outgoing ones.

    It hears from all of its neighbours alike: the shares of a half of a row add up to 1, or to 0.

    Args:
        graphs: the graphs.
        place: [N] int64 row that stands for each node.
        rows: how many there are.
    """
    nodes = tf.size(place, tf.int64)
    cells, shares = [], []
    for node, neighbour, half in (
        (graphs.target, graphs.source, 0),
        (graphs.source, graphs.target, rows),
    ):
        cells.append(tf.stack([node, half + tf.gather(place, neighbour)], axis=1))
        shares.append(
            1.0 / tf.gather(tf.math.bincount(node, minlength=nodes, dtype=tf.float32), node)
        )
    shape = tf.stack([nodes, 2 * rows])
    return tf.SparseTensor(tf.concat(cells, axis=0), tf.concat(shares, axis=0), shape)
