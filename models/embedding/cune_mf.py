"""CUNE-MF: matrix factorisation of ratings that draws a user towards its semantic friends.

Cite: Zhang, Yu, Wang, Shah, Zhang: Collaborative User Network Embedding for Social Recommender
Systems, SDM 2017. The network and the friends: `models.embedding.user_network`.

    r = p_u . q_i                        with `biases`: mu + b_u + b_i + p_u . q_i
    loss of one rating = 1/2 [ (r_ui - r)^2 + l2 (|p_u|^2 + |q_i|^2)
                               + social sum over friends f of u of |p_u - p_f|^2 ]

Who gives an item at least `positive` likes it. An unknown user or item has the mean vector (and
bias) of those that train has seen. With `social` 0 and `biases` it is biased MF.

As in the authors' code, a user is drawn towards its friends with every rating that it gives, and
its friends are not drawn towards it; QRec does so once a user and epoch, RSAlgorithms draws the
friends as well and weighs them by their similarity. Biases, which none of them has, are off by
default. What is liked begins at 3 in the authors' code and at 1 in QRec.

Deviations: steps are taken for `batch_size` ratings at once, each at the full learning rate, where
the authors' code goes one by one, through the file in its order, at a rate of 0.001, 10,000 times;
the epoch is chosen on validation, where theirs prints test errors to choose from. Vectors start
uniform in [0, 1) as theirs; with biases, normal with a deviation of 0.1 as biased MF's.
"""

import numpy as np
import pydantic
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.score import ScoreModel
from models.embedding.user_network import UserNetwork, find_friends
from models.inputs import sampling
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.score_data import Inputs, ScoreData
from models.inputs.token_layers import TokenEmbedding
from models.names.errors import ConfigError
from models.names.features import Feature
from models.names.hyper_parameters import Epochs, Gradient, Xla
from models.names.label import LABEL, WEIGHT
from models.names.sizes import Parameters, Sizes


class HyperParameters(UserNetwork, Epochs, Gradient, Xla):
    """CUNE-MF's own. `learning_rate` is that of a single rating.

    Attributes:
        factors: width of the vectors.
        l2: lambda of the paper.
        social: alpha of the paper, the pull of each friend.
        positive: the least rating that says that an item is liked.
        biases: mean and biases of users and items stand beside the product.
    """

    epochs: int = 200
    patience: int = 10
    batch_size: int = 256
    learning_rate: float = 0.005
    factors: int = pydantic.Field(20, ge=1)
    l2: float = pydantic.Field(0.1, ge=0)
    social: float = pydantic.Field(0.1, ge=0)
    positive: float = 3.0
    biases: bool = False

    def parameters(self, sizes: Sizes) -> Parameters:
        width = self.factors + self.biases
        learnt = sizes.table("user", width) + sizes.table("item", width)
        return Parameters(learnt, beside=self.network_parameters(sizes), slots=0)


