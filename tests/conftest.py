"""Fixtures for all rooms."""

import contextlib
import faulthandler
import fcntl
import functools
import gc
import importlib.util
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Tracing makes millions of objects that live; looking through them as often as Python does takes a
# fifth of the time. And a collection in the middle of a trace has ended a process of TensorFlow's.
gc.disable()

ROOT = Path(__file__).resolve().parents[1]

# Names the folder where each worker says what its threads were doing when it was ended.
_ENDED = "RECSYS_TEST_WORKERS_ENDED"
# Beyond a test's own limit, which raises in Python and so waits for what has left Python.
_BEYOND_LIMIT_S = 60


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    """Leaves oneDNN out of what is quickly traced, before anything imports TensorFlow.

    Its kernels are of use to large matrices; the processes that tests start inherit it. And has a
    worker that crashes, or that waits for ever outside of Python, say where.
    """
    if "not thorough" in config.getoption("markexpr"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    if not hasattr(config, "workerinput"):
        os.environ[_ENDED] = tempfile.mkdtemp(prefix="recsys-tests-")
    else:
        config.ended = open(Path(os.environ[_ENDED]) / f"{os.getpid()}.txt", "w")
        faulthandler.enable(config.ended)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Ends the worker of a test that its own limit could not end; the others go on."""
    if not hasattr(item.config, "ended"):
        return (yield)
    marker = item.get_closest_marker("timeout")
    limit = float(marker.args[0] if marker else item.config.getini("timeout"))
    faulthandler.dump_traceback_later(limit + _BEYOND_LIMIT_S, exit=True, file=item.config.ended)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem, sched):
    """Leaves out a test that has ended its worker; xdist would run it in the next, and the next."""
    for file, tests in list(sched.workqueue.items()):
        if crashitem in tests:
            tests[crashitem] = True  # done
            if all(tests.values()):
                del sched.workqueue[file]


def pytest_terminal_summary(terminalreporter, config):
    """Shows what workers that were ended have said, and takes their folder away."""
    if hasattr(config, "workerinput"):
        return
    folder = Path(os.environ[_ENDED])
    for file in sorted(folder.glob("*.txt")):
        if said := file.read_text(errors="replace"):
            terminalreporter.section(f"process {file.stem} was ended")
            terminalreporter.write(said)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Says which tests are thorough, before pytest leaves them out; sorts what is left.

    Long files first, so that no worker is left with one of them at the end. The first of all makes
    the run that the other pipeline tests share; the models keep the other worker busy meanwhile.
    """
    for item in items:
        if item.get_closest_marker("one_of_a_kind"):
            from tests.models.contract import stand_for_their_kind

            if item.cls.name not in stand_for_their_kind():
                item.add_marker("thorough")

    def turn(item) -> int:
        if item.path.name == "test_end_to_end.py":
            return 0
        if item.path.parent.name == "models":
            return 1
        return 2 if item.get_closest_marker("end_to_end") else 3

    items.sort(key=turn)


def pytest_collection_finish():
    """Freezes the libraries that the tests have imported; see `collected`.

    And takes pytest's options from the command line, of which TFX's components parse what they
    know: their `-v` is a number.
    """
    del sys.argv[1:]
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def quickly_traced(pytestconfig):
    """Leaves TensorFlow's rewriting of graphs out, a tenth of the time of tests that trace.

    The graphs of tests are run a few times each, so nothing is won by it. A server's sessions have
    settings of their own, and the thorough tests are run with it.
    """
    if "tensorflow" in sys.modules:
        import tensorflow as tf

        quick = "not thorough" in pytestconfig.getoption("markexpr")
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": quick})


@pytest.fixture(scope="module", autouse=True)
def collected():
    """Frees what a file of tests has left, between the traces; see `gc.disable` above.

    What outlives it is frozen: neither the next collection looks through it again, nor pyarrow,
    which asks for the referrers of a frame at every CSV that it reads. So a collection costs what
    its file has made, and a process holds no more than one file's traces.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def loaded_once():
    """A SavedModel is loaded once, however many bundles or evaluations there are of it."""
    import tensorflow as tf

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.saved_model, "load", functools.cache(tf.saved_model.load))
        yield


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference data.

    It is $RECSYS_SHARED, or `shared` beside the repository; the test is skipped without it.
    """
    folder = Path(os.environ.get("RECSYS_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip("needs the reference data: set RECSYS_SHARED")
    return folder


def write_toy_source(
    folder: Path, users: int = 60, items: int = 40, events: int = 12, seed: int = 7
) -> Path:
    """Writes a small data set in RecBole's layout whose next item can be learnt.

    Users and items fall into four groups; a user's events are items of the own group, walked in a
    ring, so that the item after `i` is the next one of its group. Group 0 holds the ids that are
    awkward: blanks, quotes, Unicode.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(seed)
    names = [f"i{number}" for number in range(items)]
    names[0], names[4], names[8] = "é ü", "日本\"語'", "🎬 item"
    rings = [names[group::4] for group in range(4)]
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(users):
        ring = rings[user % 4]
        # No user goes round the ring: a target is never an item that was seen.
        count = min(events, len(ring) - 1)
        first = random.randint(len(ring))
        start = 900_000_000 + int(random.randint(1_000_000))
        for step in range(count):
            item = ring[(first + step) % len(ring)]
            lines.append(f"u{user}\t{item}\t{random.randint(3, 6)}\t{start + 3600 * step}")
    (folder / "toy.inter").write_text("\n".join(lines) + "\n", "utf-8")
    genres = ["Comedy", "Drama", "Action", "Comedy Drama"]
    rows = [
        f"{name}\tFilm {number}\t{1980 + number}\t{genres[number % 4]}"
        for number, name in enumerate(names)
    ]
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    (folder / "toy.item").write_text("\n".join([header, *rows]) + "\n", "utf-8")
    rows = [
        f"u{user}\t{20 + user % 40}\t{'MF'[user % 2]}\tjob{user % 4}\t{10_000 + user}"
        for user in range(users)
    ]
    header = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"
    (folder / "toy.user").write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="session")
def toy_source(tmp_path_factory) -> Path:
    """A small folder in RecBole's layout with a pattern to learn.

    See `write_toy_source`. It is read only.
    """
    return write_toy_source(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """The URI of a bucket of a local S3 (moto), which the environment says how to find."""
    from apache_beam.io.aws.clients.s3 import boto3_client

    from components.tables import places

    if importlib.util.find_spec("moto") is None:
        pytest.skip("needs moto: make venv")
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    endpoint = f"http://127.0.0.1:{port}"
    patch = pytest.MonkeyPatch()
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{endpoint}/shop", method="PUT"))
                break
            except OSError:
                time.sleep(0.1)
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        places._file_system.cache_clear()
        # moto brings the boto3 that Beam's own S3 wants, and who uses this project has it not.
        patch.setattr(boto3_client.Client, "__init__", _refuse_beam)
        yield "s3://shop"
    finally:
        patch.undo()
        places._file_system.cache_clear()
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _refuse_beam(*_):
    raise AssertionError("Beam's own S3 is asked, which nobody has")


def put(folder: Path, uri: str) -> str:
    """Copies a folder to a bucket, and says where it is."""
    from components.tables.places import place, upload

    upload(folder, place(uri), last="none")
    return uri


def recsys_command(*arguments) -> list[str]:
    """The command line of `recsys`, from this working tree."""
    return [sys.executable, "-W", "ignore", "-m", "pipeline.cli", *map(str, arguments)]


def recsys(*arguments, cwd=ROOT, timeout=600, **environment) -> subprocess.CompletedProcess:
    """Runs `recsys` in a process of its own."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        recsys_command(*arguments),
        capture_output=True,
        text=True,
        env=variables,
        cwd=cwd,
        timeout=timeout,
    )


def recsys_here(*arguments):
    """Runs `recsys` in this process, which has TensorFlow and TFX loaded already.

    What would be a traceback is raised.
    """
    # Nothing of the pipeline is imported for tests that need none of it.
    from click.testing import CliRunner

    from pipeline import cli

    return CliRunner().invoke(cli.main, list(map(str, arguments)), catch_exceptions=False)


def recsys_until(line: str, number: int, *arguments) -> tuple[int, str]:
    """Runs `recsys` and sends it the signal `number` once it has printed `line`.

    Returns its status and what it printed.
    """
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    # Tests in the background of a shell have SIGINT ignored, and what they start would inherit
    # that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            recsys_command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=variables,
            cwd=ROOT,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    printed = ""
    for text in process.stdout:
        printed += text
        if line in text:
            process.send_signal(number)
            break
    rest, _ = process.communicate(timeout=120)
    return process.returncode, printed + rest


@dataclass
class ToyRun:
    """A pipeline that was killed and then ran to its end.

    Attributes:
        output: folder of runs.
        arguments: of `recsys run`, to run it again.
        killed: status and output of the run that met kill -9 while it trained.
        finished: the run that went on to the end.
        copy: the folder of runs as it was then, for tests that add runs of their own.
        spare: another, for the notebooks.
    """

    output: Path
    arguments: list[str]
    killed: tuple[int, str]
    finished: subprocess.CompletedProcess
    copy: Path
    spare: Path


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory) -> ToyRun:
    """A whole run of `two_tower` on the toy log, shared by the workers of a test run."""
    root = shared_by_workers(tmp_path_factory)
    record = root / "toy_run.pickle"
    with locked(root / "toy_run.lock"):
        if not record.exists():
            record.write_bytes(pickle.dumps(_toy_run(root)))
    return pickle.loads(record.read_bytes())


def _toy_run(root: Path) -> ToyRun:
    source, output = write_toy_source(root / "toy_run_source"), root / "toy_run"
    arguments = ["run", "two_tower", "--data", str(source), "--output", str(output), "--seed", "3"]
    for setting in (
        "epochs=12",
        "patience=12",
        "data.schema=movielens",
        "batch_size=64",
        "learning_rate=0.01",
    ):
        arguments += ["--set", setting]
    killed = recsys_until("model epoch   2", signal.SIGKILL, *arguments)
    # A run that ends in a process of its own: tests/notebooks/test_notebooks.py.
    ended = recsys_here(*arguments)
    finished = subprocess.CompletedProcess(arguments, ended.exit_code, ended.stdout, ended.stderr)
    return ToyRun(
        output,
        arguments,
        killed,
        finished,
        Path(shutil.copytree(output, root / "toy_run_copy")),
        Path(shutil.copytree(output, root / "toy_run_spare")),
    )


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory):
    """Returns a function (kind, randomness, label, described, walks) -> ToyData.

    It is built once for all workers. With a label, it is of ratings to score; `described`, lists
    carry the features of their items; `walks` as a run has them.
    """
    from models.names.label import Label
    from tests.models import toy

    root = shared_by_workers(tmp_path_factory)

    def same_rows(kind: str, randomness: float, label, described: bool) -> "toy.ToyData | None":
        """Clicks are of the rows that ratings are of.

        Profiles, sequences and walks are the same events, in rows of other lengths.
        """
        if label and label.is_click:
            return get(kind, randomness, Label(column=label.column))
        if kind in ("sequence", "walk") and not label:
            return get("profile", randomness, described=described)
        return None

    def get(
        kind: str, randomness: float, label=None, described: bool = False, walks: dict | None = None
    ) -> "toy.ToyData":
        described = described and kind != "event"  # whose rows always are
        folder = root / (
            f"toy-{kind}-{randomness}"
            + (f"-{label.column}-{label.threshold}" if label else "")
            + (f"-{label.weight}" if label and label.weight else "")
            + ("-described" if described else "")
            + "".join(f"-{setting}" for setting in (walks or {}).values())
        )
        with locked(root / f"{folder.name}.lock"):
            if not (folder / "done").exists():
                toy.build(
                    folder,
                    randomness,
                    kind,
                    label=label,
                    same_rows=same_rows(kind, randomness, label, described),
                    carries={"item_features": True} if described else None,
                    walks=walks,
                )
                (folder / "done").touch()
        return toy.ToyData(folder, label)

    return get


def shared_by_workers(tmp_path_factory) -> Path:
    """The temporary folder of this test run that all of its workers see."""
    root = tmp_path_factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


@contextlib.contextmanager
def locked(path: Path):
    """Holds a lock that the workers of one test run share."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
