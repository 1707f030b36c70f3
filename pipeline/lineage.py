"""What ran, out of ML Metadata: the store that the pipeline itself writes.

Imports neither TensorFlow nor TFX.
"""

import fcntl
import functools
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.tables.places import place
from models.names import metrics, registry
from models.names.errors import RecsysError, nearest
from models.names.label import Label
from models.names.metrics import MetricSet

METADATA = "metadata.sqlite"
LOCK = ".lock"
VERDICT = "verdict.json"
BY_USER = "by_user.parquet"
_CLOCKS_S = 0.1  # how much the times of files may lag behind the clock


@dataclass
class Step:
    """One component of a run.

    Attributes:
        node: its id in the pipeline.
        state: `complete`, `cached`, `failed`, `running` or `interrupted`.
        seconds: from its start to its end, or until now; 0 of an interrupted one, as nobody noted
            its end.
        properties: its parameters, as ML Metadata holds them.
        outputs: output key -> artifact folder.
    """

    node: str
    state: str
    seconds: float
    properties: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass
class RunRecord:
    """One run of a pipeline.

    Attributes:
        run_id: the start time, as TFX names runs.
        pipeline: its name.
        output: folder of the metadata file.
        steps: node -> step, in the order of execution.
        artifacts: (node, output key) -> the artifact's custom properties.
        alive: whether its process still held the output folder when the run was looked up.
    """

    run_id: str
    pipeline: str
    output: Path
    steps: dict[str, Step] = field(default_factory=dict)
    artifacts: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    alive: bool = False

    @property
    def seconds(self) -> float:
        """All components together, as far as it is known (`Step.seconds`)."""
        return sum(step.seconds for step in self.steps.values())

    @property
    def state(self) -> str:
        """`failed`, `running`, `interrupted` or `complete`.

        It failed when any component failed. One that has not finished the last component runs while
        its process lives, and was interrupted if that is gone.
        """
        states = {step.state for step in self.steps.values()}
        if "failed" in states:
            return "failed"
        if "Pusher" in self.steps and not states & {"running", "interrupted"}:
            return "complete"
        return "running" if self.alive else "interrupted"

    @property
    def cached(self) -> bool:
        """Whether everything came from the cache.

        Runs of before there was a ledger looked the last blessed model up each time.
        """
        return all(
            step.state == "cached" for step in self.steps.values() if step.node != "LastBlessed"
        )

    @property
    def is_bundle(self) -> bool:
        """Whether the run put two stages into one servable, in place of training a model."""
        return "Bundler" in self.steps

    @property
    def trained(self) -> bool:
        """Whether the run got as far as a trained model."""
        return "model" in self.steps.get("Trainer", Step("", "", 0)).outputs

    @property
    def model_uri(self) -> str | None:
        """Folder of the trained or bundled model's artifact.

        None where the run did not get there.
        """
        step = self.steps.get("Bundler" if self.is_bundle else "Trainer")
        return step.outputs.get("model") if step else None

    @property
    def examples_uri(self) -> str | None:
        """Folder of the built examples that the model was measured on.

        None where the run did not get there.
        """
        step, key = (
            (self.steps.get("Examples"), "result")
            if self.is_bundle
            else (self.steps.get("ExampleBuilder"), "examples")
        )
        return step.outputs.get(key) if step else None

    @property
    def served_examples_uri(self) -> str | None:
        """Folder of the built examples that the pushed model was trained on.

        They are `examples_uri`, unless the model was fitted again on everything.
        """
        if not self.is_bundle and self.refit.get("events"):
            return self.steps[self.served("ExampleBuilder")].outputs["examples"]
        return self.examples_uri

    def served(self, node: str) -> str:
        """The node that did for the pushed model what `node` did for the measured one."""
        return f"{node}-refit" if self.refit.get("events") else node

    @functools.cached_property
    def data_run(self) -> "RunRecord":
        """The run that read the data and built the examples.

        Of a bundle it is the recall's, else this one.
        """
        return (
            load_run(self.output, self.training_parameters["recall_run"])
            if self.is_bundle
            else self
        )

    @property
    def training_parameters(self) -> dict[str, Any]:
        """What the Trainer was given: model, hyper-parameters, seed, code hash.

        Of a bundle it is what the Bundler was given: the two stages.
        """
        node, name = ("Bundler", "config") if self.is_bundle else ("Trainer", "custom_config")
        text = self.steps[node].properties.get(name) if node in self.steps else None
        return json.loads(text) if text else {}

    @property
    def measured(self) -> MetricSet:
        """What the run's task measures."""
        parameters = self.training_parameters
        entry = registry.MODELS.get(parameters.get("model", ""))
        task = "two_stage" if self.is_bundle else entry.task if entry else "retrieve"
        label = Label.parse(parameters.get("label"))
        return metrics.of(task, label, parameters.get("metrics", ()))

    @property
    def training(self) -> dict[str, Any]:
        """The Trainer's log: epochs, losses, seconds, parameters; empty before there is one."""
        return self._json("Trainer", "model_run", "training.json")

    @property
    def refit(self) -> dict[str, Any]:
        """How the model was fitted again on everything; empty where the run did not ask for it.

        It holds `skipped`, which is why it was not; or `events`, those of train, `more`, how many
        of these the measured model had not seen, `epochs` by stage, and `seconds`.
        """
        found = self.artifacts.get(("Refit", "hyperparameters"))
        if found is None:
            return {}
        log = self._json("Trainer-refit", "model_run", "training.json")
        if not log:
            return {"skipped": found.get("skipped", "the run did not get as far")}
        events, before = (
            self.artifacts[node, "examples"]["train_events"]
            for node in ("ExampleBuilder-refit", "ExampleBuilder")
        )
        return {
            "events": events,
            "more": events - before,
            "epochs": log["best_epochs"],
            "seconds": log["seconds"],
        }

    @property
    def bundling(self) -> dict[str, Any]:
        """The Bundler's log; empty before there is one.

        It holds the stages, the weight of the ranking and what each weight reached.
        """
        return self._json("Bundler", "model", "Format-Serving/assets.extra/training.json")

    @property
    def reading(self) -> dict[str, dict[str, Any]]:
        """Table -> the reader's report of rows read, kept and rejected."""
        return {
            table: self._json("TableReader", table, "report.json")
            for table in ("events", "items", "users")
        }

    @property
    def timed(self) -> bool:
        """Whether the events had times; taken for granted where the reader says nothing."""
        return "timestamp" in self.data_run.reading["events"].get("columns", ("timestamp",))

    @property
    def checking(self) -> dict[str, Any]:
        """The report of the table check."""
        return self._json("TableCheck", "report", "report.json")

    @property
    def building(self) -> dict[str, Any]:
        """The report of the example builder."""
        return self._json("ExampleBuilder", "examples", "report.json")

    @property
    def verdict(self) -> dict[str, Any]:
        """What the gate found (`gate.Verdict` as a dict); empty where the run did not get there."""
        return self._json("Evaluator", "evaluation", VERDICT)

    @property
    def by_user(self) -> Path | None:
        """The file of what each test user got; None where the run did not get there."""
        step = self.steps.get("Evaluator")
        path = Path(step.outputs["evaluation"]) / BY_USER if step and step.outputs else None
        return path if path and path.exists() else None

    @property
    def blessed(self) -> bool:
        """Whether the Evaluator blessed the model."""
        return self.artifacts.get(("Evaluator", "blessing"), {}).get("blessed") == 1

    @property
    def judged(self) -> bool:
        """Whether the Evaluator got as far as to bless the model or not to."""
        return ("Evaluator", "blessing") in self.artifacts

    @property
    def canary(self) -> bool:
        """Whether a server answered from the model."""
        return self.canary_outcome.get("blessed") == 1

    @property
    def canary_outcome(self) -> dict[str, Any]:
        """What the canary says: `blessed`, and `reason` or how many requests were `answered`.

        Of a model that was fitted again it is that one's, unless the measured one failed.
        """
        first = self.artifacts.get(("Canary", "blessing"), {})
        again = self.artifacts.get(("Canary-refit", "blessing"), {})
        return again if again and first.get("blessed") == 1 else first

    @property
    def pushed_path(self) -> str | None:
        """The pushed version's folder, or None."""
        pushed = self.artifacts.get(("Pusher", "pushed_model"), {})
        return pushed.get("pushed_destination") if pushed.get("pushed") == 1 else None

    def _json(self, node: str, key: str, name: str) -> dict[str, Any]:
        step = self.steps.get(node)
        path = Path(step.outputs[key]) / name if step and key in step.outputs else None
        return json.loads(path.read_text("utf-8")) if path and path.exists() else {}


