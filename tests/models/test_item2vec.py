"""Item2vec: the contract, walks, and the pairs, the negatives and the loss by hand.

Also that nothing untrained is ever returned.
"""

import collections

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from components import standalone
from models.contract.query import Query
from models.contract.retrieve_task import Evaluation
from models.contract.retriever import Retriever
from models.inputs import skip_gram
from models.inputs.data import TrainingData
from models.inputs.skip_gram import SkipGram
from models.names import registry
from models.names.errors import DataError
from models.training.loop import TrainingLoop
from tests.models.contract import RetrieveContract, train

# 60 items alike: a share of 1/60 each would be kept with sqrt(60 rho).
TOY = {
    "epochs": 15,
    "batch_size": 1024,
    "learning_rate": 0.5,
    "embedding_dim": 16,
    "subsample": 0.0,
    "block": 8,
    "history_length": 8,
}
SETTINGS = {
    "negatives": 5,
    "subsample": 0.0,
    "window": None,
    "block": 4,
    "shared": 20,
    "batch_size": 64,
    "max_set": 1000,
    "seed": 3,
}


class TestItem2vec(RetrieveContract):
    name = "item2vec"
    hyper_parameters = TOY

    def test_a_score_is_the_mean_cosine_with_the_last_items(self, trained):
        vectors = trained.model.vectors.embeddings.numpy().astype(np.float64)
        ids = trained.data.items.ids.tolist()
        last = [
            f"item {number} é世" for number in (20, 2, 3, 5, 4, 6, 7, 8, 9)
        ]  # nine; the first is too long ago
        rows = [ids.index(item.encode()) + 2 for item in last[1:]]
        answer = self.ask(trained, ["nobody"], [last], k=60)
        for item, value in zip(answer["item_id"][0], answer["score"][0], strict=True):
            if item:
                u = vectors[ids.index(item) + 2]
                cosines = [
                    u @ vectors[row] / np.linalg.norm(u) / np.linalg.norm(vectors[row])
                    for row in rows
                ]
                np.testing.assert_allclose(value, np.mean(cosines), rtol=1e-4, atol=1e-5)

    def test_an_untrained_item_is_neither_returned_nor_asked_with(self, trained):
        model = registry.load("item2vec").Model(trained.model.hyper_parameters, trained.data)
        history = tf.ragged.constant([[5, 7]], dtype=tf.int64)
        nobody = Query(tf.constant([1], tf.int64), tf.constant([False]), history)
        assert not model.answers(nobody)[0]  # before the first step no item has a vector
        vectors = trained.model.vectors.embeddings.numpy()
        vectors[5] = 0.0
        model.vectors.set_weights([vectors])
        missing = trained.data.items.ids[3]
        retriever = Retriever(model, trained.data)
        first = self.ask(trained, ["user 0"], k=60)["item_id"][0].tolist()

        def recommend(history):
            history = tf.constant([history], tf.string, shape=[1, len(history)])
            return retriever.recommend(
                tf.constant(["nobody"]), history, tf.zeros([1, 0], tf.string), tf.constant([60])
            )

        other = trained.data.items.ids[10]
        answer = recommend([other])
        returned = answer["item_id"].numpy()[0].tolist()
        assert missing not in returned and answer["strategy"][0] == b"fold-in"
        assert (
            sum(item != b"" for item in returned) == 60 - 2
        )  # all but the one asked with and the one without a vector
        assert first.count(b"") < 60
        # Beside a known item it changes nothing; alone it is no history at all.
        np.testing.assert_allclose(
            recommend([other, missing])["score"][0, :50], answer["score"][0, :50], rtol=1e-5
        )
        alone = recommend([missing])
        assert alone["strategy"][0] == b"fallback" and missing not in alone["item_id"].numpy()[0]
        found = retriever._retrieve()(tf.ones([1, 16]), tf.constant(60))["item_id"].numpy()[0]
        assert len(found) == 59 and missing not in found

    def test_every_item_that_shares_a_set_has_been_trained(self, trained):
        vectors, penalty = trained.model.catalogue()
        assert np.isfinite(penalty).all()
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
        assert not trained.model.vectors.embeddings.numpy()[:2].any()


def ragged(rows):
    return tf.ragged.constant(rows, dtype=tf.int64, row_splits_dtype=tf.int64)


def epoch(made, number=0):
    return list(made.batches(number).dataset.take(made.steps).as_numpy_iterator())


def pairs(batches, window=None):
    """Counts the (centre, context) pairs of an epoch."""
    found = collections.Counter()
    for batch in batches:
        mask = skip_gram.pair_mask(
            *(tf.constant(batch[name]) for name in ("centre", "context", "offset")), window
        )
        for tile, centre, context in np.argwhere(mask.numpy() > 0):
            found[int(batch["centre"][tile, centre]), int(batch["context"][tile, context])] += 1
    return found


