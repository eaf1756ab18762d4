"""Which workers are kept for suspects, in Redis: a successor of the leader must give them nothing else either."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import redis

from dispatcher.errors import NotLeader
from dispatcher.store.keys import Keys
from dispatcher.store.scripts.sources import Scripts


class SuspectStore:
    """One leader's. The client must answer with bytes. Raises :class:`NotLeader` once another leads."""

    def __init__(self, client: redis.Redis, keys: Keys, token: str) -> None:
        self._client = client
        self._keys = keys
        self._token = token
        self._run = Scripts(client)

    def assign(self, epoch: str, *, lane: str) -> bool:
        """Lease the next job of the lane to a worker that owes nothing; False: not now."""
        keys = self._keys
        names = [
            keys.leader, keys.alive(epoch), keys.worker(epoch), keys.leases(epoch), keys.worker_queue(epoch), keys.sequence, keys.lanes,
            keys.lane(lane), keys.alone,
        ]  # fmt: skip
        return bool(self._led(self._run("assign_alone", names, [self._token, epoch, lane])))

    def epochs(self) -> set[str]:
        """Where a suspect runs, or ran."""
        # Anything else is no epoch: nobody ran there.
        return {epoch.decode() for epoch in cast("list[bytes]", self._client.hkeys(self._keys.alone)) if epoch.isalnum()}

    def free(self, epochs: Collection[str]) -> set[str]:
        """Those of them where a suspect still runs; the others are forgotten."""
        if not epochs:
            return set()
        names = [self._keys.leader, self._keys.alone, *map(self._keys.leases, epochs)]
        busy = self._run("free_alone", names, [self._token, *epochs])
        return {epoch.decode() for epoch in self._led(busy)}

    def _led(self, reply: Any) -> Any:
        if reply in (-1, [-1]):
            raise NotLeader("another dispatcher leads this cell")
        return reply
