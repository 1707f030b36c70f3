"""CUNE's first half: a network of users who like the same items, and the semantic friends in it.

Cite: Zhang, Yu, Wang, Shah, Zhang: Collaborative User Network Embedding for Social Recommender
Systems, SDM 2017. Code: the authors' (SDM2017_CUNE) and a port, QRec.

    W = B B', diagonal 0        B: 1 where a user likes an item in train, [users, items];
                                w_uv = number of items that both like
    P(v | u) = w_uv / sum_x w_ux
                                the next user of a walk; drawn anew, up to 10 times, while the walk
                                has been there: that is its bias
    z                           skip-gram with negative sampling over the walks
    friends(u)                  the k users v != u of the highest cos(z_u, z_v)

An item that one user likes joins nobody. A user without an edge is neither walked from nor embedded
and so is nobody's friend and has none.

Deviations: the paper has hierarchical softmax, the authors' code gensim's skip-gram with 5
negatives, as here; QRec leaves the flag out and trains CBOW. The authors' code walks by weight
alone and says that the bias makes little difference; QRec looks the places where a walk has been up
under another user than it notes them for, and over all walks from a user, where here it is one
walk's own. Friends are by cosine as in QRec, by inner product in the authors' code, which also has
users without an embedding, with random vectors, among the candidates. An item that more than
`most_likers` like joins nobody, where that is set: pairs grow with the square.
"""

from types import SimpleNamespace

import numpy as np
import pydantic
import scipy.sparse
import tensorflow as tf

from models.contract.loop import Loop
from models.embedding import item2vec
from models.inputs.data import Entities
from models.inputs.graph import WeightedGraph
from models.inputs.preprocessing import FIRST_TOKEN
from models.inputs.sampling import Batches
from models.names import hyper_parameters as settings
from models.names.sizes import Sizes

_DRAWS = 11  # of a step: the first and ten more
_ROWS_AT_ONCE = 1024


class UserNetwork(settings.HyperParameters):
    """The settings of the network, the walks and the embedding.

    Attributes:
        friends: k; 0 leaves all of this out.
        most_likers: an item that more users like makes no edge; left out, every item makes its own.
        walks_per_user: walks that start at each user.
        walk_length: users a walk has.
        embedding_dim: width of the users' vectors.
        window: contexts are at most so many steps away.
        embedding_negatives: negatives a positive.
        embedding_epochs: passes over the walks.
    """

    friends: int = pydantic.Field(50, ge=0)
    most_likers: int | None = pydantic.Field(None, ge=2)
    walks_per_user: int = pydantic.Field(20, ge=1)
    walk_length: int = pydantic.Field(20, ge=2)
    embedding_dim: int = pydantic.Field(20, ge=1)
    window: int = pydantic.Field(5, ge=1)
    embedding_negatives: int = pydantic.Field(5, ge=1)
    embedding_epochs: int = pydantic.Field(5, ge=1)

    def network_parameters(self, sizes: Sizes) -> int:
        """Returns how many numbers the network takes: walks of int64, two tables of vectors."""
        walks = 2 * self.walks_per_user * self.walk_length * sizes.users
        return walks + 2 * sizes.table("user", self.embedding_dim)


class UserEmbedding(item2vec.Item2vec):
    """Item2vec on walks, the users in the place of the items.

    Args:
        own: the settings.
        users: the users.
        walks: [K, L] int64 user indices.
    """

    def __init__(self, own: UserNetwork, users: Entities, walks: np.ndarray):
        hyper_parameters = item2vec.HyperParameters(
            epochs=own.embedding_epochs,
            # A pair weighs 1 / (2 window): the step of one is word2vec's 0.025.
            learning_rate=0.025 * 2 * own.window,
            embedding_dim=own.embedding_dim,
            negatives=own.embedding_negatives,
            window=own.window,
            subsample=0.0,
            block=min(own.walk_length, 32),
        )
        self._walks = SimpleNamespace(
            items=users, walks=tf.RaggedTensor.from_tensor(walks), has_walks=True
        )
        super().__init__(hyper_parameters, self._walks)

    def skip_gram(self, data, seed: int):
        return super().skip_gram(self._walks, seed)

    def batches(self, data, seed: int, first_epoch: int) -> Batches:
        return self.skip_gram(data, seed).batches(first_epoch)

    def learn(self, loop: Loop) -> None:
        loop.fit(
            self,
            stage="users",
            optimizer=self.optimizer_of(loop),
            epochs=self.hyper_parameters.epochs,
            validate=False,
        )


