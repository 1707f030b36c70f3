"""Several processes on Kubernetes: the documents, and the requests to a stand-in of its API."""

import http.server
import json
import os
import re
import threading
from types import SimpleNamespace

import pytest

from models.names.errors import ConfigError, RecsysError
from pipeline import config, workers
from pipeline.cluster import ClusterConfig

TWO = {"workers": 2, "parameter_servers": 0, "restarts": 3}
SHARDED = {"workers": 1, "parameter_servers": 2, "restarts": 0}


def jobs(documents):
    template = documents[0]["spec"]["template"]["spec"]
    return {job["name"]: job["template"]["spec"] for job in template["replicatedJobs"]}


def tf_config(job, index):
    """What a pod sees: Kubernetes puts in the variables that were told before."""
    container = job["template"]["spec"]["containers"][0]
    names = [variable["name"] for variable in container["env"]]
    assert names.index("WORKER_INDEX") < names.index("TF_CONFIG")
    text = container["env"][names.index("TF_CONFIG")]["value"]
    return json.loads(text.replace("$(WORKER_INDEX)", str(index)))


def test_two_workers_find_each_other_by_the_names_that_the_operator_gives_them():
    """The pods of job J of TrainJob N are N-J-0-0, N-J-0-1 .. in the subdomain N."""
    pod = {
        "container": {"image": "image:1", "env": [{"name": "A", "value": "b"}], "tty": True},
        "spec": {"volumes": [{"name": "runs"}]},
    }
    runtime, job = documents = workers.documents("shop-1", TWO, pod, "/runs/a.json")
    assert job["kind"] == "TrainJob" and job["spec"]["runtimeRef"]["name"] == "shop-1"
    assert runtime["spec"]["mlPolicy"] == {"numNodes": 2}
    assert list(jobs(documents)) == ["node"]
    node = jobs(documents)["node"]
    assert (node["parallelism"], node["completions"]) == (2, 2)
    for index in range(2):
        assert tf_config(node, index) == {
            "cluster": {"worker": ["shop-1-node-0-0.shop-1:2222", "shop-1-node-0-1.shop-1:2222"]},
            "task": {"type": "worker", "index": index},
        }
    container = node["template"]["spec"]["containers"][0]
    assert container["command"] == ["python", "-m", "models.training.worker", "/runs/a.json"]
    assert container["image"] == "image:1" and container["tty"]
    assert {"name": "A", "value": "b"} in container["env"]
    assert node["template"]["spec"]["volumes"] == [{"name": "runs"}]


def test_a_lost_pod_starts_all_again_and_an_error_does_not():
    documents = workers.documents("shop-1", TWO, {}, "a.json")
    spec = documents[0]["spec"]["template"]["spec"]
    assert spec["failurePolicy"]["maxRestarts"] == 3
    assert spec["failurePolicy"]["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    node = jobs(documents)["node"]
    # One pod that is lost fails its job at once, which restarts the set.
    assert node["backoffLimit"] == 0 and node["template"]["spec"]["restartPolicy"] == "Never"
    (rule,) = node["podFailurePolicy"]["rules"]
    assert rule == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}


def test_parameter_servers_end_with_their_chief():
    documents = workers.documents("shop-1", SHARDED, {}, "a.json")
    found = jobs(documents)
    assert {name: job["completions"] for name, job in found.items()} == {
        "chief": 1,
        "node": 1,
        "ps": 2,
    }
    assert tf_config(found["ps"], 1) == {
        "cluster": {
            "chief": ["shop-1-chief-0-0.shop-1:2222"],
            "worker": ["shop-1-node-0-0.shop-1:2222"],
            "ps": ["shop-1-ps-0-0.shop-1:2222", "shop-1-ps-0-1.shop-1:2222"],
        },
        "task": {"type": "ps", "index": 1},
    }
    spec = documents[0]["spec"]["template"]["spec"]
    assert spec["successPolicy"] == {"operator": "All", "targetReplicatedJobs": ["chief"]}


@pytest.mark.parametrize("run", ["two_tower-Größe", "1", "", "a" * 200])
def test_a_training_is_called_as_kubernetes_takes_it(run):
    name = workers.job_name(run, "0123456789abcdef")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 40
    assert name.endswith("-01234567")


def test_a_run_says_how_many_processes_train(tmp_path):
    (tmp_path / "run.yaml").write_text("cluster: {workers: 2, parameter_servers: 3}\n")
    run = config.load(str(tmp_path / "run.yaml"))
    assert run.cluster.several and run.cluster.parameter_servers == 3
    assert not config.load().cluster.several
    with pytest.raises(ConfigError, match="cluster.workers.*greater than or equal to 1.*0"):
        config.load(None, {"cluster.workers": 0})
    assert workers.trainer_settings(config.load().cluster, "neumf") == {}
    assert workers.run_fn_of({}) == "models.training.trainer.run_fn"
    assert workers.run_fn_of(TWO) == "models.training.launcher.run_fn"
    pods = workers.on_kubernetes(
        workers.WorkersConfig(workers=2, shared_folder="/mnt/a"), TWO, "shop-1", {}
    )
    assert (pods["shared_folder"], pods["name"], pods["workers"]) == ("/mnt/a", "shop-1", 2)
    assert workers.run_fn_of(pods) == "pipeline.workers.run_fn"
    with pytest.raises(ConfigError, match="cluster.shared_folder: required .*received None"):
        workers.on_kubernetes(run.cluster, TWO, "shop-1", {})


