"""Looks up what a client's requests are filled with."""

from __future__ import annotations

import asyncio
from typing import Sequence

from serving.client import messages
from serving.client.messages import Query
from serving.state import Live, Store, open_state
from serving.state.reader import Reader


class Lookup:
    """What is known of a client's users and of the catalogue; nothing where it has no state.

    Args:
        state: an address for `open_state`, whose store is closed with the client, or an open store;
            "" for none.
        since: events up to then are left out, in seconds since 1970.
    """

    def __init__(self, state: str | Store, since: int = 0):
        self._since = since
        self._own = open_state(state) if isinstance(state, str) and state else None
        store = state if isinstance(state, Store) else self._own
        self._reader = None if store is None else Reader(store)

    def live(self, queries: Sequence[Query]) -> Live:
        """What is known of the users of queries; see `serving.state.reader.Reader`."""
        if self._reader is None:
            return Live([[] for _ in queries])
        return self._reader.look_up(messages.user_ids(queries))[0].after(self._since)

    async def live_off_the_loop(self, queries: Sequence[Query]) -> Live:
        """The same, for an event loop that must not wait for a disk."""
        if self._reader is None:
            return self.live(queries)
        return await asyncio.to_thread(self.live, queries)

    def close(self) -> None:
        """Closes the store, unless it was given open."""
        if self._own is not None:
            self._own.close()
