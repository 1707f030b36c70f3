"""Neural matrix factorisation, with its two halves GMF and MLP and their pre-training.

Cite: He, Liao, Zhang, Nie, Hu, Chua: Neural Collaborative Filtering, WWW 2017.

    GMF    phi = p_u * q_i
           element-wise; tables of width f
    MLP    z_1 = relu(W_1 [p'_u ; q'_i] + b_1), ..., z_n
           tables of their own; layers 4f -> 2f -> f
    NeuMF  y = sigmoid(h . [phi ; z_n] + b)
    loss   binary cross-entropy, mean over the positives and their `negatives` sampled negatives

Negatives are uniform over the train items that the user has not in train, drawn anew every epoch.
Pre-training (default): GMF and MLP are trained alone with Adam, each stopped on validation; all
their weights are copied, h = [alpha h_GMF ; (1 - alpha) h_MLP], b the mean of both; then plain SGD,
which inherits no momentum.

Deviations: epochs are chosen on validation, where the released code keeps the epoch with the best
test score; W_1 is kept as a user and an item half, the same function at less work; an id is
forgotten at `unknown_rate` (0 by default, as in the paper). The tower is the paper's 4f -> 2f -> f,
not the released code's [64, 32, 16, 8]. A batch is `batch_size` positives with their negatives,
5,120 examples by default; the paper's batches are 128 to 1,024 single examples, shuffled together.
"""

from typing import Any, Literal

import pydantic
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.query import Query
from models.contract.recommender import weighed
from models.contract.retrieve import RetrieveModel
from models.inputs import sampling
from models.inputs.data import TrainingData
from models.inputs.dropout import Dropout
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.token_layers import id_embedding
from models.names.hyper_parameters import (
    Epochs,
    Forgetting,
    Gradient,
    LazyAdam,
    MixedPrecision,
    Ranking,
    Xla,
)
from models.names.sizes import Parameters, Sizes, dense


class HyperParameters(Ranking, Epochs, Gradient, LazyAdam, MixedPrecision, Xla, Forgetting):
    """NeuMF's own. `factors` is f of the paper; `variant` trains one of the halves alone.

    Attributes:
        pretrain: train GMF and MLP alone first, and begin with their weights.
        alpha: share of GMF in the last layer that begins so.
        fine_tuning_rate: step size after the pre-training.
        l2: weight of the squares of the rows that a batch names in the tables of users and items,
            averaged over them; the layers are not penalised.
    """

    epochs: int = 60
    patience: int = 10
    batch_size: int = 1024
    unknown_rate: float = 0.0
    variant: Literal["neumf", "gmf", "mlp"] = "neumf"
    factors: int = pydantic.Field(64, ge=1)
    negatives: int = pydantic.Field(4, ge=1)
    pretrain: bool = True
    alpha: float = pydantic.Field(0.5, gt=0, lt=1)
    fine_tuning_rate: float = pydantic.Field(1e-3, gt=0)
    l2: float = pydantic.Field(0.0, ge=0)
    dropout: float = pydantic.Field(0.0, ge=0, lt=1)

    def parameters(self, sizes: Sizes) -> Parameters:
        factors, parts = self.factors, []
        if self.variant != "mlp":
            parts.append(sizes.table("user", factors) + sizes.table("item", factors))
        if self.variant != "gmf":
            tables = sizes.table("user", 2 * factors) + sizes.table("item", 2 * factors)
            first = dense(2 * factors, 2 * factors) + dense(2 * factors, 2 * factors, bias=False)
            parts.append(tables + first + dense(2 * factors, factors))
        # Each half adds a vector of `factors` to what the last layer reads.
        learnt = sum(parts) + dense(factors * len(parts), 1)
        # The halves that are learnt first, and their optimisers.
        halves = 3 * learnt if self.pretrain and len(parts) > 1 else 0
        return Parameters(learnt, beside=halves)


