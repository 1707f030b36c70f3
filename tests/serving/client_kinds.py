"""The four kinds of client behind one face: REST and gRPC, each with and without asyncio."""

from __future__ import annotations

import asyncio

import pytest

from serving.client.asynchronous import AsyncClient
from serving.client.client import Client
from serving.wire.errors import ServingError

KINDS = ["rest", "grpc", "rest-async", "grpc-async"]


class Synchronous:
    """An AsyncClient with the methods of Client, so that one test serves both."""

    def __init__(self, *arguments, **keywords):
        self._loop = asyncio.new_event_loop()
        self._client = AsyncClient(*arguments, **keywords)

    def __getattr__(self, name):
        method = getattr(self._client, name)
        return lambda *arguments, **keywords: self._loop.run_until_complete(
            method(*arguments, **keywords)
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


def make(kind: str, server, model: str = "recommender", **keywords):
    """A client of one of the four kinds."""
    protocol = kind.removesuffix("-async")
    address = f"{server.host}:{server.rest if protocol == 'rest' else server.grpc}"
    return (Synchronous if kind.endswith("async") else Client)(address, model, protocol, **keywords)


def error_of(call) -> ServingError:
    """The error that a call raises."""
    with pytest.raises(ServingError) as raised:
        call()
    return raised.value
