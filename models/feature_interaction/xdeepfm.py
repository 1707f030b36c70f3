"""xDeepFM: linear weights, a compressed interaction network and a deep network in one logit.

Cite: Lian, Zhou, Zhang, Chen, Xie, Sun: xDeepFM: Combining Explicit and Implicit Feature
Interactions for Recommender Systems, KDD 2018.

    X^0   = [e_1; ...; e_m]                                     [m, D]
            e_i: embedding of field i; of many values their mean
    X^k_h = f( sum_{i, j} W^k_hij X^{k-1}_i * X^0_j )           [H_k, D], h = 1 .. H_k
            *: product by coordinate, so the sum is one 1x1 convolution of all outer products;
            f: identity, or relu
    p^k_h = sum over the D coordinates of X^k_h                 the pooled maps, p+ all of them
    score = w_linear . x + w_cin . p+ + W_out relu(... relu(W_1 [e_1; ...; e_m] + b_1) ...) + b
    loss  = log loss + l2 of the embeddings and linear weights that a row uses
            + l2_layers / 2 |weights of both networks|^2

`connection: direct` is the paper: every map is passed on and pooled. `half` is the authors' code:
of every layer but the last the first half is passed on and the second pooled. With `identity`,
their default, CIN is a polynomial, and any order of the same sums is exact: see `_folded`.

D = 10, CIN of 200 maps (for Criteo), DNN of 400 units, depths 3 and 2, Adam, batches of 4,096 and
l2 of 1e-4 are the paper's; `stddev` is of the authors' code.

Deviations: numbers are quantile buckets with an embedding each; the l2 of a table is of the rows
that a batch uses, biases have none, and that of the layers is a setting of its own, as in the
authors' code (which takes an L1 norm of the filters); embeddings are normal, not cut at two
deviations, and layers start by Glorot's rule, where that code has deviations of .1 throughout; the
last bias starts at the train mean (for clicks, its log-odds); a share `unknown_rate` of train's ids
and categories, .02 by default, is made unknown, so that the rows of unknown values are trained.
"""

import math
from typing import Literal

import numpy as np
import pydantic
import tensorflow as tf

from models.contract.score import ScoreModel
from models.inputs.fields import FieldRows, row_penalty
from models.inputs.score_data import Inputs, ScoreData
from models.inputs.token_layers import Mlp
from models.names.hyper_parameters import (
    Epochs,
    Forgetting,
    Gradient,
    LazyAdam,
    Lists,
    MixedPrecision,
    RowState,
    SharedRows,
    Xla,
)
from models.names.sizes import Parameters, Sizes, perceptron


