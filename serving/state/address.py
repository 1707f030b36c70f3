"""Opens a state by its address."""

from __future__ import annotations

from serving.state.redis import RedisStore
from serving.state.sqlite import SqliteStore
from serving.state.store import EVENTS_PER_USER, TTL_SECONDS, Store
from serving.wire.errors import StartError


def open_state(
    address: str, events_per_user: int = EVENTS_PER_USER, ttl_seconds: float = TTL_SECONDS
) -> Store:
    """Opens a state.

    Args:
        address: a file, made where there is none, which several processes of this machine may
            open; or the URL of a Redis, `redis://HOST:PORT/NUMBER`, `rediss://` or `unix://`.
        events_per_user: how many events of a user are kept, the newest.
        ttl_seconds: how old an event may be, by its own timestamp; 0: any age.

    Raises:
        StartError: the address is no state, or cannot be reached.
    """
    scheme, separator, _ = address.partition("://")
    if not separator:
        return SqliteStore(address, events_per_user, ttl_seconds)
    if scheme not in ("redis", "rediss", "unix"):
        raise StartError(
            f"a state is a file, or a Redis by redis://, rediss:// or unix://; got {address}"
        )
    return RedisStore(address, events_per_user, ttl_seconds)