class CUNEMF(ScoreModel[HyperParameters]):
    """A vector for every user and item, and a bias where they are wanted."""

    sums_loss = True
    explains = "sum"

    @staticmethod
    def reads(feature: Feature) -> bool:
        return False

    def __init__(self, hyper_parameters: HyperParameters, data: ScoreData):
        super().__init__(hyper_parameters, data)
        if data.label.is_click:
            raise ConfigError(
                "cune_mf predicts ratings by their squared error; required: a label without a "
                "threshold, such as label.column: rating"
            )
        self.users, self.items = (self._table(data.field(name)) for name in ("user_id", "item_id"))
        self._friends = np.zeros((data.users.embedding_rows, 0), np.int64)

    def learn(self, loop: Loop) -> None:
        own, rows = self.hyper_parameters, loop.data.train
        likes = rows[LABEL] >= own.positive
        user, item = (rows[name][likes].astype(np.int64) for name in ("user_id", "item_id"))
        self._friends = find_friends(loop, own, user, item)
        # The loss is divided by the batch size, so that it can be read; the rate makes good for it.
        with loop.strategy.scope():
            optimizer = tf.keras.optimizers.SGD(own.learning_rate * own.batch_size)
        loop.fit(self, optimizer=optimizer)

    def batches(self, data: ScoreData, seed: int, first_epoch: int) -> sampling.Batches:
        """The train rows of known users and items, and the friends of each user."""
        rows, friends = data.train, tf.constant(self._friends)
        known = (rows["user_id"] >= FIRST_TOKEN) & (rows["item_id"] >= FIRST_TOKEN)
        names = [name for name in (LABEL, WEIGHT, "user_id", "item_id") if name in rows]
        columns = {name: rows[name][known] for name in names}

        def with_friends(batch):
            del batch["step_seed"]
            return {**batch, "friends": tf.gather(friends, batch["user_id"])}

        return sampling.shuffled_batches(
            columns, self.hyper_parameters.batch_size, seed, first_epoch
        ).map(with_friends)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        own = self.hyper_parameters
        user, item = self.users(inputs["user_id"]), self.items(inputs["item_id"])
        error = self.example_losses(inputs, self._score(user, item))
        squares = tf.reduce_sum(user**2 + item**2, axis=1)
        # The bias, where there is one, is the first column.
        first = int(own.biases)
        friends = tf.stop_gradient(self.users(inputs["friends"]))[:, :, first:]
        away = tf.reduce_sum((user[:, tf.newaxis, first:] - friends) ** 2, axis=2)
        pull = tf.reduce_sum(tf.where(inputs["friends"] > 0, away, 0.0), axis=1)
        # Not the mean: the last, smaller batch of an epoch must not take larger steps.
        loss = 0.5 * tf.reduce_sum(error + own.l2 * squares + own.social * pull)
        return loss / own.batch_size

    def score_rows(self, inputs: Inputs, training: bool = False) -> tf.Tensor:
        return self._score(self.users(inputs["user_id"]), self.items(inputs["item_id"]))

    def contributions(
        self, inputs: Inputs, left_out: dict[str, dict[str, int]]
    ) -> dict[str, tf.Tensor]:
        """A bias, where there is one, and half of the product."""
        user, item = self.users(inputs["user_id"]), self.items(inputs["item_id"])
        first = int(self.hyper_parameters.biases)
        half = 0.5 * tf.reduce_sum(user[:, first:] * item[:, first:], axis=1, keepdims=True)
        of_user, of_item = (
            tf.reduce_sum(tf.concat([row[:, :first], half], axis=1), axis=1) for row in (user, item)
        )
        return {"user_id": of_user, "item_id": of_item}

    def prepare(self) -> None:
        """Gives the unknown user and item the mean of the others' rows."""
        for table in (self.users, self.items):
            rows = table.embeddings[FIRST_TOKEN:]
            mean = tf.reduce_mean(rows, axis=0, keepdims=True)
            table.embeddings.assign(tf.concat([tf.tile(mean, [FIRST_TOKEN, 1]), rows], axis=0))

    def _score(self, user, item):
        if not self.hyper_parameters.biases:
            return tf.reduce_sum(user * item, axis=1)
        product = tf.reduce_sum(user[:, 1:] * item[:, 1:], axis=1)
        return self.label_mean + user[:, 0] + item[:, 0] + product

    def _table(self, field):
        own = self.hyper_parameters

        def with_bias(shape, dtype=None, **_):
            normal = tf.random.normal([shape[0], shape[1] - 1], stddev=0.1, dtype=dtype)
            return tf.concat([tf.zeros([shape[0], 1], dtype), normal], axis=1)

        return TokenEmbedding(
            field.tokens,
            field.size,
            own.factors + own.biases,
            embeddings_initializer=with_bias
            if own.biases
            else tf.keras.initializers.RandomUniform(0.0, 1.0),
            name=field.name,
        )


Model = CUNEMF
