"""Revokes, as Redis remembers them: a worker heeds those that it was not there to hear, and reports those that it
hears.

Celery's own set of revoked ids does the rest: a task that it names is not run, its state is REVOKED, its canvas is
told.
"""

from __future__ import annotations

from queue import SimpleQueue

import redis
from celery.worker import state

from dispatcher.core.facts.message import plain_text
from dispatcher.store.worker.revoke_store import REVOKES_MAX, RevokeStore


class Revokes:
    """What one worker knows of them. :meth:`heed` is for the consumer's loop, :meth:`report` for the beat thread."""

    def __init__(self, store: RevokeStore) -> None:
        self._store = store
        self._unreported: SimpleQueue[list[str]] = SimpleQueue()
        self._seen: bytes | None = None
        self._at_us = 0
        self._ids: dict[str, int] = {}

    def heard(self, members: list[str]) -> None:
        """Celery's remote control told this worker of a revoke: the next beat reports it. Any thread may call."""
        self._unreported.put(members)

    def report(self) -> None:
        """Tell Redis what was heard, for workers that were not there. Where Redis refuses it, the next beat tries
        again.
        """
        members: list[str] = []
        while not self._unreported.empty():
            members += self._unreported.get()
        if members:
            try:
                self._store.add(members)
            except redis.RedisError:
                self._unreported.put(members)

    def heed(self, task_id: object, revoked_at: bytes | None) -> None:
        """Before a job is handed to Celery: have it know if that is revoked. ``revoked_at``: when anything was last
        revoked, as of now.

        Asks Redis only where that has changed; then it raises what redis-py raises.
        """
        if revoked_at != self._seen:
            # Whatever is no number, or a larger one than Redis counts to, was not written by us: the next revoke
            # replaces it.
            if not revoked_at or (revoked_at.isdigit() and len(revoked_at) < 20):
                self._catch_up(int(revoked_at or 0))
            self._seen = revoked_at
        if self._ids and plain_text(task_id) in self._ids:
            state.revoked.add(task_id)

    def _catch_up(self, at_us: int) -> None:
        if at_us < self._at_us:  # forgotten, for it was long ago, or because Redis lost its state
            self._ids.clear()
            self._at_us = 0
        if not at_us:
            return
        revoked = self._store.since(self._at_us)
        for task_id, revoked_us in revoked.ids.items():
            self._ids.pop(task_id, None)  # to the end: the oldest go first
            self._ids[task_id] = revoked_us
        while self._ids and (len(self._ids) > REVOKES_MAX or self._oldest_us() < at_us - self._store.kept_us):
            del self._ids[next(iter(self._ids))]
        for name, values in revoked.stamps.items():
            known = state.revoked_stamps.get(name) or []
            known = [known] if isinstance(known, str) else list(known)
            state.revoked_stamps[name] = [*known, *(value for value in values if value not in known)]
        self._at_us = at_us

    def _oldest_us(self) -> int:
        return self._ids[next(iter(self._ids))]
