"""`recsys submit`: a compiled file becomes a run of Kubeflow Pipelines, through its REST API.

The API is v2beta1 (github.com/kubeflow/pipelines, backend/api/v2beta1). The file is uploaded as a
pipeline, or as a new version of it where its name is there already; the same file is not uploaded
twice. Light: no TensorFlow, and no client of Kubeflow's.
"""

import hashlib
import json
import os
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import yaml

from models.names.errors import ConfigError, RecsysError, nearest
from pipeline.cluster import ClusterConfig

ENDPOINT, TOKEN = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_SA_TOKEN_PATH"
"""The variables that Kubeflow's own client reads too: the address, and the file of the token."""

_API = "apis/v2beta1"
_SECONDS = 60


def submit(
    file: str,
    endpoint: str | None,
    settings: dict[str, Any],
    *,
    experiment: str | None = None,
    namespace: str | None = None,
) -> str:
    """Uploads a compiled file and starts a run of it.

    Args:
        file: of `recsys compile`, `.yaml`.
        endpoint: address of the API or the user interface; None takes `KF_PIPELINES_ENDPOINT`.
        settings: parameters of the run: `data`, `seed`, `warm_start`, and `hyper_parameters`, of
            which those that are not named stay as they were compiled.
        experiment: in which the run is; it is made where it is missing. None takes the default.
        namespace: of the user, in an installation for several.

    Returns:
        The run's id, and where it is shown.

    Raises:
        ConfigError: no file, no endpoint, or a setting that the file does not take.
        RecsysError: the server is not reached, or it refuses.
    """
    text, spec = _read(file)
    parameters = _parameters(spec, settings)
    server = _Server(endpoint)
    name = spec["pipelineInfo"]["name"]
    version = _version(server, name, text, namespace)
    run: dict[str, Any] = {
        "display_name": f"{name} {version['pipeline_version_id'][:8]}",
        "pipeline_version_reference": {
            key: version[key] for key in ("pipeline_id", "pipeline_version_id")
        },
        "runtime_config": {"parameters": parameters},
    }
    if root := spec.get("defaultPipelineRoot"):  # of which the backend takes no notice by itself
        run["runtime_config"]["pipeline_root"] = root
    if experiment:
        run["experiment_id"] = _experiment(server, experiment, namespace)
    started = server.ask("POST", "runs", body=run)
    return f"run {started['run_id']}: {server.address}/#/runs/details/{started['run_id']}"


def _read(file: str) -> tuple[bytes, dict[str, Any]]:
    try:
        text = Path(file).read_bytes()
        spec = next(yaml.safe_load_all(text))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is no YAML: {error}") from None
    if not file.endswith((".yaml", ".yml")) or not isinstance(spec, dict) or "root" not in spec:
        raise ConfigError(
            "required: a file of recsys compile --to FILE.yaml, which Kubeflow takes; received "
            f"{file}"
        )
    return text, spec


