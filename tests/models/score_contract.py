"""What every `score` model must do.

A model's own test subclasses `ScoreContract` and names itself.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.contract import tasks
from models.measures import pointwise
from models.names import registry
from models.names.label import Label
from tests.models.contract import Contract, assert_takes_every_weight, learn
from tests.models.toy import NEW_ITEM, NEW_USER, example

CLICK, RATING = Label(column="rating", threshold=4.0), Label(column="rating")


def train(model_name, toy, hyper_parameters, seed=3, enough=None):
    """Trains as the Trainer does, without writing anything; where it is told, until `enough`.

    Returns:
        The model and its data.
    """
    data = toy.load_once(model_name)
    evaluation = tasks.of(model_name, toy.label).evaluation(data, "valid")
    return learn(model_name, data, evaluation, hyper_parameters, seed, enough), data


def raw_columns(data, examples):
    """The raw values of serialized rows, as a request to `score` gives them."""
    rows = tf.io.parse_example(
        tf.constant(examples, tf.string),
        {field.name: tf.io.VarLenFeature(field.dtype) for field in data.fields},
    )
    columns = {}
    for field in data.fields:
        ragged = tf.RaggedTensor.from_sparse(rows[field.name])
        default = "" if field.dtype == tf.string else float("nan")
        ragged = ragged if field.dtype == tf.string else tf.cast(ragged, tf.float32)
        dense = (
            ragged.to_tensor(default)
            if field.listed
            else ragged.to_tensor(default, shape=[None, 1])[:, 0]
        )
        columns[field.name] = dense
    rows = tf.io.parse_example(tf.constant(examples, tf.string), data.histories.parsing())
    return columns | {name: rows[name].to_tensor() for name in data.history_names}


class ScoreContract(Contract):
    """Subclass, and set `name`, `hyper_parameters` and what they must reach.

    The hyper-parameters must learn the toy ratings in seconds.

    Attributes:
        label: clicks, or ratings.
        kind: example kind, None for the registry's.
        least_auc: clicks: what must be reached on learnable data; 0.95 needs the interaction of
            user and item.
        most_error: ratings: the same, as RMSE over the constant predictor's.
    """

    label = CLICK
    least_auc = 0.95
    most_error = 0.5

    @pytest.fixture(scope="class")
    def trained(self, toy_data, tmp_path_factory):
        """The model trained on the learnable ratings, exported and loaded again.

        The tables know a user and an item more than train does.
        """
        place = tmp_path_factory.mktemp(self.name)
        toy = toy_data(registry.get(self.name).kind, 0.0, self.label)
        model, data = train(
            self.name, toy.with_newcomers(), self.hyper_parameters, enough=self.enough
        )
        folder = str(place / "1")
        tasks.of(self.name, self.label).exporter(model, data).export(folder)
        signatures = tf.saved_model.load(folder).signatures
        return SimpleNamespace(
            data=data,
            model=model,
            measured=self.evaluate(model, data),
            signatures=signatures,
            folder=folder,
            test=data.queries("test"),
        )

    def enough(self, values):
        """Whether validation says so clearly that all is learnt that there is to learn."""
        if self.label.is_click:
            calibrated = 0.85 < values["calibration"] < 1.18
            least = (1 + self.least_auc) / 2
            return values["auc"] > least and values["lift_log_loss"] > 0.15 and calibrated
        return values["rmse"] < 0.9 * self.most_error * values["constant_rmse"]

    def evaluate(self, model, data, split="test"):
        return tasks.of(self.name, self.label).evaluation(data, split).of(model)()

    def score_examples(self, trained, examples):
        return trained.signatures["score_examples"](examples=tf.constant(examples, tf.string))

    def test_learns_what_is_learnable(self, trained):
        values = trained.measured
        if self.label.is_click:
            assert values["auc"] > self.least_auc and values["lift_log_loss"] > 0.1, values
            assert 0.8 < values["calibration"] < 1.25, values
        else:
            assert values["rmse"] < self.most_error * values["constant_rmse"], values

    @pytest.mark.one_of_a_kind
    def test_does_not_beat_the_mean_on_noise(self, toy_data):
        toy = toy_data(registry.get(self.name).kind, 1.0, self.label)
        model, data = train(self.name, toy, self.hyper_parameters)
        values = self.evaluate(model, data)
        if self.label.is_click:
            # 216 test rows, 2 of 5 ratings are clicks: one standard error of the AUC is about 0.04.
            assert abs(values["auc"] - 0.5) < 0.12 and values["lift_log_loss"] < 0.02, values
        else:
            assert values["rmse"] > 0.95 * values["constant_rmse"], values

    def test_exported_model_measures_the_same(self, trained):
        inside = trained.measured
        outside = trained.signatures["evaluate"](examples=tf.constant(trained.test, tf.string))
        for name, value in outside.items():
            assert value.shape == (len(trained.test), 1)
            if name != "prediction":
                np.testing.assert_allclose(np.mean(value), inside[name], atol=1e-5, err_msg=name)
        if self.label.is_click:
            _, label, user = trained.data.parse(tf.constant(trained.test, tf.string))
            for name, value in pointwise.click_metrics(
                label, outside["prediction"][:, 0], user
            ).items():
                np.testing.assert_allclose(value, inside[name], atol=1e-5, err_msg=name)

    def test_loaded_model_answers_as_the_trained_one(self, trained):
        inputs, _, _ = trained.data.parse(tf.constant(trained.test, tf.string))
        np.testing.assert_allclose(
            self.score_examples(trained, trained.test)["score"],
            trained.model.predict_rows(inputs),
            atol=1e-5,
        )

    def test_raw_features_score_as_their_examples(self, trained):
        raw = raw_columns(trained.data, trained.test)
        answer = trained.signatures["score"](**raw)
        np.testing.assert_allclose(
            answer["score"], self.score_examples(trained, trained.test)["score"], atol=1e-6
        )
        assert set(trained.signatures["serving_default"].structured_input_signature[1]) == {
            *(field.name for field in trained.data.fields),
            *trained.data.history_names,
        }

    def test_batch_equals_single(self, trained):
        together = self.score_examples(trained, trained.test[:20])["score"].numpy()
        alone = [
            self.score_examples(trained, trained.test[row : row + 1])["score"].numpy()[0]
            for row in range(20)
        ]
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)

    def test_unknown_ids_and_missing_values_are_ordinary(self, trained):
        rows = [
            example(),
            example(user_id=["nobody"], item_id=["nothing"]),
            example(user_id=["user 1"]),
            example(user_id=["user 1"], item_id=["item 1 é"]),
        ]
        answer = self.score_examples(trained, rows)
        low, high = (0.0, 1.0) if self.label.is_click else trained.data.label_range
        assert (
            np.isfinite(answer["score"]).all()
            and (answer["score"].numpy() >= low).all()
            and (answer["score"].numpy() <= high).all()
        )
        assert answer["strategy"].numpy().tolist() == [b"cold", b"cold", b"cold", b"model"]

    def test_pairs_looked_up_in_the_tables_score_as_rows(self, trained):
        """What a two-stage model does: features by id, in-graph, where the row carries them."""
        keys = tf.io.parse_example(
            tf.constant(trained.test, tf.string),
            {name: tf.io.FixedLenFeature([], tf.string) for name in ("user_id", "item_id")},
        )
        user, item = (
            trained.data.user_table.lookup(keys["user_id"]),
            trained.data.item_table.lookup(keys["item_id"]),
        )
        answer = trained.model.predict_rows(trained.data.lookup(user, item))
        np.testing.assert_allclose(
            answer, self.score_examples(trained, trained.test)["score"], atol=1e-5
        )

    def test_rank_scores_newcomers_as_score_does(self, trained):
        """A user and an item that only the tables know, and ids that nobody knows."""
        users, items = [NEW_USER, "nobody"], [NEW_ITEM, "nothing"]
        rank = trained.signatures["rank"](
            user_id=tf.constant(users), item_id=tf.constant([items] * 2)
        )
        rows = [example(user_id=[user], item_id=[item]) for user in users for item in items]
        score = self.score_examples(trained, rows)
        np.testing.assert_allclose(
            rank["score"], np.reshape(score["score"], (2, 2)), rtol=1e-4, atol=1e-5
        )
        assert rank["known"].numpy().tolist() == [False, False]
        assert set(score["strategy"].numpy()) == {b"cold"}

    def test_says_what_carried_a_score(self, trained):
        """Fields, those that moved it most first; parts of a sum leave the same of every row."""
        model, rows = trained.model, trained.test[:8]
        inputs, _, _ = trained.data.parse(tf.constant(rows, tf.string))
        why = trained.signatures["score_explained"](**raw_columns(trained.data, rows))
        np.testing.assert_allclose(
            why["score"], self.score_examples(trained, rows)["score"], rtol=1e-4, atol=1e-5
        )
        reason, weight = why["reason"].numpy(), why["weight"].numpy()
        assert set(why["basis"].numpy()) == {model.explains.encode()}
        assert all(set(row) == {name.encode() for name in trained.data.left_out} for row in reason)
        assert np.isfinite(weight).all() and (np.diff(abs(weight), axis=1) <= 0).all()
        score = model.score_rows(inputs).numpy()
        if model.explains == "sum":
            assert np.ptp(score - weight.sum(axis=1)) < 1e-4
        else:
            unknown = tf.ones_like(inputs["user_id"])
            without = model.score_rows({**inputs, "user_id": unknown}).numpy()
            of_user = weight[reason == b"user_id"]
            np.testing.assert_allclose(of_user, score - without, rtol=1e-3, atol=1e-4)
        keys = tf.io.parse_example(
            tf.constant(rows, tf.string),
            {name: tf.io.FixedLenFeature([], tf.string) for name in ("user_id", "item_id")},
        )
        told = trained.signatures["explain"].structured_input_signature[1]
        if set(told) != set(keys):
            return  # a row's history is not in the tables
        pairs = trained.signatures["explain"](
            user_id=keys["user_id"], item_id=tf.stack([keys["item_id"], tf.fill([8], "")], axis=1)
        )
        assert (pairs["reason"][:, 1] == b"").numpy().all()
        for row in range(8):
            of = dict(zip(pairs["reason"][row, 0].numpy(), pairs["weight"][row, 0].numpy()))
            np.testing.assert_allclose([of[name] for name in reason[row]], weight[row], atol=1e-4)

    def test_ratings_of_a_stranger_are_folded_in(self, trained):
        if not trained.model.folds_in:
            assert "fold_in" not in trained.signatures
            pytest.skip(f"{self.name} does not fold in")
        items = [f"item {number} é" for number in (1, 2, 3)]
        ratings = {items[0]: 5.0, items[1]: 1.0}

        def ask(history, rating):
            answer = trained.signatures["fold_in"](
                item_id=tf.constant([[*items, "nothing"]]),
                history=tf.constant([history], tf.string),
                rating=tf.constant([rating], tf.float32),
            )
            return answer["score"].numpy()[0], answer["strategy"].numpy().tolist()

        score, strategy = ask([*ratings], [*ratings.values()])
        assert strategy == [b"fold-in"]
        low, high = trained.data.label_range
        assert (score >= low).all() and (score <= high).all()
        # Neither padding, nor items that train has not seen, nor a rating that is missing or was
        # given anew, nor the order make a difference.
        for history, rating in (
            ([items[1], "", items[0], "nothing", NEW_ITEM], [1.0, 3.0, 5.0, 2.0, 2.0]),
            ([items[0], items[2], items[1], items[0]], [2.0, np.nan, 1.0, 5.0]),
        ):
            np.testing.assert_allclose(ask(history, rating)[0], score, rtol=1e-5)
        assert not np.allclose(ask([*ratings], [1.0, 5.0])[0], score, atol=0.1)
        for history in ([], ["nothing"]):
            answer, strategy = ask(history, [4.0] * len(history))
            assert strategy == [b"cold"] and np.isfinite(answer).all()

    def test_a_warm_start_takes_every_weight(self, trained, tmp_path):
        assert_takes_every_weight(trained, str(tmp_path))
