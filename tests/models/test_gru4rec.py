"""GRU4Rec: the contract, and golden vectors of its losses.

Also what session-parallel mini-batches must never do.
"""

from itertools import pairwise

import numpy as np
import pytest
import tensorflow as tf

from models.inputs import sampling
from models.inputs.dropout import Step
from models.names import registry
from models.names.errors import ConfigError
from models.rnn import gru, gru4rec, losses, sessions
from models.training.optimizers import Adagrad
from models.training.trainer import resolve
from tests.models.contract import RetrieveContract

TOY = {
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 0.15,
    "n_sample": 32,
    "units": (24,),
    "history_length": 10,
}


class TestGRU4Rec(RetrieveContract):
    name = "gru4rec"
    hyper_parameters = TOY

    def test_order_of_the_history_matters_and_unknown_items_are_skipped(self, trained):
        items = ["item 3 é世", "item 20 é世", "item 4 é世"]
        answer = self.ask(
            trained,
            ["nobody"] * 3,
            [items, items[::-1], [items[0], "no such item", *items[1:]]],
            k=60,
        )
        assert answer["score"][0].tolist() != answer["score"][1].tolist()
        np.testing.assert_array_equal(answer["item_id"][0], answer["item_id"][2])
        np.testing.assert_allclose(answer["score"][0], answer["score"][2], rtol=1e-5)

    def test_embedding_times_index_is_the_score(self, trained):
        history = tf.constant([["item 3 é世", "item 4 é世"]])
        embedding = trained.signatures["embed"](user_id=tf.constant(["nobody"]), history=history)[
            "embedding"
        ]
        found = trained.signatures["retrieve"](embedding=embedding, k=tf.constant(60))
        score = dict(zip(found["item_id"].numpy()[0], found["score"].numpy()[0], strict=True))
        answer = self.ask(trained, ["nobody"], [["item 3 é世", "item 4 é世"]], k=60)
        for item, value in zip(answer["item_id"][0], answer["score"][0], strict=True):
            if item:
                np.testing.assert_allclose(score[item], value, rtol=1e-4)


# Rows 0 and 1; columns 0 and 1 are their targets, 2 and 3 are sampled (section 0.4 of the fact
# sheet).
SCORES = np.array([[2, 0.5, -1, 0], [1, 3, 0.2, -0.4]], np.float32)
OWN, ALL = np.arange(2), np.ones(4, bool)
GOLDEN = {
    "cross_entropy": [0.342350, 0.206623],
    "bpr": [1.070076, 0.911936],
    "top1": [0.660572, 0.622449],
    "top1_max": [0.707164, 0.734868],
    "bpr_max": [0.156658, 0.094499],
}


# A row whose own score is 0, with two negatives of ln 3 and -ln 3: sigmoids of 1/2, 3/4 and 1/4 and
# exponentials of 1, 3 and 1/3; s = sigmoid(ln^2 3) = .769763, the regularisation of both negatives.
BY_HAND = {
    # ln(1 + 3 + 1/3)
    "cross_entropy": np.log(13 / 3),
    # - ln 1/2 - ln 1/4 - ln 3/4; 1/2 is the own column, r_i - r_i = 0
    "bpr": np.log(32 / 3),
    # ((1/2 + 1/2) + (3/4 + s) + (1/4 + s) - 1/2) / 3; 1/2 + 1/2 is the own column
    "top1": (1.5 + 2 * 0.769763) / 3,
    # the negatives' softmax is 3 : 1/3 = .9 : .1, so .9 (3/4 + s) + .1 (1/4 + s)
    "top1_max": 0.7 + 0.769763,
    # - ln(.9 * 1/4 + .1 * 3/4) + .5 (.9 + .1) ln^2 3
    "bpr_max": -np.log(0.3) + 0.5 * 1.206949,
}


@pytest.fixture(scope="module")
def data(toy_data):
    return toy_data("sequence", 0.0).load_once("gru4rec")


@pytest.mark.parametrize("name", BY_HAND)
def test_losses_of_2016_and_2018_by_hand(name):
    scores = np.log(np.array([[1, 3, 1 / 3]], np.float32))
    found = losses.row_losses(name, scores, np.array([0]), np.ones(3, bool), 0.5)
    np.testing.assert_allclose(found, [BY_HAND[name]], rtol=1e-5)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_losses(name):
    np.testing.assert_allclose(losses.row_losses(name, SCORES, OWN, ALL), GOLDEN[name], atol=1e-5)


