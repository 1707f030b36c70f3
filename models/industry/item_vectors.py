"""Item vectors by skip-gram, a stage of its own, and the models that predict one of them.

As Barkan, Koenigstein: Item2vec, MLSP 2016 has it: all pairs of a sequence, whatever its order; see
`models.embedding.item2vec` for the equations and for what is ours. An item that is in no pair has
no vector: it is neither a target nor an answer.
"""

from typing import Any

import pydantic
import tensorflow as tf

from models.contract.item_to_item import ItemVectorModel
from models.contract.loop import Loop
from models.contract.recommender import H, Recommender
from models.inputs.data import TrainingData
from models.inputs.sampling import Batches
from models.inputs.skip_gram import SkipGram, tile_loss
from models.inputs.token_layers import IdEmbedding, around_zero, id_embedding
from models.names.hyper_parameters import HyperParameters
from models.names.sizes import Sizes

_BLOCK = 32  # items of a side of a tile
_MAX_SET = 1000
_STEP_LIMIT = 8.0  # see `models.inputs.skip_gram.bounded_steps`


class VectorSettings(HyperParameters):
    """How the item vectors are learnt.

    Attributes:
        embedding_dim: their width.
        negatives: N, negatives a positive.
        subsample: rho; an occurrence of an item with the share f is kept with sqrt(rho / f); 0
            keeps all.
        vector_epochs: passes over the sequences.
        vector_batch_size: positives a step, about.
        vector_learning_rate: of SGD; it falls linearly to nothing.
    """

    embedding_dim: int = pydantic.Field(30, ge=1)
    negatives: int = pydantic.Field(15, ge=1)
    subsample: float = pydantic.Field(1e-3, ge=0)
    vector_epochs: int = pydantic.Field(20, ge=1)
    vector_batch_size: int = pydantic.Field(16_384, ge=1)
    vector_learning_rate: float = pydantic.Field(0.5, gt=0)

    def vector_parameters(self, sizes: Sizes) -> int:
        """Returns how many numbers are in the two tables."""
        return 2 * sizes.table("item", self.embedding_dim)


class ItemVectors(Recommender[VectorSettings]):
    """Learns two tables of a model: a vector and a context vector an item.

    Args:
        hyper_parameters: settings that include `VectorSettings`.
        data: what the task trains on; a train row is a sequence.
        vectors: the table of vectors.
        contexts: the table of context vectors.
        count_weighted: the positives of a centre weigh what its row has it, over the row's mean.
    """

    sums_loss = True

    def __init__(
        self,
        hyper_parameters: Any,
        data: TrainingData,
        vectors: IdEmbedding,
        contexts: IdEmbedding,
        count_weighted: bool,
    ):
        super().__init__(hyper_parameters, data)
        self.vectors, self.contexts = vectors, contexts
        self._count_weighted = count_weighted
        self._skip_gram: SkipGram | None = None

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> Batches:
        return self._pairs(data, seed).batches(first_epoch)

    def learn(self, loop: Loop) -> None:
        own = self.hyper_parameters
        steps = own.vector_epochs * self._pairs(loop.data, loop.seed).steps
        rate = own.vector_learning_rate
        with loop.strategy.scope():
            falling = tf.keras.optimizers.schedules.PolynomialDecay(rate, steps, 1e-4 * rate)
            optimizer = tf.keras.optimizers.SGD(falling)
        self.trainable = True
        loop.fit(self, "vectors", optimizer, epochs=own.vector_epochs, validate=False)
        # The tables belong to a model that compares with them, and must not move them.
        self.trainable = False

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        own = self.hyper_parameters
        return tile_loss(
            inputs,
            self.vectors,
            self.contexts,
            count=self.vectors.input_dim,
            negatives=own.negatives,
            window=None,
            limit=_STEP_LIMIT / own.vector_learning_rate,
        )

    def _pairs(self, data: TrainingData, seed: int) -> SkipGram:
        if self._skip_gram is None:
            own = self.hyper_parameters
            self._skip_gram = SkipGram(
                data.walks,
                data.items.train_count,
                negatives=own.negatives,
                subsample=own.subsample,
                window=None,
                block=_BLOCK,
                shared=own.negatives * _BLOCK,
                batch_size=own.vector_batch_size,
                max_set=_MAX_SET,
                seed=seed,
                count_weighted=self._count_weighted,
            )
        return self._skip_gram


class VectorModel(ItemVectorModel[H]):
    """Predicts the vector of the next item, and ranks items by the cosine of theirs with it.

    A subclass writes `batches`, `compute_loss` and `query_embedding`. The item vectors are learnt
    first and then stand still: they are what a prediction is compared with, so moving them would
    let all of them fall together.

    Args:
        hyper_parameters: settings that include `VectorSettings`.
        data: what the task trains on.
        count_weighted: see `ItemVectors`.
    """

    def __init__(self, hyper_parameters: H, data: TrainingData, count_weighted: bool = False):
        super().__init__(hyper_parameters, data)
        width = hyper_parameters.embedding_dim
        self.vectors = id_embedding(data.items, width, "zeros", name="vectors")
        self.contexts = id_embedding(data.items, width, around_zero(width), name="contexts")
        for table in (self.vectors, self.contexts):
            table.build(None)
            table.trainable = False
        self._count_weighted = count_weighted

    def learn(self, loop: Loop) -> None:
        self.learn_vectors(loop)
        loop.fit(self)

    def learn_vectors(self, loop: Loop) -> None:
        """Learns the item vectors; a warm start goes on with them: new items need one."""
        with loop.strategy.scope():
            stage = ItemVectors(
                self.hyper_parameters,
                loop.data,
                self.vectors,
                self.contexts,
                self._count_weighted,
            )
        stage.learn(loop)

    def unit(self, index: tf.Tensor) -> tf.Tensor:
        """[...] item indices -> [..., D] vectors of length 1; 0 where an item has none."""
        return tf.math.l2_normalize(self.vectors(index), axis=-1)

    def item_vectors(self, index: tf.Tensor) -> tf.Tensor:
        return self.vectors(index)

    def has_vector(self, index: tf.Tensor) -> tf.Tensor:
        """Item indices of any shape -> bool."""
        return tf.reduce_any(self.vectors(index) != 0, axis=-1)
