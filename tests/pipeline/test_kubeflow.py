"""The compiled pipeline.

It holds every component with the dependencies of the local DAG, today's kfp loads it, its steps
run.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from models.names.errors import ConfigError
from pipeline import kubeflow
from pipeline.config import DataConfig, RunConfig
from tests.pipeline.kubeflow_steps import IMAGE_ROOT, Steps, run_here

# Of the model, the folder and its path, and the split.
NAME = "two-tower-events-[0-9a-f]{8}-leave-one-out"

IMAGE = "registry.example/recsys:1"
CLASSES = {
    "TableReader": "components.read.table_reader.TableReaderExecutor",
    "TableCheck": "components.check.table_check.TableCheckExecutor",
    "ExampleBuilder": "components.build.example_builder.ExampleBuilderExecutor",
    "Canary": "components.canary.canary.CanaryExecutor",
}

# The steps that fit a model again: what comes before each, and the class that does it.
REFIT = {
    "Refit": ({"Trainer", "Evaluator", "Canary"}, "components.refit.refit.RefitExecutor"),
    "ExampleBuilder-refit": (
        {"Refit", "TableReader", "TableCheck"},
        "components.build.example_builder.ExampleBuilderExecutor",
    ),
    "Transform-refit": (
        {"ExampleBuilder-refit"},
        "components.refit.steps.TransformExecutor",
    ),
    "Trainer-refit": (
        {"Refit", "ExampleBuilder-refit", "Transform-refit"},
        "components.refit.steps.TrainerExecutor",
    ),
    "Canary-refit": (
        {"ExampleBuilder", "Evaluator", "Trainer-refit"},
        "components.canary.canary.CanaryExecutor",
    ),
}

pytestmark = [pytest.mark.timeout(1200)]


def needs_kfp():
    pytest.importorskip(
        "kfp.pipeline_spec", reason="needs kfp, which the `current` lane does not hold"
    )


def config(source="/mnt/data/events", output="gs://bucket/runs", **values):
    data = DataConfig(source=str(source), schema="movielens")
    return RunConfig(data=data, output=str(output), hyper_parameters={"epochs": 2}, **values)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    """The default model's run, compiled to a JSON file."""
    needs_kfp()
    target = tmp_path_factory.mktemp("compiled") / "pipeline.json"
    line = kubeflow.compile_pipeline(config(), str(target), IMAGE)
    assert str(target) in line and IMAGE in line and "not run on a cluster" in line
    return target


@pytest.fixture(scope="module")
def steps(compiled) -> Steps:
    return Steps(json.loads(compiled.read_text("utf-8")), Path("/unused"))


def local_pipeline(config: RunConfig):
    """The pipeline that runs on this machine."""
    from pipeline import dag

    return dag.create_pipeline(
        config,
        source="",
        fingerprint="",
        schemas="movielens",
        hyper_parameters={},
        pipeline_root="",
        serving_dir="",
        checkpoint_root="checkpoints",
    )


def local_dependencies() -> dict[str, set[str]]:
    """Component -> the components before it, in the pipeline that runs on this machine."""
    components = local_pipeline(config()).components
    return {node.id: {before.id for before in node.upstream_nodes} for node in components}


def test_a_warm_training_is_another_one_than_a_cold_one():
    """Or it would go on with the other's checkpoint, and the gate would take one for the other."""

    def training(**values):
        nodes = {node.id: node for node in local_pipeline(config(**values)).components}
        return json.loads(nodes["Trainer"].exec_properties["custom_config"])

    cold, again, warm = training(), training(), training(warm_start=True)
    for name in ("fingerprint", "checkpoint_dir"):
        assert cold[name] == again[name] != warm[name]


def test_a_refit_is_a_training_of_its_own_that_starts_as_the_measured_one_did():
    pipeline = local_pipeline(config(refit=True, warm_start=True))
    nodes = {node.id: node for node in pipeline.components}
    one, other = nodes["Trainer"], nodes["Trainer-refit"]
    measured, again = (json.loads(node.exec_properties["custom_config"]) for node in (one, other))
    # Neither goes on with the other's checkpoint; all else is the same.
    for name in ("fingerprint", "checkpoint_dir"):
        assert measured.pop(name) != again.pop(name)
    assert measured == again
    # Both begin with the last blessed model, which is one that was measured.
    bases = [node.inputs["base_model"] for node in (one, other)]
    assert [base.producer_component_id for base in bases] == ["LastBlessed"] * 2
    # A run without a refit measures the very same training, and is served from its cache.
    plain = {node.id: node for node in local_pipeline(config(warm_start=True)).components}
    assert set(nodes) - set(plain) == set(REFIT)
    assert plain["Trainer"].exec_properties == one.exec_properties


