"""The pipeline on Beam's portable engines: their outputs are the in-process runner's.

The engine is a process of its own and so are its workers, which are started in another folder.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from google.protobuf import json_format

from pipeline import cli, lineage
from tests.conftest import ROOT

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(1200)]

PRISM = ROOT / ".cache" / "engines" / "prism"
POOL = (sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main")
# A pool whose workers are its threads: TensorFlow is imported once, not by the worker of every job.
POOL_OF_THREADS = (
    sys.executable,
    "-c",
    "import sys, time\n"
    "from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer\n"
    "started = BeamFnExternalWorkerPoolServicer.start(port=int(sys.argv[1].split('=')[1]))\n"
    "time.sleep(3600)",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def started(command, port: int, folder: Path):
    """Runs a server in a folder, with all that it starts, until the block is left."""
    folder.mkdir(parents=True, exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "TF_USE_LEGACY_KERAS": "1"}
    with open(folder / "log.txt", "ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=variables, stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
                break
            assert process.poll() is None, (folder / "log.txt").read_text()
            time.sleep(0.1)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass
class Engine:
    """An engine that answers.

    Attributes:
        runner: as `beam.runner` has it.
        port: of its job service.
    """

    runner: str
    port: int

    def flag(self, pool: int) -> str:
        return (
            f"{{runner: {self.runner}, options: {{job_endpoint: 'localhost:{self.port}', "
            f"environment_config: 'localhost:{pool}'}}}}"
        )


@pytest.fixture(scope="module", params=["portable", "prism"])
def engine(request, tmp_path_factory):
    port = free_port()
    if request.param == "prism":
        if not PRISM.is_file():
            pytest.skip("needs Prism: make engines, where Go is to be had")
        command = [str(PRISM), "-serve_http=false", f"-job_port={port}"]
    else:
        module = "apache_beam.runners.portability.local_job_service_main"
        command = [sys.executable, "-m", module, f"--port={port}"]
    with started(command, port, tmp_path_factory.mktemp(request.param)):
        yield Engine(request.param, port)


def run(source: Path, output: Path, *arguments: str):
    settings = ("--data", str(source), "--set", "data.schema=movielens", "--output", str(output))
    return CliRunner().invoke(cli.main, ["run", "popularity", *settings, *arguments])


@pytest.fixture(scope="module")
def in_process(toy_source, tmp_path_factory) -> lineage.RunRecord:
    output = tmp_path_factory.mktemp("in_process")
    ended = run(toy_source, output)
    assert ended.exit_code == 0, ended.output
    return lineage.load_run(output)


@pytest.mark.thorough
def test_a_run_whose_worker_is_killed_ends_and_the_next_goes_on_to_the_same_outputs(
    engine, in_process, toy_source, tmp_path
):
    output, pool, killed = tmp_path / "runs", free_port(), []
    with started([*POOL, f"--service_port={pool}"], pool, tmp_path / "elsewhere") as pid:
        # The first worker answers the probe, the second reads the tables, the third is at the
        # statistics.
        killer = threading.Thread(target=kill_worker, args=(pid, 3, killed), daemon=True)
        killer.start()
        ended = run(toy_source, output, "--beam", engine.flag(pool))
        lasted = time.monotonic() - killed[0]
    assert ended.exit_code == 1, ended.output
    told = f"beam: {engine.runner} at localhost:{engine.port} did not finish a job"
    assert told in ended.stderr and "the next run goes on from there" in ended.stderr
    assert lasted < 60

    # TFX's cache asks for the same flags of Beam, and so for a pool on the same port.
    with started([*POOL_OF_THREADS, f"--service_port={pool}"], pool, tmp_path / "elsewhere"):
        ended = run(toy_source, output, "--beam", engine.flag(pool))
    assert ended.exit_code == 0, ended.output
    assert re.search(r"TableReader +cached", ended.output)
    require_same(lineage.load_run(output), in_process)


def kill_worker(pool: int, number: int, killed: list[float]) -> None:
    """Kills a pool's worker of that number once it has connected to the engine and begun."""
    seen: list[psutil.Process] = []
    while len(seen) < number:
        with contextlib.suppress(psutil.Error):
            seen += [one for one in psutil.Process(pool).children() if one not in seen]
        time.sleep(0.05)
    while not is_connected(seen[number - 1]):
        time.sleep(0.05)
    time.sleep(1)
    killed.append(time.monotonic())
    seen[number - 1].kill()


