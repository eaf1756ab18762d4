"""Calls take and ack, the two calls that every job costs its worker, as cheaply as Redis allows.

redis-py's client spends more on such a call than the server does, so the commands are packed here and sent over a
connection of their own. The keys of a worker life never change, so everything but the arguments is packed once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

import redis

from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import is_demoted
from dispatcher.store.scripts.call import FixedCall, lived

TRANSIENT = (redis.ConnectionError, redis.TimeoutError, OSError)
"""Redis did not answer; the call may or may not have happened."""

OTHERS_MAX = 64
"""Jobs that one call may start beside the one that was popped."""


class Started(NamedTuple):
    """A job that has begun, and runs in this worker from now on."""

    lease_id: str
    message: bytes
    """As the producer sent it."""
    entry: bytes
    """Its frame and lane (``frame.py``)."""


class LeasePipe:
    """take and ack of one worker life, over one connection. Any thread may call; calls wait for each other.

    Raises what redis-py raises. After one of :data:`TRANSIENT` the call may have happened, and the next call connects
    anew.
    """

    def __init__(self, client: redis.Redis, keys: Keys, epoch: str) -> None:
        self._connection: Any = client.connection_pool.make_connection()
        self._epoch = epoch
        self._lock = threading.Lock()
        self.revoked_at: bytes | None = None
        """When the last revoke was (µs of Redis' clock), as of the last take; ``None``: not lately."""
        alive, leases, taken = keys.alive(epoch), keys.leases(epoch), keys.taken(epoch)
        self._take = FixedCall("take", [alive, leases, taken, keys.messages, keys.revoked_at, keys.worker_queue(epoch)], self._ask)
        self._ack = FixedCall("ack", [alive, leases, taken, keys.messages, keys.lanes, keys.wake], self._ask)

    def take(self, lease_id: bytes, at_ms: int, others: int = 0) -> tuple[list[Started], list[str]]:
        """Start the job of a popped lease, and up to ``others`` (at most :data:`OTHERS_MAX`) that are next in the
        queue: these it pops.

        ``at_ms``: about now, in Redis' time. Returns the jobs that were started, and the ids of leases whose job is
        late and must be buried instead. A lease that is in neither is not this worker's any more.
        """
        with self._lock:
            reply = self._take([b"%d" % at_ms, b"%d" % others, lease_id])
        started: list[Started] = []
        late: list[str] = []
        if not reply:
            return started, late
        self.revoked_at = reply[0] or None
        for i in range(1, len(reply), 3):
            name, entry, message = reply[i].decode(errors="replace"), reply[i + 1], reply[i + 2]
            if entry:
                started.append(Started(name, message, entry))
            elif entry == 0:
                late.append(name)
        return started, late

    def ack(self, lease_ids: Iterable[str]) -> int:
        """End leases of jobs that have ended, at most 500. Returns how many there were.

        Raises :class:`~dispatcher.errors.EpochEnded`; then nothing was changed.
        """
        with self._lock:
            return lived(int(self._ack([lease_id.encode() for lease_id in lease_ids])), self._epoch)

    def close(self) -> None:
        with self._lock:
            self._connection.disconnect()

    def _ask(self, packed: bytes) -> Any:
        connection = self._connection
        try:
            if connection._sock is None:
                connection.connect()  # sending would connect too, but not to where a Sentinel says
            connection.send_packed_command([packed], check_health=False)
            return connection.read_response(disable_decoding=True)
        except redis.ResponseError as exc:
            if is_demoted(exc):
                connection.disconnect()
            raise
        except BaseException:
            # A late answer must not be read as the answer to the next call.
            connection.disconnect()
            raise
