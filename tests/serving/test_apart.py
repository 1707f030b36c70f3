"""Big requests, which a process beside the server reads, are answered as small ones are."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.serving.support import eventually, expect_error

BIG = b" " * (1 << 20)  # blanks before a document change nothing but the size of the body
WORKER = b"serving.server.json.apart"
EXAMPLES = b'{"signature_name": "%s_x_to_y", "context": {"x": 1.0}, "examples": [{"x": 4.0}, {}]}'


def workers(server: int) -> list[int]:
    """The processes that read for a server."""
    tasks = Path(f"/proc/{server}/task").glob("*/children")
    found = [int(child) for task in tasks for child in task.read_text().split()]
    return [pid for pid in found if WORKER in Path(f"/proc/{pid}/cmdline").read_bytes()]


def ended(process: int) -> bool:
    """Whether its parent can be told so; that it has no command line any more is so before."""
    try:
        found = psutil.Process(process)
        return found.status() == psutil.STATUS_ZOMBIE and found.num_threads() <= 1
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    "path, body",
    [
        ("half:predict", b'{"instances": [2.0, 1e3, NaN, -Infinity, 12345678901234567890]}'),
        ("half:predict", b'{"inputs": [[2.0], [3]]}'),
        ("half:predict", b'{"signature_name": "version", "instances": [1]}'),
        ("half/versions/123:predict", b'{"instances": [2.0]} and more'),
        ("bytes:predict", b'{"signature_name": "one", "instances": ["\xff\xfe", "\xc3\xa9"]}'),
        ("half:classify", EXAMPLES % b"classify"),
        ("half:regress", EXAMPLES % b"regress"),
        ("half:predict", b'{"instances": [2.0, "word"]}'),
        ("half:predict", b'{"instances": [2.0, '),
        ("half:predict", b'{"signature_name": "none", "instances": [1]}'),
        ("nobody:predict", b'{"instances": [2.0]}'),
        ("nobody:predict", b'{"instances": [2.0'),
        ("half:classify", b'{"examples": {}}'),
    ],
)
def test_the_size_of_a_body_changes_no_answer(target, path, body):
    small, big = (target.post(f"/v1/models/{path}", blanks + body) for blanks in (b"", BIG))
    assert (small.status, _without_offset(small.body)) == (big.status, _without_offset(big.body))


def _without_offset(body: bytes) -> bytes:
    return body.partition(b" at offset: ")[0]


def test_a_big_answer_is_printed_as_its_parts_are(target):
    rows = [[number / 7] * 20 for number in range(10_000)]
    whole = target.post("/v1/models/half:predict", {"instances": rows})
    parts = [
        target.post("/v1/models/half:predict", {"instances": rows[start : start + 500]}).json()
        for start in range(0, len(rows), 500)
    ]
    assert whole.json()["predictions"] == sum((part["predictions"] for part in parts), [])


def test_the_process_comes_when_it_is_needed_and_goes_with_the_server(laboratory):
    others = set(workers(laboratory.pid))
    server = laboratory.start()
    body = BIG + b'{"instances": [2.0]}'
    assert server.half() == 3.0 and set(workers(laboratory.pid)) == others
    assert server.post("/v1/models/half:predict", body).json() == {"predictions": [3.0]}
    (worker,) = set(workers(laboratory.pid)) - others
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: ended(worker))
    # Another takes its place; where one dies at its work, the request is told.
    assert server.post("/v1/models/half:predict", body).json() == {"predictions": [3.0]}
    (worker,) = set(workers(laboratory.pid)) - others
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.post, "/v1/models/half:predict", body)
        time.sleep(0.5)
        assert server.half() == 3.0 and not asked.done()
        os.kill(worker, signal.SIGKILL)
        expect_error(asked.result(), 500, "The process that reads big requests ended")
    assert server.post("/v1/models/half:predict", body).json() == {"predictions": [3.0]}
    laboratory.stop(server)
    eventually(lambda: set(workers(laboratory.pid)) == others)
