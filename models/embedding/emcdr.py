"""EMCDR: vectors of a source domain mapped into a target domain, for whoever is new there.

Cite: Man, Shen, Jin, Cheng: Cross-Domain Recommendation: An Embedding and Mapping Approach, IJCAI
2017.

    1. Each domain alone, x_ui = u_i . v_j:
       bpr  loss = - ln sigmoid(x_ui - x_uj) + l2 (|u|^2 + |v_i|^2 + |v_j|^2)
       mf   loss = (1 - x_ui)^2 + sum over `negatives` of x_uj^2 + l2 (|u|^2 + |v|^2)
       ratings    loss = (r_ui - x_ui)^2 + l2 (|u|^2 + |v|^2), the paper's MF
    2. Over the entities e that both domains have, the vectors as step 1 left them:
       linear  f(x) = x M,  min over M of  sum |f(u_e^s) - u_e^t|^2 + map_l2 |M|^2
       mlp     f(x) = tanh(x W + b) W' + b',  K -> 2K -> K,  min of mean |f(u_e^s) - u_e^t|^2
    3. An entity that the target does not know has the vector f(u_e^s) there.

`split.shared` of the run says whether the entities are users (then u) or items (then v). The whole
triple of source, target and map is one model: a map is good for the very vectors that it was fitted
on, since those of another training are rotated.

What is answered. Shared users: a user whom the target's train knows has its own vector (strategy
`model`), one whom the source alone knows is mapped (`fold-in`), anyone else gets the target's
popularity. Shared items: users whom the target knows rank its items by their own vectors and those
that it has no events of by the mapped ones. Items without either vector are not ranked. A history
in a request only says what was seen. Held-out entities have no target events in train, so nothing
of them reaches the target's vectors or the map.

Deviations: the task is to rank, so pairs are of an item that the user has and one that it has not
(`pairs: graded` makes them of two rated ones, as the paper reads), and mf predicts 1 for the former
and 0 for drawn ones of the latter; the paper's MF ranks by predicted ratings. Adam on the mean over
a batch; M, whose problem is convex, is solved in closed form, where the paper steps towards it.
`item_biases`, which the paper has not, are on as in this kit's BPR-MF: a mapped user then begins at
the target's popularity (benchmarks/README.md has both).
"""

import time
from typing import Any, ClassVar, Literal

import numpy as np
import pydantic
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.query import Query
from models.contract.retrieve import DotProductModel
from models.embedding.domain_vectors import DomainVectors, VectorSettings
from models.inputs import sampling
from models.inputs.data import Entities, TrainingData
from models.inputs.event_log import EventLog
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.source_domain import read_source
from models.names.errors import DataError
from models.names.hyper_parameters import Epochs, Gradient, LazyAdam, Ranking, Xla
from models.names.sizes import ADDED, Parameters, Sizes, dense, perceptron


class HyperParameters(VectorSettings, Ranking, Epochs, Gradient, LazyAdam, Xla):
    """EMCDR's own; `epochs`, `batch_size`, `learning_rate` are those of the domains' vectors.

    The vectors answer nobody who is held out, so each domain is trained for all `epochs`;
    validation chooses among those of the map.

    Attributes:
        map: the kind of mapping.
        map_l2: linear: lambda of M.
        map_epochs: mlp: passes over the shared entities at most.
        map_batch_size: mlp: entities a step.
        map_learning_rate: mlp: of plain gradient descent.
        active_share: the share of the shared entities, those with the most events in the domain in
            which they have fewer, that the map is fitted on.
    """

    REFUSALS: ClassVar[dict[str, str]] = {
        "mixed_precision": "its vectors are compared in float32, and the map between them is small",
    }

    epochs: int = 40
    map: Literal["linear", "mlp"] = "mlp"
    map_l2: float = pydantic.Field(0.01, ge=0)
    map_epochs: int = pydantic.Field(100, ge=1)
    map_batch_size: int = pydantic.Field(16, ge=1)
    map_learning_rate: float = pydantic.Field(0.05, gt=0)
    active_share: float = pydantic.Field(1.0, gt=0, le=1)

    def parameters(self, sizes: Sizes) -> Parameters:
        width = self.factors
        users = sizes.users + sizes.source_users + 2 * ADDED
        items = sizes.items + sizes.source_items + 2 * ADDED
        learnt = (users + items) * width + items * self.item_biases
        if self.map == "mlp":
            return Parameters(learnt + perceptron(width, [2 * width], width))
        return Parameters(learnt + dense(width, width, bias=False))


