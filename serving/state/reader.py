"""Looks up what requests are filled with; a state that cannot be read costs them its knowledge."""

from __future__ import annotations

import logging
import time
from typing import Sequence

from serving.state.store import Live, Store
from serving.wire.errors import ServingError

_log = logging.getLogger("serving")
# After a look-up that failed requests go on without, rather than all wait for the next.
_REST_SECONDS = 1.0
_SILENT_SECONDS = 60.0  # between two lines of the log


class Reader:
    """Looks up in a store for requests, which are answered whatever becomes of it.

    Args:
        store: what is known.
    """

    def __init__(self, store: Store):
        self._store = store
        self._left: tuple[bytes, ...] = ()
        self._rest_until = 0.0
        self._told = -_SILENT_SECONDS

    def look_up(self, users: Sequence[bytes]) -> tuple[Live, bool]:
        """What is known of users, and whether the state could be read.

        Where it could not, the users have no histories, and the items that left are those of the
        last look-up; the log has a line a minute.
        """
        try:
            if time.monotonic() >= self._rest_until:
                live = self._store.look_up(users)
                self._left = live.left
                return live, True
        except ServingError as error:
            now = time.monotonic()
            self._rest_until = now + _REST_SECONDS
            if now - self._told >= _SILENT_SECONDS:
                self._told = now
                _log.error("requests are answered without the state: %s", error.message)
        return Live([[] for _ in users], self._left), False
