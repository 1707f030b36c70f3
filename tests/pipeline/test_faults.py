"""The inputs that once went wrong, as `benchmarks.faults` has them: those that reading answers.

Its others go through whole runs, which take minutes: `python -m benchmarks.faults --data FOLDER`.
"""

import pytest

from benchmarks.faults import CASES, end, faults_of


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.whole], ids=lambda case: case.folder
)
def test_an_input_that_went_wrong_ends_as_it_should(shared_dir, tmp_path, case):
    folder = shared_dir / "faults"
    if not (folder / case.folder).is_dir():
        pytest.skip(f"needs {case.folder} of the shared faults")
    ended = end(case, folder, tmp_path)
    assert not list(faults_of(case, ended, folder)), ended.said


def test_every_input_is_there(shared_dir):
    """An input that is added to the folder is a case, or this fails."""
    folder = shared_dir / "faults"
    if not folder.is_dir():
        pytest.skip("needs the shared faults")
    assert {one.name for one in folder.iterdir() if one.is_dir()} == {one.folder for one in CASES}


def test_a_case_tells_what_is_other_than_it_should_be(tmp_path):
    """So that the cases above cannot pass by saying nothing."""
    from benchmarks.faults import Case, Ended

    case = Case("x", "refused", refused=True, says=("why",))
    assert list(faults_of(case, Ended(True, "fine", tmp_path), tmp_path)) == [
        "not refused: fine",
        "does not say 'why'",
    ]
    assert not list(faults_of(case, Ended(False, "why", tmp_path), tmp_path))
    counted = Case("x", "one row", then=lambda ended, _: (_ for _ in ()).throw(AssertionError("2")))
    assert list(faults_of(counted, Ended(True, "", tmp_path), tmp_path)) == ["2"]
