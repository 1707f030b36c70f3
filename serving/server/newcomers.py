"""Items that entered after a model was exported, among its answers by their features' vectors."""

from __future__ import annotations

import asyncio
import logging
import math
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef

from serving.server.rules import Judge, boosted
from serving.server.servable import Servable
from serving.state import Item
from serving.state.requests import IDS
from serving.wire.errors import Code, ServingError, invalid, nearest
from serving.wire.tensors import STRING

_log = logging.getLogger("serving")
Outputs = dict[str, np.ndarray]
# Runs a signature of a servable: its name and all of its inputs -> all of its outputs.
Run = Callable[[Servable, str, dict[str, np.ndarray]], Awaitable[Outputs]]
_NEEDED = {"recommend", "embed", "embed_items"}
_ANSWERED = {"item_id", "score", "strategy"}
_BOOSTS = {"factor": 1.0, "added": 0.0}  # and what stands where there is no item
_REASONS = {"reason": b"", "weight": 0.0, "basis": b""}
_SIMILAR, _SIMILAR_FEATURES = "similar", "similar_features"
_EXPLAIN, _EXPLAIN_FEATURES = "explain", "explain_features"
_PERSONAL = (b"model", b"fold-in")
_PIN = b"pin"
_ALL = 2**31 - 1
_NO_SIGNATURE = SignatureDef()


def are_answered(servable: Servable) -> bool:
    """Whether a version of a model answers items that it was not exported with.

    One that embeds items by their features, and scores by the product with a user's vector.
    """
    return _NEEDED <= set(servable.signatures)


@dataclass(frozen=True)
class Request:
    """What a version of a model was asked and has answered.

    Attributes:
        servable: the version.
        signature: what was asked.
        inputs: with what.
        outputs: what it answered.
        filters_seen: whether it leaves out what was seen.
        run: runs a signature.
    """

    servable: Servable
    signature: str
    inputs: Mapping[str, np.ndarray]
    outputs: Outputs
    filters_seen: bool
    run: Run

    async def ask(self, signature: str, told: Mapping[str, np.ndarray]) -> Outputs:
        """The outputs of another signature, with those that it takes of what is told."""
        names = self.servable.input_names(signature)
        return await self.run(self.servable, signature, {name: told[name] for name in names})


