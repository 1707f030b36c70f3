"""Several workers and parameter servers: real processes, and what is said when one is not there."""

import json
import os
import signal
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from models.names.errors import ConfigError, RecsysError
from models.training import cluster, launcher, trainer, worker
from models.training.cluster import Cluster
from models.training.servers import require_shards
from pipeline import workers
from tests.models.test_training import arguments

pytestmark = pytest.mark.timeout(900)
SMALL = {"epochs": 12, "patience": 12, "batch_size": 64, "factors": 8, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def toy(toy_data):
    return toy_data("event", 0.0)


def asked(toy, folder, **config):
    values = {"model": "bpr_mf", "hyper_parameters": SMALL, **config}
    return arguments(toy, folder, checkpoint_dir=str(folder / "checkpoints"), **values)


@pytest.fixture(scope="module")
def alone(toy, tmp_path_factory):
    """The training log of one process."""
    folder = tmp_path_factory.mktemp("alone")
    trainer.run_fn(asked(toy, folder))
    return log_of(folder)


def log_of(folder):
    return json.loads((folder / "run" / "training.json").read_text())


def assert_same_training(log, alone):
    """Within 1e-4, loss and validation of every epoch, and the epoch that was chosen."""
    assert len(log["epochs"]) == len(alone["epochs"]) > 1
    for one, other in zip(alone["epochs"], log["epochs"], strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds", "examples_per_second", "stage"}:
            assert abs(one[name] - other[name]) < 1e-4, (name, one, other)
    assert log["best_epoch"] == alone["best_epoch"]


@pytest.mark.thorough
def test_two_workers_train_as_one_though_one_is_killed(toy, alone, tmp_path):
    """Each has half of every batch; killed in the fourth epoch, they go on from the third."""
    processes, lines = {}, []

    def say(line):
        lines.append(line)
        if line.startswith("  model epoch   4") and "killed" not in processes:
            processes["killed"] = processes["worker-1"]
            processes["killed"].send_signal(signal.SIGKILL)

    file = launcher.write_arguments(asked(toy, tmp_path))
    restarts = launcher.launch(
        file, launcher.roles(2, 0), timeout=900, say=say, started=processes.update
    )
    assert restarts == 1 and any(" resumed after epoch " in line for line in lines)
    log = log_of(tmp_path)
    assert log["strategy"] == "CollectiveAllReduceStrategy" and log["replicas"] == 2
    assert_same_training(log, alone)
    # What the others wrote to take part is gone, their checkpoints too.
    assert sorted(each.name for each in tmp_path.iterdir()) == ["Format-Serving", "run"]
    assert "recommend" in tf.saved_model.load(str(tmp_path / "Format-Serving")).signatures
    assert all(each.poll() is not None for each in processes.values())


@pytest.mark.thorough
def test_two_workers_train_layers_as_one(toy_data, tmp_path):
    """Of an auto-encoder, whose layers its first batch makes."""
    small = {"epochs": 2, "batch_size": 8, "hidden": 8, "latent": 4}
    config = {"model": "mult_vae", "hyper_parameters": small}
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    toy = toy_data("profile", 0.0)
    trainer.run_fn(asked(toy, one, **config))
    file = launcher.write_arguments(asked(toy, two, **config))
    launcher.launch(file, launcher.roles(2, 0), timeout=900, say=lambda _: None)
    assert_same_training(log_of(two), log_of(one))


@pytest.fixture
def one_core():
    """What this test starts has one core, as a small container may have."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.mark.thorough
def test_tables_in_pieces_on_two_servers_are_trained_as_one(toy, alone, one_core, tmp_path):
    pieces = {"cluster": {"smallest_piece": 64}}
    file = launcher.write_arguments(asked(toy, tmp_path, **pieces))
    launcher.launch(file, launcher.roles(1, 2), timeout=900, say=lambda _: None)
    log = log_of(tmp_path)
    assert log["strategy"] == "ParameterServerStrategyV2"
    # Users, items and biases, each in two.
    assert log["pieces"] == 6
    assert_same_training(log, alone)
    assert "recommend" in tf.saved_model.load(str(tmp_path / "Format-Serving")).signatures


def test_a_model_that_computes_with_whole_tables_is_refused_by_name():
    with pytest.raises(ConfigError, match="mult_vae cannot be trained on parameter .*bpr_mf"):
        require_shards("mult_vae")
    require_shards("bpr_mf")
    with pytest.raises(ConfigError, match="ease it takes no gradient steps"):
        workers.trainer_settings(workers.WorkersConfig(workers=2), "ease")
    with pytest.raises(ConfigError, match="cluster.parameter_servers: mult_vae"):
        workers.trainer_settings(workers.WorkersConfig(parameter_servers=2), "mult_vae")
    two = workers.WorkersConfig(workers=2, restarts=0)
    settings = {"workers": 2, "parameter_servers": 0, "restarts": 0}
    assert workers.trainer_settings(two, "mult_vae") == settings


def test_the_cluster_says_who_this_process_is(monkeypatch):
    def told(kind, index, **addresses):
        config = {"cluster": addresses, "task": {"type": kind, "index": index}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
        return Cluster.here()

    two = {"worker": ["a:1", "b:1"]}
    assert told("worker", 0, **two).name is None and told("worker", 1, **two).name == "worker-1"
    sharded = {"chief": ["c:1"], "worker": ["a:1"], "ps": ["b:1", "d:1"]}
    chief, first = told("chief", 0, **sharded), told("worker", 0, **sharded)
    assert chief.has_servers and not chief.serves and chief.name is None
    assert first.serves and first.name == "worker-0" and told("ps", 1, **sharded).serves
    with pytest.raises(ConfigError, match="received worker 2 of 2 worker"):
        told("worker", 2, **two)
    monkeypatch.setenv("TF_CONFIG", "[1")
    with pytest.raises(ConfigError, match=r"TF_CONFIG: required: JSON such as .*received \[1"):
        Cluster.here()
    monkeypatch.delenv("TF_CONFIG")
    assert Cluster.here() == Cluster() and Cluster().name is None


def test_workers_of_unequal_batches_are_refused(monkeypatch):
    """Rows as `gathered` has them of two workers, the second with half the batch."""
    rows = np.array([[64.0, 5.0], [32.0, 5.0]])
    monkeypatch.setattr(cluster, "gathered", lambda *_: rows)
    with pytest.raises(ConfigError, match="differ in batch_size.*worker 0: 64, worker 1: 32"):
        cluster.require_equal(None, {"batch_size": 64, "items": 5})
    rows[1, 0] = 64
    cluster.require_equal(None, {"batch_size": 64, "items": 5})


@pytest.mark.parametrize(
    ("kept", "epoch"),
    [
        ([[3, 2], [3, 2]], 3),
        ([[3, 2], [2, 1]], 2),  # killed before the second had saved
        ([[3, 2], [0, 0]], 0),  # the second lost its folder
        ([[1, 0], [0, 0]], 0),
    ],
)
def test_workers_go_on_from_the_latest_epoch_that_all_have(monkeypatch, kept, epoch):
    monkeypatch.setattr(cluster, "gathered", lambda *_: np.array(kept, float))
    assert cluster.agreed_place(None, []) == epoch


def test_workers_choose_by_the_same_values(monkeypatch):
    monkeypatch.setattr(cluster, "gathered", lambda *_: np.array([[0.5, 2.0], [0.25, 4.0]]))
    assert cluster.agreed_values(None, {"a": 0.5, "b": 2.0}) == {"a": 0.375, "b": 3.0}


def test_one_process_agrees_with_itself():
    alone = tf.distribute.get_strategy()
    assert cluster.agreed_place(alone, [4]) == 4 and cluster.agreed_place(alone, []) == 0
    assert cluster.agreed_values(alone, {"auc": 0.7}) == {"auc": 0.7}


def test_a_folder_that_is_not_shared_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RECSYS_START_SECONDS", "0")
    monkeypatch.delenv("TF_CONFIG", raising=False)
    file = str(tmp_path / "arguments.json")
    assert worker.main([file]) == 1
    assert f"error: {file} is not there; required: a folder that all" in capsys.readouterr().out
    missing = str(tmp_path / "graph")
    values = {"transform_graph_path": missing, "schema_path": missing}
    (tmp_path / "arguments.json").write_text(json.dumps(values))
    assert worker.main([file]) == 1
    assert f"error: the chief: {missing} is not there; required: the folder of runs" in (
        capsys.readouterr().out
    )


def test_a_worker_that_never_comes_is_named(monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    here = Cluster({"worker": ["localhost:1", "localhost:2"]}, "worker", 0)
    with here.starting(0.1):
        until = time.monotonic() + 20
        while not ended and time.monotonic() < until:
            time.sleep(0.05)
    assert ended == [cluster.LOST]
    assert "did not come together within 0 s; no answer of: worker-1 at localhost:2" in (
        capsys.readouterr().out
    )
    with here.starting(30):
        pass  # came in time
    assert ended == [cluster.LOST]


def script(folder, text):
    """A command that runs `text` instead of a worker, in which `me` is its name."""
    head = (
        "import json, os, pathlib, sys, time\n"
        "task = json.loads(os.environ['TF_CONFIG'])['task']\n"
        "me = f\"{task['type']}-{task['index']}\"\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
    )
    (folder / "script.py").write_text(head + text)
    return [sys.executable, str(folder / "script.py")]


def launch(folder, text, workers=2, **options):
    """Launches scripts; returns how often they started again, their processes and lines."""
    processes, lines = [], []
    try:
        restarts = launcher.launch(
            "arguments.json",
            {"worker": workers},
            command=script(folder, text),
            say=lines.append,
            started=lambda found: processes.extend(found.values()),
            **options,
        )
    finally:
        assert processes and all(each.poll() is not None for each in processes)
    return restarts, processes, lines


def test_a_lost_process_is_started_again_with_the_others(tmp_path):
    text = (
        "(folder / f'{me}-{time.time_ns()}').touch()\n"
        "print('  model epoch 1', flush=True)\n"
        "if me == 'worker-1' and len(list(folder.glob('worker-1-*'))) < 3: os.abort()\n"
        "if len(list(folder.glob(f'{me}-*'))) < 3: time.sleep(60)\n"
    )
    restarts, processes, lines = launch(tmp_path, text, timeout=60)
    assert restarts == 2 and len(processes) == 6
    assert "worker-1 ended with status -6; all start again from the checkpoint" in lines
    assert lines.count("  model epoch 1") == 3


def test_an_error_that_would_come_again_ends_all_at_once(tmp_path):
    """The first, which only sees that somebody left, says less."""
    text = (
        "if me == 'worker-1':\n"
        "    print('error: no model is called x')\n"
        "    sys.exit(1)\n"
        "time.sleep(60)\n"
    )
    started = time.monotonic()
    with pytest.raises(RecsysError, match="^no model is called x$"):
        launch(tmp_path, text)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("print('waits', flush=True); time.sleep(60)", {"timeout": 3}, "no end in time\n.*waits"),
        ("print('dies', flush=True); os.abort()", {"restarts": 0}, "status -6\n.*dies"),
    ],
)
def test_a_hang_and_a_death_end_with_the_logs_of_all(tmp_path, text, options, message):
    with pytest.raises(RecsysError, match=f"(?s)^training in 2 processes: .*{message}"):
        launch(tmp_path, text, **options)


def test_arguments_hold_what_a_worker_reads(tmp_path):
    names = ("transform_graph_path", "schema_path", "serving_model_dir", "base_model")
    given = SimpleNamespace(
        train_files=["a", "b"],
        eval_files=("c",),
        model_run_dir=str(tmp_path / "run"),
        custom_config={"model": "neumf"},
        data_accessor=object(),  # TFX's own, of no use elsewhere
        **dict.fromkeys(names, "x"),
    )
    values = (
        json.loads((tmp_path / "run" / "worker_arguments.json").read_text())
        if (launcher.write_arguments(given))
        else None
    )
    assert values["train_files"] == ["a", "b"] and values["eval_files"] == ["c"]
    assert values["custom_config"] == {"model": "neumf"} and "data_accessor" not in values