def load_runs(output: str | Path) -> list[RunRecord]:
    """All runs under an output folder, oldest first; empty when there are none."""
    store = _open(Path(output))
    if store is None:
        return []
    held = _held_since(Path(output))
    return [
        _load(store, Path(output), context, held)
        for context in sorted(store.get_contexts_by_type("pipeline_run"), key=lambda c: c.name)
    ]


def load_run(output: str | Path, run: str = "latest") -> RunRecord:
    """One run: `latest`, its id, or the beginning of its id or of its pipeline's name.

    Of several that begin so it is the newest.

    Raises:
        RecsysError: there is none; the nearest is named.
    """
    records = load_runs(output)
    if run == "latest" and records:
        return records[-1]
    found = [
        record
        for record in records
        if record.run_id.startswith(run) or record.pipeline.startswith(run)
    ]
    if not found:
        known = (
            nearest(run, [record.run_id for record in records])
            if records
            else "; there are none yet: recsys run"
        )
        raise RecsysError(f"no run {run!r} in {output}{known}")
    return found[-1]


def last_pushed(output: str | Path) -> RunRecord:
    """The newest run whose pushed model is still there.

    Raises:
        RecsysError: there is none.
    """
    for record in reversed(load_runs(output)):
        if record.pushed_path and place(record.pushed_path).exists():
            return record
    raise RecsysError(
        f"no model was pushed under {output} yet; make one: recsys run --output {output}"
    )


