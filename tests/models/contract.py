"""What every `retrieve` model must do.

A model's own test subclasses `RetrieveContract` and names itself.
"""

import copy
import dataclasses
import functools
from collections.abc import Hashable, Mapping
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.gpu import Measuring
from models.contract import explain
from models.contract.query import Query
from models.contract.retrieve_task import Evaluation
from models.contract.retriever import Retriever
from models.names import registry
from models.names.features import DOCUMENT, TEXT
from models.names.hyper_parameters import Epochs, Gradient
from models.names.label import WEIGHT
from models.names.sizes import Column, Sizes
from models.training import warm_start
from models.training.loop import TrainingLoop
from models.training.trainer import resolve
from tests.models.toy import NEW_ITEM, NEW_USER, example


def kind_of(model_name: str) -> Hashable:
    """What models must have in common for one of them to stand for all in a `one_of_a_kind` test.

    That is what such a test might find a fault in besides the model itself: the task, the kind of
    train rows and what a `score` model predicts; the reference is of no kind but its own.
    """
    entry = registry.get(model_name)
    return entry.task, entry.kind, entry.learns, entry.baseline


def first_of_each(kinds: Mapping[str, Hashable]) -> frozenset[str]:
    """The first name of each kind."""
    return frozenset({kind: name for name, kind in reversed(kinds.items())}.values())


@functools.cache
def stand_for_their_kind() -> frozenset[str]:
    """The models that keep the `one_of_a_kind` tests in `make test`; see `kind_of`.

    Of each kind one that learns from rows without features of items, which other tests have built.
    """
    described = {
        name: getattr(registry.load(name).Model, "reads_item_features", False)
        for name in registry.MODELS
    }
    return first_of_each({name: kind_of(name) for name in sorted(described, key=described.get)})


def strings(rows):
    """Pads lists of ids with empty strings: [B, longest]."""
    width = max(map(len, rows), default=0)
    return tf.constant(
        [list(row) + [""] * (width - len(row)) for row in rows], tf.string, shape=[len(rows), width]
    )


class Until:
    """A validation that ends a training as soon as what it measures is `enough`."""

    def __init__(self, evaluation, enough):
        self.evaluation, self.metrics, self.enough = evaluation, evaluation.metrics, enough

    def of(self, model):
        measure = self.evaluation.of(model)

        def evaluate():
            values = measure()
            model.stop_training = self.enough(values)
            return values

        return evaluate


def learn(model_name, data, evaluation, hyper_parameters, seed=3, enough=None):
    """Trains as the Trainer does, without writing anything; where it is told, until `enough`."""
    module = registry.load(model_name)
    tf.keras.utils.set_random_seed(seed)
    model = module.Model(module.HyperParameters(**hyper_parameters), data)
    evaluation = Until(evaluation, enough) if enough else evaluation
    model.learn(TrainingLoop(model.hyper_parameters, data, seed=seed, evaluation=evaluation))
    return model


def train(model_name, data, hyper_parameters, seed=3, enough=None):
    """The same of a `retrieve` model."""
    evaluation = Evaluation(data, data.queries("valid"))
    return learn(model_name, data, evaluation, hyper_parameters, seed, enough)


def with_weights(data, weight):
    """The same data where the train events weigh so much: [E] float32."""
    heavy = copy.copy(data)
    heavy._raw_spec = {**data._raw_spec, WEIGHT: None}
    heavy.events = dataclasses.replace(data.events, weight=weight)
    vars(heavy).pop("item_weights", None)
    return heavy


def assert_takes_every_weight(trained, folder):
    """A new model that starts from the trained one is the trained one."""
    warm_start.save_weights(trained.model, folder)
    model = type(trained.model)(trained.model.hyper_parameters, trained.data)
    TrainingLoop(model.hyper_parameters, trained.data).build(model)
    counts = warm_start.load_weights(model, folder)
    assert counts["complete"] and not counts["skipped"], counts
    expected = warm_start.variables_by_path(trained.model)
    found = warm_start.variables_by_path(model)
    assert found.keys() == expected.keys()
    for path, variable in found.items():
        np.testing.assert_array_equal(variable, expected[path], err_msg=path)


