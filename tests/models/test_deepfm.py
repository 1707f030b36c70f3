"""DeepFM: the contract, one table for both components, and their sum."""

import numpy as np
import pytest
import tensorflow as tf

from models.contract import tasks
from tests.models.score_contract import CLICK, ScoreContract, train

TOY = {
    "epochs": 30,
    "batch_size": 128,
    "learning_rate": 5e-3,
    "factors": 4,
    "hidden": (32, 32),
    "dropout": 0.2,
    "l2": 1e-3,
    "stddev": 0.1,
}


class TestDeepFM(ScoreContract):
    name = "deepfm"
    hyper_parameters = TOY

    def test_one_table_serves_both_components(self, trained):
        inputs, _, _ = trained.data.parse(tf.constant(trained.test[:8], tf.string))
        with tf.GradientTape(persistent=True) as tape:
            machine, deep = trained.model.components(inputs, *trained.model._look_up(inputs))
        for component in (machine, deep):
            assert tape.gradient(component, trained.model.factors.embeddings) is not None
        tables = [
            variable
            for variable in trained.model.trainable_variables
            if variable.shape.rank == 2 and variable.shape[0] == trained.model.rows.count
        ]
        assert [table.shape[1] for table in tables] == [1, 4]
        np.testing.assert_allclose(trained.model.score_rows(inputs), machine + deep, atol=1e-6)

    def test_dropout_is_off_when_answering(self, trained):
        first, second = (self.score_examples(trained, trained.test[:50])["score"] for _ in range(2))
        np.testing.assert_array_equal(first, second)


@pytest.mark.thorough
def test_mixed_precision_learns_as_well(toy_data):
    toy = toy_data("event", 0.0, CLICK)
    try:
        tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
        model, data = train("deepfm", toy, {**TOY, "epochs": 8, "mixed_precision": True})
        assert tasks.of("deepfm", CLICK).evaluation(data, "test").of(model)()["auc"] > 0.85
        assert model.factors.embeddings.dtype == tf.float32
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
