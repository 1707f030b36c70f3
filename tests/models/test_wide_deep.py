"""Wide & Deep: the contract, exact zeros, crosses, and two branches in one sum."""

import copy

import numpy as np
import pytest
import tensorflow as tf

from models.names import registry
from models.names.errors import ConfigError
from models.names.features import NUMERIC
from models.training.loop import TrainingLoop
from tests.models.score_contract import CLICK, ScoreContract

TOY = {
    "epochs": 30,
    "batch_size": 128,
    "learning_rate": 0.1,
    "l1": 2.0,
    "embedding_dim": 4,
    "hidden": (16,),
    "dropout": 0.0,
    "cross_buckets": 2000,
}


class TestWideDeep(ScoreContract):
    name = "wide_deep"
    hyper_parameters = TOY
    least_auc = 0.93

    def test_l1_leaves_exact_zeros(self, trained):
        crossed = trained.model.crossed.embeddings.numpy()
        assert 0.3 < np.mean(crossed == 0.0) < 1.0
        assert np.any(trained.model.wide.embeddings.numpy() != 0.0)

    def test_removing_a_branch_changes_the_score_by_that_branch(self, trained):
        inputs, _, _ = trained.data.parse(tf.constant(trained.test[:8], tf.string))
        wide, deep = trained.model.wide_part(inputs), trained.model.deep_part(inputs)
        np.testing.assert_allclose(trained.model.score_rows(inputs), wide + deep, atol=1e-6)
        assert np.ptp(wide) > 0 and np.ptp(deep) > 0

    def test_crosses_join_user_and_item_but_not_the_two_ids(self, trained):
        assert ("user_id", "item_genres") in trained.model.crosses and (
            "user_occupation",
            "item_id",
        ) in trained.model.crosses
        assert ("user_id", "item_id") not in trained.model.crosses
        assert not any("title" in right for _, right in trained.model.crosses)


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("event", 0.0, CLICK).load_once("wide_deep")


def test_a_cross_is_the_and_of_two_values(data):
    """Equal pairs of values share a bucket, other pairs (nearly) never do.

    A missing list crosses with weight 0.
    """
    module = registry.load("wide_deep")
    model = module.Model(
        module.HyperParameters(
            **{**TOY, "crosses": (("user_id", "item_genres"),), "cross_buckets": 1_000_000}
        ),
        data,
    )
    inputs, _, _ = data.parse(tf.constant(data.queries("test"), tf.string))
    bucket, weight = model._cross(*model.rows(inputs), inputs)
    users, genres = inputs["user_id"].numpy(), inputs["item_genres"].numpy()
    of_pair = {}
    for row, column in zip(*np.nonzero(genres), strict=True):
        pair = (users[row], genres[row, column])
        assert of_pair.setdefault(pair, int(bucket[row, column])) == int(bucket[row, column])
    assert len(set(of_pair.values())) == len(of_pair) > 50
    np.testing.assert_allclose(
        tf.reduce_sum(weight, axis=1), (genres > 0).any(axis=1).astype(np.float32), rtol=1e-6
    )


def test_an_unknown_field_to_cross_names_the_nearest(data):
    module = registry.load("wide_deep")
    with pytest.raises(ConfigError, match="item_genre'.*did you mean 'item_genres'"):
        module.Model(module.HyperParameters(crosses=(("user_id", "item_genre"),)), data)


def test_numbers_alone_are_enough(data):
    assert len(data.train["label"])  # read with all columns, before there are fewer fields
    numbers = copy.copy(data)
    numbers.fields = tuple(field for field in data.fields if field.kind == NUMERIC)
    assert numbers.fields
    module = registry.load("wide_deep")
    parameters = module.HyperParameters(**{**TOY, "epochs": 2})
    model, loop = module.Model(parameters, numbers), TrainingLoop(parameters, numbers)
    model.learn(loop)
    assert loop.history[-1]["loss"] < loop.history[0]["loss"]
    inputs, _, _ = data.parse(tf.constant(data.queries("test"), tf.string))
    assert np.ptp(model.deep_part(inputs)) > 0 and np.ptp(model.wide_part(inputs)) > 0


def test_the_defaults_are_the_papers():
    parameters = registry.load("wide_deep").HyperParameters()
    assert parameters.hidden == (1024, 512, 256) and parameters.embedding_dim == 32


def test_adagrad_steps_by_its_formula(data, monkeypatch):
    """It starts from .1 / 2048^2, beside which Keras' epsilon would halve a step of 1e-4."""
    module, asked = registry.load("wide_deep"), []
    parameters = module.HyperParameters(**{**TOY, "batch_size": 2048})
    model, loop = module.Model(parameters, data), TrainingLoop(parameters, data)
    loop.build(model)
    loop.history.append({})
    monkeypatch.setattr(loop, "fit", lambda _, optimizer: asked.append(optimizer))
    model.learn(loop)
    _, deep = asked[0].optimizers
    weight = tf.Variable([0.0, 0.0])
    deep.build([weight])
    deep.apply_gradients([(tf.constant([1e-4, 0.0]), weight)])
    expected = 0.1 * 1e-4 / (0.1 / 2048**2 + 1e-8) ** 0.5
    np.testing.assert_allclose(weight, [-expected, 0.0], rtol=1e-5)


def test_large_batches_move_the_network_too(data):
    """One step of a mean over all rows; beside an accumulator of .1 it is nothing."""
    module = registry.load("wide_deep")
    rows = len(data.train["label"])
    parameters = module.HyperParameters(**{**TOY, "epochs": 1, "batch_size": rows})
    model, loop = module.Model(parameters, data), TrainingLoop(parameters, data)
    loop.build(model)
    before = model.embeddings.embeddings.numpy()
    model.learn(loop)
    moved = np.abs(model.embeddings.embeddings.numpy() - before).max()
    assert 0.1 * parameters.learning_rate < moved <= parameters.learning_rate