def test_golden_softmax_over_negatives_and_penalty():
    weight = losses.negative_softmax(
        tf.constant(SCORES), tf.constant(np.eye(2, 4, dtype=bool)), tf.constant(ALL)
    )
    np.testing.assert_allclose(
        weight, [[0, 0.546549, 0.121952, 0.331499], [0.589648, 0, 0.264946, 0.145406]], atol=1e-6
    )
    penalised = losses.row_losses("bpr_max", SCORES, OWN, ALL, 1.0)
    np.testing.assert_allclose(
        penalised - losses.row_losses("bpr_max", SCORES, OWN, ALL), [0.258589, 0.623511], atol=1e-5
    )


def test_golden_bpr_max_of_activated_scores(data):
    model = make(data, loss="bpr_max", score_activation="elu", elu_alpha=0.5, bpreg=1.0)
    activated = model._activate(tf.constant(SCORES), None, None)
    np.testing.assert_allclose(
        losses.row_losses("bpr_max", activated, OWN, ALL, 1.0), [0.298743, 0.676517], atol=1e-5
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_columns_that_do_not_count_might_as_well_not_be_there(name):
    whole = losses.row_losses(name, SCORES[:1], OWN[:1], np.array([True, False, True, True]), 0.5)
    np.testing.assert_allclose(
        whole, losses.row_losses(name, SCORES[:1, [0, 2, 3]], OWN[:1], ALL[:3], 0.5), rtol=1e-6
    )


def test_gradient_flows_through_the_softmax_over_negatives():
    # TOP1-max of two negatives with r_i far away: d loss / d r_j has the term s_j (f_j - sum s f),
    # which stopping would drop.
    scores = tf.constant([[0.0, 1.0, -1.0]])
    with tf.GradientTape() as tape:
        tape.watch(scores)
        loss = losses.row_losses("top1_max", scores, [0], np.ones(3, bool))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    f = np.array([sigmoid(1.0) + sigmoid(1.0), sigmoid(-1.0) + sigmoid(1.0)])
    s = np.exp([1.0, -1.0]) / np.exp([1.0, -1.0]).sum()
    slope = lambda x: sigmoid(x) * (1 - sigmoid(x))  # noqa: E731
    direct = s * np.array([slope(1.0) + slope(1.0) * 2, slope(-1.0) - slope(1.0) * 2])
    np.testing.assert_allclose(
        tape.gradient(loss, scores)[0, 1:], direct + s * (f - (s * f).sum()), rtol=1e-5
    )


def test_session_parallel_by_hand():
    # Sessions of 3, 2, 4, 1 and 2 events in two slots. The second slot is free first and takes the
    # third session; the fourth has no target and is never read; the first slot takes the fifth.
    starts = np.array([0, 3, 5, 9, 10, 12])
    assert sessions.session_parallel(starts, 2).tolist() == [[0, 3], [1, 5], [10, 6], [-1, 7]]
    assert sessions.session_parallel(np.array([0, 1]), 3).shape == (0, 3)


@pytest.mark.parametrize("slots", [1, 3, 16, 500])
def test_an_epoch_reads_every_session_once_and_in_order(slots):
    random = np.random.RandomState(0)
    starts = np.r_[0, np.cumsum(random.randint(1, 9, 200))]
    items = random.randint(2, 50, starts[-1])
    owner = np.repeat(np.arange(200), np.diff(starts))
    schedule = sessions.session_parallel(starts, slots)
    read = schedule[schedule >= 0]
    # Every event but the last of its session is read once.
    assert sorted(read) == sorted(set(range(starts[-1])) - set(starts[1:] - 1))
    begun = []
    for slot in schedule.T:
        own = slot[slot >= 0]
        assert (np.flatnonzero(slot >= 0) == np.arange(len(own))).all(), (
            "a slot is never idle before it is done"
        )
        for here, after in pairwise(own):
            # On by one event, or a new session from its beginning.
            assert (
                after == here + 1
                if owner[after] == owner[here]
                else after in starts and here + 2 in starts
            )
    for step in schedule:
        begun += [owner[event] for event in step if event in starts]
    assert begun == sorted(begun), "the next session is always the earliest that nobody has begun"
    batches = sessions.parallel_batches(items, starts, slots, None, seed=0)
    assert (batches.steps, batches.rows) == (len(schedule), len(read))
    for event, batch in zip(
        schedule, batches.dataset.take(len(schedule)).as_numpy_iterator(), strict=True
    ):
        valid = event >= 0
        np.testing.assert_array_equal(batch["valid"], valid)
        np.testing.assert_array_equal(batch["item"][valid], items[event[valid]])
        np.testing.assert_array_equal(batch["target"][valid], items[event[valid] + 1])
        np.testing.assert_array_equal(batch["fresh"][valid], np.isin(event[valid], starts))


def test_batches_are_a_function_of_seed_epoch_and_step():
    starts, items = np.array([0, 4, 9]), np.arange(2, 11)
    samples = sampling.PopularitySamples(np.ones(9), 0.5, 5)

    def batches(seed, first_epoch):
        return sessions.parallel_batches(items, starts, 2, samples, seed, first_epoch)

    whole = list(batches(1, 0).dataset.take(8).as_numpy_iterator())
    later = list(batches(1, 1).dataset.take(4).as_numpy_iterator())
    for left, right in zip(whole[4:], later, strict=True):
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])
    assert whole[0]["sampled"].tolist() != whole[4]["sampled"].tolist()
    assert (
        whole[0]["sampled"].tolist()
        != next(batches(2, 0).dataset.as_numpy_iterator())["sampled"].tolist()
    )