def is_connected(process: psutil.Process) -> bool:
    """Whether a process has an established connection."""
    return any(one.status == psutil.CONN_ESTABLISHED for one in process.net_connections("tcp"))


def require_same(found: lineage.RunRecord, expected: lineage.RunRecord) -> None:
    """Raises AssertionError unless two runs have the same outputs."""
    for node, keys in {
        "TableReader": ("events", "items", "users"),
        "ExampleBuilder": ("examples",),
    }.items():
        for key in keys:
            here, there = (run.steps[node].outputs[key] for run in (found, expected))
            assert rows(here) == rows(there), (node, key)
    for table in ("events", "items", "users"):
        node = f"StatisticsGen-{table}"
        here, there = (
            statistics(run.steps[node].outputs["statistics"]) for run in (found, expected)
        )
        assert here.keys() == there.keys()
        # Sketches depend on how an engine cuts its bundles.
        assert here == pytest.approx(there, rel=5e-3, nan_ok=True), table
    here, there = (
        Path(run.steps["Transform"].outputs["transform_graph"]) for run in (found, expected)
    )
    assets = sorted(file.name for file in (there / "transform_fn" / "assets").iterdir())
    assert "item_id" in assets
    assert assets == sorted(file.name for file in (here / "transform_fn" / "assets").iterdir())
    for name in [*(f"transform_fn/assets/{asset}" for asset in assets), "metadata/schema.pbtxt"]:
        assert (here / name).read_bytes() == (there / name).read_bytes(), name
    assert constants(here) == constants(there)
    measured, wanted = (dict(numbers_of(run.verdict["metrics"], "")) for run in (found, expected))
    assert "/overall/ndcg_10" in wanted and measured == pytest.approx(wanted)
    assert found.blessed and found.blessed == expected.blessed
    assert found.pushed_path and Path(found.pushed_path, "saved_model.pb").is_file()


def rows(folder: str) -> dict[str, list[bytes]]:
    """Split -> its records, in an order that no engine decides; nor that of their features."""
    from components.tables import records
    from serving.wire.protos import Example

    def plain(record: bytes) -> bytes:
        return Example.FromString(record).SerializeToString(deterministic=True)

    splits = sorted(Path(folder).glob("Split-*"))
    return {
        split.name: sorted(
            plain(record)
            for file in records.shards(str(split))
            for record in records.read_records(file)
        )
        for split in splits
    }


def statistics(folder: str) -> dict[str, float]:
    """Every number of the statistics, by its place; features by their names."""
    from tensorflow_metadata.proto.v0 import statistics_pb2

    file = Path(folder) / "Split-all" / "FeatureStats.pb"
    (found,) = statistics_pb2.DatasetFeatureStatisticsList.FromString(file.read_bytes()).datasets
    numbers = {"rows": float(found.num_examples)}
    for feature in found.features:
        name = ".".join(feature.path.step)
        numbers |= dict(numbers_of(json_format.MessageToDict(feature), name))
    return numbers


def numbers_of(value, place: str):
    if isinstance(value, dict):
        for key, one in value.items():
            yield from numbers_of(one, f"{place}/{key}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from numbers_of(one, f"{place}/{number}")
    else:
        with contextlib.suppress(TypeError, ValueError):
            yield place, float(value)


def constants(graph: Path) -> list[bytes]:
    """The numbers that Transform has learnt: boundaries, means, counts."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(
        (graph / "transform_fn" / "saved_model.pb").read_bytes()
    )
    return sorted(
        node.attr["value"].tensor.SerializeToString()
        for meta in saved.meta_graphs
        for part in (meta.graph_def, *meta.graph_def.library.function)
        for node in (part.node if hasattr(part, "node") else part.node_def)
        if node.op == "Const" and node.attr["dtype"].type in (1, 3, 9)  # float, int32, int64
    )
