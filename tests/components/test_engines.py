"""Engines: what they are told, and what is refused before a run begins. Most without Beam."""

import json
import os
import socket
import subprocess
import sys
import tempfile

import pytest

from components import engines
from components.engines import Beam, arguments, look, require_seen, require_usable
from models.names.errors import ConfigError, RecsysError

FLINK = {"flink_master": "flink:8081", "artifacts_dir": "/mnt/shared"}
DATAFLOW = {
    "project": "shop",
    "region": "europe-west4",
    "temp_location": "gs://shop/temporary",
    "sdk_container_image": "registry.example/recsys:1",
}


def test_nothing_said_is_this_process_by_name():
    assert arguments(Beam()) == [
        "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
        "--direct_running_mode=in_memory",
        "--direct_num_workers=1",
        "--sdk_container_image=none",
        "--pickle_library=cloudpickle",
    ]


@pytest.mark.parametrize("runner", ["in_process", "processes"])
def test_tfx_packs_up_nothing_for_workers_of_this_machine(runner, tmp_path, monkeypatch):
    """TFX asks this function of each component: it writes 49 MB unless an option forbids."""
    dependencies = pytest.importorskip("tfx.utils.dependency_utils")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    told = arguments(Beam(runner=runner))
    assert dependencies.make_beam_dependency_flags(told) == told
    assert not list(tmp_path.iterdir())


def test_processes_are_one_a_core():
    assert arguments(Beam(runner="processes"))[1:3] == [
        "--direct_running_mode=multi_processing",
        "--direct_num_workers=0",
    ]


@pytest.mark.parametrize("runner, port", [("portable", 8099), ("prism", 8073)])
def test_a_job_service_is_told_of_a_pool_and_keeps_jobs_beyond_a_minute(runner, port):
    assert arguments(Beam(runner=runner)) == [
        "--runner=components.watched_runner.WatchedRunner",
        f"--job_endpoint=localhost:{port}",
        "--environment_type=EXTERNAL",
        "--environment_config=localhost:50000",
        "--sdk_container_image=none",
        "--job_server_timeout=86400",
        "--pickle_library=cloudpickle",
    ]


def test_flink_as_text():
    """Not run: no jar of Flink's job server was to be had."""
    jar = {"flink_job_server_jar": "/jars/server.jar", "parallelism": 8}
    assert arguments(Beam(runner="flink", options={**FLINK, **jar})) == [
        "--runner=FlinkRunner",
        "--flink_version=1.19",
        "--sdk_worker_parallelism=1",
        "--environment_type=EXTERNAL",
        "--environment_config=localhost:50000",
        "--sdk_container_image=none",
        "--job_server_timeout=86400",
        "--pickle_library=cloudpickle",
        "--flink_master=flink:8081",
        "--artifacts_dir=/mnt/shared",
        "--flink_job_server_jar=/jars/server.jar",
        "--parallelism=8",
    ]


def test_dataflow_as_text():
    """Not run: there is no project of Google Cloud."""
    assert arguments(Beam(runner="dataflow", options=DATAFLOW)) == [
        "--runner=DataflowRunner",
        "--experiments=use_runner_v2",
        "--sdk_location=container",
        "--disk_size_gb=50",
        "--pickle_library=cloudpickle",
        "--project=shop",
        "--region=europe-west4",
        "--temp_location=gs://shop/temporary",
        "--sdk_container_image=registry.example/recsys:1",
    ]


def test_what_the_user_says_of_an_option_stands_and_null_takes_one_away():
    options = {
        "pickle_library": "dill",
        "sdk_container_image": None,
        "experiments": ["a", "b"],
        "no_use_public_ips": True,
        "streaming": False,
    }
    flags = arguments(Beam.parse({"runner": "portable", "options": options}))
    assert "--pickle_library=dill" in flags and "--no_use_public_ips" in flags
    assert [flag for flag in flags if "experiments" in flag] == [
        "--experiments=a",
        "--experiments=b",
    ]
    assert not any("sdk_container_image" in flag or "streaming" in flag for flag in flags)


