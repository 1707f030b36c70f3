"""Items that entered after a model was exported, among its answers by their features' vectors."""

from __future__ import annotations

import asyncio
import logging
import math
import weakref
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import numpy as np

from serving.server.servable import Servable
from serving.state import Item
from serving.state.requests import IDS
from serving.wire.errors import ServingError
from serving.wire.tensors import STRING

_log = logging.getLogger("serving")
Outputs = dict[str, np.ndarray]
# Runs a signature of a servable: its name and all of its inputs -> all of its outputs.
Run = Callable[[Servable, str, dict[str, np.ndarray]], Awaitable[Outputs]]
_NEEDED = {"recommend", "embed", "embed_items"}
_ANSWERED = {"item_id", "score", "strategy"}
_PERSONAL = (b"model", b"fold-in")
_ALL = 2**31 - 1


def are_answered(signatures: Mapping) -> bool:
    """Whether a model of these signatures answers items that it was not exported with.

    One that embeds items by their features, and scores by the product with a user's vector.
    """
    return _NEEDED <= set(signatures)


@dataclass(frozen=True)
class _Vectors:
    """Of one version of a model: items that it does not know, and has vectors of."""

    changes: int
    ids: list[bytes]
    matrix: np.ndarray


class Newcomers:
    """Adds items that entered to the answers of models.

    A model's own items are those that it was exported with: what the state says of one of them
    changes nothing. The vectors are made anew when the state or the version has changed.
    """

    def __init__(self) -> None:
        self._vectors: weakref.WeakKeyDictionary[Servable, _Vectors] = weakref.WeakKeyDictionary()
        self._known: weakref.WeakKeyDictionary[Servable, frozenset[bytes]] = (
            weakref.WeakKeyDictionary()
        )
        self._making = asyncio.Lock()

    async def add(
        self,
        servable: Servable,
        inputs: Mapping[str, np.ndarray],
        outputs: Outputs,
        entered: tuple[int, Mapping[bytes, Item]],
        filters_seen: bool,
        run: Run,
    ) -> Outputs:
        """The outputs of `recommend` or `recommend_events` with the items that entered among them.

        Who is answered by the model gets them by their scores, who gets popularity behind all that
        anybody had; nobody what is excluded or, where the model filters it, was seen.

        Args:
            servable: a version of a model.
            inputs: what it was asked.
            outputs: what it answered.
            entered: a number that grows with every change, and the items by id.
            filters_seen: whether the model leaves out what was seen.
            run: runs a signature.
        """
        asked = entered[1] and set(outputs) == _ANSWERED and IDS <= set(inputs)
        if not asked or not are_answered(servable.signatures):
            return outputs
        vectors = await self._vectors_of(servable, entered, run)
        if not vectors.ids:
            return outputs
        told_more = "embed_events" in servable.signatures and set(inputs) != IDS
        embed = "embed_events" if told_more else "embed"
        who = {name: inputs[name] for name in servable.input_names(embed)}
        found = await run(servable, embed, who)
        scores = found["embedding"] @ vectors.matrix.T
        scores[~np.isin(outputs["strategy"].astype(bytes), _PERSONAL)] = 0.0
        lists = ("exclude", "history") if filters_seen else ("exclude",)
        place = {item: number for number, item in enumerate(vectors.ids)}
        for name in lists:
            for row, items in enumerate(inputs[name].tolist()):
                for item in items:
                    if item in place:
                        scores[row, place[item]] = -math.inf
        return merged(outputs, inputs["k"], vectors.ids, scores)

    async def _vectors_of(
        self, servable: Servable, entered: tuple[int, Mapping[bytes, Item]], run: Run
    ) -> _Vectors:
        changes, items = entered
        async with self._making:  # by one request; the others find them made
            vectors = self._vectors.get(servable)
            if vectors is None or vectors.changes != changes:
                try:
                    vectors = await self._embedded(servable, changes, items, run)
                except ServingError as error:
                    # Told once; the model's own items are answered all the same.
                    _log.error("%s answers no items that entered: %s", servable.name, error.message)
                    vectors = _Vectors(changes, [], np.zeros([0, 0], np.float32))
                self._vectors[servable] = vectors
            return vectors

    async def _embedded(
        self, servable: Servable, changes: int, items: Mapping[bytes, Item], run: Run
    ) -> _Vectors:
        if servable not in self._known:
            # Whoever is not known and has had nothing is answered with the whole catalogue.
            strings = np.array([[b""]], object)
            nobody = {"user_id": strings[0], "history": strings, "exclude": strings}
            whole = await run(servable, "recommend", {**nobody, "k": np.array([_ALL], np.int32)})
            self._known[servable] = frozenset(whole["item_id"].ravel().tolist())
        known = self._known[servable]
        new = [items[item_id] for item_id in sorted(items) if item_id not in known]
        if not new:
            return _Vectors(changes, [], np.zeros([0, 0], np.float32))
        told = feature_inputs(servable.signatures["embed_items"].inputs, new)
        found = await run(servable, "embed_items", told)
        ids = [item.item_id for item, known in zip(new, found["known"], strict=True) if known]
        return _Vectors(changes, ids, found["embedding"][found["known"]])


def merged(outputs: Outputs, k: np.ndarray, ids: list[bytes], scores: np.ndarray) -> Outputs:
    """The first k of what was answered and of other items.

    Args:
        outputs: `item_id` and `score` [B, K], best first and padded with "".
        k: how many a row wants, [B], or one for all.
        ids: of E other items.
        scores: [B, E] of them, -inf where one may not be answered; of equal ones what was answered
            comes first.
    """
    rows = []
    others = np.array(ids, object)
    limits = np.broadcast_to(k.reshape(-1), len(scores))
    for items, own, other, limit in zip(
        outputs["item_id"], outputs["score"], scores, limits, strict=True
    ):
        there, allowed = items != b"", other > -math.inf
        both = np.concatenate([own[there], other[allowed].astype(own.dtype)])
        order = np.argsort(-both, kind="stable")[: int(limit)]
        rows.append((np.concatenate([items[there], others[allowed]])[order], both[order]))
    width = max(len(row) for row, _ in rows)
    item_id = np.full([len(rows), width], b"", object)
    score = np.zeros([len(rows), width], outputs["score"].dtype)
    for number, (row, values) in enumerate(rows):
        item_id[number, : len(row)], score[number, : len(row)] = row, values
    return {**outputs, "item_id": item_id, "score": score}


def feature_inputs(inputs: Mapping, items: list[Item]) -> dict[str, np.ndarray]:
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