def find_friends(loop: Loop, own: UserNetwork, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """The friends of every user, found in what train likes: network, walks, embedding.

    The embedding is a stage of the training, `users`, without validation.

    Args:
        loop: the training.
        own: the settings.
        user: [E] int64 indices of who likes.
        item: [E] int64 indices of what is liked; unknown ones, of either, join nobody.

    Returns:
        [users.embedding_rows, K] int64 user indices, the nearest first, 0 where there is none; K is
        `friends`, or 0 where no two users like the same item.
    """
    users, items = loop.data.users, loop.data.items
    known = (user >= FIRST_TOKEN) & (user < users.embedding_rows)
    known &= (item >= FIRST_TOKEN) & (item < items.embedding_rows)
    network = project(
        user[known] - FIRST_TOKEN,
        item[known] - FIRST_TOKEN,
        (users.train_count, items.train_count),
        own.most_likers,
    )
    table = np.zeros((users.embedding_rows, own.friends if network.nnz else 0), np.int64)
    if table.size:
        walks = walk_users(network, own.walks_per_user, own.walk_length, loop.seed)
        with loop.strategy.scope():
            embedding = UserEmbedding(own, users, walks + FIRST_TOKEN)
        embedding.learn(loop)
        nearest = nearest_users(embedding.vectors.embeddings.numpy()[FIRST_TOKEN:], own.friends)
        table[FIRST_TOKEN:] = np.where(nearest >= 0, nearest + FIRST_TOKEN, 0)
    return table


def project(
    user: np.ndarray, item: np.ndarray, shape: tuple[int, int], most_likers: int | None = None
) -> scipy.sparse.csr_matrix:
    """Who likes what -> the network of the users.

    Args:
        user: [E] positions; a pair that is repeated counts once.
        item: [E] positions.
        shape: number of users and of items.
        most_likers: an item that more users like makes no edge.

    Returns:
        [users, users] int64, symmetric: the number of items that two users both like, 0 on the
        diagonal.
    """
    likes = scipy.sparse.csc_matrix((np.ones(len(user), np.int64), (user, item)), shape)
    likes.sum_duplicates()
    likes.data[:] = 1
    if most_likers is not None:
        likes = likes[:, np.diff(likes.indptr) <= most_likers]
    network = (likes @ likes.T).tocsr()
    network.setdiag(0)
    network.eliminate_zeros()
    return network


def walk_users(
    network: scipy.sparse.csr_matrix, walks_per_user: int, walk_length: int, seed: int
) -> np.ndarray:
    """[K, walk_length] int64 positions: so many walks from every user who has an edge."""
    edges = network.tocoo()
    source, target = edges.row.astype(np.int64), edges.col.astype(np.int64)
    graph = WeightedGraph(network.shape[0], source, target, edges.data)
    random = np.random.default_rng(seed)
    start = np.tile(np.flatnonzero(np.diff(network.indptr)), walks_per_user)
    path = np.full((len(start), walk_length), -1, np.int64)
    path[:, 0] = start
    # Nobody is a dead end: an edge leads back.
    for place in range(1, walk_length):
        again = np.arange(len(start))
        for _ in range(_DRAWS):
            draw = random.integers(2**63, size=len(again), dtype=np.uint64)
            path[again, place] = graph.step(path[again, place - 1], draw)
            been = path[again, :place] == path[again, place, np.newaxis]
            again = again[been.any(axis=1)]
    return path


def nearest_users(vectors: np.ndarray, count: int) -> np.ndarray:
    """The users of the highest cosine with each one, block by block.

    Args:
        vectors: [U, D] float; a user whose vector is 0 has none, and is nobody's.
        count: how many are sought.

    Returns:
        [U, count] int64 positions, the nearest first, -1 where there are no more.
    """
    nearest = np.full((len(vectors), count), -1, np.int64)
    embedded = np.flatnonzero((vectors != 0).any(axis=1))
    unit = vectors[embedded] / np.linalg.norm(vectors[embedded], axis=1, keepdims=True)
    most = min(count, len(embedded) - 1)
    for first in range(0, len(embedded) if most > 0 else 0, _ROWS_AT_ONCE):
        cosine = unit[first : first + _ROWS_AT_ONCE] @ unit.T
        rows = np.arange(len(cosine))
        cosine[rows, first + rows] = -np.inf
        found = np.sort(np.argpartition(-cosine, most - 1, axis=1)[:, :most], axis=1)
        order = np.argsort(-np.take_along_axis(cosine, found, axis=1), axis=1, kind="stable")
        nearest[embedded[first + rows], :most] = embedded[np.take_along_axis(found, order, axis=1)]
    return nearest
