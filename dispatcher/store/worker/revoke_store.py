"""Keeps revokes in Redis. Celery keeps them only in the memory of the workers that hear them.

A worker that did not hear a revoke, because it started later or its subscription was broken, learns of it from its next
``take``.
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
from dispatcher.store.scripts.call import Scripts

log = logging.getLogger(__name__)

REVOKES_MAX: Final = 50_000
"""How many revokes are kept: as many as Celery keeps in a worker."""

CALL_MAX: Final = 500

_ID, _STAMP = "id:", "stamp:"


@dataclass(frozen=True, slots=True)
class Revoked:
    """Revokes up to one instant."""

    at_us: int = 0
    """That instant, by Redis' clock."""
    ids: Mapping[str, int] = field(default_factory=dict)
    """Task id → µs when it was revoked."""
    stamps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Stamped header → its values that were revoked."""


def id_members(task_ids: Iterable[str]) -> list[str]:
    """Task ids, as members of the set of revokes."""
    return [_ID + task_id for task_id in task_ids]


def stamp_members(headers: Any) -> list[str]:
    """Stamped headers, as members of the set of revokes. ``headers``: as Celery's ``revoke_by_stamped_headers`` takes
    them.
    """
    if isinstance(headers, list | tuple):
        headers = dict(str(text).split("=", 1) for text in headers)
    pairs = [
        (name, value)
        for name, values in headers.items()
        for value in (values if isinstance(values, list | tuple | set) else [values])
    ]
    return [_STAMP + json.dumps(pair) for pair in pairs]


class RevokeStore:
    """Adds and reads revokes. Thread-safe as the client is, which may answer with text or bytes. Raises what redis-py
    raises.
    """

    def __init__(self, client: redis.Redis, keys: Keys, *, kept_s: float) -> None:
        self._client = client
        self._keys = keys
        self._kept_ms = max(1, round(kept_s * 1000))
        self._run = Scripts(client)

    @property
    def kept_us(self) -> int:
        """How long a revoke is kept, at least."""
        return self._kept_ms * 1000

    def add(self, members: Iterable[str]) -> int:
        """Remember revokes (:func:`id_members`, :func:`stamp_members`). Returns how many of them were new."""
        new, rest = 0, iter(members)
        while part := list(islice(rest, CALL_MAX)):
            new += self._run("revoke", [self._keys.revoked, self._keys.revoked_at], [self._kept_ms, REVOKES_MAX, *part])
        return new

    def since(self, at_us: int) -> Revoked:
        """The revokes after ``at_us``. Members that cannot be read must not stop the jobs: they are passed over and
        logged.
        """
        members: list[tuple[bytes, float]] = []
        try:
            options = {"withscores": True, "score_cast_func": float, NEVER_DECODE: True}
            members = self._client.execute_command("ZRANGEBYSCORE", self._keys.revoked, f"({at_us}", "+inf", "WITHSCORES", **options)
        except redis.ResponseError as exc:
            if not str(exc).startswith("WRONGTYPE"):
                raise
            log.warning("%s is no sorted set: nothing counts as revoked. Delete it", self._keys.revoked)
        ids: dict[str, int] = {}
        stamps: dict[str, tuple[str, ...]] = {}
        latest_us = at_us
        unread: list[bytes] = []
        for member, score in members:
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
