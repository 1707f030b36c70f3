"""RIB: the next item of a session of micro-behaviours, each an item, what was done, and how long.

Cite: Zhou, Ding, Tang, Yin: Micro Behaviors: A New Perspective in E-commerce Recommender Systems,
WSDM 2018. What the paper leaves open is JD's: the authors' successor (Gu et al., WSDM 2020) and its
code, labelled as this paper's.

    x_t       = [ item_t ; activity_t ; dwell_t ]    item: begins as its vector, and is trained
    h_t       = GRU(x_t, h_t-1)
    e_t       = a . tanh(A h_t + b)                  activity: the type of the event
    weight    = softmax of e over the steps          dwell: the bin of its seconds
    p         = P sum_t weight_t h_t + c
    loss      = 1 - cos(p, v_next)                   v: item vectors, learnt before and frozen
    candidates: the union of the `neighbours` nearest of every item of the session, but the last
    score(i)  = cos(p, v_i)

A target is the first event of an item in its session; what is read ends before it, so none of the
target's own micro-behaviours is. The bins of dwell are quantiles of train. What is missing, or of a
type that train has not seen, has a zero vector: so has the dwell of a visit that goes on.

Deviations: v is skip-gram over whole sessions (`models.industry.item_vectors`), where JD's release
takes word2vec's window; every first event of an item is a target, not the last item of a session
alone, and an item that returns is none. JD's code mixes the steps before the softmax, does not mask
padding and has no P: P is what makes p and v comparable, the others are left out. The signature
`retrieve` searches all items.
"""

from typing import Any, ClassVar

import numpy as np
import pydantic
import tensorflow as tf

from models.contract.explain import sum_of
from models.contract.loop import Loop
from models.contract.query import Query
from models.contract.recommender import weighed
from models.contract.requests import signature
from models.industry.item_vectors import VectorModel, VectorSettings
from models.industry.prefixes import Prefixes, targets
from models.industry.recurrent import read_through
from models.inputs import sampling
from models.inputs.columns import choose
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.token_layers import TokenEmbedding, id_embedding
from models.names.hyper_parameters import Epochs, Gradient, Ranking, Xla
from models.names.sizes import ADDED, Parameters, Sizes, dense

_BLOCK = 512  # items whose neighbours are looked for at once


class HyperParameters(Ranking, Epochs, Gradient, Xla, VectorSettings):
    """RIB's own; sizes are those of JD's release.

    Attributes:
        activity_dim: width of the embedding of what was done.
        dwell_dim: width of the embedding of how long.
        dwell_bins: bins of dwell.
        units: width of the GRU.
        attention_units: width of A.
        attention_l2: of A.
        history_length: events of a session that are read, the latest.
        neighbours: how many of an item's nearest are candidates; 0 ranks all items.
    """

    REFUSALS: ClassVar[dict[str, str]] = {
        "mixed_precision": "its states are carried, and its vectors compared, in float32",
    }

    batch_size: int = 128
    activity_dim: int = pydantic.Field(5, ge=1)
    dwell_dim: int = pydantic.Field(5, ge=1)
    dwell_bins: int = pydantic.Field(5, ge=1)
    units: int = pydantic.Field(100, ge=1)
    attention_units: int = pydantic.Field(100, ge=1)
    attention_l2: float = pydantic.Field(0.01, ge=0)
    history_length: int = pydantic.Field(40, ge=1)
    neighbours: int = pydantic.Field(1000, ge=0)

    def parameters(self, sizes: Sizes) -> Parameters:
        learnt = self.vector_parameters(sizes) + sizes.table("item", self.embedding_dim)
        learnt += (sizes.event_types + ADDED) * self.activity_dim
        learnt += (self.dwell_bins + 1) * self.dwell_dim
        inputs = self.embedding_dim + self.activity_dim + self.dwell_dim
        # Keras' cell has a bias of its own for the state.
        learnt += dense(inputs, 3 * self.units) + dense(self.units, 3 * self.units)
        learnt += dense(self.units, self.attention_units) + self.attention_units
        learnt += dense(self.units, self.embedding_dim)
        return Parameters(learnt, held=sizes.table("item", 1), slots=1)


