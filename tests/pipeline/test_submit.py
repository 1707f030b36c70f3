"""`recsys submit` against a small server that checks each request by the documented API.

Paths, queries and bodies are those of backend/api/v2beta1 of github.com/kubeflow/pipelines:
pipeline.upload.swagger.json, pipeline.proto, experiment.proto and run.proto.
"""

import json
import threading
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from click.testing import CliRunner

from models.names.errors import ConfigError, RecsysError
from pipeline import cli, submit

HYPER_PARAMETERS = {"epochs": 20, "factors": 32}
SPEC = {
    "schemaVersion": "2.1.0",
    "pipelineInfo": {"name": "bpr-mf-shop"},
    "defaultPipelineRoot": "s3://bucket/runs/bpr-mf-shop",
    "root": {
        "inputDefinitions": {
            "parameters": {
                name: {"parameterType": kind}
                for name, kind in (
                    ("data", "STRING"),
                    ("seed", "NUMBER_INTEGER"),
                    ("hyper_parameters", "STRUCT"),
                    ("warm_start", "BOOLEAN"),
                )
            }
        },
        "dag": {
            "tasks": {
                "Trainer": {
                    "inputs": {
                        "parameters": {
                            "custom_config": {
                                "runtimeValue": {
                                    "constant": json.dumps(
                                        {"model": "bpr_mf", "hyper_parameters": HYPER_PARAMETERS}
                                    )
                                }
                            }
                        }
                    }
                }
            }
        },
    },
}


class Kubeflow(BaseHTTPRequestHandler):
    """The API server, of which this run knows what it has been told."""

    def log_message(self, *_):
        """Silent."""

    def _answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status, message):
        self._answer({"code": 5, "message": message}, status)

    def _asked(self):
        parts = urlsplit(self.path)
        assert parts.path.startswith("/apis/v2beta1/")
        assert self.headers["Authorization"] == "Bearer secret"
        query = {name: value for name, (value,) in parse_qs(parts.query).items()}
        return parts.path.removeprefix("/apis/v2beta1/"), query

    def do_GET(self):
        state, (path, query) = self.server.state, self._asked()
        if path == "pipelines/names/bpr-mf-shop":
            if not state["versions"]:
                return self._refuse(404, "Failed to get Pipeline by name")
            return self._answer({"pipeline_id": "p-1", "display_name": "bpr-mf-shop"})
        if path == "pipelines/p-1/versions":
            assert query["sort_by"] == "created_at desc"
            return self._answer({"pipeline_versions": state["versions"][::-1]})
        if path == "experiments":
            (predicate,) = json.loads(query["filter"])["predicates"]
            assert (predicate["operation"], predicate["key"]) == ("EQUALS", "display_name")
            found = [
                one
                for one in state["experiments"]
                if one["display_name"] == predicate["string_value"]
            ]
            return self._answer({"experiments": found} if found else {})
        return self._refuse(404, path)

    def do_POST(self):
        state, (path, query) = self.server.state, self._asked()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path in ("pipelines/upload", "pipelines/upload_version"):
            head = f"Content-Type: {self.headers['Content-Type']}\n\n".encode()
            (part,) = message_from_bytes(head + body).get_payload()
            assert part.get_param("name", header="Content-Disposition") == "uploadfile"
            name = part.get_filename()
            if not name.endswith((".yaml", ".yml", ".zip", ".tar.gz")):
                return self._refuse(400, "Failed to read a pipeline spec file")
            state["files"].append(part.get_payload(decode=True))
            if path == "pipelines/upload":
                if state["versions"]:
                    return self._refuse(409, "The pipeline already exists")
            else:
                assert query["pipelineid"] == "p-1"
            number = len(state["versions"]) + 1
            state["versions"].append(
                {
                    "pipeline_id": "p-1",
                    "pipeline_version_id": f"v-{number}",
                    "name": query["name"],
                    "display_name": query["display_name"],
                }
            )
            return self._answer(
                {"pipeline_id": "p-1"} if path == "pipelines/upload" else state["versions"][-1]
            )
        value = json.loads(body)
        if path == "experiments":
            assert set(value) <= {"display_name", "namespace", "description"}
            state["experiments"].append({**value, "experiment_id": "e-1"})
            return self._answer(state["experiments"][-1])
        if path == "runs":
            assert set(value) <= {
                "display_name", "experiment_id", "pipeline_version_reference", "runtime_config"
            }  # fmt: skip
            reference = value["pipeline_version_reference"]
            known = {one["pipeline_version_id"] for one in state["versions"]}
            if reference["pipeline_version_id"] not in known:
                return self._refuse(404, "no such version")
            state["runs"].append(value)
            return self._answer({"run_id": f"r-{len(state['runs'])}", "state": "PENDING"})
        return self._refuse(404, path)


