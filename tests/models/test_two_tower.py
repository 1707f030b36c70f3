"""Two-tower: the contract, causal histories, and the correction by hand."""

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from models.names import registry
from tests.models.contract import RetrieveContract

TOY = {
    "epochs": 20,
    "batch_size": 64,
    "learning_rate": 5e-3,
    "embedding_dim": 16,
    "feature_dim": 4,
    "hidden": (32,),
    "history_length": 6,
}


class TestTwoTower(RetrieveContract):
    name = "two_tower"
    hyper_parameters = TOY

    def test_embedding_times_index_is_the_score(self, trained):
        users = tf.constant(["user 0"])
        embedding = trained.signatures["embed"](user_id=users, history=tf.zeros([1, 0], tf.string))[
            "embedding"
        ]
        found = trained.signatures["retrieve"](embedding=embedding, k=tf.constant(60))
        answer = self.ask(trained, ["user 0"], k=60)
        score = dict(zip(found["item_id"].numpy()[0], found["score"].numpy()[0]))
        for item, value in zip(answer["item_id"][0], answer["score"][0]):
            if item:
                np.testing.assert_allclose(score[item], value, rtol=1e-4)


def test_history_of_a_train_row_holds_only_earlier_items(toy_data):
    data = toy_data("event", 0.0).load("two_tower")
    module = registry.load("two_tower")
    model = module.Model(module.HyperParameters(**TOY), data)
    events, checked = data.events, 0
    place = {
        (user, item): position
        for user, item, position in zip(events.user, events.item, events.position)
    }
    for batch in model.batches(data, 0, 0).dataset.take(5).as_numpy_iterator():
        for user, item, history in zip(batch["user"], batch["item"], batch["history"]):
            places = [place[user, other] for other in history if other > 0]
            expected = list(range(place[user, item] - 1, max(-1, place[user, item] - 7), -1))
            assert places == expected
            checked += 1
    assert checked > 100


def test_sampling_bias_correction_by_hand():
    # Two rows, scores [[1, 2], [0, 3]] from unit vectors scaled by temperature 1, probabilities 0.5
    # and 0.25: corrected logits [[1 + ln 2, 2 + ln 4], [ln 2, 3 + ln 4]]; losses ln(1 + e^(1 + ln
    # 2)) and ln(1 + e^-(3 + ln 2)).
    task = tfrs.tasks.Retrieval(temperature=1.0, remove_accidental_hits=True)
    query = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    items = tf.constant([[1.0, 0.0], [2.0, 3.0]])
    loss = task(
        query,
        items,
        candidate_sampling_probability=tf.constant([0.5, 0.25]),
        candidate_ids=tf.constant([0, 1]),
        compute_metrics=False,
    )
    expected = np.log1p(np.exp(1 + np.log(2))) + np.log1p(np.exp(-(3 + np.log(2))))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
