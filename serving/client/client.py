"""A small typed client for this server and for TensorFlow Serving, over REST or gRPC.

REST needs the standard library only; gRPC needs grpcio and tensorflow-serving-api, but never
imports TensorFlow itself. `serving.client.asynchronous` has the same for asyncio.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence, TypeVar

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
    Recommendations,
    VersionStatus,
)
from serving.state.store import Live, Store, Written
from serving.wire.errors import Code, ServingError

T = TypeVar("T")


class Client:
    """Asks one model of one server.

    Usage:
        with Client("127.0.0.1:8501", "two_tower") as client:
            for item, score in client.recommend("42", k=10).items: ...

    A client may be used by several threads. Answers that say UNAVAILABLE, and connections refused,
    are tried again with growing pauses, within the call's timeout.
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
        """Creates a client; nothing is sent yet.

        Args:
            address: host:port of the REST or the gRPC port.
            model: the model's name.
            protocol: "rest" or "grpc".
            timeout: seconds for one call with all its attempts.
            retries: further attempts after the first.
            version: ask for this version rather than the newest.
            label: ask for the version with this label.
            api_key: sent with every request.
            tls: encrypt the connection.
            tls_ca_file: PEM certificates to trust, in place of the system's; switches TLS on.
            state: what is known of users and the catalogue now, with which `recommend`,
                `similar` and their `_many` fill their requests as the embedded server with
                `--state` does, for a TensorFlow Serving, which cannot: an address for
                `serving.state.open_state`, or one that is open, which then stays open.
            state_since: events up to then, in seconds since 1970, are left out: `history_until` of
                the model's training log, since its stored histories hold them. The embedded server
                reads it there.

        Raises:
            ServingError: INVALID_ARGUMENT: the address is none.
        """
        self.model = model
        self.timeout = timeout
        self.retries = retries
        self._version = version
        self._label = label
        self._described: Document | None = None
        self._transport: _Rest | _Grpc
        if protocol == "rest":
            self._transport = _Rest(address, api_key, tls, tls_ca_file)
        elif protocol == "grpc":
            self._transport = _Grpc(address, api_key, tls, tls_ca_file)
        else:
            raise ValueError(f'protocol must be "rest" or "grpc", got {protocol!r}')
        self._lookup = Lookup(state, state_since)

    def recommend(
        self,
        user_id: Id,
        history: Sequence[Id] = (),
        exclude: Sequence[Id] = (),
        k: int = 10,
        **more: Any,
    ) -> Recommendations:
        """Recommends items to one user.

        Args:
            user_id: the user; one the model does not know gets an answer as well.
            history: items the user has had beyond what the model knows, oldest first; added to what
                it has stored or, by a model of sessions, read alone (see `Query`).
            exclude: items not to return.
            k: how many items, at least 1; fewer come where the catalogue has no more.
            more: `event_types`, `dwell`, `timestamps` and `context` of `Query`, for models that
                read them; rules, `allow`, `where`, `boost`, `pin`, `exclude_recent`, `diversity`
                and `min_score`; and `explain`, how many reasons each item is answered with.

        Raises:
            ServingError: with the server's code and message.
        """
        return self.recommend_many([Query(user_id, history, exclude, **more)], k)[0]

    def recommend_many(self, queries: Sequence[Query], k: int = 10) -> list[Recommendations]:
        """Recommends to several users in one request; see `recommend`."""
        if not queries:
            return []
        live = self._lookup.live(queries)
        if messages.asked_signature(queries) == "recommend" and not any(live.histories):
            return self._recommend_more(queries, k, live, None)
        # What the model reads was asked once. A newer version may read something else, and refuse.
        if self._described is not None:
            try:
                return self._recommend_more(queries, k, live, self._described)
            except ServingError as error:
                if error.code != Code.INVALID_ARGUMENT:
                    raise
        self._described = self.metadata()
        return self._recommend_more(queries, k, live, self._described)

    def similar(
        self,
        item_id: Id,
        k: int = 10,
        allow: Sequence[Id] = (),
        where: Sequence[str] = (),
        exclude: Sequence[Id] = (),
    ) -> Recommendations:
        """Finds items like one item.

        Args:
            item_id: the item; one that nobody knows is answered with none.
            k: how many items, at least 1.
            allow: nothing but these items is returned.
            where: conditions on the items' columns, as of `Query`.
            exclude: items that must not be returned.

        Raises:
            ServingError: with the server's code and message.
        """
        return self.similar_many([item_id], k, allow, where, exclude)[0]

    def similar_many(
        self,
        item_ids: Sequence[Id],
        k: int = 10,
        allow: Sequence[Id] = (),
        where: Sequence[str] = (),
        exclude: Sequence[Id] = (),
    ) -> list[Recommendations]:
        """Finds items like each of several in one request; see `similar`."""
        messages.require_lists(item_ids=item_ids, allow=allow, where=where, exclude=exclude)
        if not item_ids:
            return []
        out = [*exclude, *self._lookup.live([]).left]
        inputs = messages.similar_inputs(item_ids, k, allow, where, out)
        return self._recommend(inputs, messages.SIMILAR)

    def predict(
        self,
        inputs: Inputs,
        signature_name: str = "",
        output_filter: Sequence[str] = (),
    ) -> Outputs:
        """Runs any signature.

        Args:
            inputs: nested lists or arrays by input name.
            signature_name: the signature; empty for `serving_default`.
            output_filter: the outputs wanted; all where empty.

        Returns:
            Nested lists by output name; strings as `str`, those of outputs named `*_bytes` as
            `bytes`.

        Raises:
            ServingError: with the server's code and message.
        """
        return self._predict(inputs, signature_name, tuple(output_filter))[0]

    def write_events(self, events: Sequence[Mapping[str, object]]) -> Written:
        """Tells an embedded server with `--state` what users did.

        Args:
            events: as `POST /v1/events` takes them: `user_id`, `item_id` and, where they are
                known, `event_type`, `dwell` in seconds, `timestamp` in seconds since 1970.

        Returns:
            How many are durable now, and how many were too old to be kept.

        Raises:
            ServingError: with the server's code and message; then none was written, or it is not
                known whether they were. The same event may be sent again: it counts once.
        """
        return self._repeat(lambda left: self._transport.write("events", events, left))

    def write_items(self, items: Sequence[Mapping[str, object]]) -> Written:
        """Tells it what entered the catalogue and what left.

        Args:
            items: as `POST /v1/items` takes them: `item_id`, and `features` or `"left": True`.

        Raises:
            ServingError: as `write_events`.
        """
        return self._repeat(lambda left: self._transport.write("items", items, left))

    def metadata(self) -> Document:
        """The model's signatures, as the REST interface writes them."""
        return self._repeat(
            lambda left: self._transport.metadata(self.model, self._version, self._label, left)
        )

    def status(self) -> list[VersionStatus]:
        """The states of the model's versions, largest version first."""
        return self._repeat(lambda left: self._transport.status(self.model, self._version, left))

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()
        self._lookup.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _recommend_more(
        self, queries: Sequence[Query], k: int, live: Live, metadata: Document | None
    ) -> list[Recommendations]:
        inputs, signature = messages.recommend_request(queries, k, live, metadata)
        return self._recommend(inputs, signature)

    def _recommend(self, inputs: Inputs, signature: str) -> list[Recommendations]:
        outputs, version = self._predict(inputs, signature, ())
        return messages.recommendations(outputs, version)

    def _predict(
        self, inputs: Inputs, signature_name: str, output_filter: tuple[str, ...]
    ) -> Answer:
        return self._repeat(
            lambda left: self._transport.predict(
                self.model, self._version, self._label, inputs, signature_name, output_filter, left
            )
        )

    def _repeat(self, call: Callable[[float], T]) -> T:
        attempts = Attempts(self.timeout, self.retries)
        while True:
            try:
                return call(attempts.remaining())
            except ServingError as error:
                time.sleep(attempts.pause_after(error))


