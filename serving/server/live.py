"""The live state of a server: writes what clients tell, and fills requests with what is known."""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from serving.server.metrics import Metrics
from serving.server.newcomers import Newcomers, Outputs, Request, Run
from serving.server.servable import Servable
from serving.server.training_log import Notes, read_notes
from serving.state import Event, Item, Live, Store
from serving.state.reader import Reader
from serving.state.requests import BESIDE, IDS, fill
from serving.state.store import MOST_WAITING, Written
from serving.wire.errors import Code, ServingError, from_exception
from serving.wire.tensors import DTYPES, STRING

_READERS = 4
_FEW = 16  # users whom the event loop looks up itself, where they are near
_EVENTS = "recommend_events"


class LiveState:
    """A store, as the requests of a server use it.

    Args:
        store: what is known; closed by `close`.
        metrics: the counters.
        check_size: raises where a request has too many values.

    Attributes:
        newcomers: the items that entered, among the answers of models.
    """

    def __init__(self, store: Store, metrics: Metrics, check_size: Callable[[int], None]):
        self._store, self._reader = store, Reader(store)
        self._count = metrics.state_count
        self._check_size = check_size
        self._readers = ThreadPoolExecutor(_READERS, "state-read")
        self._pending: list[tuple[Sequence[Event], Sequence[Item], asyncio.Future[None]]] = []
        self._waiting = 0
        self._writer: asyncio.Task[None] | None = None
        self.newcomers = Newcomers()
        self._notes: weakref.WeakKeyDictionary[Servable, Notes] = weakref.WeakKeyDictionary()
        self._entered: tuple[int, dict[bytes, Item]] = (0, {})

    def close(self) -> None:
        """Writes what waits, and closes the store."""
        self._readers.shutdown()
        self._store.close()

    async def write_events(self, events: Sequence[Event]) -> Written:
        """Writes events; returns when they are durable.

        Raises:
            ServingError: UNAVAILABLE: they could not be written, or too many wait.
        """
        return await self._write("write_events", events=events)

    async def write_items(self, items: Sequence[Item]) -> Written:
        """Writes changes of the catalogue; see `write_events`."""
        return await self._write("write_items", items=items)

    async def _write(
        self, operation: str, events: Sequence[Event] = (), items: Sequence[Item] = ()
    ) -> Written:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        oldest = self._store.oldest()
        expired = sum(event.timestamp < oldest for event in events)
        try:
            if self._waiting and len(events) + len(items) + self._waiting > MOST_WAITING:
                raise ServingError(
                    Code.UNAVAILABLE, f"{self._waiting} events wait to be written already"
                )
            self._waiting += len(events) + len(items)
            self._pending.append((events, items, done))
            if self._writer is None or self._writer.done():
                self._writer = asyncio.create_task(self._write_pending())
            await done
        except ServingError as error:
            self._count.add(operation, error.code.name)
            raise
        self._count.add(operation, "OK")
        return Written(len(events) - expired + len(items), expired)

    async def _write_pending(self) -> None:
        """Hands over all that waits at once: waking the event loop for each would cost more."""
        while self._pending:
            pending, self._pending = self._pending, []
            events = [event for some, _, _ in pending for event in some]
            items = [item for _, some, _ in pending for item in some]
            error: ServingError | None = None
            try:
                await asyncio.wrap_future(self._store.submit(events, items))
            except Exception as raised:  # nobody who waits may be forgotten
                error = from_exception(raised)
            self._waiting -= len(events) + len(items)
            for _, _, done in pending:
                if done.done():  # whoever asked has gone
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

    async def add_newcomers(
        self,
        servable: Servable,
        signature: str,
        inputs: dict[str, np.ndarray],
        outputs: Outputs,
        run: Run,
    ) -> Outputs:
        """An answer with the items that entered among them; see `serving.server.newcomers`."""
        seen = self._notes_of(servable).filters_seen
        asked = Request(servable, signature, inputs, outputs, seen, run)
        return await self.newcomers.add(asked, self._entered)

    def _notes_of(self, servable: Servable) -> Notes:
        if servable not in self._notes:
            self._notes[servable] = read_notes(servable.path)
        return self._notes[servable]

    def _look_up(self, users: list[bytes]) -> Live:
        live, read = self._reader.look_up(users)
        if read and live.changes != self._entered[0]:
            try:
                self._entered = live.changes, self._store.items()
            except ServingError:
                read = False
        self._count.add("look_up", "OK" if read else "UNAVAILABLE")
        return live

    async def fill(
        self, servable: Servable, signature: str, inputs: dict[str, np.ndarray]
    ) -> tuple[str, dict[str, np.ndarray]]:
        """A request with what is known of its users, see `serving.state.requests.fill`.

        A request of ids alone is asked as one of events where the model has that: it is the same
        but for what stands beside the items, which the state knows and the client did not tell.
        Events that the model's stored histories hold already (`history_until` of its training log)
        are left out.

        Args:
            servable: a version of a model.
            signature: the one that is asked.
            inputs: arrays by input name, as they came.

        Returns:
            The signature to ask and its inputs.

        Raises:
            ServingError: INVALID_ARGUMENT: there are more values in it now than may be.
        """
        rows = _filled_rows(inputs)
        if not rows:
            return signature, inputs
        users = inputs["user_id"].tolist() if "history" in rows else []
        if self._store.is_near and len(users) <= _FEW:
            live = self._look_up(users)
        else:
            loop = asyncio.get_running_loop()
            live = await loop.run_in_executor(self._readers, self._look_up, users)
        live, signatures = live.after(self._notes_of(servable).history_until), servable.signatures
        asked, whole = signature, inputs
        if any(live.histories) and set(inputs) == IDS and _EVENTS in signatures:
            asked, whole = _EVENTS, {**_nothing_beside(signatures[_EVENTS], inputs), **inputs}
            rows += [name for name in BESIDE if name in whole and name not in rows]
        filled = fill({name: whole[name].tolist() for name in rows}, live)
        if not filled:
            return signature, inputs
        new = {name: np.array(rows, whole[name].dtype) for name, rows in filled.items()}
        whole = {**whole, **new}
        self._check_size(sum(array.size for array in whole.values()))
        return asked, whole


def _filled_rows(inputs: Mapping[str, np.ndarray]) -> list[str]:
    """The inputs that may be filled: all of a request of users, `exclude` alone of another.

    None where their shapes are wrong: the model says what is wrong.
    """
    user, history, exclude = (inputs.get(name) for name in ("user_id", "history", "exclude"))
    if user is None or history is None:
        is_list = exclude is not None and exclude.ndim == 2 and exclude.dtype == object
        return ["exclude"] if is_list and len(exclude) else []
    lists = [array for array in (history, exclude) if array is not None]
    beside = [name for name in BESIDE if name in inputs]
    fits = (
        user.ndim == 1
        and len(user) > 0
        and all(array.dtype == object for array in (user, *lists))
        and all(array.ndim == 2 and len(array) == len(user) for array in lists)
        and all(inputs[name].shape == history.shape for name in beside)
    )
    named = ["history", *(["exclude"] if exclude is not None else []), *beside]
    return named if fits else []


def _nothing_beside(definition, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a signature takes and the request does not tell, as missing values."""
    history, found = inputs["history"], {}
    for name, tensor in definition.inputs.items():
        if name not in inputs:
            nothing = b"" if tensor.dtype == STRING else 0 if name in BESIDE else math.nan
            shape = history.shape if name in BESIDE else history.shape[:1]
            found[name] = np.full(shape, nothing, DTYPES[tensor.dtype][0])
    return found