def test_a_refit_is_compiled(tmp_path):
    """Without conditions, which not every backend takes: its steps find out for themselves."""
    needs_kfp()
    target = tmp_path / "pipeline.json"
    kubeflow.compile_pipeline(config(refit=True), str(target), IMAGE)
    compiled = Steps(json.loads(target.read_text("utf-8")), Path("/unused"))
    for name, (before, executor) in REFIT.items():
        assert set(compiled.tasks[name].dependent_tasks) == before
        assert executor in compiled.executor(name).container.args
        assert not compiled.tasks[name].trigger_policy.condition
    before = {"Evaluator", "Canary-refit", "Trainer-refit"}
    assert before <= set(compiled.tasks["Pusher"].dependent_tasks)


def test_dependencies_are_those_of_the_local_pipeline(steps):
    # Kubeflow finds the last blessed model in two tasks, the blessing and then its model; they
    # count as one.
    found: dict[str, set[str]] = {}
    for name, task in steps.tasks.items():
        one, *before = (part.split("-")[0] for part in (name, *task.dependent_tasks))
        found.setdefault(one, set()).update(set(before) - {one})
    assert found == local_dependencies()


def test_every_input_comes_from_an_output_of_its_type(steps):
    checked = 0
    for task in steps.tasks.values():
        wanted = steps.spec.components[task.component_ref.name].input_definitions.artifacts
        for name, artifact in task.inputs.artifacts.items():
            source = artifact.task_output_artifact
            producer = steps.spec.components[steps.tasks[source.producer_task].component_ref.name]
            given = producer.output_definitions.artifacts[source.output_artifact_key]
            assert given.artifact_type == wanted[name].artifact_type
            checked += 1
    assert checked > 20


def test_executors_name_our_classes_and_the_image(steps):
    executors = {name: steps.executor(name) for name in steps.tasks}
    containers = {
        name: executor.container
        for name, executor in executors.items()
        if executor.HasField("container")
    }
    # All but the two tasks of the resolver.
    assert set(steps.tasks) - set(containers) == {
        "LastBlessed-model-blessing-resolver",
        "LastBlessed-model-resolver",
    }
    for container in containers.values():
        assert container.image == IMAGE and list(container.command[:2]) == ["python", "-m"]
        assert list(container.args[:1]) == ["--executor_class_path"] and "{{$}}" in container.args
    assert {name: containers[name].args[1] for name in CLASSES} == CLASSES
    assert "--direct_running_mode=in_memory" in containers["Transform"].args


def test_places_are_those_of_the_cluster(steps, compiled):
    def constant(task, name):
        return steps.tasks[task].inputs.parameters[name].runtime_value.constant.string_value

    assert str(IMAGE_ROOT) not in compiled.read_text("utf-8")
    _, _, name = steps.spec.default_pipeline_root.rpartition("/")
    assert re.fullmatch(NAME, name)
    assert steps.spec.default_pipeline_root == f"gs://bucket/runs/{name}"
    assert constant("TableReader", "source") == "/mnt/data/events"
    assert constant("Schema_items", "schema_file") == "schema/movielens/items.pbtxt"
    assert (
        constant("ExampleBuilder", "schema_folder")
        == constant("TableCheck", "schema_folder")
        == "schema/movielens"
    )
    assert f"gs://bucket/runs/serving/{name}" in constant("Pusher", "push_destination")
    assert constant("Trainer", "run_fn") == "models.training.trainer.run_fn"
    training = json.loads(constant("Trainer", "custom_config"))
    assert training["hyper_parameters"]["epochs"] == 2 and "checkpoint_dir" not in training
    # What the reader finds may have changed since the file was compiled.
    uncached = {name for name, task in steps.tasks.items() if not task.caching_options.enable_cache}
    assert {name for name in uncached if "resolver" not in name} == {"TableReader"}


def test_yaml_holds_the_same_and_compiling_twice_gives_the_same(compiled, tmp_path):
    again = tmp_path / "pipeline.yaml"
    kubeflow.compile_pipeline(config(), str(again), IMAGE)
    assert yaml.safe_load(again.read_text("utf-8")) == json.loads(compiled.read_text("utf-8"))


def test_the_first_steps_run_by_their_command_lines(toy_source, tmp_path, monkeypatch):
    needs_kfp()
    monkeypatch.chdir(IMAGE_ROOT)
    target, root = tmp_path / "pipeline.json", tmp_path / "artifacts"
    kubeflow.compile_pipeline(config(toy_source, root), str(target))
    steps = Steps(json.loads(target.read_text("utf-8")), root, run_here)
    # The toy log: 60 users with 9 events each, for a ring of 10 items is never gone round
    # (`write_toy_source`).
    read = steps.run("TableReader")
    assert read["events"].metadata["kept"] == 540 and read["events"].metadata["rejected"] == 0
    measured = steps.run("StatisticsGen_events")["statistics"]
    assert (
        measured.metadata["split_names"] == '["all"]'
        and (Path(measured.uri) / "Split-all" / "FeatureStats.pb").is_file()
    )
    assert (Path(steps.run("Schema_events")["schema"].uri) / "schema.pbtxt").is_file()
    steps.run("ExampleValidator_events")
    # Our own artifact type is imported by its name in the file, in the step that reads it.
    assert steps.run("TableCheck")["report"].metadata["duplicates"] == 0
    # Leave-one-out: a user's last event is for test, the one before for validation: 540 - 2 * 60
    # are left.
    assert steps.run("ExampleBuilder")["examples"].metadata["train_rows"] == 420


