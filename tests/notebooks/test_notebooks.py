"""The notebooks run from top to bottom on a run of the pipeline, and their files hold no output."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from pipeline import lineage

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

pytestmark = [pytest.mark.timeout(1200)]


def texts(cell) -> str:
    """Everything that a cell printed or showed as text."""
    shown = [
        output.get("text") or output.get("data", {}).get("text/plain", "")
        for output in cell.get("outputs", [])
    ]
    return "\n".join(shown)


def test_there_is_a_notebook():
    assert [path.name for path in NOTEBOOKS] == ["take_a_run_apart.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_file_holds_no_output(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)


@pytest.mark.end_to_end
def test_take_a_run_apart(toy_run, monkeypatch):
    monkeypatch.setenv("RECSYS_OUTPUT", str(toy_run.output))
    pushed = [record for record in lineage.load_runs(toy_run.output) if record.pushed_path][-1]
    notebook = nbformat.read(FOLDER / "take_a_run_apart.ipynb", as_version=4)
    # A cell that raises fails the test with its traceback; the notebook's own assertions are
    # checks, too.
    NotebookClient(
        notebook,
        timeout=600,
        startup_timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
    ).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert pushed.run_id in texts(code[0])
    (measured,) = [texts(cell) for cell in code if "measured now" in texts(cell)]
    assert measured.startswith("ndcg_10: epoch ")
    # `rows` of the slice `overall`: the toy log has 60 users, each of them a query.
    (slices,) = [texts(cell) for cell in code if "overall" in texts(cell)]
    assert "60" in slices and "blessed" in slices
    assert any(
        "Recommendations" in texts(cell) and "strategy='model'" in texts(cell) for cell in code
    )
