"""Real users beside what the model recommends to them: the SavedModel's own signatures answer."""

import itertools
import random
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import because, examples, scored, servable
from pipeline.lineage import RunRecord
from serving.client import messages

USERS, ITEMS, REASONS = 10, 10, 3
_HISTORY, _TARGETS = 8, 4
_DRAWN_FROM = 2_000  # queries at the head of the split, which is in no particular order of users
_SLICES = ("activity", "popularity", "temperature")


def describe(record: RunRecord, wanted: Collection[str] = ()) -> dict[str, Any]:
    """Returns `users`, a dict each, or `reason`, why there are none.

    `drawn_from` is how many test queries they were drawn from. Of a model that scores there are
    `rows` instead, test rows with what carried their scores.

    Args:
        record: the run.
        wanted: ids of users to show, each with the first query; left out, they are drawn.
    """
    if record.model_uri is None:
        return _none("The run did not get as far as a model.")
    model = Path(record.model_uri) / servable.FORMAT
    if not (model / "saved_model.pb").is_file():
        return _none("The model's folder is gone.")
    test = Path(record.examples_uri or "") / "Split-test"
    if not record.examples_uri or not test.is_dir():
        return _none("The test queries are gone.")
    if record.data_run.building.get("task", "retrieve") != "retrieve":
        return _scores(record, str(model), test)
    if wanted:
        rows = list(_first_queries(test, wanted))
        queries = rows
    else:
        rows = list(itertools.islice(examples.read_rows(test), _DRAWN_FROM))
        chosen = random.Random(0).sample(range(len(rows)), min(USERS, len(rows)))
        queries = [rows[number] for number in sorted(chosen)]
    if not queries:
        return _none("There is no test query.")
    answers, reason = _ask(str(model), queries)
    if reason:
        return _none(reason)
    users = [_user(query, answer) for query, answer in zip(queries, answers, strict=True)]
    _add_titles(record, users)
    return {**_none(""), "users": users, "drawn_from": len(rows)}


def _scores(record: RunRecord, model: str, test: Path) -> dict[str, Any]:
    """Of a model that scores `rows`, see `scored.ask`, and what their `weights` are."""
    import tensorflow as tf

    none = _none(
        "This model scores single pairs of user and item; it does not recommend from the catalogue."
    )
    rows = list(itertools.islice(examples.read_rows(test), _DRAWN_FROM))
    chosen = random.Random(0).sample(range(len(rows)), min(USERS, len(rows)))
    if not chosen:
        return none
    try:
        loaded = servable.load(model)
        if scored.SIGNATURE not in loaded.signatures:
            return none
        signature = loaded.signatures[scored.SIGNATURE]
        _, taken = signature.structured_input_signature

        def predict(inputs: dict[str, Any]) -> dict[str, list]:
            told = {name: tf.constant(inputs[name], taken[name].dtype) for name in taken}
            return {name: _lists(value.numpy()) for name, value in signature(**told).items()}

        reader = record.data_run.steps.get("TableReader")
        told, weights = scored.ask(
            [rows[number] for number in sorted(chosen)],
            {name: _tensor(spec) for name, spec in taken.items()},
            predict,
            reader.outputs.get("items") if reader else None,
        )
    except (OSError, ValueError, tf.errors.OpError) as error:
        return _none(f"The model cannot be asked: {error}")
    return {**none, "rows": told, "weights": weights, "drawn_from": len(rows)}


def _tensor(spec: Any) -> dict[str, Any]:
    """An input as a server's metadata describe it."""
    import tensorflow as tf

    dtype = "DT_STRING" if spec.dtype == tf.string else "DT_FLOAT"
    return {"dtype": dtype, "tensor_shape": {"dim": [{}] * spec.shape.rank}}


def _first_queries(test: Path, wanted: Collection[str]) -> Iterator[dict[str, list]]:
    left = set(wanted)
    for row in examples.read_rows(test):
        if (user := examples.text(row["user_id"][0])) in left:
            left.discard(user)
            yield row
        if not left:
            return


def _none(reason: str) -> dict[str, Any]:
    return {"users": [], "rows": [], "reason": reason, "drawn_from": 0}


def _ask(model: str, queries: list[dict[str, list]]) -> tuple[list[dict[str, Any]], str]:
    """Asks both signatures; returns an answer a query, or why there is none."""
    import tensorflow as tf

    try:
        # A model that no server can answer from was not pushed; its run has a report all the same.
        loaded = servable.load(model)
        if "recommend" not in loaded.signatures:
            return [], "The model has no signature 'recommend'."
        return _answers(loaded.signatures, queries), ""
    except (OSError, ValueError, tf.errors.OpError) as error:
        return [], f"The model cannot be asked: {error}"


