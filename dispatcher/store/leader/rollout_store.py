"""Aliases of model versions in Redis. The leading dispatcher reads and changes them, and so does an operator, who needs
no lead.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec
import redis

from dispatcher.core.rollout.aliases import Rollout
from dispatcher.core.rollout.canary import Watch
from dispatcher.store.keys import Keys
from dispatcher.store.registration import Registrations
from dispatcher.store.scripts.call import Scripts, led

log = logging.getLogger(__name__)

SUBJECT: Final = "rollouts"
"""The subject under which the leader keeps what its guards have seen."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An alias as it was read. ``raw`` is what a change is checked against."""

    raw: bytes
    rollout: Rollout


class RolloutStore:
    """The aliases of one cell. ``token`` is the leader's; empty for an operator. ``client`` may answer with text or
    with bytes.
    """

    def __init__(self, client: redis.Redis, keys: Keys, token: str = "") -> None:
        self._client = client
        self._keys = keys
        self._token = token
        self._run = Scripts(client)

    def read(self) -> dict[str, Stored]:
        """Every alias, except those that cannot be read because a later version or a person wrote them."""
        aliases: dict[str, Stored] = {}
        for name, text in cast("dict[Any, Any]", self._client.hgetall(self._keys.rollouts)).items():
            alias, raw = _text(name), _bytes(text)
            try:
                aliases[alias] = Stored(raw, msgspec.json.decode(raw, type=Rollout))
            except msgspec.DecodeError as exc:
                log.warning("the alias %r cannot be read, and nothing is resolved by it: %s", alias, exc)
        return aliases

    def watches(self) -> dict[str, Watch]:
        """What the leader's guards have seen, as of its last save, at most a second ago."""
        state = cast("Any", self._client.hget(self._keys.policy, SUBJECT))
        try:
            return msgspec.json.decode(_bytes(state), type=dict[str, Watch]) if state else {}
        except msgspec.DecodeError:
            return {}

    def change(self, alias: str, seen: Stored | None, wanted: Rollout | None) -> Stored | None:
        """Write the alias (``None``: remove it) if it is still as it was ``seen``. Returns what is stored now;
        ``None``: it has changed.

        A leader's store raises :class:`~dispatcher.errors.NotLeader` once another dispatcher leads.
        """
        keys = self._keys
        raw = b"" if wanted is None else msgspec.json.encode(wanted)
        args = [self._token, alias, b"" if seen is None else seen.raw, raw]
        changed = led(self._run("change_rollout", [keys.leader, keys.rollouts, keys.wake], args))
        return Stored(raw, wanted or Rollout((), 0, 0)) if changed else None

    def now_ms(self) -> int:
        """Redis' time."""
        seconds, micros = self._client.time()
        return seconds * 1000 + micros // 1000

    def served(self) -> set[str]:
        """Models that a live worker serves. A registration that cannot be read is passed over, and the log names it."""
        keys = self._keys
        members = map(_text, cast("set[Any]", self._client.smembers(keys.workers)))
        epochs = sorted(epoch for epoch in members if epoch.isascii() and epoch.isalnum())  # nothing else is an epoch
        with self._client.pipeline(transaction=False) as pipe:
            for epoch in epochs:
                pipe.exists(keys.alive(epoch))
            is_alive = pipe.execute()
        live = Registrations(self._client, keys)
        learned = live.learn([epoch for epoch, alive in zip(epochs, is_alive, strict=True) if alive])
        for epoch in learned.unreadable:
            log.warning("the registration of worker %s cannot be read, so its models do not count: restart that worker", epoch)
        return {model for registration in live.known.values() for model in registration.models}

    # -- jobs that wait for a version which was withdrawn

    def waiting(self, lane: str, start: int, count: int) -> list[tuple[bytes, bytes]]:
        """(frame, message) of jobs of a lane, newest first; the message is empty if it is gone."""
        members = self._client.lrange(self._keys.lane(lane), -start - count, -start - 1)
        frames = [_bytes(frame) for frame in reversed(cast("list[Any]", members))]
        if not frames:
            return []
        messages = cast("list[Any]", self._client.hmget(self._keys.messages, [frame[:16] for frame in frames]))
        return [(frame, b"" if message is None else _bytes(message)) for frame, message in zip(frames, messages, strict=True)]

    def reroute(self, lane: str, moves: Sequence[tuple[bytes, str]]) -> int:
        """Move waiting jobs, each as (frame, new lane), newest first, at most 500. Returns how many still waited there."""
        keys = self._keys
        numbers: dict[str, int] = {}
        args: list[Any] = []
        for frame, to in moves:
            args += (frame, numbers.setdefault(to, len(numbers) + 1))
        names = [keys.leader, keys.lanes, keys.lane(lane), *map(keys.lane, numbers)]
        return int(led(self._run("reroute", names, [self._token, lane, len(numbers), *numbers, *args])))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
