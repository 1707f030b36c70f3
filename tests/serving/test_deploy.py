"""The deployment files and the configuration that they mount.

The kinds of Kubernetes are checked against the models that the package `kubernetes` carries, field
by field. No package here carries the schemas of Compose and KServe, so those two files are checked
for the structure that they need; neither was started in this test.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format

from serving.server.batching import read_parameters
from serving.server.metrics import DEFAULT_PATH, page_path
from serving.server.model_config import RequestLogConfig, read_model_config_file
from serving.server.options import ServerOptions
from serving.wire import protos
from tests.serving.support import ROOT

DEPLOY, CONFIG = ROOT / "serving" / "deploy", ROOT / "serving" / "config"
FILES = ["docker-compose.yaml", "kubernetes.yaml", "kserve.yaml", "prometheus.yaml"]


def read(name: str) -> list[dict]:
    """The documents of a file."""
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def compose() -> dict:
    """The service of TensorFlow Serving in the Compose file."""
    return read("docker-compose.yaml")[0]["services"]["tensorflow-serving"]


def containers() -> dict[str, dict]:
    """Everything that runs TensorFlow Serving: its flags and where the configuration is mounted."""
    deployment, *_ = read("kubernetes.yaml")
    (service,) = read("kserve.yaml")
    return {
        "compose": {"flags": compose()["command"]},
        "kubernetes": {"flags": deployment["spec"]["template"]["spec"]["containers"][0]["args"]},
        "kserve": {"flags": service["spec"]["predictor"]["model"]["args"]},
    }


def flags_of(name: str) -> dict[str, str]:
    """Flag -> value."""
    pairs = [flag.removeprefix("--").split("=", 1) for flag in containers()[name]["flags"]]
    return {key: value for key, value in pairs}


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_listed_and_parses(name):
    assert sorted(path.name for path in DEPLOY.glob("*.yaml")) == sorted(FILES)
    assert all(isinstance(document, dict) for document in read(name))


@pytest.mark.parametrize("name", ["compose", "kubernetes", "kserve"])
def test_flags(name):
    """Batching, monitoring and warm-up are on; every flag is one that both servers know."""
    flags = flags_of(name)
    assert flags["enable_batching"] == flags["enable_model_warmup"] == "true"
    assert flags["batching_parameters_file"] == "/config/batching_parameters.txt"
    assert flags["monitoring_config_file"] == "/config/monitoring.config"
    assert set(flags) <= set(ServerOptions.__dataclass_fields__)
    for value in flags.values():
        if value.startswith("/config/"):
            assert (CONFIG / Path(value).name).is_file()


def test_configuration_parses():
    """With the real protos, and with this server's own readers."""
    config = protos.server_config.ModelServerConfig()
    text_format.Parse((CONFIG / "models.config").read_text(), config)
    (entry,) = config.model_config_list.config
    assert entry.model_version_policy.latest.num_versions == 1
    (model,) = read_model_config_file(str(CONFIG / "models.config"))
    assert (model.name, model.base_path) == (entry.name, "/models/two_tower")
    parameters = read_parameters(str(CONFIG / "batching_parameters.txt"))
    assert parameters.allowed_batch_sizes[-1] == parameters.max_batch_size == 64
    assert page_path(str(CONFIG / "monitoring.config")) == DEFAULT_PATH


def test_the_sample_of_the_manual_parses(tmp_path):
    """Whole, as a file that is handed to `--model-config-file`."""
    manual = (ROOT / "serving" / "README.md").read_text("utf-8")
    sample = "    model_config_list" + manual.split("\n    model_config_list")[1].split("\n\n")[0]
    (tmp_path / "models.config").write_text(sample)
    (model,) = read_model_config_file(str(tmp_path / "models.config"))
    assert model.request_log == RequestLogConfig("/logs/recsys", 0.1)


# --- Compose


