"""The notebooks run from top to bottom, and their files hold no output.

Two read runs of the toy log, two the made-up log of the notebooks. One kernel executes them all,
its names cleared between two of them: importing TensorFlow, Beam and TFX takes longer than most
cells.
"""

from pathlib import Path

import nbformat
import numpy as np
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient
from tensorflow_metadata.proto.v0 import statistics_pb2

from components import standalone
from pipeline import compare, lineage, report_users
from tests.conftest import recsys

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

pytestmark = [pytest.mark.timeout(1200), pytest.mark.usefixtures("loaded_once")]


def texts(cell) -> str:
    """Everything that a cell printed or showed as text."""
    shown = [
        output.get("text") or output.get("data", {}).get("text/plain", "")
        for output in cell.get("outputs", [])
    ]
    return "\n".join(shown)


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == [
        "change_a_model",
        "compare_runs",
        "explore_a_log",
        "take_a_run_apart",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_file_holds_no_output(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)


@pytest.fixture(scope="module")
def runs(toy_run) -> tuple[lineage.RunRecord, lineage.RunRecord]:
    """The toy run of `two_tower`, and one of `bpr_mf` beside it.

    By the name of the first the second is of its pipeline: all before the Trainer is cached.
    """
    first = next(one for one in lineage.load_runs(toy_run.spare) if one.pushed_path)
    arguments = ["run", "bpr_mf", *toy_run.arguments[2:4], "--output", toy_run.spare]
    for setting in (
        f"name={first.pipeline}",
        "epochs=10",
        "data.schema=movielens",
        "batch_size=64",
        "learning_rate=0.01",
    ):
        arguments += ["--set", setting]
    done = recsys(*arguments)
    assert "Transform                  cached" in done.stdout, done.stdout + done.stderr
    second = lineage.load_run(toy_run.spare)
    assert second.by_user, done.stdout + done.stderr
    return first, second


@pytest.fixture(scope="module")
def execute(toy_run, runs, tmp_path_factory):
    """Returns a function (name of a notebook) -> its code cells, executed."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RECSYS_OUTPUT", str(toy_run.spare))
        environment.setenv("RECSYS_WORKBENCH", str(tmp_path_factory.mktemp("workbench")))
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel(cwd=str(FOLDER))

    def run(name: str) -> list:
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
        # A cell that raises fails the test with its traceback; the notebook's own assertions are
        # checks, too.
        NotebookClient(notebook, km=manager, timeout=600, startup_timeout=300).execute()
        return [cell for cell in notebook.cells[1:] if cell.cell_type == "code"]

    yield run
    manager.shutdown_kernel(now=True)


@pytest.mark.end_to_end
@pytest.mark.thorough
def test_take_a_run_apart(execute, runs):
    code = execute("take_a_run_apart")
    assert runs[0].run_id in texts(code[0])
    (measured,) = [texts(cell) for cell in code if "measured now" in texts(cell)]
    assert measured.startswith("ndcg_10: epoch ")
    # `rows` of the slice `overall`: the toy log has 60 users, each of them a query.
    (slices,) = [texts(cell) for cell in code if "overall" in texts(cell)]
    assert "60" in slices and "blessed" in slices
    assert any(
        "Recommendations" in texts(cell) and "strategy='model'" in texts(cell) for cell in code
    )


@pytest.mark.end_to_end
@pytest.mark.thorough
def test_explore_a_log(execute):
    said = "\n".join(map(texts, execute("explore_a_log")))
    assert "rows rejected: empty item_id; events.csv, line 2976" in said
    assert "A run would stop here:" in said and "check.max_future_share" in said
    assert "split leave_one_out: events of other users that are later" in said
    # The variants differ, and none is refused on the log that they were written for.
    assert "only what was liked" in said and "refused" not in said


@pytest.mark.end_to_end
@pytest.mark.thorough
def test_change_a_model(execute):
    code = execute("change_a_model")
    said = "\n".join(map(texts, code))
    (table,) = [texts(cell) for cell in code if "95 % interval" in texts(cell)]
    assert "HingeMF" in table and "ndcg_10" in table
    assert "make new-model NAME=hinge_mf TASK=retrieve KIND=event FROM=bpr_mf" in said
    assert "recsys run hinge_mf --config " in said
    assert "240" in said  # the customers of the made-up log, all of them


@pytest.mark.end_to_end
@pytest.mark.thorough
def test_compare_runs(execute, runs):
    said = "\n".join(map(texts, execute("compare_runs")))
    assert "['two_tower', 'bpr_mf']" in said
    assert "popularity:tail" in said and "held out: Film" in said
    assert "of ten recommendations," in said


@pytest.mark.end_to_end
def test_the_check_before_a_run_is_the_runs(runs, tmp_path):
    for table, folder in runs[0].steps["TableReader"].outputs.items():
        (tmp_path / "tables").mkdir(exist_ok=True)
        (tmp_path / "tables" / table).symlink_to(folder)
    report = standalone.check_tables(str(tmp_path / "tables"), str(tmp_path), schema="movielens")
    assert report == runs[0].checking
    place = Path("Split-all", "FeatureStats.pb")
    for table in ("events", "items", "users"):
        own = tmp_path / "statistics" / table / place
        of_run = runs[0].steps[f"StatisticsGen-{table}"].outputs["statistics"]
        of_run = Path(of_run) / place
        assert measured(own) == measured(of_run)


def measured(path: Path) -> dict:
    """Column -> its statistics."""
    found = statistics_pb2.DatasetFeatureStatisticsList.FromString(path.read_bytes())
    return {feature.path.step[0]: feature for feature in found.datasets[0].features}


@pytest.mark.end_to_end
def test_slices_are_of_the_queries_that_the_gate_asked(runs):
    found = compare.by_slice(*runs)
    counts = {part.slice: part.rows for part in found}
    # 60 users with 7 to 9 events in train, whose targets are as popular as they come.
    assert found[0].slice == "overall" and counts["overall"] == counts["activity:1-9"] == 60
    parts = [count for name, count in counts.items() if name.startswith("popularity:")]
    assert sum(parts) == 60 and counts == runs[0].verdict["counts"]
    # What the gate kept of each user, to the last digits that a float32 has.
    for ours, theirs in zip(found[0].differences, compare.differences(*runs), strict=True):
        assert ours.metric == theirs.metric
        assert (ours.first, ours.second, ours.low, ours.high) == pytest.approx(
            (theirs.first, theirs.second, theirs.low, theirs.high), abs=1e-6
        )


@pytest.mark.end_to_end
def test_item_vectors_are_the_models(runs):
    ids, vectors = compare.item_vectors(runs[0])
    # The tower's output is normalised; the toy log has 40 items.
    assert len(set(ids)) == 40 and vectors.shape == (40, 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.end_to_end
def test_a_user_who_is_asked_for_is_shown(runs):
    shown = report_users.describe(runs[1], ["u7", "u3", "nobody"])
    assert sorted(user["id"] for user in shown["users"]) == ["u3", "u7"]
    assert all(len(user["items"]) == report_users.ITEMS for user in shown["users"])
