"""The totals that the leader learns from, and the state of what it has learned, kept for its successor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import redis

from dispatcher.store.keys import Keys
from dispatcher.store.scripts.call import Scripts, led


class PolicyStore:
    """Reads totals and keeps state, for one leader. The client must answer with bytes."""

    def __init__(self, client: redis.Redis, keys: Keys, token: str) -> None:
        self._client = client
        self._keys = keys
        self._token = token
        self._run = Scripts(client)

    def totals(self) -> dict[str, bytes]:
        """Epoch → JSON of the totals in that worker's last beat."""
        totals = cast("dict[bytes, bytes]", self._client.hgetall(self._keys.totals))
        return {epoch.decode(errors="replace"): text for epoch, text in totals.items()}

    def load(self) -> dict[str, bytes]:
        """Subject → its saved state."""
        states = cast("dict[bytes, bytes]", self._client.hgetall(self._keys.policy))
        return {subject.decode(errors="replace"): state for subject, state in states.items()}

    def save(self, states: Mapping[str, bytes]) -> None:
        """Save the states of these subjects; other subjects keep theirs.

        Raises :class:`~dispatcher.errors.NotLeader` once another dispatcher leads.
        """
        if not states:
            return
        led(self._run(
            "save_policy", [self._keys.leader, self._keys.policy], [self._token, *(part for pair in states.items() for part in pair)]
        ))  # fmt: skip
