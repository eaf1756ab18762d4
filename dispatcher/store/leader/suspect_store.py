"""Which workers run a suspect alone. It is kept in Redis because the leader's successor must give them nothing else
either.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import redis

from dispatcher.store.keys import Keys
from dispatcher.store.scripts.call import Scripts, led


class SuspectStore:
    """Leases suspects, for one leader. The client must answer with bytes.

    Raises :class:`~dispatcher.errors.NotLeader` once another dispatcher leads.
    """

    def __init__(self, client: redis.Redis, keys: Keys, token: str) -> None:
        self._client = client
        self._keys = keys
        self._token = token
        self._run = Scripts(client)

    def assign(self, epoch: str, *, lane: str) -> bool:
        """Lease the next job of the lane to a worker that has no lease. False: that cannot be done now."""
        keys = self._keys
        names = [
            keys.leader, keys.alive(epoch), keys.worker(epoch), keys.leases(epoch), keys.worker_queue(epoch), keys.sequence, keys.lanes,
            keys.lane(lane), keys.alone,
        ]  # fmt: skip
        return bool(led(self._run("assign_alone", names, [self._token, epoch, lane])))

    def epochs(self) -> set[str]:
        """The workers where a suspect runs, or ran."""
        # Other fields are no epochs.
        return {epoch.decode() for epoch in cast("list[bytes]", self._client.hkeys(self._keys.alone)) if epoch.isalnum()}

    def free(self, epochs: Collection[str]) -> set[str]:
        """Forget the workers whose suspect has ended. Returns those where a suspect still runs."""
        if not epochs:
            return set()
        names = [self._keys.leader, self._keys.alone, *map(self._keys.leases, epochs)]
        busy = led(self._run("free_alone", names, [self._token, *epochs]))
        return {epoch.decode() for epoch in busy}
