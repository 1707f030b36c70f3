"""What a cluster gives to the steps of a run: a part of the run's file. Light: no TensorFlow."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

import pydantic

from components.read.datasets import DATASETS
from components.tables.places import is_remote, place
from models.names.errors import ConfigError, nearest
from models.names.settings import Names
from pipeline.workers import WorkersConfig

ALL = "all"
_UNITS = {
    "": 1e-9, "k": 1e-6, "M": 1e-3, "G": 1.0, "T": 1e3,
    "Ki": 2**10 / 1e9, "Mi": 2**20 / 1e9, "Gi": 2**30 / 1e9, "Ti": 2**40 / 1e9,
}  # fmt: skip
"""Suffixes of Kubernetes' quantities, in GB."""


def _gigabytes(text: Any) -> Any:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(text))
    if not found or found[2] not in _UNITS:
        raise ValueError("must be a number of bytes such as 16Gi or 500M")
    return text


def gigabytes(text: str) -> float:
    """How many GB (10^9 bytes) a quantity such as 16Gi is."""
    number, unit = re.fullmatch(r"([\d.]+)\s*([A-Za-z]*)", text).groups()
    return float(number) * _UNITS[unit]


def _absolute(path: str) -> str:
    if not PurePosixPath(path).is_absolute() or PurePosixPath(path) == PurePosixPath("/"):
        raise ValueError("must be an absolute path such as /mnt/data")
    return path


def _key_of_a_secret(text: str) -> str:
    if not re.fullmatch(r"[^/]+/[^/]+", text):
        raise ValueError("must be SECRET/KEY")
    return text


Memory = Annotated[str, pydantic.BeforeValidator(_gigabytes)]
Mount = Annotated[str, pydantic.AfterValidator(_absolute)]
SecretKey = Annotated[str, pydantic.AfterValidator(_key_of_a_secret)]


