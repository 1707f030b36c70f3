"""The same pipeline for a cluster, compiled to a Kubeflow Pipelines v2 specification.

Nothing is run here.

A cluster sees neither this machine's files nor its caches, so the run file must name places that
every step can reach:

    data.source   the absolute path of a folder on a volume that the steps mount (readers read
                  files, not object stores);
    output        the absolute path of such a volume, or a URI (gs://bucket/runs): artifacts and
                  pushed models go there;
    data.schema   one of the project's by name (the image holds them), or a folder in the image by
                  the same path as here; left out, `generic`: what the data suggest cannot be seen
                  from here.

The image holds this project as it is now (`pipeline/Dockerfile`), for what is compiled names its
classes and hashes its code.

What is not done, and known:
- The data may change without anybody compiling again, so no fingerprint is taken: the reader is
  never served from a cluster's cache, and what follows it is computed afresh.
- The last blessed model is found by TFX's own strategy, which becomes two resolver tasks. Vertex AI
  Pipelines has resolvers; the backend of open-source Kubeflow Pipelines refuses them ("resolver not
  implemented yet").
- An interrupted training keeps no state: the next run of the step begins afresh.
"""

import hashlib
import json
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from models.names.errors import ConfigError
from pipeline.config import RunConfig

IMAGE = "recsys-tfx:latest"
_ROOT = Path(__file__).resolve().parent.parent
_FINGERPRINT = "not taken: read afresh by every run"
_LONGEST_NAME = 128


def compile_pipeline(config: RunConfig, target: str, image: str = IMAGE) -> str:
    """Compiles a run and writes its PipelineSpec, which kfp and Vertex AI's client take alike.

    Args:
        config: the run; see the head of this file for what it must say.
        target: the file to write: `.json`, or `.yaml` or `.yml`.
        image: the container image that holds this project.

    Returns:
        What was written, for whom, and that it was not run.

    Raises:
        ConfigError: a place that a cluster cannot reach, an unknown schema or hyper-parameter, a
            target that cannot be written, or Kubeflow's package is not installed.
    """
    if not target.endswith((".json", ".yaml", ".yml")):
        raise ConfigError(
            f"--to requires a name that ends in .json, .yaml or .yml; received {target!r}"
        )
    name = legal_name(config.pipeline_name)
    source, output = _source(config.data.source), _output(config.output)
    _require_kfp()
    spec = _compile(config.model_copy(update={"name": name}), source, output, image)
    as_json = target.endswith(".json")
    text = (
        json.dumps(spec, indent=1, sort_keys=True) + "\n"
        if as_json
        else yaml.safe_dump(spec, allow_unicode=True)
    )
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from None
    return (
        f"{target}: pipeline {name}, {len(spec['root']['dag']['tasks'])} tasks in image {image}, "
        f"artifacts under {output}.\n"
        "Compiled, not run on a cluster. Its resolver tasks need Vertex AI Pipelines; open-source "
        "Kubeflow Pipelines refuses them."
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


def _source(source: str) -> str:
    if not PurePosixPath(source).is_absolute():
        raise ConfigError(
            "data.source: required for a cluster: the absolute path of a folder that every step "
            "can read, such as "
            f"/mnt/data/events; received {source!r}. A data set by name is fetched to this machine "
            "only: copy the folder "
            "that `recsys data get` prints to the volume"
        )
    return source


def _output(output: str) -> str:
    if "://" not in output and not PurePosixPath(output).is_absolute():
        raise ConfigError(
            "output: required for a cluster: a URI such as gs://bucket/runs, or the absolute path "
            "of a volume that every "
            f"step mounts; received {output!r}"
        )
    return output.rstrip("/")


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


def _compile(config: RunConfig, source: str, output: str, image: str) -> dict[str, Any]:
    from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner as kubeflow

    from components.tables.schemas import schema_folder
    from models.training import trainer
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
        hyper_parameters=trainer.resolve(config.model, config.hyper_parameters).model_dump(
            mode="json"
        ),
        pipeline_root=f"{output}/{config.pipeline_name}",
        serving_dir=f"{output}/serving/{config.pipeline_name}",
        stock_resolver=True,
        training_pod={"container": {"image": image}},
    )
    # Version 2.1 of the specification: the one that today's Kubeflow Pipelines reads.
    runner_config = kubeflow.KubeflowV2DagRunnerConfig(
        default_image=image, use_pipeline_spec_2_1=True
    )
    job = kubeflow.KubeflowV2DagRunner(config=runner_config).run(pipeline, write_out=False)
    spec = job["pipelineSpec"]
    spec["defaultPipelineRoot"] = pipeline.pipeline_info.pipeline_root
    spec["root"]["dag"]["tasks"]["TableReader"]["cachingOptions"] = {"enableCache": False}
    return spec
