"""What was revoked, kept in Redis: Celery keeps it in the memory of the workers that were there to hear it.

A worker that was not, or whose subscription was broken, learns it from its next ``take``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import msgspec
import redis
from redis.client import NEVER_DECODE

from dispatcher.store.keys import Keys
from dispatcher.store.scripts.sources import Scripts

log = logging.getLogger(__name__)

REVOKES_MAX: Final = 50_000
"""How many are kept: as many as Celery keeps in a worker."""

CALL_MAX: Final = 500

_ID, _STAMP = "id:", "stamp:"


@dataclass(frozen=True, slots=True)
class Revoked:
    """What was revoked up to ``at_us`` (Redis' clock): ids of tasks by when, and values of stamped headers by header."""

    at_us: int = 0
    ids: Mapping[str, int] = field(default_factory=dict)
    stamps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def id_members(task_ids: Iterable[str]) -> list[str]:
    """Ids of tasks, as they are kept."""
    return [_ID + task_id for task_id in task_ids]


def stamp_members(headers: Any) -> list[str]:
    """Stamps, as they are kept. ``headers`` as Celery's ``revoke_by_stamped_headers`` takes them: a mapping, or ``key=value`` texts."""
    if isinstance(headers, list | tuple):
        headers = dict(str(one).split("=", 1) for one in headers)
    pairs = [
        (name, value)
        for name, values in headers.items()
        for value in (values if isinstance(values, list | tuple | set) else [values])
    ]
    return [_STAMP + json.dumps(pair) for pair in pairs]


class RevokeStore:
    """Writes and reads it. Thread-safe as the client is, whose answers may be text or bytes. Raises what redis-py raises."""

    def __init__(self, client: redis.Redis, keys: Keys, *, kept_s: float) -> None:
        self._client = client
        self._keys = keys
        self._kept_ms = max(1, round(kept_s * 1000))
        self._run = Scripts(client)

    @property
    def kept_us(self) -> int:
        """How long it is remembered, at least."""
        return self._kept_ms * 1000

    def add(self, members: Iterable[str]) -> int:
        """Remember (:func:`id_members`, :func:`stamp_members`); how many of them were new."""
        new, rest = 0, iter(members)
        while part := list(islice(rest, CALL_MAX)):
            new += self._run("revoke", [self._keys.revoked, self._keys.revoked_at], [self._kept_ms, REVOKES_MAX, *part])
        return new

    def since(self, at_us: int) -> Revoked:
        """What was revoked after ``at_us``. What cannot be read is passed over, and said in the log: it must not stop the jobs."""
        found: list[tuple[bytes, float]] = []
        try:
            options = {"withscores": True, "score_cast_func": float, NEVER_DECODE: True}
            found = self._client.execute_command("ZRANGEBYSCORE", self._keys.revoked, f"({at_us}", "+inf", "WITHSCORES", **options)
        except redis.ResponseError as exc:
            if not str(exc).startswith("WRONGTYPE"):
                raise
            log.warning("%s is no sorted set: nothing counts as revoked. Delete it", self._keys.revoked)
        ids: dict[str, int] = {}
        stamps: dict[str, tuple[str, ...]] = {}
        latest_us = at_us
        unread: list[bytes] = []
        for member, score in found:
            try:
                revoked_us, text = int(score), member.decode()
                if text.startswith(_ID):
                    ids[text.removeprefix(_ID)] = revoked_us
                elif text.startswith(_STAMP):
                    name, value = msgspec.json.decode(text.removeprefix(_STAMP), type=tuple[str, Any])
                    stamps[name] = (*stamps.get(name, ()), value)
            except (ValueError, OverflowError, RecursionError):
                unread.append(member)
                continue
            latest_us = max(latest_us, revoked_us)
        if unread:
            log.warning("%s has %d members that are no revokes, such as %r", self._keys.revoked, len(unread), unread[0][:100])
        return Revoked(latest_us, ids, stamps)
