"""The inverted file: against NumPy, and by hand."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from models.baseline.popularity import Popularity
from models.contract.index import InvertedFile, k_means, nearest_centres, probes_for
from models.contract.retrieve import DotProductModel
from models.contract.retriever import Retriever
from models.names import metrics
from models.names.errors import ConfigError
from models.names.hyper_parameters import Ranking
from models.names.index import IndexConfig


def clustered(items: int, queries: int, width: int = 8, seed: int = 0):
    """Vectors of several lengths around 20 centres, and queries near some of them."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=[20, width])
    vectors = centres[draw.integers(20, size=items)] + 0.3 * draw.normal(size=[items, width])
    vectors *= draw.uniform(0.5, 2.0, size=[items, 1])
    asked = vectors[draw.integers(items, size=queries)] + 0.2 * draw.normal(size=[queries, width])
    return vectors.astype(np.float32), asked.astype(np.float32)


def made(vectors, positions=None, queries=None, **settings) -> InvertedFile:
    positions = np.arange(len(vectors)) if positions is None else positions
    queries = vectors[:0] if queries is None else queries
    return InvertedFile(vectors, positions, IndexConfig(kind="ivf", **settings), 0, queries)


def exact(vectors, queries, count):
    """Positions by score, of equal ones the first."""
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :count]


def test_all_lists_probed_are_filter_then_sort():
    vectors, queries = clustered(600, 7)
    # Every other item has a vector: positions are those of the catalogue.
    positions = np.arange(0, 1200, 2)
    index = made(vectors, positions, lists=30, probes=30)
    score, position = index.nearest(queries, [12] * 7)
    expected = exact(vectors, queries, 12)
    np.testing.assert_array_equal(position, positions[expected])
    np.testing.assert_allclose(
        score, np.take_along_axis(queries @ vectors.T, expected, 1), rtol=1e-5
    )


def test_of_probed_lists_the_best_items_are_found():
    vectors, queries = clustered(600, 7)
    index = made(vectors, lists=30, probes=4)
    _, position = index.nearest(queries, [5] * 7)
    # The same by hand: the items of the four lists whose means have the largest products.
    centres = k_means(vectors, 30, seed=0)
    list_of = nearest_centres(vectors, centres)
    for query, found in zip(queries, position.numpy(), strict=True):
        lists = np.argsort(-(centres @ query))[:4]
        inside = np.flatnonzero(np.isin(list_of, lists))
        best = inside[np.argsort(-(vectors[inside] @ query), kind="stable")[:5]]
        assert found.tolist() == best.tolist()


def test_more_than_the_probed_lists_hold_come_from_all():
    vectors, queries = clustered(60, 3)
    index = made(vectors, lists=20, probes=1)
    for asked, given in ((40, 40), (60, 60), (500, 60)):
        score, position = index.nearest(queries, [asked, 1, asked])
        np.testing.assert_array_equal(position[::2], exact(vectors, queries, given)[::2])
        # The second has one, as it has when it asks alone.
        assert np.isinf(score[1]).sum() == given - 1
        assert position[1, 0] == index.nearest(queries[1:2], [1])[1][0, 0]


def test_equal_scores_keep_the_order_of_the_catalogue():
    vectors = np.tile(np.float32([[1, 0], [0, 1]]), [20, 1])
    for probes in (1, 2):
        index = made(vectors, lists=2, probes=probes)
        _, position = index.nearest(np.float32([[1, 0.5]]), [4])
        assert position.numpy().tolist() == [[0, 2, 4, 6]]


