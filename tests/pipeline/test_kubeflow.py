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

from components.tables.places import place
from models.names.errors import ConfigError
from pipeline import kubeflow, kubeflow_entry
from pipeline.cluster import ClusterConfig
from pipeline.config import DataConfig, RunConfig
from tests.conftest import put
from tests.pipeline.kubeflow_steps import (
    COMMAND,
    IMAGE_ROOT,
    Steps,
    read,
    require_accepted,
    run_here,
    run_process,
)

# Of the model, the folder and its path, and the split.
NAME = "two-tower-events-[0-9a-f]{8}-leave-one-out"

IMAGE = "registry.example/recsys:1"
CLASSES = {
    "TableReader": "components.read.table_reader.TableReaderExecutor",
    "TableCheck": "components.check.table_check.TableCheckExecutor",
    "ExampleBuilder": "components.build.example_builder.ExampleBuilderExecutor",
    "Transform": "components.transform.transform.TransformExecutor",
    "LastBlessed": "components.gate.last_blessed.LastBlessedExecutor",
    "Evaluator": "components.gate.evaluator.EvaluatorExecutor",
    "Canary": "components.canary.canary.CanaryExecutor",
    "Pusher": "components.gate.pusher.PusherExecutor",
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
        "components.transform.transform.TransformExecutor",
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
    values = {"hyper_parameters": {"epochs": 2}, **values}
    return RunConfig(data=data, output=str(output), **values)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    """The default model's run, compiled."""
    needs_kfp()
    target = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    line = kubeflow.compile_pipeline(config(), str(target), IMAGE)
    assert str(target) in line and IMAGE in line and "not run on a cluster" in line
    return target


@pytest.fixture(scope="module")
def steps(compiled) -> Steps:
    return Steps(read(compiled), Path("/unused"))


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
    """Component -> the components before it, in the pipeline that runs on this machine.

    On a cluster a submission says whether to start warm, so that the Trainer waits for the model.
    """
    components = local_pipeline(config(warm_start=True)).components
    return {node.id: {before.id for before in node.upstream_nodes} for node in components}


def test_a_warm_training_is_another_one_than_a_cold_one():
    """Or it would go on with the other's checkpoint, and the gate would take one for the other."""

    def training(**values):
        nodes = {node.id: node for node in local_pipeline(config(**values)).components}
        return json.loads(nodes["Trainer"].exec_properties["custom_config"])

    cold, again, warm = training(), training(), training(warm_start=True)
    for name in ("fingerprint", "checkpoint_dir"):
        assert cold[name] == again[name] != warm[name]


def test_several_processes_train_here_or_in_pods_of_their_own():
    """What they are does not tell the training apart: the same fingerprint."""
    from pipeline import dag
    from pipeline.cluster import ClusterConfig

    def trainer(pod=None, **cluster):
        nodes = dag.create_pipeline(
            config(cluster=ClusterConfig(**cluster)),
            source="",
            fingerprint="",
            schemas="movielens",
            hyper_parameters={},
            pipeline_root="",
            serving_dir="",
            training_pod=pod,
        ).components
        (found,) = (node.exec_properties for node in nodes if node.id == "Trainer")
        return found["run_fn"], json.loads(found["custom_config"])

    run_fn, alone = trainer()
    assert run_fn == "models.training.trainer.run_fn" and "cluster" not in alone
    run_fn, here = trainer(workers=2)
    assert run_fn == "models.training.launcher.run_fn" and here["cluster"]["workers"] == 2
    run_fn, away = trainer({"container": {"image": IMAGE}}, workers=2, shared_folder="/mnt/x")
    assert run_fn == "pipeline.workers.run_fn" and IMAGE in json.dumps(away["cluster"]["pod"])
    assert alone["fingerprint"] == here["fingerprint"] == away["fingerprint"]


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
    target = tmp_path / "pipeline.yaml"
    kubeflow.compile_pipeline(config(refit=True), str(target), IMAGE)
    compiled = Steps(read(target), Path("/unused"))
    for name, (before, executor) in REFIT.items():
        # Whether a training starts warm is decided when a run is submitted.
        warm = {"LastBlessed"} if name == "Trainer-refit" else set()
        assert set(compiled.tasks[name].dependent_tasks) == before | warm
        assert executor in compiled.container(name).args
        assert not compiled.tasks[name].trigger_policy.condition
    before = {"Evaluator", "Canary-refit", "Trainer-refit"}
    assert before <= set(compiled.tasks["Pusher"].dependent_tasks)


def test_dependencies_are_those_of_the_local_pipeline(steps):
    found = {name: set(task.dependent_tasks) for name, task in steps.tasks.items()}
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
    containers = {name: steps.container(name) for name in steps.tasks}
    for container in containers.values():
        assert container.image == IMAGE and list(container.command) == COMMAND
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
    assert constant("Schema-items", "schema_file") == "schema/movielens/items.pbtxt"
    assert (
        constant("ExampleBuilder", "schema_folder")
        == constant("TableCheck", "schema_folder")
        == "schema/movielens"
    )
    pushed = f"gs://bucket/runs/serving/{name}"
    assert constant("Pusher", "destination") == constant("LastBlessed", "destination") == pushed
    # On a cluster an unchanged run is of new data: its own last model is compared with as well.
    assert "other_than" not in steps.tasks["LastBlessed"].inputs.parameters
    assert constant("Trainer", "run_fn") == "models.training.trainer.run_fn"
    training = json.loads(constant("Trainer", "custom_config"))
    assert training["hyper_parameters"]["epochs"] == 2 and "checkpoint_dir" not in training
    # What they find may have changed since the file was compiled.
    uncached = {name for name, task in steps.tasks.items() if not task.caching_options.enable_cache}
    assert uncached == {"TableReader", "LastBlessed"}


def test_json_holds_the_specification_alone_and_compiling_twice_gives_the_same(compiled, tmp_path):
    again = tmp_path / "pipeline.json"
    asked = config(cluster=ClusterConfig(pull_policy="Always"))
    kubeflow.compile_pipeline(asked, str(again), IMAGE)
    assert json.loads(again.read_text("utf-8")) == read(compiled)[0]


def test_a_volume_is_for_the_pushes_and_not_the_root_of_artifacts(tmp_path):
    needs_kfp()
    target = tmp_path / "pipeline.yaml"
    kubeflow.compile_pipeline(config(output="/mnt/models"), str(target))
    spec, _ = read(target)
    assert "defaultPipelineRoot" not in spec
    pushed = spec["root"]["dag"]["tasks"]["Pusher"]["inputs"]["parameters"]["destination"]
    assert re.fullmatch(f"/mnt/models/serving/{NAME}", pushed["runtimeValue"]["constant"])


def test_data_and_pushes_lie_in_buckets_of_their_own(tmp_path):
    """Neither is on a volume, of which there is one all the same."""
    needs_kfp()
    target = tmp_path / "pipeline.yaml"
    values = {"push": "s3://shop/models/", "cluster": ClusterConfig(volumes={"/mnt/runs": "runs"})}
    asked = config(source="gs://shop/events/", output="/mnt/runs", **values)
    assert "pushed to s3://shop/models/two-tower-" in kubeflow.compile_pipeline(asked, str(target))
    documents = read(target)
    require_accepted(documents)
    root = documents[0]["root"]
    assert root["inputDefinitions"]["parameters"]["data"]["defaultValue"] == "gs://shop/events"
    for task, key in (("Pusher", "destination"), ("LastBlessed", "destination")):
        given = root["dag"]["tasks"][task]["inputs"]["parameters"][key]["runtimeValue"]["constant"]
        assert re.fullmatch(f"s3://shop/models/{NAME}", given)
    # The launcher's folder for a bucket is for artifacts: a parameter stays the URI that it is.
    given = Steps(documents, tmp_path, parameters={"data": "s3://shop/today"})
    invocation = given.executor_input("TableReader")
    invocation["outputs"]["outputFile"] = "/tmp/output.json"
    taken = kubeflow_entry.taken_in(invocation, {}, kubeflow_entry.mounts(invocation))
    assert taken["inputs"]["parameterValues"]["source"] == "s3://shop/today"
    (events,) = taken["outputs"]["artifacts"]["events"]["artifacts"]
    assert events["uri"].startswith("/minio/")


def test_parameters_of_a_run_reach_the_steps_that_take_them(steps, tmp_path):
    opened = steps.spec.root.input_definitions.parameters
    assert {name: one.default_value.WhichOneof("kind") for name, one in opened.items()} == {
        "data": "string_value",
        "seed": "number_value",
        "hyper_parameters": "struct_value",
        "warm_start": "bool_value",
    }
    assert opened["data"].default_value.string_value == "/mnt/data/events"
    # A model that is fitted in closed form has no use for a warm start.
    target = tmp_path / "pipeline.yaml"
    asked = config(model="ease", hyper_parameters={})
    kubeflow.compile_pipeline(asked, str(target))
    spec, _ = read(target)
    assert set(spec["root"]["inputDefinitions"]["parameters"]) == set(opened) - {"warm_start"}
    trainer = spec["root"]["dag"]["tasks"]["Trainer"]
    assert "LastBlessed" not in trainer["dependentTasks"]


def test_what_is_asked_of_a_cluster_stands_in_the_two_documents(tmp_path):
    needs_kfp()
    cluster = ClusterConfig.parse(
        {
            "image": "registry.example/own:2",
            "volumes": {"/mnt/data": "shop-data", "/mnt/models": "shop-models"},
            "memory": {"all": "2Gi", "Trainer": "16G"},
            "cpu": {"Trainer": 8},
            "gpus": {"Trainer": 1},
            "retries": 2,
            "environment": {"AWS_ENDPOINT_URL": "http://minio:9000"},
            "secrets": {"AWS_ACCESS_KEY_ID": "store/accesskey", "AWS_SECRET": "store/secretkey"},
            "secret_files": {"/mnt/keys": "gcs-key"},
            "pull_policy": "Always",
            "pull_secrets": "registry",
            "node_labels": {"pool": "recsys"},
        }
    )
    target = tmp_path / "pipeline.yaml"
    kubeflow.compile_pipeline(config(output="/mnt/models/runs", cluster=cluster), str(target))
    steps = Steps(read(target), Path("/unused"))
    trainer, reader = steps.container("Trainer"), steps.container("TableReader")
    assert trainer.image == reader.image == "registry.example/own:2"
    assert (trainer.resources.memory_limit, trainer.resources.cpu_limit) == (16.0, 8.0)
    assert reader.resources.memory_limit == pytest.approx(2 * 1024**3 / 1e9)  # in GB
    assert trainer.resources.accelerator.type == "nvidia.com/gpu"
    assert trainer.resources.accelerator.count == 1 and not reader.resources.accelerator.count
    assert [(one.name, one.value) for one in reader.env] == [
        ("AWS_ENDPOINT_URL", "http://minio:9000")
    ]
    assert {task.retry_policy.max_retry_count for task in steps.tasks.values()} == {2}
    _, platforms = read(target)
    executors = platforms["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert len(executors) == len(steps.tasks)

    def constant(name):
        return {"runtimeValue": {"constant": name}}

    store = {"secretName": "store", "secretNameParameter": constant("store")}
    asked = {
        "imagePullPolicy": "Always",
        "pvcMount": [
            {"mountPath": path, "constant": claim, "pvcNameParameter": constant(claim)}
            for path, claim in (("/mnt/data", "shop-data"), ("/mnt/models", "shop-models"))
        ],
        "secretAsEnv": [
            {
                **store,
                "keyToEnv": [
                    {"secretKey": "accesskey", "envVar": "AWS_ACCESS_KEY_ID"},
                    {"secretKey": "secretkey", "envVar": "AWS_SECRET"},
                ],
            }
        ],
        "secretAsVolume": [
            {
                "mountPath": "/mnt/keys",
                "secretName": "gcs-key",
                "secretNameParameter": constant("gcs-key"),
            }
        ],
        "imagePullSecret": [
            {"secretName": "registry", "secretNameParameter": constant("registry")}
        ],
        "nodeSelector": {"labels": {"pool": "recsys"}},
    }
    assert executors["TableReader_executor"] == asked
    tolerated = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert executors["Trainer_executor"] == {**asked, "tolerations": tolerated}


@pytest.mark.parametrize(
    "values, message",
    [
        ({"memory": {"Trainer": "lots"}}, "cluster.memory.* must be a number of bytes such as"),
        ({"volumes": {"data": "claim"}}, "cluster.volumes.* must be an absolute path such as"),
        ({"secrets": {"TOKEN": "store"}}, "cluster.secrets.* must be SECRET/KEY"),
        ({"gpu": {"Trainer": 1}}, "cluster.gpu.*gpus"),
    ],
)
def test_what_no_cluster_can_give_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig.parse({"cluster": values})


def test_a_step_that_is_not_there_and_a_folder_on_no_volume_are_refused(tmp_path):
    cluster = ClusterConfig(volumes={"/mnt/models": "models"})
    target = str(tmp_path / "pipeline.yaml")
    with pytest.raises(ConfigError, match="data.source: required: a folder on one of .*/mnt/mod"):
        kubeflow.compile_pipeline(config(cluster=cluster), target)
    with pytest.raises(ConfigError, match="^output: required: a folder on one of cluster.volumes"):
        asked = config(source="/mnt/models/x", output="/mnt/modelsx", cluster=cluster)
        kubeflow.compile_pipeline(asked, target)
    with pytest.raises(ConfigError, match="cluster.gpus: .* no step 'Trainr'; did you mean 'Train"):
        ClusterConfig(gpus={"Trainr": 1}).require_known_steps(["Trainer", "Pusher"])


# A whole run is of a model that costs little, on the toy log, with the gate open.
CHEAP = {
    "model": "bpr_mf",
    "hyper_parameters": {"epochs": 1},
    "gate": {"min_lift": -1.0, "max_regression": 1.0, "z": 0.0},
}


TRAINED = ("LastBlessed", "Trainer", "Evaluator", "Canary", "Pusher")


@pytest.mark.thorough
@pytest.mark.end_to_end
def test_the_whole_of_it_runs_as_kubeflow_pipelines_would(
    toy_source, bucket, tmp_path, monkeypatch
):
    """Read to push; then one that starts warm, is compared with the first and is not blessed.

    The data and the pushed models lie in a bucket, which no step has as a folder.
    """
    needs_kfp()
    monkeypatch.chdir(IMAGE_ROOT)
    source, models = put(toy_source, f"{bucket}/toy"), f"{bucket}/models"

    def documents(**values):
        target = tmp_path / "pipeline.yaml"
        asked = config(source, "/mnt/runs", push=models, **{**CHEAP, **values})
        kubeflow.compile_pipeline(asked, str(target))
        return read(target)

    first = Steps(documents(), tmp_path, run_here)
    found = {task: first.run(task) for task in first.order()}
    # The toy log: 60 users with 9 events each, for a ring of 10 items is never gone round
    # (`write_toy_source`); leave-one-out takes two of each.
    read_rows = found["TableReader"]["events"]
    assert (read_rows["kept"], read_rows["rejected"]) == (540, 0)
    assert found["TableCheck"]["report"]["duplicates"] == 0
    assert found["ExampleBuilder"]["examples"]["train_rows"] == 540 - 2 * 60
    assert found["LastBlessed"]["model"].keys() == {"tfx_version"}  # there is none
    blessing = found["Evaluator"]["blessing"]
    assert blessing["blessed"] == 1 and "baseline_model" not in blessing
    # A path in the metadata is what the consumer would look for in the store.
    assert blessing["current_model"].startswith("minio://mlpipeline/")
    assert found["Pusher"]["pushed_model"]["pushed"] == 1
    (serving,) = place(models).iterdir()
    (version,) = serving.glob("[0-9]*")

    # The Trainer and what follows it, submitted with other settings, against a floor that nothing
    # reaches: the model is compared, not tried and not pushed.
    set_now = {"seed": 7, "hyper_parameters": {"epochs": 2}, "warm_start": True}
    second = Steps(documents(gate={"min_lift": 5.0}), tmp_path, run_here, set_now, after=first)
    found = {task: second.run(task) for task in TRAINED}
    assert found["LastBlessed"]["model"]["version"] == int(version.name)
    log = json.loads((second.folder("Trainer", "model_run") / "training.json").read_text("utf-8"))
    assert (log["seed"], log["hyper_parameters"]["epochs"]) == (7, 2)
    assert log["warm_start"]["complete"] and log["warm_start"]["rows"] > 0
    blessing = found["Evaluator"]["blessing"]
    assert blessing["blessed"] == 0 and blessing["baseline_model"].startswith("minio://")
    evaluation = second.folder("Evaluator", "evaluation") / "eval_config.json"
    specs = json.loads(evaluation.read_text("utf-8"))["evalConfig"]["modelSpecs"]
    assert sorted(one.get("isBaseline", False) for one in specs) == [False, True]
    assert found["Canary"]["blessing"]["reason"] == "the gate did not bless the model"
    assert found["Pusher"]["pushed_model"]["pushed"] == 0
    assert list(serving.glob("[0-9]*")) == [version]


def test_a_steps_process_ends_at_once_with_its_work_done(tmp_path):
    """As `python -m`, whose end is `os._exit`; the curated schema is the cheapest step."""
    needs_kfp()
    target = tmp_path / "pipeline.yaml"
    kubeflow.compile_pipeline(config(), str(target))
    steps = Steps(read(target), tmp_path, run_process)
    (schema,) = steps.run("Schema-events").values()
    assert schema["tfx_version"]
    assert (steps.folder("Schema-events", "schema") / "schema.pbtxt").is_file()


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
spec = next(yaml.safe_load_all(open(sys.argv[1], encoding="utf-8")))
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
        kubeflow.compile_pipeline(config(), str(tmp_path / "pipeline.yaml"))


@pytest.mark.parametrize(
    "values, target, message",
    [
        (
            {"source": "movielens-100k"},
            "p.json",
            "data.source: required for a cluster: .* received 'movielens-100k'",
        ),
        (
            {"source": "events"},
            "p.json",
            "data.source: required for a cluster: a URI such as s3://",
        ),
        (
            {"source": "minio://b/x"},
            "p.json",
            "data.source: required: .*s3://.*received minio://b/x",
        ),
        (
            {"output": "hdfs://host/runs"},
            "p.yaml",
            "output: .*artifacts in, s3:// or gs://, or the",
        ),
        ({"push": "models"}, "p.yaml", "push: required for a cluster: a URI .* received 'models'"),
        ({"push": "ftp://host/x"}, "p.yaml", "push: required: .*received ftp://host/x"),
        ({"output": "runs"}, "p.json", "output: required for a cluster: a URI .* received 'runs'"),
        (
            {"output": "minio://b/runs"},
            "p.yaml",
            "output: required: a path, or a URI such as s3://",
        ),
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


@pytest.mark.parametrize(
    "file, lane, python",
    [("Dockerfile", "portable", "3.10"), ("Dockerfile.current", "current", "3.12")],
)
def test_the_image_of_a_lane_holds_what_the_steps_import(file, lane, python):
    text = (IMAGE_ROOT / "pipeline" / file).read_text("utf-8")
    lines = text.splitlines()
    for folder in ("components", "models", "pipeline", "schema", "serving"):
        assert f"COPY {folder} {folder}" in lines
    assert f"--requirements requirements/{lane}.in --constraints requirements/{lane}.txt" in text
    assert text.count(f"FROM python:{python}-slim") == 2
    assert lines[-1] == "USER 10001:10001"
