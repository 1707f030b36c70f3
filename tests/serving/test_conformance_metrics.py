"""Metrics in Prometheus' format (cases X)."""

from __future__ import annotations

import re

import pytest

from serving.server.metrics import Counter, Metrics
from tests.serving.support import expect_status
from tests.serving.test_conformance_grpc import predict

PATH = "/monitoring/prometheus/metrics"


def page(server, path: str = PATH) -> dict[str, float]:
    """The metrics: value by name and labels."""
    reply = server.get(path)
    assert reply.status == 200
    lines = reply.body.decode().splitlines()
    return {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
        for line in lines
        if line and not line.startswith("#")
    }


def count(server, status: str, model: str = "half") -> float:
    """The request_count of one status."""
    name = f':tensorflow:serving:request_count{{model_name="{model}",status="{status}"}}'
    return page(server).get(name, 0)


def test_switched_off_X1(start):
    server = start()
    assert server.get(PATH).status == 404


def test_path_X2(target, start, tmp_path):
    assert target.get(PATH).headers["content-type"].startswith("text/plain")
    file = tmp_path / "monitoring.config"
    file.write_text('prometheus_config: { enable: true, path: "/metrics" } # a comment')
    server = start(monitoring_config_file=file)
    server.half()
    assert ':tensorflow:serving:request_count{model_name="half",status="OK"}' in page(
        server, "/metrics"
    )
    assert server.get(PATH).status == 404


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "prometheus_config {\n enabled: true }",
            r'monitoring.config:2:2 : .*field named "enabled"',
        ),
        ("enable: true", r'monitoring.config:1:1 : .*no field named "enable"'),
    ],
)
def test_config_refused_X2(laboratory, tmp_path, text, message):
    file = tmp_path / "monitoring.config"
    file.write_text(text)
    with pytest.raises(RuntimeError, match=message):
        laboratory.start(monitoring_config_file=file)


def test_names_X3(target):
    before = count(target, "OK")
    for _ in range(3):
        target.half()
    assert count(target, "OK") == before + 3
    assert "# TYPE :tensorflow:serving:request_count counter" in target.get(PATH).body.decode()


def test_latency_X4(target):
    target.half()
    target.prediction.Predict(predict("half3", signature="version", x=predict_input()))
    metrics = page(target)
    name = ":tensorflow:serving:request_latency"
    labels = 'model_name="half",API="Predict",entrypoint="REST"'
    buckets = [
        (key, value)
        for key, value in metrics.items()
        if key.startswith(f"{name}_bucket{{{labels},le=")
    ]
    limits = [re.search('le="([^"]+)"', key)[1] for key, _ in buckets]
    assert len(limits) == 34 and limits[-1] == "+Inf"
    assert [float(limit) for limit in limits[:3]] == pytest.approx([10, 18, 32.4])
    counts = [value for _, value in buckets]
    assert counts == sorted(counts)
    assert counts[-1] == metrics[f"{name}_count{{{labels}}}"] > 0
    mean = metrics[f"{name}_sum{{{labels}}}"] / counts[-1]
    assert 50 < mean < 5_000_000  # microseconds
    grpc_labels = 'model_name="half3",API="Predict",entrypoint="GRPC"'
    assert metrics[f"{name}_count{{{grpc_labels}}}"] > 0
    assert f"# TYPE {name} histogram" in target.get(PATH).body.decode()


def predict_input():
    import numpy as np

    return np.zeros(1, np.float32)


def test_failures_counted_X5(target):
    name = (
        ':tensorflow:serving:request_latency_count{model_name="half",API="Predict",'
        'entrypoint="REST"}'
    )
    refused, timed = count(target, "INVALID_ARGUMENT"), page(target).get(name, 0)
    assert target.post("/v1/models/half:predict", {"instances": ["a"]}).status == 400
    assert count(target, "INVALID_ARGUMENT") == refused + 1
    assert page(target).get(name, 0) == timed


def test_names_of_unknown_models_are_no_labels(target):
    unknown = count(target, "NOT_FOUND", "")
    with expect_status("NOT_FOUND"):
        target.prediction.Predict(predict("foo"))
    target.post("/v1/models/bar:predict", {"instances": [1]})
    assert count(target, "NOT_FOUND", "") == unknown + 2
    text = target.get(PATH).body.decode()
    assert '"foo"' not in text and '"bar"' not in text


def test_label_values_are_quoted_X3():
    counter = Counter("/requests", ("model_name", "status"))
    counter.add('a"b\\c\nd', "OK")
    assert counter.lines()[1] == r':requests{model_name="a\"b\\c\nd",status="OK"} 1'


def test_names_of_our_own_pass_the_linter_of_prometheus():
    """No colons, `_total` at the end of a counter, and help; OpenMetrics' family lacks the end."""
    metrics = Metrics()
    own = [each for each in metrics._all.values() if not each.name.startswith("/tensorflow/")]
    assert own and all(re.fullmatch("[a-z_]+_total", each.name) for each in own)
    metrics.state_count.add("read", "OK", by=2)
    name = "recsys_serving_state_operations"
    sample = f'{name}_total{{operation="read",status="OK"}} 2'
    for family, page in ((f"{name}_total", metrics.page()), (name, metrics.page(True))):
        told, kind, counted = page.splitlines()[:3]
        assert re.fullmatch(f"# HELP {family} [A-Z].+[.]", told)
        assert (kind, counted) == (f"# TYPE {family} counter", sample)