def test_the_probes_are_the_fewest_that_hold_the_share():
    # Ten items in each of four lists, along an axis each; the best 100 are all 40.
    centres = np.float32(np.eye(4))
    list_of = np.repeat(np.arange(4), 10)[np.newaxis]
    queries = np.float32([[4, 3, 2, 1]])
    # The lists are near in their order, and each holds a quarter of the best.
    for recall, lists in ((0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (1.0, 4)):
        assert probes_for(recall, centres, queries, list_of) == lists
    assert probes_for(0.5, centres, queries[:0], list_of[:0]) == 4


def test_means_are_seeded_and_every_list_has_one():
    vectors, queries = clustered(500, 20)
    first, again, other = (k_means(vectors, 25, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other) and np.isfinite(first).all()
    # Items that are all alike leave every list but one empty.
    assert np.unique(k_means(np.ones([9, 2], np.float32), 3, 0)).tolist() == [1.0]
    index = made(vectors, queries=queries, recall=0.9)
    # Four times the root of 500; 90 % of the best 100 of 20 queries.
    assert index.lists == 89 and 1 <= index.probes < 89
    best = exact(vectors, queries, 100)
    _, position = index.nearest(queries, [100] * 20)
    hits = sum(
        len({*found} & {*right}) for found, right in zip(position.numpy(), best, strict=True)
    )
    assert 0.9 * 2000 <= hits < 2000
    np.testing.assert_allclose(index.recall, hits / 2000)


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"kind": "hnsw"}, "index.kind: unknown value; received 'hnsw'"),
        ({"kind": "ivf", "lists": 4, "probes": 5}, "index.probes must be at most .* of lists, 4"),
        ({"list": 4}, "unknown key 'index.list'"),
    ],
)
def test_settings_are_refused_by_name(settings, said):
    with pytest.raises(ConfigError, match=said):
        IndexConfig.parse(settings)


class Fixed(DotProductModel[Ranking]):
    """Users and items have vectors that nobody learnt; every third item has none."""

    uses_user_id = True

    def __init__(self, hyper_parameters, data):
        super().__init__(hyper_parameters, data)
        vectors, _ = clustered(len(data.items), 0)
        self.items = tf.constant(vectors)
        self.users = tf.constant(clustered(data.users.index_count, 0, seed=1)[0])
        self.there = tf.range(len(data.items), dtype=tf.int64) % 3 > 0

    def query_embedding(self, query):
        return tf.gather(self.users, query.user)

    def item_embeddings(self):
        return self.items

    def index(self, catalogue):
        there = tf.where(self.there)[:, 0]
        return tf.gather(catalogue, there), there

    def score_items(self, query, catalogue):
        return tf.where(self.there, super().score_items(query, catalogue), float("-inf"))


class Reranked(Fixed):
    """The same; of the first five the one with the largest position comes first."""

    reranks = 5

    def rerank(self, query, position, score):
        return tf.cast(position, tf.float32)


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("profile", 0.0).load_once("item_knn")


@pytest.mark.parametrize("model_class", [Fixed, Reranked])
@pytest.mark.parametrize("probes", [1, 2])
def test_recommend_answers_k_items_whenever_k_qualify(model_class, probes, data):
    """Two lists of the 40 items of 60 that have a vector; a user has had 9, and says more."""
    model = model_class(Ranking(), data)
    settings = IndexConfig(kind="ivf", lists=2, probes=probes)
    exact_, near = Retriever(model, data), Retriever(model, data, index=settings)
    ids = data.items.ids
    # Two whom the model knows, and a stranger, who gets popularity.
    users = tf.constant([data.users.ids[0], data.users.ids[7], b"nobody"])
    history = tf.constant([[ids[1], ids[2]], [b"", b""], [ids[4], b"no such item"]])
    exclude = tf.constant([[b""], [ids[5]], [ids[0]]])
    stored = [
        {ids[index - 2] for index in data.user_history[place + 2].numpy()} for place in (0, 7)
    ]
    out = [stored[0] | {ids[1], ids[2]}, stored[1] | {ids[5]}, {ids[4], ids[0]}]
    for k in ([3, 3, 3], [1, 12, 60], [60, 60, 60]):
        wanted, found = (
            served.recommend(users, history, exclude, tf.constant(k)) for served in (exact_, near)
        )
        for row, gone in enumerate(out):
            answered = {*found["item_id"][row].numpy()} - {b""}
            assert not answered & gone
            there = len({*wanted["item_id"][row].numpy()} - {b""})
            assert len(answered) == there == min(k[row], there)
        np.testing.assert_array_equal(wanted["strategy"], found["strategy"])
        if probes == 2 or k[2] == 60:  # all items are compared
            np.testing.assert_array_equal(wanted["item_id"], found["item_id"])
            np.testing.assert_allclose(wanted["score"], found["score"], rtol=1e-5)