@pytest.fixture
def server(tmp_path, monkeypatch):
    token = tmp_path / "token"
    token.write_text("secret\n")
    monkeypatch.setenv(submit.TOKEN, str(token))
    with ThreadingHTTPServer(("127.0.0.1", 0), Kubeflow) as server:
        server.state = {"versions": [], "files": [], "experiments": [], "runs": []}
        server.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump_all([SPEC, {"platforms": {"kubernetes": {}}}]))
    return path


def test_a_file_becomes_a_pipeline_and_a_run(server, file):
    said = submit.submit(str(file), server.address, {})
    assert said == f"run r-1: {server.address}/#/runs/details/r-1"
    assert server.state["files"] == [file.read_bytes()]  # both documents
    assert server.state["runs"] == [
        {
            "display_name": "bpr-mf-shop v-1",
            "pipeline_version_reference": {"pipeline_id": "p-1", "pipeline_version_id": "v-1"},
            "runtime_config": {
                "parameters": {},
                "pipeline_root": "s3://bucket/runs/bpr-mf-shop",
            },
        }
    ]


def test_another_file_is_another_version_and_the_same_is_uploaded_once(server, file):
    submit.submit(str(file), server.address, {})
    file.write_text(file.read_text() + "# changed\n")
    for _ in range(2):
        submit.submit(str(file), server.address, {})
    references = [run["pipeline_version_reference"] for run in server.state["runs"]]
    assert [one["pipeline_version_id"] for one in references] == ["v-1", "v-2", "v-2"]
    assert len(server.state["files"]) == 2


def test_the_command_sets_parameters_and_the_experiment(server, file):
    arguments = ["submit", str(file), "--endpoint", server.address, "--experiment", "nightly"]
    arguments += ["--data", "s3://shop/today/", "--seed", "3", "--warm-start", "--set", "epochs=2"]
    for _ in range(2):
        done = CliRunner().invoke(cli.main, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert "run r-2: " in done.output
    run = server.state["runs"][1]
    assert run["experiment_id"] == "e-1" and len(server.state["experiments"]) == 1
    assert run["runtime_config"]["parameters"] == {
        "data": "s3://shop/today",
        "seed": 3,
        "warm_start": True,
        "hyper_parameters": {"epochs": 2},
    }


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"split.name": "ratio"}, "split.name is not set when a run is submitted, but compiled"),
        ({"sed": 1}, "sed is not set .*did you mean 'seed'"),
        (
            {"hyper_parameters": {"epoch": 2}},
            "bpr_mf has no hyper-parameter 'epoch'; did you mean 'epochs'",
        ),
        (
            {"data": "movielens-100k"},
            "data: required for a cluster: a URI .*'movielens-100k'. A data set by name is fetched",
        ),
    ],
)
def test_what_the_file_does_not_take_is_refused_before_anything_is_sent(settings, message, file):
    with pytest.raises(ConfigError, match=message):
        submit.submit(str(file), "http://127.0.0.1:9", settings)


def test_a_server_that_refuses_or_is_not_there_is_said(server, file, monkeypatch):
    with pytest.raises(ConfigError, match="KF_PIPELINES_ENDPOINT.*required: the address"):
        submit.submit(str(file), None, {})
    with pytest.raises(RecsysError, match="no answer of Kubeflow Pipelines: .*refused"):
        submit.submit(str(file), "http://127.0.0.1:9", {})
    gone = {"pipeline_id": "p-1", "pipeline_version_id": "v-9"}
    monkeypatch.setattr(submit, "_version", lambda *_: gone)
    with pytest.raises(RecsysError, match="POST .*/runs: 404 Not Found: .*no such version"):
        submit.submit(str(file), server.address, {})


def test_no_file_and_another_file_are_said(tmp_path):
    with pytest.raises(ConfigError, match="cannot read .*No such file"):
        submit.submit(str(tmp_path / "none.yaml"), "http://127.0.0.1:9", {})
    other = tmp_path / "pipeline.json"
    other.write_text(json.dumps(SPEC))
    with pytest.raises(ConfigError, match="required: a file of recsys compile --to FILE.yaml"):
        submit.submit(str(other), "http://127.0.0.1:9", {})
