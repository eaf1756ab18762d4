"""What the leader learns from, and where it keeps what it has learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import redis

from dispatcher.errors import NotLeader
from dispatcher.store.keys import Keys
from dispatcher.store.scripts.sources import Scripts


class PolicyStore:
    """One leader's. The client must answer with bytes."""

    def __init__(self, client: redis.Redis, keys: Keys, token: str) -> None:
        self._client = client
        self._keys = keys
        self._token = token
        self._run = Scripts(client)

    def totals(self) -> dict[str, bytes]:
        """Epoch → JSON of what that worker told with its last beat."""
        found = cast("dict[bytes, bytes]", self._client.hgetall(self._keys.totals))
        return {epoch.decode(errors="replace"): told for epoch, told in found.items()}

    def load(self) -> dict[str, bytes]:
        """Subject → what was saved of it."""
        found = cast("dict[bytes, bytes]", self._client.hgetall(self._keys.policy))
        return {subject.decode(errors="replace"): state for subject, state in found.items()}

    def save(self, states: Mapping[str, bytes]) -> None:
        """Keep these subjects' states beside those of the others. Raises :class:`NotLeader` once another leads."""
        if not states:
            return
        reply = self._run(
            "save_policy", [self._keys.leader, self._keys.policy], [self._token, *(part for pair in states.items() for part in pair)]
        )
        if reply == -1:
            raise NotLeader("another dispatcher leads this cell")