def test_evaluate_says_what_the_index_finds(data):
    """By hand: of each query's best three, those that the list with the nearest mean holds."""
    model = Fixed(Ranking(filter_seen=False), data)
    measured = metrics.of("retrieve", asked=["index_recall_3"])
    settings = IndexConfig(kind="ivf", lists=4, probes=1)
    served = Retriever(model, data, measured, settings)
    assert measured.of_index == ("index_recall_3",)
    there = np.flatnonzero(model.there.numpy())
    vectors = model.items.numpy()[there]
    centres = k_means(vectors, 4, seed=0)
    list_of = nearest_centres(vectors, centres)
    queries, seen = data.queries("valid"), []
    for raw in queries[:12]:
        parsed = served.reader.parse_queries(tf.constant([raw]))
        query = model.users.numpy()[parsed["query"].user[0]]
        masked = parsed["masked"][0].numpy() - 2
        left = ~np.isin(there, masked)
        scores = np.where(left, vectors @ query, -np.inf)
        best = np.argsort(-scores)[:3]
        probed = np.argmax(centres @ query)
        inside = list_of[best] == probed
        if np.sum(list_of == probed) < 3 + len(masked):  # all items are compared
            inside = np.ones(3)
        value = served.evaluate(tf.constant([raw]))["index_recall_3"]
        assert value.shape == (1, 1)
        np.testing.assert_allclose(value, inside.mean(), atol=1e-6)
        seen.append(inside.mean())
    assert min(seen) < 1 and max(seen) > 0
    assert served.notes["index"]["lists"] == 4 and served.notes["index"]["probes"] == 1
    # There are no 100 items with a vector, so that all are compared.
    assert served.notes["index"]["recall_100"] == 1.0
    plain = Retriever(model, data, measured)
    found = plain.evaluate(tf.constant(queries[:2]))["index_recall_3"]
    assert found.numpy().tolist() == [[1]] * 2


def test_no_index_for_a_model_without_vectors(data):
    model = Popularity(Popularity.HyperParameters(), data)
    with pytest.raises(ConfigError, match="index.kind: ivf is for models whose score is a dot"):
        Retriever(model, data, index=IndexConfig(kind="ivf"))


def test_what_is_exported_is_made_of_stock_operations(data, tmp_path):
    """What `tf.raw_ops` lists is in every TensorFlow, and so in TensorFlow Serving.

    What libraries register beside it is not.
    """
    model = Fixed(Ranking(), data)
    retriever = Retriever(model, data, index=IndexConfig(kind="ivf", lists=2, probes=1))
    retriever.export(str(tmp_path / "model"), rules=False)
    saved = saved_model_pb2.SavedModel.FromString((tmp_path / "model/saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    used = {node.op for node in nodes}
    assert {"TopKV2", "MatMul", "ResourceGather"} <= used and len(used) > 50
    assert used <= {*dir(tf.raw_ops)}, used - {*dir(tf.raw_ops)}
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    # The nearest of a vector by list: as `nearest` itself says.
    vector = model.users[:3]
    answer = loaded.signatures["retrieve"](embedding=vector, k=tf.constant(4))
    score, position = retriever.ranker.inverted_file.nearest(vector, [4] * 3)
    assert answer["item_id"].numpy().tolist() == data.items.ids[position.numpy()].tolist()
    np.testing.assert_allclose(answer["score"], score, rtol=1e-6)
    users = tf.constant(data.users.ids[:5])
    asked = {
        "user_id": users,
        "history": tf.constant([[""]] * 5),
        "exclude": tf.constant([[""]] * 5),
    }
    served = loaded.signatures["recommend"](**asked, k=tf.constant(4))
    wanted = retriever.recommend(**asked, k=tf.constant([4] * 5))
    np.testing.assert_array_equal(served["item_id"], wanted["item_id"])
