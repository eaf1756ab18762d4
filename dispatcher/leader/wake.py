"""Sleeps until there is something to do: a message on an ingress list, or a word from a script (an ack, a new worker, a
drain).

Nothing is polled and nothing is popped: ``BLMOVE list list RIGHT RIGHT`` blocks while a list is empty and, when a
message comes, moves it from its end to the same end. A pop would put the only copy of a job into this process' memory.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from typing import Any

import redis

from dispatcher.clock import Clock, SystemClock
from dispatcher.store.leader.look import Granted, LookWish

BLOCK_S = 5
"""How long a blocking command waits in Redis."""
OVERDUE_MS = 2 * BLOCK_S * 1000
"""A command without an answer for so long will get none: the other end of its connection is gone without a word."""


class Waker:
    """Blocking commands that stay open between calls, one connection for each list."""

    def __init__(self, client: redis.Redis, wake_key: str, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._pool = client.connection_pool
        self._wake_key = wake_key
        self._connections: dict[str, Any] = {}
        self._armed: dict[str, tuple[int, LookWish | None]] = {}  # list → when its command was sent, and what with it

    def wait(self, ingress: Sequence[str], timeout_s: float, wish: LookWish | None = None) -> Granted | None:
        """Return when something came, or after ``timeout_s``. May return early; raises what redis-py raises when Redis
        is away.

        ``wish``: a look that Redis takes as soon as a message comes, which saves the round trip of asking after being
        woken. Returns it (or that of an earlier call) with its replies if a message has just come.
        """
        keys = {self._wake_key, *ingress}
        try:
            for key in self._connections.keys() - keys:
                self._drop(key)
            now_ms = self._clock.monotonic_ms()
            for key in [key for key, (sent_ms, _) in self._armed.items() if now_ms - sent_ms > OVERDUE_MS]:
                self._drop(key)
            for key in keys - self._armed.keys():
                self._arm(key, wish)
            # redis-py gives no public way to wait for several replies at once, so this asks its connections for their
            # sockets.
            sockets = {self._connections[key]._sock: key for key in keys}
            readable = select.select(list(sockets), [], [], 0)[0]
            is_news = not readable  # what came while nobody slept was seen by Redis before the caller's last work
            while readable or (readable := select.select(list(sockets), [], [], timeout_s)[0]):
                came = [self._came(sockets.pop(socket)) for socket in readable]
                if any(came):
                    return next((news for news in came if isinstance(news, Granted)), None) if is_news else None
                readable = []
        except redis.RedisError:
            self.close()
            raise
        return None

    def _came(self, key: str) -> bool | Granted:
        """True if work may have arrived: a message came, or the block timed out. False if the key is no list: it will
        never deliver, so stop waiting for it; that is no outage of Redis. Also reads the replies to the look that was
        sent along.
        """
        _, wish = self._armed.pop(key)
        connection = self._connections[key]
        first, *replies = (_reply(connection) for _ in range(1 + (wish.replies if wish else 0)))
        if isinstance(first, redis.ResponseError):
            return False
        return Granted(wish, replies) if wish and first is not None else True

    def close(self) -> None:
        """Give the connections up."""
        for key in list(self._connections):
            self._drop(key)

    def _arm(self, key: str, wish: LookWish | None) -> None:
        if key not in self._connections:
            self._connections[key] = self._pool.get_connection()
        connection = self._connections[key]
        if key == self._wake_key:
            wish = None
            connection.send_command("BRPOP", key, BLOCK_S)
        else:
            # Redis goes on with what a connection has sent as soon as it is not blocked any more.
            block = connection.pack_command("BLMOVE", key, key, "RIGHT", "RIGHT", BLOCK_S)
            connection.send_packed_command([*block, wish.packed] if wish else block)
        self._armed[key] = self._clock.monotonic_ms(), wish

    def _drop(self, key: str) -> None:
        connection = self._connections.pop(key)
        self._armed.pop(key, None)
        connection.disconnect()  # there may be a command open on it
        self._pool.release(connection)


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as exc:
        return exc
