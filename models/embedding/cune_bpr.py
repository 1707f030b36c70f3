"""CUNE-BPR: a user's own items rank above those of its friends, and these above the rest.

Cite: Zhang, Yu, Wang, Shah, Zhang: Collaborative User Network Embedding for Social Recommender
Systems, SDM 2017. The network and the friends: `models.embedding.user_network`.

    x_ui = b_i + p_u . q_i
    P_u  = the items that u has,  IP_u = those that its friends have and it has not,  N_u = the rest
    loss = - ln sigmoid(x_ui - x_uk) - ln sigmoid((x_uk - x_uj) / s)
           + l2 (|p_u|^2 + |q_i|^2 + |q_k|^2 + |q_j|^2)
           i in P_u, k in IP_u, j in N_u
         = - ln sigmoid(x_ui - x_uj) + l2 (|p_u|^2 + |q_i|^2 + |q_j|^2)
           where IP_u is empty: BPR-MF

k and j are uniform over their sets, drawn anew every epoch. s, the coefficient of the friends'
items, is one number, as in QRec; in SBPR, which it comes from, it grows with the number of friends
who have k.

Deviations, with those of BPR-MF: an epoch visits every train event once, where QRec draws three
pairs of k and j for it; Adam on the mean over a batch instead of plain steps on single triples; the
items have biases, which the authors' and QRec's vectors do without, so that it is BPR-MF for
`friends` 0. QRec draws j among the items that are not the user's, so that it may be one of the
friends': it looks it up among users. Memory holds what everybody's friends have, about 16 bytes a
user and item.
"""

import numpy as np
import pydantic
import scipy.sparse
import tensorflow as tf

from models.contract.loop import Loop
from models.contract.query import Query
from models.contract.recommender import weighed
from models.contract.retrieve import DotProductModel
from models.embedding.user_network import UserNetwork, find_friends
from models.inputs import sampling
from models.inputs.data import TrainingData
from models.inputs.preprocessing import FIRST_TOKEN, UNKNOWN
from models.inputs.token_layers import factor_tables, id_embedding
from models.names.hyper_parameters import Epochs, Gradient, LazyAdam, Ranking, Xla
from models.names.sizes import Parameters, Sizes


class HyperParameters(UserNetwork, Ranking, Epochs, Gradient, LazyAdam, Xla):
    """CUNE-BPR's own.

    Attributes:
        factors: width of the vectors.
        l2: lambda of the paper.
        coefficient: s; a larger one keeps friends' items less far above the rest.
    """

    epochs: int = 100
    patience: int = 10
    factors: int = pydantic.Field(64, ge=1)
    l2: float = pydantic.Field(0.0025, ge=0)
    coefficient: float = pydantic.Field(2.0, gt=0)

    def parameters(self, sizes: Sizes) -> Parameters:
        items = sizes.table("item", self.factors) + sizes.table("item", 1)
        learnt = sizes.table("user", self.factors) + items
        return Parameters(learnt, beside=self.network_parameters(sizes))


