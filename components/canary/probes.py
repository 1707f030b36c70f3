"""What the canary asks a server, and what it makes of the answers.

It asks with real test rows and strangers, over both protocols.
"""

import contextlib
import dataclasses
import math
import posixpath
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from components import servers
from components.servers import MODEL
from components.tables import artifacts, records
from models.names.features import HISTORY_COLUMNS
from serving.client.client import Client, Query, Recommendations
from serving.client.messages import EXPLAINED, SIMILAR, Id, feature_inputs
from serving.wire.errors import ServingError, StartError

_ROWS = 20
_K = 10
_SCORE_EXPLAINED = "score_explained"
_STRANGER = "nobody \u2603"
_PROTOCOLS = ("rest", "grpc")


class CanaryFailure(Exception):
    """The model does not answer as a server must; the message says which request and what came."""


def try_model(model_path: str, examples_uri: str) -> int:
    """Starts a server on a SavedModel and asks it what its task answers.

    Args:
        model_path: folder of the SavedModel.
        examples_uri: folder of the built examples; their report names the task.

    Returns:
        How many rows were answered, each over both protocols.

    Raises:
        CanaryFailure: the server does not come up, or an answer is an error, not finite, none at
            all (unless the user has had the whole catalogue), or another one over the other
            protocol; or breaks a rule of the task.
    """
    probe = {"retrieve": _recommend, "score": _score}[_report(examples_uri)["task"]]
    with servers.of_model(model_path) as server:
        try:
            with server as ready:
                return probe(ready, examples_uri)
        except StartError as error:
            raise CanaryFailure(str(error)) from error


def sample_queries(examples_uri: str, count: int = _ROWS) -> list[Query]:
    """Returns real users with a part of their history to exclude, and three whom no model can know.

    Args:
        examples_uri: folder of the built examples.
        count: how many real users.
    """
    rows = _test_rows(examples_uri, ("user_id", "history"), count)
    queries = [Query(row["user_id"], (), (row.get("history") or [])[:3]) for row in rows]
    history = next((query.exclude for query in queries if query.exclude), [])
    strangers = [
        Query(_STRANGER),
        Query("", history),
        Query("no such user", ["no such item"], ["no such item"]),
    ]
    return queries + strangers


def told_queries(examples_uri: str, count: int = _ROWS) -> list[Query]:
    """Returns real users who tell all that the model reads beside ids; none where that is nothing.

    Args:
        examples_uri: folder of the built examples.
        count: how many.
    """
    report = _report(examples_uri)
    context = tuple(report["context"])
    beside = tuple(name for name in HISTORY_COLUMNS if name in report["columns"]["users"])
    if not context and not beside:
        return []
    rows = _test_rows(examples_uri, ("user_id", "history", *beside, *context), count)
    return [
        Query(
            row["user_id"],
            row.get("history") or [],
            context={name: row[name] for name in context if row.get(name) is not None},
            **{name: row.get(name) or [] for name in beside},
        )
        for row in rows
    ]


def sample_rows(examples_uri: str, signature: dict[str, Any], count: int = _ROWS) -> dict[str, Any]:
    """Returns inputs of `score`: real rows, one of strangers, one with everything missing.

    Args:
        examples_uri: folder of the built examples.
        signature: the inputs of the signature `score` as the server's metadata describe them.
        count: how many real rows.
    """
    rows = [
        *_test_rows(examples_uri, tuple(signature), count),
        {"user_id": _STRANGER, "item_id": _STRANGER},
        {},
    ]
    return feature_inputs(rows, signature)


@contextlib.contextmanager
def _asking(ready: dict[str, Any], protocol: str, what: str) -> Iterator[Client]:
    try:
        with Client(f"127.0.0.1:{ready[protocol]}", MODEL, protocol, timeout=60) as client:
            yield client
    except ServingError as error:
        raise CanaryFailure(
            f"asked for {what} over {protocol}, the server answered {error}"
        ) from error


