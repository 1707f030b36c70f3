"""The same pipeline for a cluster, compiled to a Kubeflow Pipelines v2 specification.

Nothing is run here. The file is for open-source Kubeflow Pipelines 2.x and for Vertex AI Pipelines:

- `.yaml` is for Kubeflow Pipelines: the specification, and a second document for Kubernetes;
- `.json` is for Vertex AI: the specification alone, the same.

A cluster sees neither this machine's files nor its caches, so the run file must name places that
every step can reach:

    data.source   a URI under s3://, gs:// or hdfs://, or the absolute path of a folder on a volume
                  that the steps mount;
    output        a bucket (s3://bucket/runs, gs://bucket/runs): the root of artifacts, and models
                  are pushed to OUTPUT/serving; or the absolute path of a volume: models are pushed
                  there, and artifacts go where the installation keeps them;
    push          a URI or the absolute path of a volume where models are pushed instead;
    data.schema   one of the project's by name (the image holds them), or a folder in the image by
                  the same path as here; left out, `generic`: what the data suggest cannot be seen
                  from here;
    cluster       volumes, memory, GPUs, secrets, retries (`pipeline.cluster.ClusterConfig`).

The image holds this project as it is now (`pipeline/Dockerfile`), for what is compiled names its
classes and hashes its code. Its steps start in `pipeline.kubeflow_entry`.

What may be set when a run is submitted, without compiling again: `data`, `seed`,
`hyper_parameters` and `warm_start` (`PARAMETERS`). All else decides what steps there are and what
flows between them, or is part of a step's configuration that TFX makes one text of.

What is not done, and known:
- The data may change without anybody compiling again, so no fingerprint is taken: the reader is
  never served from a cluster's cache, and what follows it is computed afresh.
- An interrupted training keeps no state: the next run of the step begins afresh.
"""

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from components.tables.places import is_remote
from models.names import declared
from models.names.errors import ConfigError
from models.names.hyper_parameters import HyperParameters, resolve
from pipeline import preflight
from pipeline.config import RunConfig

PARAMETERS = {
    "data": ("STRING", "TableReader", "source"),
    "seed": ("NUMBER_INTEGER", "Trainer", "seed"),
    "hyper_parameters": ("STRUCT", "Trainer", "hyper_parameters"),
    "warm_start": ("BOOLEAN", "Trainer", "warm_start"),
}
"""A run's parameter -> its type, the step that takes it and under which name."""

_COMMAND = ["python", "-m", "pipeline.kubeflow_entry"]
_ROOT = Path(__file__).resolve().parent.parent
_FINGERPRINT = "not taken: read afresh by every run"
_LONGEST_NAME = 128
_ROOTS = ("s3://", "gs://")
_ID = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9]*")  # what Argo takes for the name of a task


def compile_pipeline(config: RunConfig, target: str, image: str | None = None) -> str:
    """Compiles a run and writes its PipelineSpec.

    Args:
        config: the run; see the head of this file for what it must say.
        target: the file to write: `.yaml` or `.yml`, or `.json`.
        image: the container image that holds this project; None takes `cluster.image`.

    Returns:
        What was written, for whom, and that it was not run.

    Raises:
        ConfigError: a place that a cluster cannot reach, an unknown schema, step or
            hyper-parameter, a target that cannot be written, or Kubeflow's package is not
            installed.
    """
    if not target.endswith((".json", ".yaml", ".yml")):
        raise ConfigError(
            f"--to requires a name that ends in .json, .yaml or .yml; received {target!r}"
        )
    name, image = legal_name(config.pipeline_name), image or config.cluster.image
    source, output = config.cluster.reached(config.data.source, "data.source"), _output(config)
    pushes = config.cluster.reached(config.push or f"{output}/serving", "push")
    _require_kfp()
    settings = resolve(
        config.model, declared.hyper_parameters(config.model), config.hyper_parameters
    )
    preflight.check_run(config, settings)
    named = config.model_copy(update={"name": name})
    spec = _compile(named, settings, source, output, pushes, image)
    text = (
        json.dumps(spec, indent=1, sort_keys=True) + "\n"
        if target.endswith(".json")
        else yaml.safe_dump_all([spec, _platforms(config, spec)], allow_unicode=True)
    )
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from None
    return (
        f"{target}: pipeline {name}, {len(spec['root']['dag']['tasks'])} tasks in image {image}, "
        f"models pushed to {pushes}/{name}.\n"
        "Compiled, not run on a cluster: "
        + (
            "the specification alone, for Vertex AI"
            if target.endswith(".json")
            else f"recsys submit {target} --endpoint URL"
        )
    )


def legal_name(name: str) -> str:
    """The nearest name that Kubeflow accepts: small ASCII letters, digits and hyphens.

    Raises:
        ConfigError: nothing of the name is left.
    """
    legal = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if len(legal) > _LONGEST_NAME:  # cut off, two of them would be one
        mark = hashlib.sha256(name.encode()).hexdigest()[:8]
        legal = f"{legal[: _LONGEST_NAME - 9].rstrip('-')}-{mark}"
    if not legal:
        raise ConfigError(
            f"name: required for a cluster: letters a to z, digits and hyphens; received {name!r}"
        )
    return legal


