"""The REST interface: routes, bodies and status codes as TensorFlow Serving has them."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import unquote

from aiohttp import ClientError, web

from serving.server.inference import Inference
from serving.server.json.apart import Apart
from serving.server.json.examples import read_examples
from serving.server.json.parse import read_predict
from serving.server.json.print import (
    classify_response,
    error_response,
    predict_response,
    regress_response,
)
from serving.server.json.text import parse_value
from serving.server.manager import ModelVersionStatus
from serving.server.metrics import OPEN_METRICS
from serving.server.servable import DEFAULT_SIGNATURE
from serving.state import read_events, read_items
from serving.wire import protos
from serving.wire.errors import Code, ServingError, from_exception, http_status, invalid
from serving.wire.proto_json import message_to_dict

_PREDICTION = re.compile(
    r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:(classify|regress|predict)",
    re.IGNORECASE | re.ASCII,
)
_STATUS = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:/versions/(\d+)|/labels/([^/:]+))?(?:/(metadata))?",
    re.IGNORECASE | re.ASCII,
)
_STATE = re.compile(r"/v1/(events|items)", re.IGNORECASE | re.ASCII)
_HANDLED = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)
# Parsing holds the interpreter: above the first size it happens on a thread, so that others get
# their turn between its steps, above the second in a process, since one step takes too long.
_LARGE, _HUGE = 1 << 17, 1 << 19
_LARGE_ANSWER, _HUGE_ANSWER = 1 << 14, 1 << 17  # values; printing them is no different


@dataclass(frozen=True)
class RestOptions:
    """How REST requests are received.

    Attributes:
        max_body_bytes: largest body, after decompression.
        body_timeout: seconds a client may take to send its body.
        cors: answer with CORS headers.
        metrics_path: where the metrics are; empty: nowhere.
        api_key: required in `X-Api-Key` or as a bearer token; empty: no key.
    """

    max_body_bytes: int
    body_timeout: float
    cors: bool = False
    metrics_path: str = ""
    api_key: str = ""


class RestHandler:
    """Answers one HTTP request."""

    def __init__(self, inference: Inference, options: RestOptions):
        self._inference = inference
        self._options = options
        self._apart = Apart()

    def close(self) -> None:
        """Ends the process that reads big bodies."""
        self._apart.close()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """The handler for `aiohttp.web.Server`."""
        path = _path(request.raw_path)
        options = self._options
        # A browser asks for leave (OPTIONS) without the key that it would send.
        asks_leave = options.cors and request.method == "OPTIONS"
        if (
            options.api_key
            and not asks_leave
            and not key_matches(
                options.api_key,
                request.headers.get("X-Api-Key"),
                request.headers.get("Authorization"),
            )
        ):
            return self._error(ServingError(Code.UNAUTHENTICATED, "A valid API key is required"))
        if options.metrics_path and path == options.metrics_path:
            return self._metrics(request)
        if not _HANDLED.fullmatch(path):
            return web.Response(
                status=404,
                text="<html><body><h1>Not Found</h1></body></html>",
                content_type="text/html",
            )
        if request.method == "OPTIONS":
            return self._response(200 if "Origin" in request.headers else 400, b"")
        try:
            body = await self._answer(request, path)
        except ServingError as error:
            return self._error(error)
        except Exception as error:
            return self._error(from_exception(error))
        return self._response(200, body)

    def _response(self, status: int, body: bytes) -> web.Response:
        options = self._options
        headers = {"Content-Type": "application/json"}
        if options.cors:
            headers["Access-Control-Allow-Origin"] = "*"
            headers["Access-Control-Allow-Methods"] = "POST, GET"
            allowed = "Content-Type" + (", X-Api-Key, Authorization" if options.api_key else "")
            headers["Access-Control-Allow-Headers"] = allowed
        if status == 503:
            headers["Retry-After"] = "1"
        response = web.Response(status=status, body=body, headers=headers)
        if self._inference.draining:
            response.force_close()
        return response

    def _metrics(self, request: web.BaseRequest) -> web.Response:
        asked = OPEN_METRICS in request.headers.get("Accept", "")
        kind = f"{OPEN_METRICS}; version=1.0.0; charset=utf-8" if asked else "text/plain"
        page = self._inference.metrics.page(open_metrics=asked)
        return web.Response(body=page.encode(), headers={"Content-Type": kind})

    def _error(self, error: ServingError) -> web.Response:
        status = getattr(error, "http_status", None) or http_status(error.code)
        return self._response(status, error_response(error.message))

    async def _answer(self, request: web.BaseRequest, path: str) -> bytes:
        if request.method == "POST":
            match = _PREDICTION.fullmatch(path)
            if match:
                name, version, label, method = match.groups()
                spec = _spec(name, version, label)
                with self._inference.admitted() as hold:
                    body = await self._read(request, hold)
                    api = method.capitalize()
                    with self._inference.counted(spec.name, api, "REST"):
                        return await getattr(self, "_" + method.lower())(spec, body)
            match = _STATE.fullmatch(path)
            if match and self._inference.live is None:
                raise invalid(f"{path}: the server keeps no state; it does with --state")
            if match:
                with self._inference.admitted() as hold:
                    return await self._write(match[1].lower(), await self._read(request, hold))
        elif request.method == "GET":
            match = _STATUS.fullmatch(path)
            if match:
                name, version, label, metadata = match.groups()
                spec = _spec(name or "", version, label)
                if not name:
                    raise invalid("Missing model name in request.")
                return self._metadata(spec) if metadata else self._status(spec)
        raise invalid(f"Malformed request: {request.method} {path}")

    async def _read(self, request: web.BaseRequest, hold: Callable[[int], None]) -> bytes:
        limit = self._options.max_body_bytes
        if (request.content_length or 0) > limit:
            raise _HttpError(
                413, f"The body has {request.content_length} bytes; the limit is {limit}"
            )
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        content = request.content
        if content.is_eof() and content.exception() is None:
            body = content.read_nowait(-1)  # it came whole with the headers
            if len(body) > limit:
                raise _HttpError(413, f"The body has more than {limit} bytes")
            hold(len(body))
            return body
        try:
            reading = _read_all(content, limit, hold)
            return await asyncio.wait_for(reading, self._options.body_timeout)
        except asyncio.TimeoutError:
            raise _HttpError(
                408, f"The body did not arrive within {self._options.body_timeout:g} s"
            ) from None
        except (ClientError, web.RequestPayloadError, ConnectionError, OSError) as error:
            raise invalid(f"Cannot read the body: {error}") from None

    async def _write(self, kind: str, body: bytes) -> bytes:
        read = read_events if kind == "events" else read_items
        rows = await self._decode(body, lambda: read(parse_value(body)), apart=False)
        if kind == "events":
            written = await self._inference.live.write_events(rows)
        else:
            written = await self._inference.write_items(rows)
        told = {name: value for name, value in asdict(written).items() if value != ()}
        return json.dumps(told).encode()

    async def _decode(
        self, body: bytes, function: Callable[..., Any], *arguments: Any, apart: bool = True
    ) -> Any:
        # Before anything is made of it: what two bytes of JSON say is an object of 56.
        self._inference.check_size(body.count(b",") + body.count(b"[") + body.count(b"{"))
        if len(body) <= _LARGE:
            return function(*arguments)
        if len(body) > _HUGE and apart:
            return await self._apart.run(function, *arguments)
        return await asyncio.to_thread(function, *arguments)

    async def _predict(self, spec, body: bytes) -> bytes:
        with contextlib.ExitStack() as held:
            types, missing = {}, None
            try:
                servable = held.enter_context(self._inference.servable(spec))
                types = servable.input_types
            except ServingError as error:
                missing = error  # which is said of a body that can be read
            name, inputs, by_row = await self._decode(body, read_predict, body, types)
            if missing is not None:
                raise missing
            signature = name or DEFAULT_SIGNATURE
            if signature not in servable.signatures:
                raise invalid(f'Serving signature name: "{signature}" not found in signature def')
            if inputs is None:
                raise invalid(f"Failed to get input map for signature: {signature}")
            outputs = await self._inference.predict(servable, signature, inputs)
        values = sum(array.size for array in outputs.values())
        if values > _HUGE_ANSWER:
            return await self._apart.run(predict_response, outputs, by_row)
        if values > _LARGE_ANSWER:
            return await asyncio.to_thread(predict_response, outputs, by_row)
        return predict_response(outputs, by_row)

    async def _classify(self, spec, body: bytes) -> bytes:
        request = await self._examples_request(
            protos.classification.ClassificationRequest(model_spec=spec), body
        )
        response = protos.classification.ClassificationResponse()
        with self._inference.servable(request.model_spec) as servable:
            await self._inference.classify(servable, request, response)
        return classify_response(response.result)

    async def _regress(self, spec, body: bytes) -> bytes:
        request = await self._examples_request(
            protos.regression.RegressionRequest(model_spec=spec), body
        )
        response = protos.regression.RegressionResponse()
        with self._inference.servable(request.model_spec) as servable:
            await self._inference.regress(servable, request, response)
        return regress_response(response.result)

    async def _examples_request(self, request, body: bytes):
        read = await self._decode(body, read_examples, type(request), body)
        request.MergeFromString(read)
        return request

    def _status(self, spec) -> bytes:
        version = spec.version.value if spec.HasField("version") else None
        entries = [
            {
                "version": str(entry.number),
                "state": ModelVersionStatus.State.Name(entry.state),
                "status": {
                    "error_code": entry.error.code.name if entry.error else "OK",
                    "error_message": entry.error.message if entry.error else "",
                },
            }
            for entry in self._inference.manager.status(spec.name, version)
        ]
        return json.dumps({"model_version_status": entries}, indent=1).encode()

    def _metadata(self, spec) -> bytes:
        with self._inference.servable(spec) as servable:
            signatures = protos.metadata.SignatureDefMap()
            for name, definition in servable.signatures.items():
                signatures.signature_def[name].CopyFrom(definition)
            content = {
                "model_spec": {
                    "name": servable.name,
                    "signature_name": "",
                    "version": str(servable.version),
                },
                "metadata": {"signature_def": message_to_dict(signatures)},
            }
        return json.dumps(content, indent=1).encode()


class _HttpError(ServingError):
    """An error whose HTTP status has no status code of its own."""

    def __init__(self, status: int, message: str):
        super().__init__(Code.RESOURCE_EXHAUSTED, message)
        self.http_status = status


async def _read_all(content, limit: int, hold: Callable[[int], None]) -> bytes:
    pieces, size = [], 0
    async for piece in content.iter_any():
        size += len(piece)
        if size > limit:
            raise _HttpError(413, f"The body has more than {limit} bytes")
        hold(len(piece))
        pieces.append(piece)
    return b"".join(pieces)


def _path(target: str) -> str:
    """The path of a request's target, which a proxy may send whole: `http://host/path`.

    A query is a part of it, as it is for TensorFlow Serving.
    """
    whole = re.match(r"https?://[^/?#]*", target, re.IGNORECASE)
    return target[whole.end() :] if whole else target


def _spec(name: str, version: str | None, label: str | None):
    spec = protos.model.ModelSpec(name=unquote(name))
    if version is not None:
        # The length first: Python refuses to read thousands of digits.
        if len(version.lstrip("0")) > 19 or int(version) >= 1 << 63:
            raise invalid(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(version)
    if label is not None:
        spec.version_label = unquote(label)
    return spec


def key_matches(key: str, given: str | None, authorization: str | None) -> bool:
    """Compares an API key in constant time, given plainly or as a bearer token."""
    if given is None and authorization and authorization.lower().startswith("bearer "):
        given = authorization[7:].strip()
    # A header may hold any bytes; those that are not UTF-8 come as surrogates.
    return hmac.compare_digest((given or "").encode("utf-8", "surrogateescape"), key.encode())