def _answers(signatures: Any, queries: list[dict[str, list]]) -> list[dict[str, Any]]:
    import tensorflow as tf

    count = len(queries)
    # As a server would be asked: with the id alone; the model knows the user's whole log.
    name = messages.EXPLAINED if messages.EXPLAINED in signatures else "recommend"
    _, taken = signatures[name].structured_input_signature
    asked = {
        "user_id": tf.constant([query["user_id"][0] for query in queries]),
        "k": tf.fill([count], ITEMS),
        "reasons": tf.fill([count], REASONS),
    }
    found = signatures[name](**{key: asked.get(key, _nothing(taken[key], count)) for key in taken})
    outputs = {key: _lists(value.numpy()) for key, value in found.items()}
    found = messages.recommendations({"strategy": [""] * count, **outputs}, None)
    measured: dict[str, Any] = {}
    if "evaluate" in signatures:
        outputs = signatures["evaluate"](tf.constant([_serialize(query) for query in queries]))
        measured = {name: value.numpy().reshape(count, -1)[:, 0] for name, value in outputs.items()}
    answers = []
    for number in range(count):
        answers.append(
            {
                "answer": found[number],
                "measured": {name: float(values[number]) for name, values in measured.items()},
            }
        )
    return answers


def _nothing(spec: Any, rows: int) -> Any:
    """What a request says of an input where it says nothing."""
    import tensorflow as tf

    nothing = {tf.string: "", tf.float32: float("nan")}.get(spec.dtype, 0)
    shape = [rows] if spec.shape.rank == 1 else [rows, 0]
    return tf.fill(shape, tf.constant(nothing, spec.dtype))


def _lists(values: Any) -> list:
    """An output as nested lists, ids and titles as text."""
    if values.dtype == object:
        values = np.array([examples.text(value) for value in values.ravel()], object).reshape(
            values.shape
        )
    return values.tolist()


def _serialize(row: dict[str, list]) -> bytes:
    """A row back as a tf.Example."""
    from serving.wire.protos import Example

    example = Example()
    for name, values in row.items():
        feature = example.features.feature[name]
        if values and isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif values and isinstance(values[0], float):
            feature.float_list.value.extend(values)
        elif values:
            feature.int64_list.value.extend(values)
    return example.SerializeToString()


def _user(query: dict[str, list], answer: dict[str, Any]) -> dict[str, Any]:
    targets = [examples.text(item) for item in query.get("targets", [])]
    history = [examples.text(item) for item in query.get("history", []) + query.get("exclude", [])]
    found, hit = _found(answer["measured"], len(targets))
    return {
        "id": examples.text(query["user_id"][0]),
        "slices": [
            f"{name}: {examples.text(query[name][0])}" for name in _SLICES if query.get(name)
        ],
        "events": len(history) + len(targets),
        "history": [{"id": item} for item in reversed(history[-_HISTORY:])],
        "targets": [{"id": item} for item in targets[:_TARGETS]],
        "more_targets": max(0, len(targets) - _TARGETS),
        "found": found,
        "hit": hit,
        "strategy": answer["answer"].strategy,
        "items": [
            {"id": item, "score": f"{score:#.3g}".rstrip("."), "target": item in targets}
            for item, score in answer["answer"].items
        ],
        "reasons": answer["answer"].reasons,
        "weights": because.meaning(why.basis for why in answer["answer"].reasons),
    }


def _found(measured: dict[str, float], targets: int) -> tuple[str, bool | None]:
    """Where the `evaluate` signature ranked the held-out item, in words.

    Beside it: whether that is a hit (None: not measured).
    """
    cutoffs = sorted(
        int(name[3:]) for name in measured if name.startswith("hr_") and name[3:].isdigit()
    )
    within = next((cutoff for cutoff in cutoffs if measured[f"hr_{cutoff}"] > 0), None)
    if not cutoffs:
        return "", None
    if within is None:
        return f"missed: not among the first {cutoffs[-1]}", False
    if within != cutoffs[0]:
        return f"missed: among the first {within}, not the first {cutoffs[0]}", False
    reciprocal = measured.get(f"mrr_{within}", 0.0)
    where = f"at rank {round(1 / reciprocal)}" if reciprocal > 0 else f"among the first {within}"
    return ("hit: the first of them " if targets > 1 else "hit: ") + where, True


def _add_titles(record: RunRecord, users: list[dict[str, Any]]) -> None:
    shown = [
        item for user in users for part in ("history", "targets", "items") for item in user[part]
    ]
    reader = record.data_run.steps.get("TableReader")
    reasons = {part for user in users for why in user["reasons"] for part, _ in why.parts}
    known = examples.titles(
        reader.outputs.get("items") if reader else None, {item["id"] for item in shown} | reasons
    )
    for item in shown:
        item["title"] = known.get(item["id"], "")
    for user in users:
        lines = [because.line(why, known) for why in user["reasons"]]
        for item, line in itertools.zip_longest(user["items"], lines, fillvalue=""):
            item["because"] = line
