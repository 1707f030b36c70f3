"""A training by several processes: what a run's `cluster:` says of it, here and on Kubernetes.

On this machine `models.training.launcher` starts the processes. On Kubernetes the Trainer's step
lays its inputs into a folder that all pods mount, asks Kubeflow's training operator for the
processes, waits, and takes what they have made. The operator is Kubeflow Trainer 2, which knows
nothing of TensorFlow, so TF_CONFIG is written here; the TFJob of its predecessor has come to its
end. Every process runs the same command, `python -m models.training.worker ARGUMENTS.json`.
Light: no TensorFlow.
"""

import hashlib
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydantic

from models.names.errors import ConfigError, RecsysError
from models.names.settings import Settings
from models.training.launcher import roles, write_arguments

_PORT = 2222
_API = "trainer.kubeflow.org/v1alpha1"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_POLL_SECONDS = 10.0
_LONGEST_NAME = 40  # Kubernetes adds to it for pods


class WorkersConfig(Settings):
    """How many processes train.

    Attributes:
        workers: processes that share every batch (`batch_size` stays the whole one's), each with
            all GPUs of its machine. With parameter servers they step without waiting for each
            other.
        parameter_servers: processes that hold the tables in pieces, for tables that are larger than
            a device; for the models that can be trained so. 0: every worker holds everything.
        restarts: how often all are started again, from the checkpoint, where one was lost.
        shared_folder: on Kubernetes a folder of a volume that the steps and all processes mount by
            the same path, where they exchange what they train on and what they have made.
    """

    workers: int = pydantic.Field(1, ge=1)
    parameter_servers: int = pydantic.Field(0, ge=0)
    restarts: int = pydantic.Field(3, ge=0)
    shared_folder: str | None = pydantic.Field(None, examples=["/mnt/data/training"])

    @property
    def several(self) -> bool:
        """Whether a training has more than one process."""
        return self.workers > 1 or self.parameter_servers > 0


def trainer_settings(config: WorkersConfig, model: str) -> dict[str, Any]:
    """What a run's Trainer is given besides, where several processes train; else nothing.

    Raises:
        ConfigError: the model learns without gradient steps, or its tables cannot lie in pieces.
    """
    if not config.several:
        return {}
    from models.names import registry
    from models.names.hyper_parameters import Gradient

    if not issubclass(registry.load(model).Model.HyperParameters, Gradient):
        raise ConfigError(
            f"cluster.workers: {model} {Gradient.REFUSAL}, so nothing is shared; required: 1; "
            f"received {config.workers}"
        )
    if config.parameter_servers:
        from models.training.servers import require_shards

        require_shards(model)
    return {
        "workers": config.workers,
        "parameter_servers": config.parameter_servers,
        "restarts": config.restarts,
    }


def on_kubernetes(
    config: WorkersConfig, settings: dict[str, Any], name: str, pod: dict[str, Any]
) -> dict[str, Any]:
    """`trainer_settings` for a training in pods of its own.

    Args:
        config: of the run.
        settings: of `trainer_settings`.
        name: of the pipeline.
        pod: see `documents`.

    Raises:
        ConfigError: no shared folder.
    """
    folder = config.shared_folder
    if not folder or not os.path.isabs(folder):
        raise ConfigError(
            "cluster.shared_folder: required for several processes on a cluster: the absolute path "
            f"of a folder on a volume that all of them mount; received {folder!r}"
        )
    return {**settings, "shared_folder": folder, "name": name, "pod": pod}


def run_fn_of(settings: dict[str, Any]) -> str:
    """The dotted name of the Trainer's `run_fn` for its settings."""
    if not settings:
        return "models.training.trainer.run_fn"
    here = "pod" not in settings
    return "models.training.launcher.run_fn" if here else "pipeline.workers.run_fn"