def test_samples_follow_support_to_the_power_of_alpha():
    supports = np.array([16, 4, 0, 1])
    # 16^.5 : 4^.5 : 1 = 4 : 2 : 1; an item without support is never drawn; alpha 0 draws the others
    # alike.
    for alpha, shares in ((0.5, [4 / 7, 2 / 7, 0, 1 / 7]), (0.0, [1 / 3, 1 / 3, 0, 1 / 3])):
        drawn = (
            sampling.PopularitySamples(supports, alpha, 40_000).draw(tf.constant([1, 2])).numpy()
        )
        np.testing.assert_allclose(np.bincount(drawn - 2, minlength=4) / 40_000, shares, atol=0.01)


def make(data, **hyper_parameters):
    tf.keras.utils.set_random_seed(1)
    return gru4rec.GRU4Rec(gru4rec.HyperParameters(**{**TOY, **hyper_parameters}), data)


def test_reset_gate_acts_before_the_recurrent_product():
    layer = gru.GRU(2, "gru")
    candidate, gates = (
        np.array([[0.5, -1.0], [2.0, 0.3]]),
        np.array([[1.0, 0.2, -0.4, 0.1], [0.7, -0.6, 0.9, 0.0]]),
    )
    layer.set_weights([candidate, gates, np.array([0.1, -0.1, 0.2, 0.0, -0.3, 0.4])])
    x, h = (
        np.array([[0.3, -0.2, 0.1, 0.5, -0.7, 0.6]], np.float32),
        np.array([[0.8, -0.5]], np.float32),
    )
    sigmoid = lambda value: 1 / (1 + np.exp(-value))  # noqa: E731
    reset = sigmoid(x[:, 2:4] + [0.2, 0.0] + h @ gates[:, :2])
    update = sigmoid(x[:, 4:] + [-0.3, 0.4] + h @ gates[:, 2:])
    new = np.tanh(x[:, :2] + [0.1, -0.1] + (reset * h) @ candidate)
    np.testing.assert_allclose(
        layer((tf.constant(x), tf.constant(h))), (1 - update) * h + update * new, rtol=1e-5
    )


@pytest.mark.parametrize("units", [(8,), (8, 6)])
def test_the_carried_state_is_that_of_the_session_so_far_and_nothing_else(data, units):
    # With weights that stand still, every slot must hold what reading its session from zero gives.
    model = make(data, units=units, batch_size=7, n_sample=0)
    batches = model.batches(data, 0, 0)
    step = tf.function(lambda batch: model.compute_loss(batch, training=True))
    open_ = [[] for _ in range(7)]
    for number, batch in enumerate(batches.dataset.take(batches.steps + 1)):
        step(batch)
        for slot in range(7):
            fresh = bool(batch["fresh"][slot]) or number == batches.steps  # an epoch begins afresh
            open_[slot] = ([] if fresh else open_[slot]) + [int(batch["item"][slot])]
        valid = batch["valid"].numpy()
        if number % 9 == 0 or number >= batches.steps - 2:
            history = tf.ragged.constant(open_, dtype=tf.int64)
            expected = model._read(history.to_tensor())[:, -1].numpy()
            np.testing.assert_allclose(model._states[-1].numpy()[valid], expected[valid], atol=1e-5)
            assert (model._states[-1].numpy()[~valid] == 0).all()
    assert not valid.all() or number == batches.steps


