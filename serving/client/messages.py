"""What the clients send and what they make of the answers; no network, no TensorFlow, no NumPy."""

from __future__ import annotations

import base64
import json
import math
import random
import re
import time
import types
from dataclasses import dataclass, field, replace
from typing import Any, Mapping, Sequence, Union
from urllib.parse import quote

from serving.state.requests import IDS as IDS  # what a request of ids alone takes
from serving.state.store import Live, Written
from serving.wire.errors import Code, ServingError, code_of_http

Id = Union[str, bytes]
Inputs = Mapping[str, object]
Outputs = dict[str, list[Any]]
Document = dict[str, Any]
# The outputs of a model, and its version where the protocol tells it.
Answer = tuple[Outputs, Union[int, None]]
NAMELESS = ""
EVENTS, RULES, SIMILAR = "recommend_events", "recommend_rules", "similar"
EXPLAINED = "recommend_explained"
# How many reasons an item has where a query says no number.
_REASONS = 3
NOTHING: Mapping[str, Document] = types.MappingProxyType({})
# What stands beside the items of a history.
_BESIDE = ("event_types", "dwell", "timestamps")
# The rules of a request: lists, and what stands for none of the others.
_RULE_LISTS = ("allow", "where", "boost", "pin")
_NO_RULE: Mapping[str, Any] = types.MappingProxyType(
    {"exclude_recent": 0, "diversity": "", "min_score": math.nan}
)
_LISTS = ("history", "exclude", *_BESIDE, *_RULE_LISTS)
# Of IPv6 in brackets.
_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.%\w]+\]|[^\s/:@\[\]]+):(\d{1,5})", re.ASCII)
_GRPC_NAMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:")
RULE_NAMES = {*_RULE_LISTS, *_NO_RULE, "reasons"}


@dataclass(frozen=True)
class Reasons:
    """What carried an item.

    Attributes:
        basis: what the weights are, and of what. Of items of the user's history: "sum", parts of
            the score; "difference", what the score loses without the item; "similarity", the cosine
            with it; or "attention". "segment": the item is popular in the user's segment, which is
            the one reason; "popularity": among all. "pin": the request has put it there. "none":
            the model does not say.
        parts: pairs of a reason, an item of the history or a segment, and its weight, above 0; the
            heaviest first.
        fields: of a two-stage model, pairs of a field that its ranker reads and how much it moved
            the ranker's score, up or down, on the scale of log-odds or ratings; what moved it most
            first.
    """

    basis: str
    parts: tuple[tuple[str, float], ...] = ()
    fields: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Recommendations:
    """The answer for one user, or for one item of which similar ones are wanted.

    Attributes:
        items: pairs of item id and score, best first.
        strategy: where they come from: "model"; "fold-in", the model for a user whom its train has
            not seen; "segment" or "fallback". Of similar items "vectors", "co-occurrence", or
            "unknown", with no items.
        model_version: the version that answered; REST does not tell it.
        sources: of a two-stage model, what recalled each item; else empty.
        fewer: of a request with rules that is answered with fewer than k items, why.
        reasons: where the query asks for them, of each item; else empty.
    """

    items: list[tuple[str, float]]
    strategy: str
    model_version: int | None = None
    sources: tuple[str, ...] = ()
    fewer: str = ""
    reasons: tuple[Reasons, ...] = ()