def documents(
    name: str, settings: dict[str, Any], pod: dict[str, Any], file: str
) -> list[dict[str, Any]]:
    """The TrainingRuntime and the TrainJob of a training.

    Args:
        name: of both: small letters, digits and hyphens, 40 at most.
        settings: of `trainer_settings`.
        pod: what each process is given: `container` (image, and such as resources, env,
            volumeMounts) and `spec` (such as volumes, nodeSelector) are laid into those of its pod.
        file: of `launcher.write_arguments`.
    """
    kinds = roles(settings["workers"], settings["parameter_servers"])
    # The operator counts the nodes of its trainer, a job that it calls node.
    jobs = {kind: "node" if kind == "worker" else kind for kind in kinds}
    addresses = {
        kind: [f"{name}-{jobs[kind]}-0-{number}.{name}:{_PORT}" for number in range(count)]
        for kind, count in kinds.items()
    }
    first = next(iter(kinds))
    runtime = {
        "apiVersion": _API,
        "kind": "TrainingRuntime",
        "metadata": {"name": name},
        "spec": {
            "mlPolicy": {"numNodes": kinds["worker"]},
            "template": {
                "spec": {
                    "replicatedJobs": [
                        _job(kind, jobs[kind], count, addresses, pod, file)
                        for kind, count in kinds.items()
                    ],
                    # Servers, and the workers of a chief, wait forever for what comes.
                    "successPolicy": {"operator": "All", "targetReplicatedJobs": [jobs[first]]},
                    "failurePolicy": {
                        "maxRestarts": settings["restarts"],
                        "rules": [
                            {
                                "name": "error",
                                "action": "FailJobSet",
                                "onJobFailureReasons": ["PodFailurePolicy"],
                            }
                        ],
                    },
                }
            },
        },
    }
    reference = {"apiGroup": _API.split("/")[0], "kind": "TrainingRuntime", "name": name}
    job = {
        "apiVersion": _API,
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {"runtimeRef": reference},
    }
    return [runtime, job]


def _job(
    kind: str,
    job: str,
    count: int,
    addresses: dict[str, list[str]],
    pod: dict[str, Any],
    file: str,
) -> dict[str, Any]:
    """One kind of process, `count` times."""
    place = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    task = f'{{"type": "{kind}", "index": $(WORKER_INDEX)}}'
    given = pod.get("container", {})
    container = {
        **given,
        "name": "node",
        "command": ["python", "-m", "models.training.worker", file],
        "ports": [{"containerPort": _PORT}],
        "env": [
            *given.get("env", []),
            {"name": "WORKER_INDEX", "valueFrom": {"fieldRef": {"fieldPath": place}}},
            {
                "name": "TF_CONFIG",
                "value": f'{{"cluster": {json.dumps(addresses)}, "task": {task}}}',
            },
        ],
    }
    labels = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"} if kind == "worker" else {}
    return {
        "name": job,
        "template": {
            "metadata": {"labels": labels},
            "spec": {
                "parallelism": count,
                "completions": count,
                "completionMode": "Indexed",
                "backoffLimit": 0,
                # Status 1 is an error of a person's, which would come again.
                "podFailurePolicy": {
                    "rules": [
                        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}
                    ]
                },
                "template": {
                    "spec": {
                        **pod.get("spec", {}),
                        "restartPolicy": "Never",
                        "containers": [container],
                    }
                },
            },
        },
    }


def job_name(run: str, identity: str) -> str:
    """What a training is called on Kubernetes: of the pipeline and of what it trains."""
    legal = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-") or "training"
    legal = legal if legal[0].isalpha() else f"r-{legal}"
    return f"{legal[: _LONGEST_NAME - 9].rstrip('-')}-{identity[:8]}"


def run_fn(fn_args: Any, api: "Kubernetes | None" = None) -> None:
    """Trains and exports one model by several processes that Kubernetes runs.

    Args:
        fn_args: as `models.training.trainer.run_fn` takes them; `custom_config["cluster"]` is what
            `on_kubernetes` returns.
        api: where to ask; left out, the cluster that this process runs in.

    Raises:
        ConfigError: the shared folder is not there.
        RecsysError: the operator is not there or not to be used, or the training failed.
    """
    shared = Path(fn_args.custom_config["cluster"]["shared_folder"])
    if not shared.is_dir():
        raise ConfigError(
            f"cluster.shared_folder: {shared} is not there; required: a folder on a volume that "
            "this step and all processes of a training mount by the same path"
        )
    settings = fn_args.custom_config["cluster"]
    # Of what is trained: a step that is tried again finds its checkpoints.
    told = json.dumps([fn_args.custom_config, fn_args.base_model], sort_keys=True)
    name = job_name(settings["name"], hashlib.sha256(told.encode()).hexdigest())
    folder = shared / name
    staged = _staged(fn_args, folder)
    file = write_arguments(staged)
    _train(documents(name, settings, settings["pod"], file), api or Kubernetes.here())
    for made in ("serving_model_dir", "model_run_dir"):
        shutil.copytree(getattr(staged, made), getattr(fn_args, made), dirs_exist_ok=True)
    shutil.rmtree(folder)