class StandIn(http.server.BaseHTTPRequestHandler):
    """Holds what was made; a TrainJob ends with the condition that the test names."""

    held: dict = {}
    asked: list = []
    condition: dict = {}

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(("POST", body["kind"], self.headers["Authorization"]))
        if self.path.endswith("/forbidden/trainjobs"):
            return self._answer(403, {"message": "trainjobs is forbidden"})
        self.held[f"{self.path}/{body['metadata']['name']}"] = body
        self._answer(201, body)

    def do_GET(self):
        found = self.held.get(self.path)
        if found and found["kind"] == "TrainJob":
            found = {**found, "status": {"conditions": [self.condition]}}
        self._answer(200 if found else 404, found or {})

    def do_DELETE(self):
        found = self.held.pop(self.path.partition("?")[0], None)
        self._answer(200 if found else 404, found or {})

    def _answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(StandIn, "held", {})
    monkeypatch.setattr(StandIn, "asked", [])
    server = http.server.ThreadingHTTPServer(("localhost", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


def trained(folder, api, namespace="recsys"):
    """Runs the step whose inputs lie under `step`, which the pods do not see."""
    step = folder / "step"
    for place in ("graph/a", "schema/s.pbtxt", "examples/Split-train/1", "examples/Split-valid/2"):
        (step / place).parent.mkdir(parents=True, exist_ok=True)
        (step / place).write_text(place)
    (folder / "shared").mkdir(exist_ok=True)
    settings = {"shared_folder": str(folder / "shared"), "name": "shop", "pod": {}}
    fn_args = SimpleNamespace(
        train_files=[str(step / "examples" / "Split-train" / "*")],
        eval_files=[str(step / "examples" / "Split-valid" / "*")],
        transform_graph_path=str(step / "graph"),
        schema_path=str(step / "schema" / "s.pbtxt"),
        base_model=None,
        serving_model_dir=str(step / "model"),
        model_run_dir=str(step / "run"),
        custom_config={"model": "neumf", "cluster": {**TWO, **settings}},
    )
    workers.run_fn(fn_args, workers.Kubernetes(api, namespace, "token"))
    return step


def ending(kind, status="True"):
    return {"type": kind, "status": status, "message": "three pods were lost"}


def test_the_step_asks_for_the_processes_and_waits(tmp_path, api, monkeypatch):
    def sleep(_):
        """The pods train; then the job has ended."""
        (runtime,) = (each for each in StandIn.held.values() if each["kind"] == "TrainingRuntime")
        file = jobs([runtime])["node"]["template"]["spec"]["containers"][0]["command"][-1]
        shared = tmp_path / "shared" / runtime["metadata"]["name"]
        assert file == str(shared / "run" / "worker_arguments.json")
        told = json.loads(open(file).read())
        assert told["train_files"] == [str(shared / "examples" / "Split-train" / "*")]
        assert (shared / "examples" / "Split-train" / "1").read_text() == "examples/Split-train/1"
        assert open(told["schema_path"]).read() == "schema/s.pbtxt"
        assert (shared / "graph" / "a").exists() and told["base_model"] is None
        assert told["custom_config"]["checkpoint_dir"] == str(shared / "checkpoints")
        for place in (told["serving_model_dir"], told["model_run_dir"]):
            os.makedirs(place, exist_ok=True)
            open(os.path.join(place, "made"), "w").close()
        StandIn.condition = ending("Complete")

    monkeypatch.setattr(StandIn, "condition", ending("Complete", status="False"))
    monkeypatch.setattr(workers.time, "sleep", sleep)
    step = trained(tmp_path, api)
    assert (step / "model" / "made").exists() and (step / "run" / "made").exists()
    assert not list((tmp_path / "shared").iterdir())
    assert StandIn.asked == [
        ("POST", "TrainingRuntime", "Bearer token"),
        ("POST", "TrainJob", "Bearer token"),
    ]
    assert not StandIn.held


def test_a_failed_training_and_a_refusal_say_why(tmp_path, api, monkeypatch):
    monkeypatch.setattr(StandIn, "condition", ending("Failed"))
    with pytest.raises(
        RecsysError, match="shop-[0-9a-f]{8} failed on Kubernetes: three pods were lost"
    ):
        trained(tmp_path, api)
    assert not StandIn.held
    with pytest.raises(RecsysError, match="(?s)POST trainjobs .403.*is forbidden.*Required: Kube"):
        trained(tmp_path, api, "forbidden")
    with pytest.raises(RecsysError, match="API does not answer"):
        trained(tmp_path, "http://localhost:1")


def test_outside_of_a_cluster_it_says_what_is_required(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "_ACCOUNT", tmp_path)
    with pytest.raises(ConfigError, match="required: a pod with a service account"):
        workers.Kubernetes.here()


def test_a_process_gets_of_the_cluster_what_its_step_gets():
    pod = ClusterConfig(
        volumes={"/mnt/data": "shop-data"},
        memory={"all": "4Gi", "Trainer": "16Gi"},
        gpus={"Trainer": 2},
        secrets={"KEY": "store/key"},
        environment={"A": "b"},
    ).pod("Trainer", "image:1")
    runtime, _ = workers.documents("shop-1", TWO, pod, "a.json")
    spec = jobs([runtime])["node"]["template"]["spec"]
    container = spec["containers"][0]
    assert container["resources"] == {"limits": {"memory": "16Gi", "nvidia.com/gpu": "2"}}
    assert container["volumeMounts"] == [{"name": "volume-0", "mountPath": "/mnt/data"}]
    claim = {"persistentVolumeClaim": {"claimName": "shop-data"}}
    assert spec["volumes"] == [{"name": "volume-0", **claim}]
    secret = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "store", "key": "key"}}}
    assert container["env"][:2] == [{"name": "A", "value": "b"}, secret]
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"
