"""Live state in a Redis, which servers and clients of several machines share."""

from __future__ import annotations

import json
import math
from typing import Any, Sequence

from serving.state.events import Event, Item
from serving.state.store import Live, Store
from serving.wire.errors import Code, ServingError, StartError

_EVENTS, _ITEMS, _LEFT = b"recsys:events:", b"recsys:items", b"recsys:left"
_CHANGES, _NUMBER = b"recsys:catalogue", b"recsys:number"
# A score is a float64 of 53 bits: seconds until the year 2242, and an order among those of a
# second, which begins anew after a million events.
_WITHIN_A_SECOND = 1 << 20


class RedisStore(Store):
    """A store in a Redis; see `Store`.

    What is acknowledged is as durable as the Redis is told to be: `appendonly yes` and `appendfsync
    always` are what the file is. Its transactions touch several keys, so a Redis Cluster is none.
    """

    def __init__(self, url: str, events_per_user: int, ttl_seconds: float):
        """Connects; see `open_state`."""
        super().__init__(events_per_user, ttl_seconds)
        try:
            import redis
        except ImportError:
            raise StartError(
                f"the state {_shown(url)} needs the package redis: install it"
            ) from None
        self._errors = redis.RedisError
        try:
            self._redis: Any = redis.Redis.from_url(url, socket_timeout=5.0)
            self._redis.ping()
        except (redis.RedisError, ValueError, OSError) as error:
            raise StartError(f"cannot keep the state in {_shown(url)}: {error}") from error
        self._url = _shown(url)
        # One value, so that several threads see what belongs together.
        self._catalogue: tuple[bytes | None, tuple[bytes, ...]] = (b"", ())
        self._thread.start()

    def look_up(self, users: Sequence[bytes]) -> Live:
        asked = list(dict.fromkeys(users))
        try:
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.get(_CHANGES)
            for user in asked:
                pipeline.zrangebyscore(_EVENTS + user, self.oldest(), "+inf")
            changes, *rows = pipeline.execute()
            if changes != self._catalogue[0]:
                self._catalogue = changes, tuple(sorted(self._redis.smembers(_LEFT)))
        except self._errors as error:
            raise self._failed("read", error) from error
        found = {
            user: [_event(user, member) for member in members[-self.events_per_user :]]
            for user, members in zip(asked, rows, strict=True)
        }
        return Live([found[user] for user in users], self._catalogue[1], int(changes or 0))

    def items(self) -> dict[bytes, Item]:
        try:
            pipeline = self._redis.pipeline(transaction=True)
            rows, left = pipeline.hgetall(_ITEMS).smembers(_LEFT).execute()
        except self._errors as error:
            raise self._failed("read", error) from error
        return {
            item_id: Item(item_id, json.loads(features))
            for item_id, features in rows.items()
            if item_id not in left
        }

    def _commit(self, events: Sequence[Event], items: Sequence[Item]) -> None:
        try:
            number = self._redis.incrby(_NUMBER, len(events)) - len(events) if events else 0
            pipeline = self._redis.pipeline(transaction=True)
            for event in events:
                number += 1
                within = number % _WITHIN_A_SECOND / _WITHIN_A_SECOND
                # What is there already keeps its place.
                member = {_member(event): event.timestamp + within}
                pipeline.zadd(_EVENTS + event.user_id, member, nx=True)
            for user in dict.fromkeys(event.user_id for event in events):
                key = _EVENTS + user
                pipeline.zremrangebyrank(key, 0, -self.events_per_user - 1)
                if self.ttl_seconds:
                    pipeline.zremrangebyscore(key, "-inf", f"({self.oldest()}")
                    pipeline.expire(key, math.ceil(self.ttl_seconds))
            for item in items:
                (pipeline.sadd if item.left else pipeline.srem)(_LEFT, item.item_id)
                if item.features:
                    pipeline.hset(_ITEMS, item.item_id, json.dumps(dict(item.features)))
            if items:
                pipeline.incr(_CHANGES)
            pipeline.execute()
        except self._errors as error:
            raise self._failed("write", error) from error

    def _close(self) -> None:
        self._redis.close()

    def _failed(self, what: str, error: Exception) -> ServingError:
        return ServingError(Code.UNAVAILABLE, f"cannot {what} the state in {self._url}: {error}")


def _member(event: Event) -> str:
    item = event.item_id.decode("utf-8", "surrogateescape")
    return json.dumps([event.timestamp, item, event.event_type, event.dwell])


def _event(user: bytes, member: bytes) -> Event:
    timestamp, item, event_type, dwell = json.loads(member)
    return Event(user, item.encode("utf-8", "surrogateescape"), event_type, dwell, timestamp)


def _shown(url: str) -> str:
    """The URL without a password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