def _parameters(spec: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What is set, held against what the file takes.

    A hyper-parameter must be one of the model's: all of them stand in what the Trainer is told.
    """
    opened = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    for name in settings:
        if name not in opened:
            raise ConfigError(
                f"{name} is not set when a run is submitted, but compiled; may be set: "
                f"{', '.join(sorted(opened))}{nearest(name, opened)}"
            )
    if "data" in settings:
        settings = {**settings, "data": ClusterConfig().reached(settings["data"], "data")}
    if given := settings.get("hyper_parameters"):
        inputs = spec["root"]["dag"]["tasks"]["Trainer"]["inputs"]["parameters"]
        config = json.loads(inputs["custom_config"]["runtimeValue"]["constant"])
        known = config["hyper_parameters"]
        for name in given:
            if name not in known:
                raise ConfigError(
                    f"{config['model']} has no hyper-parameter {name!r}{nearest(name, known)}"
                )
    return settings


def _version(server: "_Server", name: str, text: bytes, namespace: str | None) -> dict[str, Any]:
    """The version of the pipeline that holds the file."""
    where = {"namespace": namespace} if namespace else {}
    mark = f"{name[:80]}-{hashlib.sha256(text).hexdigest()[:12]}"
    quoted = urllib.parse.quote(name, safe="")
    pipeline = server.ask("GET", f"pipelines/names/{quoted}", where, missing=True)
    if pipeline is None:
        called = {"name": name, "display_name": name, **where}
        pipeline = server.ask("POST", "pipelines/upload", called, file=text)
        return _versions(server, pipeline["pipeline_id"])[0]
    for version in _versions(server, pipeline["pipeline_id"]):
        if mark in (version.get("name"), version.get("display_name")):
            return version
    called = {"name": mark, "display_name": mark, "pipelineid": pipeline["pipeline_id"]}
    uploaded: dict[str, Any] = server.ask("POST", "pipelines/upload_version", called, file=text)
    return uploaded


def _versions(server: "_Server", pipeline: str) -> list[dict[str, Any]]:
    asked = {"page_size": "100", "sort_by": "created_at desc"}
    found = server.ask("GET", f"pipelines/{pipeline}/versions", asked)
    versions: list[dict[str, Any]] = found.get("pipeline_versions", [])
    return versions


def _experiment(server: "_Server", name: str, namespace: str | None) -> str:
    where = {"namespace": namespace} if namespace else {}
    predicate = {"operation": "EQUALS", "key": "display_name", "string_value": name}
    asked = {"filter": json.dumps({"predicates": [predicate]}), **where}
    found = server.ask("GET", "experiments", asked).get("experiments", [])
    if not found:
        found = [server.ask("POST", "experiments", body={"display_name": name, **where})]
    identity: str = found[0]["experiment_id"]
    return identity


class _Server:
    """The API of an installation.

    Args:
        endpoint: its address, or None for that of the environment.
    """

    def __init__(self, endpoint: str | None):
        address = (endpoint or os.environ.get(ENDPOINT) or "").rstrip("/")
        if not address.startswith(("http://", "https://")):
            raise ConfigError(
                f"--endpoint (or {ENDPOINT}): required: the address of Kubeflow Pipelines, such "
                f"as http://localhost:8888; received {address!r}"
            )
        self.address = address
        self._headers = {"Accept": "application/json"}
        if path := os.environ.get(TOKEN):
            try:
                token = Path(path).read_text("utf-8").strip()
            except OSError as error:
                raise ConfigError(f"{TOKEN}: cannot read {path}: {error.strerror}") from None
            self._headers["Authorization"] = f"Bearer {token}"

    def ask(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        *,
        body: dict[str, Any] | None = None,
        file: bytes | None = None,
        missing: bool = False,
    ) -> Any:
        """Sends a request and returns the answer; None where `missing` and there is no such thing.

        Raises:
            RecsysError: the server is not reached, or it refuses.
        """
        url = f"{self.address}/{_API}/{path}" + (
            f"?{urllib.parse.urlencode(query)}" if query else ""
        )
        headers, data = dict(self._headers), None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        if file is not None:
            mark = uuid.uuid4().hex
            headers["Content-Type"] = f"multipart/form-data; boundary={mark}"
            head = (
                f"--{mark}\r\nContent-Disposition: form-data; "
                'name="uploadfile"; filename="pipeline.yaml"\r\n'
                "Content-Type: application/octet-stream\r\n\r\n"
            )
            data = head.encode() + file + f"\r\n--{mark}--\r\n".encode()
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if missing and error.code == 404:
                return None
            said = error.read().decode("utf-8", "replace")[:500].strip()
            raise RecsysError(f"{method} {url}: {error.code} {error.reason}: {said}") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise RecsysError(
                f"{method} {url}: no answer of Kubeflow Pipelines: {reason}"
            ) from None
