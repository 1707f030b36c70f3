"""Dynamic batching (cases B)."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serving.support import Reply, eventually, expect_error


@pytest.fixture(scope="module")
def batching(laboratory, tmp_path_factory):
    """A function that gives an embedded server with these batching parameters.

    Each is kept for the file's other tests.
    """
    servers = {}

    def batching(**parameters):
        key = tuple(parameters.items())
        if key not in servers:
            file = tmp_path_factory.mktemp("batching") / "batching.txt"
            sizes = parameters.pop("allowed_batch_sizes", ())
            lines = [
                f"{name}: true" if value is True else f"{name} {{ value: {value} }}"
                for name, value in parameters.items()
            ]
            lines += [f"allowed_batch_sizes: {size}" for size in sizes]
            file.write_text("# made by a test\n" + "\n".join(lines))
            servers[key] = laboratory.start(
                enable_batching=True,
                batching_parameters_file=file,
                monitoring_config_file=laboratory.models / "monitoring.config",
            )
        return servers[key]

    yield batching
    for server in servers.values():
        laboratory.stop(server)


GATHERING = {"max_batch_size": 8, "batch_timeout_micros": 300_000, "num_batch_threads": 2}


def together(server, path: str, bodies: list) -> list[Reply]:
    """Posts all bodies at the same time; answers in their order."""
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: server.post(f"/v1/models/{path}", body), bodies))


def rows(*values: float, signature: str = "serving_default") -> dict:
    """A body with one row for each value."""
    return {"signature_name": signature, "instances": list(values)}


def test_same_answers_fewer_runs_B1(batching):
    server = batching(**GATHERING)
    replies = together(server, "half:predict", [rows(float(n)) for n in range(8)])
    assert [reply.json() for reply in replies] == [{"predictions": [n / 2 + 2]} for n in range(8)]
    replies = together(server, "counter:predict", [rows(0.0)] * 8)
    runs = {reply.json()["predictions"][0] for reply in replies}
    assert len(runs) < 8 and max(runs) < 8
    replies = together(server, "counter:predict", [rows(0.0, signature="rows")] * 8)
    assert max(reply.json()["predictions"][0] for reply in replies) > 1


def test_classify_batched_B1(batching):
    server = batching(**GATHERING)
    bodies = [{"signature_name": "regress_x_to_y", "examples": [{"x": float(n)}]} for n in range(4)]
    replies = together(server, "half:regress", bodies)
    assert [reply.json() for reply in replies] == [{"results": [n / 2 + 2]} for n in range(4)]
    page = server.get("/monitoring/prometheus/metrics").body.decode()
    assert 'runtime_latency_count{model_name="half",API="Regress",runtime="TF1"}' in page


def test_different_shapes_B2(batching):
    server = batching(**GATHERING)
    replies = together(server, "half:predict", [rows([1.0]), rows([1.0, 2.0])])
    for reply in replies:
        expect_error(
            reply, 400, "from different tasks have different shapes and padding is turned off"
        )


def test_separate_shapes(laboratory):
    """A switch of this server alone."""
    server = laboratory.start(enable_batching=True, batch_separate_shapes=True)
    replies = together(server, "half:predict", [rows([1.0]), rows([1.0, 2.0])] * 4)
    assert [reply.json()["predictions"] for reply in replies] == [[[2.5]], [[2.5, 3.0]]] * 4
    laboratory.stop(server)


def test_padded_inputs_B3(batching):
    server = batching(**GATHERING, pad_variable_length_inputs=True)
    replies = together(server, "half:predict", [rows([1.0]), rows([2.0, 4.0, 6.0])])
    # Padded with the row's own first value.
    assert [reply.json()["predictions"] for reply in replies] == [[[2.5] * 3], [[3.0, 4.0, 5.0]]]


@pytest.mark.parametrize(
    "count,ran",
    [
        pytest.param(1, 1, id="B4-exact"),
        pytest.param(2, 4, id="B4-next"),
        pytest.param(5, 8, id="B4-largest"),
    ],
)
def test_allowed_sizes(batching, count, ran):
    server = batching(max_batch_size=8, allowed_batch_sizes=(1, 4, 8))
    reply = server.post("/v1/models/counter:predict", rows(*[0.0] * count, signature="rows"))
    assert reply.json() == {"predictions": [ran] * count}


def test_more_rows_than_the_batch_B4(batching):
    server = batching(max_batch_size=8, allowed_batch_sizes=(1, 4, 8))
    expect_error(
        server.post("/v1/models/half:predict", rows(*[0.0] * 9)),
        400,
        "Task size 9 is larger than maximum input batch size 8",
    )


def test_output_that_is_no_batch_B5(batching):
    server = batching(max_batch_size=8, allowed_batch_sizes=(1, 4, 8))
    expect_error(
        server.post("/v1/models/scalar:predict", rows(1.0, 2.0, signature="first")),
        400,
        "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes "
        "of the input tensors",
    )
    expect_error(
        server.post("/v1/models/scalar:predict", {"inputs": [1.0, 2.0]}),
        400,
        "Batched output tensor has 0 dimensions",
    )


def test_inputs_that_are_no_batch_B5(batching):
    server = batching(**GATHERING)
    expect_error(
        server.post("/v1/models/half:predict", {"inputs": 1.0}),
        400,
        "must have at least one dimension",
    )
    expect_error(
        server.post(
            "/v1/models/multi:predict",
            {"inputs": {"tag": ["a"], "signal": [[1] * 5] * 2, "sensor": [[[1] * 2] * 2]}},
        ),
        400,
        "must have equal 0th-dimension size",
    )


def test_queue_full_B6(batching):
    server = batching(max_batch_size=1, max_enqueued_batches=1, num_batch_threads=1)
    slow = rows(20_000.0, signature="slow")
    replies = together(server, "faulty:predict", [slow] * 6)
    statuses = sorted(reply.status for reply in replies)
    assert set(statuses) == {200, 503}
    refused = next(reply for reply in replies if reply.status == 503)
    expect_error(
        refused, 503, "The batch scheduling queue to which this task was submitted is full"
    )
    assert refused.headers["retry-after"] == "1"
    assert server.half() == 3.0


def test_poisoned_batch_B7(batching):
    server = batching(**GATHERING)
    replies = together(server, "faulty:predict", [rows(1.0), rows(-1.0)])
    for reply in replies:
        expect_error(reply, 400, "value is negative")
    assert server.post("/v1/models/faulty:predict", rows(1.0)).json() == {"predictions": [1.0]}


def test_timeout_is_kept(batching):
    """A lone request waits for company no longer than batch_timeout_micros."""
    server = batching(**GATHERING)
    begin = time.perf_counter()
    assert server.half() == 3.0
    assert 0.25 < time.perf_counter() - begin < 2.0


def test_version_is_let_go(laboratory, tmp_path, copy_model):
    """A batched version that was replaced is unloaded: no queue holds it."""
    copy_model("half/123", tmp_path / "1")
    server = laboratory.start(
        model_base_path=tmp_path, enable_batching=True, file_system_poll_wait_seconds=0.05
    )
    assert server.half("default") == 3.0
    copy_model("half3/123", tmp_path / "2")
    eventually(lambda: server.states("default") == {1: "END", 2: "AVAILABLE"})
    assert server.half("default") == 4.0
    laboratory.stop(server)


@pytest.mark.parametrize(
    "text,message",
    [
        ("max_batch_size { value: 4 } allowed_batch_sizes: 2", "last entry must equal"),
        ("max_batch_sizes { value: 4 }", r'batching.txt:1:1 : .*field named "max_batch_sizes"'),
        ("\nmax_batch_size { value: four }", "batching.txt:2:25 : .*parse integer: four"),
        ("max_batch_size: 4", 'batching.txt:1:17 : .*Expected "{"'),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be at least 1, got 0"),
        ("max_batch_size { value: -1 }", "max_batch_size must be at least 1, got -1"),
        (
            "enable_large_batch_splitting { value: true }",
            "this server does not split requests .enable_large_batch_splitting.",
        ),
    ],
    ids=["sizes", "name", "number", "form", "threads", "negative", "splitting"],
)
def test_parameters_refused(laboratory, tmp_path, text, message):
    file = tmp_path / "batching.txt"
    file.write_text(text)
    with pytest.raises(RuntimeError, match=message):
        laboratory.start(enable_batching=True, batching_parameters_file=file)


def test_waiting_in_the_queue_is_limited(laboratory, tmp_path):
    """One run at a time, each longer than the limit: those that waited for it are told."""
    file = tmp_path / "batching.txt"
    file.write_text("max_batch_size { value: 1 } num_batch_threads { value: 1 }")
    server = laboratory.start(
        enable_batching=True, batching_parameters_file=file, rest_api_timeout_in_ms=200
    )
    begin = time.perf_counter()
    replies = together(server, "faulty:predict", [rows(1e9, signature="slow")] * 4)
    assert {reply.status for reply in replies} == {504}
    assert any("waited longer than 0.2 s" in reply.json()["error"] for reply in replies)
    assert time.perf_counter() - begin < 10
    assert server.half() == 3.0
    laboratory.stop(server)
