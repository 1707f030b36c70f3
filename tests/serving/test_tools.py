"""The ordinary tools of others against the embedded server; each skips by name where it is absent.

    go install github.com/grpc-ecosystem/grpc-health-probe@latest
    go install github.com/rakyll/hey@latest

put two of them on the path of Go.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from models.names.errors import RecsysError
from serving.server.metrics import OPEN_METRICS

BODY = '{"instances": [1.0, 2.0]}'
METRICS = "/monitoring/prometheus/metrics"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a tool, found on PATH or where Go puts what it installs."""
    path = os.pathsep.join([os.environ["PATH"], os.path.expanduser("~/go/bin")])
    tool = shutil.which(name, path=path)
    if tool is None:
        pytest.skip(f"needs {name}")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=60)


def url(target, path: str) -> str:
    return f"http://{target.host}:{target.rest}{path}"


def test_curl(target):
    asked = url(target, "/v1/models/half:predict")
    done = run("curl", "--silent", "--fail", "--data", BODY, asked)
    assert done.returncode == 0 and json.loads(done.stdout) == {"predictions": [2.5, 3.0]}
    refused = run("curl", "--silent", "--fail", "--data", "{}", asked)
    assert refused.returncode == 22  # curl's number for an HTTP error


def test_curl_with_prior_knowledge_of_http_2_is_refused_and_nothing_breaks(target):
    asked = url(target, "/v1/models/half")
    assert run("curl", "--silent", "--http2-prior-knowledge", asked).returncode != 0
    assert run("curl", "--silent", "--fail", asked).returncode == 0


@pytest.mark.parametrize("service, status", [("", 0), ("no.such.Service", 3)])
def test_grpc_health_probe(target, service, status):
    """3 is the tool's number for a call that failed: nobody knows the second service."""
    arguments = [f"-addr={target.host}:{target.grpc}", f"-service={service}"]
    done = run("grpc-health-probe", *arguments)
    assert done.returncode == status, done.stderr


def test_hey(target):
    asked = url(target, "/v1/models/half:predict")
    done = run("hey", "-n", "200", "-c", "8", "-m", "POST", "-d", BODY, asked)
    assert done.returncode == 0 and "[200]\t200 responses" in done.stdout, done.stdout


def test_a_scraper_that_asks_for_open_metrics_gets_it(target):
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    target.half()
    reply = target.send("GET", METRICS, headers={"Accept": f"{OPEN_METRICS};version=1.0.0,*/*"})
    assert reply.headers["content-type"] == f"{OPEN_METRICS}; version=1.0.0; charset=utf-8"
    families = {
        family.name: family for family in parser.text_string_to_metric_families(reply.body.decode())
    }
    # TensorFlow Serving's names, as in the text format: the dashboards are the same.
    counted = families[":tensorflow:serving:request_count"]
    assert counted.type == "unknown" and counted.samples[0].name == counted.name
    assert families[":tensorflow:serving:request_latency"].type == "histogram"
    assert "# EOF" not in target.get(METRICS).body.decode()


def test_recsys_recommend_of_a_model_that_recommends_nothing(target):
    from pipeline import demo

    with pytest.raises(RecsysError, match="half does not recommend: it answers .*regress_x_to_y"):
        demo.recommend("1", 3, (), (), False, False, f"{target.host}:{target.rest}", "half", "runs")
    with pytest.raises(RecsysError, match="--name says what the model is served as"):
        demo.recommend(
            "1", 3, (), (), False, True, f"{target.host}:{target.grpc}", "nothing", "runs"
        )
