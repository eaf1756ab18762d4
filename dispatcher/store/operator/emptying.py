"""Empties a cell: an operator returns all waiting jobs to their queues as plain Celery messages, or forgets them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, cast

import redis

from dispatcher.clock import Clock
from dispatcher.core.facts.lane import parse_lane
from dispatcher.core.facts.snapshot import ALL_QUEUES
from dispatcher.core.returns.ending import GiveBack
from dispatcher.errors import Invalid, Unavailable
from dispatcher.store.frame import FRAME_BYTES, parse_entry
from dispatcher.store.giveback import GIVEBACK_MAX, give_back
from dispatcher.store.keys import Keys, lane_ingress
from dispatcher.store.scripts.call import Scripts

RELEASE_CALL_MAX: Final = 500
"""Jobs that one call of ``release`` moves at most."""

PURGE_CALL_MAX: Final = 100
"""Jobs that one call of ``purge`` forgets at most: it reads their messages too."""

RELEASE_TIMEOUT_S: Final = 60.0

QUIET_S: Final = 0.5
"""A release is over when no job has turned up for this long: a dispatcher that read the cell before the pause acts
within it.
"""


@dataclass(frozen=True, slots=True)
class Released:
    """What a release moved."""

    jobs: int
    """Returned to their queues."""
    recalled: int
    """Those of them that a worker had, and had not started."""
    running: int
    """Jobs that have been started. They stay with their workers."""


class Emptying:
    """Empties one cell. ``client`` answers with text; ``ingress_queues`` gives all known queues."""

    def __init__(self, client: redis.Redis, keys: Keys, ingress_queues: Callable[[], set[str]], clock: Clock) -> None:
        self._client = client
        self._keys = keys
        self._ingress_queues = ingress_queues
        self._clock = clock
        self._run = Scripts(client)

    # -- returned to their queues

    def release(self) -> Released:
        """Pause all queues and return every job that has not been started to its queue, as the Celery message it was.

        The queues stay paused, or a dispatcher would fetch the jobs again. Raises :class:`Unavailable` if jobs keep
        turning up.
        """
        self._client.sadd(self._keys.paused, ALL_QUEUES)
        jobs = recalled = 0
        started_ms = quiet_since_ms = self._clock.monotonic_ms()
        while (now_ms := self._clock.monotonic_ms()) - quiet_since_ms < QUIET_S * 1000:
            back = self._recall_all()
            moved = self._empty_lanes() + self._empty_scheduled()
            jobs, recalled = jobs + moved, recalled + back
            if moved or back:
                quiet_since_ms = self._clock.monotonic_ms()
            if now_ms - started_ms > RELEASE_TIMEOUT_S * 1000:
                raise Unavailable(f"released {jobs} jobs and more keep coming: stop whatever sends jobs back, then release again")
            self._clock.sleep(0.05)
        return Released(jobs, recalled, self._running())

    def _recall_all(self) -> int:
        keys = self._keys
        ended = 0
        for epoch in cast("set[str]", self._client.smembers(keys.workers)):
            with self._client.pipeline(transaction=False) as pipe:
                pipe.hgetall(keys.leases(epoch))
                pipe.hkeys(keys.taken(epoch))
                pipe.exists(keys.alive(epoch))
                leases, taken, alive = pipe.execute()
            newest_first = sorted(leases.keys() - set(taken), key=lambda lease_id: parse_entry(leases[lease_id]).job, reverse=True)
            # An ended life has no `alive`; `dead` is then what says that this is its state.
            guard = keys.alive(epoch) if alive else keys.dead(epoch)
            for at in range(0, len(newest_first), GIVEBACK_MAX):
                recalls = [GiveBack.recalled(lease_id) for lease_id in newest_first[at : at + GIVEBACK_MAX]]
                ended += max(0, give_back(self._run, keys, epoch, recalls, guard=guard))
        return ended

    def _empty_lanes(self) -> int:
        moved = 0
        for lane in cast("set[str]", self._client.smembers(self._keys.lanes)):
            while count := self._release(self._keys.lane(lane), lane_ingress(self._keys, lane), lane, ()):
                moved += count
        return moved

    def _empty_scheduled(self) -> int:
        moved = 0
        while entries := cast("list[str]", self._client.zrange(self._keys.scheduled, 0, RELEASE_CALL_MAX - 1)):
            by_ingress: dict[str, list[str]] = {}
            for entry in entries:
                by_ingress.setdefault(lane_ingress(self._keys, parse_entry(entry).lane), []).append(entry)
            moved += sum(self._release(self._keys.scheduled, ingress, "", its_entries) for ingress, its_entries in by_ingress.items())
        return moved

    def _release(self, source: str, ingress: str, lane: str, entries: Sequence[str]) -> int:
        keys = self._keys
        return int(self._run("release", [source, ingress, keys.messages, keys.lanes], [lane, RELEASE_CALL_MAX, *entries]))

    def _running(self) -> int:
        keys = self._keys
        with self._client.pipeline(transaction=False) as pipe:
            for epoch in cast("set[str]", self._client.smembers(keys.workers)):
                pipe.hlen(keys.taken(epoch))
            return sum(pipe.execute())

    # -- forgotten

    def purge(
        self, forgotten: Callable[[Sequence[str]], None] = lambda _: None, *, queues: Collection[str] | None = None
    ) -> int:
        """Forget every job that waits in ingress queues, lanes or `scheduled`. Returns how many. Leased jobs are left
        alone, and so are those of other queues than ``queues``, if that is given.

        ``forgotten`` gets their messages, at most :data:`PURGE_CALL_MAX` at a time, right after each call: nobody else
        can tell the clients that wait for the results.
        """
        keys = self._keys
        purged = 0
        for lane in cast("set[str]", self._client.smembers(keys.lanes)):
            if not _is_of(lane, queues):
                continue
            while frames := cast("list[str]", self._client.lrange(keys.lane(lane), 0, PURGE_CALL_MAX - 1)):
                purged += self._purge(keys.lane(lane), lane, frames, forgotten)
        others = 0
        while entries := cast("list[str]", self._client.zrange(keys.scheduled, others, others + PURGE_CALL_MAX - 1)):
            meant = [entry for entry in entries if _is_of(entry[FRAME_BYTES:], queues)]
            others += len(entries) - len(meant)
            if meant:
                purged += self._purge(keys.scheduled, "", meant, forgotten)
        for ingress in (key for queue in self._ingress_queues() for key in keys.ingress(queue)):
            left = self._client.llen(ingress)  # what comes later was not meant
            while left > 0 and (messages := cast("list[str]", self._client.lpop(ingress, min(left, PURGE_CALL_MAX)) or [])):
                left -= len(messages)
                purged += len(messages)
                forgotten(messages)
        return purged

    def _purge(self, source: str, lane: str, entries: Sequence[str], forgotten: Callable[[Sequence[str]], None]) -> int:
        keys = self._keys
        messages = cast("list[str | None]", self._client.hmget(keys.messages, [parse_entry(entry).job for entry in entries]))
        gone = self._run("purge", [source, keys.messages, keys.lanes], [lane, *entries])
        forgotten([message for message, is_gone in zip(messages, gone, strict=True) if is_gone and message is not None])
        return sum(gone)


def _is_of(lane: str, queues: Collection[str] | None) -> bool:
    """True if the jobs of ``lane`` came from one of ``queues``; ``None``: from any."""
    if queues is None:
        return True
    try:
        return parse_lane(lane).ingress in queues
    except Invalid:
        return False