# Sets of 1, 2, 5 and 70 items, no item in two of them: one, two and many blocks of 4.
SETS = [[2], [3, 4], [5, 6, 7, 8, 9], list(range(10, 80))]


def test_the_pairs_of_a_set_are_all_of_it_each_once():
    made = SkipGram(ragged(SETS), 78, **SETTINGS)
    found = pairs(epoch(made))
    expected = {(i, j) for items in SETS for i in items for j in items if i != j}
    assert set(found) == expected and set(found.values()) == {1}
    # 2 * 1 + 5 * 4 + 70 * 69
    assert made.pairs == len(expected) == 4852
    for batch in epoch(made):
        size = {items[0]: len(items) for items in SETS}
        for first, weight in zip(batch["centre"][:, 0], batch["weight"], strict=True):
            assert weight == pytest.approx(1 / size[max(start for start in size if start <= first)])


def test_an_item_counts_once_in_a_set_whatever_its_order():
    once, twice = (
        SkipGram(ragged([items, [2, 3]]), 5, **SETTINGS) for items in ([4, 5, 6], [6, 4, 5, 4, 6])
    )
    assert pairs(epoch(once)) == pairs(epoch(twice))
    for left, right in zip(epoch(once), epoch(twice), strict=True):
        for name, value in left.items():
            np.testing.assert_array_equal(value, right[name])


def test_pairs_of_a_walk_are_within_the_window():
    # 2 3 2 4 5 6, window 2. Neighbours: 2-3 twice, 2-4, 4-5, 5-6; two apart: 3-4, 2-5, 4-6, and
    # 2-2, which is no pair.
    walk = [2, 3, 2, 4, 5, 6]
    expected = collections.Counter(
        {(2, 3): 2, (2, 4): 1, (4, 5): 1, (5, 6): 1, (3, 4): 1, (2, 5): 1, (4, 6): 1}
    )
    expected += collections.Counter({(j, i): count for (i, j), count in expected.items()})
    for block in (2, 3, 4, 8):
        made = SkipGram(ragged([walk]), 5, **{**SETTINGS, "window": 2, "block": block})
        assert pairs(epoch(made), 2) == expected, block
    # 6 places: 5 neighbours and 4 two apart, both ways.
    assert made.pairs == 18
    long = list(range(2, 202))
    made = SkipGram(ragged([long]), 200, **{**SETTINGS, "window": 3})
    found = pairs(epoch(made), 3)
    assert set(found) == {
        (i, j) for i in long for j in long if 0 < abs(i - j) <= 3
    } and made.pairs == len(found)


def test_subsampling_keeps_the_papers_share_and_is_redrawn():
    # Item 2 is in all of 400 sets of two: half of all occurrences. rho = 0.125 keeps sqrt(0.125 /
    # 0.5) = 1/2 of it; the others, a share of 1/800 each, are all kept. Only a set that keeps item
    # 2 has a pair.
    made = SkipGram(
        ragged([[2, item] for item in range(3, 403)]), 401, **{**SETTINGS, "subsample": 0.125}
    )
    np.testing.assert_allclose(made.keep[[2, 3]], [0.5, 1.0])
    kept = [{j for i, j in pairs(epoch(made, number)) if i == 2} for number in range(5)]
    # Four standard errors of a share of 1/2 among 2000.
    assert sum(map(len, kept)) / 2000 == pytest.approx(0.5, abs=0.045)
    assert len({frozenset(one) for one in kept}) == 5


def test_negatives_follow_the_count_to_the_power_of_three_quarters():
    # Counts 81, 16, 1, 1 and 81 + 16 + 2 sets' partners: weights 27, 8, 1, 1, ...
    rows = [[2, 6]] * 81 + [[3, 6]] * 16 + [[4, 6]] + [[5, 6]]
    made = SkipGram(ragged(rows), 5, **{**SETTINGS, "shared": 1000})
    assert made.counts.tolist() == [0, 0, 81, 16, 1, 1, 99]
    negative, weight = made.draw(tf.constant([98] * 100, tf.int64), tf.constant([1, 2], tf.int64))
    expected = np.array([27, 8, 1, 1, 99**0.75])
    seen = np.bincount(negative.numpy().ravel(), minlength=7)[2:]
    assert scipy.stats.chisquare(seen, expected / expected.sum() * 100_000).pvalue > 1e-3
    # Row 98 is the set {5, 6}: they are no negatives of it, and what is left weighs N.
    np.testing.assert_array_equal(weight.numpy() == 0, np.isin(negative.numpy(), (5, 6)))
    np.testing.assert_allclose(weight.numpy().sum(axis=1), 5.0, rtol=1e-5)


