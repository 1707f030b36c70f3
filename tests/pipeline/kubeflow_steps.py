"""A stand-in for Kubeflow Pipelines: runs the steps of a compiled file by their command lines.

It does what the driver and the launcher of open-source Kubeflow Pipelines do for a step, and is as
strict (`../shared/kfp/` has what they handed to each step): the ExecutorInput that takes the place
of `{{$}}` has URIs of an object store, input artifacts without types and an output that nobody
declared; the step finds its inputs in a folder of its own under `minio/`, and what is not answered
with the URI that was planned is lost, as it is there. The project's folder stands for the image.

    python -m tests.pipeline.kubeflow_steps pipeline.yaml FOLDER

This runs all steps, each a process of its own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2 as pb

from pipeline import kubeflow_entry

IMAGE_ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["python", "-m", "pipeline.kubeflow_entry"]
_ID = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9]*")
_BUCKET = "minio://mlpipeline"
_IN_FOLDER = (
    "import sys; from pipeline import kubeflow_entry as e; e.run(sys.argv[2:], sys.argv[1])"
)


def run_process(arguments: list[str], root: Path) -> None:
    """Runs the arguments of a container as a process, in the folder that stands for the image.

    Raises:
        AssertionError: it failed; the message ends with what it said.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": "",
        "TF_USE_LEGACY_KERAS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    ended = subprocess.run(
        ["python", "-c", _IN_FOLDER, str(root), *arguments],
        cwd=IMAGE_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, (
        f"{arguments[:2]} ended with {ended.returncode}:\n{ended.stderr[-3000:]}"
    )


def run_here(arguments: list[str], root: Path) -> None:
    """The same in this process, which saves the imports.

    The working directory must be the image's.
    """
    kubeflow_entry.run(arguments, str(root))


def read(path: Path) -> list[dict[str, Any]]:
    """The documents of a compiled file: the specification, and what Kubernetes is told."""
    assert path.suffix in (".yaml", ".yml"), f"kfp's client refuses {path.name}"
    return list(yaml.safe_load_all(path.read_text("utf-8")))


def require_accepted(documents: list[dict[str, Any]]) -> None:
    """What the API server and Argo say of a file.

    Raises:
        AssertionError: they refuse it.
    """
    spec, *platforms = documents
    parsed = json_format.ParseDict(spec, pb.PipelineSpec())
    assert parsed.schema_version == "2.1.0"
    deployment = json_format.ParseDict(spec["deploymentSpec"], pb.PipelineDeploymentConfig())
    for label, executor in deployment.executors.items():
        kind = executor.WhichOneof("spec")
        assert kind in ("container", "importer"), f"{label}: {kind} not implemented"
    tasks = parsed.root.dag.tasks
    for name, task in tasks.items():
        sources = [one.task_output_artifact for one in task.inputs.artifacts.values()]
        producers = [source.producer_task for source in sources]
        for one in (name, task.task_info.name, *task.dependent_tasks, *producers):
            assert _ID.fullmatch(one), f"Argo takes no task {one!r}"
        assert set(producers) <= set(task.dependent_tasks) <= set(tasks)
        assert task.task_info.name == name
        component = parsed.components[task.component_ref.name]
        for key, given in task.inputs.parameters.items():
            assert key in component.input_definitions.parameters
            opened = given.component_input_parameter
            assert not opened or opened in parsed.root.input_definitions.parameters
    root = parsed.default_pipeline_root
    assert not root or "://" in root, f"unrecognized pipeline root format: {root}"
    for document in platforms:
        (platform,) = document["platforms"].items()
        assert platform[0] == "kubernetes"
        assert set(platform[1]["deploymentSpec"]["executors"]) <= set(deployment.executors)