class _Rest:
    """HTTP/1.1 with one connection a thread, kept open."""

    def __init__(self, address: str, api_key: str, tls: bool, tls_ca_file: str):
        self._address = messages.check_address(address, grpc=False)
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["X-Api-Key"] = api_key
        self._context = None
        if tls or tls_ca_file:
            self._context = ssl.create_default_context(cafile=tls_ca_file or None)
        self._local = threading.local()
        self._connections: weakref.WeakSet[http.client.HTTPConnection] = weakref.WeakSet()
        self._outputs: dict[str, list[str]] = {}

    def predict(
        self,
        model: str,
        version: int | None,
        label: str | None,
        inputs: Inputs,
        signature: str,
        output_filter: tuple[str, ...],
        timeout: float,
    ) -> Answer:
        body = messages.predict_body(inputs, signature)
        path = messages.model_path(model, version, label) + ":predict"
        answer = self._send("POST", path, body, timeout)
        outputs = messages.predict_outputs(answer)
        if messages.NAMELESS in outputs:
            name = self._only_output(model, version, label, signature, timeout)
            outputs = {name: outputs[messages.NAMELESS]}
        return messages.select_outputs(outputs, output_filter), None

    def _only_output(
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
            document = self.metadata(model, version, label, timeout)
            found = document["metadata"]["signature_def"]["signature_def"][signature]
            self._outputs[signature] = list(found["outputs"])
        return self._outputs[signature][0]

    def write(self, kind: str, rows: Sequence[Mapping[str, object]], timeout: float) -> Written:
        body = messages.rows_body(rows)
        return messages.written(self._send("POST", f"/v1/{kind}", body, timeout))

    def metadata(
        self, model: str, version: int | None, label: str | None, timeout: float
    ) -> Document:
        path = messages.model_path(model, version, label) + "/metadata"
        return messages.parse(self._send("GET", path, None, timeout))

    def status(self, model: str, version: int | None, timeout: float) -> list[VersionStatus]:
        return messages.version_states(
            self._send("GET", messages.model_path(model, version), None, timeout)
        )

    def close(self) -> None:
        for connection in list(self._connections):
            connection.close()

    def _send(self, method: str, path: str, body: bytes | None, timeout: float) -> bytes:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            if self._context is not None:
                connection = http.client.HTTPSConnection(self._address, context=self._context)
            else:
                connection = http.client.HTTPConnection(self._address)
            self._local.connection = connection
            self._connections.add(connection)
        fresh = connection.sock is None
        deadline = time.monotonic() + timeout
        connection.timeout = timeout
        try:
            if connection.sock is not None:
                connection.sock.settimeout(timeout)
            connection.request(method, path, body, self._headers)
            response = connection.getresponse()
            pieces = []
            while piece := response.read1(1 << 20):
                pieces.append(piece)
                if connection.sock is not None:
                    connection.sock.settimeout(max(deadline - time.monotonic(), 0.001))
            pieces.append(response.read())  # nothing, or IncompleteRead where the answer was cut
            answer = b"".join(pieces)
        except (socket.timeout, TimeoutError):
            connection.close()
            raise ServingError(
                Code.DEADLINE_EXCEEDED, f"no answer within {timeout:.3g} s"
            ) from None
        except ssl.SSLError as error:
            connection.close()
            raise ServingError(Code.UNAUTHENTICATED, f"TLS: {error}") from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if not fresh and isinstance(error, (http.client.RemoteDisconnected, ConnectionError)):
                # The server closed an idle connection; a new one tells whether it is there.
                return self._send(method, path, body, timeout)
            if isinstance(error, http.client.BadStatusLine) and not isinstance(
                error, http.client.RemoteDisconnected
            ):
                raise messages.no_http(self._address) from None
            raise ServingError(
                Code.UNAVAILABLE, f"{self._address}: {error or type(error).__name__}"
            ) from None
        messages.check_http(response.status, answer)
        return answer


class _Grpc:
    """gRPC over one channel."""

    def __init__(self, address: str, api_key: str, tls: bool, tls_ca_file: str):
        import grpc

        from serving.client import grpc_messages
        from serving.wire import protos

        messages.check_address(address, grpc=True)
        self._grpc, self._messages = grpc, grpc_messages
        limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        if tls or tls_ca_file:
            roots = Path(tls_ca_file).read_bytes() if tls_ca_file else None
            self._channel = grpc.secure_channel(
                address, grpc.ssl_channel_credentials(roots), options=limits
            )
        else:
            self._channel = grpc.insecure_channel(address, options=limits)
        self._metadata = (("x-api-key", api_key),) if api_key else ()
        self._prediction = protos.PredictionServiceStub(self._channel)
        self._model = protos.ModelServiceStub(self._channel)
        self._live: Any = protos.LiveStateStub(self._channel)
        self._status_request = protos.status.GetModelStatusRequest

    def predict(
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
        response = self._call(self._prediction.Predict, request, timeout)
        return self._messages.predict_outputs(response), response.model_spec.version.value

    def write(self, kind: str, rows: Sequence[Mapping[str, object]], timeout: float) -> Written:
        method = self._live.WriteEvents if kind == "events" else self._live.WriteItems
        request = self._messages.write_request(kind, rows)
        return self._messages.written(self._call(method, request, timeout))

    def metadata(
        self, model: str, version: int | None, label: str | None, timeout: float
    ) -> Document:
        request = self._messages.metadata_request(model, version, label)
        response = self._call(self._prediction.GetModelMetadata, request, timeout)
        return self._messages.metadata_document(response)

    def status(self, model: str, version: int | None, timeout: float) -> list[VersionStatus]:
        request = self._status_request(model_spec=self._messages.model_spec(model, version, None))
        return self._messages.version_states(
            self._call(self._model.GetModelStatus, request, timeout)
        )

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: Callable[..., Any], request: Any, timeout: float) -> Any:
        try:
            return method(request, timeout=timeout, metadata=self._metadata)
        except self._grpc.RpcError as error:
            raise self._messages.error_of(error) from None
