"""take and ack as cheaply as Redis allows: the two calls that every job costs its worker.

redis-py's client spends more on such a call than the server does, so this packs the command itself and sends it over one
connection of its own. The keys of a worker life never change, so all but the lease id is packed once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from hashlib import sha1
from typing import Any, NamedTuple

import redis

from dispatcher.store.keys import Keys
from dispatcher.store.redis_client.connection import is_demoted
from dispatcher.store.scripts.sources import source

TRANSIENT = (redis.ConnectionError, redis.TimeoutError, OSError)
"""Redis did not answer; the call may or may not have happened."""


OTHERS_MAX = 64
"""One call starts so many jobs more than the one that was asked for, at most."""


class Started(NamedTuple):
    """A job that runs here from now on."""

    lease_id: str
    message: bytes
    entry: bytes


def _bulk(part: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(part), part)


class _Call:
    """One script with its keys, packed but for its arguments."""

    def __init__(self, name: str, keys: Sequence[str]) -> None:
        self.text = source(name).encode()
        self._sha = sha1(self.text).hexdigest().encode()  # noqa: S324 (what EVALSHA asks for)
        self._fixed = len(keys) + 3
        self._keys = _bulk(str(len(keys)).encode()) + b"".join(_bulk(key.encode()) for key in keys)
        self._head = _bulk(b"EVALSHA") + _bulk(self._sha) + self._keys

    def pack(self, args: Sequence[bytes]) -> bytes:
        return b"*%d\r\n%b%b" % (self._fixed + len(args), self._head, b"".join([b"$%d\r\n%b\r\n" % (len(a), a) for a in args]))


class LeasePipe:
    """take and ack of one worker life, over one connection. Any thread may call; calls wait for each other.

    Raises what redis-py raises. After one of :data:`TRANSIENT` the call may have happened, and the next call connects anew.
    """

    def __init__(self, client: redis.Redis, keys: Keys, epoch: str) -> None:
        self._connection: Any = client.connection_pool.make_connection()
        self._lock = threading.Lock()
        self.revoked_at: bytes | None = None
        """When something was last revoked (µs of Redis' clock), as of the last job that was taken; ``None``: not lately."""
        alive, leases, taken = keys.alive(epoch), keys.leases(epoch), keys.taken(epoch)
        self._take = _Call("take", [alive, leases, taken, keys.messages, keys.revoked_at, keys.worker_queue(epoch)])
        self._ack = _Call("ack", [alive, leases, taken, keys.messages, keys.lanes, keys.wake])

    def take(self, lease_id: bytes, at_ms: int, others: int = 0) -> tuple[list[Started], list[str]]:
        """Start the job of a lease that was popped, at about ``at_ms`` of Redis' time, and up to ``others`` (at most
        :data:`OTHERS_MAX`) that stand next in the queue, which are popped, too.

        Those that were started, and the ids of those that are late and must be buried instead. What is in neither is not this worker's
        (any more).
        """
        reply = self._run(self._take, [b"%d" % at_ms, b"%d" % others, lease_id])
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
        """End leases of jobs that have ended, at most 500; how many there were, or -1: this life has ended, nothing was changed."""
        return int(self._run(self._ack, [lease_id.encode() for lease_id in lease_ids]))

    def close(self) -> None:
        with self._lock:
            self._connection.disconnect()

    def _run(self, call: _Call, args: Sequence[bytes]) -> Any:
        connection = self._connection
        packed = [call.pack(args)]
        with self._lock:
            try:
                if connection._sock is None:
                    connection.connect()  # sending would connect too, but not to where a Sentinel says
                connection.send_packed_command(packed, check_health=False)
                return connection.read_response(disable_decoding=True)
            except redis.exceptions.NoScriptError:
                # A new or restarted server. The refused call changed nothing, so it may be sent again.
                connection.send_command("SCRIPT", "LOAD", call.text)
                connection.read_response(disable_decoding=True)
                connection.send_packed_command(packed, check_health=False)
                return connection.read_response(disable_decoding=True)
            except redis.ResponseError as exc:
                if is_demoted(exc):
                    connection.disconnect()
                raise
            except BaseException:
                # A late answer must not be read as the answer to the next call.
                connection.disconnect()
                raise