@dataclass(frozen=True)
class Query:
    """What one user is asked about.

    Attributes:
        user_id: the user.
        history: items the user has had beyond what the model knows, oldest first. They count as
            seen. A model that knows the user adds them to what it has stored, newest last; a model
            of sessions takes them for the session and reads nothing else.
        exclude: items that must not be returned.
        event_types: what the user did with each item of the history, for models that read it, as
            the next three; as many as there are items, or none.
        dwell: how many seconds each took, 0 where nobody knows.
        timestamps: when each was, in seconds since 1970, 0 where nobody knows.
        context: what is known of the moment, such as the device, by the names that the run gave.
        allow: nothing but these items is returned. This and the next are rules, and hold together:
            `serving/README.md` says how they are written.
        where: conditions on the items' columns, such as "genres in Drama | War", which all hold.
        boost: what changes scores, such as "year > 1990 => * 1.2".
        pin: items at positions, "" where the ranking decides.
        exclude_recent: how many of the newest items of the history are not returned.
        diversity: "genres <= 2", at most so many items a value, or "mmr 0.7".
        min_score: the least score, after boosts.
        explain: how many reasons each item is answered with, what carried it; True for three.
    """

    user_id: Id
    history: Sequence[Id] = ()
    exclude: Sequence[Id] = ()
    event_types: Sequence[str] = ()
    dwell: Sequence[float] = ()
    timestamps: Sequence[int] = ()
    context: Mapping[str, Union[str, float]] = field(default_factory=dict)
    allow: Sequence[Id] = ()
    where: Sequence[str] = ()
    boost: Sequence[str] = ()
    pin: Sequence[Id] = ()
    exclude_recent: int = 0
    diversity: str = ""
    min_score: float = math.nan
    explain: Union[bool, int] = False

    def __post_init__(self) -> None:
        """Checks that no list is a string.

        Raises:
            ServingError: INVALID_ARGUMENT: one is, which would be read letter by letter.
        """
        require_lists(**{name: getattr(self, name) for name in _LISTS})


@dataclass(frozen=True)
class VersionStatus:
    """The state of one version of a model: `AVAILABLE`, `LOADING`, `END`, ..., and why."""

    version: int
    state: str
    error_code: str
    error_message: str


class LongIntegers(list[Any]):
    """Rows of integers that a model takes as int64; over REST a list like any other."""


def require_lists(**values: Any) -> None:
    """Checks arguments that are sequences, by their names.

    Raises:
        ServingError: INVALID_ARGUMENT: one is a string, which would be read letter by letter.
    """
    for name, value in values.items():
        if isinstance(value, (str, bytes)):
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"{name}: required: a list; received {value!r}: write [{value!r}]",
            )


def asked_signature(queries: Sequence[Query]) -> str:
    """The signature that the queries need: of ids alone, of more, with rules, or with reasons."""
    if any(query.explain for query in queries):
        return EXPLAINED
    if any(_has_rules(query) for query in queries):
        return RULES
    more = any(query.context or any(getattr(query, name) for name in _BESIDE) for query in queries)
    return EVENTS if more else "recommend"


def _has_rules(query: Query) -> bool:
    return (
        any(getattr(query, name) for name in _RULE_LISTS)
        or bool(query.exclude_recent or query.diversity)
        or not math.isnan(query.min_score)
    )


def user_ids(queries: Sequence[Query]) -> list[bytes]:
    """The users of the queries, as a state knows them."""
    return [_bytes(query.user_id) for query in queries]


def with_live(queries: Sequence[Query], live: Live, metadata: Document | None) -> list[Query]:
    """The queries with what is known of their users, as `serving.state.requests.fill` has it.

    A query without a history of its own gets the user's events, oldest first, with what the model
    reads beside the items; one that has any is left as it is. Items that left are excluded.

    Args:
        queries: one a user.
        live: of their users.
        metadata: of the model, which say what it reads; None leaves the ids alone.
    """
    read: set[str] = set()
    if metadata is not None:
        signatures = metadata["metadata"]["signature_def"]["signature_def"]
        read = set(signatures.get(EVENTS, signatures.get(RULES, {"inputs": ()}))["inputs"])
    filled = []
    for query, events in zip(queries, live.histories, strict=True):
        more: dict[str, Any] = {}
        if events and not any(query.history):
            more["history"] = [event.item_id for event in events]
            told = {
                "event_types": [event.event_type for event in events],
                "dwell": [event.dwell for event in events],
                "timestamps": [event.timestamp for event in events],
            }
            more |= {name: values for name, values in told.items() if name in read}
        if live.left:
            more["exclude"] = [*query.exclude, *live.left]
        filled.append(replace(query, **more))
    return filled