class RIB(VectorModel[HyperParameters]):
    """A GRU over micro-behaviours whose states are weighed and mapped to an item vector."""

    session_based = True
    explains = "attention"
    reads_history = ("event_types", "dwell")

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        own = hyper_parameters
        self.items = id_embedding(data.items, own.embedding_dim, name="items")
        self.items.build(None)
        types = len(data.event_types) + FIRST_TOKEN
        self.activities = TokenEmbedding(data.event_types, types, own.activity_dim)
        self.dwells = tf.keras.layers.Embedding(own.dwell_bins + 1, own.dwell_dim)
        self.gru = tf.keras.layers.GRUCell(own.units)
        self.attention = tf.keras.layers.Dense(
            own.attention_units,
            "tanh",
            kernel_regularizer=tf.keras.regularizers.L2(own.attention_l2),
        )
        self.attention_score = tf.keras.layers.Dense(1, use_bias=False)
        self.projection = tf.keras.layers.Dense(own.embedding_dim)
        # How near the last of an item's nearest is; all are near where there are no more items.
        self.reach = self.add_weight(
            "reach",
            [data.items.embedding_rows],
            tf.float32,
            tf.keras.initializers.Constant(-2.0),
            trainable=False,
        )
        self._edges = dwell_edges(data.events.dwell, own.dwell_bins)
        self._histories, self._item_table = data.histories, data.item_table

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        log, own = data.events, self.hyper_parameters
        columns = {"item": log.item, "event_type": log.event_type, "dwell": log.dwell}
        prefixes = Prefixes(log, columns, own.history_length)
        return sampling.shuffled_batches(targets(log), own.batch_size, seed, first_epoch).map(
            lambda batch: {"target": batch["target"], **prefixes.read(batch["position"])}
        )

    def learn(self, loop: Loop) -> None:
        self.learn_vectors(loop)
        if not loop.warm_started:
            index = tf.range(self.items.input_dim, dtype=tf.int64)
            learnt = self.has_vector(index)[:, tf.newaxis]
            first = tf.where(learnt, self.unit(index), self.items.embeddings)
            self.items.embeddings.assign(first)
        own, padding = self.hyper_parameters, np.zeros(FIRST_TOKEN, np.float32)
        nearest = reach(self.item_embeddings().numpy(), own.neighbours)
        self.reach.assign(np.append(padding, nearest))
        with loop.strategy.scope():
            optimizer = tf.keras.optimizers.RMSprop(own.learning_rate)
        loop.fit(self, optimizer=optimizer)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        predicted, _ = self.read(inputs["item"], inputs["event_type"], inputs["dwell"])
        wanted = self.unit(inputs["target"])
        cosine = tf.reduce_sum(tf.math.l2_normalize(predicted, axis=1) * wanted, axis=1)
        counted = tf.cast(self.has_vector(inputs["target"]), tf.float32)
        rows = weighed(inputs, counted * (1.0 - cosine))
        return tf.reduce_sum(rows) / tf.maximum(tf.reduce_sum(counted), 1.0)

    def read(
        self, items: tf.Tensor, event_types: tf.Tensor, dwell: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Reads [B, L] events, padded on the right with items of 0.

        Returns:
            [B, D] float32 p, and [B, L] float32 weights of the steps, 0 where there is none.
        """
        bins = dwell_bins(dwell, self._edges)
        told = tf.cast(event_types >= FIRST_TOKEN, tf.float32)[..., tf.newaxis]
        timed = tf.cast(bins > 0, tf.float32)[..., tf.newaxis]
        parts = [self.items(items), self.activities(event_types) * told, self.dwells(bins) * timed]
        there = items > 0
        hidden = read_through(self.gru, tf.concat(parts, axis=-1), there)
        weights = self.weigh(hidden, there)
        return self.projection(tf.linalg.matvec(hidden, weights, transpose_a=True)), weights

    def weigh(self, hidden: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
        """[B, L, units] states, [B, L] bool steps -> [B, L] weights; all 0 where there is none."""
        energy = self.attention_score(self.attention(hidden))[..., 0]
        return tf.nn.softmax(tf.where(there, energy, -1e9), axis=1) * tf.cast(there, tf.float32)

    def _read_query(self, query):
        """As `read` the latest events of a query, which need not tell more than items."""
        history, length = query.history, self.hyper_parameters.history_length
        columns = (history, query.event_types, query.dwell)
        zeros = (history, tf.zeros_like(history), tf.zeros_like(history, tf.float32))
        return self.read(
            *(
                (zero if column is None else column)[:, -length:].to_tensor()
                for column, zero in zip(columns, zeros, strict=True)
            )
        )

    def query_embedding(self, query: Query) -> tf.Tensor:
        return tf.math.l2_normalize(self._read_query(query)[0], axis=1)

    def catalogue(self) -> Any:
        return (*super().catalogue(), self.reach[FIRST_TOKEN:])

    def index(self, catalogue: Any) -> tuple[tf.Tensor, tf.Tensor]:
        return super().index(catalogue[:2])

    def score_items(self, query: Query, catalogue: Any) -> tf.Tensor:
        vectors, penalty, nearest = catalogue
        scores = super().score_items(query, (vectors, penalty))
        if not self.hyper_parameters.neighbours:
            return scores

        def candidates(history):
            """[L] item indices of a session -> [N] bool."""
            own = tf.gather(vectors, history - FIRST_TOKEN)
            limit = tf.gather(nearest, history - FIRST_TOKEN)[:, tf.newaxis]
            near = tf.reduce_any(tf.matmul(own, vectors, transpose_b=True) >= limit, axis=0)
            last = tf.one_hot(history[-1:] - FIRST_TOKEN, tf.shape(vectors)[0], True, False)
            return near & ~tf.reduce_any(last, axis=0)

        history = query.history[:, -self.hyper_parameters.history_length :]
        kept = tf.map_fn(candidates, history, fn_output_signature=tf.bool)
        return tf.where(kept, scores, float("-inf"))

    def contributions(
        self, query: Query, items: tf.Tensor, position: tf.Tensor, catalogue: Any
    ) -> tf.Tensor:
        """What the attention gives an item's events, whatever the answer is."""
        read = query.history[:, -self.hyper_parameters.history_length :]
        weights = sum_of(self._read_query(query)[1], read, items)[:, tf.newaxis]
        return tf.repeat(weights, tf.shape(position)[1], axis=1)

    def signatures(self, retriever: Any) -> dict[str, Any]:
        """Returns `attend`: what a request's events weigh, which explains the answer.

        It takes `history`, `event_types` and `dwell`, [B, H] as of `recommend_events`, and returns
        `weight`, [B, H] float32: 0 for padding, unknown items and what is too long ago; the rest
        adds up to 1.
        """

        def attend(history, **beside):
            events = self._histories.read_padded(history, beside)
            _, weights = self._read_query(Query(history[:, 0], history[:, 0] == "", *events[:3]))
            known = self._item_table.lookup(history) >= FIRST_TOKEN
            column = tf.broadcast_to(tf.range(tf.shape(known)[1]), tf.shape(known))
            column = choose(column, known)[:, -self.hyper_parameters.history_length :]
            row = tf.cast(column.value_rowids(), tf.int32)
            read = tf.RaggedTensor.from_tensor(weights, column.row_lengths())
            place = tf.stack([row, column.flat_values], axis=1)
            return {"weight": tf.scatter_nd(place, read.flat_values, tf.shape(history))}

        spec = {"history": tf.TensorSpec([None, None], tf.string, name="history")}
        return {"attend": signature(attend, **spec, **self._histories.signature())}


def dwell_edges(dwell: np.ndarray, bins: int) -> list[float]:
    """The quantiles between the bins of [E] seconds, of which only positive ones are known."""
    known = dwell[dwell > 0]
    shares = np.arange(1, bins) / bins
    return np.unique(np.quantile(known, shares)).tolist() if len(known) else []


def dwell_bins(dwell: tf.Tensor, edges: list[float]) -> tf.Tensor:
    """Seconds of any shape -> int32 bins from 1 on; an edge begins a bin; 0 where nobody knows."""
    return tf.where(dwell > 0, 1 + tf.raw_ops.Bucketize(input=dwell, boundaries=edges), 0)


def reach(vectors: np.ndarray, neighbours: int) -> np.ndarray:
    """How near the last of an item's nearest is, itself not counted.

    Args:
        vectors: [N, D] of length 1 or 0.
        neighbours: how many there are.

    Returns:
        [N] float32 cosines; -2 where all items are near, 2 where the item has no vector.
    """
    there = vectors.any(axis=1)
    others, result = vectors[there], np.where(there, -2.0, 2.0).astype(np.float32)
    place = len(others) - 1 - neighbours
    if place <= 0:
        return result
    for start in range(0, len(vectors), _BLOCK):
        block = slice(start, start + _BLOCK)
        nearest = np.partition(vectors[block] @ others.T, place, axis=1)[:, place]
        # The same product may be rounded otherwise when it is asked.
        result[block] = np.where(there[block], nearest - 1e-6, 2.0)
    return result


Model = RIB
