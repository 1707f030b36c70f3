"""Yahoo's news: the contract, and what its paper says of articles and users, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.contract.query import Query
from models.industry import articles, triplets, yahoo_news
from models.industry.displays import Displays, moments
from models.inputs.data import Entities
from models.inputs.event_log import EventLog
from models.inputs.schema import Field
from models.names.errors import ConfigError, DataError
from models.names.label import WEIGHT
from tests.models import toy
from tests.models.contract import RetrieveContract, strings
from tests.models.served import PROTOCOLS, served

TOY = {
    "epochs": 8,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "article_dim": 24,
    "units": 16,
    "article_epochs": 40,
    "article_batch_size": 20,
    "article_learning_rate": 0.01,
    "similarity": 10.0,
    "duplicate_cosine": None,
}
FRESH = "fresh é"  # stands in the table of items and nowhere else


def write_newspaper(folder, randomness, described=True):
    """The toy log, whose articles have a desk for a category and a word of their own."""
    toy.write_log(folder, randomness)
    lines = ["item_id:token\tmovie_title:token_seq\tdesk:token"]
    for n in range(toy.BLOCKS * toy.ITEMS_A_BLOCK):
        block = n // toy.ITEMS_A_BLOCK
        words = f"{'red blue green grey'.split()[block]} paper {'of by in at'.split()[block]} w{n}"
        lines.append(f"item {n} é世\t{words}\tdesk {block}")
    lines.append(f"{FRESH}\tred paper unheard of\tdesk 0")
    (folder / "toy.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


class TestYahooNews(RetrieveContract):
    name = "yahoo_news"
    hyper_parameters = TOY

    @pytest.fixture(scope="class", autouse=True)
    def newspapers(self, tmp_path_factory):
        type(self).folder = tmp_path_factory.mktemp("newspapers")

    def toy(self, toy_data, randomness):
        return toy.build(self.folder / str(randomness), randomness, "event", write=write_newspaper)

    def test_a_fresh_article_is_recommended_by_its_words(self, trained):
        """Train has not seen it; its vector is what `encode_article` makes of its text."""
        title = tf.constant(["red paper unheard of", "", "unheard"])
        told = trained.signatures["encode_article"](item_title=title)
        assert told["known"].numpy().tolist() == [True, False, False]
        vector = told["embedding"].numpy()
        assert np.abs(vector[0]).max() > 0 and not vector[1:].any()
        index = trained.data.item_table.lookup(tf.constant([FRESH]))
        assert int(index[0]) >= trained.data.items.embedding_rows
        np.testing.assert_allclose(trained.model.item_vectors(index), vector[:1], atol=1e-6)
        # User 0 is of the first block, all of whose titles say red.
        asked = self.ask(trained, ["user 0"], k=99)
        user = trained.signatures["embed"](user_id=tf.constant(["user 0"]), history=strings([[]]))[
            "embedding"
        ]
        place = asked["item_id"][0].tolist().index(FRESH.encode())
        assert place < 10
        np.testing.assert_allclose(asked["score"][0, place], vector[0] @ user[0].numpy(), rtol=1e-4)

    def test_a_state_is_updated_step_by_step(self, trained):
        """From nothing on, as many steps as articles: the state of the whole history."""
        history = ["item 3 é世", "item 20 é世", FRESH, "item 3 é世"]
        index = trained.data.item_table.lookup(tf.constant(history))
        state = tf.zeros([1, TOY["units"]])
        for article in trained.model.item_vectors(index):
            after = trained.signatures["update_state"](state=state, embedding=article[tf.newaxis])
            state = after["state"]
        whole = trained.signatures["embed"](
            user_id=tf.constant(["nobody"]), history=strings([history])
        )
        np.testing.assert_allclose(after["embedding"], whole["embedding"], atol=1e-5)
        # An article without words is none.
        nothing = tf.zeros([1, TOY["article_dim"]])
        same = trained.signatures["update_state"](state=state, embedding=nothing)
        np.testing.assert_array_equal(same["state"], state)

    def test_an_article_of_today_is_answered_over_both_protocols(self, trained):
        """Its words are encoded, read, and what is near is retrieved: as if it were in the table.

        FRESH is, with the same words; `retrieve` leaves nothing out, so what was read is on top.
        """
        words, nothing = ["red paper unheard of"], [[0.0] * TOY["units"]]
        expected = trained.signatures["embed"](
            user_id=tf.constant(["nobody"]), history=strings([[FRESH]])
        )["embedding"]
        best = trained.signatures["retrieve"](embedding=expected, k=tf.constant(5))
        items = [item.decode() for item in best["item_id"].numpy()[0]]
        with served(trained.folder, "yahoo_news") as server:
            for protocol in PROTOCOLS:
                with server.client(protocol) as client:
                    article = client.predict({"item_title": words}, "encode_article")
                    reader = client.predict(
                        {"state": nothing, "embedding": article["embedding"]}, "update_state"
                    )
                    found = client.predict({"embedding": reader["embedding"], "k": 5}, "retrieve")
                    asked = client.recommend("nobody", [FRESH], k=5)
                assert article["known"] == [True]
                np.testing.assert_allclose(reader["embedding"], expected, atol=1e-5)
                assert found["item_id"] == [items]
                np.testing.assert_allclose(found["score"], best["score"], rtol=1e-4)
                assert asked.strategy == "fold-in"
                assert [item for item, _ in asked.items][:4] == [
                    item for item in items if item != FRESH
                ][:4]
            server.run_examples("encode_article", "update_state", "retrieve")

    def test_the_bias_of_places_is_not_served(self, trained):
        model = trained.model
        history = tf.ragged.constant([[3, 9], [20]], dtype=tf.int64)
        query = Query(tf.constant([1, 1]), tf.constant([False, False]), history)
        before = model.score_items(query, model.catalogue())
        model.position_bias.assign(tf.fill(model.position_bias.shape, 7.0))
        try:
            np.testing.assert_array_equal(model.score_items(query, model.catalogue()), before)
        finally:
            model.position_bias.assign(tf.zeros_like(model.position_bias))


# Two titles have words x and y, or y and z; one has none. The last two are not in train: the words
# of one are x and one that train has not; of the other the first is unknown too.
A, B, EMPTY, COLD, STRANGE = range(2, 7)
TITLES = tf.ragged.constant([[], [], [2, 3], [3, 4, 3], [], [1, 2], [1]], dtype=tf.int64)
DESKS = tf.constant([0, 0, 2, 2, 3, 0, 3], tf.int64)


def newspaper(log=None):
    items = Entities(
        np.array([b"a", b"b", b"empty", b"cold", b"strange"], object),
        3,
        {"item_title": TITLES, "item_desk": DESKS},
        {"item_title": 5, "item_desk": 4},
        {"item_title": [b"x", b"y", b"z"], "item_desk": [b"home", b"sport"]},
    )
    fields = (
        Field("item_desk", "item", "categorical", tf.string, False, (b"home", b"sport")),
        Field("item_title", "item", "text", tf.string, False, (b"x", b"y", b"z")),
    )
    return SimpleNamespace(items=items, item_fields=fields, events=log)


def model_of(log=None, **settings):
    own = {**TOY, "article_dim": 2, "units": 1, "positions": 3, "corruption": 0.25, **settings}
    return yahoo_news.YahooNews(yahoo_news.HyperParameters(**own), newspaper(log))


def test_words_are_distinct_and_the_commonest_are_kept():
    # y is in both articles of train, x and z in one: of two words y and x are kept, by name.
    words = articles.Words(newspaper(), 2)
    assert words.tokens == (b"x", b"y")
    assert words.of_items.to_list() == [[], [], [2, 3], [3], [], [2], []]
    assert articles.Words(newspaper(), 9).of_items[B].numpy().tolist() == [3, 4]
    data = newspaper()
    data.item_fields = data.item_fields[:1]
    with pytest.raises(DataError, match="the text of items; required.*received: item_desk"):
        articles.Words(data, 9)


def test_the_words_of_two_texts_are_one_vocabulary():
    # The abstract calls y its first word and x its second: of a they add nothing but w.
    data = newspaper()
    data.items.features["item_abstract"] = tf.ragged.constant(
        [[], [], [2, 3, 4]] + 4 * [[]], dtype=tf.int64
    )
    abstract = Field("item_abstract", "item", "text", tf.string, False, (b"y", b"x", b"w"))
    data.item_fields = (abstract, *data.item_fields)
    words = articles.Words(data, 9)
    assert words.tokens == (b"w", b"x", b"y", b"z")
    assert words.of_items[A].numpy().tolist() == [2, 3, 4]


def test_an_article_is_encoded_by_a_constant_decay_and_an_empty_one_is_zero():
    """W x = (ln 3, 0) + (ln 3, 4 ln 3) of x and y, b = (0, -ln 3); (1 - p) = 3/4 of it is added.

    sigmoid(1.5 ln 3) = 3^1.5 / (1 + 3^1.5) = .83861, less 1/2 of b = 0; sigmoid(3 ln 3 - ln 3)
    = 9/10 less 1/4.
    """
    model, log3 = model_of(), np.log(3)
    rows = [[0, 0], [0, 0], [log3, 0], [log3, 4 * log3], [9, 9]]
    model.encoder.words.set_weights([np.float32(rows)])
    model.encoder.bias.assign([0, -log3])
    vectors = model.encoder(tf.ragged.constant([[2, 3], []], dtype=tf.int64))
    np.testing.assert_allclose(vectors, [[0.33861, 0.65], [0, 0]], atol=1e-5)
    # One word of two is read in training, so half of both: sigmoid(.75 ln 3), sigmoid(.5 ln 3).
    short = articles.ArticleEncoder((b"x", b"y", b"z"), model_of(article_length=1).hyper_parameters)
    short.set_weights(model.encoder.get_weights())
    vectors = short(tf.ragged.constant([[2, 3], []], dtype=tf.int64))
    np.testing.assert_allclose(vectors, [[0.19508, 0.38397], [0, 0]], atol=1e-5)
    # In training nothing decays: y is hidden, which leaves (3/4 - 1/2, 1/4 - 1/4) of x.
    words, kept = tf.constant([[2, 3, 0], [0, 0, 0]], tf.int64), tf.constant([[True, False, True]])
    hidden = model.encoder.corrupted(words, kept)
    np.testing.assert_allclose(hidden, [[0.25, 0], [0, 0]], atol=1e-6)


def test_the_loss_of_a_triplet_by_hand():
    """W' = 0 and b' = (ln 3, 0, 0): y = (3/4, 1/2, 1/2), whatever h.

    L_R of {x, y} is - ln 3/4 - 2 ln 1/2, that of {y, z} - ln 1/4 - 2 ln 1/2. h of x is (1/4, 0)
    and of y (1/4, 1/4), where all else is hidden: with h_0 = h_1 that of x and h_2 that of y,
    h_0 . h_2 - h_0 . h_1 = 1/16 - 1/16 = 0, and alpha = 10 counts ln 2.
    """
    model, log3 = model_of(), np.log(3)
    rows = [[0, 0], [0, 0], [log3, 0], [log3, log3], [9, 9]]
    model.encoder.words.set_weights([np.float32(rows)])
    model.encoder.decoded.set_weights([np.zeros([5, 2], np.float32)])
    model.encoder.decoded_bias.set_weights([np.float32([[5], [5], [log3], [0], [0]])])
    step = articles.Articles(model.hyper_parameters, newspaper(), model.encoder, TITLES)
    inputs = {
        "words": tf.constant([[[2, 3], [2, 3], [3, 4]]], tf.int64),
        "kept": tf.constant([[[True, False], [True, False], [True, False]]]),
        "there": tf.constant([True]),
    }
    expected = -2 * np.log(3 / 4) - np.log(1 / 4) - 6 * np.log(1 / 2)
    loss = step.compute_loss(inputs)
    np.testing.assert_allclose(loss, expected + 10 * np.log(2), rtol=1e-5)
    alone = step.compute_loss({**inputs, "there": tf.constant([False])})
    np.testing.assert_allclose(alone, expected, rtol=1e-5)


def test_triplets_are_of_one_category_and_of_another():
    # Articles 2, 5 and 6 are of category 2, 4 and 7 of 3; 3 is alone in its own, 8 has none.
    category = np.array([0, 0, 2, 4, 3, 2, 2, 3, 0])
    drawn, article = triplets.Triplets(category), tf.repeat(tf.range(2, 9, dtype=tf.int64), 200)
    same, other, there = (each.numpy() for each in drawn.draw(article, tf.constant([1, 2])))
    own = article.numpy()
    pairs = {(int(a), int(b)) for a, b in zip(own[there], same[there])}
    assert pairs == {(a, b) for a in (2, 5, 6) for b in (2, 5, 6) if a != b} | {(4, 7), (7, 4)}
    apart = {(int(a), int(b)) for a, b in zip(own[there], other[there])}
    assert apart == {(a, b) for a in (2, 5, 6) for b in (3, 4, 7)} | {
        (a, b) for a in (4, 7) for b in (2, 3, 5, 6)
    }
    assert set(own[~there]) == {3, 8}
    np.testing.assert_array_equal(same[~there], own[~there])
    np.testing.assert_array_equal(other[~there], own[~there])


def test_the_category_is_named_or_the_first():
    assert triplets.category_of(newspaper(), None).tolist() == DESKS.numpy().tolist()
    assert not triplets.category_of(newspaper(), "").any()
    with pytest.raises(ConfigError, match="one value, which are item_desk; received 'item_dsk'"):
        triplets.category_of(newspaper(), "item_dsk")


def test_the_articles_of_train_are_learnt_with_a_share_of_their_words_hidden():
    model = model_of()
    step = articles.Articles(model.hyper_parameters, newspaper(), model.encoder, TITLES)
    batches = step.batches(newspaper(), 1, 0)
    assert (batches.rows, batches.steps) == (3, 1)
    hidden, count = 0, 0
    for batch in batches.dataset.take(200):
        words, kept = batch["words"].numpy(), batch["kept"].numpy()
        rows = {tuple(sorted(row[row > 0])) for row in words[:, 0]}
        assert rows == {(2, 3), (3, 3, 4), ()}
        hidden += int((~kept & (words > 0)).sum())
        count += int((words > 0).sum())
    # Three standard errors of a share of a quarter.
    assert abs(hidden / count - 0.25) < 3 * (0.25 * 0.75 / count) ** 0.5
    again = next(iter(step.batches(newspaper(), 1, 199).dataset))
    np.testing.assert_array_equal(batch["kept"], again["kept"])


def test_of_a_long_text_each_word_is_read_as_often():
    """Two of three words, y, z and y: each pair of places in a third of the draws."""
    model = model_of(article_length=2)
    step = articles.Articles(model.hyper_parameters, newspaper(), model.encoder, TITLES)
    pairs = [
        tuple(sorted(row))
        for batch in step.batches(newspaper(), 1, 0).dataset.take(200)
        for row in batch["words"][:, 0].numpy().tolist()
    ]
    assert {len(pair) for pair in pairs} == {2}
    assert pairs.count((2, 3)) == 200  # no longer than what is read: whole each time
    assert pairs.count((3, 3)) + pairs.count((3, 4)) == 200
    # Four standard errors.
    assert abs(pairs.count((3, 3)) - 200 / 3) < 4 * (200 * 2 / 9) ** 0.5


def test_a_state_by_hand():
    """All weights 0 but b of the user: z = 1/2 and a candidate of 0 halve the state a step.

    From h_0 = .8 on: .4, .2; u = tanh(2 h). An article without words is no step.
    """
    model = model_of()
    vectors = [[0, 0], [0, 0], [1, 2], [3, 4], [0, 0], [5, 6], [0, 0]]
    model.articles.set_weights([np.float32(vectors)])
    model.gru.set_weights([np.zeros_like(weight) for weight in model.gru.get_weights()])
    model.user.set_weights([np.float32([[2, 0]]), np.zeros(2, np.float32)])
    model.first_state.assign([0.8])
    history = tf.ragged.constant([[], [A], [A, EMPTY, COLD], [EMPTY]], dtype=tf.int64)
    query = Query(tf.ones([4], tf.int64), tf.zeros([4], bool), history)
    expected = [[np.tanh(1.6), 0], [np.tanh(0.8), 0], [np.tanh(0.4), 0], [np.tanh(1.6), 0]]
    np.testing.assert_allclose(model.query_embedding(query), expected, rtol=1e-5)
    assert model.answers(query).numpy().tolist() == [False, True, True, False]


def log_of(shown=None):
    """User 2 clicks a, then a display with b in the middle and cold, at one time; 3 clicks b."""
    columns = {
        "user": np.array([2, 2, 2, 3]),
        "item": np.array([A, B, COLD, B]),
        "timestamp": np.array([10, 20, 20, 30]),
        "row": np.arange(4),
        "session": np.zeros(4, np.int64),
    }
    nan = np.full(4, np.nan, np.float32)
    return EventLog(**columns, rating=nan, label=nan, shown=shown)


SHOWN = tf.ragged.constant(
    [[], [STRANGE, B, A, 1, EMPTY], [STRANGE, B, A, 1, EMPTY], [B]], dtype=tf.int64
)


def test_clicks_at_one_time_do_not_know_one_another():
    start, weight = moments(log_of())
    assert start.tolist() == [0, 1, 1, 3] and weight.tolist() == [1, 0.5, 0.5, 1]
    log = log_of()
    log.timestamp[:] = 0  # nobody knows: all have an order
    assert moments(log)[0].tolist() == [0, 1, 2, 3]


def test_what_was_on_display_and_never_clicked():
    """Places 1 to 5 as 1, 2, 3, 3, 3; a was clicked before, 1 is not of the catalogue."""
    displays = Displays(log_of(SHOWN), 3)
    # The last display has nothing but the click, the first event none.
    assert displays.clicks.tolist() == [1, 2] and displays.place.tolist() == [2, 0]
    found = displays.others(tf.constant([1, 0]))
    assert found["others"].numpy().tolist() == 2 * [[STRANGE, EMPTY]]
    assert found["places"].numpy().tolist() == 2 * [[1, 3]]


def test_a_batch_has_what_was_read_before_and_what_was_not_clicked():
    log = log_of(SHOWN)
    batch = next(iter(model_of(log).batches(newspaper(log), 0, 0).dataset))
    rows = {int(item): number for number, item in enumerate(batch["item"])}
    assert set(rows) == {B, COLD}
    of_b = {name: column[rows[B]].numpy().tolist() for name, column in batch.items()}
    expected = {"item": B, "history": [A], WEIGHT: 0.5, "place": 2}
    assert of_b == {**expected, "others": [STRANGE, EMPTY], "places": [1, 3]}
    # Without displays every event is a target, and the others are drawn from what train has.
    log = log_of(tf.RaggedTensor.from_row_lengths(tf.zeros([0], tf.int64), [0] * 4))
    batch = next(iter(model_of(log).batches(newspaper(log), 0, 0).dataset))
    history = dict(zip(batch["item"].numpy().tolist(), batch["history"].numpy().tolist()))
    assert history[A] == [0] and history[COLD] == [A] and len(batch["item"]) == 4
    assert not batch["place"].numpy().any() and not batch["places"].numpy().any()
    of_2 = batch["others"].numpy()[batch["item"].numpy() != B]
    assert (of_2 == EMPTY).all()  # the only article of train that user 2 has not had


def test_the_loss_of_clicks_by_hand():
    """U = (1, 0) exactly, where a state of much is read; R is the first half of a vector.

    Of b, 1, beside strange, 3, and nothing, 0, from places 2, 1 and 3: margins 1 - 3 + B_21 and
    1 - 0 + B_23, whose mean counts a half; cold, at no place, has no B.
    """
    model = model_of()
    vectors = [[0, 0], [0, 0], [9, 9], [1, 5], [0, 0], [2, 5], [3, 5]]
    model.articles.set_weights([np.float32(vectors)])
    model.user.set_weights([np.zeros([1, 2], np.float32), np.float32([99, 0])])
    bias = np.zeros([3, 3], np.float32)
    bias[1, 0], bias[1, 2], bias[0] = 0.5, -2, 50
    model.position_bias.assign(bias)
    inputs = {
        "item": tf.constant([B, COLD], tf.int64),
        "history": tf.constant([[A], [A]], tf.int64),
        "others": tf.constant([[STRANGE, EMPTY], [STRANGE, 0]], tf.int64),
        "place": tf.constant([2, 0], tf.int64),
        "places": tf.constant([[1, 3], [1, 0]], tf.int64),
        WEIGHT: tf.constant([0.5, 1.0]),
    }
    loss = np.log1p(np.exp([1.5, 1.0, 1.0]))
    expected = (0.5 * (loss[0] + loss[1]) / 2 + loss[2]) / 2
    with tf.GradientTape() as tape:
        found = model.compute_loss(inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    learnt = {id(variable) for variable in model.trainable_variables}
    assert id(model.articles.embeddings) not in learnt and id(model.encoder.bias) not in learnt
    # B_21 alone: - weight / (2 rows x 2 others) x sigmoid(1.5).
    slope = tf.convert_to_tensor(tape.gradient(found, model.position_bias)).numpy()
    np.testing.assert_allclose(slope[1, 0], -0.125 / (1 + np.exp(-1.5)), rtol=1e-5)
    assert not slope[0].any() and not slope[2].any()


def test_duplicates_are_left_out_walking_down():
    # The second is near the first, the third near the second alone, the fourth near the third.
    near = np.eye(4, dtype=bool)
    for pair in ((0, 1), (1, 2), (2, 3)):
        near[pair] = near[pair[::-1]] = True
    none = np.eye(4, dtype=bool)
    kept = yahoo_news.without_duplicates(tf.constant(np.stack([near, none, ~none | none])))
    expected = [[True, False, True, False], [True] * 4, [True, False, False, False]]
    assert kept.numpy().tolist() == expected


def test_a_duplicate_is_not_answered():
    """Cosines with the best, cold: a .96, b 1 of another length; strange is at right angles."""
    model = model_of(duplicate_cosine=0.95)
    vectors = [[0, 0], [0, 0], [0.28, 0.96], [0, 2], [0, 0], [0, 1], [3, 0]]
    model.articles.set_weights([np.float32(vectors)])
    position = tf.constant([[COLD, STRANGE, A, B]]) - 2
    score = tf.constant([[4.0, 3.0, 2.0, 1.0]])
    found = model.rerank(None, position, score).numpy()
    assert found.tolist() == [[4.0, 3.0, -np.inf, -np.inf]]
    assert model_of().rerank(None, position, score) is score
