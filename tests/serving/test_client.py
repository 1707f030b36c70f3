"""What the clients send and answer: sync and async, REST and gRPC."""

from __future__ import annotations

import asyncio
import inspect
import re
from types import SimpleNamespace

import numpy as np
import pytest

from serving.client.asynchronous import AsyncClient
from serving.client.client import Client
from serving.client.messages import Query, check_address, recommend_inputs
from serving.wire.errors import Code
from tests.serving.client_kinds import KINDS, error_of, make
from tests.serving.support import AWKWARD_IDS

# --- recommend


@pytest.mark.parametrize("kind", KINDS)
def test_recommend(target, kind):
    with make(kind, target) as client:
        answer = client.recommend("u1", history=["i0", "i2"], exclude=["i1"], k=3)
    assert [item for item, _ in answer.items] == ["i3", "i4", "i5"]
    assert [score for _, score in answer.items] == pytest.approx([7 / 3, 6 / 3, 5 / 3])
    assert answer.strategy == "model"
    assert answer.model_version == (1 if kind.startswith("grpc") else None)


@pytest.mark.parametrize("kind", KINDS)
def test_recommend_many(target, kind):
    all_but_one = [f"i{number}" for number in range(9)]
    queries = [Query("u1"), Query("nobody", ["i0"] * 3), Query("u2", [], all_but_one)]
    with make(kind, target) as client:
        first, second, third = client.recommend_many(queries, k=2)
        assert client.recommend_many([]) == []
    assert [item for item, _ in first.items] == ["i0", "i1"]
    assert ([item for item, _ in second.items], second.strategy) == (["i1", "i2"], "fallback")
    # Padding is taken away: one item was left.
    assert [item for item, _ in third.items] == ["i9"]


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_the_catalogue(target, kind):
    with make(kind, target) as client:
        assert len(client.recommend("u1", k=1000).items) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_error_of_the_model(target, kind):
    with make(kind, target) as client:
        error = error_of(lambda: client.recommend("u1", k=0))
    assert error.code == Code.INVALID_ARGUMENT
    assert "k must be at least 1" in error.message