def test_compose():
    service = compose()
    assert re.fullmatch(r"tensorflow/serving:2\.16\.\d+", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    mounts = {volume.rsplit(":", 2)[-2]: volume for volume in service["volumes"]}
    assert set(mounts) == {"/models", "/config"}
    assert all(volume.endswith(":ro") for volume in mounts.values())
    assert (DEPLOY / mounts["/config"].split(":")[0]).resolve() == CONFIG
    model = read_model_config_file(str(CONFIG / "models.config"))[0]
    assert f"/v1/models/{model.name} " in service["healthcheck"]["test"][-1]
    prometheus = read("docker-compose.yaml")[0]["services"]["prometheus"]
    assert (DEPLOY / prometheus["volumes"][0].split(":")[0]).is_file()
    (job,) = read("prometheus.yaml")[0]["scrape_configs"]
    assert job["metrics_path"] == DEFAULT_PATH
    assert job["static_configs"][0]["targets"] == ["tensorflow-serving:8501"]


def test_health_check_runs(target):
    """The check of the Compose file, against a server.

    Well for a model, ill for one that is not there.
    """
    script = compose()["healthcheck"]["test"]
    assert script[:3] == ["CMD", "bash", "-c"]
    command = script[3].replace("127.0.0.1/8501", f"{target.host}/{target.rest}")
    assert "$" not in command  # Compose would put a variable in its place
    well = subprocess.run(["bash", "-c", command.replace("two_tower", "half")], timeout=20)
    ill = subprocess.run(["bash", "-c", command], timeout=20)
    assert (well.returncode, ill.returncode) == (0, 1)
    # UNAVAILABLE holds AVAILABLE: a version that failed was taken for one that serves.
    pattern = re.search("grep -q (.*) <", command)[1]
    for state, status in (("AVAILABLE", 0), ("UNAVAILABLE", 1)):
        said = f'echo \'"state": "{state}"\' | grep -q {pattern}'
        assert subprocess.run(["bash", "-c", said]).returncode == status


# --- Kubernetes


def check(value, kind: str, where: str) -> None:
    """Checks a value against a type of the kubernetes client.

    Unknown fields, types, and, by making the object, fields that are missing.
    """
    client = pytest.importorskip("kubernetes.client")
    if kind.startswith("list["):
        assert isinstance(value, list), f"{where}: a list is needed, got {value!r}"
        for number, member in enumerate(value):
            check(member, kind[5:-1], f"{where}[{number}]")
    elif kind.startswith("dict("):
        assert isinstance(value, dict), f"{where}: an object is needed, got {value!r}"
        for key, member in value.items():
            check(member, kind[5:-1].split(", ")[1], f"{where}.{key}")
    elif kind in ("str", "int", "bool"):
        assert type(value).__name__ == kind, f"{where}: {kind} is needed, got {value!r}"
    elif kind == "object":
        assert isinstance(value, (int, str)), f"{where}: a number or text is needed, got {value!r}"
    else:
        model = getattr(client, kind)
        fields = {name: field for field, name in model.attribute_map.items()}
        unknown = set(value) - set(fields)
        assert not unknown, f"{where}: {kind} has no {unknown}"
        for name, member in value.items():
            check(member, model.openapi_types[fields[name]], f"{where}.{name}")
        model(**{fields[name]: member for name, member in value.items()})


def test_kubernetes_schema():
    documents = {document["kind"]: document for document in read("kubernetes.yaml")}
    assert {kind: document["apiVersion"] for kind, document in documents.items()} == {
        "Deployment": "apps/v1",
        "Service": "v1",
        "PodDisruptionBudget": "policy/v1",
        "NetworkPolicy": "networking.k8s.io/v1",
    }
    for kind, document in documents.items():
        check(document, f"V1{kind}", kind)


@pytest.mark.parametrize(
    "change,text",
    [
        (lambda spec: spec["containers"][0].update(port=1), "V1Container has no"),
        (lambda spec: spec["containers"][0].pop("name"), "name"),
        (lambda spec: spec.update(terminationGracePeriodSeconds="30"), "int is needed"),
    ],
    ids=["unknown", "missing", "type"],
)
def test_the_check_finds(change, text):
    deployment, *_ = read("kubernetes.yaml")
    change(deployment["spec"]["template"]["spec"])
    with pytest.raises((AssertionError, ValueError), match=text):
        check(deployment, "V1Deployment", "Deployment")


def test_kubernetes_fits_together():
    deployment, service, budget, policy = read("kubernetes.yaml")
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == set(ports)
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    assert flags_of("kubernetes")["enable_grpc_healthcheck_service"] == "true"
    assert set(container["resources"]) == {"requests", "limits"}
    volumes = {volume["name"] for volume in template["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    # All four are about the same pods; what a disruption leaves is fewer than there are.
    for selector in (budget["spec"]["selector"], policy["spec"]["podSelector"]):
        assert selector["matchLabels"] == labels
    assert budget["spec"]["minAvailable"] < deployment["spec"]["replicas"]
    for rule in policy["spec"]["ingress"]:
        assert {port["port"] for port in rule["ports"]} <= set(ports)
    annotations = template["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8501",
        "prometheus.io/path": DEFAULT_PATH,
    }


def test_nobody_in_a_container_has_rights():
    deployment, *_ = read("kubernetes.yaml")
    spec = deployment["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert min(spec["securityContext"][name] for name in ("runAsUser", "runAsGroup")) > 10_000
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for bound in container["resources"].values():
        assert set(bound) == {"cpu", "memory", "ephemeral-storage"}
    assert compose()["read_only"] is True and compose()["cap_drop"] == ["ALL"]
    assert int(compose()["user"].split(":")[0]) > 10_000


# --- KServe


def test_kserve():
    (service,) = read("kserve.yaml")
    assert (service["apiVersion"], service["kind"]) == (
        "serving.kserve.io/v1beta1",
        "InferenceService",
    )
    assert re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", service["metadata"]["name"])
    predictor = service["spec"]["predictor"]
    assert 0 < predictor["minReplicas"] <= predictor["maxReplicas"]
    model = predictor["model"]
    assert model["modelFormat"] == {"name": "tensorflow"}
    assert model["protocolVersion"] == "v1"
    assert re.match("(pvc|gs|s3|hdfs|https)://", model["storageUri"])
    # The rest of the model is a container, of Kubernetes' own type.
    own = {"modelFormat", "protocolVersion", "storageUri"}
    container = {key: value for key, value in model.items() if key not in own}
    check({"name": "model", **container}, "V1Container", "model")
    for volume in predictor["volumes"]:
        check(volume, "V1Volume", "volume")
    assert {mount["name"] for mount in model["volumeMounts"]} == {
        volume["name"] for volume in predictor["volumes"]
    }
    # What the runtime sets itself must not be set a second time.
    assert not {"model_name", "model_base_path", "port", "rest_api_port"} & set(flags_of("kserve"))


def test_a_run_pushes_where_the_configuration_looks():
    from pipeline.config import load

    (model,) = read_model_config_file(str(CONFIG / "models.config"))
    run = load(None, {"model": "two_tower", "name": model.name})
    assert Path(run.serving_dir).name == model.name == Path(model.base_path).name
    assert f"/v1/models/{model.name} " in compose()["healthcheck"]["test"][-1]
    (service,) = read("kserve.yaml")
    storage = service["spec"]["predictor"]["model"]["storageUri"]
    assert Path(storage).name == model.name