def _recommend(ready: dict[str, Any], examples_uri: str) -> int:
    queries, told = sample_queries(examples_uri), told_queries(examples_uri)
    answers: dict[str, list[Recommendations]] = {}
    for protocol in _PROTOCOLS:
        with _asking(ready, protocol, f"{len(queries) + len(told)} users") as client:
            answers[protocol] = client.recommend_many(queries, _K) + client.recommend_many(told, _K)
    queries += told
    may_be_empty = [False] * len(queries)
    if not all(answer.items for answer in answers["rest"]):
        catalogue = _catalogue(ready, examples_uri)
        had = _had(examples_uri, [query.user_id for query in queries])
        may_be_empty = [
            catalogue <= had.get(_text(query.user_id), set()) | _told(query) for query in queries
        ]
    for query, rest, grpc, empty in zip(
        queries, answers["rest"], answers["grpc"], may_be_empty, strict=True
    ):
        _check(query, rest, _K, empty)
        if [item for item, _ in rest.items] != [item for item, _ in grpc.items]:
            raise CanaryFailure(
                f"user {query.user_id!r}: REST answers {rest.items}, gRPC {grpc.items}"
            )
    _reasons(ready, queries)
    _similar(ready, queries)
    return len(queries)


def _reasons(ready: dict[str, Any], queries: Sequence[Query]) -> None:
    """Asks what carried the answers to the queries."""
    asked = [dataclasses.replace(query, explain=True) for query in queries]
    what = f"reasons of the answers to {len(asked)} users"
    answers = _answers(ready, what, EXPLAINED, lambda client: client.recommend_many(asked, _K))
    if answers is None:
        return
    for query, (rest, grpc) in zip(asked, answers, strict=True):
        who = f"user {query.user_id!r}"
        for (item, _), reasons in zip(rest.items, rest.reasons, strict=True):
            weights = [weight for _, weight in (*reasons.parts, *reasons.fields)]
            if not reasons.basis or not all(map(math.isfinite, weights)):
                raise CanaryFailure(
                    f"{who}: what carried {item!r}: required: a basis, and finite weights; "
                    f"received {reasons}"
                )
        bases = [[reasons.basis for reasons in answer.reasons] for answer in (rest, grpc)]
        if bases[0] != bases[1]:
            raise CanaryFailure(f"{who}: REST says {bases[0]} of its answers, gRPC {bases[1]}")


def _similar(ready: dict[str, Any], queries: Sequence[Query]) -> None:
    """Asks for items like those of the queries, and like one that nobody knows."""
    items = list(dict.fromkeys(item for query in queries for item in query.exclude))[:_ROWS]
    items.append(_STRANGER)
    what = f"items like {len(items)} items"
    answers = _answers(ready, what, SIMILAR, lambda client: client.similar_many(items, _K))
    if answers is None:
        return
    for item, (rest, grpc) in zip(items, answers, strict=True):
        what = f"items like {item!r}"
        if len(rest.items) > _K or any(not math.isfinite(score) for _, score in rest.items):
            raise CanaryFailure(
                f"{what}: required: at most {_K} with finite scores; received {rest.items}"
            )
        if _text(item) in {found for found, _ in rest.items}:
            raise CanaryFailure(f"{what}: it is in its own answer")
        if [found for found, _ in rest.items] != [found for found, _ in grpc.items]:
            raise CanaryFailure(f"{what}: REST answers {rest.items}, gRPC {grpc.items}")


def _answers(
    ready: dict[str, Any],
    what: str,
    signature: str,
    ask: Callable[[Client], list[Recommendations]],
) -> list[tuple[Recommendations, ...]] | None:
    """Each answer over REST and over gRPC; None of a model without the signature."""
    found = []
    for protocol in _PROTOCOLS:
        with _asking(ready, protocol, what) as client:
            if signature not in _signatures(client):
                return None
            found.append(ask(client))
    return list(zip(*found, strict=True))


def _signatures(client: Client) -> dict[str, Any]:
    return client.metadata()["metadata"]["signature_def"]["signature_def"]


def _catalogue(ready: dict[str, Any], examples_uri: str) -> set[str]:
    """All that the model recommends to somebody who has had nothing."""
    items = _report(examples_uri)["splits"]["items"]["rows"]
    with _asking(ready, _PROTOCOLS[0], "the whole catalogue") as client:
        (answer,) = client.recommend_many([Query(_STRANGER)], max(items, 1))
    if not answer.items:
        raise CanaryFailure("the model recommends nothing to anybody: its catalogue is empty")
    return {item for item, _ in answer.items}


