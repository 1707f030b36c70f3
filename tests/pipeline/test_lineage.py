"""What the metadata of a run say of it while it runs, and once its process is gone."""

import fcntl
import os

import pytest
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd

from pipeline import lineage, show


@pytest.fixture
def unfinished(tmp_path):
    """An output folder whose one run has finished its reader and has begun to train."""
    config = mlmd.ConnectionConfig()
    config.sqlite.filename_uri = str(tmp_path / lineage.METADATA)
    store = metadata_store.MetadataStore(config)

    def context(kind: str, name: str) -> mlmd.Context:
        found = mlmd.Context(name=name)
        found.type_id = store.put_context_type(mlmd.ContextType(name=kind))
        (found.id,) = store.put_contexts([found])
        return found

    run = context("pipeline_run", "2026-01-02T03:04:05")
    kind = store.put_execution_type(mlmd.ExecutionType(name="step"))
    for node, state in (
        ("TableReader", mlmd.Execution.COMPLETE),
        ("Trainer", mlmd.Execution.RUNNING),
    ):
        execution = mlmd.Execution(type_id=kind, last_known_state=state)
        store.put_execution(execution, [], [run, context("node", f"toy.{node}")])
    return tmp_path


def test_an_unfinished_run_runs_while_its_process_holds_the_folder(unfinished, capsys):
    (dead,) = lineage.load_runs(unfinished)
    assert dead.state == dead.steps["Trainer"].state == "interrupted"
    assert dead.steps["Trainer"].seconds == 0
    show.print_runs([dead])
    printed = capsys.readouterr().out
    assert " no " not in printed  # nobody judged the model
    with open(unfinished / lineage.LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = os.stat(unfinished / lineage.METADATA).st_mtime
        os.utime(lock.fileno(), (began - 60, began - 60))
        (alive,) = lineage.load_runs(unfinished)
        assert alive.state == alive.steps["Trainer"].state == "running"
        assert alive.steps["TableReader"].state == "complete"
        assert alive.seconds > 0  # what has passed until now counts
        # Another run has taken the folder since, and is not yet in the store.
        os.utime(lock.fileno(), (began + 60, began + 60))
        assert lineage.load_run(unfinished).state == "interrupted"
    assert lineage.load_run(unfinished).state == "interrupted"