def _bytes(value: Id) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def inputs_beside(metadata: Document, queries: Sequence[Query]) -> Document:
    """The inputs of `asked_signature` besides the ids: name -> what the metadata say of it.

    Args:
        metadata: of the model, as REST writes them.
        queries: what will be asked.

    Raises:
        ServingError: INVALID_ARGUMENT: a query tells what the model does not read, or asks for
            rules or reasons of one that has none.
    """
    name = asked_signature(queries)
    signature = metadata["metadata"]["signature_def"]["signature_def"].get(name)
    if signature is None and name in (RULES, EXPLAINED):
        raise ServingError(Code.INVALID_ARGUMENT, f"the model has no signature {name!r}")
    read = {} if signature is None else signature["inputs"]
    for query in queries:
        for name in (*(each for each in _BESIDE if getattr(query, each)), *query.context):
            if name not in read or name in IDS:
                own = set(read) - IDS - RULE_NAMES
                told = ", ".join(sorted(own)) or "nothing but ids"
                raise ServingError(
                    Code.INVALID_ARGUMENT, f"the model does not read {name!r}; it reads {told}"
                )
    return {name: tensor for name, tensor in read.items() if name not in IDS}


def recommend_inputs(
    queries: Sequence[Query], k: int, beside: Mapping[str, Document] = NOTHING
) -> dict[str, list[Any]]:
    """The inputs of `recommend`, `recommend_events`, `recommend_rules` or `recommend_explained`.

    Lists are padded with "" to the longest, rounded up to a power of two: few widths, so that
    requests of several clients fit into one batch, and the model sees few shapes.

    Args:
        queries: one a row.
        k: the number of items wanted for each.
        beside: what `inputs_beside` returned, for all but the first.

    Raises:
        ServingError: INVALID_ARGUMENT: a list has not as many values as the history has items.
    """
    history = _padded([list(query.history) for query in queries])
    inputs: dict[str, list[Any]] = {
        "user_id": [query.user_id for query in queries],
        "history": history,
        "exclude": _padded([list(query.exclude) for query in queries]),
        "k": [k] * len(queries),
    }
    for name, tensor in beside.items():
        if name in _RULE_LISTS:
            inputs[name] = _padded([list(getattr(query, name)) for query in queries])
            continue
        if name == "reasons":
            inputs[name] = [
                _REASONS if query.explain is True else int(query.explain) for query in queries
            ]
            continue
        if name in _NO_RULE:
            inputs[name] = [getattr(query, name) for query in queries]
            continue
        kind: Any = {"DT_STRING": lambda text: text, "DT_INT64": int}.get(tensor["dtype"], float)
        if name not in _BESIDE:
            none = "" if tensor["dtype"] == "DT_STRING" else math.nan
            inputs[name] = [kind(query.context.get(name, none)) for query in queries]
            continue
        none = "" if tensor["dtype"] == "DT_STRING" else kind(0)
        rows = [[kind(value) for value in getattr(query, name)] for query in queries]
        for query, row in zip(queries, rows, strict=True):
            if len(row) not in (0, len(query.history)):
                raise ServingError(
                    Code.INVALID_ARGUMENT,
                    f"{name}: required: {len(query.history)} values, as many as history has items, "
                    f"or none; received {len(row)}",
                )
        padded = [row + [none] * (len(history[0]) - len(row)) for row in rows]
        inputs[name] = LongIntegers(padded) if kind is int else padded
    return inputs


def recommend_request(
    queries: Sequence[Query], k: int, live: Live, metadata: Document | None
) -> tuple[dict[str, list[Any]], str]:
    """The inputs of the queries with what is known of their users, and the signature that they ask.

    Args:
        queries: one a row.
        k: the number of items wanted for each.
        live: of their users.
        metadata: of the model; None where the queries are of ids alone, and so is what is known.

    Raises:
        ServingError: INVALID_ARGUMENT: a query tells what the model does not read.
    """
    queries = with_live(queries, live, metadata)
    signature = asked_signature(queries)
    if metadata is None or signature == "recommend":
        return recommend_inputs(queries, k), signature
    return recommend_inputs(queries, k, inputs_beside(metadata, queries)), signature


def similar_inputs(
    item_ids: Sequence[Id],
    k: int,
    allow: Sequence[Id] = (),
    where: Sequence[str] = (),
    exclude: Sequence[Id] = (),
) -> dict[str, list[Any]]:
    """The inputs of the signature `similar`; the rules are the same for all items."""
    return {
        "item_id": list(item_ids),
        "exclude": _padded([list(exclude)] * len(item_ids)),
        "k": [k] * len(item_ids),
        "allow": _padded([list(allow)] * len(item_ids)),
        "where": _padded([list(where)] * len(item_ids)),
    }