def _staged(fn_args: Any, folder: Path) -> SimpleNamespace:
    """The arguments, with copies in the shared folder of what the step alone sees.

    Checkpoints of an earlier try stay where they are.
    """
    places = {"transform_graph_path": "graph", "schema_path": "schema/schema.pbtxt"}
    copied = {name: folder / place for name, place in places.items()}
    if fn_args.base_model and Path(fn_args.base_model).exists():
        copied["base_model"] = folder / "base_model"
    for name, place in copied.items():
        source = Path(getattr(fn_args, name))
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, dirs_exist_ok=True)
        else:
            shutil.copy(source, place)
    patterns = {}
    for name in ("train_files", "eval_files"):
        patterns[name] = []
        for pattern in map(Path, getattr(fn_args, name)):
            place = folder / "examples" / pattern.parent.name  # Split-NAME
            shutil.copytree(pattern.parent, place, dirs_exist_ok=True)
            patterns[name].append(str(place / pattern.name))
    config = {**fn_args.custom_config, "checkpoint_dir": str(folder / "checkpoints")}
    return SimpleNamespace(
        **{"base_model": None, **{name: str(place) for name, place in copied.items()}},
        **patterns,
        serving_model_dir=str(folder / "model"),
        model_run_dir=str(folder / "run"),
        custom_config=config,
        hyperparameters=getattr(fn_args, "hyperparameters", None),
    )


def _train(made: list[dict[str, Any]], api: "Kubernetes") -> None:
    """Asks for what `documents` has made, and waits for its end."""
    runtime, job = made
    name = job["metadata"]["name"]
    for document in (job, runtime):
        api.remove(document)  # what an earlier try has left
    try:
        for document in (runtime, job):
            api.create(document)
        while not (ended := _ended(api.read(job))):
            time.sleep(_POLL_SECONDS)
    finally:
        for document in (job, runtime):
            api.remove(document)
    kind, message = ended
    if kind != "Complete":
        raise RecsysError(f"the training {name} failed on Kubernetes: {message}")


def _ended(job: dict[str, Any]) -> tuple[str, str] | None:
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return condition["type"], condition.get("message", "no reason was given")
    return None


class Kubernetes:
    """The few requests to Kubernetes' API that a training needs.

    Args:
        address: of the API, such as https://10.0.0.1:443.
        namespace: where the pods go.
        token: of the service account.
        context: whom to trust.
    """

    def __init__(
        self, address: str, namespace: str, token: str, context: ssl.SSLContext | None = None
    ):
        self._folder = f"{address}/apis/{_API}/namespaces/{namespace}"
        self._token, self._context = token, context

    @classmethod
    def here(cls) -> "Kubernetes":
        """That of the cluster in which this process is a pod.

        Raises:
            ConfigError: it is none.
        """
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{each}") for each in ("HOST", "PORT"))
        try:
            return cls(
                f"https://{host}:{port}",
                (_ACCOUNT / "namespace").read_text("utf-8").strip(),
                (_ACCOUNT / "token").read_text("utf-8").strip(),
                ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt")),
            )
        except OSError as error:
            raise ConfigError(
                "several workers on Kubernetes: required: a pod with a service account that may "
                f"make TrainJobs and TrainingRuntimes; received: {error}"
            ) from None

    def create(self, document: dict[str, Any]) -> None:
        """Makes what the document describes."""
        self._ask("POST", self._kind(document), document)

    def read(self, document: dict[str, Any]) -> dict[str, Any]:
        """What has become of it."""
        return self._ask("GET", f"{self._kind(document)}/{document['metadata']['name']}") or {}

    def remove(self, document: dict[str, Any]) -> None:
        """Removes it, and waits until it is gone; nothing where it is not there."""
        path = f"{self._kind(document)}/{document['metadata']['name']}?propagationPolicy=Foreground"
        while self._ask("DELETE", path) is not None and self.read(document):
            time.sleep(_POLL_SECONDS / 10)

    def _kind(self, document: dict[str, Any]) -> str:
        return f"{document['kind'].lower()}s"

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any] | None:
        """The answer; None where there is no such object."""
        request = urllib.request.Request(
            f"{self._folder}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60, context=self._context) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            if error.code == 404 and method != "POST":
                return None
            said = error.read().decode("utf-8", "replace")[:500]
            raise RecsysError(
                f"Kubernetes refuses to {method} {path} ({error.code}): {said}. Required: Kubeflow "
                "Trainer 2, and a service account that may make, read and delete TrainJobs and "
                "TrainingRuntimes"
            ) from None
        except OSError as error:
            raise RecsysError(f"Kubernetes' API does not answer: {error}") from None