class _Entered:
    """E items that a version of a model does not know, and has vectors of.

    Args:
        changes: of the state when they were made.
        items: with what was told of them.
        matrix: [E, D] their vectors.
        told: their features, [E] or [E, L] by name, as the model takes them.
    """

    def __init__(self, changes: int, items: Sequence[Item], matrix: np.ndarray, told: Outputs):
        self.changes, self.matrix, self.told = changes, matrix, told
        self.ids = np.array([item.item_id for item in items], object)
        self.place = {item.item_id: number for number, item in enumerate(items)}
        self.judge = Judge(items)

    def forbid(self, scores: np.ndarray, lists: Sequence[Sequence[bytes]]) -> None:
        """Sets scores [B, E] to -inf at the items of lists, one a row."""
        for row, items in enumerate(lists):
            for item in items:
                if item in self.place:
                    scores[row, self.place[item]] = -math.inf

    def qualify(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """[B, E] bool: what `allow` and `where` of a request take."""
        rules = zip(inputs["allow"].tolist(), inputs["where"].tolist(), strict=True)
        return np.stack([self.judge.qualifies(*rule) for rule in rules])


class Newcomers:
    """Adds items that entered to the answers of models.

    A model's own items are those that it was exported with: what the state says of one of them
    changes nothing. The vectors are made anew when the state or the version has changed.
    """

    def __init__(self) -> None:
        self._entered: weakref.WeakKeyDictionary[Servable, _Entered] = weakref.WeakKeyDictionary()
        self._known: weakref.WeakKeyDictionary[Servable, frozenset[bytes]] = (
            weakref.WeakKeyDictionary()
        )
        self._ruled: weakref.WeakKeyDictionary[Servable, set[str]] = weakref.WeakKeyDictionary()
        self._making = asyncio.Lock()

    async def check(self, models: Sequence[Servable], items: Sequence[Item], run: Run) -> None:
        """Checks the features of items that enter against what models read of them.

        Args:
            models: those that answer items by their features; where there are none, features are
                kept for others, and any will do.
            items: all of a request, by whose positions errors are told.
            run: runs a signature.

        Raises:
            ServingError: INVALID_ARGUMENT that names the position, from 0, and the field: a feature
                is no column of any model, nor is one that its rules know; or a model reads a
                number there, or one value, and it is none.
        """
        if not models:
            return
        read = [model.signatures["embed_items"].inputs for model in models]
        columns = {_column(name) for inputs in read for name in inputs}
        for position, item in enumerate(items):
            for name, value in item.features.items():
                field = f"item {position}: features.{name}"
                if _column(name) not in columns and not await self._are_ruled(models, name, run):
                    close = nearest(_column(name), columns)
                    raise invalid(f"{field}: no model has such a column; the nearest is {close}")
                for inputs in read:
                    tensor = inputs.get(name) or inputs.get(f"item_{name}")
                    if tensor is not None and tensor.dtype != STRING:
                        _check_numbers(field, value, len(tensor.tensor_shape.dim) > 1)

    async def _are_ruled(self, models: Sequence[Servable], name: str, run: Run) -> bool:
        """Whether the rules of one of the models know a column that it does not read."""
        for model in models:
            ruled = self._ruled.setdefault(model, set())
            if name in ruled:
                return True
            if "where" not in model.signatures.get(_SIMILAR, _NO_SIGNATURE).inputs:
                continue
            none = np.array([[b""]], object)
            where = np.array([[f"{_column(name)} = 1".encode("utf-8", "surrogateescape")]], object)
            asked = {"item_id": none[0], "exclude": none, "allow": none, "where": where}
            try:
                await run(model, _SIMILAR, {**asked, "k": np.array([1], np.int32)})
            except ServingError as error:
                if error.code == Code.INVALID_ARGUMENT:
                    continue
                raise
            ruled.add(name)
            return True
        return False

    async def known(self, servable: Servable, items: Sequence[Item], run: Run) -> set[bytes]:
        """Of items with features those that a version answers: its own, and what it has vectors of.

        None where it cannot be asked.
        """
        request = Request(servable, "", {}, {}, False, run)
        try:
            own = await self._own(request)
            found = await request.ask(
                "embed_items", feature_inputs(servable.signatures["embed_items"].inputs, items)
            )
        except ServingError as error:
            _log.error("%s does not say which items it knows: %s", servable.name, error.message)
            return set()
        pairs = zip(items, found["known"].tolist(), strict=True)
        return {item.item_id for item, known in pairs if known or item.item_id in own}

    async def add(self, request: Request, entered: tuple[int, Mapping[bytes, Item]]) -> Outputs:
        """The outputs of a request with the items that entered, where it answers or explains any.

        Args:
            request: with its answer.
            entered: a number that grows with every change, and the items by id.
        """
        add = _adding(request)
        if not entered[1] or add is None:
            return request.outputs
        items = await self._items_of(request, entered)
        return await add(request, items) if len(items.ids) else request.outputs

    async def _items_of(
        self, request: Request, entered: tuple[int, Mapping[bytes, Item]]
    ) -> _Entered:
        servable, (changes, told) = request.servable, entered
        async with self._making:  # by one request; the others find them made
            items = self._entered.get(servable)
            if items is None or items.changes != changes:
                try:
                    items = await self._embedded(request, changes, told)
                except ServingError as error:
                    # Told once; the model's own items are answered all the same.
                    _log.error("%s answers no items that entered: %s", servable.name, error.message)
                    items = _Entered(changes, [], np.zeros([0, 0], np.float32), {})
                self._entered[servable] = items
            return items

    async def _embedded(
        self, request: Request, changes: int, items: Mapping[bytes, Item]
    ) -> _Entered:
        servable = request.servable
        known = await self._own(request)
        new = [items[item_id] for item_id in sorted(items) if item_id not in known]
        if not new:
            return _Entered(changes, [], np.zeros([0, 0], np.float32), {})
        told = feature_inputs(servable.signatures["embed_items"].inputs, new)
        found = await request.ask("embed_items", told)
        there = found["known"]
        return _Entered(
            changes,
            [item for item, known in zip(new, there, strict=True) if known],
            found["embedding"][there],
            {name: values[there] for name, values in told.items()},
        )

    async def _own(self, request: Request) -> frozenset[bytes]:
        """The items that a version was exported with."""
        servable = request.servable
        if servable not in self._known:
            # Whoever is not known and has had nothing is answered with the whole catalogue.
            strings = np.array([[b""]], object)
            nobody = {"user_id": strings[0], "history": strings, "exclude": strings}
            nobody["k"] = np.array([_ALL], np.int32)
            whole = await request.ask("recommend", nobody)
            self._known[servable] = frozenset(whole["item_id"].ravel().tolist())
        return self._known[servable]


def _adding(request: Request) -> Callable[[Request, _Entered], Awaitable[Outputs]] | None:
    """What adds items that entered to an answer; None where there are none in it."""
    signatures, inputs, outputs = request.servable.signatures, request.inputs, request.outputs
    if not are_answered(request.servable):
        return None
    if request.signature in (_SIMILAR, _SIMILAR_FEATURES):
        return _similar if "item_vectors" in signatures else None
    explains = _EXPLAIN_FEATURES in signatures
    if request.signature == _EXPLAIN and explains:
        return _explain
    known = {*_ANSWERED, *_BOOSTS, "fewer", *(_REASONS if explains else ())}
    return _recommend if set(inputs) >= IDS and _ANSWERED <= set(outputs) <= known else None


async def _recommend(request: Request, items: _Entered) -> Outputs:
    """Of `recommend` and its kin: who is answered by the model gets them by their scores.

    Who gets popularity finds them behind all that anybody had; nobody finds what is excluded or,
    where the model filters it, was seen. The rules of the request hold, but that nothing is added
    where answers are to be diverse: what the others are like is known in the graph alone.
    """
    inputs, outputs = request.inputs, request.outputs
    told_more = "embed_events" in request.servable.signatures and set(inputs) != IDS
    found = await request.ask("embed_events" if told_more else "embed", inputs)
    scores = found["embedding"] @ items.matrix.T
    scores[~np.isin(outputs["strategy"].astype(bytes), _PERSONAL)] = 0.0
    history, exclude = inputs["history"].tolist(), inputs["exclude"].tolist()
    raised, more, pins = scores, {}, [[] for _ in exclude]
    if "where" in inputs:
        factor, added = map(np.stack, zip(*map(items.judge.boosts, inputs["boost"].tolist())))
        raised, more = boosted(scores, factor, added), {"factor": factor, "added": added}
        pins = inputs["pin"].tolist()
        wanted = items.qualify(inputs) & (inputs["diversity"] == b"")[:, np.newaxis]
        low = raised < inputs["min_score"][:, np.newaxis]  # false of a bound that is NaN
        scores = np.where(wanted & ~low, raised, -math.inf)
        told = [[item for item in row if item] for row in history]
        recent = zip(told, inputs["exclude_recent"].tolist(), strict=True)
        items.forbid(scores, [row[max(len(row) - most, 0) :] for row, most in recent])
    else:
        scores = scores.copy()
    items.forbid(scores, exclude)
    if request.filters_seen:
        items.forbid(scores, history)
    pinned = [_pinned(*row, items) for row in zip(pins, outputs["item_id"], exclude, strict=True)]
    places = merged(outputs, inputs["k"], scores, pinned)
    answer = {**outputs, **_taken(outputs, places, {"item_id": items.ids, "score": raised, **more})}
    size = outputs["item_id"].shape[1]
    if "fewer" in outputs:
        counts = zip(outputs["fewer"], (places >= 0).sum(axis=1), (places >= size).sum(axis=1))
        said = [
            b"" if count >= k else fewer + (b"; beside them %d that entered" % new if new else b"")
            for (fewer, count, new), k in zip(counts, _each(inputs["k"], len(places)), strict=True)
        ]
        answer["fewer"] = np.array(said, object)
    if "reason" not in outputs:
        return answer
    answer |= _taken(outputs, np.where(places < size, places, -1), dict.fromkeys(_REASONS))
    cells = np.argwhere(places >= size)
    answer = await _with_reasons(request, items, answer, cells, places[tuple(cells.T)] - size)
    by_pin = cells[[answer["item_id"][row, column] in pins[row] for row, column in cells]]
    for name, nothing in {**_REASONS, "basis": _PIN}.items():
        answer[name][tuple(by_pin.T)] = nothing
    return answer


async def _similar(request: Request, items: _Entered) -> Outputs:
    """Of `similar` and `similar_features`: by the cosine, as the model's own.

    An item that entered is told to the model by its features.
    """
    inputs, outputs = request.inputs, request.outputs
    count = len(outputs["strategy"])
    inputs = {**inputs, "k": _each(inputs["k"], count)}
    if request.signature == _SIMILAR:
        found = await request.ask("item_vectors", inputs)
        asked = [items.place.get(item, -1) for item in inputs["item_id"].tolist()]
        rows = np.flatnonzero(np.array(asked) >= 0)
        own = np.array(asked)[rows]
        if len(rows) and _SIMILAR_FEATURES in request.servable.signatures:
            features = {name: values[own] for name, values in items.told.items()}
            rules = {name: values[rows] for name, values in inputs.items() if name != "item_id"}
            new = await request.ask(_SIMILAR_FEATURES, {**rules, **features})
            outputs = {name: _with_rows(outputs[name], rows, new[name]) for name in outputs}
    else:
        found = await request.ask("embed_items", inputs)
        rows = own = np.array([], np.int64)
    vectors, known = found["embedding"].copy(), found["known"].copy()
    vectors[rows], known[rows] = items.matrix[own], True
    scores = _unit(vectors) @ _unit(items.matrix).T
    there = known[:, np.newaxis] & items.matrix.any(axis=1) & items.qualify(inputs)
    scores = np.where(there, scores, -math.inf).astype(outputs["score"].dtype)
    scores[rows, own] = -math.inf
    if "exclude" in inputs:
        items.forbid(scores, inputs["exclude"].tolist())
    places = merged(outputs, inputs["k"], scores)
    return {**outputs, **_taken(outputs, places, {"item_id": items.ids, "score": scores})}


async def _explain(request: Request, items: _Entered) -> Outputs:
    """Of `explain`: what carries those that entered among the items that it names."""
    asked = request.inputs["item_id"]
    of = np.array([[items.place.get(item, -1) for item in row] for row in asked.tolist()])
    cells = np.argwhere(of.reshape(asked.shape) >= 0)
    copied = {name: request.outputs[name].copy() for name in _REASONS}
    answer = {**request.outputs, **copied}
    return await _with_reasons(request, items, answer, cells, of[tuple(cells.T)])


async def _with_reasons(
    request: Request, items: _Entered, answer: Outputs, cells: np.ndarray, of: np.ndarray
) -> Outputs:
    """The answer with the reasons of items that entered written into it.

    Args:
        request: what is asked.
        items: that entered.
        answer: of which `reason`, `weight` and `basis` are written.
        cells: [C, 2] rows and columns.
        of: [C] which item each has.
    """
    if len(cells):
        row, column = cells.T
        inputs = request.inputs.items()
        asked = {name: values[row] for name, values in inputs if name != "k"}
        told = {name: values[of] for name, values in items.told.items()}
        found = await request.ask(_EXPLAIN_FEATURES, {**asked, **told})
        count = found["reason"].shape[1]
        answer["reason"][row, column, :count] = found["reason"]
        answer["weight"][row, column, :count] = found["weight"]
        answer["basis"][row, column] = found["basis"]
    return answer


def merged(
    outputs: Outputs,
    k: np.ndarray,
    scores: np.ndarray,
    pinned: Sequence[Mapping[int, int]] | None = None,
) -> np.ndarray:
    """Which of the items of an answer, and of others, are the first k.

    Args:
        outputs: `item_id` and `score` [B, K], best first and padded with "".
        k: how many a row wants, [B], or one for all.
        scores: [B, E] of the others, -inf where one may not be answered; of equal ones what was
            answered comes first.
        pinned: of each row, which place of both (as returned) stands at a position, whatever its
            score is.

    Returns:
        [B, W] whole numbers: columns of what was answered, K and more for the others, -1 for none.
    """
    size, rows = outputs["item_id"].shape[1], []
    limits = _each(k, len(scores)).tolist()
    pinned = pinned or [{}] * len(scores)
    for items, own, other, limit, pins in zip(
        outputs["item_id"], outputs["score"], scores, limits, pinned, strict=True
    ):
        there, allowed = np.flatnonzero(items != b""), np.flatnonzero(other > -math.inf)
        order = np.concatenate([there, size + allowed])
        order = order[~np.isin(order, list(pins.values()))]
        if len(allowed):
            every = np.concatenate([own, other.astype(own.dtype)])
            order = order[np.argsort(-every[order], kind="stable")]
        ranked, most = iter(order.tolist()), len(order) + len(pins) + max(pins, default=0)
        answered = [
            pins[place] if place in pins else next(ranked, -1) for place in range(min(limit, most))
        ]
        rows.append([place for place in answered if place >= 0])
    places = np.full([len(rows), max(map(len, rows))], -1)
    for number, row in enumerate(rows):
        places[number, : len(row)] = row
    return places


def _pinned(
    pins: Sequence[bytes], answered: np.ndarray, excluded: Sequence[bytes], items: _Entered
) -> dict[int, int]:
    """Position -> place, as of `merged`, of the pins of a row that somebody knows."""
    own, found = answered.tolist(), {}
    for position, item in enumerate(pins):
        if item in own and item:
            place = own.index(item)
        elif item in items.place and item not in excluded:
            place = len(own) + items.place[item]
        else:
            continue
        if place not in found.values():
            found[position] = place
    return found


def _taken(
    outputs: Outputs, places: np.ndarray, others: Mapping[str, np.ndarray | None]
) -> Outputs:
    """Outputs [B, K, ...] at places [B, W], as of `merged`.

    Args:
        outputs: of the model.
        places: which.
        others: by output, [B, E] or [E] of the items that entered; None where no place has one.
    """
    blank, found = {**_BOOSTS, **_REASONS, "item_id": b"", "score": 0.0}, {}
    for name in others.keys() & outputs.keys():
        own, other = outputs[name], others[name]
        parts = [own]
        if other is not None:
            shape = [len(own), other.shape[-1]]
            parts.append(np.broadcast_to(other, shape).astype(own.dtype))
        parts.append(np.full([len(own), 1, *own.shape[2:]], blank[name], own.dtype))
        found[name] = np.concatenate(parts, axis=1)[np.arange(len(own))[:, np.newaxis], places]
    return found


def _with_rows(values: np.ndarray, rows: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Values [B] or [B, K] with other ones in some rows, padded to the wider of both."""
    if values.ndim > 1:
        width = max(values.shape[1], new.shape[1])
        nothing = b"" if values.dtype == object else 0
        values, new = (
            np.pad(each, [(0, 0), (0, width - each.shape[1])], constant_values=nothing)
            for each in (values, new)
        )
    values = values.copy()
    values[rows] = new
    return values


def _each(k: np.ndarray, rows: int) -> np.ndarray:
    """[B] of how many a row wants, of as many or of one for all."""
    return np.broadcast_to(k.reshape(-1), [rows])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _check_numbers(field: str, value: object, listed: bool) -> None:
    """Raises unless a value is a number or, of several, numbers; they may be written as strings."""
    values = _values(value)
    numbers = [each for each in _numbers(value) if math.isfinite(each)]
    if len(numbers) != len(values) or not listed and len(values) > 1:
        required = "numbers" if listed else "a number"
        raise invalid(f"{field}: required: {required}; received {repr(value)[:80]}")


def feature_inputs(inputs: Mapping, items: Sequence[Item]) -> dict[str, np.ndarray]:
    """The inputs of `embed_items` out of what was told of items.

    Args:
        inputs: of the signature, TensorInfo by name: [B] or, of several values, [B, L]. A feature
            is called as the column of the table of items, or so with `item_` before it.
        items: with features; what is not told, or of another kind, is missing.
    """
    found = {}
    for name, tensor in inputs.items():
        told = [item.features.get(name, item.features.get(_column(name))) for item in items]
        listed = len(tensor.tensor_shape.dim) > 1
        convert = _texts if tensor.dtype == STRING else _numbers
        values = [convert(each) for each in told]
        if tensor.dtype == STRING and not listed:
            values = [[" ".join(each)] for each in values]  # a text is one value
        width = max(1, *map(len, values)) if listed else 1
        nothing = "" if tensor.dtype == STRING else math.nan
        rows = [(each + [nothing] * width)[:width] for each in values]
        if tensor.dtype == STRING:
            coded = [[text.encode("utf-8", "surrogateescape") for text in row] for row in rows]
            array = np.array(coded, object)
        else:
            array = np.array(rows, np.float32)
        found[name] = array if listed else array[:, 0]
    return found


def _column(name: str) -> str:
    return name.removeprefix("item_")


def _values(value: object) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


def _texts(value: object) -> list[str]:
    return [each if isinstance(each, str) else f"{each:.15g}" for each in _values(value)]


def _numbers(value: object) -> list[float]:
    found = []
    for each in _values(value):
        try:
            found.append(float(each))
        except ValueError:
            continue
    return found