@pytest.mark.parametrize(
    "given, told",
    [
        ({"runner": "flinc"}, "beam.runner: unknown value; received 'flinc'; did you mean 'flink'"),
        ({"options": {"runner": "DirectRunner"}}, "beam.options.runner: it is said by beam.runner"),
        ({"options": {"direct_num_workers": 4}}, "are beam.runner: processes; received in_process"),
        ({"runner": "flink"}, "flink requires also flink_master, the JobManager"),
        (
            {"runner": "flink", "options": {**FLINK, "flink_version": 2.1}},
            "beam.options.flink_version: required: 1.19.*received 2.1",
        ),
        (
            {"runner": "flink", "options": {**FLINK, "artifacts_dir": "shared"}},
            "beam.options.artifacts_dir: required: an absolute path.*received 'shared'",
        ),
        ({"runner": "dataflow", "options": {"project": "p"}}, "dataflow requires also region"),
        (
            {"runner": "portable", "options": {"environment_config": "one:5000,two:5000"}},
            "beam.options.environment_config: required: HOST:PORT, one alone",
        ),
        ({"runner": "prism", "options": {"job_endpoint": None}}, "prism requires it, as HOST:PORT"),
        (
            {"runner": "portable", "options": {"environment_type": "DOCKER"}},
            "environment_type DOCKER requires an image",
        ),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_said(given, told):
    with pytest.raises(ConfigError, match=told):
        Beam.parse(given)


def test_places_that_workers_cannot_see():
    dataflow = Beam(runner="dataflow", options=DATAFLOW)
    with pytest.raises(ConfigError, match="data.source: Dataflow's workers see no disk of yours"):
        require_seen(dataflow, {"data.source": "/data"})
    require_seen(dataflow, {"data.source": "gs://shop/data"})
    with pytest.raises(ConfigError, match="output: .*required: an absolute path; received runs"):
        require_seen(Beam(runner="portable"), {"output": "runs"})
    require_seen(Beam(runner="portable"), {"output": "/runs", "data.source": "s3://shop/data"})
    require_seen(Beam(), {"output": "runs"})


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listening(port: int = 0, shared: bool = False) -> socket.socket:
    server = socket.socket()
    if shared:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
    return server


def refusal(beam: Beam, folder, wait_s: float = 60) -> str:
    with pytest.raises(ConfigError) as refused:
        require_usable(beam, str(folder), lambda line: None, wait_s)
    return str(refused.value)


def test_no_job_server_or_no_pool_answers(tmp_path):
    port = closed_port()
    options = {"job_endpoint": f"localhost:{port}"}
    told = refusal(Beam(runner="portable", options=options), tmp_path)
    assert f"no job server answers at localhost:{port}" in told
    assert f"local_job_service_main --port {port}" in told  # how it is started
    with listening() as server:
        options = {
            "job_endpoint": f"localhost:{server.getsockname()[1]}",
            "environment_config": f"localhost:{port}",
        }
        told = refusal(Beam(runner="prism", options=options), tmp_path)
    assert f"no worker pool answers at localhost:{port}" in told
    assert f"worker_pool_main --service_port={port}" in told


def test_two_pools_on_one_port(tmp_path):
    """A second starts without a word, for gRPC shares ports; each would get some requests."""
    code = (
        "import socket, sys; s = socket.socket(); "
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); "
        "s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); print('on', flush=True); input()"
    )
    with listening() as service, listening(shared=True) as pool:
        port = pool.getsockname()[1]
        beam = Beam(
            runner="portable",
            options={
                "job_endpoint": f"localhost:{service.getsockname()[1]}",
                "environment_config": f"localhost:{port}",
            },
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as second:
            assert second.stdout.readline() == b"on\n"
            told = refusal(beam, tmp_path)
            second.communicate(b"\n")
    assert f"two processes listen on port {port}" in told
    assert str(os.getpid()) in told and str(second.pid) in told


def test_what_listens_and_says_nothing(tmp_path):
    """Beam's client would wait for its first word for a day, as it does for a long job."""
    with listening() as silent, listening() as pool:
        options = {
            "job_endpoint": f"localhost:{silent.getsockname()[1]}",
            "environment_config": f"localhost:{pool.getsockname()[1]}",
        }
        told = refusal(Beam(runner="portable", options=options), tmp_path, wait_s=2)
    assert "did not answer as a job server within 2 s" in told
    assert list(tmp_path.iterdir()) == []


def test_no_flink_and_no_jar(tmp_path):
    port = closed_port()
    options = {**FLINK, "flink_master": f"http://localhost:{port}"}
    told = refusal(Beam(runner="flink", options=options), tmp_path)
    assert f"no JobManager answers at localhost:{port}" in told
    with listening() as master:
        options["flink_master"] = f"localhost:{master.getsockname()[1]}"
        options["flink_job_server_jar"] = str(tmp_path / "none.jar")
        assert "none.jar is no file" in refusal(Beam(runner="flink", options=options), tmp_path)


def test_an_option_that_beam_does_not_know(tmp_path):
    options = {"direct_num_worker": 4}
    told = refusal(Beam(runner="processes", options=options), tmp_path)
    assert "beam.options.direct_num_worker: Beam has no such option" in told
    assert "did you mean 'direct_num_workers'" in told


def test_a_worker_looks_at_the_folder_and_at_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    mark = tmp_path / ".probe-1"
    with pytest.raises(ConfigError, match=f"does not see {tmp_path}; required: a folder that all"):
        look(str(mark))
    mark.write_text(json.dumps(engines._here()))
    look(str(mark))
    assert (tmp_path / ".probe-1.seen").exists()
    mark.write_text(json.dumps({**engines._here(), "Beam": "2.1.0"}))
    with pytest.raises(ConfigError, match="the worker in .* has Beam .*; required: 2.1.0, as here"):
        look(str(mark))


def test_a_probe_on_an_engine_that_is_here(tmp_path, monkeypatch):
    """The job itself, on the in-process runner: the file is read, answered, and taken away."""
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    engines._probe(Beam(), tmp_path, 60)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(engines, "_here", lambda: {"Python": str(os.urandom(4))})
    with pytest.raises(ConfigError, match="has Python .*as here"):
        engines._probe(Beam(), tmp_path, 60)
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_the_engine_gave_up_is_told_in_one_line():
    lost = RuntimeError("Pipeline job-3 failed in state FAILED: \nTraceback\n  x\nWorker is gone\n")
    beam = Beam(runner="portable")
    with pytest.raises(RecsysError) as told, engines.explained(beam):
        raise lost
    assert "portable at localhost:8099 did not finish a job: Pipeline job-3 failed" in str(
        told.value
    )
    assert "the next run goes on from there" in str(told.value)
    with pytest.raises(RuntimeError), engines.explained(Beam()):  # a fault of this process's own
        raise lost
    with pytest.raises(ZeroDivisionError), engines.explained(beam):
        1 / 0  # noqa: B018
