"""Item2vec: skip-gram with negative sampling on item sets, and on walks over the item graph.

Cite: Barkan, Koenigstein: Item2vec: Neural Item Embedding for Collaborative Filtering, MLSP 2016.
The run's `walks.kind` makes walks: Perozzi, Al-Rfou, Skiena: DeepWalk, KDD 2014; Grover, Leskovec:
node2vec, KDD 2016.

    loss of a set = 1/K sum over i, j != i of
        [ - log sigmoid(u_i . v_j) - sum over N negatives k of log sigmoid(- u_i . v_k) ]
        i, j: the K items of the set that subsampling kept, redrawn every epoch:
              P(keep) = sqrt(rho / f), f = share of occurrences
        k:    drawn from count^0.75
    similarity        = cos(u_i, u_j)
    score(history, i) = mean over j in the history of cos(u_j, u_i)

Pairs are over the whole set. In a walk a context is at most `window` steps away, an item is no
context of itself, and K counts no more than 2 `window`. The paper has no users: that a query is the
mean over the last `history_length` items is this project's choice, made on validation, as are the
rate and rho. On MovieLens-100K the mean over the whole history does half as well.

Deviations: a batch of tiles (see `models.inputs.skip_gram`) is one step of SGD, where word2vec
steps pair by pair; so that a popular item does not overshoot, its step is bounded. At the default
rate a pair of a set of 20 steps by word2vec's 0.025; the rate falls linearly to nothing over
`epochs`. The centres of a tile share one draw of negatives, weighted to N a positive: the paper's
loss in expectation, from fewer draws; an item of the set is never a negative of it. The tables
start as u = 0 and v uniform, word2vec's with the two exchanged: so a row u that is still 0 has
never been trained; its item has no vector, and is neither returned nor asked with. DeepWalk's
hierarchical softmax is negative sampling here, as in node2vec.
"""

import pydantic
import tensorflow as tf

from models.contract.item_to_item import ItemToItemModel, LastItems
from models.contract.loop import Loop
from models.inputs.data import TrainingData
from models.inputs.sampling import Batches
from models.inputs.skip_gram import SkipGram, tile_loss
from models.inputs.token_layers import around_zero, id_embedding
from models.names.hyper_parameters import Epochs, Gradient, MixedPrecision, Xla
from models.names.sizes import Parameters, Sizes


class HyperParameters(LastItems, Epochs, Gradient, MixedPrecision, Xla):
    """Item2vec's own; `batch_size` counts positives, about.

    Attributes:
        embedding_dim: m, width of the vectors.
        negatives: N, negatives a positive.
        subsample: rho; the paper has 1e-5 for 49,000 artists and 1e-3 for 1,700 products; 0 keeps
            every occurrence.
        window: walks: contexts are at most so many steps away.
        block: most items of a side of a tile.
        shared_negatives: negatives drawn a tile; left out, as many as one centre of a full tile has
            in the paper: N a context.
        step_limit: learning_rate times the pairs, each weighing 1/K, that a row may add up in a
            batch; a row in more of them takes a shorter step (see skip_gram.bounded_steps).
        max_set: a larger set is represented by so many of its items, chosen anew every epoch: pairs
            grow with the square.
    """

    epochs: int = 20
    patience: int = 20  # the last epochs, at a low rate, gain the most
    batch_size: int = 16_384
    learning_rate: float = 0.5
    embedding_dim: int = pydantic.Field(100, ge=1)
    negatives: int = pydantic.Field(15, ge=1)
    subsample: float = pydantic.Field(1e-4, ge=0)
    window: int = pydantic.Field(5, ge=1)
    block: int = pydantic.Field(32, ge=2)
    shared_negatives: int | None = pydantic.Field(None, ge=1)
    max_set: int = pydantic.Field(1000, ge=2)
    step_limit: float = pydantic.Field(8.0, gt=0)

    def parameters(self, sizes: Sizes) -> Parameters:
        return Parameters(2 * sizes.table("item", self.embedding_dim), slots=0)


class Item2vec(ItemToItemModel[HyperParameters]):
    """A vector u and a context vector v an item; only u is looked at when it answers."""

    sums_loss = True
    weighs_rows = False

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        width = hyper_parameters.embedding_dim
        self._window = hyper_parameters.window if data.has_walks else None
        self._row_count = data.items.embedding_rows
        self._skip_gram: SkipGram | None = None
        self.vectors = id_embedding(data.items, width, "zeros", name="vectors")
        self.contexts = id_embedding(data.items, width, around_zero(width), name="contexts")
        for table in (self.vectors, self.contexts):
            table.build(None)

    def skip_gram(self, data, seed: int) -> SkipGram:
        """Returns the pairs of the data; made once."""
        if self._skip_gram is None:
            own = self.hyper_parameters
            self._skip_gram = SkipGram(
                data.walks,
                data.items.train_count,
                negatives=own.negatives,
                subsample=own.subsample,
                window=self._window,
                block=own.block,
                shared=own.shared_negatives
                or own.negatives * min(own.block, 2 * (self._window or own.block)),
                batch_size=own.batch_size,
                max_set=own.max_set,
                seed=seed,
            )
        return self._skip_gram

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> Batches:
        return self.skip_gram(data, seed).batches(first_epoch)

    def learn(self, loop: Loop) -> None:
        loop.fit(self, optimizer=self.optimizer_of(loop))

    def optimizer_of(self, loop: Loop) -> tf.keras.optimizers.Optimizer:
        """Returns SGD whose rate falls linearly to nothing over all epochs."""
        own = self.hyper_parameters
        steps = own.epochs * self.skip_gram(loop.data, loop.seed).steps
        with loop.strategy.scope():
            rate = tf.keras.optimizers.schedules.PolynomialDecay(
                own.learning_rate, steps, 1e-4 * own.learning_rate
            )
            return tf.keras.optimizers.SGD(rate)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        own = self.hyper_parameters
        return tile_loss(
            inputs,
            self.vectors,
            self.contexts,
            count=self._row_count,
            negatives=own.negatives,
            window=self._window,
            limit=own.step_limit / own.learning_rate,
        )

    def item_vectors(self, index: tf.Tensor) -> tf.Tensor:
        return tf.gather(self.vectors.embeddings, index)


Model = Item2vec