class HyperParameters(
    Epochs, Gradient, SharedRows, RowState, LazyAdam, MixedPrecision, Xla, Forgetting, Lists
):
    """xDeepFM's own: `factors` is D of the paper, `maps` are its H_k, `hidden` the deep network.

    Attributes:
        maps: feature maps of each layer of the interaction network.
        connection: `direct` passes every map on and pools it, `half` does one of both.
        l2_layers: weight of the squared weights of both networks in the loss.
    """

    epochs: int = 30
    batch_size: int = 4096
    factors: int = pydantic.Field(10, ge=1)
    maps: tuple[pydantic.PositiveInt, ...] = pydantic.Field((200, 200, 200), min_length=1)
    connection: Literal["direct", "half"] = "direct"
    activation: Literal["identity", "relu"] = "identity"
    hidden: tuple[pydantic.PositiveInt, ...] = (400, 400)
    dropout: float = pydantic.Field(0.0, ge=0, lt=1)
    stddev: float = pydantic.Field(0.1, gt=0)
    l2: float = pydantic.Field(1e-4, ge=0)
    l2_layers: float = pydantic.Field(1e-4, ge=0)

    @pydantic.model_validator(mode="after")
    def _halves(self):
        if self.connection == "half" and any(maps % 2 for maps in self.maps[:-1]):
            raise ValueError("maps of all layers but the last must be even to be halved")
        return self

    def parameters(self, sizes: Sizes) -> Parameters:
        fields = before = len(sizes.columns)
        learnt = sizes.sharing(self.hash_rows).field_rows * (1 + self.factors)
        for number, maps in enumerate(self.maps):
            # All but the last layer pass a half on, and pool the other.
            halved = self.connection == "half" and number < len(self.maps) - 1
            passed, pooled = (maps // 2, maps - maps // 2) if halved else (maps, maps)
            learnt, before = learnt + maps * before * fields + pooled, passed
        return Parameters(learnt + perceptron(fields * self.factors, self.hidden, 1))


class XDeepFM(ScoreModel[HyperParameters]):
    """Explicit interactions, vector by vector, beside the implicit ones of a network."""

    shards = True

    def __init__(self, hyper_parameters: HyperParameters, data: ScoreData):
        super().__init__(hyper_parameters, data)
        self.rows = FieldRows(data.fields, hyper_parameters.hash_rows)
        self.linear = self.rows.embedding(1, 0.0, name="linear")
        self.factors = self.rows.embedding(
            hyper_parameters.factors, hyper_parameters.stddev, name="factors"
        )
        self.interactions = CompressedInteractionNetwork(
            hyper_parameters.maps,
            hyper_parameters.connection,
            hyper_parameters.activation,
            name="interactions",
        )
        self.deep = Mlp(hyper_parameters.hidden, hyper_parameters.dropout, name="deep")
        self.output_layer = tf.keras.layers.Dense(
            1, bias_initializer=tf.keras.initializers.Constant(self.initial_score), name="output"
        )

    def score_rows(self, inputs: Inputs, training: bool = False) -> tf.Tensor:
        return sum(self.components(inputs, *self._look_up(inputs), training))

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        linear, factors, x = self._look_up(inputs)
        score = sum(self.components(inputs, linear, factors, x, training))
        rows = row_penalty(linear, x) + row_penalty(factors, x)
        layers = tf.add_n([tf.nn.l2_loss(weights) for weights in self.layer_weights()])
        penalty = self.hyper_parameters.l2 * rows + self.hyper_parameters.l2_layers * layers
        return tf.reduce_mean(self.example_losses(inputs, score)) + penalty

    def components(self, inputs, linear, factors, x, training=False):
        """Returns the three [B] parts of the score: of the weights, of CIN, of the network."""
        fields = self.rows.pool(factors * x, inputs)
        flat = tf.reshape(fields, [-1, len(self.rows.fields) * self.hyper_parameters.factors])
        deep = self.output_layer(self.deep(flat, training=training))[:, 0]
        return (
            tf.reduce_sum(linear * x, axis=[1, 2]),
            self.interactions(fields),
            tf.cast(deep, tf.float32),
        )

    def layer_weights(self) -> list[tf.Variable]:
        """The weights of both networks without the biases, once they have been called."""
        layers = (self.interactions, self.deep, self.output_layer)
        return [
            each for layer in layers for each in layer.trainable_variables if each.shape.rank > 1
        ]

    def _look_up(self, inputs):
        row, x = self.rows(inputs)
        return self.linear(row), self.factors(row), x[..., tf.newaxis]


class CompressedInteractionNetwork(tf.keras.layers.Layer):
    """CIN and its output weights: fields [B, m, D] -> w_cin . p+, [B] float32.

    Within, a column is one coordinate of one row of the batch: C = B D columns.

    Args:
        maps: H_k of each layer.
        connection: `direct` or `half`, see the module.
        activation: of the maps, `identity` or `relu`.
    """

    def __init__(self, maps, connection: str, activation: str, name: str | None = None):
        # Float32 in mixed precision too: products of up to K + 1 small numbers.
        super().__init__(name=name, dtype="float32")
        self._maps, self._linear = maps, activation == "identity"
        half = [count // 2 if connection == "half" else 0 for count in maps[:-1]]
        self._pooled_from = [*half, 0]
        self._passed = [
            start or count for start, count in zip(self._pooled_from, maps, strict=True)
        ]

    def build(self, shape):
        """Creates the filters [H_k, maps passed on by layer k - 1 * m] and w_cin, a row a layer."""
        self._fields = shape[1]
        self.filters, self.output_weights = [], []
        for number, maps in enumerate(self._maps):
            before = self._passed[number - 1] if number else self._fields
            pooled = maps - self._pooled_from[number]
            self.filters.append(
                self.add_weight(name=f"filters_{number}", shape=[maps, before * self._fields])
            )
            self.output_weights.append(self.add_weight(name=f"output_{number}", shape=[1, pooled]))
        super().build(shape)

    def call(self, fields):
        """Returns the [B] scores; w_cin is applied before the coordinates are summed."""
        columns, pairs = self._columns(fields)
        folds = self._linear and len(self._maps) > 1
        score = self._folded(columns, pairs) if folds else self._weighed(columns, pairs)
        return tf.reduce_sum(tf.reshape(score, [-1, fields.shape[2]]), axis=1)

    def pooled_maps(self, fields):
        """Returns p+, [B, pooled maps of all layers], layer by layer."""
        pooled, _ = self._layers(*self._columns(fields), len(self._maps))
        maps = tf.concat(pooled, axis=0)
        by_row = tf.reshape(maps, [maps.shape[0], -1, fields.shape[2]])
        return tf.transpose(tf.reduce_sum(by_row, axis=2))

    def _columns(self, fields):
        """X^0 as [m, C], and its pairs X^0_i * X^0_j of i <= j, [m (m + 1) / 2, C]."""
        columns = tf.reshape(tf.transpose(fields, [1, 0, 2]), [self._fields, -1])
        pairs = [columns[i : i + 1] * columns[i:] for i in range(self._fields)]
        return columns, tf.concat(pairs, axis=0)

    def _layers(self, columns, pairs, count):
        """Of the first `count` layers what is pooled, [H, C] each; and what the last passes on."""
        pooled, passed = [], columns
        for number in range(count):
            filters = tf.convert_to_tensor(self.filters[number])
            # Both factors of the first layer are X^0: half of its products are the other half.
            maps = _convolved(filters, passed, columns) if number else _on_pairs(filters) @ pairs
            maps = maps if self._linear else tf.nn.relu(maps)
            pooled.append(maps[self._pooled_from[number] :])
            passed = maps[: self._passed[number]]
        return pooled, passed

    def _weighed(self, columns, pairs):
        """The [1, C] scores, layer by layer."""
        pooled, _ = self._layers(columns, pairs, len(self._maps))
        return sum(out @ maps for out, maps in zip(self.output_weights, pooled, strict=True))

    def _folded(self, columns, pairs):
        """The [1, C] scores where f is the identity: the last two layers without their maps.

        By column they add X^{K-2} . (A X^0 + Q pairs), where A and Q are products of weights alone,
        made once a batch. The H_{K-1} m products of every map of layer K - 2 become m (m + 1) / 2;
        of three layers and few fields the first goes the same way.
        """
        before, passed = tf.convert_to_tensor(self.filters[-2]), self._passed[-2]
        a = tf.reshape(
            self.output_weights[-2] @ before[self._pooled_from[-2] :], [-1, self._fields]
        )
        last = tf.reshape(self.output_weights[-1] @ self.filters[-1], [passed, self._fields])
        q = tf.matmul(before[:passed], last, transpose_a=True)
        q = _on_pairs(tf.reshape(q, [-1, self._fields**2]))
        if len(self._maps) == 3 and pairs.shape[0] < 2 * self._passed[0]:
            # X^1 is a matrix times the pairs, which is taken into A and Q as well.
            first = _on_pairs(self.filters[0])
            score = (self.output_weights[0] @ first[self._pooled_from[0] :]) @ pairs
            first = first[: self._passed[0]]
            a, q = tf.matmul(first, a, transpose_a=True), tf.matmul(first, q, transpose_a=True)
            maps = pairs
        else:
            pooled, maps = self._layers(columns, pairs, len(self._maps) - 2)
            score = sum(out @ each for out, each in zip(self.output_weights, pooled, strict=False))
        return score + tf.reduce_sum(maps * (a @ columns + q @ pairs), axis=0, keepdims=True)


def _on_pairs(filters):
    """Filters [H, m * m] of all products as those of the pairs i <= j, [H, m (m + 1) / 2]."""
    fields = math.isqrt(filters.shape[1])
    i, j = np.triu_indices(fields)
    both = tf.gather(filters, i * fields + j, axis=1) + tf.gather(filters, j * fields + i, axis=1)
    return both * tf.constant(np.where(i == j, 0.5, 1.0), filters.dtype)


@tf.custom_gradient
def _convolved(filters, maps, columns):
    """One layer: filters [H, n * m], maps [n, C] and X^0 [m, C] -> [H, C].

    Field by field, and the gradient too, so that the [n, m, C] outer products are never held.
    """
    by_field = tf.unstack(
        tf.reshape(filters, [filters.shape[0], maps.shape[0], columns.shape[0]]), axis=2
    )
    fields = tf.unstack(columns)
    result = tf.add_n([each @ (maps * x) for each, x in zip(by_field, fields, strict=True)])

    def gradient(upstream):
        to_filters, to_maps, to_fields = [], tf.zeros_like(maps), []
        for each, x in zip(by_field, fields, strict=True):
            back = tf.matmul(each, upstream, transpose_a=True)
            to_filters.append(tf.matmul(upstream, maps * x, transpose_b=True))
            to_maps += back * x
            to_fields.append(tf.reduce_sum(back * maps, axis=0))
        return tf.reshape(tf.stack(to_filters, axis=2), filters.shape), to_maps, tf.stack(to_fields)

    return result, gradient


Model = XDeepFM