@pytest.mark.parametrize(
    "changes",
    [
        {"embedding": "separate"},
        {"embedding": "one_hot"},
        {"embedding": "one_hot", "units": (8, 6)},
        {"loss": "top1", "score_activation": "tanh"},
        {"loss": "top1_max"},
        {"loss": "bpr"},
        {"loss": "bpr_max", "score_activation": "elu"},
        {"logq": 1.0},
        {"n_sample": 0},
        {"dropout_embedding": 0.3, "dropout_hidden": 0.3},
    ],
)
def test_every_variant_has_a_gradient_for_every_variable(data, changes):
    model = make(data, **{"units": (8,), **changes})
    batch = next(iter(model.batches(data, 0, 0).dataset.skip(1)))
    with Step(0, tf.constant(0, tf.int64)), tf.GradientTape() as tape:
        model.compute_loss(batch, training=True)
        loss = model.compute_loss(batch, training=True)
    assert np.isfinite(loss)
    for gradient, variable in zip(
        tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True
    ):
        assert (
            gradient is not None
            and float(tf.reduce_max(tf.abs(tf.convert_to_tensor(gradient)))) > 0
        ), variable.name
    # The output table is the input table where it is constrained, not a copy of it.
    assert (model.inputs is model.items) == ("embedding" not in changes)


def test_logq_corrects_targets_by_their_support_and_samples_by_their_probability(data):
    model = make(data, logq=1.0, sample_alpha=0.5)
    model._log_support = tf.constant([0.0, 0.0, 1.0, 2.0, 4.0])
    corrected = model._activate(
        tf.zeros([1, 2]), tf.constant([3], tf.int64), tf.constant([4], tf.int64)
    )
    np.testing.assert_allclose(corrected, [[-2.0, -0.5 * 4.0]])


def test_sequences_are_sessions_where_the_rows_are(data):
    items, starts = data.events.sequences()
    assert len(starts) - 1 == len(data.events.starts) - 1 == 120
    first = {tuple(items[start:end]) for start, end in pairwise(starts)}
    assert first == {
        tuple(data.events.item[start:end]) for start, end in pairwise(data.events.starts)
    }
    log = type(data.events)(
        user=np.array([2, 2, 2, 2, 3]),
        item=np.array([10, 11, 12, 13, 14]),
        timestamp=np.array([1, 2, 3, 4, 0]),
        session=np.array([7, 5, 7, 5, 7]),
        row=np.arange(5),
        rating=np.zeros(5),
        label=np.zeros(5),
    )
    items, starts = log.sequences()
    # By the time of their first events: user 3's, then 7 of user 2, then 5; the same session id of
    # two users is two sessions.
    assert (items.tolist(), starts.tolist()) == ([14, 10, 12, 11, 13], [0, 1, 3, 5])


def test_adagrad_by_hand():
    # A row that a step touches twice, with 3 and 4: the sum is 7, the accumulator 49, the step 7 /
    # sqrt(49 + 1e-6).
    table = tf.Variable([[1.0], [2.0], [5.0]])
    optimizer = Adagrad(learning_rate=0.1, momentum=0.5)
    for gradients, rows in (([[3.0], [4.0]], [0, 0]), ([[1.0], [7.0]], [1, 0])):
        optimizer.apply_gradients(
            [(tf.IndexedSlices(tf.constant(gradients), tf.constant(rows), [3, 1]), table)]
        )
    # Row 0: -0.1; then accumulator 98, velocity 0.5 * -0.1 - 0.1 * 7 / sqrt(98) = -0.120711. Row 1:
    # -0.1. Row 2 is not touched.
    np.testing.assert_allclose(table.numpy()[:, 0], [1 - 0.1 - 0.120711, 1.9, 5.0], atol=1e-5)
    dense = tf.Variable([1.0])
    optimizer = Adagrad(learning_rate=0.1)
    optimizer.apply_gradients([(tf.constant([2.0]), dense)])
    np.testing.assert_allclose(dense, [0.9], atol=1e-5)


def test_what_is_of_another_paper_is_refused():
    # Full softmax with back-propagation through time is Tan et al.'s: models/rnn/tan.py.
    with pytest.raises(ConfigError, match="gru4rec has no hyper-parameter 'negatives'"):
        resolve("gru4rec", {"negatives": "all"})
    assert registry.get("gru4rec").kind == "sequence"
