"""The training loop and the Trainer's run_fn: resume, strategies, warm start, refusals."""

import gc
import importlib
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import weakref
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from components.tables import records
from models.contract.recommender import Recommender
from models.contract.retrieve_task import Evaluation
from models.inputs import sampling
from models.inputs.dropout import Dropout, Step
from models.names import metrics, registry
from models.names.errors import ConfigError, DataError
from models.names.hyper_parameters import Epochs, Gradient
from models.names.label import Label
from models.training import keeper, trainer, warm_start, warm_up
from models.training.loop import TrainingLoop
from tests.models import test_gru4rec as gru4rec
from tests.models.test_neumf import TOY
from tests.models.toy import ToyData

SMALL = {**TOY, "epochs": 3, "pretrain": False}


def arguments(data, folder, **config):
    splits = data.splits
    return SimpleNamespace(
        train_files=[splits[name] for name in ("train", "items", "users")],
        eval_files=[splits["valid"]],
        transform_graph_path=data.graph,
        schema_path=data.schema,
        serving_model_dir=str(folder / "Format-Serving"),
        model_run_dir=str(folder / "run"),
        base_model=None,
        hyperparameters=None,
        custom_config={"model": "neumf", "hyper_parameters": SMALL, "seed": 1, **config},
    )


@pytest.fixture(scope="module")
def toy(toy_data):
    return toy_data("event", 0.0)


@pytest.fixture
def unexported(monkeypatch):
    """Of a trained model `run_fn` writes the log and the weights alone.

    To export takes longer than to train; what an export holds is the next test's matter.
    """
    monkeypatch.setattr("models.contract.retriever.Retriever.export", lambda *_: None)
    monkeypatch.setattr(warm_up, "save_requests", lambda _: 0)


@pytest.fixture(scope="module")
def ran(toy, tmp_path_factory):
    """The folder of a whole `run_fn`, and what it left in the process.

    It is two_tower's, which has gradients of its own.
    """
    folder, made, model = tmp_path_factory.mktemp("ran"), [], registry.load("two_tower").Model
    init = model.__init__

    def noted(self, *given):
        init(self, *given)
        made.append(weakref.ref(self))

    registered = importlib.import_module("tensorflow.python.framework.ops").gradient_registry
    before = set(registered.list())
    config = {"model": "two_tower", "hyper_parameters": {"epochs": 3, "embedding_dim": 8}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "__init__", noted)
        trainer.run_fn(arguments(toy, folder, checkpoint_dir=str(folder / "checkpoints"), **config))
    gc.collect()
    loaded = tf.saved_model.load(str(folder / "Format-Serving"))
    return SimpleNamespace(
        folder=folder,
        models=made,
        signatures=set(loaded.signatures),
        registered=registered.list() - before,
    )


def test_run_fn_writes_a_model_a_log_and_tensorboard_events(ran):
    log = json.loads((ran.folder / "run" / "training.json").read_text())
    assert log["model"] == "two_tower" and len(log["epochs"]) == 3 and log["parameters"] > 1000
    # The ninth event of user 6, held out for the test: `toy.write_log`'s newest.
    assert log["history_until"] == 1_000_000 + 100 * 8 + 6
    assert log["epochs"][-1]["loss"] < log["epochs"][0]["loss"]
    assert {"recommend", "evaluate", "serving_default"} <= ran.signatures
    assert list((ran.folder / "run").rglob("events.out.tfevents*"))
    assert not (ran.folder / "checkpoints").exists()


def test_no_model_outlives_its_training(ran):
    """Not by the gradients of its own, which TensorFlow registers for good."""
    assert len(ran.models) == 1 and ran.models[0]() is None
    assert not [name for name in ran.registered if "CustomGradient" in name]


