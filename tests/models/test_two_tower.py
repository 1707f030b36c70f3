"""Two-tower: the contract, causal histories, and the correction by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_recommenders as tfrs

from models.contract.rules import Rulebook
from models.contract.similar import SimilarItems
from models.industry import two_tower
from models.inputs.dropout import Step
from models.inputs.item_columns import ItemColumns
from models.names import registry
from models.names.errors import ConfigError
from models.training import trainer
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

    def test_an_item_is_embedded_by_its_features_alone(self, trained):
        """As one of the table whose id is forgotten; what train has not seen changes nothing."""
        model, index = trained.model, tf.constant([2, 30], tf.int64)
        forgotten = model._items(index, tf.constant([True, True]))
        expected = model._item_tower(forgotten).numpy()
        number = [int(trained.data.items.ids[place - 2].split()[1]) for place in (2, 30)]
        # What `toy.write_log` says of the items with these numbers.
        told = {
            "item_title": [f"The {'red blue green grey'.split()[n // 15]} one" for n in number],
            "item_year": [float(1980 + n % 20) for n in number],
            "item_genres": [["Drama", "Comedy"]] * 2,
        }
        call = trained.signatures["embed_items"]
        specs = call.structured_input_signature[1]

        def ask(told):
            answer = call(**{n: tf.constant(told[n], specs[n].dtype) for n in specs})
            return answer["embedding"].numpy(), answer["known"].numpy().tolist()

        vectors, known = ask(told)
        assert known == [True, True]
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
        more = {**told, "item_genres": [["Drama", "Comedy", "unheard of"]] * 2}
        np.testing.assert_allclose(ask(more)[0], expected, atol=1e-6)
        nothing = {"item_title": ["quite unheard of", ""], "item_genres": [["unheard of"], [""]]}
        assert ask({**told, **nothing, "item_year": [np.nan] * 2})[1] == [False, False]


def test_features_alone_give_the_vector_of_an_item_whose_id_is_unknown(toy_data):
    """What `similar_features` searches by; the items' table says the same of the item."""
    data = toy_data("event", 0.0).load_once("two_tower")
    module = registry.load("two_tower")
    model = module.Model(module.HyperParameters(**TOY), data)
    fields = {field.name for field in model.item_fields()}
    assert fields == {"item_title", "item_year", "item_genres"}
    index = data.item_table.lookup(tf.constant(["item 3 é世"]))
    expected = model._item_tower(model._items(index, forget=tf.constant([True])))
    # As `tests.models.toy.write_log` describes the item; the second says nothing at all.
    raw = {
        "item_title": tf.constant(["The red one", ""]),
        "item_year": tf.constant([1983.0, np.nan]),
        "item_genres": tf.constant([["Drama", "Comedy"], ["", ""]]),
    }
    vectors, known = model.embed_features(raw)
    np.testing.assert_allclose(vectors[0], expected[0], rtol=1e-5, atol=1e-6)
    assert known.numpy().tolist() == [True, False]
    rules = Rulebook(ItemColumns({}, {}), data.item_table, 60, model.item_embeddings())
    none = tf.constant([[""], [""]])
    k = tf.constant([60, 60])
    answer = SimilarItems(data, rules).answer_features(vectors, known, none, k, none, none)
    assert answer["strategy"].numpy().tolist() == [b"features", b"unknown"]
    assert answer["item_id"][1].numpy().tolist() == [b""] * 60
    near = np.sort(model.item_embeddings().numpy() @ vectors[0].numpy())[::-1]
    np.testing.assert_allclose(answer["score"][0], near, atol=1e-5)


def test_history_of_a_train_row_holds_only_earlier_items(toy_data):
    data = toy_data("event", 0.0).load_once("two_tower")
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
    loss = two_tower.corrected_softmax(
        tf.constant([[1.0, 0.0], [0.0, 1.0]]),
        tf.constant([[1.0, 0.0], [2.0, 3.0]]),
        place=tf.constant([0, 1], tf.int64),
        count=tf.ones([2]),
        probability=tf.constant([0.5, 0.25]),
    )
    expected = [np.log1p(np.exp(1 + np.log(2))), np.log1p(np.exp(-(3 + np.log(2))))]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_distinct_items_have_the_loss_of_tfrs():
    """A batch that has items several times, and gradients too."""
    generator = np.random.default_rng(0)
    ids = tf.constant(generator.integers(0, 9, 40))
    table = tf.constant(generator.normal(size=(9, 4)), tf.float32)
    query = tf.constant(generator.normal(size=(40, 4)), tf.float32)
    probability = tf.constant(generator.uniform(0.01, 0.3, 9), tf.float32)
    task = tfrs.tasks.Retrieval(temperature=0.5, remove_accidental_hits=True)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([query, table])
        expected = task(
            query,
            tf.gather(table, ids),
            candidate_sampling_probability=tf.gather(probability, ids),
            candidate_ids=ids,
            compute_metrics=False,
        )
        item, place, count = tf.unique_with_counts(ids, tf.int64)
        found = tf.reduce_sum(
            two_tower.corrected_softmax(
                query / 0.5,
                tf.gather(table, item),
                place,
                tf.cast(count, tf.float32),
                tf.gather(probability, item),
            )
        )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for variable in (query, table):
        np.testing.assert_allclose(
            tf.convert_to_tensor(tape.gradient(found, variable)),
            tf.convert_to_tensor(tape.gradient(expected, variable)),
            rtol=1e-3,
            atol=1e-5,
        )


def test_no_gradient_is_as_large_as_a_table(toy_data):
    """The penalty is the optimiser's: with lazy Adam too, of the rows that move."""
    data, module = toy_data("event", 0.0).load_once("two_tower"), registry.load("two_tower")
    parameters = module.HyperParameters(**TOY, l2=0.5, lazy_adam=True)
    model, found = module.Model(parameters, data), []
    loop = SimpleNamespace(
        strategy=tf.distribute.get_strategy(), fit=lambda *_, optimizer: found.append(optimizer)
    )
    model.learn(loop)
    assert found[0].lazy and found[0].l2 == 0.5
    assert float(found[0].learning_rate) == pytest.approx(5e-3)
    batch = next(iter(model.batches(data, 0, 0).dataset))
    with Step(0, tf.constant(0)), tf.GradientTape() as tape:
        loss = model.compute_loss(batch, training=True)
    tables = [each for each in model.trainable_variables if "embeddings" in each.name]
    assert len(tables) > 3
    assert all(isinstance(each, tf.IndexedSlices) for each in tape.gradient(loss, tables))


def test_weighted_rows_is_a_gather_and_a_sum():
    generator = np.random.default_rng(1)
    weight = tf.constant(generator.normal(size=(5, 3)), tf.float32)
    table = tf.constant(generator.normal(size=(7, 4)), tf.float32)
    place = tf.constant(generator.integers(0, 7, (5, 3)))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([weight, table])
        found = two_tower.weighted_rows(weight, place, table)
        expected = tf.einsum("bl,bld->bd", weight, tf.gather(table, place))
        losses = [tf.reduce_sum(value**2) for value in (found, expected)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for variable in (weight, table):
        left, right = (tf.convert_to_tensor(tape.gradient(loss, variable)) for loss in losses)
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


def test_xla_is_refused():
    with pytest.raises(ConfigError, match="has no use for .jit_compile."):
        trainer.resolve("two_tower", {"jit_compile": True})