class Steps:
    """A run of a compiled file.

    Args:
        documents: of the file.
        folder: where the object store and the folders of the steps are.
        execute: runs the arguments of a container: `run_process` or `run_here`.
        parameters: of the submission.
        after: another run, whose artifacts this one begins with.
    """

    def __init__(
        self,
        documents: list[dict[str, Any]],
        folder: Path,
        execute: Callable[[list[str], Path], None] = run_process,
        parameters: dict[str, Any] | None = None,
        after: "Steps | None" = None,
    ):
        require_accepted(documents)
        self.spec = json_format.ParseDict(documents[0], pb.PipelineSpec())
        self.deployment = json_format.ParseDict(
            documents[0]["deploymentSpec"], pb.PipelineDeploymentConfig()
        )
        self.tasks = self.spec.root.dag.tasks
        opened = self.spec.root.input_definitions.parameters
        assert set(parameters or {}) <= set(opened)
        defaults = {
            name: json_format.MessageToDict(one.default_value) for name, one in opened.items()
        }
        self._parameters = {**defaults, **(parameters or {})}
        self._store, self._pod = folder / "store", folder / "pod"
        self._execute = execute
        self._artifacts: dict[tuple[str, str], dict[str, Any]] = (
            dict(after._artifacts) if after else {}
        )

    def order(self) -> list[str]:
        """Every task, after those that it depends on."""
        done: list[str] = []
        while len(done) < len(self.tasks):
            left = sorted(set(self.tasks) - set(done))
            ready = [name for name in left if set(self.tasks[name].dependent_tasks) <= set(done)]
            assert ready, f"a cycle among {set(self.tasks) - set(done)}"
            done += ready
        return done

    def container(self, task: str) -> pb.PipelineDeploymentConfig.PipelineContainerSpec:
        """The container of a task."""
        component = self.spec.components[self.tasks[task].component_ref.name]
        return self.deployment.executors[component.executor_label].container

    def folder(self, task: str, key: str) -> Path:
        """Where the object store keeps what a task has written."""
        return self._place(self._artifacts[task, key]["uri"], self._store)

    def run(self, *tasks: str) -> dict[str, dict[str, Any]]:
        """Runs tasks whose predecessors have run; returns the last one's metadata by output."""
        for task in tasks:
            found = self._run(task)
        return found

    def _run(self, task: str) -> dict[str, dict[str, Any]]:
        shutil.rmtree(self._pod, ignore_errors=True)  # a pod of its own
        given = self.executor_input(task)
        for inputs in given["inputs"].get("artifacts", {}).values():
            for one in inputs["artifacts"]:
                source = self._place(one["uri"], self._store)
                shutil.copytree(source, self._place(one["uri"], self._pod))
        answer = Path(given["outputs"]["outputFile"])
        answer.parent.mkdir(parents=True, exist_ok=True)
        container = self.container(task)
        assert list(container.command) == COMMAND
        filled = [part.replace("{{$}}", json.dumps(given)) for part in container.args]
        self._execute(filled, self._pod)
        text = answer.read_text("utf-8")
        json_format.Parse(text, pb.ExecutorOutput())
        written = json.loads(text)["artifacts"]
        for key, planned in given["outputs"]["artifacts"].items():
            if key == "executor-logs":
                assert key not in written
                continue
            (one,), (answered,) = planned["artifacts"], written[key]["artifacts"]
            assert answered["uri"] == one["uri"], "nothing would be uploaded"
            assert None not in answered["metadata"].values(), "unknown/unsupported value type"
            path = self._place(one["uri"], self._pod)
            assert path.is_dir(), f"{task} wrote no {key}"
            shutil.copytree(path, self._place(one["uri"], self._store))
            self._artifacts[task, key] = {"uri": one["uri"], "metadata": answered["metadata"]}
        return {
            key: one["metadata"] for (node, key), one in self._artifacts.items() if node == task
        }

    def executor_input(self, task: str) -> dict[str, Any]:
        """What `{{$}}` becomes."""
        inputs = self.tasks[task].inputs
        component = self.spec.components[self.tasks[task].component_ref.name]
        values = {}
        for name, parameter in inputs.parameters.items():
            if opened := parameter.component_input_parameter:
                values[name] = self._parameters[opened]
            else:
                values[name] = json_format.MessageToDict(parameter.runtime_value.constant)
        found = {}
        for name, artifact in inputs.artifacts.items():
            source = artifact.task_output_artifact
            one = self._artifacts[source.producer_task, source.output_artifact_key]
            beside = {"display_name": source.output_artifact_key, "store_session_info": "{}"}
            kept = {"name": "25", "type": {"instanceSchema": ""}, "uri": one["uri"]}
            found[name] = {"artifacts": [{**kept, "metadata": {**beside, **one["metadata"]}}]}
        task_root = f"{_BUCKET}/v2/artifacts/shop/run-1/{task}/{uuid.uuid4()}"
        planned = {
            name: {
                "artifacts": [
                    {
                        "name": name,
                        "type": json_format.MessageToDict(artifact.artifact_type),
                        "uri": f"{task_root}/{name}",
                    }
                ]
            }
            for name, artifact in component.output_definitions.artifacts.items()
        }
        logs = {"name": "executor-logs", "type": {"schemaTitle": "system.Artifact"}}
        planned["executor-logs"] = {"artifacts": [{**logs, "uri": f"{task_root}/executor-logs-0"}]}
        output_file = self._place(f"{task_root}/output_metadata.json", self._pod)
        return {
            "inputs": {"parameterValues": values} | ({"artifacts": found} if found else {}),
            "outputs": {"artifacts": planned, "outputFile": str(output_file)},
        }

    @staticmethod
    def _place(uri: str, folder: Path) -> Path:
        assert uri.startswith(_BUCKET), f"unrecognized uri format: {uri}"
        return folder / uri.replace("://", "/")


def main(path: str, folder: str) -> None:
    """Runs all steps of a compiled file."""
    steps = Steps(read(Path(path)), Path(folder).absolute())
    for task in steps.order():
        started = time.monotonic()
        outputs = steps.run(task)
        print(f"{task:<36} {time.monotonic() - started:6.1f} s  {', '.join(outputs)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
