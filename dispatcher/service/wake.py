"""Sleeps until there is something to do: a message on an ingress list, or a word from a script (an ack, a new worker, a drain).

Nothing is polled and nothing is popped: ``BLMOVE list list RIGHT RIGHT`` blocks while a list is empty and, when a message comes,
moves it from its end to the same end. A pop would put the only copy of a job into this process' memory.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from typing import Any

import redis

from dispatcher.clock import Clock, SystemClock

BLOCK_S = 5
"""How long a blocking command waits in Redis."""
OVERDUE_MS = 2 * BLOCK_S * 1000
"""A command that has had no answer by then never will: the other end of its connection is gone without a word."""


class Waker:
    """Blocking commands that stay open between calls, one connection for each list."""

    def __init__(self, client: redis.Redis, wake_key: str, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._pool = client.connection_pool
        self._wake_key = wake_key
        self._connections: dict[str, Any] = {}
        self._armed: dict[str, int] = {}  # list → when its command was sent

    def wait(self, ingress: Sequence[str], timeout_s: float) -> None:
        """Return when something came, or after ``timeout_s``. May return early; raises what redis-py raises when Redis is away."""
        keys = {self._wake_key, *ingress}
        try:
            for key in self._connections.keys() - keys:
                self._drop(key)
            now_ms = self._clock.monotonic_ms()
            for key in [key for key, sent_ms in self._armed.items() if now_ms - sent_ms > OVERDUE_MS]:
                self._drop(key)
            for key in keys - self._armed.keys():
                self._arm(key)
            # redis-py gives no public way to wait for several replies at once, so this asks its connections for their sockets.
            sockets = {self._connections[key]._sock: key for key in keys}
            while readable := select.select(list(sockets), [], [], timeout_s)[0]:
                came = [self._came(sockets.pop(socket)) for socket in readable]
                if any(came):
                    return
        except redis.RedisError:
            self.close()
            raise

    def _came(self, key: str) -> bool:
        """Whether what can be read means that something came, or may have: its time may be up. Where the key is no list nothing ever
        will: waiting for it goes on without it, and must not look like an outage of Redis.
        """
        self._armed.pop(key, None)
        try:
            self._connections[key].read_response()
        except redis.ResponseError:
            return False
        return True

    def close(self) -> None:
        """Give the connections up."""
        for key in list(self._connections):
            self._drop(key)

    def _arm(self, key: str) -> None:
        if key not in self._connections:
            self._connections[key] = self._pool.get_connection()
        if key == self._wake_key:
            self._connections[key].send_command("BRPOP", key, BLOCK_S)
        else:
            self._connections[key].send_command("BLMOVE", key, key, "RIGHT", "RIGHT", BLOCK_S)
        self._armed[key] = self._clock.monotonic_ms()

    def _drop(self, key: str) -> None:
        connection = self._connections.pop(key)
        self._armed.pop(key, None)
        connection.disconnect()  # there may be a command open on it
        self._pool.release(connection)