def test_a_set_of_the_whole_catalogue_has_no_negatives():
    made = SkipGram(ragged([[2, 3, 4]]), 3, **SETTINGS)
    assert not made.draw(tf.constant([0], tf.int64), tf.constant([1, 2], tf.int64))[1].numpy().any()


def test_a_set_beyond_the_maximum_is_sampled_anew_every_epoch():
    made = SkipGram(ragged([list(range(2, 52)), [2, 3]]), 50, **{**SETTINGS, "max_set": 10})
    members = []
    for number in range(3):
        found = pairs(epoch(made, number))
        assert sum(found.values()) == 10 * 9 + 2 == made.pairs
        members.append(frozenset(i for i, _ in found))
    assert len(set(members)) == 3


def test_batches_are_a_function_of_seed_epoch_and_step():
    made = SkipGram(ragged(SETS), 78, **SETTINGS)
    whole = list(made.batches().dataset.take(3 * made.steps).as_numpy_iterator())[2 * made.steps :]
    for left, right in zip(whole, epoch(SkipGram(ragged(SETS), 78, **SETTINGS), 2), strict=True):
        for name, value in left.items():
            np.testing.assert_array_equal(value, right[name])
    other = epoch(SkipGram(ragged(SETS), 78, **{**SETTINGS, "seed": 4}), 2)
    assert not np.array_equal(whole[0]["negative"], other[0]["negative"]) and made.steps > 1


def test_sets_of_one_item_teach_nothing_and_say_so():
    with pytest.raises(
        DataError, match="no set or walk of the train split has two different items"
    ):
        SkipGram(ragged([[2], [3, 3], []]), 2, **SETTINGS)


