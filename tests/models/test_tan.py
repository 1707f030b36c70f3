"""Tan et al.: the contract, and each of the four ways by its effect."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.contract.retrieve_task import Evaluation
from models.inputs import sampling
from models.inputs.data import Entities
from models.inputs.dropout import Step
from models.names.errors import ConfigError, DataError
from models.rnn import gru, sessions, tan
from models.training.loop import TrainingLoop
from models.training.trainer import resolve
from tests.models.contract import RetrieveContract, train

TOY = {
    "epochs": 12,
    "batch_size": 16,
    "learning_rate": 1e-2,
    "units": (24,),
    "history_length": 8,
}


class TestTan(RetrieveContract):
    name = "tan"
    hyper_parameters = TOY


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("sequence", 0.0).load_once("tan")


def test_windows_take_every_event_but_the_first_as_a_target_once_an_epoch():
    starts = np.array([0, 1, 3, 26, 30])
    items = np.arange(100, 130)
    batches = sessions.window_batches(items, starts, length=5, batch_size=4, seed=3)
    assert batches.rows == 30 - 4
    records, cuts = list(batches.dataset.take(2 * batches.steps).as_numpy_iterator()), []
    for epoch in (records[: batches.steps], records[batches.steps :]):
        pairs = [
            pair
            for batch in epoch
            for pair in zip(
                batch["item"][batch["valid"]], batch["target"][batch["valid"]], strict=True
            )
        ]
        assert sorted(pairs) == [
            (item, item + 1) for item in range(100, 129) if item + 1 - 100 not in starts
        ]
        cuts.append(
            {
                row[valid][0]
                for batch in epoch
                for row, valid in zip(batch["item"], batch["valid"], strict=True)
                if valid.any()
            }
        )
        assert all((batch["item"][~batch["valid"]] == 0).all() for batch in epoch)
    assert cuts[0] != cuts[1]


def small(backward=False, **hyper_parameters):
    """A network over the items a, b and c (2, 3, 4), of two units."""
    items = Entities(np.array([b"a", b"b", b"c"], object), 3, {}, {}, {})
    settings = {"units": (2,), "embedding_dim": 2, "click_dropout": 0.0, **hyper_parameters}
    tf.keras.utils.set_random_seed(5)
    data = SimpleNamespace(items=items)
    return tan.Tan(tan.HyperParameters(**settings), data, backward)


def window(*items, length=None):
    """A batch of one window of a session."""
    padded = np.array([*items, *[0] * ((length or len(items) - 1) + 1 - len(items))])
    valid = padded[1:] > 0
    return {
        "item": tf.constant([padded[:-1] * valid], tf.int64),
        "target": tf.constant([padded[1:]], tf.int64),
        "valid": tf.constant([valid]),
    }


def loud(model, batch):
    """Draws large weights, so that nothing is nearly the same as anything else."""
    model.compute_loss(batch)
    for number, variable in enumerate(model.weights):
        variable.assign(tf.random.stateless_normal(variable.shape, [1, number]))
    return model


def biased(model, odds):
    """Lets the scores be the logarithms of the odds of the three items, whatever is read."""
    model.compute_loss(window(2, 3))
    model.items.embeddings.assign(tf.zeros_like(model.items.embeddings))
    model.biases.embeddings.assign(np.log([[1], [1], *[[each] for each in odds]]))
    return model


# M1


def test_one_pass_is_every_prefix_as_an_example_of_its_own():
    """The loss of a session is the sum of those of its prefixes, and so is its gradient."""
    model = loud(small(), window(2, 3))
    prefixes = [window(2, 3), window(2, 3, 2), window(2, 3, 2, 4)]
    with tf.GradientTape(persistent=True) as tape:
        whole = model.compute_loss(window(2, 3, 2, 4, length=5))
        apart = tf.add_n([model.compute_loss(sessions.only_last_target(each)) for each in prefixes])
    np.testing.assert_allclose(whole, apart, rtol=1e-5)
    for variable in model.trainable_variables:
        left, right = (
            tf.convert_to_tensor(tape.gradient(each, variable)) for each in (whole, apart)
        )
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5, err_msg=variable.name)
        assert np.abs(left).max() > 0, variable.name


def test_without_augmentation_a_session_is_one_example_with_its_last_event_as_target(data):
    model = tan.Tan(tan.HyperParameters(**TOY, augmentation=False), data)
    items, starts = data.events.sequences()
    batches = model.batches(data, 0, 0)
    assert batches.rows == len(starts) - 1
    found = []
    for batch in batches.dataset.take(batches.steps).as_numpy_iterator():
        assert (batch["valid"].sum(axis=1) == 1).all()
        for row in range(len(batch["item"])):
            read, target = batch["item"][row], batch["target"][row][batch["valid"][row]]
            found.append((*read[read > 0], *target))
    # The last `history_length` events before it are read, though none of them is a target.
    assert sorted(found) == sorted(
        tuple(items[max(start, end - 9) : end]) for start, end in zip(starts[:-1], starts[1:])
    )
    with_all = tan.Tan(tan.HyperParameters(**TOY), data).batches(data, 0, 0)
    assert with_all.rows == len(items) - (len(starts) - 1)


def test_last_events_by_hand():
    kept, starts = sessions.last_events(np.array([0, 4, 5, 7]), 2)
    assert kept.tolist() == [2, 3, 4, 5, 6] and starts.tolist() == [0, 2, 3, 5]


def test_click_dropout_leaves_out_whole_clicks_and_no_target(monkeypatch):
    read = {}

    def keep(projections, stack, hidden, present):
        read.update(hidden=hidden.numpy(), present=present.numpy())
        return tf.zeros([*hidden.shape[:2], 2])

    model = biased(small(click_dropout=0.25), [1, 1, 2])
    model.inputs.embeddings.assign(tf.ones_like(model.inputs.embeddings))
    monkeypatch.setattr(gru, "read", keep)
    batch = {name: tf.repeat(column, 2000, 0) for name, column in window(2, 3, 4).items()}
    with Step(0, tf.constant(0, tf.int64)):
        loss = model.compute_loss(batch, training=True)
    # A click is left out whole, a quarter of them; the others are divided by 3/4.
    kept = read["hidden"][..., 0] > 0
    np.testing.assert_allclose(read["hidden"], np.where(kept[..., None], [4 / 3, 4 / 3], 0.0))
    assert 0.72 < kept.mean() < 0.78 and not kept.all(axis=1).all()
    # Both targets of every session count, -ln 1/4 - ln 1/2, and the GRU takes all of its steps.
    np.testing.assert_allclose(loss, np.log(8), rtol=1e-5)
    assert read["present"].all()
    model.compute_loss(batch)
    assert (read["hidden"] == 1).all()


# M2


class Recorder(TrainingLoop):
    """Notes what is to be trained, and trains nothing."""

    def fit(self, model, stage="model", optimizer=None, **_):
        rate = float(optimizer.learning_rate) if optimizer else None
        rows = model.batches(self.data, self.seed, 0).rows
        self.history.append({"model": model, "stage": stage, "rows": rows, "rate": rate})


def learnt(data, warm=False, **hyper_parameters):
    """The model after its procedure, and what the loop was asked."""
    model = tan.Tan(tan.HyperParameters(**{**TOY, **hyper_parameters}), data)
    loop = Recorder(model.hyper_parameters, data, warm_started=warm)
    model.learn(loop)
    return model, loop.history


def test_tuning_reads_the_newest_sessions_alone_at_a_rate_of_its_own(data):
    # 120 sessions of 7 train events, so of 6 targets: 720; a quarter of the sessions has 180.
    _, asked = learnt(data, recent_share=0.25, tuning_rate=5e-4)
    assert [(each["stage"], each["rows"]) for each in asked] == [("model", 720), ("recent", 180)]
    assert asked[0]["rate"] is None and asked[1]["rate"] == pytest.approx(5e-4)
    assert asked[0]["model"] is asked[1]["model"]
    # What a warm start has brought is not trained on all again.
    _, asked = learnt(data, warm=True, recent_share=0.25)
    assert [each["stage"] for each in asked] == ["recent"]
    _, asked = learnt(data)
    assert [each["stage"] for each in asked] == ["model"]


def test_newest_by_hand():
    starts = np.array([0, 2, 5, 6, 9])
    assert sessions.newest(starts, 0.5).tolist() == [5, 6, 9]
    assert sessions.newest(starts, 0.01).tolist() == [6, 9]
    assert sessions.newest(starts, 1.0).tolist() == [0, 2, 5, 6, 9]
    # The newest sequence of a single event teaches nothing, and the one before it is left.
    assert sessions.newest(np.array([0, 2, 5, 6]), 0.01).tolist() == [2, 5, 6]


def test_single_events_are_nothing_to_learn_from():
    """Windows of none had no epoch, which never ended, and slots of none no step."""
    items, starts = np.array([2, 3, 2]), np.arange(4)
    for batches in (
        lambda: sessions.window_batches(items, starts, 3, 2, 0),
        lambda: sessions.parallel_batches(items, starts, 2, None, 0),
        lambda: sessions.newest(starts, 0.5),
    ):
        with pytest.raises(DataError, match="every sequence of the train split is a single event"):
            batches()
    with pytest.raises(DataError, match="makes a train row .columns item"):
        sampling.shuffled_batches({"item": items[:0]}, 2, 0)


# M3


def test_backward_by_hand():
    # The session 5 6 7 in a window of three: 7 is read and 6 the target, then 6 and 5.
    batch = sessions.backward(window(5, 6, 7, length=3))
    assert batch["item"].numpy().tolist() == [[0, 7, 6]]
    valid = batch["valid"].numpy()
    assert valid.tolist() == [[False, True, True]]
    assert batch["target"].numpy()[valid].tolist() == [6, 5]


def test_the_loss_with_soft_labels_by_hand():
    """The session a b c: the target b has a click after it, c has none."""
    # Student 1/4, 1/4, 1/2; teacher 1 : 9 : 1 at temperature 2, so 1/5, 3/5, 1/5.
    model = biased(small(privileged=True, teacher_share=0.5, temperature=2.0), [1, 1, 2])
    teacher = biased(small(backward=True, temperature=2.0), [1, 9, 1])
    hard = [np.log(4), np.log(2)]
    np.testing.assert_allclose(model.compute_loss(window(2, 3, 4)), sum(hard), rtol=1e-5)
    model._soft_labels = teacher.soft_labels
    soft = 0.2 * np.log(4) + 0.6 * np.log(4) + 0.2 * np.log(2)
    np.testing.assert_allclose(
        model.compute_loss(window(2, 3, 4, length=4)),
        0.5 * hard[0] + 0.5 * soft + hard[1],
        rtol=1e-5,
    )


def test_the_teacher_has_read_the_clicks_after_the_target_newest_first_and_no_other():
    teacher = loud(small(backward=True), window(2, 3))
    labels, has = teacher.soft_labels(window(2, 3, 4, 2, 4, length=6))
    assert has.numpy().tolist() == [True, True, True, False]
    # Of the targets 3, 4 and 2 what comes after is 4 2 4, 2 4 and 4; it is read from its end.
    for row, after in enumerate([[4, 2, 4], [4, 2], [4]]):
        state = teacher._read(tf.constant([after], tf.int64))[:, -1]
        expected = tf.nn.softmax(teacher._scores(state))[0]
        np.testing.assert_allclose(labels[row], expected, rtol=1e-4, atol=1e-6)
    # Neither the target nor what came before it is known to the teacher.
    other, _ = teacher.soft_labels(window(4, 2, 4, 2, 4, length=6))
    np.testing.assert_allclose(other[0], labels[0], rtol=1e-5)
    assert not np.allclose(labels[0], labels[1], atol=1e-3)


def test_the_teacher_reads_backward_and_is_no_part_of_the_student(data, monkeypatch):
    seen, fit = [], Recorder.fit

    def watched(loop, model, stage="model", **options):
        # Validation would ask the teacher for the next click, and it learns the one before.
        validated = options.get("validate", True)
        seen.append((stage, model._backward, model._soft_labels is not None, validated))
        assert not any(isinstance(each, tan.Tan) for each in model.submodules)
        fit(loop, model, stage, **options)

    monkeypatch.setattr(Recorder, "fit", watched)
    model, _ = learnt(data, privileged=True)
    assert seen == [("teacher", True, False, False), ("model", False, True, True)]
    assert model._soft_labels is None


# M4


def test_the_cosine_loss_and_the_answer_by_hand():
    model = small(output="embedding")
    model.compute_loss(window(2, 3))
    model.inputs.embeddings.assign([[0, 0], [0, 0], [1, 0], [4, 3], [-6, -8]])
    model.prediction.set_weights([np.zeros((2, 2)), np.array([3.0, 4.0])])
    # (3, 4) and (4, 3): cos = 24 / 25; (3, 4) and (-6, -8): -1.
    np.testing.assert_allclose(model.compute_loss(window(2, 3, 4)), (1 - 0.96) + (1 + 1), rtol=1e-5)
    query = SimpleNamespace(history=tf.ragged.constant([[2, 3]], dtype=tf.int64))
    np.testing.assert_allclose(
        model.score_items(query, model.catalogue()), [[0.6, 0.96, -1.0]], rtol=1e-5
    )


def test_embeddings_are_those_of_a_softmax_network_and_stay_as_they_are(data):
    model, asked = learnt(data, output="embedding", dropout_hidden=0.1)
    assert [each["stage"] for each in asked] == ["softmax", "model"]
    softmax = asked[0]["model"]
    assert softmax.hyper_parameters.output == "softmax" and asked[1]["model"] is model
    for own, its in ((model.inputs, softmax.inputs), (model.layers_[0], softmax.layers_[0])):
        for left, right in zip(own.get_weights(), its.get_weights(), strict=True):
            np.testing.assert_array_equal(left, right)
    names = [variable.name for variable in model.trainable_variables]
    # No table of embeddings, of inputs or of outputs: the GRU and the prediction.
    assert len(names) == 6 and not any("embeddings" in name for name in names), names


def test_a_warm_start_begins_with_the_embeddings_that_it_has(data):
    model = tan.Tan(tan.HyperParameters(**TOY, output="embedding"), data)
    loop = Recorder(model.hyper_parameters, data, warm_started=True)
    loop.build(model)
    model.inputs.embeddings.assign(tf.fill(model.inputs.embeddings.shape, 0.5))
    model.learn(loop)
    assert (loop.history[0]["model"].inputs.embeddings.numpy() == 0.5).all()
    assert (model.inputs.embeddings.numpy() == 0.5).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"embedding": "constrained"},
        {"units": (8, 6), "dropout_embedding": 0.3, "dropout_hidden": 0.3},
        {"output": "embedding"},
    ],
)
def test_every_variant_has_a_gradient_for_every_variable(data, changes):
    model = tan.Tan(tan.HyperParameters(**{**TOY, **changes}), data)
    batch = next(iter(model.batches(data, 0, 0).dataset))
    with Step(0, tf.constant(0, tf.int64)), tf.GradientTape() as tape:
        loss = model.compute_loss(batch, training=True)
    for gradient, variable in zip(
        tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True
    ):
        assert gradient is not None, variable.name
        assert float(tf.reduce_max(tf.abs(tf.convert_to_tensor(gradient)))) > 0, variable.name


@pytest.mark.thorough
@pytest.mark.parametrize(
    "changes", [{"output": "embedding"}, {"privileged": True, "recent_share": 0.5, "epochs": 8}]
)
def test_the_procedures_learn_what_is_learnable(data, changes):
    """M4, and M3 with M2, through the loop that trains; the bounds are the contract's."""
    model = train("tan", data, {**TOY, **changes})
    values = Evaluation(data, data.queries("test")).of(model)()
    assert values["hr_10"] > 0.8 and values["lift_ndcg_10"] > 0.15, values


@pytest.mark.parametrize("changes", [{"output": "embedding"}, {"augmentation": False}])
def test_soft_labels_where_there_can_be_none_are_refused(changes):
    with pytest.raises(ConfigError, match="privileged is for the output 'softmax' with augment"):
        resolve("tan", {"privileged": True, **changes})
