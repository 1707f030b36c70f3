"""BGE, GES and EGES: skip-gram on walks over the graph of what users look at one after another.

Cite: Wang, Huang, Zhao, Zhang, Zhao, Lee: Billion-scale Commodity Embedding for E-commerce
Recommendation in Alibaba, KDD 2018. This file is what the three have in common.

    M_ij     = how often a user came from item i to item j within an hour
    P(j | i) = M_ij / sum over j of M_ij, the next item of a walk
    H_v      = the vector of item v; see `bge`, `ges` and `eges`
    loss     = mean over the pairs (v, u) of - log sigmoid(H_v . Z_u)
                                             - sum over N negatives t of log sigmoid(- H_v . Z_t)
               u: at most `window` steps from v in a walk;  t: drawn from count^0.75
               Z: a second table, by item; side information is of the centre alone
    score(history, i) = mean over the last j in the history of cos(H_j, H_i)

The walks are the run's `walks`: the defaults of the three are the paper's, 20 of 10 items from each
item over the directed weighted graph of an hour. On `baskets` there is no graph and a pair is any
two items of one.

Deviations: the paper tells neither how many negatives, nor the optimiser, its rate and how tables
start; here Adam, the others as the defaults say, which nothing has chosen yet. The
centres of a walk share one draw of negatives, weighted to N a positive, and an item of the walk is
none. W starts at 0, as in Item2vec, so an item that no walk has, or that is new, has the direction
of its side information, and without any has no vector and is not returned. The paper has no
users: it looks up the items nearest to one item; what a query is, and that it goes by the cosine
where the paper takes the dot product, is as in Item2vec. What its data preparation drops (stays
below a second, spam users, ids used again) is the data's to drop.
"""

from typing import ClassVar, TypeVar

import pydantic
import tensorflow as tf

from models.contract.item_to_item import ItemToItemModel, LastItems
from models.inputs.columns import drop_unknown
from models.inputs.data import TrainingData
from models.inputs.preprocessing import UNKNOWN
from models.inputs.sampling import Batches
from models.inputs.schema import Field
from models.inputs.skip_gram import SkipGram, pair_mask, tile_losses
from models.inputs.token_layers import TokenEmbedding, around_zero, id_embedding, mean_embedding
from models.names.hyper_parameters import Epochs, Gradient, LazyAdam
from models.names.sizes import Parameters, Sizes

G = TypeVar("G", bound="GraphHyperParameters")

_LARGEST_BASKET = 1000  # a larger one is represented by so many of its items


class GraphHyperParameters(LastItems, Epochs, Gradient, LazyAdam):
    """Those of all three; `batch_size` counts positives, about.

    Attributes:
        embedding_dim: D, width of the vectors.
        negatives: N, negatives a positive.
        window: contexts are at most so many steps away.
        block: most items of a side of a tile (see `models.inputs.skip_gram`).
    """

    REFUSALS: ClassVar[dict[str, str]] = {
        "jit_compile": "features of several values are ragged, which XLA does not compile",
        "mixed_precision": "in bfloat16 the vectors of GES and EGES ended at a sixth of their "
        "NDCG (benchmarks/README.md)",
    }

    epochs: int = 20
    batch_size: int = 8192
    learning_rate: float = 1e-3
    embedding_dim: int = pydantic.Field(160, ge=1)
    negatives: int = pydantic.Field(5, ge=1)
    window: int = pydantic.Field(5, ge=1)
    block: int = pydantic.Field(10, ge=2)

    def parameters(self, sizes: Sizes) -> Parameters:
        return Parameters(2 * sizes.table("item", self.embedding_dim))

    def with_side_information(self, sizes: Sizes, weights: int = 0) -> Parameters:
        """Returns the same where features have vectors, and each item so many weights of them."""
        rows = sum(feature.rows for feature in sizes.of("item"))
        learnt = self.embedding_dim * rows + sizes.table("item", weights)
        return Parameters(GraphHyperParameters.parameters(self, sizes).learnt + learnt)


