"""The client for asyncio: the methods of `serving.client.Client`, as coroutines."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Awaitable, Callable, Mapping, Sequence, TypeVar

from serving.client import messages
from serving.client.lookup import Lookup
from serving.client.messages import (
    Answer,
    Attempts,
    Document,
    Id,
    Inputs,
    Outputs,
    Query,
    Reasons,
    Recommendations,
    VersionStatus,
)
from serving.state.store import Live, Store, Written
from serving.wire.errors import Code, ServingError

if TYPE_CHECKING:
    import aiohttp
    import grpc

T = TypeVar("T")

__all__ = ["AsyncClient", "Query", "Reasons", "Recommendations", "ServingError", "VersionStatus"]


class AsyncClient:
    """Asks one model of one server, from an event loop.

    Usage:
        async with AsyncClient("127.0.0.1:8501", "two_tower") as client:
            answer = await client.recommend("42", k=10)
    """

    def __init__(
        self,
        address: str,
        model: str = "default",
        protocol: str = "rest",
        timeout: float = 5.0,
        retries: int = 3,
        version: int | None = None,
        label: str | None = None,
        api_key: str = "",
        tls: bool = False,
        tls_ca_file: str = "",
        state: str | Store = "",
        state_since: int = 0,
    ):
        """Creates a client; see `serving.client.Client` for the arguments."""
        self.model = model
        self.timeout = timeout
        self.retries = retries
        self._version = version
        self._label = label
        self._described: Document | None = None
        if protocol not in ("rest", "grpc"):
            raise ValueError(f'protocol must be "rest" or "grpc", got {protocol!r}')
        kind: type[_AsyncRest | _AsyncGrpc] = _AsyncRest if protocol == "rest" else _AsyncGrpc
        self._transport = kind(address, api_key, tls, tls_ca_file)
        self._lookup = Lookup(state, state_since)

    async def recommend(
        self,
        user_id: Id,
        history: Sequence[Id] = (),
        exclude: Sequence[Id] = (),
        k: int = 10,
        **more: Any,
    ) -> Recommendations:
        """Recommends items to one user; see `Client.recommend`."""
        return (await self.recommend_many([Query(user_id, history, exclude, **more)], k))[0]

    async def recommend_many(self, queries: Sequence[Query], k: int = 10) -> list[Recommendations]:
        """Recommends to several users in one request."""
        if not queries:
            return []
        live = await self._lookup.live_off_the_loop(queries)
        if messages.asked_signature(queries) == "recommend" and not any(live.histories):
            return await self._recommend_more(queries, k, live, None)
        # What the model reads was asked once. A newer version may read something else, and refuse.
        if self._described is not None:
            try:
                return await self._recommend_more(queries, k, live, self._described)
            except ServingError as error:
                if error.code != Code.INVALID_ARGUMENT:
                    raise
        self._described = await self.metadata()
        return await self._recommend_more(queries, k, live, self._described)

    async def similar(
        self,
        item_id: Id,
        k: int = 10,
        allow: Sequence[Id] = (),
        where: Sequence[str] = (),
        exclude: Sequence[Id] = (),
    ) -> Recommendations:
        """Finds items like one item; see `Client.similar`."""
        return (await self.similar_many([item_id], k, allow, where, exclude))[0]

    async def similar_many(
        self,
        item_ids: Sequence[Id],
        k: int = 10,
        allow: Sequence[Id] = (),
        where: Sequence[str] = (),
        exclude: Sequence[Id] = (),
    ) -> list[Recommendations]:
        """Finds items like each of several in one request."""
        messages.require_lists(item_ids=item_ids, allow=allow, where=where, exclude=exclude)
        if not item_ids:
            return []
        out = [*exclude, *(await self._lookup.live_off_the_loop([])).left]
        inputs = messages.similar_inputs(item_ids, k, allow, where, out)
        return await self._recommend(inputs, messages.SIMILAR)

    async def predict(
        self,
        inputs: Inputs,
        signature_name: str = "",
        output_filter: Sequence[str] = (),
    ) -> Outputs:
        """Runs any signature; see `Client.predict`."""
        return (await self._predict(inputs, signature_name, tuple(output_filter)))[0]

    async def write_events(self, events: Sequence[Mapping[str, object]]) -> Written:
        """Tells an embedded server what users did; see `Client.write_events`."""
        return await self._repeat(lambda left: self._transport.write("events", events, left))

    async def write_items(self, items: Sequence[Mapping[str, object]]) -> Written:
        """Tells it what entered the catalogue and what left; see `Client.write_items`."""
        return await self._repeat(lambda left: self._transport.write("items", items, left))

    async def metadata(self) -> Document:
        """The model's signatures, as the REST interface writes them."""
        return await self._repeat(
            lambda left: self._transport.metadata(self.model, self._version, self._label, left)
        )

    async def status(self) -> list[VersionStatus]:
        """The states of the model's versions, largest version first."""
        return await self._repeat(
            lambda left: self._transport.status(self.model, self._version, left)
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._transport.close()
        await asyncio.to_thread(self._lookup.close)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _recommend_more(
        self, queries: Sequence[Query], k: int, live: Live, metadata: Document | None
    ) -> list[Recommendations]:
        inputs, signature = messages.recommend_request(queries, k, live, metadata)
        return await self._recommend(inputs, signature)

    async def _recommend(self, inputs: Inputs, signature: str) -> list[Recommendations]:
        outputs, version = await self._predict(inputs, signature, ())
        return messages.recommendations(outputs, version)

    async def _predict(
        self, inputs: Inputs, signature_name: str, output_filter: tuple[str, ...]
    ) -> Answer:
        return await self._repeat(
            lambda left: self._transport.predict(
                self.model, self._version, self._label, inputs, signature_name, output_filter, left
            )
        )

    async def _repeat(self, call: Callable[[float], Awaitable[T]]) -> T:
        attempts = Attempts(self.timeout, self.retries)
        while True:
            try:
                return await call(attempts.remaining())
            except ServingError as error:
                await asyncio.sleep(attempts.pause_after(error))


class _AsyncRest:
    def __init__(self, address: str, api_key: str, tls: bool, tls_ca_file: str):
        self._tls = None
        if tls or tls_ca_file:
            self._tls = ssl.create_default_context(cafile=tls_ca_file or None)
        messages.check_address(address, grpc=False)
        self._base = f"{'https' if self._tls else 'http'}://{address}"
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["X-Api-Key"] = api_key
        self._session: aiohttp.ClientSession | None = None
        self._outputs: dict[str, list[str]] = {}

    async def predict(
        self,
        model: str,
        version: int | None,
        label: str | None,
        inputs: Inputs,
        signature: str,
        output_filter: tuple[str, ...],
        timeout: float,
    ) -> Answer:
        path = messages.model_path(model, version, label) + ":predict"
        answer = await self._send("POST", path, messages.predict_body(inputs, signature), timeout)
        outputs = messages.predict_outputs(answer)
        if messages.NAMELESS in outputs:
            name = await self._only_output(model, version, label, signature, timeout)
            outputs = {name: outputs[messages.NAMELESS]}
        return messages.select_outputs(outputs, output_filter), None

    async def _only_output(
        self,
        model: str,
        version: int | None,
        label: str | None,
        signature: str,
        timeout: float,
    ) -> str:
        """The name of a signature's one output, which REST leaves out of its answers."""
        signature = signature or "serving_default"
        if signature not in self._outputs:
            document = await self.metadata(model, version, label, timeout)
            found = document["metadata"]["signature_def"]["signature_def"][signature]
            self._outputs[signature] = list(found["outputs"])
        return self._outputs[signature][0]

    async def write(
        self, kind: str, rows: Sequence[Mapping[str, object]], timeout: float
    ) -> Written:
        body = messages.rows_body(rows)
        return messages.written(await self._send("POST", f"/v1/{kind}", body, timeout))

    async def metadata(
        self, model: str, version: int | None, label: str | None, timeout: float
    ) -> Document:
        path = messages.model_path(model, version, label) + "/metadata"
        return messages.parse(await self._send("GET", path, None, timeout))

    async def status(self, model: str, version: int | None, timeout: float) -> list[VersionStatus]:
        path = messages.model_path(model, version)
        return messages.version_states(await self._send("GET", path, None, timeout))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _send(self, method: str, path: str, body: bytes | None, timeout: float) -> bytes:
        import aiohttp
        from yarl import URL

        if self._session is None:
            self._session = aiohttp.ClientSession(headers=self._headers)
        try:
            async with self._session.request(
                method,
                URL(self._base + path, encoded=True),
                data=body,
                ssl=self._tls if self._tls is not None else True,
                timeout=aiohttp.ClientTimeout(total=timeout),
            ) as response:
                answer = await response.read()
        except asyncio.TimeoutError:
            raise ServingError(
                Code.DEADLINE_EXCEEDED, f"no answer within {timeout:.3g} s"
            ) from None
        except (aiohttp.ClientSSLError, ssl.SSLError) as error:
            raise ServingError(Code.UNAUTHENTICATED, f"TLS: {error}") from None
        except aiohttp.ClientResponseError:  # of what is no HTTP: the status is not looked at here
            raise messages.no_http(self._base) from None
        except (aiohttp.ClientError, OSError) as error:
            raise ServingError(
                Code.UNAVAILABLE, f"{self._base}: {error or type(error).__name__}"
            ) from None
        messages.check_http(response.status, answer)
        return answer


class _AsyncGrpc:
    def __init__(self, address: str, api_key: str, tls: bool, tls_ca_file: str):
        import grpc

        from serving.client import grpc_messages
        from serving.wire import protos

        self._grpc, self._messages, self._protos = grpc, grpc_messages, protos
        self._address = messages.check_address(address, grpc=True)
        self._credentials = None
        if tls or tls_ca_file:
            roots = Path(tls_ca_file).read_bytes() if tls_ca_file else None
            self._credentials = grpc.ssl_channel_credentials(roots)
        self._metadata = (("x-api-key", api_key),) if api_key else ()
        self._channel: grpc.aio.Channel | None = None

    def _stub(self, kind: Any) -> Any:
        # A channel belongs to the event loop it is made in, which runs from the first call on.
        if self._channel is None:
            limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
            if self._credentials is not None:
                self._channel = self._grpc.aio.secure_channel(
                    self._address, self._credentials, options=limits
                )
            else:
                self._channel = self._grpc.aio.insecure_channel(self._address, options=limits)
            self._stubs = {
                stub: stub(self._channel)
                for stub in (
                    self._protos.PredictionServiceStub,
                    self._protos.ModelServiceStub,
                    self._protos.LiveStateStub,
                )
            }
        return self._stubs[kind]

    async def predict(
        self,
        model: str,
        version: int | None,
        label: str | None,
        inputs: Inputs,
        signature: str,
        output_filter: tuple[str, ...],
        timeout: float,
    ) -> Answer:
        request = self._messages.predict_request(
            model, inputs, signature, version, label, output_filter
        )
        method = self._stub(self._protos.PredictionServiceStub).Predict
        response = await self._call(method, request, timeout)
        return self._messages.predict_outputs(response), response.model_spec.version.value

    async def write(
        self, kind: str, rows: Sequence[Mapping[str, object]], timeout: float
    ) -> Written:
        stub = self._stub(self._protos.LiveStateStub)
        method = stub.WriteEvents if kind == "events" else stub.WriteItems
        request = self._messages.write_request(kind, rows)
        return self._messages.written(await self._call(method, request, timeout))

    async def metadata(
        self, model: str, version: int | None, label: str | None, timeout: float
    ) -> Document:
        request = self._messages.metadata_request(model, version, label)
        method = self._stub(self._protos.PredictionServiceStub).GetModelMetadata
        return self._messages.metadata_document(await self._call(method, request, timeout))

    async def status(self, model: str, version: int | None, timeout: float) -> list[VersionStatus]:
        request = self._protos.status.GetModelStatusRequest(
            model_spec=self._messages.model_spec(model, version, None)
        )
        method = self._stub(self._protos.ModelServiceStub).GetModelStatus
        return self._messages.version_states(await self._call(method, request, timeout))

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def _call(self, method: Callable[..., Any], request: Any, timeout: float) -> Any:
        try:
            return await method(request, timeout=timeout, metadata=self._metadata)
        except self._grpc.RpcError as error:
            raise self._messages.error_of(error) from None
