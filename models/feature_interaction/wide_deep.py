"""Wide & Deep: a linear model of crossed features and a deep network, trained jointly.

Each has an optimiser of its own.

Cite: Cheng et al.: Wide & Deep Learning for Recommender Systems, DLRS at RecSys 2016.

    wide  = w . [x, phi(x)]
            x: values of the fields;
            phi: 1 for every pair of values of two crossed fields that both occur
    deep  = W_out relu(... relu(W_1 [e_1; ...; e_m; c] + b_1) ...)
            e: embeddings; c: numbers as quantile (i - 1) / (n - 1)
    score = wide + deep + b
            one sum, one loss; FTRL with L1 for the wide part, AdaGrad for the deep one

A cross is hashed, by token rather than by index, to one of `cross_buckets` weights; the values of a
multi-valued field share a weight of 1. `crosses` names the pairs of fields; left out, every field
of the user is crossed with every field of the item (the paper crosses the user's installed apps
with the app that is shown) and, where rows have a context only, every two categories of
`cross_vocabulary` values at most.

Embeddings of 32 and layers of 1024, 512 and 256 units are the paper's (the latter are in its figure
alone); learning rates, what AdaGrad starts from, l1 and deep-side dropout it does not publish:
those here are defaults. The accumulator starts at .1 / batch_size^2, for a loss here is a mean.

Deviations: a number without a value has a c of 0 and an indicator of its own. Text is crossed with
nothing. A share `unknown_rate` of train's ids and categories is made unknown, .02 by default, so
that the rows and crosses of unknown values are trained; the paper does not. A number stands in the
wide part by the weight of its quantile bucket.
"""

import itertools
from collections.abc import Iterator

import pydantic
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.score import ScoreModel
from models.inputs.fields import FieldRows
from models.inputs.preprocessing import BUCKETS, FIRST_TOKEN
from models.inputs.score_data import Inputs, ScoreData
from models.inputs.token_layers import Mlp
from models.names.errors import ConfigError, nearest
from models.names.features import CATEGORICAL, ID, NUMERIC, TEXT
from models.names.hyper_parameters import (
    Epochs,
    Forgetting,
    Gradient,
    Lists,
    MixedPrecision,
    SharedRows,
    Xla,
)
from models.names.sizes import ADDED, Parameters, Sizes, perceptron
from models.training.optimizers import Divided, Ftrl


class HyperParameters(Epochs, Gradient, SharedRows, MixedPrecision, Xla, Forgetting, Lists):
    """Wide & Deep's own: `learning_rate` is AdaGrad's, `wide_learning_rate` and `l1` are FTRL's.

    Attributes:
        wide_learning_rate: step size of the wide part.
        crosses: pairs of columns that are crossed; left out, all pairs of categories of
            `cross_vocabulary` values at most.
        cross_buckets: hash buckets of a cross.
        cross_vocabulary: values that a category may have to be crossed unasked.
    """

    epochs: int = 30
    learning_rate: float = 0.05
    wide_learning_rate: float = pydantic.Field(0.05, gt=0)
    l1: float = pydantic.Field(0.5, ge=0)
    crosses: tuple[tuple[str, str], ...] | None = None
    cross_buckets: int = pydantic.Field(100_000, ge=1)
    cross_vocabulary: int = pydantic.Field(100, ge=1)
    embedding_dim: int = pydantic.Field(32, ge=1)
    hidden: tuple[pydantic.PositiveInt, ...] = (1024, 512, 256)
    dropout: float = pydantic.Field(0.3, ge=0, lt=1)

    def named_columns(self) -> Iterator[tuple[str, str]]:
        yield from super().named_columns()
        yield from (("crosses", name) for name in itertools.chain(*(self.crosses or ())))

    def parameters(self, sizes: Sizes) -> Parameters:
        sizes = sizes.sharing(self.hash_rows)
        numbers = [column for column in sizes.columns if column.kind == NUMERIC]
        embedded = [column for column in sizes.columns if column.kind != NUMERIC]
        rows = ADDED + sum(column.rows for column in embedded) if embedded else 0
        # A number is its quantile, and whether there is one.
        inputs = self.embedding_dim * len(embedded) + 2 * len(numbers)
        wide = sizes.field_rows + self.cross_buckets
        deep = self.embedding_dim * rows + perceptron(inputs, self.hidden, 1)
        return Parameters(wide + deep)