def as_text(value) -> str:
    """An id as the clients return it."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


@pytest.mark.parametrize("kind", KINDS)
def test_ids_out(target, kind):
    with make(kind, target, "awkward") as client:
        found = [item for item, _ in client.recommend("u1").items]
    assert found == [as_text(value) for value in AWKWARD_IDS]
    assert found[-1].encode("utf-8", "surrogateescape") == b"\xff\xfe raw"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", range(len(AWKWARD_IDS)))
def test_ids_in(target, kind, position):
    """An id excludes itself and nothing else: it came to the model byte for byte."""
    asked = AWKWARD_IDS[position]
    with make(kind, target, "awkward") as client:
        for name in ("history", "exclude"):
            found = [item for item, _ in client.recommend("u1", **{name: [asked]}).items]
            assert found == [as_text(value) for value in AWKWARD_IDS if value != asked]
        # What came out may go in again.
        found = [item for item, _ in client.recommend("u1", exclude=[as_text(asked)]).items]
        assert as_text(asked) not in found and len(found) == 9


def test_widths_are_powers_of_two():
    for length, width in ((0, 1), (1, 1), (2, 2), (3, 4), (5, 8), (8, 8)):
        inputs = recommend_inputs([Query("u", ["i"] * length), Query("u")], 3)
        assert [len(row) for row in inputs["history"]] == [width, width]
    assert inputs["exclude"] == [[""], [""]] and inputs["k"] == [3, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_tells_more_than_ids(target, kind):
    """The model adds up 1,000 a purchase, seconds, times / 1,000, 10,000 x hour (none: -1)."""
    told = {"event_types": ["buy", "view"], "dwell": [3.0, 4.5], "timestamps": [1000, 2000]}
    queries = [
        Query("u1", ["i0", "i2"], context={"hour": 2.0, "device": "oven"}, **told),
        Query("u2", ["i1"], dwell=[7.0]),
        Query("u3"),
    ]
    with make(kind, target, "told") as client:
        answers = client.recommend_many(queries, k=1)
        alone = client.recommend("u1", ["i0"], context={"hour": 1})
        plain = client.recommend("u1")
    assert [answer.items[0][0] for answer in answers] == ["i1", "i0", "i0"]
    scores = [answer.items[0][1] for answer in answers]
    assert scores == pytest.approx([20_000 + 1000 + 7.5 + 3 - 0.5, 7 - 10_000, -10_000])
    assert alone.items[0][1] == pytest.approx(10_000)
    assert plain.items[0] == ("i0", pytest.approx(10 / 3))  # asked of the signature `recommend`


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_model_reads_is_asked_once_and_again_where_it_is_refused(target, kind, monkeypatch):
    """The first metadata are of a version that read nothing but ids."""
    owner = AsyncClient if kind.endswith("async") else Client
    asked, real = [], owner.metadata

    def metadata(self):
        asked.append(self.model)
        old = {"metadata": {"signature_def": {"signature_def": {}}}}
        if len(asked) > 1:
            return real(self)
        return asyncio.sleep(0, old) if owner is AsyncClient else old

    monkeypatch.setattr(owner, "metadata", metadata)
    with make(kind, target, "told") as client:
        error = error_of(lambda: client.recommend("u1", ["i0"], context={"hour": 1}))
        assert error.code == Code.INVALID_ARGUMENT and len(asked) == 1
        for _ in range(3):
            answer = client.recommend("u1", ["i0"], context={"hour": 1})
            assert answer.items[0][1] == pytest.approx(10_000) and len(asked) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "model, more, said",
    [
        ("told", {"context": {"weather": "wet"}}, "'weather'; it reads .*device, .*hour"),
        ("told", {"context": {"k": 3}}, "does not read 'k'"),
        ("recommender", {"dwell": [1.0]}, "'dwell'; it reads nothing but ids"),
        ("told", {"explain": True}, "the model has no signature 'recommend_explained'"),
        ("told", {"dwell": [1.0, 2.0]}, "dwell: required: 1 values.* received 2"),
    ],
)
def test_what_a_model_does_not_read_is_named(target, kind, model, more, said):
    with make(kind, target, model) as client:
        error = error_of(lambda: client.recommend("u1", ["i0"], **more))
    assert error.code == Code.INVALID_ARGUMENT and re.search(said, error.message)


# --- predict, metadata, status


@pytest.mark.parametrize(
    "model,signature,inputs",
    [
        ("half", "", {"x": [[1.0, 2.5], [3.0, 4.0]]}),
        (
            "multi",
            "",
            {"tag": ["a", "é"], "signal": [[1.0] * 5] * 2, "sensor": [[[1.0] * 2] * 2] * 2},
        ),
        ("bytes", "", {"text": ["hello", "日本"]}),
        ("scalar", "", {"x": [1.0, 2.0]}),
        ("types", "int32", {"x": [1, -5]}),
        ("types", "bool", {"x": [True, False]}),
        ("types", "string", {"x": [["a", "b"], ["", "é"]]}),
        ("types", "string", {"x": "alone"}),
        ("types", "int64", {"x": [1 << 40, -(1 << 62)]}),
        ("types", "float64", {"x": np.array([0.1, 1e300])}),
        ("types", "uint8", {"x": np.array([0, 255], np.uint8)}),
    ],
)
def test_parity(target, model, signature, inputs):
    """Equal answers over both protocols, from both kinds of client."""
    answers = []
    for kind in KINDS:
        with make(kind, target, model) as client:
            answers.append(client.predict(inputs, signature))
    for answer in answers[1:]:
        assert narrow(answer) == narrow(answers[0])
        assert types_of(answer) == types_of(answers[0])


def narrow(value):
    """Numbers as float32: REST writes as many digits as tell one float32 from another."""
    if isinstance(value, dict):
        return {key: narrow(member) for key, member in value.items()}
    if isinstance(value, list):
        return [narrow(member) for member in value]
    return np.float32(value) if type(value) is float and abs(value) < 1e38 else value


def types_of(value):
    """The types in a nested value."""
    if isinstance(value, dict):
        return {key: types_of(member) for key, member in value.items()}
    return [types_of(member) for member in value] if isinstance(value, list) else type(value)


@pytest.mark.parametrize("kind", KINDS)
def test_output_filter(target, kind):
    inputs = {"tag": ["a"], "signal": [[1.0] * 5], "sensor": [[[1.0] * 2] * 2]}
    with make(kind, target, "multi") as client:
        assert client.predict(inputs, output_filter=["total"]) == {"total": [9.0]}
        error = error_of(lambda: client.predict(inputs, output_filter=["z"]))
    assert "output tensor alias not found in signature: z" in error.message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "choice,version",
    [
        ({"version": 123}, 123),
        ({"label": "stable"}, 123),
        ({"label": "canary"}, 124),
        ({}, 124),
    ],
    ids=["version", "stable", "canary", "latest"],
)
def test_version_and_label(target, kind, choice, version):
    with make(kind, target, "half", **choice) as client:
        assert client.predict({"x": [0.0]}, "version") == {"version": [version]}
        assert client.metadata()["model_spec"]["version"] == str(version)


def test_metadata_and_status_parity(target):
    answers = []
    for kind in KINDS:
        with make(kind, target, "half") as client:
            answers.append((client.metadata(), client.status()))
    assert all(answer == answers[0] for answer in answers[1:])
    metadata, states = answers[0]
    assert "regress_x_to_y" in metadata["metadata"]["signature_def"]["signature_def"]
    assert [(entry.version, entry.state, entry.error_code) for entry in states] == [
        (124, "AVAILABLE", "OK"),
        (123, "AVAILABLE", "OK"),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "call,code",
    [
        (lambda client: client.predict({"x": [1.0]}), Code.NOT_FOUND),
        (lambda client: client.metadata(), Code.NOT_FOUND),
        (lambda client: client.status(), Code.NOT_FOUND),
    ],
    ids=["predict", "metadata", "status"],
)
def test_unknown_model(target, kind, call, code):
    with make(kind, target, "foo") as client:
        error = error_of(lambda: call(client))
    assert error.code == code and "foo" in error.message


@pytest.mark.parametrize("kind", ["grpc", "grpc-async"])
def test_uneven_rows(target, kind):
    with make(kind, target, "half") as client:
        for value in ([[1.0], [1.0, 2.0]], [["a"], ["b", "c"]]):
            error = error_of(lambda value=value: client.predict({"x": value}))
            assert (error.code, error.message) == (
                Code.INVALID_ARGUMENT,
                "rows of one input differ in length",
            )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["recommender", "told"])
def test_a_string_for_a_list_is_refused_by_name(target, kind, model):
    with make(kind, target, model) as client:
        for name in ("history", "exclude", "event_types", "allow", "where", "boost", "pin"):
            error = error_of(lambda name=name: client.recommend("u", **{name: "i1 i2"}))
            assert error.code == Code.INVALID_ARGUMENT
            assert error.message == f"{name}: required: a list; received 'i1 i2': write ['i1 i2']"
        for name in ("allow", "where", "exclude"):
            error = error_of(lambda name=name: client.similar("i1", **{name: b"i1"}))
            assert error.message.startswith(f"{name}: required: a list; received b'i1'")
        error = error_of(lambda: client.similar_many("i1"))
        assert error.message.startswith("item_ids: required: a list")


@pytest.mark.parametrize("kind", KINDS)
def test_the_other_port_is_told_from_one_where_nobody_listens(target, kind):
    other = SimpleNamespace(host=target.host, rest=target.grpc, grpc=target.rest)
    with make(kind, other, timeout=20) as client:
        error = error_of(lambda: client.recommend("u"))
    assert error.code == Code.FAILED_PRECONDITION and error.message.isprintable()
    asked = {"rest": "is it the gRPC port", "grpc": "is it the REST port"}
    assert asked[kind.removesuffix("-async")] in error.message


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
@pytest.mark.parametrize(
    "address", ["127.0.0.1", "http://127.0.0.1:8501", "h:", "h:port", "h:99999", ":8501", "::1", ""]
)
def test_an_address_that_is_none(address, protocol):
    for kind in (Client, AsyncClient):
        error = error_of(lambda kind=kind: kind(address, protocol=protocol))
        assert error.code == Code.INVALID_ARGUMENT
        assert error.message.startswith("address: required: HOST:PORT")
        assert error.message.endswith(f"received {address!r}")


def test_addresses():
    for address in ("h:1", "10.0.0.1:8501", "[::1]:8501", "my_service.ns.svc:80"):
        assert check_address(address, grpc=False) == address
    assert check_address("dns:///h:8500", grpc=True) == "dns:///h:8500"


def test_unknown_protocol():
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match='protocol must be "rest" or "grpc", got \'soap\''):
            kind("h:1", protocol="soap")


def test_both_clients_have_the_same_methods():
    def public(kind):
        return {
            name: inspect.signature(method)
            for name, method in inspect.getmembers(kind)
            if callable(method) and not name.startswith("__") and not name.startswith("_")
        }

    assert public(Client) == public(AsyncClient)
    assert inspect.signature(Client.__init__) == inspect.signature(AsyncClient.__init__)