class NeuMF(RetrieveModel[HyperParameters]):
    """One logit for a user and an item from either half or both."""

    explains = "none"

    def __init__(
        self, hyper_parameters: HyperParameters, data: TrainingData, variant: str | None = None
    ):
        super().__init__(hyper_parameters, data)
        variant = variant or hyper_parameters.variant
        self._has_gmf, self._has_mlp = variant != "mlp", variant != "gmf"
        self._items = data.items
        factors = hyper_parameters.factors
        if self._has_gmf:
            self.gmf_user = id_embedding(data.users, factors, name="gmf_user")
            self.gmf_item = id_embedding(data.items, factors, name="gmf_item")
        if self._has_mlp:
            self.mlp_user = id_embedding(data.users, 2 * factors, name="mlp_user")
            self.mlp_item = id_embedding(data.items, 2 * factors, name="mlp_item")

            def glorot() -> tf.keras.initializers.Initializer:
                """Of the limit of the undivided [4f, 2f] matrix; each half its own."""
                return tf.keras.initializers.RandomUniform(-(factors**-0.5), factors**-0.5)

            self.first_user = tf.keras.layers.Dense(
                2 * factors, kernel_initializer=glorot(), name="first_user"
            )
            self.first_item = tf.keras.layers.Dense(
                2 * factors, use_bias=False, kernel_initializer=glorot(), name="first_item"
            )
            self.second = tf.keras.layers.Dense(factors, activation="relu", name="second")
            self._dropout = Dropout(hyper_parameters.dropout)
        self.prediction = tf.keras.layers.Dense(
            1, kernel_initializer="lecun_uniform", name="prediction"
        )
        self.prediction.build([None, factors * (self._has_gmf + self._has_mlp)])

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        events, hyper_parameters = data.events, self.hyper_parameters
        negatives = sampling.UniformNegatives(events.user, events.item, data.items.train_count)
        columns = events.columns("user", "item")

        def with_negatives(batch):
            seeds = sampling.split(batch["step_seed"], 3)
            drawn = negatives.draw(batch["user"], hyper_parameters.negatives, seeds[0])
            items = tf.concat([batch["item"][:, tf.newaxis], drawn], axis=1)
            return {
                "user": sampling.forget_some(
                    batch["user"], hyper_parameters.unknown_rate, seeds[1]
                ),
                "items": sampling.forget_some(items, hyper_parameters.unknown_rate, seeds[2]),
            }

        return sampling.shuffled_batches(
            columns, hyper_parameters.batch_size, seed, first_epoch
        ).map(with_negatives)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        user, items, width = inputs["user"], inputs["items"], self.hyper_parameters.factors
        rows, parts = [], []
        if self._has_gmf:
            rows += [self.gmf_user(user)[:, tf.newaxis], self.gmf_item(items)]
            parts.append(tf.reshape(rows[0] * rows[1], [-1, width]))
        if self._has_mlp:
            first_user, first_item = (
                self._first(table, layer, index)
                for table, layer, index in (
                    (self.mlp_user, self.first_user, user),
                    (self.mlp_item, self.first_item, items),
                )
            )
            first = tf.reshape(first_user[:, tf.newaxis] + first_item, [-1, 2 * width])
            parts.append(self._tower(first, training))
            if self.hyper_parameters.l2:
                rows += [self.mlp_user(user)[:, tf.newaxis], self.mlp_item(items)]
        # h of either half by itself: what is never put together need not be taken apart.
        kernels = tf.split(tf.cast(self.prediction.kernel, parts[0].dtype), len(parts))
        logits = tf.add_n([tf.matmul(*each) for each in zip(parts, kernels, strict=True)])
        logits = tf.cast(logits, tf.float32) + self.prediction.bias
        logits = tf.reshape(logits, tf.shape(items))
        labels = tf.one_hot(tf.zeros_like(user), tf.shape(items)[1])
        lost = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
        lost *= tf.cast(items > 0, tf.float32)  # whoever has every item has no negatives
        loss = tf.reduce_mean(weighed(inputs, tf.reduce_mean(lost, axis=1)))
        if self.hyper_parameters.l2:
            # Only the rows that the batch names, averaged over its labels: a penalty of whole
            # tables would shrink all rows at every step.
            squares = [
                tf.reduce_mean(tf.reduce_sum(tf.cast(row, tf.float32) ** 2, axis=-1))
                for row in rows
            ]
            loss += self.hyper_parameters.l2 * tf.add_n(squares)
        return loss

    def learn(self, loop: Loop) -> None:
        hyper_parameters = self.hyper_parameters
        if loop.warm_started or not (self._has_gmf and self._has_mlp and hyper_parameters.pretrain):
            loop.fit(self)
            return
        halves = {}
        for variant in ("gmf", "mlp"):
            with loop.strategy.scope():
                halves[variant] = NeuMF(hyper_parameters, loop.data, variant)
            loop.fit(halves[variant], stage=variant)
        loop.build(self)
        self._inherit(halves["gmf"], halves["mlp"])
        with loop.strategy.scope():
            optimizer = tf.keras.optimizers.SGD(hyper_parameters.fine_tuning_rate)
        loop.fit(self, stage="neumf", optimizer=optimizer)

    def catalogue(self) -> Any:
        """What the item contributes to the first step of either half.

        It does not depend on the user.
        """
        items = tf.range(FIRST_TOKEN, self._items.embedding_rows, dtype=tf.int64)
        gmf = self.gmf_item(items) if self._has_gmf else ()
        mlp = self.first_item(self.mlp_item(items)) if self._has_mlp else ()
        return gmf, mlp

    def score_items(self, query: Query, catalogue: Any) -> tf.Tensor:
        gmf_items, mlp_items = catalogue
        user = query.user
        factors = self.hyper_parameters.factors if self._has_gmf else 0
        kernel = tf.cast(self.prediction.kernel[:, 0], tf.float32)
        scores = tf.identity(self.prediction.bias)
        if self._has_gmf:
            # h . (p * q) = (h * p) . q: one matrix product for the whole catalogue.
            weighted = tf.cast(self.gmf_user(user), tf.float32) * kernel[:factors]
            scores = scores + tf.matmul(weighted, tf.cast(gmf_items, tf.float32), transpose_b=True)
        if self._has_mlp:
            projected = self.first_user(self.mlp_user(user))

            def one_user(first):
                return tf.linalg.matvec(
                    tf.cast(self._tower(first + mlp_items), tf.float32), kernel[factors:]
                )

            scores = scores + tf.map_fn(one_user, projected, fn_output_signature=tf.float32)
        return scores

    def _first(self, table, layer, index):
        """A half of the first layer, [..., 2f] of [...] indices.

        Where a batch names more rows than the table has, most come several times, and are
        multiplied once.
        """
        own = self.hyper_parameters
        named = own.batch_size * (1 if table is self.mlp_user else 1 + own.negatives)
        if named < table.input_dim or own.jit_compile:  # XLA does not compile tf.unique
            return layer(table(index))
        distinct, place = tf.unique(tf.reshape(index, [-1]))
        return tf.gather(layer(table(distinct)), tf.reshape(place, tf.shape(index)))

    def _tower(self, first, training=False):
        return self.second(self._dropout(tf.nn.relu(first), training=training))

    def _inherit(self, gmf: "NeuMF", mlp: "NeuMF") -> None:
        for layer in ("gmf_user", "gmf_item"):
            getattr(self, layer).set_weights(getattr(gmf, layer).get_weights())
        for layer in ("mlp_user", "mlp_item", "first_user", "first_item", "second"):
            getattr(self, layer).set_weights(getattr(mlp, layer).get_weights())
        alpha = self.hyper_parameters.alpha
        kernel = tf.concat(
            [alpha * gmf.prediction.kernel, (1 - alpha) * mlp.prediction.kernel], axis=0
        )
        self.prediction.set_weights(
            [kernel.numpy(), 0.5 * (gmf.prediction.bias + mlp.prediction.bias).numpy()]
        )


Model = NeuMF