def assert_empty_places_change_nothing(learner, data):
    """Batches that are filled up for XLA lose what they lose without."""
    batches = learner.batches(data, 0, 0)
    plain, filled = (next(iter(each.dataset)) for each in (batches, batches.in_few_shapes()))
    losses = [float(learner.compute_loss(batch)) for batch in (plain, filled)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def loss_and_gradients(model, batch):
    """The loss of a batch and the gradients of all weights, dense.

    An index that is read twice has two rows in a sparse gradient: dense, their sum.
    """
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch)
    return [loss, *map(tf.convert_to_tensor, tape.gradient(loss, model.trainable_variables))]


def assert_steps_alike(name, data, hyper_parameters, setting):
    """Every stage of a training loses the same with `setting` as without, step by step."""
    own = resolve(name, {**hyper_parameters, setting: True})

    def losses(jit=False, half=False):
        """Stage -> the losses of its first steps."""
        found = {}

        def measure(stage, steps):
            found[stage] = steps.first(jit)[0]

        tf.keras.mixed_precision.set_global_policy("mixed_bfloat16" if half else "float32")
        tf.keras.utils.set_random_seed(3)
        try:
            registry.load(name).Model(own, data).learn(Measuring(own, data, measure=measure))
        finally:
            tf.keras.mixed_precision.set_global_policy("float32")
        return found

    other = losses(jit=setting == "jit_compile", half=setting == "mixed_precision")
    # bfloat16 keeps 8 bits: two or three digits.
    rtol = 1e-3 if setting == "jit_compile" else 5e-2
    for stage, plain in losses().items():
        np.testing.assert_allclose(other[stage], plain, rtol=rtol, err_msg=stage)


def sizes_of(model, data):
    """What `HyperParameters.parameters` is told of the data that a model was made of."""
    kinds = {feature.name: feature.kind for feature in data.features}
    fields = getattr(data, "fields", data.context)
    columns = [
        Column(field.name, field.entity, field.kind, len(field.tokens))
        for field in fields
        if field.kind != DOCUMENT
    ]
    if not hasattr(data, "fields"):
        columns += [
            Column(name, entity, kinds[name], rows - 2)
            for entity, entities in (("user", data.users), ("item", data.items))
            for name, rows in entities.vocabulary_sizes.items()
        ]
    texts = [name for name in data.items.features if kinds[name] == TEXT]
    other = getattr(model, "source", None)
    return Sizes(
        users=data.users.train_count,
        items=data.items.train_count,
        catalogue=len(data.items),
        events=len(data.events),
        sequences=len(data.events.sequences()[1]) - 1,
        columns=tuple(columns),
        item_words=len({word for name in texts for word in data.items.tokens[name]}),
        review_words=max([len(field.tokens) for field in fields if field.kind == DOCUMENT] or [0]),
        event_types=len(data.event_types),
        source_users=other.users.input_dim - 2 if other else 0,
        source_items=other.items.input_dim - 2 if other else 0,
    )


def assert_as_large_as_said(model, data):
    """The numbers in a model's variables are those that its settings say before it is made."""
    told = model.hyper_parameters.parameters(sizes_of(model, data))
    of_metrics = {
        id(variable)
        for part in model.submodules
        if isinstance(part, tf.keras.metrics.Metric)
        for variable in part.variables
    }
    variables = {id(variable): variable for variable in model.variables}
    numbers = sum(
        int(tf.size(variable)) * variable.dtype.size // 4
        for key, variable in variables.items()
        if key not in of_metrics
    )
    # How many words, or combinations of features, there are is told as an upper bound.
    assert numbers <= told.learnt + told.held <= 1.2 * numbers, told
    if not isinstance(model.hyper_parameters, Gradient):
        assert told.learnt == 0


