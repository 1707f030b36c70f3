"""SR-GNN: a gated graph network over the items of a session, which ranks the next item.

Cite: Wu, Tang, Zhu, Wang, Xie, Tan: Session-based Recommendation with Graph Neural Networks, AAAI
2019. Where paper and released code differ, this is the code (PyTorch).

A session of clicks x_1 .. x_n is a graph: its nodes are its different items, an edge leads from
every item to the one after it, once however often it is taken. h_v starts as the embedding e_v.

    a_v      = [ mean over edges u -> v of (W_in h_u + b_in)  + b_1 ;    (a mean of none is 0)
                 mean over edges v -> u of (W_out h_u + b_out) + b_2 ]
    r, z     = sigmoid(W a_v + b + U h_v + d)
    c        = tanh(W_c a_v + b_c + r * (U_c h_v + d_c))
    h_v'     = c + z (h_v - c)                                               (`steps` times)
    weight_t = q . sigmoid(W_1 h_{x_n} + W_2 h_{x_t} + b_3)                  (no softmax over t)
    s        = W_3 [ sum over clicks t of weight_t h_{x_t} ; h_{x_n} ] + b_4
    score(i) = s . e_i
    loss     = mean over the rows of - log softmax(score)_target
    gradient = that of the loss + l2 * weight, of every weight              (L2, not AdamW)

Clicks, not nodes, are attended to: an item that was clicked twice counts twice. Every prefix of a
session is an example of its own, drawn in any order. Every weight starts uniform within 1 /
sqrt(units) of 0. Adam; the learning rate falls to a tenth every three epochs.

Deviations: a prefix is its last `history_length` clicks; the learning rate falls with the steps,
so that a run that was killed goes on with the one that was its due; no bias is there twice (W_1's
and W_2's are one).
"""

from typing import NamedTuple

import numpy as np
import pydantic
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.query import Query
from models.contract.retrieve import DotProductModel
from models.inputs import sampling
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.token_layers import id_embedding
from models.names.hyper_parameters import Epochs, Gradient, Ranking
from models.training.optimizers import Adam


class HyperParameters(Ranking, Epochs, Gradient):
    """SR-GNN's own.

    `units` is the width of everything, `steps` how often the nodes hear from their neighbours. The
    learning rate is multiplied by `decay` every `decay_epochs` epochs; `l2` is added to the
    gradient of every weight, times the weight.
    """

    epochs: int = 30
    patience: int = 10
    batch_size: int = 100
    learning_rate: float = 1e-3
    decay: float = pydantic.Field(0.1, gt=0, le=1)
    decay_epochs: int = pydantic.Field(3, ge=1)
    l2: float = pydantic.Field(1e-5, ge=0)
    units: int = pydantic.Field(100, ge=1)
    steps: int = pydantic.Field(1, ge=1)
    history_length: int = pydantic.Field(50, ge=1)


class Graphs(NamedTuple):
    """The graphs of B sessions side by side; nodes, clicks and edges are numbered through.

    Attributes:
        item: [N] int64, the item of every node.
        node: [P] int64, the node of every click, session after session, oldest first.
        session: [P] int64, the session of every click.
        source: [E] int64, the node where an edge begins.
        target: [E] int64, the node where it ends; no edge is there twice.
        last: [B] int64, the node of every session's last click.
    """

    item: tf.Tensor
    node: tf.Tensor
    session: tf.Tensor
    source: tf.Tensor
    target: tf.Tensor
    last: tf.Tensor