def feature_inputs(
    rows: Sequence[Mapping[str, Any]], inputs: Mapping[str, Document]
) -> dict[str, list[Any]]:
    """The inputs of a signature of raw features; what a row does not have is missing.

    Args:
        rows: a feature -> its value, or a list of them.
        inputs: of the signature, name -> what the metadata say of it.
    """
    found: dict[str, list[Any]] = {}
    for name, tensor in inputs.items():
        values = [row.get(name) for row in rows]
        if tensor["dtype"] != "DT_STRING":
            found[name] = [
                math.nan if value is None or isinstance(value, str) else float(value)
                for value in values
            ]
        elif len(tensor["tensor_shape"]["dim"]) == 1:
            found[name] = ["" if value is None else value for value in values]
        else:
            lists = [value if isinstance(value, list) else [] for value in values]
            width = max(1, *map(len, lists))
            found[name] = [each + [""] * (width - len(each)) for each in lists]
    return found


def _padded(rows: list[list[Id]]) -> list[list[Id]]:
    longest = max(map(len, rows), default=1)
    width = 1 << max(longest - 1, 0).bit_length()
    return [row + [""] * (width - len(row)) for row in rows]


def recommendations(outputs: Outputs, version: int | None) -> list[Recommendations]:
    """The outputs of `recommend` as one answer a row, without padding."""
    sources = outputs.get("source") or [()] * len(outputs["strategy"])
    fewer = outputs.get("fewer") or [""] * len(outputs["strategy"])
    reasons = _reasons(outputs) if "reason" in outputs else [()] * len(outputs["strategy"])
    return [
        Recommendations(
            [pair for pair in zip(items, scores, strict=True) if pair[0] != ""],
            strategy,
            version,
            tuple(source for source in row if source != ""),
            why,
            carried,
        )
        for items, scores, strategy, row, why, carried in zip(
            outputs["item_id"],
            outputs["score"],
            outputs["strategy"],
            sources,
            fewer,
            reasons,
            strict=True,
        )
    ]


def _reasons(outputs: Outputs) -> list[tuple[Reasons, ...]]:
    """Those of every row's items."""
    nothing = [[()] * len(row) for row in outputs["basis"]]
    names = ("reason", "weight", "field", "field_weight")
    of_rows = zip(outputs["basis"], *(outputs.get(name, nothing) for name in names), strict=True)
    return [
        tuple(
            Reasons(basis, _pairs(reason, weight), _pairs(field_, moved))
            for basis, reason, weight, field_, moved in zip(*row, strict=True)
            if basis != ""
        )
        for row in of_rows
    ]


def _pairs(names: Sequence[str], weights: Sequence[float]) -> tuple[tuple[str, float], ...]:
    return tuple(pair for pair in zip(names, weights, strict=True) if pair[0] != "")


# --- addresses


def check_address(address: str, grpc: bool) -> str:
    """The address of a client, where it is one.

    Args:
        address: HOST:PORT; of gRPC also what its name resolution takes, such as `dns:///name:8500`.
        grpc: whether it is asked over gRPC.

    Raises:
        ServingError: INVALID_ARGUMENT: it is none.
    """
    found = _ADDRESS.fullmatch(address)
    if found and 0 < int(found[1]) < 1 << 16 or grpc and address.startswith(_GRPC_NAMES):
        return address
    raise ServingError(
        Code.INVALID_ARGUMENT,
        f"address: required: HOST:PORT, such as 127.0.0.1:{8500 if grpc else 8501}, without http://"
        f"; received {address!r}",
    )


def no_http(address: str) -> ServingError:
    """The error of a port that answers a REST request with what is no HTTP/1."""
    return ServingError(
        Code.FAILED_PRECONDITION,
        f"{address} answers no HTTP/1; is it the gRPC port? That is asked with --grpc, "
        'protocol="grpc"',
    )


def no_grpc(details: str) -> ServingError:
    """The error of a port that answers a gRPC request with HTTP/1, with the details of gRPC."""
    return ServingError(
        Code.FAILED_PRECONDITION,
        f"the port answers no gRPC; is it the REST port? That is asked without --grpc, "
        f'protocol="rest" ({details})',
    )


# --- REST


def model_path(model: str, version: int | None = None, label: str | None = None) -> str:
    """The REST path of a model or of one of its versions."""
    path = f"/v1/models/{quote(model, safe='')}"
    if version is not None:
        return f"{path}/versions/{version}"
    return f"{path}/labels/{quote(label, safe='')}" if label else path


