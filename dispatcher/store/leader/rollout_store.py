"""Aliases of model versions in Redis: read and changed by the leading dispatcher, and by an operator who leads nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec
import redis

from dispatcher.core.rollout.aliases import Rollout
from dispatcher.core.rollout.canary import Watch
from dispatcher.errors import NotLeader
from dispatcher.store.keys import Keys
from dispatcher.store.scripts.sources import Scripts
from dispatcher.store.worker.worker_store import Registration

log = logging.getLogger(__name__)

SUBJECT: Final = "rollouts"
"""Under which the leader keeps what its guards have seen."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An alias as it was read. ``raw`` is what a change is checked against."""

    raw: bytes
    rollout: Rollout


class RolloutStore:
    """The aliases of one cell. ``token`` is the leader's; empty for an operator. ``client`` may answer with text or with bytes."""

    def __init__(self, client: redis.Redis, keys: Keys, token: str = "") -> None:
        self._client = client
        self._keys = keys
        self._token = token
        self._run = Scripts(client)

    def read(self) -> dict[str, Stored]:
        """Every alias, without those that cannot be read (a later version wrote them, or a hand)."""
        found: dict[str, Stored] = {}
        for name, text in cast("dict[Any, Any]", self._client.hgetall(self._keys.rollouts)).items():
            alias, raw = _text(name), _bytes(text)
            try:
                found[alias] = Stored(raw, msgspec.json.decode(raw, type=Rollout))
            except msgspec.DecodeError as exc:
                log.warning("the alias %r cannot be read, and nothing is resolved by it: %s", alias, exc)
        return found

    def watches(self) -> dict[str, Watch]:
        """What the leader's guards had seen when it last saved that; at most a second ago."""
        state = cast("Any", self._client.hget(self._keys.policy, SUBJECT))
        try:
            return msgspec.json.decode(_bytes(state), type=dict[str, Watch]) if state else {}
        except msgspec.DecodeError:
            return {}

    def change(self, alias: str, seen: Stored | None, wanted: Rollout | None) -> Stored | None:
        """Write the alias (``None``: remove it) if it is still as it was ``seen``; what is stored now, ``None`` where it is not.

        Raises :class:`NotLeader` where a leader's store does not lead any more.
        """
        keys = self._keys
        raw = b"" if wanted is None else msgspec.json.encode(wanted)
        args = [self._token, alias, b"" if seen is None else seen.raw, raw]
        changed = self._run("change_rollout", [keys.leader, keys.rollouts, keys.wake], args)
        if changed == -1:
            raise NotLeader("another dispatcher leads this cell")
        return Stored(raw, wanted or Rollout((), 0, 0)) if changed else None

    def now_ms(self) -> int:
        """Redis' time."""
        seconds, micros = self._client.time()
        return seconds * 1000 + micros // 1000

    def served(self) -> set[str]:
        """Models that a live worker serves."""
        keys = self._keys
        epochs = [_text(epoch) for epoch in cast("set[Any]", self._client.smembers(keys.workers))]
        with self._client.pipeline(transaction=False) as pipe:
            for epoch in epochs:
                pipe.exists(keys.alive(epoch))
                pipe.hget(keys.worker(epoch), "registration")
            replies = pipe.execute()
        found: set[str] = set()
        for alive, registration in zip(replies[::2], replies[1::2], strict=True):
            if alive and registration:
                found.update(msgspec.json.decode(registration, type=Registration).models)
        return found

    # -- jobs that wait for a version which was withdrawn

    def waiting(self, lane: str, start: int, count: int) -> list[tuple[bytes, bytes]]:
        """(frame, message) of jobs of a lane, newest first; without those whose message has gone."""
        found = self._client.lrange(self._keys.lane(lane), -start - count, -start - 1)
        frames = [_bytes(frame) for frame in reversed(cast("list[Any]", found))]
        if not frames:
            return []
        messages = cast("list[Any]", self._client.hmget(self._keys.messages, [frame[:16] for frame in frames]))
        return [(frame, b"" if message is None else _bytes(message)) for frame, message in zip(frames, messages, strict=True)]

    def reroute(self, lane: str, moves: Sequence[tuple[bytes, str]]) -> int:
        """Move waiting jobs, (frame, new lane) of each, newest first and 500 at most. How many waited there still."""
        keys = self._keys
        numbers: dict[str, int] = {}
        args: list[Any] = []
        for frame, to in moves:
            args += (frame, numbers.setdefault(to, len(numbers) + 1))
        moved = self._run(
            "reroute",
            [keys.leader, keys.lanes, keys.lane(lane), *map(keys.lane, numbers)],
            [self._token, lane, len(numbers), *numbers, *args],
        )
        if moved == -1:
            raise NotLeader("another dispatcher leads this cell")
        return int(moved)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
