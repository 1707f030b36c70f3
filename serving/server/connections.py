"""Connections of the REST port: how many, how long without a request, and what is no request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web

from serving.server.json.print import error_response

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
_SILENT_SECONDS = 60.0  # between two lines of one kind
_log = logging.getLogger("serving")


class Told:
    """Logs a line, unless one of its kind was logged in the last minute.

    What clients send would else fill the disk.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def __call__(self, kind: str, text: str) -> None:
        """Logs a text of a kind."""
        now = time.monotonic()
        if now - self._last.get(kind, -_SILENT_SECONDS) >= _SILENT_SECONDS:
            self._last[kind] = now
            _log.warning("%s (said once a minute)", text)


class Connections(web.Server):
    """Makes a connection for every client, closes it where it asks nothing, and bounds them all."""

    def __init__(self, handler: Handler, most: int, header_seconds: float, idle_seconds: float):
        """Creates the server of one port, in the running event loop.

        Args:
            handler: answers requests.
            most: connections at once; those beyond are closed unheard.
            header_seconds: how long a connection may take until its first request has begun, which
                is when its headers are there.
            idle_seconds: how long it may then go without another.
        """
        super().__init__(self._handle)
        self._answer = handler
        self._most = most
        self._header_seconds = header_seconds
        self._idle_seconds = idle_seconds
        self._silent: dict[web.RequestHandler, asyncio.TimerHandle] = {}
        self.tell = Told()

    def __call__(self) -> web.RequestHandler:
        """A protocol for a new connection."""
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=self._idle_seconds,
            access_log=None,
        )

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """See the base class."""
        super().connection_made(handler, transport)
        loop = asyncio.get_running_loop()
        seconds = self._header_seconds
        if len(self.connections) > self._most:
            self.tell(
                "too many", f"closed a connection: {self._most} are open, the most there may be"
            )
            seconds = 0.0
        self._silent[handler] = loop.call_later(seconds, transport.abort)

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """See the base class."""
        self._speaks(handler)
        super().connection_lost(handler, exc)

    def _speaks(self, handler: web.RequestHandler) -> None:
        timer = self._silent.pop(handler, None)
        if timer is not None:
            timer.cancel()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._speaks(request.protocol)
        return await self._answer(request)


class _Connection(web.RequestHandler):
    """Answers what is no request by one line of JSON, and logs none of it."""

    __slots__ = ("_connections",)

    def __init__(self, connections: Connections, **options: Any):
        super().__init__(connections, **options)
        self._connections = connections

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """See the base class, which reads the rest of a body after the answer, and may fail to."""
        if isinstance(kw.get("exc_info"), web.RequestPayloadError):
            self._connections.tell("body", "a client of the REST port sent a body of no encoding")
        else:
            super().log_exception(*args, **kw)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """See the base class."""
        text = HTTPStatus(status).phrase if message is None else message.split("\n", 1)[0]
        if "content-encoding" in text.lower():
            text = "The body's Content-Encoding must be gzip or deflate"
        kind = type(exc).__name__
        if status >= 500:
            _log.error("an answer failed", exc_info=exc)
        else:
            self._connections.tell(kind, f"a client of the REST port sent no request ({kind})")
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer has been sent already")
        answer = web.Response(
            status=status, body=error_response(text), content_type="application/json"
        )
        answer.force_close()
        return answer