def predict_body(inputs: Inputs, signature: str) -> bytes:
    """The columnar body of a `predict` request.

    Args:
        inputs: nested lists or arrays by input name; `bytes` that are not UTF-8 are sent as base64.
        signature: the signature; empty for the default.
    """
    document: dict[str, object] = {"signature_name": signature} if signature else {}
    document["inputs"] = {name: _plain(value) for name, value in inputs.items()}
    return json.dumps(document).encode()


def _plain(value: object) -> object:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(member) for member in value]
    if isinstance(value, str) and not _has_surrogates(value):
        return value
    if isinstance(value, (str, bytes)):
        raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(raw).decode()}
    return value


def _has_surrogates(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)


def rows_body(rows: Sequence[Mapping[str, object]]) -> bytes:
    """The body of events or items to write; ids may be `bytes`."""
    return json.dumps([{name: _plain(row[name]) for name in row} for row in rows]).encode()


def written(body: bytes) -> Written:
    """The answer of the same."""
    told = parse(body)
    lists = ("answered_now", "answered_after_export", "unknown")
    return Written(told["written"], told["expired"], *(tuple(told.get(each, ())) for each in lists))


def predict_outputs(body: bytes) -> Outputs:
    """The outputs by name of a columnar answer.

    The only output of a signature comes without its name; here it is called NAMELESS.
    """
    outputs = parse(body)["outputs"]
    if not isinstance(outputs, dict) or set(outputs) == {"b64"}:
        outputs = {NAMELESS: outputs}
    return {name: _decoded(value) for name, value in outputs.items()}


def select_outputs(outputs: Outputs, output_filter: Sequence[str]) -> Outputs:
    """The outputs that were asked for, or all where none was; REST answers with all.

    Raises:
        ServingError: INVALID_ARGUMENT, as gRPC answers for an output that the signature lacks.
    """
    for name in output_filter:
        if name not in outputs:
            raise ServingError(
                Code.INVALID_ARGUMENT, f"output tensor alias not found in signature: {name}"
            )
    return {name: outputs[name] for name in output_filter or outputs}


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(member) for member in value]
    if isinstance(value, dict) and set(value) == {"b64"}:
        return base64.b64decode(value["b64"])
    return value


def parse(body: bytes) -> Document:
    """JSON whose strings may hold bytes that are not UTF-8."""
    document: Document = json.loads(body.decode("utf-8", "surrogateescape"))
    return document


def check_http(status: int, body: bytes) -> None:
    """Raises the ServingError of an answer that is not 200."""
    if status == 200:
        return
    try:
        message = parse(body)["error"]
    except (ValueError, KeyError, TypeError):
        message = body[:200].decode("utf-8", "replace")
    raise ServingError(code_of_http(status), message)


def version_states(body: bytes) -> list[VersionStatus]:
    """The states in a REST status answer."""
    return [
        VersionStatus(
            int(entry["version"]),
            entry["state"],
            entry["status"]["error_code"],
            entry["status"]["error_message"],
        )
        for entry in parse(body)["model_version_status"]
    ]


# --- deadlines and retries


class Attempts:
    """The attempts of one call: how long each may take, and how long to wait between them.

    Only UNAVAILABLE is tried again: the server says that it did not do the work.
    """

    def __init__(self, timeout: float, retries: int):
        """Starts the clock.

        Args:
            timeout: seconds for the whole call, all attempts and pauses together.
            retries: further attempts after the first.
        """
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._left = retries
        self._pause = 0.05

    def remaining(self) -> float:
        """Seconds left for an attempt.

        Raises:
            ServingError: DEADLINE_EXCEEDED where none are left.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise ServingError(Code.DEADLINE_EXCEEDED, f"no answer within {self._timeout:g} s")
        return left

    def pause_after(self, error: ServingError) -> float:
        """Seconds to wait before the next attempt; raises `error` where there is none."""
        if error.code != Code.UNAVAILABLE or self._left <= 0:
            raise error
        pause = self._pause * random.uniform(0.5, 1.5)
        if time.monotonic() + pause >= self._deadline:
            raise error
        self._left -= 1
        self._pause = min(self._pause * 2, 2.0)
        return pause
