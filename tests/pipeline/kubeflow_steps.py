"""A stand-in for a cluster: runs the steps of a compiled file by their command lines.

They run in an order that their inputs allow.

What Kubeflow's driver and launcher do for a step is done here: its ExecutorInput is filled in and
put in the place of `{{$}}` on the command line; its ExecutorOutput is read, so that the steps after
it see the properties that it set. Resolver tasks find nothing, as on a first run. The project's
folder stands for the image.

    python -m tests.pipeline.kubeflow_steps pipeline.json FOLDER

This runs all steps, each a process of its own.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2 as pb

IMAGE_ROOT = Path(__file__).resolve().parents[2]


def run_process(command: list[str], arguments: list[str]) -> None:
    """Runs a container's command line as a process, in the folder that stands for the image.

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
        [*command, *arguments],
        cwd=IMAGE_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, (
        f"{command} {arguments[:2]} ended with {ended.returncode}:\n{ended.stderr[-3000:]}"
    )


def run_here(command: list[str], arguments: list[str]) -> None:
    """The same in this process, which saves the imports.

    The working directory must be the image's.
    """
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    assert command == ["python", "-m", kubeflow_v2_run_executor.__name__]
    kubeflow_v2_run_executor.main(kubeflow_v2_run_executor._parse_flags(arguments))


class Steps:
    """The tasks of a compiled file.

    Args:
        spec: the PipelineSpec, as a dict.
        root: where artifacts go.
        execute: runs a command with arguments: `run_process` or `run_here`.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        root: Path,
        execute: Callable[[list[str], list[str]], None] = run_process,
    ):
        self.spec = json_format.ParseDict(spec, pb.PipelineSpec())
        self.deployment = json_format.ParseDict(
            spec["deploymentSpec"], pb.PipelineDeploymentConfig()
        )
        self.tasks = self.spec.root.dag.tasks
        self._root = root
        self._execute = execute
        self._artifacts: dict[tuple[str, str], pb.RuntimeArtifact] = {}

    def order(self) -> list[str]:
        """Every task, after those that it depends on."""
        done: list[str] = []
        while len(done) < len(self.tasks):
            left = sorted(set(self.tasks) - set(done))
            ready = [name for name in left if set(self.tasks[name].dependent_tasks) <= set(done)]
            assert ready, f"a cycle among {set(self.tasks) - set(done)}"
            done += ready
        return done

    def executor(self, task: str) -> pb.PipelineDeploymentConfig.ExecutorSpec:
        """How a task is executed: by a container or a resolver."""
        component = self.spec.components[self.tasks[task].component_ref.name]
        return self.deployment.executors[component.executor_label]

    def run(self, task: str) -> dict[str, pb.RuntimeArtifact]:
        """Runs one task and returns its output artifacts.

        Its predecessors have run (those of optional inputs need not).
        """
        if self.executor(task).WhichOneof("spec") == "resolver":
            return {}
        container = self.executor(task).container
        filled = self._input(task)
        arguments = [
            argument.replace("{{$}}", json_format.MessageToJson(filled))
            for argument in container.args
        ]
        self._execute(list(container.command), arguments)
        written = json_format.Parse(
            Path(filled.outputs.output_file).read_text("utf-8"), pb.ExecutorOutput()
        )
        outputs = {}
        for key, planned in filled.outputs.artifacts.items():
            artifact = planned.artifacts[0]
            artifact.metadata.update(
                json_format.MessageToDict(written.artifacts[key].artifacts[0].metadata)
            )
            outputs[key] = self._artifacts[task, key] = artifact
        return outputs

    def _input(self, task: str) -> pb.ExecutorInput:
        inputs, component = (
            self.tasks[task].inputs,
            self.spec.components[self.tasks[task].component_ref.name],
        )
        filled = pb.ExecutorInput()
        for name, parameter in inputs.parameters.items():
            filled.inputs.parameter_values[name].CopyFrom(parameter.runtime_value.constant)
        for name, artifact in inputs.artifacts.items():
            source = artifact.task_output_artifact
            if found := self._artifacts.get((source.producer_task, source.output_artifact_key)):
                filled.inputs.artifacts[name].artifacts.append(found)
        for name, artifact in component.output_definitions.artifacts.items():
            uri = self._root / task / name
            planned = filled.outputs.artifacts[name].artifacts.add(
                name=f"artifacts/{task}-{name}", uri=str(uri)
            )
            planned.type.CopyFrom(artifact.artifact_type)
        filled.outputs.output_file = str(self._root / task / "executor_output.json")
        return filled


def main(path: str, folder: str) -> None:
    """Runs all steps of a compiled `.json` file."""
    steps = Steps(json.loads(Path(path).read_text("utf-8")), Path(folder).absolute())
    for task in steps.order():
        started = time.monotonic()
        outputs = steps.run(task)
        print(f"{task:<36} {time.monotonic() - started:6.1f} s  {', '.join(outputs)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