def test_interrupted_training_is_resumed(toy, tmp_path, monkeypatch, unexported):
    """Of kill -9 the end-to-end test tells."""

    def interrupt(line):
        if line.startswith("model epoch   2"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(keeper, "say", interrupt)
        trainer.run_fn(arguments(toy, tmp_path, checkpoint_dir=str(tmp_path / "checkpoints")))
    assert not (tmp_path / "run" / "training.json").exists()
    # The interrupt came before the second epoch was saved.
    assert json.loads((tmp_path / "checkpoints" / "model" / "state.json").read_text())["epoch"] == 1
    trainer.run_fn(arguments(toy, tmp_path, checkpoint_dir=str(tmp_path / "checkpoints")))
    log = json.loads((tmp_path / "run" / "training.json").read_text())
    assert [row["epoch"] for row in log["epochs"]] == [1, 2, 3]
    assert not (tmp_path / "checkpoints").exists()


def test_interrupted_and_whole_training_agree(toy, tmp_path):
    """To the bit, with dropout too: killed after the second epoch of four, as the state has it."""
    data, module = toy.load("neumf"), registry.load("neumf")

    def run(epochs, folder, seed=5):
        tf.keras.utils.set_random_seed(seed)
        parameters = module.HyperParameters(
            **{**SMALL, "epochs": epochs, "patience": 50, "dropout": 0.5}
        )
        model = module.Model(parameters, data)
        loop = TrainingLoop(
            parameters,
            data,
            seed=seed,
            evaluation=Evaluation(data, data.queries("valid")),
            checkpoint_dir=folder,
        )
        model.learn(loop)
        return loop, warm_start.variables_by_path(model)

    whole, weights = run(4, None)
    run(2, str(tmp_path))
    state = json.loads((tmp_path / "model" / "state.json").read_text())
    (tmp_path / "model" / "state.json").write_text(json.dumps({**state, "finished": False}))
    resumed, others = run(4, str(tmp_path))
    assert [row["loss"] for row in whole.history] == [row["loss"] for row in resumed.history]
    for path, variable in weights.items():
        np.testing.assert_array_equal(variable, others[path], err_msg=path)


def test_a_checkpoint_is_of_one_worker_and_one_base_model(tmp_path, monkeypatch):
    """A training that starts from other weights is another one; a worker writes what is its own."""
    config = {"checkpoint_dir": str(tmp_path / "checkpoints")}
    args = SimpleNamespace(
        serving_model_dir="serving",
        model_run_dir="run",
        base_model=None,
        hyperparameters=None,
        custom_config=config,
    )
    alone = trainer.Folders.of(args)
    assert (alone.serving, alone.logs) == ("serving", "run")
    assert alone.checkpoints == config["checkpoint_dir"] and alone.passing == (alone.checkpoints,)

    bases = []
    for name in ("one", "other"):
        (tmp_path / name / "assets.extra").mkdir(parents=True)
        (tmp_path / name / "assets.extra" / "weights.npz").write_bytes(name.encode())
        args.base_model = str(tmp_path / name)
        bases.append(trainer.Folders.of(args).checkpoints)
    assert len({alone.checkpoints, *bases}) == 3
    # The same weights elsewhere are the same base.
    (tmp_path / "other").rename(tmp_path / "moved")
    args.base_model = str(tmp_path / "moved")
    assert trainer.Folders.of(args).checkpoints == bases[1]

    # So is one of other epochs.
    args.hyperparameters = {"stage_epochs": {"gmf": 3, "neumf": 2}}
    again = trainer.Folders.of(args).checkpoints
    args.hyperparameters = {"stage_epochs": {"gmf": 3, "neumf": 1}}
    assert len({again, bases[1], trainer.Folders.of(args).checkpoints}) == 3

    args.base_model, args.hyperparameters, found = None, None, {}
    for number in range(3):
        task = {"type": "worker", "index": number}
        cluster = {"worker": ["a:1", "b:1", "c:1"]}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
        found[number] = trainer.Folders.of(args)
    assert found[0] == alone
    for place in ("serving", "logs", "checkpoints"):
        assert len({getattr(folders, place) for folders in found.values()}) == 3
    # Beside the chief's, whose end must not remove them; what is not kept is removed.
    assert all(alone.checkpoints + "/" not in folders.checkpoints for folders in found.values())
    assert found[1].passing == (os.path.dirname(found[1].serving), found[1].checkpoints)
    for number in (1, 2):
        os.rmdir(found[number].passing[0])


def assert_replicas_drop_other_places():
    """Of two masks that know nothing of each other half of 2,000 places agree (deviation 22)."""
    strategy, layer = trainer.choose_strategy(), Dropout(0.5)

    @tf.function
    def dropped():
        with Step(1, tf.constant(0, tf.int64)):
            return layer(tf.ones([2000]), training=True)

    one, two = (left.numpy() for left in strategy.run(dropped).values)
    assert abs((one == two).sum() - 1000) < 110


class LineHyperParameters(Epochs, Gradient):
    """Those of `Line`."""


class Line(Recommender[LineHyperParameters]):
    """Two weights that least squares pulls about, and a third that no gradient reaches."""

    def __init__(self, hyper_parameters, data):
        super().__init__(hyper_parameters, data)
        self.slope = self.add_weight(name="slope", shape=[2], initializer="ones")
        self.idle = self.add_weight(name="idle", shape=[], initializer="zeros")

    def batches(self, data, seed, first_epoch):
        return sampling.shuffled_batches({"x": data[0], "y": data[1]}, 4, seed, first_epoch)

    def compute_loss(self, inputs, training=False):
        guess = tf.linalg.matvec(inputs["x"], self.slope) + 0 * self.idle
        return tf.reduce_mean((guess - inputs["y"]) ** 2)


def follow_line(
    curve, folder=None, kind=metrics.RETRIEVE, killed_at=None, validate=True, **hyper_parameters
):
    """Trains a `Line` whose validation says what `curve` says, epoch by epoch.

    Returns:
        The loop, the model, slopes at the start of every epoch and slopes that were validated.
    """
    generator = np.random.default_rng(0)
    data = [generator.normal(size=size).astype(np.float32) for size in ((12, 2), 12)]
    parameters = LineHyperParameters(**{"learning_rate": 0.1, **hyper_parameters})
    model, started, validated = Line(parameters, data), [], []

    def of(model):
        def evaluate():
            validated.append(model.slope.numpy())
            epoch = len(loop.history) + 1
            if epoch == killed_at:
                raise KeyboardInterrupt
            return {kind.monitor: curve[epoch - 1]}

        return evaluate

    loop = TrainingLoop(
        parameters,
        data,
        seed=3,
        evaluation=SimpleNamespace(metrics=kind, of=of) if curve else None,
        checkpoint_dir=folder and str(folder),
    )
    loop.fit(model, before_epoch=lambda: started.append(model.slope.numpy()), validate=validate)
    return loop, model, started, validated


def averaged(rows, share):
    """The averages after each of the rows."""
    averages = []
    for number, row in enumerate(rows, start=1):
        now = max(share, 1 / number)
        averages.append(row if not averages else averages[-1] + now * (row - averages[-1]))
    return averages


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_averaged_weights_are_validated_and_kept(share, monkeypatch):
    monkeypatch.setattr(keeper, "_NUMBERS_AT_ONCE", 1)  # as of a table that is larger
    curve = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    loop, model, started, validated = follow_line(curve, epochs=6, latest_share=share)
    # Training goes on from its own weights: those at the start of an epoch are the last one's.
    expected = averaged(started[1:], share)
    np.testing.assert_allclose(validated[:5], expected, rtol=1e-6)
    assert loop.best_epochs == {"model": 6}
    np.testing.assert_array_equal(model.slope, validated[5])
    assert model.idle.numpy() == 0
    # Trained again for as many epochs, without validation, it comes to the same.
    again = follow_line([], epochs=6, latest_share=share)[1]
    np.testing.assert_array_equal(model.slope, again.slope)


def test_averages_and_weights_change_places_without_a_copy():
    """Tables of 40 MB: at the end of an epoch they lie where they lay, if somewhere else."""
    kept = object.__new__(keeper.Keeper)
    table, average = (tf.Variable(tf.fill([10_000_000], number)) for number in (1.0, 2.0))
    kept._trained, kept._average = SimpleNamespace(trainable_variables=[table]), [average]

    def place(variable):
        return np.asarray(variable.read_value()).ctypes.data

    before, during = (place(table), place(average)), []
    assert len({*before}) == 2
    kept._averaged(lambda: during.extend([float(table[7]), place(table), place(average)]))
    assert during == [2.0, *reversed(before)]
    assert (place(table), place(average)) == before and float(average[7]) == 2.0
    average.assign_add(tf.ones_like(average))  # what is shared is copied when one side changes
    assert float(table[7]) == 1.0


def test_the_averaged_curve_chooses_and_ends():
    # Epoch 3 is chance; the curve: .1, .15, .3, .27, .309, .3363, .3554, .3488, .3442
    curve = [0.1, 0.2, 0.6, 0.2, 0.4, 0.4, 0.4, 0.3333, 0.3333, 0.4, 0.4]
    loop, model, _, validated = follow_line(curve, epochs=11, patience=2, latest_share=0.3)
    assert loop.best_epochs == {"model": 7} and len(loop.history) == 9
    np.testing.assert_array_equal(model.slope, validated[6])
    loop, model, _, validated = follow_line(curve, epochs=11, patience=2, latest_share=1)
    assert loop.best_epochs == {"model": 3} and len(loop.history) == 5
    np.testing.assert_array_equal(model.slope, validated[2])


def test_a_part_that_is_not_validated_is_trained_for_all_epochs():
    # Validated, the first epoch would be the best and the second the last.
    curve = [0.5, 0.4, 0.3, 0.2, 0.1]
    loop, model, _, validated = follow_line(curve, epochs=5, patience=1, validate=False)
    assert not validated and loop.best_epochs == {"model": 5} and len(loop.history) == 5
    assert "ndcg_10" not in loop.history[0]
    np.testing.assert_array_equal(model.slope, follow_line([], epochs=5)[1].slope)


def test_a_loss_is_chosen_where_its_curve_is_lowest():
    curve = [0.7, 0.5, 0.6, 0.55, 0.7, 0.8]
    loop = follow_line(curve, kind=metrics.CLICK, epochs=6, patience=2)[0]
    # The curve: .7, .6, .6 (no better), .585, .6195, .6737
    assert loop.best_epochs == {"model": 4} and len(loop.history) == 6


@pytest.mark.parametrize(
    "curve", [[0.5, 0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4, 0.5]], ids=["falling", "rising"]
)
def test_a_killed_training_comes_to_the_same_bits(curve, tmp_path):
    """The best may lie before the kill or after it; averages and curve are the same."""
    options = {"epochs": 5, "patience": 5}
    whole, model, _, validated = follow_line(curve, **options)
    with pytest.raises(KeyboardInterrupt):
        follow_line(curve, tmp_path, killed_at=4, **options)
    resumed, again, _, later = follow_line(curve, tmp_path, **options)
    assert len(later) == 2 and resumed.best_epochs == whole.best_epochs
    np.testing.assert_array_equal(later, validated[3:])
    np.testing.assert_array_equal(model.slope, again.slope)
    assert [row["loss"] for row in whole.history] == [row["loss"] for row in resumed.history]
    states = [json.loads(each.read_text()) for each in tmp_path.rglob("state.json")]
    assert [state["curve"] for state in states] == [averaged(curve, 0.3)[-1]]


@pytest.mark.thorough
def test_two_logical_devices_train_with_a_mirrored_strategy(toy_data, tmp_path):
    """GRU4Rec, whose replicas carry states of their own and draw dropout of their own."""
    data = toy_data("sequence", 0.0)
    config = {
        "model": "gru4rec",
        "hyper_parameters": {**gru4rec.TOY, "dropout_hidden": 0.1, "dropout_embedding": 0.1},
    }
    program = textwrap.dedent(
        f"""
        import models, pathlib, sys
        import tensorflow as tf
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], \
[tf.config.LogicalDeviceConfiguration()] * 2)
        from tests.models import toy, test_training
        from models.training import trainer
        data = toy.ToyData(pathlib.Path({str(data.folder)!r}))
        trainer.run_fn(test_training.arguments(data, pathlib.Path({str(tmp_path)!r}), **{config!r}))
        test_training.assert_replicas_drop_other_places()
        """
    )
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        check=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    log = json.loads((tmp_path / "run" / "training.json").read_text())
    assert (
        log["model"] == "gru4rec" and log["strategy"] == "MirroredStrategy" and log["replicas"] == 2
    )
    assert log["epochs"][-1]["loss"] < log["epochs"][0]["loss"]


def one_epoch(name, data, overrides, strategy):
    """The trained weights and the mean loss of two steps, the second with a single row."""
    rows = len(data.events) if name == "neumf" else len(data.train["label"])
    parameters = registry.load(name).HyperParameters(**overrides, epochs=1, batch_size=rows - 1)
    tf.keras.utils.set_random_seed(1)
    with strategy.scope():
        model = registry.load(name).Model(parameters, data)
        plain = tf.keras.optimizers.SGD(0.5)
    loop = TrainingLoop(parameters, data, seed=2, strategy=strategy)
    # The same start, whatever a strategy makes of the seed.
    loop.build(model)
    for weight in model.trainable_variables:
        weight.assign(tf.random.stateless_normal(weight.shape, [3, len(weight.shape)]) / 10)
    if name in ("neumf", "deepfm"):
        loop.fit(model, optimizer=plain)
    else:
        model.learn(loop)  # FTRL; SGD on a sum
    return [weight.numpy() for weight in model.trainable_variables], loop.history[-1]["loss"]


def test_a_replica_starts_with_the_weights_of_one_process(toy_data):
    """Layers that are made by the first batch are made in the replica's thread."""
    data = toy_data("profile", 0.0).load_once("mult_vae")
    parameters = registry.load("mult_vae").HyperParameters(epochs=1, hidden=4, latent=2)

    def made(strategy):
        tf.keras.utils.set_random_seed(1)
        with strategy.scope():
            model = registry.load("mult_vae").Model(parameters, data)
        TrainingLoop(parameters, data, seed=2, strategy=strategy).build(model)
        return [weight.numpy() for weight in model.trainable_variables]

    one, replica = made(tf.distribute.get_strategy()), made(tf.distribute.MirroredStrategy(["CPU"]))
    assert len(one) == len(replica) > 2
    for left, right in zip(one, replica, strict=True):
        np.testing.assert_array_equal(left, right)


CLICK = Label(column="rating", threshold=4.0)
BESIDE_ONE = (
    ("neumf", None, {"variant": "gmf", "factors": 4, "l2": 0.1}),
    ("deepfm", CLICK, {"hidden": (8,), "dropout": 0.0, "l2": 0.1}),
    ("lr", CLICK, {"l1": 0.1, "l2": 0.1}),
    ("biased_mf", Label(column="rating"), {"learning_rate": 0.001}),
)


def compare_replicas(folders):
    """Two replicas, on logical devices of this process, beside one."""
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for folder, (name, label, overrides) in zip(folders, BESIDE_ONE, strict=True):
        data = ToyData(pathlib.Path(folder), label).load(name)
        one, one_loss = one_epoch(name, data, overrides, tf.distribute.get_strategy())
        two, two_loss = one_epoch(name, data, overrides, mirrored)
        for left, right in zip(one, two, strict=True):
            np.testing.assert_allclose(left, right, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(one_loss, two_loss, rtol=1e-5, err_msg=name)


@pytest.mark.thorough
def test_two_logical_devices_step_as_one(toy_data):
    """Means, a sum, penalties, and a batch that leaves one of the two without a row."""
    folders = [
        str(toy_data("event", 0.0, *([label] if label else [])).folder)
        for _, label, _ in BESIDE_ONE
    ]
    program = textwrap.dedent(
        f"""
        import gc, models
        import tensorflow as tf
        gc.disable()  # as tests/conftest.py does
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], \
[tf.config.LogicalDeviceConfiguration()] * 2)
        from tests.models import test_training
        test_training.compare_replicas({folders!r})
        """
    )
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        check=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )


def test_warm_start_aligns_rows_by_token(toy, tmp_path):
    data, module = toy.load("neumf"), registry.load("neumf")
    parameters = module.HyperParameters(**SMALL)
    old, new = module.Model(parameters, data), module.Model(parameters, data)
    TrainingLoop(parameters, data).build(old)
    warm_start.save_weights(old, str(tmp_path))
    TrainingLoop(parameters, data).build(new)
    # A vocabulary in another order, with one item that the old model has never seen.
    new.gmf_item.tokens = np.array([b"new one", *old.gmf_item.tokens[:0:-1]], object)
    fresh = new.gmf_item.embeddings.numpy()
    counts = warm_start.load_weights(new, str(tmp_path))
    before, after = old.gmf_item.embeddings.numpy(), new.gmf_item.embeddings.numpy()
    np.testing.assert_array_equal(after[2], fresh[2])
    np.testing.assert_array_equal(after[3:], before[:2:-1])
    assert counts["aligned"] == 4 and counts["skipped"] == 0 and counts["copied"] > 0
    assert counts["complete"]


def built(name, data, **hyper_parameters):
    """A model with its variables, untrained."""
    module = registry.load(name)
    model = module.Model(module.HyperParameters(batch_size=64, **hyper_parameters), data)
    TrainingLoop(model.hyper_parameters, data).build(model)
    return model


def test_warm_start_after_a_feature_was_added_fills_the_tables_of_the_same_name(toy, tmp_path):
    """The old model knows all users' features but their age, whose table comes before others."""
    data = toy.load("two_tower")
    features = dict(data.users.features)
    assert list(features) == ["user_age", "user_gender"]
    data.users.features = {"user_gender": features["user_gender"]}
    old = built("two_tower", data, hidden=())
    warm_start.save_weights(old, str(tmp_path))
    data.users.features = features
    new = built("two_tower", data, hidden=())
    paths = warm_start.variables_by_path(new)
    fresh = {path: variable.numpy() for path, variable in paths.items()}
    counts = warm_start.load_weights(new, str(tmp_path))
    saved = warm_start.variables_by_path(old)
    new_ones = set(paths) - set(saved)
    assert new_ones == {"_users/_embeddings/user_age/embeddings"}
    # The kernel that reads the age beside the rest is wider: as it was.
    other = {path for path in saved if saved[path].shape != paths[path].shape}
    assert other == {"_user_tower/_output/kernel"}
    for path, variable in paths.items():
        before = fresh[path] if path in new_ones | other else saved[path]
        np.testing.assert_array_equal(variable, before, err_msg=path)
    assert counts["skipped"] == 2 and not counts["complete"]


def test_warm_start_refuses_another_model(toy, tmp_path):
    data = toy.load_once("neumf")
    warm_start.save_weights(built("bpr_mf", data), str(tmp_path))
    with pytest.raises(ConfigError, match="weights of neumf only; received those of bpr_mf"):
        warm_start.load_weights(built("neumf", data), str(tmp_path))


def test_warm_start_from_other_hyper_parameters_is_none(toy, tmp_path):
    """Of NeuMF's 11 variables only the bias of the prediction does not depend on `factors`."""
    data = toy.load_once("neumf")
    warm_start.save_weights(built("neumf", data, factors=4), str(tmp_path))
    counts = warm_start.load_weights(built("neumf", data, factors=8), str(tmp_path))
    assert counts == {"copied": 1, "aligned": 0, "rows": 0, "skipped": 10, "complete": False}


def test_warm_start_from_a_file_without_names_is_cold(toy, tmp_path, capsys):
    model = built("bpr_mf", toy.load_once("bpr_mf"))
    (tmp_path / "assets.extra").mkdir()
    with open(tmp_path / "assets.extra" / "weights.npz", "wb") as file:
        np.savez(file, **{f"weight_{n}": value for n, value in enumerate(model.get_weights())})
    counts = warm_start.load_weights(model, str(tmp_path))
    assert not counts["complete"] and counts["copied"] == 0
    assert "cannot be read, and training starts cold" in capsys.readouterr().out


def test_saved_weights_rebuild_the_model(toy, tmp_path):
    """Every row, those of number buckets, which stand for no token, included."""
    data, module = toy.load("two_tower"), registry.load("two_tower")
    parameters = module.HyperParameters(batch_size=64)
    old, new = module.Model(parameters, data), module.Model(parameters, data)
    for model in (old, new):
        TrainingLoop(parameters, data).build(model)
    warm_start.save_weights(old, str(tmp_path))
    warm_start.load_weights(new, str(tmp_path))
    for before, after in zip(old.weights, new.weights, strict=True):
        if not before.name.startswith(("total", "count")):  # of the mean loss, which is no weight
            np.testing.assert_array_equal(before, after, err_msg=before.name)


def test_run_fn_warm_starts_from_a_base_model(toy, tmp_path, unexported):
    first = arguments(toy, tmp_path / "first")
    trainer.run_fn(first)
    second = arguments(toy, tmp_path / "second", hyper_parameters={**SMALL, "epochs": 1})
    second.base_model = first.serving_model_dir
    trainer.run_fn(second)
    log = json.loads((tmp_path / "second" / "run" / "training.json").read_text())
    assert log["warm_start"]["rows"] > 300
    cold = json.loads((tmp_path / "first" / "run" / "training.json").read_text())
    assert log["epochs"][0]["loss"] < cold["epochs"][0]["loss"]


def test_run_fn_fits_again_for_the_epochs_that_were_chosen(toy, tmp_path, unexported):
    """Two of three, without validation; the log names the model that was measured."""
    again = arguments(toy, tmp_path)
    nobody = pa.table({"user_id": pa.array([], pa.large_binary())})
    records.write_table(nobody, str(tmp_path / "Split-valid"), 0)
    again.eval_files = [str(tmp_path / "Split-valid" / "*")]
    again.hyperparameters = {"stage_epochs": {"model": 2}, "of": "f00d", "model": "runs/1"}
    trainer.run_fn(again)
    log = json.loads((tmp_path / "run" / "training.json").read_text())
    assert [row["epoch"] for row in log["epochs"]] == [1, 2]
    assert log["best_epochs"] == {"model": 2} and "ndcg_10" not in log["epochs"][1]
    assert log["refit"] == again.hyperparameters and log["hyper_parameters"]["epochs"] == 3


def test_a_run_may_choose_its_epoch_by_another_metric(toy, tmp_path, unexported):
    trainer.run_fn(
        arguments(
            toy,
            tmp_path,
            hyper_parameters={
                **SMALL,
                "epochs": 6,
                "patience": 6,
                "monitor": "recall_20",
                "latest_share": 1,
            },
        )
    )
    log = json.loads((tmp_path / "run" / "training.json").read_text())
    recall = [row["recall_20"] for row in log["epochs"]]
    assert log["monitor"] == "recall_20" and log["best_epoch"] == 1 + recall.index(max(recall))
    assert not metrics.CLICK.higher_is_better and metrics.CLICK.choosing_by("auc").higher_is_better
    with pytest.raises(
        ConfigError, match="monitor: one of .*received 'ndgc_10'.*did you mean 'ndcg_10'"
    ):
        metrics.RETRIEVE.choosing_by("ndgc_10")


def test_unknown_hyper_parameter_names_the_nearest():
    with pytest.raises(ConfigError, match="learning_rat.*did you mean 'learning_rate'"):
        trainer.resolve("neumf", {"learning_rat": 0.1})
    with pytest.raises(ConfigError, match="epochs.*must be at least 1.*received 0"):
        trainer.resolve("neumf", {"epochs": 0})
    with pytest.raises(ConfigError, match="latest_share.*at most 1.*received 1.5"):
        trainer.resolve("neumf", {"latest_share": 1.5})
    with pytest.raises(ConfigError, match="did you mean 'neumf'"):
        registry.get("neumff")


def test_missing_split_is_named(toy, tmp_path):
    broken = arguments(toy, tmp_path)
    broken.train_files = broken.train_files[:2]
    with pytest.raises(DataError, match="users"):
        trainer.run_fn(broken)


def test_batches_cover_every_row_once_an_epoch():
    batches = sampling.shuffled_batches({"row": np.arange(10)}, 4, seed=1)
    epochs = [
        np.concatenate([batch["row"] for batch in part])
        for part in (
            list(batches.dataset.take(3).as_numpy_iterator()),
            list(batches.dataset.skip(3).take(3).as_numpy_iterator()),
        )
    ]
    for rows in epochs:
        assert sorted(rows) == list(range(10))
    assert epochs[0].tolist() != epochs[1].tolist() and batches.steps == 3
    later = sampling.shuffled_batches({"row": np.arange(10)}, 4, seed=1, first_epoch=1)
    np.testing.assert_array_equal(
        np.concatenate([b["row"] for b in later.dataset.take(3).as_numpy_iterator()]), epochs[1]
    )


def test_every_model_has_a_test_of_its_own():
    for name in registry.MODELS:
        assert os.path.exists(os.path.join(os.path.dirname(__file__), f"test_{name}.py")), name
