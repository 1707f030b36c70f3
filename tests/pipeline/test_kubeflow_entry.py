"""What Kubeflow Pipelines hands to a step, as TFX takes it, and what it gets back.

`../shared/kfp/` has what the real driver and launcher handed to each step; the small fixtures here
have the same shape.
"""

import json
from pathlib import Path

import pytest

from pipeline import kubeflow_entry

MODEL = {"artifactType": {"instanceSchema": "title: tfx.Model\ntype: object\n"}}
BLESSING = "minio://mlpipeline/v2/run-1/Evaluator/5/blessing"
CAPTURED = Path(__file__).resolve().parents[3] / "shared" / "kfp"


def executor_input(scheme: str = "minio", folder: str = "minio") -> dict:
    """Of the Canary, shortened."""
    return {
        "inputs": {
            "artifacts": {
                "model": {
                    "artifacts": [
                        {
                            "name": "31",
                            "type": {"instanceSchema": ""},
                            "uri": f"{scheme}://bucket/run-1/Trainer/7/model",
                            "metadata": {
                                "display_name": "model",
                                "current_model": f"{scheme}://bucket/run-1/Trainer/7/model",
                                "rows": 300,
                            },
                        }
                    ]
                },
                "base_model": {},
            },
            "parameterValues": {"code_hash": "da06"},
        },
        "outputs": {
            "artifacts": {
                "blessing": {
                    "artifacts": [
                        {
                            "name": "blessing",
                            "type": {"instanceSchema": "title: tfx.InfraBlessing\n"},
                            "uri": f"{scheme}://bucket/run-1/Canary/9/blessing",
                        }
                    ]
                },
                "executor-logs": {
                    "artifacts": [
                        {
                            "name": "executor-logs",
                            "type": {"schemaTitle": "system.Artifact"},
                            "uri": f"{scheme}://bucket/run-1/Canary/9/executor-logs-0",
                        }
                    ]
                },
            },
            "outputFile": f"/{folder}/bucket/run-1/Canary/9/output_metadata.json",
        },
    }


@pytest.mark.parametrize("scheme, folder", [("minio", "minio"), ("s3", "s3"), ("gs", "gcs")])
def test_what_is_handed_over_becomes_what_tfx_takes(scheme, folder):
    given = executor_input(scheme, folder)
    before = json.dumps(given)
    taken = kubeflow_entry.taken_in(
        given, {"artifacts": {"model": MODEL}}, kubeflow_entry.mounts(given)
    )
    (model,) = taken["inputs"]["artifacts"]["model"]["artifacts"]
    assert model["type"] == MODEL["artifactType"]
    assert model["uri"] == f"/{folder}/bucket/run-1/Trainer/7/model"
    assert model["metadata"]["current_model"] == model["uri"]
    assert model["metadata"]["rows"] == 300 and model["name"] == "31"
    assert set(taken["inputs"]["artifacts"]) == {"model"}  # an optional input that nobody gave
    assert set(taken["outputs"]["artifacts"]) == {"blessing"}
    (blessing,) = taken["outputs"]["artifacts"]["blessing"]["artifacts"]
    assert blessing["uri"] == f"/{folder}/bucket/run-1/Canary/9/blessing"
    assert blessing["type"] == {"instanceSchema": "title: tfx.InfraBlessing\n"}
    assert taken["inputs"]["parameterValues"] == {"code_hash": "da06"}
    assert json.dumps(given) == before


def test_an_answer_names_uris_again_and_holds_no_null():
    prefixes = kubeflow_entry.mounts(executor_input())
    written = {
        "name": "33",
        "uri": "/minio/mlpipeline/v2/run-1/Evaluator/5/blessing",
        "metadata": {
            "blessed": 1.0,
            "current_model": "/minio/mlpipeline/v2/run-1/Trainer/4/model",
            "reason": None,
            "pushed_destination": "/mnt/runs/serving/shop/1",  # on a volume: as it is
        },
    }
    answer = kubeflow_entry.answered(
        {"artifacts": {"blessing": {"artifacts": [written]}}}, prefixes
    )
    assert answer["artifacts"]["blessing"]["artifacts"] == [
        {
            "name": "33",
            "uri": BLESSING,
            "metadata": {
                "blessed": 1.0,
                "current_model": "minio://mlpipeline/v2/run-1/Trainer/4/model",
                "pushed_destination": "/mnt/runs/serving/shop/1",
            },
        }
    ]


def test_vertex_ai_hands_over_uris_that_tfx_reads_itself():
    given = executor_input("gs", "gcs")
    given["outputs"]["outputFile"] = "gs://bucket/run-1/Canary/9/executor_output.json"
    assert kubeflow_entry.mounts(given) == {}
    taken = kubeflow_entry.taken_in(given, {"artifacts": {"model": MODEL}}, {})
    (model,) = taken["inputs"]["artifacts"]["model"]["artifacts"]
    assert model["uri"] == "gs://bucket/run-1/Trainer/7/model"


def trainer(**settings) -> dict:
    compiled = {
        "model": "bpr_mf",
        "seed": 0,
        "hyper_parameters": {"epochs": 20, "factors": 32},
        "fingerprint": "compiled",
    }
    return {"custom_config": json.dumps(compiled), "run_fn": "models.x", **settings}


def test_what_is_set_at_submission_is_what_the_trainer_is_told():
    found = kubeflow_entry.with_settings(
        trainer(seed=3.0, hyper_parameters={"epochs": 2}, warm_start=True)
    )
    assert set(found) == {"custom_config", "run_fn"}  # TFX's Trainer takes no others
    config = json.loads(found["custom_config"])
    assert (config["seed"], config["warm_start"]) == (3, True) and isinstance(config["seed"], int)
    assert config["hyper_parameters"] == {"epochs": 2, "factors": 32}
    assert config["fingerprint"] != "compiled"


def test_what_is_not_set_stays_as_it_was_compiled():
    same = kubeflow_entry.with_settings(trainer(seed=0, hyper_parameters={}))
    assert json.loads(same["custom_config"]) == json.loads(trainer()["custom_config"])
    other = {"seed": 1, "columns": ""}  # no Trainer
    assert kubeflow_entry.with_settings(dict(other)) == other


@pytest.mark.skipif(
    not CAPTURED.is_dir(), reason="needs ../shared/kfp: inputs of the real launcher"
)
def test_everything_that_the_real_launcher_handed_over_is_taken():
    captured = sorted(CAPTURED.glob("*.json"))
    assert len(captured) == 17
    for file in captured:
        handed = json.loads(file.read_text("utf-8"))
        given, output = handed["executor_input"], handed["executor_output"]
        kinds = {name: MODEL for name in given["inputs"].get("artifacts", {})}
        prefixes = kubeflow_entry.mounts(given)
        taken = kubeflow_entry.taken_in(given, {"artifacts": kinds}, prefixes)
        text = json.dumps(taken["inputs"].get("artifacts", {})) + json.dumps(taken["outputs"])
        assert "minio://" not in text and "system.Artifact" not in text
        assert '"instanceSchema": ""' not in text
        back = kubeflow_entry.answered(output, prefixes)
        planned = given["outputs"]["artifacts"]
        for key, found in back["artifacts"].items():
            assert found["artifacts"][0]["uri"] == planned[key]["artifacts"][0]["uri"]
        assert '"/minio/' not in json.dumps(back)
