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

from typing import ClassVar

import pydantic
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.query import Query
from models.contract.recommender import weighed
from models.contract.retrieve import DotProductModel
from models.gnn import sessions
from models.inputs import sampling, softmax
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.token_layers import id_embedding
from models.names.hyper_parameters import Epochs, Gradient, Ranking
from models.names.sizes import Parameters, Sizes, perceptron
from models.training.optimizers import Adam


class HyperParameters(Ranking, Epochs, Gradient):
    """SR-GNN's own.

    `units` is the width of everything, `steps` how often the nodes hear from their neighbours. The
    learning rate is multiplied by `decay` every `decay_epochs` epochs; `l2` is added to the
    gradient of every weight, times the weight.

    Attributes:
        decay: factor of the learning rate.
        decay_epochs: epochs after which it is applied again.
        steps: how often the nodes hear from their neighbours.
    """

    REFUSALS: ClassVar[dict[str, str]] = {
        "jit_compile": "a step counts the nodes of its graphs (tf.unique_with_counts) and sums "
        "over their edges by a sparse product, neither of which XLA compiles",
        "mixed_precision": "its sums over edges and its softmax over all items are written for "
        "float32",
    }

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

    def parameters(self, sizes: Sizes) -> Parameters:
        units = self.units
        step = 2 * perceptron(units, [units]) + 2 * units + perceptron(2 * units, [3 * units])
        step += perceptron(units, [3 * units])
        attention = units**2 + perceptron(units, [units]) + units
        return Parameters(
            sizes.table("item", units) + step + attention + perceptron(2 * units, [units])
        )


class GatedStep(tf.keras.layers.Layer):
    """One step of the gated graph network.

    Maps (Graphs, [M, units] states, [N] which of them each node has) -> [N, units] states.

    The reset gate acts after the recurrent product: PyTorch's GRU cell, with gates in the order
    reset, update, candidate. At first all nodes of an item have one state, and what is linear is
    computed once for all of them: means and products with a matrix change places.
    """

    def __init__(self, units: int, name: str | None = None):
        super().__init__(name=name)
        self.units = units
        self.incoming = dense(units, units, "incoming")
        self.outgoing = dense(units, units, "outgoing")
        self.bias = self.add_weight("bias", [2 * units], initializer=uniform(units))
        self.message = dense(3 * units, units, "message")
        self.message.build([None, 2 * units])
        self.recurrent = dense(3 * units, units, "recurrent")

    def call(self, graphs, state, place):
        of_incoming, of_outgoing = tf.split(self.message.kernel, 2)
        neighbours = tf.concat(
            [
                tf.matmul(self.incoming(state), of_incoming),
                tf.matmul(self.outgoing(state), of_outgoing),
            ],
            axis=0,
        )
        edges = sessions.adjacency(graphs, place, tf.shape(state, tf.int64)[0])
        of_bias = self.message(self.bias[tf.newaxis])
        message = tf.sparse.sparse_dense_matmul(edges, neighbours) + of_bias
        recurrent = tf.gather(self.recurrent(state), place)
        sizes = [2 * self.units, self.units]
        gates, candidate = tf.split(message, sizes, axis=1)
        of_gates, of_candidate = tf.split(recurrent, sizes, axis=1)
        reset, update = tf.split(tf.sigmoid(gates + of_gates), 2, axis=1)
        candidate = tf.tanh(candidate + reset * of_candidate)
        return candidate + update * (tf.gather(state, place) - candidate)


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
        return sessions.prefix_batches(
            items,
            starts,
            hyper_parameters.history_length,
            hyper_parameters.batch_size,
            seed,
            first_epoch,
            data.events.sequence_weight,
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
        graphs = sessions.session_graphs(inputs["item"])
        states, table = softmax.rows_and_table(
            tf.convert_to_tensor(self.items.embeddings), graphs.item
        )
        vectors, target = self._read(graphs, states), inputs["target"]
        weight = weighed(inputs, tf.ones_like(target, tf.float32))
        return softmax.cross_entropy(vectors, table, target, weight)

    def query_embedding(self, query: Query) -> tf.Tensor:
        latest = query.history[:, -self.hyper_parameters.history_length :].to_tensor()
        graphs = sessions.session_graphs(tf.pad(latest, [[0, 0], [0, 1]]))
        return self._read(graphs, self.items(graphs.item))

    def item_embeddings(self) -> tf.Tensor:
        return self.items.embeddings[FIRST_TOKEN:]

    def _read(self, graphs: sessions.Graphs, state: tf.Tensor) -> tf.Tensor:
        """[M, units] embeddings of the items -> [B, units] vectors of the sessions."""
        place = graphs.place
        for _ in range(self.hyper_parameters.steps):
            state = self.step(graphs, state, place)
            place = tf.range(tf.size(place, tf.int64))
        last = tf.gather(state, graphs.last)
        of_last = tf.gather(self.attention_last(last), graphs.session)
        weight = self.attention(tf.sigmoid(of_last + self.attention_click(state)))
        # All clicks of a node have one weight.
        whole = tf.math.segment_sum(graphs.clicks[:, tf.newaxis] * weight * state, graphs.session)
        return self.read_out(tf.concat([whole, last], axis=1))


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
