"""The pipeline: one pure function from a run to a TFX pipeline; runners only execute it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components import beam_signatures as beam_signatures  # it makes Beam remember them
from components.build.config import SOURCE, WALKS
from components.build.example_builder import ExampleBuilder
from components.canary.canary import Canary
from components.check.curated_schema import CuratedSchema
from components.check.statistics_gen import StatisticsGen
from components.check.table_check import TableCheck
from components.engines import arguments, require_seen
from components.gate import evaluation, ledger
from components.gate.evaluator import Evaluator
from components.gate.last_blessed import LastBlessed, compared
from components.gate.pusher import Pusher
from components.read.layouts.detection import TABLES
from components.read.table_reader import TableReader
from components.refit.refit import Refit
from components.refit.steps import RefitTrainer
from components.tables.schemas import read_columns, read_schemas, schema_folder
from components.transform.transform import Transform
from models.contract.retrieve import DotProductModel
from models.names import metrics, registry
from models.names.errors import ConfigError
from models.names.export import FLOAT32
from models.names.hyper_parameters import Epochs
from pipeline import rows, workers
from pipeline import tfx_api as tfx
from pipeline.config import RunConfig
from pipeline.preflight import check_run

_ROOT = Path(__file__).resolve().parent.parent
_AGAIN = "refit"  # what the steps that fit the model again on everything are called after
# What decides the components' outputs and stands in other rooms: a cached one is not of older code.
_READ_BY_COMPONENTS = (
    "models/inputs/graph.py",
    "models/names/features.py",
    "models/names/label.py",
    "models/names/settings.py",
    "models/names/twin.py",
    "serving/wire/records.py",
)


def create_pipeline(
    config: RunConfig,
    *,
    source: str,
    fingerprint: str,
    schemas: str,
    hyper_parameters: dict,
    pipeline_root: str,
    serving_dir: str,
    checkpoint_root: str | None = None,
    metadata_path: str | None = None,
    schema_dir: str | None = None,
    training_pod: dict[str, Any] | None = None,
) -> tfx.Pipeline:
    """Builds the pipeline of a run.

    Args:
        config: the resolved run.
        source: folder of the data.
        fingerprint: of the data's files, so that the cache notices new ones.
        schemas: name or folder of the curated table schemas.
        hyper_parameters: all of the model's, resolved.
        pipeline_root: where artifacts go.
        serving_dir: where versions of the model are pushed.
        checkpoint_root: where an interrupted training keeps its state; None keeps none.
        metadata_path: the ML Metadata file; None where the runner has a store of its own.
        schema_dir: where the components find the table schemas; None where they run on this
            machine. Elsewhere nothing is known of the data and of what was blessed.
        training_pod: what each process of a training by several is given on Kubernetes, see
            `pipeline.workers.documents`; None: they run on this machine.

    Raises:
        ConfigError: a place that Beam's workers cannot see, no metric to choose the epoch by, walks
            for a model that takes none, targets that the model's own ranking leaves out, or an
            index for a model without vectors.
    """
    entry = registry.get(config.model)
    model_class = registry.load(config.model).Model
    if config.index.kind != "exact" and not issubclass(model_class, DotProductModel):
        raise ConfigError(
            f"index.kind: {config.index.kind} is for models whose score is a dot product; "
            f"{config.model}'s is none; required: exact"
        )
    settings = model_class.HyperParameters(**hyper_parameters)
    to_build = check_run(config, settings)
    require_seen(config.beam, {"data.source": source, "output": pipeline_root})
    label = config.label.model_dump() if config.label else None
    measured = metrics.of(entry.task, config.label, config.metrics)
    folder = schema_folder(schemas)
    components_hash = _hash_files("components", "schema", *_READ_BY_COMPONENTS)
    tables = read_schemas(folder)
    # A user's own schemas are edited where they lie; the components that read them notice.
    contents = {
        table: _hash_text(_schema_file(folder, table).read_text("utf-8")) for table in TABLES
    }
    schemas_hash = _hash_text(json.dumps([components_hash, contents]))
    folder = schema_dir or folder

    # The user's files become three tables, whatever their layout; what cannot be read is counted,
    # not dropped in silence.
    reader = TableReader(
        source=source,
        fingerprint=fingerprint,
        reader=config.data.reader,
        columns=json.dumps(read_columns(config.data.columns, tables), sort_keys=True),
        max_rejected_share=config.data.max_rejected_share,
        code_hash=components_hash,
    )

    # Each table is measured and held against its curated schema, before anything is learned from
    # it.
    nodes, anomalies, statistics = [reader], {}, {}
    for table in TABLES:
        generator = StatisticsGen(
            examples=reader.outputs[table], code_hash=components_hash
        ).with_id(f"StatisticsGen-{table}")
        importer = CuratedSchema(
            schema_file=str(_schema_file(folder, table)), contents_hash=contents[table]
        ).with_id(f"Schema-{table}")
        validator = tfx.ExampleValidator(
            statistics=generator.outputs["statistics"], schema=importer.outputs["schema"]
        ).with_id(f"ExampleValidator-{table}")
        nodes += [generator, importer, validator]
        anomalies[f"{table}_anomalies"] = validator.outputs["anomalies"]
        statistics[table] = generator

    # A run is stopped by TFDV's anomalies and by what TFDV cannot know (duplicates, events in the
    # future, unknown items); the message names the table and the column.
    check = TableCheck(
        **{table: reader.outputs[table] for table in TABLES},
        **anomalies,
        thresholds=config.check.model_dump_json(),
        schema_folder=folder,
        code_hash=schemas_hash,
    )

    # A model of items x items says what fits here. Where the components run elsewhere nobody knows.
    limit = settings.most_items()
    limits = {"most_items": limit, "min_count": config.features.min_count}

    # What rows carry follows from what the model reads: a class attribute, as the limit is.
    carries = rows.carried(config, model_class, settings.setting("list_loss"))

    # The split comes before anything is fitted, so that nothing after it reaches train.
    building = {
        **{table: reader.outputs[table] for table in TABLES},
        "check": check.outputs["report"],
        "task": to_build.task,
        "kind": to_build.kind,
        "split": to_build.split.model_dump_json(),
        "label": to_build.label.model_dump_json() if to_build.label else None,
        "walks": to_build.walks.model_dump_json(),
        "carries": json.dumps(carries, sort_keys=True),
        "selection": json.dumps(config.selection, sort_keys=True) if config.selection else None,
        "split_file_hash": _hash_given(config.split.file),
        **(limits if limit and not schema_dir else {}),
        "schema_folder": folder,
        "code_hash": schemas_hash,
    }
    builder = ExampleBuilder(**building)

    # Vocabularies, boundaries and counts are fitted on train; the same graph feeds training and
    # serving.
    transforming = {
        "settings": json.dumps(rows.transformed(config, tables, model_class), sort_keys=True),
        "code_hash": _hash_files(
            "components/transform",
            "components/tables",
            "models/inputs/preprocessing.py",
            *_READ_BY_COMPONENTS,
        ),
    }
    transform = Transform(
        examples=builder.outputs["examples"], schema=builder.outputs["schema"], **transforming
    )

    training = {
        "model": config.model,
        "hyper_parameters": hyper_parameters,
        "seed": config.seed,
        "label": label,
        "code_hash": registry.code_hash(),
        **({"metrics": list(config.metrics)} if config.metrics else {}),
        **({"index": config.index.model_dump()} if config.index.kind != "exact" else {}),
        **({"export": config.export.model_dump()} if config.export != FLOAT32 else {}),
    }
    identity = _hash_text(
        json.dumps(
            [
                training,
                config.model_dump(
                    mode="json",
                    include={"data", "split", "check", "features", "walks", "warm_start"},
                ),
                config.selection,
                fingerprint,
                schemas_hash,
            ]
        )
    )
    # Several processes train the same model: what they are does not tell it apart.
    processes = workers.trainer_settings(config.cluster, config.model)

    def known_as(fingerprint: str) -> dict[str, Any]:
        """The training under a name of its own: its checkpoints and its model are told by it."""
        own: dict[str, Any] = {"fingerprint": fingerprint}
        if checkpoint_root:
            own["checkpoint_dir"] = str(Path(checkpoint_root) / fingerprint)
        if processes and training_pod is not None:
            own["cluster"] = workers.on_kubernetes(
                config.cluster, processes, config.pipeline_name, training_pod
            )
        elif processes:
            own["cluster"] = processes
        return {**training, **own}

    # The gate compares the new model with the last blessed one, which is found here; on a cluster
    # an unchanged run is of new data, so that its own last model counts as well.
    last_blessed = find_last_blessed(serving_dir, None if schema_dir else identity)

    # Hyper-parameters say how many epochs to train, so TFX's step counts stay unset. Elsewhere
    # whether to start warm is decided when a run is submitted.
    may_be_warm = config.warm_start or (schema_dir and isinstance(settings, Epochs))
    fitting = {
        "run_fn": workers.run_fn_of(known_as(identity).get("cluster", {})),
        "train_args": tfx.TrainArgs(
            splits=["train", "items", "users"]
            + ([WALKS] if to_build.walks.on_graph else [])
            + ([SOURCE] if to_build.split.has_source else [])
        ),
        "eval_args": tfx.EvalArgs(splits=["valid"]),
        **({"base_model": last_blessed.outputs["model"]} if may_be_warm else {}),
    }
    trainer = tfx.Trainer(
        examples=builder.outputs["examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=builder.outputs["schema"],
        custom_config=known_as(identity),
        **fitting,
    )

    def fit_again(model_blessing: Any, infra_blessing: Any) -> list[Any]:
        """The same three steps on everything, and before them whether they have anything to do."""
        refit = Refit(
            model=trainer.outputs["model"],
            model_blessing=model_blessing,
            infra_blessing=infra_blessing,
            code_hash=components_hash,
        )
        chosen = refit.outputs["hyperparameters"]
        whole = ExampleBuilder(**building, refit=chosen).with_id(f"ExampleBuilder-{_AGAIN}")
        graph = Transform(
            examples=whole.outputs["examples"], schema=whole.outputs["schema"], **transforming
        ).with_id(f"Transform-{_AGAIN}")
        again = RefitTrainer(
            examples=whole.outputs["examples"],
            transform_graph=graph.outputs["transform_graph"],
            schema=whole.outputs["schema"],
            hyperparameters=chosen,
            custom_config=known_as(_hash_text(f"{identity} {_AGAIN}")),
            **fitting,
        ).with_id(f"Trainer-{_AGAIN}")
        return [refit, whole, graph, again]

    # The gate: better than the reference, and not much worse than the last blessed model.
    gate = config.gate.model_copy(update={"min_lift": 0.0}) if entry.baseline else config.gate
    bounds = evaluation.eval_config(measured, gate)
    gated = gate_and_push(
        trainer.outputs["model"],
        last_blessed.outputs["model"],
        builder.outputs["examples"],
        bounds,
        serving_dir,
        fit_again if config.refit else None,
    )
    metadata = tfx.sqlite_metadata_connection_config(metadata_path) if metadata_path else None
    return tfx.Pipeline(
        pipeline_name=config.pipeline_name,
        pipeline_root=pipeline_root,
        components=[*nodes, check, builder, transform, last_blessed, trainer, *gated],
        enable_cache=True,
        metadata_connection_config=metadata,
        beam_pipeline_args=arguments(config.beam),
    )


def find_last_blessed(serving_dir: str, other_than: str | None) -> LastBlessed:
    """The component that finds what the gate compares with.

    Args:
        serving_dir: where versions are pushed.
        other_than: fingerprint of the training that is compared; None where the component runs
            elsewhere, and what it will find is not known.
    """
    found = other_than and serving_dir and ledger.last_blessed(serving_dir, other_than)
    return LastBlessed(
        destination=serving_dir,
        other_than=other_than,
        compared=compared(found or None) if other_than else None,
        code_hash=_hash_files("components/gate/last_blessed.py", "components/gate/ledger.py"),
    )


def gate_and_push(
    model: Any,
    last_blessed: Any,
    examples: Any,
    bounds: Any,
    serving_dir: str,
    fit_again: Callable[[Any, Any], list[Any]] | None = None,
) -> list[Any]:
    """The end of every pipeline: Evaluator, Canary, Pusher.

    Where the model is fitted again, what is pushed has the blessing of the measured model and that
    of a Canary of its own.

    Args:
        model: channel of what was made.
        last_blessed: channel of what it is compared with.
        examples: channel of the built examples.
        bounds: what the Evaluator measures and requires (`gate.eval_config`).
        serving_dir: where versions are pushed.
        fit_again: takes the channels of both blessings, and makes the steps that fit the model
            again; the last of them has the `model` that is pushed. None pushes what was measured.
    """
    # The SavedModel's own signature `evaluate` measures it on the test rows.
    evaluator = Evaluator(
        examples=examples,
        model=model,
        baseline_model=last_blessed,
        eval_config=bounds,
        example_splits=["test"],
    )

    # Good metrics do not show that a server can load the model, so a server process loads it and
    # answers real requests before anything is pushed.
    asking = {
        "model_blessing": evaluator.outputs["blessing"],
        "examples": examples,
        "code_hash": _hash_files("components/canary", "components/servers.py", "serving"),
    }
    canary = Canary(model=model, **asking)
    measured, again = model, []
    if fit_again:
        again = fit_again(evaluator.outputs["blessing"], canary.outputs["blessing"])
        model = again[-1].outputs["model"]
        again.append(Canary(model=model, **asking).with_id(f"Canary-{_AGAIN}"))
    tried = again[-1] if again else canary

    # Only what the Evaluator and the Canary have both blessed becomes a version that servers load.
    pusher = Pusher(
        model=model,
        measured_model=measured if again else None,
        evaluation=evaluator.outputs["evaluation"],
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=tried.outputs["blessing"],
        destination=serving_dir,
    )
    return [evaluator, canary, *again, pusher]


def _schema_file(folder: str, table: str) -> Path:
    return Path(folder) / f"{table}.pbtxt"


def _hash_files(*names: str) -> str:
    digest = hashlib.sha256()
    for name in names:
        place = _ROOT / name
        files = (
            [place]
            if place.is_file()
            else sorted(path for path in place.rglob("*") if path.suffix in (".py", ".pbtxt"))
        )
        for path in files:
            digest.update(str(path.relative_to(_ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _hash_given(file: str | None) -> str | None:
    """The hash of the file of the split `given`, where there is one and it lies on this machine."""
    if file and Path(file).is_file():
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:32]
    return None


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
