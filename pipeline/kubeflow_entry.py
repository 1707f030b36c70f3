"""What the container of a step runs on a cluster: TFX's entry, and what Kubeflow Pipelines adds.

TFX's `kubeflow_v2_run_executor` was written for Vertex AI. Of what the launcher of open-source
Kubeflow Pipelines hands to a step it cannot take four things, which are put right here; what Vertex
AI hands over passes through unchanged, but for the parameters.

- `executor-logs`: an output that no component declares.
- Input artifacts come without their types, which the component's declaration has.
- A URI such as minio://bucket/key, while the launcher keeps the files under /minio/bucket/key; what
  the step answers must name the URI again.
- A null in the metadata of an answer.

What is set when a run is submitted arrives as parameters of the Trainer, and is put into its
`custom_config` here.

    python -m pipeline.kubeflow_entry --executor_class_path CLASS \
        --json_serialized_invocation_args JSON --json_serialized_inputs_spec_args JSON [BEAM ARGS]
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SETTINGS = ("seed", "hyper_parameters", "warm_start")
"""The parameters of the Trainer that are set when a run is submitted."""

_CONFIG = "custom_config"
_LOGS = "executor-logs"
_MOUNTS = {"minio://": "minio/", "s3://": "s3/", "gs://": "gcs/"}


def run(arguments: list[str], root: str = "/") -> None:
    """Runs a step.

    Args:
        arguments: of the command line.
        root: the folder that the launcher's folders (minio, s3, gcs) lie in.
    """
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--executor_class_path", required=True)
    parser.add_argument("--json_serialized_invocation_args", required=True)
    parser.add_argument("--json_serialized_inputs_spec_args")
    given, beam = parser.parse_known_args(arguments)
    invocation = json.loads(given.json_serialized_invocation_args)
    declared = json.loads(given.json_serialized_inputs_spec_args or "{}")
    prefixes = mounts(invocation, root)
    taken = taken_in(invocation, declared, prefixes)
    given.json_serialized_invocation_args = json.dumps(taken)
    kubeflow_v2_run_executor.main((given, beam))
    answer = taken["outputs"]["outputFile"]
    if "://" not in answer:
        written = json.loads(Path(answer).read_text("utf-8"))
        Path(answer).write_text(json.dumps(answered(written, prefixes), indent=1), "utf-8")


def mounts(invocation: dict[str, Any], root: str = "/") -> dict[str, str]:
    """The beginning of a URI -> the beginning of the path where its files are.

    It is empty on Vertex AI, where TFX reads and writes gs:// itself: there the file of the answer
    is a URI as well, which the launcher of Kubeflow Pipelines never hands over.
    """
    if "://" in invocation["outputs"]["outputFile"]:
        return {}
    return {scheme: os.path.join(root, folder) for scheme, folder in _MOUNTS.items()}


def taken_in(
    invocation: dict[str, Any], declared: dict[str, Any], prefixes: dict[str, str]
) -> dict[str, Any]:
    """An ExecutorInput of Kubeflow Pipelines as TFX takes it.

    Args:
        invocation: the ExecutorInput, as JSON.
        declared: the ComponentInputsSpec, as JSON.
        prefixes: as of `mounts`.
    """
    inputs, outputs = dict(invocation.get("inputs", {})), dict(invocation["outputs"])
    kinds = declared.get("artifacts", {})
    inputs["artifacts"] = {
        name: {"artifacts": [_typed(one, kinds.get(name, {})) for one in found["artifacts"]]}
        for name, found in inputs.get("artifacts", {}).items()
        if found.get("artifacts")
    }
    outputs["artifacts"] = {
        name: found for name, found in outputs.get("artifacts", {}).items() if name != _LOGS
    }
    for side in (inputs, outputs):
        side["artifacts"] = _places(side["artifacts"], _replacing(prefixes))
    inputs["parameterValues"] = with_settings(dict(inputs.get("parameterValues", {})))
    return {**invocation, "inputs": inputs, "outputs": outputs}


def answered(output: dict[str, Any], prefixes: dict[str, str]) -> dict[str, Any]:
    """An ExecutorOutput of TFX, as JSON, as Kubeflow Pipelines takes it."""
    to_uris = {path: uri for uri, path in prefixes.items()}
    found = _places(output.get("artifacts", {}), _replacing(to_uris))
    for artifacts in found.values():
        for one in artifacts["artifacts"]:
            metadata = one.get("metadata", {})
            one["metadata"] = {key: value for key, value in metadata.items() if value is not None}
    return {**output, "artifacts": found}


def with_settings(parameters: dict[str, Any]) -> dict[str, Any]:
    """Puts what was set at submission into the Trainer's `custom_config`.

    A training with other settings than the compiled ones has another fingerprint.
    """
    if _CONFIG not in parameters:
        return parameters
    settings = {name: parameters.pop(name) for name in SETTINGS if name in parameters}
    if not settings:
        return parameters
    config = json.loads(parameters[_CONFIG])
    before = json.dumps(config, sort_keys=True)
    if "seed" in settings:
        config["seed"] = int(settings["seed"])
    config["hyper_parameters"] |= settings.get("hyper_parameters") or {}
    if "warm_start" in settings:
        config["warm_start"] = bool(settings["warm_start"])
    after = json.dumps(config, sort_keys=True)
    if after != before:
        config["fingerprint"] = hashlib.sha256(after.encode()).hexdigest()[:16]
    return {**parameters, _CONFIG: json.dumps(config, sort_keys=True)}


def _typed(artifact: dict[str, Any], declared: dict[str, Any]) -> dict[str, Any]:
    kind = artifact.get("type", {})
    known = kind.get("instanceSchema") or kind.get("schemaTitle", "").startswith("tfx.")
    return artifact if known else {**artifact, "type": declared.get("artifactType", kind)}


def _places(artifacts: dict[str, Any], replaced: Callable[[Any], Any]) -> dict[str, Any]:
    """Every URI of artifacts, and every text of their metadata, replaced."""
    return {
        name: {
            "artifacts": [
                {
                    **one,
                    "uri": replaced(one["uri"]),
                    "metadata": {
                        key: replaced(value) for key, value in one.get("metadata", {}).items()
                    },
                }
                for one in found["artifacts"]
            ]
        }
        for name, found in artifacts.items()
    }


def _replacing(beginnings: dict[str, str]) -> Callable[[Any], Any]:
    def replaced(value: Any) -> Any:
        for old, new in beginnings.items():
            if isinstance(value, str) and value.startswith(old):
                return new + value[len(old) :]
        return value

    return replaced


def main() -> None:
    """Runs the step of this command line and ends the process at once.

    Destructors of TensorFlow that run while Python shuts down have ended steps that had succeeded
    with "pure virtual method called".
    """
    run(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
