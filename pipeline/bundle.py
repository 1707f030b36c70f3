"""`recsys bundle`: a small pipeline of its own makes one servable of two blessed models.

It evaluates the servable end to end, gates and pushes it. Its stages are the measured models, also
of runs that fitted theirs again on everything: those have seen what the bundle is measured on.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic
import yaml

from components.build.config import Filters, SplitConfig
from components.engines import Beam, arguments
from components.gate.config import GateConfig, require_known_slices
from models.names import metrics, registry
from models.names.errors import ConfigError
from models.names.settings import Names, Settings, Share
from pipeline import lineage, local
from pipeline.lineage import RunRecord


class BundleConfig(Settings):
    """What is bundled.

    Attributes:
        recall: a `retrieve` model: its name, or a pipeline or run of its own.
        rank: a `score` model, likewise; None leaves the order to the recall.
        candidates: how many recalled items are ranked.
        weight: of the ranking against the recall, 0 to 1; None chooses it on the validation
            queries.
        max_regression: NDCG@10 may be below the recall's alone, and below the last blessed
            bundle's, by at most this much, or by `z` standard errors where they are more.
        z: standard errors over the test queries; what is within them shows nothing.
        slices: as `GateConfig.slices`, against the recall alone and the last blessed bundle.
        output: folder of the runs; the bundle goes there as well.
        beam: where Beam's part of the work is done.
    """

    recall: str
    rank: str | None = None
    candidates: int = pydantic.Field(200, ge=1)
    weight: Share | None = None
    max_regression: float = pydantic.Field(GateConfig().max_regression, ge=0)
    z: float = pydantic.Field(GateConfig().z, ge=0)
    slices: Names = ()
    output: str = "runs"
    beam: Beam = Beam()


def run(config: BundleConfig, say: Callable[[str], None] = print) -> RunRecord:
    """Runs the pipeline and returns its record.

    Raises:
        ConfigError: there is no blessed model of a name, its task is another one, or the two were
            not made of the same split of the same data: the ranker could have learned what the
            recall is tested on.
        RecsysError: another run holds the output folder, or the disk is full.
    """
    require_known_slices(config.slices)
    records = lineage.load_runs(config.output)
    recall = _blessed(records, config.recall, "retrieve", config.output)
    rank = _blessed(records, config.rank, "score", config.output) if config.rank else None
    if rank:
        _require_same_split(recall, rank)
    for record in (recall, rank):
        if record and record.refit.get("events"):
            say(
                f"{record.pipeline} was fitted again on everything for its own push; the bundle "
                "takes the model that was measured, which has not seen test"
            )
    names = [record.training_parameters["model"] for record in (recall, rank) if record]
    data = (
        recall.pipeline.removeprefix(f"{names[0]}-")
        if recall.pipeline.startswith(f"{names[0]}-")
        else recall.pipeline
    )
    name = f"{'+'.join(names)}-{data}"
    return local.execute(
        Path(config.output).absolute(),
        name,
        lambda output: _create_pipeline(config, name, recall, rank, output, say),
        yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
        say,
        config.beam,
    )


def _create_pipeline(
    config: BundleConfig,
    name: str,
    recall: RunRecord,
    rank: RunRecord | None,
    output: Path,
    say: Callable[[str], None],
) -> Any:
    local.load_tensorflow(say)
    from components.bundle.bundler import Bundler
    from components.gate import evaluation
    from pipeline import tfx_api as tfx
    from pipeline.dag import find_last_blessed, gate_and_push

    types = tfx.standard_artifacts

    def existing(record: RunRecord, node: str, key: str, kind: Any, as_node: str):
        # The artifact of that run itself, so that lineage goes on through the bundle.
        return tfx.Importer(source_uri=record.steps[node].outputs[key], artifact_type=kind).with_id(
            as_node
        )

    recalled = existing(recall, "Trainer", "model", types.Model, "Recall")
    ranked = existing(rank, "Trainer", "model", types.Model, "Rank") if rank else None
    examples = existing(recall, "ExampleBuilder", "examples", types.Examples, "Examples")
    made_of = {
        "model": "+".join(
            record.training_parameters["model"] for record in (recall, rank) if record
        ),
        "task": "two_stage",
        "recall": recall.training_parameters["model"],
        "rank": rank.training_parameters["model"] if rank else None,
        "recall_run": recall.run_id,
        "rank_run": rank.run_id if rank else None,
        "candidates": config.candidates,
        "weight": config.weight,
        "code_hash": registry.code_hash(),
    }
    uris = [record.steps["Trainer"].outputs["model"] for record in (recall, rank) if record]
    made_of["fingerprint"] = hashlib.sha256(json.dumps([made_of, uris]).encode()).hexdigest()[:16]
    bundler = Bundler(
        recall=recalled.outputs["result"],
        rank=ranked.outputs["result"] if ranked else None,
        examples=examples.outputs["result"],
        config=json.dumps(made_of, sort_keys=True),
    )
    serving_dir = str(output / "serving" / name)
    last_blessed = find_last_blessed(serving_dir, made_of["fingerprint"])
    # End to end, after both stages: not worse than the recall alone, nor than the last bundle, by
    # more than the margin.
    gate = GateConfig(
        min_lift=-config.max_regression,
        max_regression=config.max_regression,
        z=config.z,
        slices=config.slices,
    )
    bounds = evaluation.eval_config(metrics.TWO_STAGE, gate)
    gated = gate_and_push(
        bundler.outputs["model"],
        last_blessed.outputs["model"],
        examples.outputs["result"],
        bounds,
        serving_dir,
    )
    nodes = [recalled, *([ranked] if ranked else []), examples, bundler, last_blessed, *gated]
    return tfx.Pipeline(
        pipeline_name=name,
        pipeline_root=str(output / name),
        components=nodes,
        enable_cache=True,
        metadata_connection_config=tfx.sqlite_metadata_connection_config(
            str(output / lineage.METADATA)
        ),
        beam_pipeline_args=arguments(config.beam),
    )


def _blessed(records: list[RunRecord], name: str, task: str, output: str) -> RunRecord:
    """The newest run of a model, pipeline or id that was blessed and answered the canary."""
    found = [
        record
        for record in records
        if record.trained
        and name in (record.training_parameters.get("model"), record.pipeline, record.run_id)
    ]
    if not found:
        if name not in registry.MODELS and name not in {record.pipeline for record in records}:
            registry.get(name)  # raises, naming the nearest
        raise ConfigError(
            f"no run of {name} in {output}; make one: recsys run {name} --output {output}"
        )
    blessed = [record for record in found if record.blessed and record.canary]
    if not blessed:
        raise ConfigError(
            f"none of the {len(found)} runs of {name} in {output} was blessed; a bundle is made of "
            "blessed models only"
        )
    record = blessed[-1]
    model = record.training_parameters["model"]
    if registry.get(model).task != task:
        wanted = (
            "--recall takes a retrieve model"
            if task == "retrieve"
            else "--rank takes a score model"
        )
        raise ConfigError(
            f"{wanted}; received {model}, which learns to {registry.get(model).task}: recsys models"
        )
    return record


def _require_same_split(recall: RunRecord, rank: RunRecord) -> None:
    """Refuses two models between which anything differs that decides which event is in which split.

    What may differ, since it moves no event from one split to another: what queries know and ask
    (`SplitConfig.border` leaves it out); the label (events without one belong to no split), but for
    its group, whose events are in one split;
    features.min_count and check (what counts as unknown, and what stops a run); walks, weights and
    seed of the training. The hash of the components' code may differ too, or else every new version
    would ask for both models to be trained again.
    """
    recalled, ranked = _made_of(recall), _made_of(rank)
    for what in recalled:
        for key, one in recalled[what].items():
            other = ranked[what].get(key)
            if one != other:
                raise ConfigError(
                    f"{recall.pipeline} and {rank.pipeline} were not made of the same {what}: "
                    f"{key} is {one!r} and {other!r}. The ranker could have learned what the "
                    f"recall is tested on; run it on the same {what}, such as --split "
                    "leave_one_out"
                )


def _made_of(record: RunRecord) -> dict[str, dict[str, Any]]:
    """Of the data and of the split, every key that decides which event is in which split."""
    read = record.steps["TableReader"].properties
    built = record.steps["ExampleBuilder"].properties
    border = SplitConfig.parse(json.loads(built["split"])).border
    if contents := built.get("split_file_hash"):
        border["file"] = contents  # wherever it lies
    split = {f"split.{key}": value for key, value in border.items()}
    split["label.group"] = json.loads(built.get("label") or "{}").get("group")
    # Which events count decides what is split; targets that are not asked for move none.
    chosen = json.loads(built.get("selection") or "{}")
    filters = chosen.get("filters") or {}
    chosen["filters"] = {**Filters().model_dump(), **filters, "known_targets_only": False}
    split |= {name: chosen.get(name) for name in ("positives", "filters", "sessions")}
    # The numbers of rows and the users' ids are what the reader and its column mapping make of the
    # files.
    data = {"the fingerprint of data.source": read.get("fingerprint")}
    data |= {f"data.{key}": read.get(key) or None for key in ("reader", "columns")}
    return {"data": data, "split": split}
