"""What two runs are compared by: bootstrap intervals by user, and what the gate requires."""

import io
from types import SimpleNamespace

import numpy as np
import pytest

from components.gate import comparison
from components.gate.config import required
from components.gate.metrics import gathered
from models.names.errors import DataError


def of(values: dict[str, list], users: list[bytes]) -> comparison.ByUser:
    """What `write` and `read` make of the queries of users."""
    file = io.BytesIO()
    rows = {name: np.array(row, "f") for name, row in values.items()}
    comparison.write([comparison.part(users, rows)], file)
    return comparison.read(io.BytesIO(file.getvalue()))


def test_queries_become_one_row_a_user_in_the_order_of_the_ids():
    found = of({"hr_10": [1, 0, 0.5]}, [b"b", b"\xff", b"b"])
    assert found.users == [b"b", b"\xff"] and found.rows.tolist() == [2, 1]
    assert found.means["hr_10"].tolist() == [0.75, 0.0]  # (1 + 0.5) / 2


def test_batches_add_up_to_the_same_and_what_waits_is_bounded(monkeypatch):
    monkeypatch.setattr(gathered, "_WAITING", 8)
    random = np.random.default_rng(0)
    users = random.integers(6, size=60).astype("S")
    hits = random.random(60).astype("f")
    (computation,) = gathered.ByUser("by_user", ["hr_10"]).computations()
    combiner = computation.combiner
    halves = [combiner.create_accumulator(), combiner.create_accumulator()]
    for place in range(0, 60, 3):
        rows = slice(place, place + 3)
        batch = SimpleNamespace(
            features={"user_id": users[rows].astype(object)[:, np.newaxis]},
            get_predictions=lambda _, rows=rows: {"hr_10": hits[rows, np.newaxis]},
        )
        halves[place % 2] = combiner.add_input(halves[place % 2], batch)
        assert sum(part.num_rows for part in halves[place % 2]) < 6 + 8
    merged = combiner.compact(combiner.merge_accumulators(halves))
    assert [part.num_rows for part in merged] == [6]
    (written,) = combiner.extract_output(merged).values()
    found, expected = comparison.read(io.BytesIO(written)), of({"hr_10": hits}, list(users))
    assert found.users == expected.users and found.rows.tolist() == expected.rows.tolist()
    assert found.means["hr_10"] == pytest.approx(expected.means["hr_10"], rel=1e-12)


def test_the_difference_is_of_the_means_over_queries_not_over_users():
    users = [b"a", b"a", b"a", b"b"]
    first, second = of({"hr_10": [0, 0, 0, 1]}, users), of({"hr_10": [1, 1, 0, 1]}, users)
    (found,) = comparison.compare(first, second)
    assert (found.first, found.second, found.difference) == pytest.approx((0.25, 0.75, 0.5))
    # Both users drawn alike: a twice is 6 of 6 queries with 4 gained, 2/3; b twice gains nothing.
    assert (found.low, found.high) == pytest.approx((0.0, 2 / 3)) and not found.is_beyond_chance


def test_an_interval_of_many_users_is_that_of_the_normal_distribution():
    random = np.random.default_rng(3)
    differences = random.normal(0.1, 1.0, size=(2000, 1))
    low, high = comparison.interval(differences, np.ones(2000, int), seed=0)
    error = differences.std() / 2000**0.5
    middle = differences.mean()
    # The ends are quantiles of 2,000 draws, each with a deviation of about .06 standard errors.
    assert [low[0], high[0]] == pytest.approx(
        [middle - 1.96 * error, middle + 1.96 * error], abs=0.2 * error
    )


def test_a_true_null_is_rejected_five_times_in_a_hundred():
    """Each user's two results are swapped by a coin, 500 times, so that nothing differs."""
    random = np.random.default_rng(11)
    users = [str(number).zfill(4).encode() for number in range(300)]
    rows = random.integers(1, 4, size=300)
    # As rankings are: most users get 0, the others 1 / log2(1 + rank).
    first, second = (
        np.where(random.random(300) < 0.7, 0.0, 1 / np.log2(1 + random.integers(1, 11, size=300)))
        for _ in range(2)
    )
    rejected = 0
    for number in range(500):
        swapped = random.random(300) < 0.5
        one, other = np.where(swapped, second, first), np.where(swapped, first, second)
        (found,) = comparison.compare(
            comparison.ByUser(users, rows, {"ndcg_10": one}),
            comparison.ByUser(users, rows, {"ndcg_10": other}),
            seed=number,
        )
        rejected += found.is_beyond_chance
    assert 0.03 <= rejected / 500 <= 0.07


def test_runs_on_other_queries_are_refused():
    first, second = of({"hr_10": [1, 0]}, [b"a", b"b"]), of({"hr_10": [1, 0]}, [b"a", b"a"])
    with pytest.raises(DataError, match="2 queries of 2 users and 2 of 1, 1 users in both"):
        comparison.compare(first, second)


@pytest.mark.parametrize(
    "bound, z, error, wanted",
    [
        (0.01, 2, 0.02, 0.04),  # a lift must be beyond noise
        (0.05, 2, 0.02, 0.05),  # and reach the floor
        (-0.005, 2, 0.02, -0.04),  # a fall counts beyond noise
        (-0.05, 2, 0.02, -0.05),  # and beyond what is tolerated
        (0.0, 2, 0.0, 0.0),  # popularity against itself
        (0.01, 0, 0.02, 0.01),
        (0.01, 2, float("nan"), float("inf")),  # one row proves nothing
        (-0.01, 2, float("nan"), -float("inf")),
    ],
)
def test_what_is_required(bound, z, error, wanted):
    assert required(bound, z, error) == wanted