class GraphEmbedding(ItemToItemModel[G]):
    """The base: W^0 and Z, a vector and a context vector an item."""

    weighs_rows = False

    def __init__(self, hyper_parameters: G, data: TrainingData):
        super().__init__(hyper_parameters, data)
        width = hyper_parameters.embedding_dim
        self._window = hyper_parameters.window if data.has_walks else None
        self.items = id_embedding(data.items, width, "zeros", name="items")
        self.contexts = id_embedding(data.items, width, around_zero(width), name="contexts")
        for table in (self.items, self.contexts):
            table.build(None)

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> Batches:
        own = self.hyper_parameters
        return SkipGram(
            data.walks,
            data.items.train_count,
            negatives=own.negatives,
            subsample=0.0,
            window=self._window,
            block=own.block,
            shared=own.negatives * min(own.block, 2 * (self._window or own.block)),
            batch_size=own.batch_size,
            max_set=_LARGEST_BASKET,
            seed=seed,
        ).batches(first_epoch)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        mask = pair_mask(inputs["centre"], inputs["context"], inputs["offset"], self._window)
        # An item stands in many walks of a batch; its vector is made once.
        item, place = tf.unique(tf.reshape(inputs["centre"], [-1]), tf.int64)
        centre = tf.gather(self.item_vectors(item), tf.reshape(place, tf.shape(inputs["centre"])))
        others = self.contexts(tf.concat([inputs["context"], inputs["negative"]], axis=1))
        positive, negative = tile_losses(centre, others, mask, inputs["negative_weight"])
        total = tf.reduce_sum(positive + negative * tf.reduce_sum(mask, axis=2))
        return tf.math.divide_no_nan(total, tf.reduce_sum(mask))


class SideInformation(GraphEmbedding[G]):
    """GES and EGES: a table W^s besides for each of the n features of the items.

    A feature of several values, or of words, is the mean of theirs. What an item lacks, or has a
    value of that train has not seen, is left out of the mean of its vectors and of its weights.
    """

    cold_items = True
    reads_item_features = True

    def __init__(self, hyper_parameters: G, data: TrainingData):
        super().__init__(hyper_parameters, data)
        self._data = data
        self._values = {
            name: _known(data.items.features[name]) for name in sorted(data.items.features)
        }
        self.side = {
            name: TokenEmbedding(
                data.items.tokens[name],
                data.items.vocabulary_sizes[name],
                hyper_parameters.embedding_dim,
                embeddings_initializer="zeros",
                name=name,
            )
            for name in self._values
        }
        for table in self.side.values():
            table.build(None)

    def preferences(self, index: tf.Tensor) -> tf.Tensor:
        """Returns a of [K] items: [K, n + 1], that of the id first, then by the features' names."""
        raise NotImplementedError(f"{type(self).__name__} must define preferences()")

    def item_vectors(self, index: tf.Tensor) -> tf.Tensor:
        return self.aggregate(
            index, {name: tf.gather(rows, index) for name, rows in self._values.items()}
        )

    def weights_of(self, index: tf.Tensor, values: dict[str, tf.RaggedTensor]) -> tf.Tensor:
        """Returns the weights of `aggregate`: [K, n + 1], 0 where there is nothing to weigh."""
        there = [self._data.items.in_train(index)]
        there += [values[name].row_lengths() > 0 for name in self._values]
        there = tf.stack(there, axis=1)
        # Softmax over what is there; a row of nothing is all 0.
        weights = tf.nn.softmax(tf.where(there, self.preferences(index), -1e9), axis=1)
        return tf.where(there, weights, 0.0)

    def aggregate(self, index: tf.Tensor, values: dict[str, tf.RaggedTensor]) -> tf.Tensor:
        """H of items with these features.

        Args:
            index: [K] int64; UNKNOWN for an item that is new.
            values: name of a feature -> ragged [K, None] int64 indices of known values.

        Returns:
            [K, D], 0 for an item of which nothing is known.
        """
        vectors = [self.items(index)]
        vectors += [mean_embedding(table, values[name]) for name, table in self.side.items()]
        weights = self.weights_of(index, values)
        return tf.reduce_sum(weights[:, :, tf.newaxis] * tf.stack(vectors, axis=1), axis=1)

    def item_fields(self) -> tuple[Field, ...]:
        return self._data.item_fields if self.side else ()

    def embed_features(self, raw: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        values = {name: _known(column) for name, column in self._data.item_index(raw).items()}
        new = tf.fill(tf.shape(next(iter(raw.values())))[:1], tf.constant(UNKNOWN, tf.int64))
        vectors = self.aggregate(new, values)
        return tf.math.l2_normalize(vectors, axis=1), tf.reduce_any(vectors != 0, axis=1)


def _known(values: tf.Tensor | tf.RaggedTensor) -> tf.RaggedTensor:
    """[K] or ragged [K, None] indices -> those of values that train has seen, as lists."""
    if not isinstance(values, tf.RaggedTensor):
        values = tf.RaggedTensor.from_tensor(values[:, tf.newaxis])
    return drop_unknown(values)