def _had(examples_uri: str, users: Sequence[Id]) -> dict[str, set[str]]:
    """User -> every item that the log has of the user, of those of the users who are in it."""
    wanted = [user if isinstance(user, bytes) else user.encode() for user in users]
    kinds = _report(examples_uri)["columns"]["users"]
    columns = {name: kinds[name] for name in ("user_id", "history")}
    found: dict[str, set[str]] = {}
    for path in records.shards(artifacts.split_folder(examples_uri, "users")):
        for table in records.read_batches(path, columns):
            asked = pc.is_in(table.column("user_id"), value_set=pa.array(wanted, pa.large_binary()))
            for row in table.filter(asked).to_pylist():
                found[_text(row["user_id"])] = {_text(item) for item in row["history"] or []}
    return found


def _told(query: Query) -> set[str]:
    """The items that a query itself rules out."""
    return {_text(item) for item in (*query.history, *query.exclude)}


def _text(value: Id) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _check(query: Query, answer: Recommendations, k: int, may_be_empty: bool) -> None:
    """Raises CanaryFailure unless an answer is what its query asks for.

    Args:
        query: the query.
        answer: what a server said.
        k: how many items were asked for.
        may_be_empty: whether the user has had all that the model recommends at all.
    """
    who = f"user {query.user_id!r}"
    if not (0 if may_be_empty else 1) <= len(answer.items) <= k:
        raise CanaryFailure(f"{who}: required: 1 to {k} items, received {len(answer.items)}")
    excluded = {_text(item) for item in query.exclude}
    for item, score in answer.items:
        if not math.isfinite(score):
            raise CanaryFailure(
                f"{who}: the score of {item!r} is {score}; required: a finite number"
            )
        if item in excluded:
            raise CanaryFailure(f"{who}: {item!r} was excluded and is in the answer")


def _score(ready: dict[str, Any], examples_uri: str) -> int:
    scores, weights, rows = {}, {}, {}
    for protocol in _PROTOCOLS:
        with _asking(ready, protocol, "the scores of test rows") as client:
            signatures = _signatures(client)
            if "score" not in signatures:
                raise CanaryFailure(
                    f"the model has no signature 'score'; it has {', '.join(sorted(signatures))}"
                )
            rows = sample_rows(examples_uri, signatures["score"]["inputs"])
            scores[protocol] = client.predict(rows, "score", ("score",))["score"]
            if _SCORE_EXPLAINED in signatures:
                weights[protocol] = client.predict(rows, _SCORE_EXPLAINED, ("weight",))["weight"]
    count = len(next(iter(rows.values())))
    for protocol, values in scores.items():
        if len(values) != count:
            raise CanaryFailure(
                f"{count} rows were asked for over {protocol}; received {len(values)} scores"
            )
        for number, value in enumerate(values):
            if not math.isfinite(value):
                raise CanaryFailure(
                    f"row {number}: the score is {value} over {protocol}; required: a finite number"
                )
    for protocol, values in weights.items():
        for number, row in enumerate(values):
            if not all(map(math.isfinite, row)):
                raise CanaryFailure(
                    f"row {number}: what its fields weigh is {row} over {protocol}; "
                    "required: finite numbers"
                )
    for number, (rest, grpc) in enumerate(zip(scores["rest"], scores["grpc"], strict=True)):
        if not math.isclose(rest, grpc, rel_tol=1e-5, abs_tol=1e-6):
            raise CanaryFailure(f"row {number}: REST answers {rest}, gRPC {grpc}")
    return count


def _test_rows(examples_uri: str, names: tuple[str, ...], count: int) -> list[dict[str, Any]]:
    """The first test rows, with those of the named columns that they have."""
    wanted = {
        name: kind
        for name, kind in _report(examples_uri)["columns"]["test"].items()
        if name in names
    }
    rows: list[dict[str, Any]] = []
    for path in records.shards(artifacts.split_folder(examples_uri, "test")):
        for table in records.read_batches(path, wanted):
            rows += table.slice(0, count - len(rows)).to_pylist()
        if len(rows) >= count:
            break
    return rows


def _report(examples_uri: str) -> dict[str, Any]:
    return records.read_json(posixpath.join(examples_uri, records.REPORT))