@pytest.fixture(scope="session")
def current_kfp() -> Path:
    """The Python of a virtual environment with the newest kfp.

    It is kept in the project's cache; tests are skipped where it cannot be made.
    """
    uv = shutil.which("uv") or str(IMAGE_ROOT / ".cache" / "tools" / "bin" / "uv")
    folder = IMAGE_ROOT / ".cache" / "kfp-venv"
    python = folder / "bin" / "python"
    environment = dict(os.environ)
    if not environment.keys() & {"UV_DEFAULT_INDEX", "UV_INDEX_URL"}:
        # uv does not read pip's configuration.
        ask = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
        told = subprocess.run(ask, capture_output=True, text=True)
        if index := environment.get("PIP_INDEX_URL") or told.stdout.strip():
            environment["UV_DEFAULT_INDEX"] = index
    try:
        if (
            not python.exists()
            or subprocess.run(
                [python, "-c", "import kfp.components"], capture_output=True
            ).returncode
        ):
            subprocess.run(
                [uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder],
                env=environment,
                check=True,
            )
            subprocess.run(
                [uv, "pip", "install", "--quiet", "--python", python, "kfp>=2.14"],
                env=environment,
                check=True,
            )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot make a virtual environment with today's kfp: {error}")
    return python


LOAD = """
import sys, warnings
warnings.filterwarnings("ignore")
import yaml, kfp
from google.protobuf import json_format
from kfp import components
from kfp.pipeline_spec import pipeline_spec_pb2

loaded = components.load_component_from_file(sys.argv[1])
# Once more without leniency: a field that today's specification does not know is an error.
spec = yaml.safe_load(open(sys.argv[1], encoding="utf-8"))
json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
json_format.ParseDict(spec["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig())
print(kfp.__version__, loaded.name, len(loaded.pipeline_spec.root.dag.tasks))
"""


def test_todays_kfp_loads_and_validates_the_file(compiled, current_kfp, steps):
    loaded = subprocess.run(
        [current_kfp, "-c", LOAD, str(compiled)], capture_output=True, text=True
    )
    assert loaded.returncode == 0, loaded.stderr
    version, name, count = loaded.stdout.split()
    assert tuple(map(int, version.split(".")[:2])) >= (2, 14)
    assert re.fullmatch(NAME, name) and int(count) == len(steps.tasks)


def test_an_environment_without_kfp_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kfp.pipeline_spec", None)
    with pytest.raises(
        ConfigError, match="recsys compile needs Kubeflow's package .*pip install 'kfp"
    ):
        kubeflow.compile_pipeline(config(), str(tmp_path / "pipeline.json"))


@pytest.mark.parametrize(
    "values, target, message",
    [
        (
            {"source": "movielens-100k"},
            "p.json",
            "data.source: required for a cluster: .* received 'movielens-100k'",
        ),
        ({"source": "gs://bucket/events"}, "p.json", "data.source: required for a cluster"),
        ({"output": "runs"}, "p.json", "output: required for a cluster: a URI .* received 'runs'"),
        ({"name": "???"}, "p.json", "name: required for a cluster: letters"),
        ({}, "p.txt", "--to requires a name that ends in .json, .yaml or .yml; received"),
    ],
)
def test_what_a_cluster_cannot_use_is_refused(values, target, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        kubeflow.compile_pipeline(config(**values), str(tmp_path / target))
    assert not (tmp_path / target).exists()


def test_a_target_that_cannot_be_written_is_said(tmp_path):
    needs_kfp()
    with pytest.raises(ConfigError, match="cannot write .*No such file or directory"):
        kubeflow.compile_pipeline(config(), str(tmp_path / "missing" / "pipeline.json"))


def test_names_become_legal():
    assert (
        kubeflow.legal_name("two_tower-MovieLens_1M.é-leave_one_out")
        == "two-tower-movielens-1m-leave-one-out"
    )
    assert len(kubeflow.legal_name("a" * 127 + "--" + "b")) <= 128
    # What two names end with is cut off; they stay two.
    assert kubeflow.legal_name("a" * 140 + "b") != kubeflow.legal_name("a" * 140 + "c")


def test_the_image_holds_what_the_steps_import():
    lines = (IMAGE_ROOT / "pipeline" / "Dockerfile").read_text("utf-8").splitlines()
    for folder in ("components", "models", "pipeline", "schema", "serving"):
        assert f"COPY {folder} {folder}" in lines
    assert "COPY requirements/portable.txt /tmp/portable.txt" in lines
