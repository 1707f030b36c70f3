"""`recsys compare`: what two runs reached for the same test users, and whether that is chance.

It compares the models that were measured: one that was fitted again on everything has seen the test
rows.
"""

from components.gate import comparison
from components.gate.comparison import Difference
from models.names.errors import DataError, RecsysError
from pipeline.lineage import RunRecord

# What stands beside a metric: a reference's, which both runs share, and the distance from it.
_BESIDE = ("popularity_", "constant_", "alone_", "lift_")


def differences(first: RunRecord, second: RunRecord) -> list[Difference]:
    """How the metrics of two runs differ, second less first.

    Raises:
        RecsysError: a run did not get as far as the gate, or is older than the files by user.
        DataError: they were not measured on the same test queries.
    """
    results = []
    for record in (first, second):
        if record.by_user is None:
            raise RecsysError(
                f"run {record.run_id} of {record.pipeline} has no results by user: it did not get "
                "as far as the gate, or was made before they were kept; run it again"
            )
        results.append(comparison.read(record.by_user))
    try:
        found = comparison.compare(*results)
    except DataError as error:
        raise DataError(f"{first.run_id} and {second.run_id}: {error}") from None
    return [one for one in found if not one.metric.startswith(_BESIDE)]


def rows(found: list[Difference]) -> list[tuple[str, ...]]:
    """A line a metric: both means, the difference, its interval, and what it says."""
    return [
        (
            one.metric,
            f"{one.first:.4f}",
            f"{one.second:.4f}",
            f"{one.difference:+.4f}",
            f"{one.low:+.4f} to {one.high:+.4f}",
            "they differ" if one.is_beyond_chance else "within chance",
        )
        for one in found
    ]