def _output(config: RunConfig) -> str:
    output = config.cluster.reached(config.output, "output")
    if is_remote(output) and not output.startswith(_ROOTS):
        raise ConfigError(
            "output: required for a cluster: what Kubeflow keeps artifacts in, "
            f"{' or '.join(_ROOTS)}, or the absolute path of a volume; received {output!r}. Models "
            "alone may be pushed elsewhere: push"
        )
    return output


def _require_kfp() -> None:
    try:
        from kfp.pipeline_spec import pipeline_spec_pb2  # noqa: F401
    except ImportError as error:
        # TFX's extra `kfp` is empty from Python 3.12 on, but its compiler needs the specification's
        # protos only.
        package = "kfp==2.5.0" if sys.version_info < (3, 12) else "kfp-pipeline-spec>=2.14,<2.17"
        raise ConfigError(
            f"recsys compile needs Kubeflow's package ({error}): pip install '{package}'"
        ) from None


def _compile(
    config: RunConfig,
    settings: HyperParameters,
    source: str,
    output: str,
    pushes: str,
    image: str,
) -> dict[str, Any]:
    from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner as kubeflow

    from components.tables.schemas import schema_folder
    from pipeline import dag

    schemas = config.data.schema_name or "generic"
    folder = Path(schema_folder(schemas)).resolve()
    # Steps start in the image's copy of this project.
    in_image = folder.relative_to(_ROOT) if folder.is_relative_to(_ROOT) else folder
    pipeline = dag.create_pipeline(
        config,
        source=source,
        fingerprint=_FINGERPRINT,
        schemas=schemas,
        schema_dir=str(in_image),
        hyper_parameters=settings.model_dump(mode="json"),
        pipeline_root=f"{output}/{config.pipeline_name}",
        serving_dir=f"{pushes}/{config.pipeline_name}",
        training_pod=config.cluster.pod("Trainer", image),
    )
    # Version 2.1 of the specification: the one that today's Kubeflow Pipelines reads.
    runner_config = kubeflow.KubeflowV2DagRunnerConfig(
        default_image=image, default_commands=_COMMAND, use_pipeline_spec_2_1=True
    )
    job = kubeflow.KubeflowV2DagRunner(config=runner_config).run(pipeline, write_out=False)
    spec = job["pipelineSpec"]
    # The root of a run is a store; a volume is for the pushes alone.
    spec.pop("defaultPipelineRoot", None)
    if is_remote(output):
        spec["defaultPipelineRoot"] = pipeline.pipeline_info.pipeline_root
    tasks = spec["root"]["dag"]["tasks"]
    _require_legal_ids(tasks)
    for name in ("TableReader", "LastBlessed"):  # what they find is not known here
        tasks[name]["cachingOptions"] = {"enableCache": False}
    defaults = {"data": source, "seed": config.seed, "hyper_parameters": {}}
    if "base_model" in tasks["Trainer"]["inputs"]["artifacts"]:
        defaults["warm_start"] = config.warm_start
    _open_parameters(spec, defaults)
    _ask_for_resources(spec, config)
    return spec


def _require_legal_ids(tasks: dict[str, Any]) -> None:
    for name in tasks:
        if not _ID.fullmatch(name):
            raise ValueError(f"Argo takes no task of the name {name!r}: letters, digits, hyphens")


def _open_parameters(spec: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Makes parameters of the run of what a submission may set.

    TFX's own RuntimeParameter takes the place of a whole property of a component, and what the
    Trainer is told is one property: the step's entry puts these into it.
    """
    tasks, opened = spec["root"]["dag"]["tasks"], {}
    for name, value in defaults.items():
        kind, step, key = PARAMETERS[name]
        opened[name] = {"parameterType": kind, "defaultValue": value, "isOptional": True}
        for task, made in tasks.items():
            if task != step and not task.startswith(f"{step}-"):  # such as Trainer-refit
                continue
            component = spec["components"][made["componentRef"]["name"]]
            component["inputDefinitions"]["parameters"][key] = {"parameterType": kind}
            made["inputs"]["parameters"][key] = {"componentInputParameter": name}
    spec["root"]["inputDefinitions"] = {"parameters": opened}


def _ask_for_resources(spec: dict[str, Any], config: RunConfig) -> None:
    """What the specification itself can say of a step, for both backends: what it gets."""
    cluster, tasks = config.cluster, spec["root"]["dag"]["tasks"]
    cluster.require_known_steps(sorted(tasks))
    for name, task in tasks.items():
        container = _executors(spec)[_executor(spec, name)]["container"]
        if resources := cluster.resources(name):
            container["resources"] = resources
        if cluster.environment:
            container["env"] = [
                {"name": key, "value": value} for key, value in cluster.environment.items()
            ]
        if cluster.retries:
            task["retryPolicy"] = {"maxRetryCount": cluster.retries, "backoffDuration": "60s"}


def _platforms(config: RunConfig, spec: dict[str, Any]) -> dict[str, Any]:
    """The second document: what Kubernetes is told of each step's pod."""
    executors = {
        _executor(spec, name): config.cluster.kubernetes(name)
        for name in spec["root"]["dag"]["tasks"]
    }
    return {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}}


def _executors(spec: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = spec["deploymentSpec"]["executors"]
    return found


def _executor(spec: dict[str, Any], task: str) -> str:
    component = spec["root"]["dag"]["tasks"][task]["componentRef"]["name"]
    label: str = spec["components"][component]["executorLabel"]
    return label
