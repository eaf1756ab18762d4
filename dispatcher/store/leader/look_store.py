"""What anybody may read of a cell: its snapshot, its queues and models, its workers' registrations. Nothing here
writes.

The client must answer with bytes (``connect(url, text=False)``): messages are read by the thousand and decoded by none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import redis

from dispatcher.store.keys import Keys
from dispatcher.store.leader.admit_batch import IngressList
from dispatcher.store.leader.look import Look, as_look
from dispatcher.store.registration import Registrations
from dispatcher.store.scripts.call import Call
from dispatcher.store.scripts.stream import ScriptRunner
from dispatcher.store.worker.worker_store import ALIVE_TTL_MS

READ_BYTES_MAX = 8 * 1024 * 1024
"""One look reads about this much of the ingress at most."""


class LookStore:
    """Reads one cell. Not thread-safe."""

    token = ""
    """A look compares it with the leader's. A reader has none: in its looks ``leads`` is false."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.keys = keys
        self._client = client
        self._scripts = ScriptRunner(client)
        self._cell = keys.lane_prefix.removesuffix("lane:")

    def look(
        self, ingress: Sequence[IngressList] = (), *, limit: int = 0, message_bytes_max: int = 0, by_lane: bool = False
    ) -> Look:
        """A snapshot, with at most ``limit`` messages at the heads of the ingress lists. One round trip.

        Of a message above ``message_bytes_max`` only the size is read. ``by_lane``: with ``leased_ms``.
        """
        return as_look(ingress, *self._scripts.ask(self._look_calls(ingress, limit, message_bytes_max, by_lane=by_lane)))

    def _look_calls(self, ingress: Sequence[IngressList], limit: int, message_bytes_max: int, *, by_lane: bool) -> list[Call]:
        keys = self.keys
        names = [keys.leader, keys.lanes, keys.workers, keys.paused, keys.scheduled]
        calls: list[Call] = [("snapshot", names, [self.token, self._cell, ALIVE_TTL_MS, "1" if by_lane else ""])]
        if ingress:
            calls.append(("read_ingress", [source.key for source in ingress], [limit, message_bytes_max, READ_BYTES_MAX]))
        return calls

    def registrations(self) -> Registrations:
        """A new cache of the workers' registrations."""
        return Registrations(self._client, self.keys)

    def ingress_queues(self) -> set[str]:
        """Queues that any worker has ever named."""
        return {name.decode(errors="replace") for name in cast("set[bytes]", self._client.smembers(self.keys.ingress_queues))}

    def models(self) -> set[str]:
        """Models that any worker has ever served."""
        return {name.decode(errors="replace") for name in cast("set[bytes]", self._client.smembers(self.keys.models))}