class CUNEBPR(DotProductModel[HyperParameters]):
    """User and item factors and the items' biases."""

    biased = True
    explains = "similarity"

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        self.user_factors, self.item_factors = factor_tables(
            data.users, data.items, hyper_parameters.factors, ("user_factors", "item_factors")
        )
        self.item_bias = id_embedding(data.items, 1, "zeros", name="item_bias")
        self._item_rows = tf.range(FIRST_TOKEN, data.items.embedding_rows, dtype=tf.int64)
        self._friends = np.zeros((data.users.embedding_rows, 0), np.int64)

    def learn(self, loop: Loop) -> None:
        events = loop.data.events
        self._friends = find_friends(loop, self.hyper_parameters, events.user, events.item)
        loop.fit(self)

    def batches(self, data: TrainingData, seed: int, first_epoch: int) -> sampling.Batches:
        events = data.events
        # Whoever has no row of its own shares the unknown user's, and has no friends.
        rows, count = data.users.embedding_rows, data.items.train_count
        user = np.where(events.user < rows, events.user, UNKNOWN)
        social = friends_items(self._friends, user, events.item - FIRST_TOKEN, count)
        owner = np.repeat(np.arange(rows), np.diff(social.indptr))
        starts = tf.constant(social.indptr, tf.int64)
        items = tf.constant(np.append(social.indices + FIRST_TOKEN, 0), tf.int64)
        rest = sampling.UniformNegatives(
            np.append(user, owner), np.append(events.item, social.indices + FIRST_TOKEN), count
        )

        def with_triple(batch):
            seeds = sampling.split(batch["step_seed"], 2)
            negative = rest.draw(batch["user"], 1, seeds[0])[:, 0]
            start = tf.gather(starts, batch["user"])
            size = tf.gather(starts, batch["user"] + 1) - start
            uniform = sampling.uniform(tf.shape(size), seeds[1], dtype=tf.float64)
            place = start + tf.cast(uniform * tf.cast(size, tf.float64), tf.int64)
            friend = tf.where(size > 0, tf.gather(items, place), 0)
            return {
                "user": batch["user"],
                "items": tf.stack([batch["item"], friend, negative], axis=1),
            }

        return sampling.shuffled_batches(
            {**events.columns("item"), "user": user},
            self.hyper_parameters.batch_size,
            seed,
            first_epoch,
        ).map(with_triple)

    def compute_loss(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The mean over triples [B, 3] of items, where 0 says that a set is empty."""
        own = self.hyper_parameters
        user = tf.cast(self.user_factors(inputs["user"]), tf.float32)
        items = tf.cast(self.item_factors(inputs["items"]), tf.float32)
        bias = tf.cast(self.item_bias(inputs["items"])[..., 0], tf.float32)
        # A product and a sum: einsum multiplies matrices row by row, at several times the cost.
        scores = bias + tf.reduce_sum(user[:, tf.newaxis] * items, axis=2)
        positive, social, negative = tf.unstack(scores, axis=1)
        there = tf.cast(inputs["items"] > 0, tf.float32)
        _, has_social, has_negative = tf.unstack(there, axis=1)
        above_friends = has_social * tf.nn.softplus(social - positive)
        above_rest = has_negative * tf.where(
            has_social > 0,
            tf.nn.softplus((negative - social) / own.coefficient),
            tf.nn.softplus(negative - positive),
        )
        squares = tf.reduce_sum(user**2, axis=1) + tf.reduce_sum(
            there * tf.reduce_sum(items**2, axis=2), axis=1
        )
        return tf.reduce_mean(weighed(inputs, above_friends + above_rest + own.l2 * squares))

    def query_embedding(self, query: Query) -> tf.Tensor:
        """The user's factors and a one, which the item's bias meets."""
        user = self.user_factors(query.user)
        return tf.concat([user, tf.ones_like(user[:, :1])], axis=1)

    def item_embeddings(self) -> tf.Tensor:
        """The items' factors and biases."""
        return tf.concat(
            [self.item_factors(self._item_rows), self.item_bias(self._item_rows)], axis=1
        )


def friends_items(
    friends: np.ndarray, user: np.ndarray, item: np.ndarray, item_count: int
) -> scipy.sparse.csr_matrix:
    """IP_u of every user.

    Args:
        friends: [U, K] int64 user indices, 0 for none.
        user: [E] int64 user index of every train event.
        item: [E] int64 catalogue position of every train event.
        item_count: number of items.

    Returns:
        [U, item_count]: an entry where a friend has the item and the user has not.
    """
    place, column = np.nonzero(friends)
    pairs = scipy.sparse.csr_matrix(
        (np.ones(len(place), np.int64), (place, friends[place, column])), (len(friends),) * 2
    )
    has = scipy.sparse.csr_matrix(
        (np.ones(len(user), np.int64), (user, item)), (len(friends), item_count)
    )
    found = pairs @ has
    found = found - found.multiply(has > 0)
    found.eliminate_zeros()
    found.sort_indices()
    return found


Model = CUNEBPR
