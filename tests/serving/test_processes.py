"""Several processes behind one port are one server to its clients."""

from __future__ import annotations

import os
import re
import signal
import time

import grpc
import pytest

from serving.server import Server
from serving.server.metrics import Metrics
from serving.wire.errors import StartError
from tests.serving.support import Process, Target, entry

METRICS = "/monitoring/prometheus/metrics"
REQUESTS = 40


def gone(pid: int) -> bool:
    """Whether no process has the number, or it is one that nobody has waited for."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait(what: str, condition, seconds: float = 90) -> None:
    """Waits until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def children(pid: int) -> set[int]:
    """The processes that a process started."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return set(map(int, file.read().split()))


def counted(target: Target) -> int:
    """How many requests of the model `half` the page of metrics has."""
    page = target.get(METRICS).body.decode()
    return sum(map(int, re.findall(r'request_count\{model_name="half",status="OK"\} (\d+)', page)))


@pytest.fixture(scope="module")
def group(laboratory, tmp_path_factory):
    """Two processes; the target asks each time on a connection of its own."""
    process = Process(
        "-m",
        "serving.server",
        f"--model-config-file={laboratory.models / 'models.config'}",
        f"--monitoring-config-file={laboratory.models / 'monitoring.config'}",
        "--port=0",
        "--rest-api-port=0",
        "--processes=2",
        errors=tmp_path_factory.mktemp("processes") / "errors",
    )
    ready = process.line(180)
    target = Target("127.0.0.1", ready["rest"], ready["grpc"], laboratory.models)
    target.process, target.pids = process, ready["processes"]
    yield target
    process.end()
    wait("children end with the one that started them", lambda: all(map(gone, target.pids)), 30)


def test_both_answer_and_each_counts_for_both(group):
    """The kernel deals out connections: that one process gets none of 40 has a chance of 2e-12."""
    assert len(set(group.pids)) == 2
    for _ in range(REQUESTS):
        group.half()
    pages = []
    wait("all requests", lambda: pages.append(counted(group)) or pages[-1] == REQUESTS, 10)
    pages += [counted(group) for _ in range(10)]
    assert pages == sorted(pages)  # whichever was asked, no counter went back
    log = group.process.errors()
    assert log.count("process") < 5, log


def test_a_configuration_that_one_is_told_is_taken_over_by_both(group):
    assert group.get("/v1/models/again").status == 404
    group.reload(entry("again", group.models / "half"))
    assert states(group) == {"AVAILABLE"}
    with pytest.raises(grpc.RpcError):  # one refuses, so nothing is told to the other
        group.reload(entry("relative", "half"))
    group.reload()
    assert "AVAILABLE" not in states(group)


def states(group) -> set[str]:
    """What either process says of the model `again`, on 20 connections."""
    replies = [group.get("/v1/models/again").json() for _ in range(20)]
    return {reply["model_version_status"][0]["state"] for reply in replies}


def test_one_that_dies_is_replaced_and_its_counts_stay(group):
    before = counted(group)
    os.kill(group.pids[0], signal.SIGKILL)
    wait("a second process", lambda: gone(group.pids[0]) and len(children_of(group)) == 2)
    group.pids = sorted(children_of(group))
    assert counted(group) == before
    assert "ended with status -9" in group.process.errors()
    assert {group.get("/v1/models/half/metadata").status for _ in range(5)} == {200}


def children_of(group) -> set[int]:
    return {pid for pid in children(group.process.popen.pid) if not gone(pid)}


def test_a_server_in_process_is_one_process(tmp_path):
    with pytest.raises(StartError, match="--processes is of the command line"):
        Server(model_base_path=str(tmp_path), processes=2)


def test_pages_add_up():
    """Two processes: 3 + 4 requests; latencies of 15 and 15 and 5,000 microseconds."""
    one, other = Metrics(), Metrics()
    one.request_count.add("m", "OK", by=3)
    other.request_count.add("m", "OK", by=4)
    one.request_latency.add(15.0, "m", "predict", "REST")
    other.request_latency.add(15.0, "m", "predict", "REST")
    other.request_latency.add(5000.0, "m", "predict", "REST")
    one.published = lambda: [one.snapshot(), other.snapshot()]
    page = one.page()
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 7' in page
    labels = 'model_name="m",API="predict",entrypoint="REST"'
    assert f':tensorflow:serving:request_latency_bucket{{{labels},le="18"}} 2' in page
    assert f":tensorflow:serving:request_latency_sum{{{labels}}} 5030" in page
    assert f":tensorflow:serving:request_latency_count{{{labels}}} 3" in page