class ClusterConfig(WorkersConfig):
    """How many processes train, and what `recsys compile` asks of a cluster.

    Attributes:
        image: the container image that holds this project.
        volumes: where each step mounts which PersistentVolumeClaim; data and versions lie on one,
            where they lie in no bucket.
        memory: how much a step gets at most, by the step's name, such as Trainer; `all` is what the
            others get.
        cpu: how many processors, likewise.
        gpus: how many GPUs, by the step's name.
        gpu_type: what a node calls its GPUs; a step that gets one tolerates the taint of that name.
        retries: how often a step that failed is tried again.
        environment: variables of every step.
        secrets: variables of every step that a Secret holds, as SECRET/KEY.
        secret_files: where each step mounts the keys of which Secret as files.
        pull_policy: when the image is pulled: IfNotPresent, Always or Never.
        pull_secrets: Secrets with which it is pulled.
        node_labels: which nodes the steps run on.
    """

    SECTION: ClassVar[str] = "cluster"

    image: str = "recsys-tfx:latest"
    volumes: dict[Mount, str] = pydantic.Field({}, examples=[{"/mnt/data": "shop-data"}])
    memory: dict[str, Memory] = pydantic.Field({}, examples=[{ALL: "4Gi", "Trainer": "16Gi"}])
    cpu: dict[str, Annotated[float, pydantic.Field(gt=0)]] = pydantic.Field(
        {}, examples=[{"Trainer": 8}]
    )
    gpus: dict[str, Annotated[int, pydantic.Field(ge=1)]] = pydantic.Field(
        {}, examples=[{"Trainer": 1}]
    )
    gpu_type: str = "nvidia.com/gpu"
    retries: int = pydantic.Field(0, ge=0)
    environment: dict[str, str] = pydantic.Field(
        {}, examples=[{"AWS_ENDPOINT_URL": "http://minio-service.kubeflow:9000"}]
    )
    secrets: dict[str, SecretKey] = pydantic.Field(
        {}, examples=[{"AWS_ACCESS_KEY_ID": "mlpipeline-minio-artifact/accesskey"}]
    )
    secret_files: dict[Mount, str] = pydantic.Field({}, examples=[{"/mnt/keys": "gcs-key"}])
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    pull_secrets: Names = pydantic.Field((), examples=[("registry",)])
    node_labels: dict[str, str] = pydantic.Field({}, examples=[{"pool": "recsys"}])

    def reached(self, folder: str, key: str) -> str:
        """A folder as every step reaches it.

        Args:
            folder: a URI that `components.tables.places` knows, or an absolute path, which must lie
                on one of the volumes; where none is declared nothing is known of them.
            key: of the run, for the message.

        Returns:
            It, without a slash at the end.

        Raises:
            ConfigError: no step reaches it.
        """
        if is_remote(folder):
            try:
                return str(place(folder))
            except ConfigError as error:
                raise ConfigError(f"{key}: {error}") from None
        path = PurePosixPath(folder)
        if not path.is_absolute():
            raise ConfigError(
                f"{key}: required for a cluster: a URI such as s3://bucket/shop, or the absolute "
                f"path of a folder on a volume that every step mounts, such as /mnt/shop; received "
                f"{folder!r}"
                + (
                    ". A data set by name is fetched to this machine only: copy the folder that "
                    "`recsys data get` prints to the bucket or the volume"
                    if folder in DATASETS
                    else ""
                )
            )
        if self.volumes and not any(path.is_relative_to(mount) for mount in self.volumes):
            raise ConfigError(
                f"{key}: required: a folder on one of cluster.volumes "
                f"({', '.join(sorted(self.volumes))}); received {folder!r}"
            )
        return str(path)

    def require_known_steps(self, steps: list[str]) -> None:
        """Refuses a step that the pipeline does not have.

        Raises:
            ConfigError: the nearest is named.
        """
        for key in ("memory", "cpu", "gpus"):
            for step in getattr(self, key):
                if step not in steps and (step != ALL or key == "gpus"):
                    raise ConfigError(
                        f"cluster.{key}: the pipeline has no step {step!r}{nearest(step, steps)}"
                    )

    def resources(self, step: str) -> dict[str, Any]:
        """A step's ResourceSpec, as JSON."""
        found: dict[str, Any] = {}
        if memory := self.memory.get(step, self.memory.get(ALL)):
            found["memoryLimit"] = gigabytes(memory)
        if cpu := self.cpu.get(step, self.cpu.get(ALL)):
            found["cpuLimit"] = cpu
        if count := self.gpus.get(step):
            found["accelerator"] = {"type": self.gpu_type, "count": str(count)}
        return found

    def kubernetes(self, step: str) -> dict[str, Any]:
        """A step's KubernetesExecutorConfig (kfp-kubernetes), as JSON.

        Names are given twice: Kubeflow Pipelines before 2.15 reads the former of the two.
        """
        found: dict[str, Any] = {"imagePullPolicy": self.pull_policy}
        if self.volumes:
            found["pvcMount"] = [
                {"mountPath": path, "constant": claim, "pvcNameParameter": _constant(claim)}
                for path, claim in self.volumes.items()
            ]
        if self.secrets:
            keys: dict[str, list[dict[str, str]]] = {}
            for variable, key_of_secret in self.secrets.items():
                secret, key = key_of_secret.split("/")
                keys.setdefault(secret, []).append({"secretKey": key, "envVar": variable})
            found["secretAsEnv"] = [
                {"secretName": name, "secretNameParameter": _constant(name), "keyToEnv": mapped}
                for name, mapped in keys.items()
            ]
        if self.secret_files:
            found["secretAsVolume"] = [
                {"mountPath": path, "secretName": name, "secretNameParameter": _constant(name)}
                for path, name in self.secret_files.items()
            ]
        if self.pull_secrets:
            found["imagePullSecret"] = [
                {"secretName": name, "secretNameParameter": _constant(name)}
                for name in self.pull_secrets
            ]
        if self.node_labels:
            found["nodeSelector"] = {"labels": self.node_labels}
        if step in self.gpus:
            found["tolerations"] = [
                {"key": self.gpu_type, "operator": "Exists", "effect": "NoSchedule"}
            ]
        return found

    def pod(self, step: str, image: str) -> dict[str, Any]:
        """What each process of a training by several is given, see `pipeline.workers.documents`.

        The same as the step itself gets, by Kubernetes' own names.
        """
        limits: dict[str, str] = {}
        if memory := self.memory.get(step, self.memory.get(ALL)):
            limits["memory"] = memory.replace(" ", "")
        if cpu := self.cpu.get(step, self.cpu.get(ALL)):
            limits["cpu"] = f"{cpu:g}"
        if count := self.gpus.get(step):
            limits[self.gpu_type] = str(count)
        env: list[dict[str, Any]] = [
            {"name": name, "value": value} for name, value in self.environment.items()
        ]
        for name, key_of_secret in self.secrets.items():
            secret, key = key_of_secret.split("/")
            reference = {"secretKeyRef": {"name": secret, "key": key}}
            env.append({"name": name, "valueFrom": reference})
        mounts, volumes = [], []
        claims = {
            path: {"persistentVolumeClaim": {"claimName": c}} for path, c in self.volumes.items()
        }
        files = {path: {"secret": {"secretName": s}} for path, s in self.secret_files.items()}
        for number, (path, source) in enumerate({**claims, **files}.items()):
            mounts.append({"name": f"volume-{number}", "mountPath": path})
            volumes.append({"name": f"volume-{number}", **source})
        spec: dict[str, Any] = {"volumes": volumes}
        if self.pull_secrets:
            spec["imagePullSecrets"] = [{"name": name} for name in self.pull_secrets]
        if self.node_labels:
            spec["nodeSelector"] = self.node_labels
        if step in self.gpus:
            spec["tolerations"] = [
                {"key": self.gpu_type, "operator": "Exists", "effect": "NoSchedule"}
            ]
        container = {
            "image": image,
            "imagePullPolicy": self.pull_policy,
            "resources": {"limits": limits},
            "env": env,
            "volumeMounts": mounts,
        }
        return {"container": container, "spec": spec}


def _constant(value: str) -> dict[str, Any]:
    return {"runtimeValue": {"constant": value}}