def _held_since(output: Path) -> float | None:
    """When the run that holds the folder took it, in seconds since the epoch; None: none does.

    The kernel is asked, since the process id that the file names may by now be another program's.
    """
    try:
        with open(output / LOCK, encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return (output / LOCK).stat().st_mtime
    except OSError:
        pass
    return None


def _open(output: Path):
    path = output / METADATA
    if not path.exists():
        return None
    from ml_metadata.metadata_store import metadata_store
    from ml_metadata.proto import metadata_store_pb2

    config = metadata_store_pb2.ConnectionConfig()
    config.sqlite.filename_uri = str(path)
    config.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READONLY
    return metadata_store.MetadataStore(config)


def _load(store, output: Path, context, held: float | None) -> RunRecord:
    # A run that is still being prepared holds the folder too, and is none of those in the store.
    alive = held is not None and context.create_time_since_epoch / 1000 >= held - _CLOCKS_S
    record = RunRecord(context.name, "", output, alive=alive)
    executions = sorted(
        store.get_executions_by_context(context.id), key=lambda execution: execution.id
    )
    events = (
        store.get_events_by_execution_ids([execution.id for execution in executions])
        if executions
        else []
    )
    artifacts = {
        artifact.id: artifact
        for artifact in store.get_artifacts_by_id([event.artifact_id for event in events])
    }
    for execution in executions:
        node = next(
            context
            for context in store.get_contexts_by_execution(execution.id)
            if context.type == "node"
        ).name
        record.pipeline, _, node = node.rpartition(".")
        node = node.replace("_", "-")  # as in runs of before ids had to be those of a cluster
        state = _state(execution)
        started, ended = execution.create_time_since_epoch, execution.last_update_time_since_epoch
        if state == "running":
            state = "running" if alive else "interrupted"
            ended = round(1000 * time.time()) if alive else started
        # Cached components are new executions without work of their own: their time says what the
        # look-up took.
        step = Step(node, state, (ended - started) / 1000, _properties(execution))
        record.steps[node] = step
        for event in events:
            if event.execution_id == execution.id and event.type in (
                event.OUTPUT,
                event.INTERNAL_OUTPUT,
            ):
                key = next(part.key for part in event.path.steps if part.HasField("key"))
                artifact = artifacts[event.artifact_id]
                step.outputs[key] = artifact.uri
                record.artifacts[node, key] = _properties(artifact)
    return record


def _state(execution) -> str:
    state = execution.State.Name(execution.last_known_state).lower()
    return {"new": "running", "canceled": "failed"}.get(state, state)


def _properties(message) -> dict[str, Any]:
    values = {**message.properties, **message.custom_properties}
    return {
        name: getattr(value, value.WhichOneof("value"))
        for name, value in values.items()
        if value.WhichOneof("value")
    }
