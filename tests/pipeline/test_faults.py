"""The inputs that once went wrong, as `benchmarks.faults` has them: how they are read and checked.

Those that are taken go through whole runs there, which take minutes: `python -m benchmarks.faults
--data FOLDER`.
"""

import pytest

from benchmarks.faults import CASES, Case, Ended, data_of, faults_of_reading, faults_of_run, read


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.folder)
def test_an_input_that_went_wrong_is_read_as_it_should_be(shared_dir, tmp_path, case):
    folder = shared_dir / "faults"
    if not (folder / case.folder).is_dir():
        pytest.skip(f"needs {case.folder} of the shared faults")
    ended = read(case.model, data_of(case, folder), case.settings, tmp_path)
    assert not list(faults_of_reading(case, ended)), ended.said


def test_every_input_is_there(shared_dir):
    """An input that is added to the folder is a case, or this fails."""
    folder = shared_dir / "faults"
    if not folder.is_dir():
        pytest.skip("needs the shared faults")
    assert {one.name for one in folder.iterdir() if one.is_dir()} == {one.folder for one in CASES}


def test_a_case_tells_what_is_other_than_it_should_be(tmp_path):
    """So that the cases above, and the whole runs, cannot pass by saying nothing."""
    case = Case("x", "refused", refused=True, says=("why",))
    assert list(faults_of_reading(case, Ended(True, "fine", tmp_path))) == [
        "not refused: fine",
        "does not say 'why'",
    ]
    assert not list(faults_of_reading(case, Ended(False, "why", tmp_path)))
    counted = Case("x", "3 rows", rows={"events": (3, 0)})
    tables = {"events": {"read": 3, "kept": 2}}
    assert list(faults_of_reading(counted, Ended(True, "", tmp_path, tables))) == [
        "events: rows kept and rejected: (2, 1)"
    ]


def test_a_whole_run_must_push_and_say_and_do_what_it_should(tmp_path):
    def fails(ended, folder):
        raise AssertionError("2")

    case = Case("x", "trained", tells=("AUC",), then=fails)
    failed = Ended(False, "Traceback\nwhy", tmp_path)
    assert list(faults_of_run(case, failed, tmp_path)) == ["the run failed: why", "a traceback"]
    unsaid = Ended(True, "log loss", tmp_path)
    assert list(faults_of_run(case, unsaid, tmp_path)) == [
        "does not say 'AUC'",
        "nothing was pushed",
    ]
    version = tmp_path / "serving" / "shop" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").touch()
    assert list(faults_of_run(case, Ended(True, "AUC", tmp_path), tmp_path)) == ["2"]