class WideDeep(ScoreModel[HyperParameters]):
    """Memorises pairs of values, generalises by embeddings."""

    def __init__(self, hyper_parameters: HyperParameters, data: ScoreData):
        super().__init__(hyper_parameters, data)
        width = hyper_parameters.embedding_dim
        self.rows = FieldRows(data.fields, hyper_parameters.hash_rows)
        self.wide = self.rows.embedding(1, 0.0, name="wide")
        self.crosses = _pairs(data.fields, hyper_parameters)
        self.crossed = tf.keras.layers.Embedding(
            hyper_parameters.cross_buckets,
            1,
            embeddings_initializer="zeros",
            dtype="float32",
            name="crossed",
        )
        self._fingerprints = tf.constant(self.rows.fingerprints())
        self._numbers = [field.name for field in data.fields if field.kind == NUMERIC]
        embedded = [field for field in data.fields if field.kind != NUMERIC]
        # Numbers alone need no table, and one without a row is none.
        self.deep_rows = FieldRows(embedded, hyper_parameters.hash_rows) if embedded else None
        if embedded:
            self.embeddings = self.deep_rows.embedding(width, width**-0.5, name="embeddings")
        self.deep = Mlp(hyper_parameters.hidden, hyper_parameters.dropout, name="deep")
        self.output_layer = tf.keras.layers.Dense(
            1, bias_initializer=tf.keras.initializers.Constant(self.initial_score), name="output"
        )

    def learn(self, loop: Loop) -> None:
        hyper_parameters = self.hyper_parameters
        with loop.strategy.scope():
            wide = Ftrl(
                hyper_parameters.wide_learning_rate,
                rows=hyper_parameters.batch_size,
                l1=hyper_parameters.l1,
            )
            # What AdaGrad starts from is of a sum over the rows, as FTRL's beta is; beside the
            # squares of a mean it would outweigh all that a run adds up, and the network would
            # stand still. So would Keras' epsilon, under the root too.
            start = 0.1 / hyper_parameters.batch_size**2
            deep = tf.keras.optimizers.Adagrad(
                hyper_parameters.learning_rate, initial_accumulator_value=start, epsilon=0.0
            )
            optimizer = Divided(
                [wide, deep],
                lambda variable: int(all(variable is not each for each in self.wide_variables())),
            )
        loop.fit(self, optimizer=optimizer)
        weights = tf.concat(
            [tf.reshape(variable, [-1]) for variable in self.wide_variables()], axis=0
        )
        loop.history[-1]["zero_wide_weights"] = float(
            tf.reduce_mean(tf.cast(weights == 0.0, tf.float32))
        )

    def wide_variables(self) -> list[tf.Variable]:
        """The variables of the linear part, once it has been called."""
        return [*self.wide.trainable_variables, *self.crossed.trainable_variables]

    def score_rows(self, inputs: Inputs, training: bool = False) -> tf.Tensor:
        return self.wide_part(inputs) + self.deep_part(inputs, training)

    def wide_part(self, inputs):
        """Returns the [B] part of the score that the linear model adds."""
        row, x = self.rows(inputs)
        score = tf.reduce_sum(self.wide(row)[..., 0] * x, axis=1)
        if self.crosses:
            bucket, weight = self._cross(row, x, inputs)
            score += tf.reduce_sum(self.crossed(bucket)[..., 0] * weight, axis=1)
        return score

    def deep_part(self, inputs, training=False):
        """Returns the [B] part of the score that the network adds, the bias included."""
        parts = []
        if self.deep_rows:
            row, x = self.deep_rows(inputs)
            fields = self.deep_rows.pool(self.embeddings(row) * x[..., tf.newaxis], inputs)
            width = len(self.deep_rows.fields) * self.hyper_parameters.embedding_dim
            parts.append(tf.reshape(fields, [-1, width]))
        for name in self._numbers:
            quantile = tf.cast(inputs[name] - FIRST_TOKEN, tf.float32) / (BUCKETS - 1)
            present = tf.cast(inputs[name] >= FIRST_TOKEN, tf.float32)
            parts.append(tf.stack([quantile * present, 1 - present], axis=1))
        return tf.cast(
            self.output_layer(self.deep(tf.concat(parts, axis=1), training=training))[:, 0],
            tf.float32,
        )

    def _cross(self, row, x, inputs):
        """Returns [B, c] hash buckets and weights of all crosses."""
        hashes = tf.gather(self._fingerprints, row)
        if row.shape.rank == 3:  # a value is told by both of its rows
            hashes = hashes[..., 0] * 31 + hashes[..., 1]
        hashes = self.rows.by_field(hashes, inputs)
        weights = self.rows.by_field(x, inputs)
        keys, products = [], []
        for left, right in self.crosses:
            # Unequal on purpose: a value of one field and the same of the other must not cancel
            # out.
            key = hashes[left][:, :, tf.newaxis] * 31 + hashes[right][:, tf.newaxis, :]
            product = weights[left][:, :, tf.newaxis] * weights[right][:, tf.newaxis, :]
            keys.append(tf.reshape(key, [tf.shape(row)[0], -1]))
            products.append(tf.reshape(product, [tf.shape(row)[0], -1]))
        key = tf.concat(keys, axis=1)
        key = (
            tf.bitwise.bitwise_xor(key, tf.bitwise.right_shift(key, tf.constant(29, tf.int64)))
            * 0x2545F4914F6CDD1D
        )
        key = tf.bitwise.bitwise_xor(key, tf.bitwise.right_shift(key, tf.constant(32, tf.int64)))
        return tf.math.floormod(key, self.hyper_parameters.cross_buckets), tf.concat(
            products, axis=1
        )


def _pairs(fields, hyper_parameters):
    """The pairs of fields to cross, as the docstring of the file says."""
    names = [field.name for field in fields]
    if hyper_parameters.crosses is not None:
        for name in itertools.chain(*hyper_parameters.crosses):
            if name not in names:
                raise ConfigError(
                    f"wide_deep: crosses: unknown field {name!r}{nearest(name, names)}"
                )
        return list(hyper_parameters.crosses)
    usable = [field for field in fields if field.kind != TEXT]
    pairs = [
        (left.name, right.name)
        for left, right in itertools.product(usable, usable)
        # Two ids name the row: a cross that occurs once and is never met again.
        if (left.entity, right.entity) == ("user", "item") and not left.kind == right.kind == ID
    ]
    small = [
        field.name
        for field in usable
        if field.kind == CATEGORICAL
        and not field.hashed
        and field.size <= hyper_parameters.cross_vocabulary
    ]
    return pairs or list(itertools.combinations(small, 2))


Model = WideDeep