class EMCDR(DotProductModel[HyperParameters]):
    """Two domains and the map between them."""

    cold_items = True
    biased = True
    explains = "similarity"

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        source = read_source(data, "emcdr")
        self.source = DomainVectors(
            hyper_parameters, data, source.users, source.items, source.events
        )
        self.target = DomainVectors(hyper_parameters, data, data.users, data.items, data.events)
        self._maps_users = source.shared == "users"
        width = hyper_parameters.factors
        deep = hyper_parameters.map == "mlp"
        if deep:
            self.hidden = tf.keras.layers.Dense(2 * width, activation="tanh", name="hidden")
        self.output_map = tf.keras.layers.Dense(width, use_bias=deep, name="output_map")
        entities = data.users if self._maps_users else data.items
        # Of every index of the target's shared entities the source's one, 0 where it has none.
        self._in_source = np.r_[[0, 0], source.index_of(entities.ids)]
        self._shared = self._to_fit_on(entities, source.events, data.events)
        self._item_rows = tf.range(FIRST_TOKEN, data.items.index_count, dtype=tf.int64)
        self._has_vector = np.arange(len(data.items)) < data.items.train_count
        if not self._maps_users:
            self._has_vector |= self._in_source[FIRST_TOKEN:] > 0

    def learn(self, loop: Loop) -> None:
        for stage, domain in (("source", self.source), ("target", self.target)):
            domain.trainable = True
            loop.fit(domain, stage, validate=False)
            # Frozen: the map must not move what it is fitted on.
            domain.trainable = False
        self.learn_map(loop)

    def learn_map(self, loop: Loop) -> None:
        """Fits the map on the domains' vectors as they are."""
        own = self.hyper_parameters
        if own.map == "linear":
            started = time.monotonic()
            loop.build(self)
            here, there = (table(index) for table, index in self._pairs().values())
            self.output_map.set_weights([least_squares(here.numpy(), there.numpy(), own.map_l2)])
            loop.record(self, "map", time.monotonic() - started)
            return
        with loop.strategy.scope():
            optimizer = tf.keras.optimizers.SGD(own.map_learning_rate)
        loop.fit(self, "map", optimizer, epochs=own.map_epochs)

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        """The shared entities that the map is fitted on."""
        columns = {name: index for name, (_, index) in self._pairs().items()}
        size = self.hyper_parameters.map_batch_size
        return sampling.shuffled_batches(columns, size, seed, first_epoch)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        here, there = (table(inputs[name]) for name, (table, _) in self._pairs().items())
        return tf.reduce_mean(tf.reduce_sum((self.mapped(here) - there) ** 2, axis=1))

    def mapped(self, vectors: tf.Tensor) -> tf.Tensor:
        """[B, K] vectors of the source -> [B, K] vectors of the target."""
        if self.hyper_parameters.map == "mlp":
            vectors = self.hidden(vectors)
        return self.output_map(vectors)

    def query_embedding(self, query: Query) -> tf.Tensor:
        """The user's vector, its own or mapped, and a one, which the item's bias meets."""
        user = self.target.users(query.user)
        if self._maps_users:
            user = tf.where(query.known[:, tf.newaxis], user, self._from_source(query.user))
        return tf.concat([user, tf.ones_like(user[:, :1])], axis=1)

    def item_embeddings(self) -> tf.Tensor:
        """The items' vectors, their own or mapped, and their biases; 0 where they have none."""
        vectors = self.target.items(self._item_rows)
        bias = self.target.bias(self._item_rows)[:, tf.newaxis]
        known = self._item_rows < self.target.items.input_dim
        mapped = tf.zeros_like(vectors) if self._maps_users else self._from_source(self._item_rows)
        vectors = tf.where(known[:, tf.newaxis], vectors, mapped)
        vectors = tf.where(self._has_vector[:, np.newaxis], vectors, 0.0)
        return tf.concat([vectors, tf.where(known[:, tf.newaxis], bias, 0.0)], axis=1)

    def index(self, catalogue: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        there = tf.where(self._has_vector)[:, 0]
        return tf.gather(catalogue, there), there

    def score_items(self, query: Query, catalogue: tf.Tensor) -> tf.Tensor:
        return tf.where(self._has_vector, super().score_items(query, catalogue), float("-inf"))

    def answers(self, query: Query) -> tf.Tensor:
        if not self._maps_users:
            return query.known
        return query.known | (tf.gather(self._in_source, query.user) > 0)

    def _from_source(self, index: tf.Tensor) -> tf.Tensor:
        """The mapped vectors of [B] indices of the target's shared entities."""
        table = self.source.users if self._maps_users else self.source.items
        return self.mapped(table(tf.gather(self._in_source, index)))

    def _pairs(self) -> dict[str, tuple[Any, np.ndarray]]:
        """Of each domain the table of the shared entities, and the [P] rows to fit on."""
        side = "users" if self._maps_users else "items"
        return {
            "source": (getattr(self.source, side), self._in_source[self._shared]),
            "target": (getattr(self.target, side), self._shared),
        }

    def _to_fit_on(self, entities: Entities, source: EventLog, target: EventLog) -> np.ndarray:
        """[P] indices of the entities that both trains have, the most active first."""
        name = "user" if self._maps_users else "item"
        index = np.arange(FIRST_TOKEN, entities.embedding_rows)
        index = index[self._in_source[index] > 0]
        there = np.bincount(getattr(target, name), minlength=entities.index_count)[index]
        here = np.bincount(getattr(source, name), minlength=self._in_source.max() + 1)
        least = np.minimum(there, here[self._in_source[index]])
        index = index[least > 0]
        if not len(index):
            raise DataError(
                f"emcdr fits its map on {name}s that train has seen in both domains; required: at "
                "least one; received none: split.test_fraction and split.valid_fraction hold all "
                "of them out, or features.min_count leaves them out"
            )
        order = np.argsort(-least[least > 0], kind="stable")
        return index[order][: max(1, round(len(index) * self.hyper_parameters.active_share))]


def least_squares(here: np.ndarray, there: np.ndarray, l2: float) -> np.ndarray:
    """[K, K] M that minimises |here M - there|^2 + l2 |M|^2, of [P, K] vectors."""
    here, there = here.astype(np.float64), there.astype(np.float64)
    # A little is left where there is no l2: there may be fewer entities than factors.
    ridge = max(l2, 1e-9) * np.eye(here.shape[1])
    return np.linalg.solve(here.T @ here + ridge, here.T @ there).astype(np.float32)


Model = EMCDR
