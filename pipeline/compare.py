"""`recsys compare`: what two runs reached for the same test users, and whether that is chance.

It compares the models that were measured: one that was fitted again on everything has seen the test
rows. Beside it, for notebooks: the same by slice, and the item vectors of a run.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from components.gate import comparison
from components.gate.comparison import ByUser, Difference
from components.gate.config import SLICES
from models.names.errors import DataError, RecsysError
from models.names.metrics import SAMPLED
from pipeline import examples, servable
from pipeline.lineage import RunRecord

OVERALL = "overall"
_AT_ONCE = 256  # queries a call of `evaluate`
_ALL = 2**31 - 1

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
        return between(*results)
    except DataError as error:
        raise DataError(f"{first.run_id} and {second.run_id}: {error}") from None


def caveat(first: RunRecord, second: RunRecord) -> str:
    """One line where the two are one run, so that their differences say nothing; else empty."""
    if first.run_id != second.run_id:
        return ""
    return f"both are run {first.run_id} of {first.pipeline}, which differs from itself in nothing"


def between(first: ByUser, second: ByUser) -> list[Difference]:
    """The same of what each user got, without the metrics that both have of their reference.

    Those among sampled candidates are left out too where nobody got anything in either, as is so of
    runs without candidates.

    Raises:
        DataError: see `comparison.compare`.
    """
    found = comparison.compare(first, second)
    return [
        one
        for one in found
        if not one.metric.startswith(_BESIDE)
        and (one.first or one.second or not one.metric.startswith(SAMPLED))
    ]


class OfSlice(NamedTuple):
    """How two runs differ on a part of the test split.

    Attributes:
        slice: `overall`, or `name:value` as the gate calls it.
        rows: how many queries (or rows) it has.
        differences: of each metric, second less first, with intervals by user.
    """

    slice: str
    rows: int
    differences: list[Difference]


def by_slice(first: RunRecord, second: RunRecord) -> list[OfSlice]:
    """How the metrics of two runs differ in each slice, `overall` first.

    The runs keep what a user got and not in which slice it was, so the models are asked once more:
    their `evaluate` signatures, on the test rows that the gate asked them.

    Raises:
        RecsysError: a run has no model.
        DataError: they were not measured on the same test queries.
    """
    asked = [_asked(record) for record in (first, second)]
    if asked[0].queries != asked[1].queries:
        raise DataError(
            f"{first.run_id} and {second.run_id}: required: two runs on the same test queries; "
            f"received {len(asked[0].queries)} and {len(asked[1].queries)}, which are not the same"
        )
    found = []
    for name, places in _places(asked[0].rows).items():
        parts = (by_user(one.users, one.values, places) for one in asked)
        found.append(OfSlice(name, len(places), between(*parts)))
    return found


def by_user(
    users: Sequence[bytes], values: dict[str, npt.NDArray[Any]], places: Any = slice(None)
) -> ByUser:
    """What each user got, of the values of single queries.

    Args:
        users: [N] whose query each is.
        values: metric -> [N].
        places: which of the queries; left out, all.
    """
    file = io.BytesIO()
    whose = list(np.asarray(users, object)[places])
    chosen = {name: column[places] for name, column in values.items()}
    comparison.write([comparison.part(whose, chosen)], file)
    file.seek(0)
    return comparison.read(file)


def item_vectors(record: RunRecord) -> tuple[list[str], npt.NDArray[np.float32]]:
    """The ids [N] and vectors [N, D] that the model of a run has for its items.

    Its signature `retrieve` answers a query vector with the dot product of every item, so that the
    unit vectors are answered with the coordinates.

    Raises:
        RecsysError: the model has no such signature, for it does not score by a dot product, or has
            several vectors an item.
    """
    import tensorflow as tf

    model = servable.model(record)
    ask = model.signatures.get("retrieve")
    if ask is None:
        raise RecsysError(
            f"run {record.run_id} of {record.pipeline} has no item vectors: its model does not "
            "score by a dot product"
        )
    width = ask.structured_input_signature[1]["embedding"].shape[1]
    found = ask(embedding=tf.eye(width), k=tf.constant(_ALL))
    ids = found["item_id"].numpy()
    order = np.argsort(ids, axis=1, kind="stable")
    names = ids[0][order[0]]
    if len(set(names)) < len(names):
        raise RecsysError(f"run {record.run_id} of {record.pipeline} has several vectors an item")
    vectors = np.take_along_axis(found["score"].numpy(), order, axis=1).T
    return [examples.text(name) for name in names], vectors


class _Asked(NamedTuple):
    """Test rows, who asks what in each, and what a model got for them."""

    rows: list[dict[str, list]]
    users: list[bytes]
    queries: list[tuple]
    values: dict[str, npt.NDArray[Any]]


def _asked(record: RunRecord) -> _Asked:
    import tensorflow as tf

    model = servable.model(record)
    evaluate = model.signatures["evaluate"]
    serialized = list(examples.read_serialized(Path(record.examples_uri or "") / "Split-test"))
    rows = [examples.parse(one) for one in serialized]
    users = [row["user_id"][0] for row in rows]
    queries = [
        (user, *row.get("targets", []), *row.get("item_id", []))
        for user, row in zip(users, rows, strict=True)
    ]
    parts: dict[str, list[Any]] = {name: [] for name in record.measured.means}
    for start in range(0, len(serialized), _AT_ONCE):
        measured = evaluate(tf.constant(serialized[start : start + _AT_ONCE]))
        for name, values in parts.items():
            values.append(measured[name].numpy()[:, 0])
    return _Asked(
        rows, users, queries, {name: np.concatenate(values) for name, values in parts.items()}
    )


def _places(rows: list[dict[str, list]]) -> dict[str, npt.NDArray[np.int64]]:
    """Slice -> the numbers of its rows."""
    found: dict[str, list[int]] = {}
    for name in SLICES:
        for number, row in enumerate(rows):
            for value in row.get(name, []):
                found.setdefault(f"{name}:{examples.text(value)}", []).append(number)
    return {
        OVERALL: np.arange(len(rows)),
        **{name: np.array(found[name]) for name in sorted(found)},
    }


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
