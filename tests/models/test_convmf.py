"""ConvMF: the contract, the closed-form updates, and the texts."""

import numpy as np
import pytest
import tensorflow as tf

from models.cnn.convmf import ConvMF, HyperParameters, Ratings, with_mean
from models.cnn.item_text import ItemText
from models.names.errors import ConfigError, DataError
from models.names.features import DOCUMENT, TEXT
from models.names.label import Label
from tests.models.score_contract import RATING, ScoreContract

# l2_items is small against the 20 ratings an item has; u . v with 8 factors then finds mood,
# quality and block.
TOY = {
    "epochs": 12,
    "factors": 8,
    "l2_users": 1.0,
    "l2_items": 2.0,
    "network_epochs": 2,
    "word_dimension": 8,
    "kernels": 8,
    "units": 16,
}
TOY |= {"length": 40, "max_share": 1.0}


class TestConvMF(ScoreContract):
    name = "convmf"
    hyper_parameters = TOY
    label = RATING

    def test_new_item_is_scored_by_its_text(self, trained):
        inputs = {
            name: tf.convert_to_tensor(value)
            for name, value in trained.data.parse(tf.constant(trained.test[:6], tf.string))[
                0
            ].items()
        }
        model, item = trained.model, inputs["item_id"]
        new = {
            **inputs,
            "item_id": tf.ones_like(item),
            "item_title": tf.cast(
                tf.gather(trained.data.items.features["item_title"].to_tensor(), item), tf.int32
            ),
        }
        text = model.network(model._text.read(new))
        expected = tf.reduce_sum(
            tf.gather(model.user_factors.embeddings, inputs["user_id"]) * text, axis=1
        )
        np.testing.assert_allclose(model.score_rows(new), expected, atol=1e-5)
        # Nothing of a known item hangs on the text of the request, and without any the mean item
        # stands in.
        np.testing.assert_allclose(
            model.score_rows({**inputs, "item_title": new["item_title"]}),
            model.score_rows(inputs),
            atol=1e-6,
        )
        silent = {name: tf.zeros_like(value) for name, value in inputs.items()} | {
            "user_id": inputs["user_id"]
        }
        mean = tf.reduce_mean(model.item_factors.embeddings[2:], axis=0)
        expected = tf.linalg.matvec(
            tf.gather(model.user_factors.embeddings, inputs["user_id"]), mean
        )
        np.testing.assert_allclose(model.score_rows(silent), expected, atol=1e-5)

    def test_factors_are_the_best_given_the_rest(self, trained):
        """V solves (sum u u' + l2 I) v = sum r u + l2 s, and likewise U.

        That holds for every item and user of train.
        """
        model, log = build(trained.data), trained.data.events
        text = model.read_texts().numpy()
        # Before the first round V = s.
        np.testing.assert_allclose(model.item_factors.embeddings, text, atol=1e-6)
        model.update_factors()
        users, items = model.user_factors.embeddings.numpy(), model.item_factors.embeddings.numpy()
        for position in (2, 3, len(users) - 1):
            rated = log.item[log.user == position]
            gradient = (
                text[rated].T @ (text[rated] @ users[position] - log.label[log.user == position])
                + TOY["l2_users"] * users[position]
            )
            np.testing.assert_allclose(gradient, 0, atol=2e-3)
        for position in (2, 5, len(items) - 1):
            raters = log.user[log.item == position]
            error = users[raters] @ items[position] - log.label[log.item == position]
            gradient = users[raters].T @ error + TOY["l2_items"] * (
                items[position] - text[position]
            )
            np.testing.assert_allclose(gradient, 0, atol=2e-3)
        np.testing.assert_allclose(items[:2], np.tile(items[2:].mean(axis=0), (2, 1)), atol=1e-5)

    def test_text_prior_from_all_to_nothing(self, trained):
        """With lambda_V without bound V is s.

        With none V is what the ratings alone say (PMF's update without a prior).
        """
        model = build(trained.data, l2_items=1e7)
        model.update_factors()
        np.testing.assert_allclose(
            model.item_factors.embeddings[2:], model.read_texts()[2:], atol=1e-3
        )
        model = build(trained.data, l2_items=1e-3, factors=2)
        model.update_factors()
        log, users = trained.data.events, model.user_factors.embeddings.numpy()
        for item in (2, 3):
            rows = log.item == item
            best = np.linalg.lstsq(users[log.user[rows]], log.label[rows], rcond=None)[0]
            np.testing.assert_allclose(
                model.item_factors.embeddings[item], best, rtol=0.05, atol=0.05
            )

    def test_the_network_is_fitted_to_the_factors(self, trained):
        model = build(trained.data)
        model.item_factors.embeddings.assign(tf.fill(model.item_factors.embeddings.shape, 0.5))
        inputs = {"item": tf.constant([2, 3, 4], tf.int64)}
        expected = np.mean(
            (0.5 - model.network(tf.gather(model._text.words, inputs["item"])).numpy()) ** 2
        )
        np.testing.assert_allclose(model.compute_loss(inputs), expected, rtol=1e-5)
        with tf.GradientTape() as tape:
            loss = model.compute_loss(inputs)
        assert not any(
            "users" in weight.name or "items" in weight.name for weight in model.trainable_weights
        )
        assert all(
            gradient is not None for gradient in tape.gradient(loss, model.trainable_weights)
        )

    def test_item_weights_are_roots_with_mean_one(self, trained):
        model = build(trained.data, weigh_items=True)
        counts = np.bincount(trained.data.events.item, minlength=len(model._weight))[2:]
        np.testing.assert_allclose(
            model._weight[2:], np.sqrt(counts) / np.sqrt(counts).mean(), rtol=1e-5
        )
        np.testing.assert_allclose(build(trained.data)._weight, 1.0)