def test_softplus_and_its_gradient():
    x = tf.constant([-200.0, -1.0, 0.0, 3.0, 80.0, 1e6])
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = skip_gram.softplus(x)
    np.testing.assert_allclose(value[:5], tf.nn.softplus(x)[:5], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(tape.gradient(value, x), tf.sigmoid(x), rtol=1e-5, atol=1e-7)
    assert np.isfinite(value).all()


def test_a_row_takes_no_longer_step_than_its_limit():
    # Row 1 is there twice and weighs 3 + 5 = 8, the limit is 4: its gradients are halved. Row 0
    # weighs 2 and keeps its own.
    index, weight = tf.constant([1, 0, 1], tf.int64), tf.constant([3.0, 2.0, 5.0])
    table = tf.Variable([[1.0, 2.0], [3.0, 4.0]])
    with tf.GradientTape() as tape:
        rows = skip_gram.bounded_steps(tf.gather(table, index), index, weight, 2, 4.0)
        loss = tf.reduce_sum(rows * [[10.0, 1.0], [20.0, 2.0], [30.0, 3.0]])
    np.testing.assert_array_equal(rows, [[3.0, 4.0], [1.0, 2.0], [3.0, 4.0]])
    gradient = tf.convert_to_tensor(tape.gradient(loss, table))
    np.testing.assert_allclose(gradient, [[20.0, 2.0], [(10 + 30) / 2, (1 + 3) / 2]])


@pytest.fixture(scope="module")
def baskets(toy_data):
    return toy_data("walk", 0.0)


@pytest.fixture(scope="module")
def walked(baskets, tmp_path_factory):
    """The same log with walks, its vocabulary and counts fitted on the examples that hold them."""
    folder = tmp_path_factory.mktemp("walked")
    settings = {"kind": "node2vec", "p": 0.5, "q": 2.0, "walks_per_node": 20, "walk_length": 12}
    standalone.build_examples(
        str(baskets.folder / "tables"), str(folder), "retrieve", "walk", walks=settings
    )
    standalone.transform(
        str(folder / "examples"),
        str(folder / "schema" / "schema.pbtxt"),
        str(folder / "graph"),
        {"text": ["item_title"]},
    )
    return type(baskets)(folder)


def test_the_loss_by_hand(baskets):
    data, module = baskets.load("item2vec"), registry.load("item2vec")
    model = module.Model(module.HyperParameters(**{**TOY, "embedding_dim": 2, "block": 2}), data)
    generator = np.random.RandomState(0)
    u, v = (generator.randn(62, 2) for _ in range(2))
    model.vectors.set_weights([u])
    model.contexts.set_weights([v])
    # A set of the items 2, 3 and 5 (K = 3) in blocks of two: centres 2 and 3, contexts 5 and
    # padding; negatives 7 and 8, weighing 1.5 and 3.5. Two pairs: (2, 5) and (3, 5).
    batch = {
        "centre": tf.constant([[2, 3]], tf.int64),
        "context": tf.constant([[5, 0]], tf.int64),
        "offset": tf.constant([-2], tf.int64),
        "weight": tf.constant([1 / 3]),
        "negative": tf.constant([[7, 8]], tf.int64),
        "negative_weight": tf.constant([[1.5, 3.5]]),
    }
    expected = sum(
        -np.log(sigmoid(u[i] @ v[5]))
        - 1.5 * np.log(sigmoid(-u[i] @ v[7]))
        - 3.5 * np.log(sigmoid(-u[i] @ v[8]))
        for i in (2, 3)
    )
    np.testing.assert_allclose(model.compute_loss(batch), expected / 3, rtol=1e-5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_counts_are_those_of_the_log_not_of_the_walks(baskets, walked):
    log, data = baskets.load("item2vec"), walked.load("item2vec")
    assert data.has_walks and not log.has_walks
    assert data.items.ids.tolist() == log.items.ids.tolist()
    np.testing.assert_array_equal(data.item_counts, log.item_counts)
    np.testing.assert_array_equal(data.item_counts, np.bincount(data.events.item, minlength=62)[2:])
    for name in ("user", "item", "timestamp"):
        np.testing.assert_array_equal(getattr(data.events, name), getattr(log.events, name))
    assert len(data.events) == 120 * 7 and data.walks.nrows() == 20 * 60
    np.testing.assert_array_equal(log.walks.flat_values.numpy().sum(), log.events.item.sum())
    # The walks have other counts, or this test could not fail; negatives are drawn from theirs.
    model = registry.load("item2vec").Model(registry.load("item2vec").HyperParameters(**TOY), data)
    counts = model.skip_gram(data, 0).counts[2:]
    assert counts.sum() == data.walks.flat_values.shape[0] > 10_000
    assert (
        np.argsort(-counts, kind="stable") != np.argsort(-data.item_counts, kind="stable")
    ).any()
    # A model that has learnt nothing falls back on popularity: that of the log.
    overall = registry.load("item2vec").Model(
        registry.load("item2vec").HyperParameters(**TOY, segment=""), data
    )
    untrained = Evaluation(data, data.queries("test")).of(overall)()
    popularity = Evaluation(log, log.queries("test")).of(model)()
    assert (
        untrained["lift_ndcg_10"] == 0.0
        and untrained["hr_10"] == popularity["popularity_hr_10"] > 0
    )


def test_walks_teach_the_blocks(walked):
    data = walked.load("item2vec")
    model = train("item2vec", data, {**TOY, "epochs": 5, "window": 3})
    values = Evaluation(data, data.queries("test")).of(model)()
    assert values["hr_10"] > 0.8 and values["lift_ndcg_10"] > 0.15, values


@pytest.mark.thorough
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(baskets, tmp_path):
    """The learning rate, too, goes on where it was."""
    data, module = baskets.load("item2vec"), registry.load("item2vec")

    class Interrupted(Exception):
        pass

    class Evaluating(Evaluation):
        calls, limit = 0, 10**9

        def of(self, model):
            evaluate = super().of(model)

            def interruptible():
                self.calls += 1
                if self.calls > self.limit:
                    raise Interrupted
                return evaluate()

            return interruptible

    def run(folder, limit):
        tf.keras.utils.set_random_seed(5)
        parameters = module.HyperParameters(**{**TOY, "epochs": 4, "patience": 50})
        evaluation = Evaluating(data, data.queries("valid"))
        evaluation.limit = limit
        loop = TrainingLoop(parameters, data, seed=5, evaluation=evaluation, checkpoint_dir=folder)
        module.Model(parameters, data).learn(loop)
        return loop

    whole = run(None, 10**9)
    with pytest.raises(Interrupted):
        run(str(tmp_path), 2)
    resumed = run(str(tmp_path), 10**9)
    assert len(whole.history) == len(resumed.history) == 4
    for left, right in zip(whole.history, resumed.history, strict=True):
        np.testing.assert_allclose(left["loss"], right["loss"], rtol=1e-4)
        np.testing.assert_allclose(left["ndcg_10"], right["ndcg_10"], atol=1e-3)


def test_training_data_of_another_kind_has_no_sets(toy_data):
    """A row of one event is a set of one: nothing to learn from, and it is said."""
    data = toy_data("event", 0.0)
    other = TrainingData(data.graph, data.schema, data.splits)
    with pytest.raises(DataError, match="two different items"):
        registry.load("item2vec").Model(
            registry.load("item2vec").HyperParameters(**TOY), other
        ).skip_gram(other, 0)
