"""Two runs side by side, from the files that they keep by user."""

import numpy as np
import pytest

from components.gate import comparison
from models.names.errors import DataError, RecsysError
from pipeline import compare
from pipeline.lineage import BY_USER, RunRecord, Step


def run(
    folder, name: str, values: list[float] | None, users: int = 40, sampled: float = 0.0
) -> RunRecord:
    """A run that got for its users what the values repeat; None: it never reached the gate."""
    record = RunRecord(name, "two_tower-toy", folder)
    if values is not None:
        place = folder / name
        place.mkdir()
        record.steps["Evaluator"] = Step("Evaluator", "complete", 1.0, {}, {"evaluation": place})
        hits = np.resize(np.array(values, "f"), users)
        ids = [f"u{number:02}".encode() for number in range(users)]
        with open(place / BY_USER, "wb") as file:
            values = {"hr_10": hits, "popularity_hr_10": hits, "mrr_10": hits}
            values["ncf99_hr_10"] = np.full(users, sampled, "f")
            comparison.write([comparison.part(ids, values)], file)
    return record


def test_second_less_first(tmp_path):
    first, second = run(tmp_path, "one", [0, 0, 0, 1]), run(tmp_path, "two", [1, 1, 0, 1])
    line, _ = compare.rows(compare.differences(first, second))
    # A quarter of the users were hit, then three quarters: half of them gained.
    assert line[:4] == ("hr_10", "0.2500", "0.7500", "+0.5000") and line[5] == "they differ"
    line, _ = compare.rows(compare.differences(first, first))
    assert line[3:] == ("+0.0000", "+0.0000 to +0.0000", "within chance")


def test_metrics_among_candidates_are_compared_where_there_were_candidates(tmp_path):
    first, second = run(tmp_path, "one", [0, 1]), run(tmp_path, "two", [0, 1])
    assert [one.metric for one in compare.differences(first, second)] == ["hr_10", "mrr_10"]
    third = run(tmp_path, "three", [0, 1], sampled=0.5)
    found = {one.metric: one.second for one in compare.differences(first, third)}
    assert found == {"hr_10": 0.5, "mrr_10": 0.5, "ncf99_hr_10": 0.5}


def test_a_run_beside_itself_is_said_to_be(tmp_path):
    first, second = run(tmp_path, "one", [0, 1]), run(tmp_path, "two", [0, 1])
    assert compare.caveat(first, second) == ""
    assert compare.caveat(first, first).startswith("both are run one of two_tower-toy")


def test_what_cannot_be_compared_is_said(tmp_path):
    first = run(tmp_path, "one", [0, 1])
    with pytest.raises(RecsysError, match="run two of two_tower-toy has no results by user"):
        compare.differences(first, run(tmp_path, "two", None))
    with pytest.raises(DataError, match="one and three: .*40 queries of 40 users and 30 of 30"):
        compare.differences(first, run(tmp_path, "three", [0, 1], users=30))