def build(data, **changes):
    tf.keras.utils.set_random_seed(1)
    return ConvMF(HyperParameters(**{**TOY, **changes}), data)


def test_clicks_are_refused():
    class Clicks:
        label, label_mean, label_range = Label(column="rating", threshold=4.0), 0.5, (0.0, 1.0)

    with pytest.raises(ConfigError, match="required: a label without a threshold"):
        ConvMF(HyperParameters(), Clicks())


def test_ridge_regression_solved_by_hand():
    # Row 0 has values 2 and 4 of the factors (1, 0) and (1, 1); ridge 1, prior (0, 2):
    # [[1+1+1, 1], [1, 1+1]] x = (2 + 4 + 0, 4 + 2) = (6, 6)  ->  x = (6/5, 12/5). Row 1 has none:
    # its prior. Row 2 has 3 of (0, 2):
    # ridge 2, prior 0: [[2, 0], [0, 4 + 2]] x = (0, 6)  ->  (0, 1).
    factors = tf.constant([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    ratings = Ratings(np.array([2, 0, 0]), np.array([2, 0, 1]), np.array([3.0, 2.0, 4.0]), 3)
    solved = ratings.solve(
        factors, tf.constant([1.0, 5.0, 2.0]), tf.constant([[0.0, 2.0], [7.0, -7.0], [0.0, 0.0]])
    )
    np.testing.assert_allclose(solved, [[1.2, 2.4], [7.0, -7.0], [0.0, 1.0]], atol=1e-5)
    np.testing.assert_allclose(
        with_mean(tf.constant([[9.0], [9.0], [1.0], [3.0]])), [[2.0], [2.0], [1.0], [3.0]]
    )


def test_ridge_regression_of_many_rows_is_numpys():
    generator = np.random.default_rng(0)
    rows, others, values = (
        generator.integers(0, 300, 4000),
        generator.integers(0, 50, 4000),
        generator.normal(size=4000),
    )
    factors, prior = generator.normal(size=(50, 6)), generator.normal(size=(300, 6))
    solved = Ratings(rows, others, values, 300).solve(
        tf.constant(factors, tf.float32), tf.fill([300], 0.7), tf.constant(prior, tf.float32)
    )
    for row in range(300):
        own, value = factors[others[rows == row]], values[rows == row]
        expected = np.linalg.solve(own.T @ own + 0.7 * np.eye(6), own.T @ value + 0.7 * prior[row])
        np.testing.assert_allclose(solved[row], expected, atol=2e-4)


class Texts:
    """What `ItemText` reads of the data: three items, and one that train has not; two columns."""

    class items:  # noqa: N801
        train_count = 3
        embedding_rows = 5
        features = {
            "item_title": tf.ragged.constant([[], [], [2, 1, 3], [2], [], [3]], tf.int64),
            "item_plot": tf.ragged.constant([[], [], [2, 3], [2, 2, 4], [2], []], tf.int64),
        }

    def __init__(self, *names):
        from models.inputs.schema import Field

        words = {"item_title": (b"the", b"cat"), "item_plot": (b"the", b"dog", b"cat")}
        self.fields = [Field(name, "item", TEXT, tf.string, False, words[name]) for name in names]


def test_words_are_chosen_by_the_texts():
    # Texts: "the ? cat the dog", "the the the cat", "the". `the` is in 3 of 3, `cat` in 2, `dog` in
    # 1; `?` is unknown and goes. The fourth, "cat", is of an item that train has not: no say.
    text = ItemText(Texts("item_title", "item_plot"), 10, 10, 0.9)
    assert text.tokens == (b"cat", b"dog")
    assert text.words[:, :3].numpy().tolist() == [[0] * 3, [0] * 3, [2, 3, 0], [2, 0, 0], [0] * 3]
    # One word of the vocabulary; and the cut comes before the choice: the first four words are "the
    # ? cat the" and "the the the cat".
    assert ItemText(Texts("item_title", "item_plot"), 10, 1, 1.0).tokens == (b"the",)
    assert ItemText(Texts("item_title", "item_plot"), 4, 10, 0.9).words[2:].numpy().tolist() == [
        [2, 0, 0, 0],
        [2, 0, 0, 0],
        [0] * 4,
    ]
    # A request's text is read alike.
    given = {"item_title": tf.constant([[3, 1, 0]]), "item_plot": tf.constant([[3, 4, 2]])}
    assert text.read(given)[:, :4].numpy().tolist() == [[2, 3, 2, 0]]


def test_items_without_any_text_are_refused():
    with pytest.raises(
        DataError, match="required: a column of the table items that data.schema says is text"
    ):
        ItemText(Texts(), 10, 10, 0.5)


def test_only_texts_of_items_are_fields():
    from models.names.features import DOCUMENTS, Feature

    reads = ConvMF.reads
    assert [reads(feature) for feature in DOCUMENTS] == [False, True] and DOCUMENTS[
        1
    ].kind == DOCUMENT
    assert (
        reads(Feature("item_plot", "item", TEXT))
        and not reads(Feature("user_bio", "user", TEXT))
        and not reads(Feature("item_year", "item", "numeric"))
    )
