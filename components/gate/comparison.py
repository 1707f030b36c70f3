"""Two runs on the same test queries: the difference of each metric, with its interval by user.

Light: neither TensorFlow nor TFX.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from models.names.errors import DataError

USER, ROWS = "user_id", "rows"
RESAMPLES = 2000
CONFIDENCE = 0.95
_DRAWS = 4_000_000  # users drawn at once: bounds memory


@dataclass(frozen=True)
class ByUser:
    """What a run reached for each of its test users.

    Attributes:
        users: [U] ids, ascending.
        rows: [U] test queries (or rows) of each user.
        means: metric -> [U] mean over them.
    """

    users: Sequence[bytes]
    rows: npt.NDArray[np.int64]
    means: dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Difference:
    """How a metric differs between two runs.

    Attributes:
        metric: its name.
        first: mean over the queries, of the first run.
        second: of the second.
        difference: second - first.
        low: lower end of the interval of the difference.
        high: upper end.
    """

    metric: str
    first: float
    second: float
    difference: float
    low: float
    high: float

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def part(users: Sequence[bytes], values: Mapping[str, npt.NDArray[Any]]) -> Any:
    """Rows as `merged` and `write` take them: an Arrow table.

    Args:
        users: [N] whose query each is.
        values: metric -> [N] values of the queries.
    """
    import pyarrow as pa

    columns = {name: pa.array(column, pa.float64()) for name, column in values.items()}
    rows = pa.array(np.ones(len(users), np.int64))
    return pa.table({USER: pa.array(users, pa.large_binary()), ROWS: rows, **columns})


def merged(parts: Iterable[Any]) -> Any:
    """All parts as one that has a row a user: how many queries, and the sum of each metric."""
    import pyarrow as pa

    rows = pa.concat_tables(parts)
    names = [name for name in rows.column_names if name != USER]
    sums = rows.group_by(USER).aggregate([(name, "sum") for name in names])
    return pa.table({USER: sums[USER], **{name: sums[f"{name}_sum"] for name in names}})


def write(parts: Iterable[Any], target: IO[bytes]) -> None:
    """Writes a Parquet file: a row a user, in the order of the ids.

    Args:
        parts: of `part` or `merged`.
        target: takes the file: `user_id` binary, `rows` int64, and the mean of each metric over the
            user's queries, float64.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import parquet

    sums = merged(parts).sort_by(USER)
    columns = {USER: sums[USER].cast(pa.binary()), ROWS: sums[ROWS]}
    for name in sums.column_names:
        if name not in columns:
            columns[name] = pc.divide(sums[name], sums[ROWS])
    parquet.write_table(pa.table(columns), target)


def read(source: Any) -> ByUser:
    """Reads what `write` wrote, from a path or a file."""
    from pyarrow import parquet

    table = parquet.read_table(source)
    names = [name for name in table.column_names if name not in (USER, ROWS)]
    return ByUser(
        table[USER].to_pylist(),
        table[ROWS].to_numpy(),
        {name: table[name].to_numpy() for name in names},
    )


def compare(first: ByUser, second: ByUser, seed: int = 0) -> list[Difference]:
    """Paired differences of every metric that both runs have, with bootstrap intervals by user.

    Users are drawn with replacement, as many as there are and each with all of her queries in both
    runs, and the difference of the means over queries is computed anew each time; the interval
    holds the middle `CONFIDENCE` of those (Efron and Tibshirani: An Introduction to the Bootstrap,
    1993, chapter 13, the percentile interval; Sakai, SIGIR 2006, for paired tests of rankings).

    Args:
        first: of one run.
        second: of another on the same test queries.
        seed: of the draws.

    Raises:
        DataError: the users or the numbers of their queries differ.
    """
    if list(first.users) != list(second.users) or not np.array_equal(first.rows, second.rows):
        both = set(first.users) & set(second.users)
        raise DataError(
            "required: two runs on the same test queries; received "
            f"{int(first.rows.sum())} queries of {len(first.users)} users and "
            f"{int(second.rows.sum())} of {len(second.users)}, {len(both)} users in both"
        )
    names = [name for name in first.means if name in second.means]
    ours = np.array([first.means[name] for name in names]).T * first.rows[:, None]
    theirs = np.array([second.means[name] for name in names]).T * first.rows[:, None]
    low, high = interval(theirs - ours, first.rows, seed)
    total = first.rows.sum()
    return [
        Difference(
            name,
            float(ours[:, place].sum() / total),
            float(theirs[:, place].sum() / total),
            float((theirs - ours)[:, place].sum() / total),
            float(low[place]),
            float(high[place]),
        )
        for place, name in enumerate(names)
    ]


def interval(
    differences: npt.NDArray[np.float64], rows: npt.NDArray[np.int64], seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Percentile bootstrap intervals, [M] lower and [M] upper ends.

    Args:
        differences: [U, M] sums over each user's queries.
        rows: [U] number of them.
        seed: of the draws.
    """
    random, users = np.random.default_rng(seed), len(rows)
    weighed = np.column_stack([differences, rows])
    means, size = [], max(1, _DRAWS // users)
    for start in range(0, RESAMPLES, size):
        count = min(size, RESAMPLES - start)
        drawn = random.integers(users, size=(count, users))
        drawn += np.arange(count)[:, None] * users
        times = np.bincount(drawn.ravel(), minlength=count * users).reshape(count, users)
        sums = times @ weighed
        means.append(sums[:, :-1] / sums[:, -1:])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return low, high