def session_graphs(items: tf.Tensor) -> Graphs:
    """Builds the graphs of sessions.

    Args:
        items: [B, L] int64 item indices, oldest first, padded with 0 on the right. A session
            without any item gets one node of the item 0, so that it has a last one.
    """
    clicked = (items > 0) | (tf.range(tf.shape(items)[1]) == 0)
    session = tf.where(clicked)[:, 0]
    clicks = tf.boolean_mask(items, clicked)
    beyond = tf.reduce_max(items) + 1
    key, node = tf.unique(session * beyond + clicks, tf.int64)
    nodes = tf.size(key, tf.int64)
    follows = session[1:] == session[:-1]
    pair, _ = tf.unique(tf.boolean_mask(node[:-1] * nodes + node[1:], follows))
    ends = tf.cumsum(tf.reduce_sum(tf.cast(clicked, tf.int64), axis=1)) - 1
    return Graphs(key % beyond, node, session, pair // nodes, pair % nodes, tf.gather(node, ends))


class GatedStep(tf.keras.layers.Layer):
    """One step of the gated graph network: (Graphs, [N, units] states) -> [N, units] states.

    The reset gate acts after the recurrent product: PyTorch's GRU cell, with gates in the order
    reset, update, candidate.
    """

    def __init__(self, units: int, name: str | None = None):
        super().__init__(name=name)
        self.incoming = dense(units, units, "incoming")
        self.outgoing = dense(units, units, "outgoing")
        self.bias = self.add_weight("bias", [2 * units], initializer=uniform(units))
        self.message = dense(3 * units, units, "message")
        self.recurrent = dense(3 * units, units, "recurrent")

    def call(self, graphs, state):
        count = tf.shape(state)[0]
        # The means are products with the normalised adjacency matrices, of which E cells are not 0.
        incoming = tf.math.unsorted_segment_mean(
            tf.gather(self.incoming(state), graphs.source), graphs.target, count
        )
        outgoing = tf.math.unsorted_segment_mean(
            tf.gather(self.outgoing(state), graphs.target), graphs.source, count
        )
        message = self.message(tf.concat([incoming, outgoing], axis=1) + self.bias)
        reset, update, candidate = tf.split(message, 3, axis=1)
        of_reset, of_update, of_candidate = tf.split(self.recurrent(state), 3, axis=1)
        candidate = tf.tanh(candidate + tf.sigmoid(reset + of_reset) * of_candidate)
        return candidate + tf.sigmoid(update + of_update) * (state - candidate)


class SRGNN(DotProductModel[HyperParameters]):
    """A session's graph, read out into a vector that is matched with the items' embeddings."""

    uses_user_id = False
    uses_history = True
    session_based = True

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        units = hyper_parameters.units
        self.items = id_embedding(data.items, units, uniform(units), name="items")
        self.items.build([])
        self.step = GatedStep(units, name="step")
        self.attention_last = dense(units, units, "attention_last", use_bias=False)
        self.attention_click = dense(units, units, "attention_click")
        self.attention = dense(1, units, "attention", use_bias=False)
        self.read_out = dense(units, units, "read_out")

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        hyper_parameters = self.hyper_parameters
        items, starts = data.events.sequences()
        return prefix_batches(
            items,
            starts,
            hyper_parameters.history_length,
            hyper_parameters.batch_size,
            seed,
            first_epoch,
        )

    def learn(self, loop: Loop) -> None:
        hyper_parameters = self.hyper_parameters
        steps = self.batches(loop.data, loop.seed, 0).steps
        rate = tf.keras.optimizers.schedules.ExponentialDecay(
            hyper_parameters.learning_rate,
            decay_steps=hyper_parameters.decay_epochs * steps,
            decay_rate=hyper_parameters.decay,
            staircase=True,
        )
        with loop.strategy.scope():
            adam = Adam(rate, l2=hyper_parameters.l2, epsilon=1e-8)  # PyTorch's
        loop.fit(self, optimizer=adam)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        graphs = session_graphs(inputs["item"])
        states, table = rows_and_table(tf.convert_to_tensor(self.items.embeddings), graphs.item)
        return softmax_loss(self._read(graphs, states), table, inputs["target"])

    def query_embedding(self, query: Query) -> tf.Tensor:
        latest = query.history[:, -self.hyper_parameters.history_length :].to_tensor()
        graphs = session_graphs(tf.pad(latest, [[0, 0], [0, 1]]))
        return self._read(graphs, self.items(graphs.item))

    def item_embeddings(self) -> tf.Tensor:
        return self.items.embeddings[FIRST_TOKEN:]

    def _read(self, graphs: Graphs, state: tf.Tensor) -> tf.Tensor:
        """[N, units] embeddings of the nodes -> [B, units] vectors of the sessions."""
        for _ in range(self.hyper_parameters.steps):
            state = self.step(graphs, state)
        last, clicks = tf.gather(state, graphs.last), tf.gather(state, graphs.node)
        of_last = tf.gather(self.attention_last(last), graphs.session)
        of_click = tf.gather(self.attention_click(state), graphs.node)
        weight = self.attention(tf.sigmoid(of_last + of_click))
        whole = tf.math.segment_sum(weight * clicks, graphs.session)
        return self.read_out(tf.concat([whole, last], axis=1))


def prefix_batches(
    items: np.ndarray,
    starts: np.ndarray,
    length: int,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
) -> sampling.Batches:
    """Endless shuffled batches in which every prefix of a sequence is a row.

    Args:
        items: [E] int64 item indices, sequence after sequence.
        starts: [S + 1] where each sequence begins, and the end.
        length: of a prefix, its latest items.
        batch_size: rows a batch.
        seed: of the order.
        first_epoch: the epoch to start with.

    Returns:
        Batches of `item` ([B, L] int64, oldest first, padded with 0 on the right to the longest
        prefix of the batch) and `target` ([B] int64, the item after it).
    """
    begin = np.repeat(starts[:-1], np.diff(starts))
    place = np.flatnonzero(np.arange(len(items)) > begin)
    columns = {"from": np.maximum(begin[place], place - length), "target": place}
    values = tf.constant(items)

    def prefixes(batch):
        target = batch["target"][:, tf.newaxis]
        longest = tf.reduce_max(batch["target"] - batch["from"])
        click = batch["from"][:, tf.newaxis] + tf.range(longest)
        read = tf.gather(values, tf.minimum(click, target))
        return {
            "item": tf.where(click < target, read, 0),
            "target": tf.gather(values, batch["target"]),
        }

    return sampling.shuffled_batches(columns, batch_size, seed, first_epoch).map(prefixes)


@tf.custom_gradient
def rows_and_table(table: tf.Tensor, rows: tf.Tensor):
    """Rows of a table and the table itself, for a second use of it: ([R, D], [V, D]).

    The two gradients meet in one tensor. Left to TensorFlow they would meet as a list of the rows
    of both, which takes as long as the softmax.
    """

    def gradient(of_rows, of_table):
        return tf.tensor_scatter_nd_add(of_table, rows[:, tf.newaxis], of_rows), None

    return (tf.gather(table, rows), table), gradient


@tf.custom_gradient
def softmax_loss(vectors: tf.Tensor, table: tf.Tensor, target: tf.Tensor):
    """The mean cross-entropy of a softmax over the items.

    It is `tf.nn.sparse_softmax_cross_entropy_with_logits`, whose kernel and products with zeros
    would take half of a step.

    Args:
        vectors: [B, D] float32.
        table: [V, D] float32; the rows 0 and 1 are no items.
        target: [B] int64 row of `table`.

    Returns:
        A scalar.
    """
    row = tf.range(tf.shape(target, tf.int64)[0])
    absent = tf.stack(
        [
            tf.repeat(row, FIRST_TOKEN),
            tf.tile(tf.range(FIRST_TOKEN, dtype=tf.int64), tf.shape(row)),
        ],
        1,
    )
    scores = tf.matmul(vectors, table, transpose_b=True)
    scores = tf.tensor_scatter_nd_update(
        scores, absent, tf.fill(tf.shape(absent)[:1], scores.dtype.min)
    )
    probability = tf.nn.softmax(scores)
    # The most probable item's probability cannot underflow, the target's can.
    total = tf.reduce_max(scores, axis=1) - tf.math.log(tf.reduce_max(probability, axis=1))
    loss = tf.reduce_mean(total - tf.gather(scores, target, batch_dims=1))

    def gradient(upstream):
        share = upstream / tf.cast(tf.size(target), vectors.dtype)
        wanted = tf.gather(table, target)
        of_vectors = share * (tf.matmul(probability, table) - wanted)
        of_table = tf.matmul(probability, share * vectors, transpose_a=True)
        of_table = tf.tensor_scatter_nd_sub(of_table, target[:, tf.newaxis], share * vectors)
        return of_vectors, of_table, None

    return loss, gradient


def uniform(units: int) -> tf.keras.initializers.Initializer:
    """U(-l, l) with l = 1 / sqrt(units); one for every weight, since Keras' repeat themselves."""
    return tf.keras.initializers.RandomUniform(-(units**-0.5), units**-0.5)


def dense(outputs: int, units: int, name: str, use_bias: bool = True) -> tf.keras.layers.Dense:
    """A linear layer of the model of `units`."""
    return tf.keras.layers.Dense(
        outputs,
        use_bias=use_bias,
        kernel_initializer=uniform(units),
        bias_initializer=uniform(units),
        name=name,
    )


Model = SRGNN