class Contract:
    """What is asked of models of both tasks, by the fixture `trained` of either."""

    name: str
    hyper_parameters: dict = {}

    def test_is_as_large_as_its_settings_say(self, trained):
        assert_as_large_as_said(trained.model, trained.data)

    @pytest.mark.thorough
    def test_empty_places_change_nothing(self, trained):
        if "jit_compile" in type(trained.model.hyper_parameters).model_fields:
            assert_empty_places_change_nothing(trained.model, trained.data)

    @pytest.mark.thorough
    @pytest.mark.parametrize("setting", ["jit_compile", "mixed_precision"])
    def test_steps_with_and_without_are_alike(self, trained, setting):
        if setting in type(trained.model.hyper_parameters).model_fields:
            assert_steps_alike(self.name, trained.data, self.hyper_parameters, setting)


class RetrieveContract(Contract):
    """Subclass, set `name`, and `hyper_parameters` that learn the toy log in seconds."""

    def toy(self, toy_data, randomness):
        """The log as the model's runs would have it built."""
        entry = registry.get(self.name)
        described = registry.load(self.name).Model.reads_item_features
        walks = entry.defaults.get("walks")
        return toy_data(entry.kind, randomness, described=described, walks=walks)

    @pytest.fixture(scope="class")
    def trained(self, toy_data, tmp_path_factory):
        """The model trained on the learnable log, exported and loaded again.

        The tables know a user and an item more than train does.
        """
        place = tmp_path_factory.mktemp(self.name)
        toy = self.toy(toy_data, 0.0)
        data = toy.with_newcomers().load_once(self.name)
        model = train(self.name, data, self.hyper_parameters, enough=self.enough)
        folder = str(place / "1")
        retriever = Retriever(model, data)
        retriever.export(folder, rules=False)  # tests/models/test_rules.py has them
        loaded = tf.saved_model.load(folder)
        return SimpleNamespace(
            data=data,
            model=model,
            measured=Evaluation(data, data.queries("test")).of(model)(),
            retriever=retriever,
            loaded=loaded,
            signatures=loaded.signatures,
            folder=folder,
        )

    def enough(self, values):
        """Whether validation says so clearly that all is learnt that there is to learn."""
        return values["hr_10"] > 0.95 and values["lift_ndcg_10"] > 0.2

    def ask(self, trained, users, histories=None, exclude=None, k=5):
        """Calls the exported `recommend`."""
        histories, exclude = histories or [[]] * len(users), exclude or [[]] * len(users)
        ks = tf.constant([k] * len(users) if isinstance(k, int) else k, tf.int32)
        answer = trained.signatures["recommend"](
            user_id=tf.constant(users), history=strings(histories), exclude=strings(exclude), k=ks
        )
        return {name: value.numpy() for name, value in answer.items()}

    def learner(self, trained, data):
        """What learns of the events: the model, unless a part of it does."""
        return trained.model

    def test_what_events_weigh_has_an_effect(self, trained):
        """On the loss of a batch; on the scores of a model that takes no gradient steps."""
        model, settings = trained.model, trained.model.hyper_parameters
        if not model.weighs_rows:
            pytest.skip(f"{self.name} refuses weights")
        weight = 1 + np.arange(len(trained.data.events)) % 5
        data = with_weights(trained.data, weight.astype(np.float32))
        if isinstance(settings, Gradient):
            learner = self.learner(trained, data)
            batch = next(iter(learner.batches(data, 0, 0).dataset))
            alike = {**batch, WEIGHT: tf.ones_like(batch[WEIGHT])}
            unsaid = {name: column for name, column in batch.items() if name != WEIGHT}
            weighed, equal, plain = (
                float(learner.compute_loss(each)) for each in (batch, alike, unsaid)
            )
            np.testing.assert_allclose(equal, plain, rtol=1e-5)
            assert abs(weighed - plain) > 1e-4 * abs(plain)
            return
        again = type(model)(settings, data)
        again.learn(TrainingLoop(settings, data, seed=3))
        history = tf.ragged.constant([[2, 3], [4, 9]], dtype=tf.int64)
        query = Query(tf.constant([2, 3], tf.int64), tf.constant([True, True]), history)
        before, after = (each.score_items(query, each.catalogue()) for each in (model, again))
        assert np.abs(after - before).max() > 1e-4

    def test_learns_what_is_learnable(self, trained):
        values = trained.measured
        if registry.get(self.name).baseline:
            assert values["lift_ndcg_10"] == 0.0
        else:
            # A block has 15 items, 8 of them seen: whoever knows the block has the target among 7.
            assert values["hr_10"] > 0.8 and values["lift_ndcg_10"] > 0.15, values
        assert values["tie_gap_10"] < 0.01

    @pytest.mark.one_of_a_kind
    def test_does_not_beat_popularity_on_noise(self, toy_data):
        data = self.toy(toy_data, 1.0).load_once(self.name)
        model = train(self.name, data, self.hyper_parameters)
        queries = data.queries("test")
        values = Evaluation(data, queries).of(model)()
        # HR@10 of a blind guess is about 10 / 52; three standard errors of 120 queries.
        assert (
            abs(values["hr_10"] - values["popularity_hr_10"])
            < 3 * (0.19 * 0.81 / len(queries)) ** 0.5 * 2**0.5
        )

    def test_exported_model_measures_the_same(self, trained):
        queries = trained.data.queries("test")
        inside = trained.measured
        outside = trained.signatures["evaluate"](examples=tf.constant(queries, tf.string))
        for name, value in inside.items():
            np.testing.assert_allclose(np.mean(outside[name]), value, atol=1e-5, err_msg=name)
            assert outside[name].shape == (len(queries), 1)

    def test_batch_equals_single(self, trained):
        users, histories = (
            ["user 0", "nobody", "user 5"],
            [[], ["item 3 é世", "item 4 é世"], ["item 20 é世"]],
        )
        together = self.ask(trained, users, histories, k=60)
        for row, (user, history) in enumerate(zip(users, histories)):
            alone = self.ask(trained, [user], [history])
            items, scores = alone["item_id"][0], alone["score"][0]
            assert len(set(items)) == 5
            # By their scores: of items that are as good as equal either may come first.
            of = dict(zip(together["item_id"][row], together["score"][row]))
            for expected in (together["score"][row][:5], [of[item] for item in items]):
                np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)

    def test_never_returns_seen_or_excluded_items(self, trained):
        first = self.ask(trained, ["user 1"], k=10)["item_id"][0]
        again = self.ask(
            trained,
            ["user 1"],
            exclude=[[item.decode() for item in first[:4]] + ["no such item"]],
            k=60,
        )
        returned = set(again["item_id"][0]) - {b""}
        history = trained.data.user_history[
            int(trained.data.user_table.lookup(tf.constant("user 1")))
        ].numpy()
        seen = set(trained.data.items.ids[history - 2])
        assert returned and not returned & seen and not returned & set(first[:4])
        asked = self.ask(trained, ["user 1"], histories=[["item 7 é世"]], k=60)
        assert "item 7 é世".encode() not in asked["item_id"][0]

    def test_k_beyond_the_catalogue(self, trained):
        answer = self.ask(trained, ["user 2", "nobody"], k=10_000)
        assert answer["item_id"].shape[1] == len(trained.data.items)
        assert sum(item != b"" for item in answer["item_id"][1]) == len(trained.data.items)
        assert len(set(answer["item_id"][1])) == len(trained.data.items)
        assert np.isfinite(answer["score"]).all()

    def test_each_row_has_its_own_k(self, trained):
        answer = self.ask(trained, ["user 2", "user 3"], k=[1, 4])
        assert [(row != b"").sum() for row in answer["item_id"]] == [1, 4]

    @pytest.mark.parametrize("k", [0, -1])
    def test_k_below_one_is_refused(self, trained, k):
        with pytest.raises(tf.errors.InvalidArgumentError, match="k must be at least 1"):
            self.ask(trained, ["user 2"], k=k)

    def test_unknown_user_without_history_gets_popularity(self, trained):
        answer = self.ask(trained, ["nobody", ""], k=5)
        popular = trained.data.items.ids[np.argsort(-trained.data.item_counts, kind="stable")[:5]]
        for row in range(2):
            np.testing.assert_array_equal(answer["item_id"][row], popular)
        expected = b"fold-in" if registry.get(self.name).baseline else b"fallback"
        assert set(answer["strategy"]) == {expected}

    def test_unknown_user_with_a_history(self, trained):
        answer = self.ask(
            trained,
            ["nobody", "nobody"],
            [["item 2 é世", "item 3 é世", "item 5 é世"], ["no such item"]],
            k=5,
        )
        if trained.model.uses_history:
            assert answer["strategy"].tolist() == [b"fold-in", b"fallback"]
            block = {f"item {number} é世".encode() for number in range(15)}
            assert len(set(answer["item_id"][0]) & block) >= 4
        else:
            assert len(set(answer["strategy"])) == 1

    def test_examples_give_the_same_answer(self, trained):
        rows = [example(user_id=["user 0"]), example(user_id=["user 1"], exclude=["item 1 é世"])]
        answer = trained.signatures["recommend_examples"](examples=tf.constant(rows))
        expected = self.ask(trained, ["user 0", "user 1"], exclude=[[], ["item 1 é世"]], k=10)
        np.testing.assert_array_equal(answer["item_id"], expected["item_id"])

    def test_says_what_carried_an_answer(self, trained):
        """Items of who asks, the heaviest first; parts of a sum add up to the score."""
        data, model = trained.data, trained.model
        users, histories = ["user 0", "nobody", ""], [[], ["item 3 é世", "item 4 é世"], []]
        answer = self.ask(trained, users, histories)
        why = trained.retriever.explain(
            user_id=tf.constant(users),
            history=strings(histories),
            item_id=tf.constant(answer["item_id"]),
            reasons=tf.constant([9, 1, 3]),
        )
        reason, weight, basis = (why[name].numpy() for name in ("reason", "weight", "basis"))
        assert np.isfinite(weight).all() and ((weight > 0) == (reason != b"")).all()
        assert (np.diff(weight, axis=2) <= 0).all()
        assert ((reason[1] != b"").sum(axis=1) <= 1).all()
        user = int(data.user_table.lookup(tf.constant("user 0")))
        history = tf.gather(data.user_history, [user])
        stored = set(data.items.ids[history[0].numpy() - 2])
        asked = {item.encode() for item in histories[1]}
        assert {*reason[0].ravel()} <= stored | {b""} and {*reason[1].ravel()} <= asked | {b""}
        assert not reason[2].any()
        for row, strategy in enumerate(answer["strategy"]):
            assert set(basis[row]) == {
                model.explains.encode() if strategy in (b"model", b"fold-in") else b"popularity"
            }
        carries = model.explains not in ("none", "popularity")
        assert (reason[0] != b"").any() == carries
        if not carries:
            return
        query = Query(tf.constant([user], tf.int64), tf.constant([True]), history)
        position = data.item_table.lookup(tf.constant(answer["item_id"][:1])) - 2
        parts = model.contributions(
            query, explain.newest_items(history), tf.cast(position, tf.int32), model.catalogue()
        ).numpy()[0]
        if "embed_items" in trained.signatures:  # as `explain_features` does
            vectors, _ = model.vectors_at(position[0], model.catalogue())
            place = tf.range(len(vectors))[tf.newaxis]
            newest, alone = explain.newest_items(history), model.catalogue_of(vectors)
            again = model.contributions(query, newest, place, alone).numpy()[0]
            np.testing.assert_allclose(again, parts, rtol=1e-4, atol=1e-5)
        # A user of the toy has nine items; those that speak against an answer did not carry it.
        told = -np.sort(-np.maximum(parts, 0), axis=1)
        np.testing.assert_allclose(weight[0], told, rtol=1e-3, atol=1e-5)
        if model.explains == "sum":
            np.testing.assert_allclose(parts.sum(axis=1), answer["score"][0], rtol=1e-4, atol=1e-5)

    def test_strategy_of_a_known_user_is_the_model(self, trained):
        assert self.ask(trained, ["user 0"])["strategy"].tolist() == [b"model"]

    def test_a_user_and_an_item_that_only_the_tables_know(self, trained):
        answer = self.ask(
            trained,
            [NEW_USER, NEW_USER, "user 0"],
            [[], ["item 2 é世", NEW_ITEM], [NEW_ITEM]],
            k=99,
        )
        if registry.get(self.name).baseline or not trained.model.uses_history:
            assert answer["strategy"][0] == answer["strategy"][1] != b"model"
        else:
            assert answer["strategy"][1] == b"fold-in" and answer["strategy"][0] != b"model"
        assert answer["strategy"][2] == b"model" and np.isfinite(answer["score"]).all()
        # Whatever the model makes of the item, it comes back only if it is of the catalogue, and
        # not to whom it was shown.
        assert (NEW_ITEM.encode() in answer["item_id"][0]) == trained.model.cold_items
        assert NEW_ITEM.encode() not in answer["item_id"][1:]

    def test_a_request_is_what_the_model_says_of_its_query(self, trained):
        """A known user with a history: added to the stored one, newest last, or the session."""
        data, model = trained.data, trained.model
        user = data.user_table.lookup(tf.constant(["user 1"]))
        stored = data.user_history[int(user[0])].numpy()
        asked = [index for index in range(2, 62) if index not in stored][:3]
        read = asked if model.session_based else [*stored, *asked]
        history = tf.RaggedTensor.from_tensor(tf.constant([read], tf.int64))
        expected = model.score_items(
            Query(user, tf.constant([True]), history), model.catalogue()
        ).numpy()[0]
        ids = data.items.ids
        answer = self.ask(trained, ["user 1"], [[ids[index - 2].decode() for index in asked]], k=99)
        seen = {ids[index - 2] for index in (*stored, *asked)}
        place = {item: number for number, item in enumerate(ids)}
        returned = [item for item in answer["item_id"][0] if item]
        assert set(returned) == {
            item for item in ids if item not in seen and np.isfinite(expected[place[item]])
        }
        for item, score in zip(returned, answer["score"][0]):
            np.testing.assert_allclose(score, expected[place[item]], rtol=1e-4, atol=1e-5)

    def test_the_nearest_to_an_embedding_are_what_is_recommended(self, trained):
        if "embed" not in trained.signatures:
            pytest.skip(f"{self.name} has no embedding")
        users, histories = ["user 0", "nobody"], [["item 9 é世"], ["item 2 é世", "item 3 é世"]]
        if not trained.model.uses_history:
            users, histories = ["user 0", "user 7"], [["item 9 é世"], []]
        embedding = trained.signatures["embed"](
            user_id=tf.constant(users), history=strings(histories)
        )["embedding"]
        found = trained.signatures["retrieve"](embedding=embedding, k=tf.constant(99))
        answer = self.ask(trained, users, histories, k=99)
        for row in range(2):
            score = dict(
                zip(found["item_id"].numpy()[row], found["score"].numpy()[row], strict=True)
            )
            returned = [item for item in answer["item_id"][row] if item]
            assert len(returned) > 40
            for item, value in zip(returned, answer["score"][row]):
                np.testing.assert_allclose(score[item], value, rtol=1e-4, atol=1e-5)

    def test_a_warm_start_takes_every_weight(self, trained, tmp_path):
        if not isinstance(trained.model.hyper_parameters, Epochs):
            pytest.skip(f"{self.name} is fitted in closed form")
        assert_takes_every_weight(trained, str(tmp_path))
